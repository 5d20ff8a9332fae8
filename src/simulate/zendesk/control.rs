//! The switchboard of a conversation: one integration is active, at most one is offered control.

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;

/// An integration of the switchboard, as it appears in webhooks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Integration {
    /// The id within the switchboard.
    pub id: String,
    /// The name within the switchboard.
    pub name: String,
    /// The id of the integration itself.
    pub integration_id: String,
    /// The type, for example `custom` or `zd:agentWorkspace`.
    pub integration_type: String,
}

/// One of the two integrations of the simulated switchboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// The daemon under test.
    Bot,
    /// The agent workspace: a human.
    Agent,
}

/// Who is in control of one conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Who may answer.
    pub active: Option<Holder>,
    /// Who was offered control.
    pub pending: Option<Holder>,
}

impl Default for Control {
    fn default() -> Self {
        Self { active: Some(Holder::Bot), pending: None }
    }
}

impl Control {
    /// Whether a human is in control.
    pub fn human(&self) -> bool {
        self.active == Some(Holder::Agent)
    }

    /// Gives control to `to`; an offer is withdrawn.
    pub fn pass(&mut self, to: Option<Holder>) {
        *self = Self { active: to, pending: None };
    }

    /// Offers control.
    ///
    /// # Errors
    /// When `to` is in control already.
    pub fn offer(&mut self, to: Holder) -> Result<(), Refusal> {
        if self.active == Some(to) {
            return Err(Refusal::new(400, "switchboard_invalid_target", "The target is already active"));
        }
        self.pending = Some(to);
        Ok(())
    }

    /// The pending integration takes control.
    ///
    /// # Errors
    /// When nothing is pending.
    pub fn accept(&mut self) -> Result<(), Refusal> {
        let Some(pending) = self.pending else {
            return Err(Refusal::new(403, "switchboard_invalid_action", "No integration is pending"));
        };
        self.pass(Some(pending));
        Ok(())
    }

    /// Nobody is in control any more.
    ///
    /// # Errors
    /// When nobody was.
    pub fn release(&mut self) -> Result<(), Refusal> {
        if self.active.is_none() {
            return Err(Refusal::new(403, "switchboard_invalid_action", "No integration is active"));
        }
        self.pass(None);
        Ok(())
    }
}

/// Both integrations of the switchboard.
#[derive(Clone, Debug)]
pub struct Switchboard {
    /// The daemon's integration.
    pub bot: Integration,
    /// The agent workspace.
    pub agent: Integration,
}

impl Switchboard {
    /// The integration of a holder.
    pub fn integration(&self, holder: Holder) -> &Integration {
        match holder {
            Holder::Bot => &self.bot,
            Holder::Agent => &self.agent,
        }
    }

    /// Finds the target of a control action: by id, then by name, then by type; `next` is the other integration.
    ///
    /// # Errors
    /// 404 when nothing matches, 400 when a type or name matches both.
    pub fn target(&self, wanted: &str, control: Control) -> Result<Holder, Refusal> {
        if wanted == "next" {
            return Ok(if control.active == Some(Holder::Bot) { Holder::Agent } else { Holder::Bot });
        }
        let keys: [fn(&Integration) -> &str; 3] = [|one| &one.id, |one| &one.name, |one| &one.integration_type];
        for key in keys {
            match (key(&self.bot) == wanted, key(&self.agent) == wanted) {
                (true, true) => {
                    return Err(Refusal::new(400, "switchboard_invalid_target", "The target is ambiguous"));
                }
                (true, false) => return Ok(Holder::Bot),
                (false, true) => return Ok(Holder::Agent),
                (false, false) => {}
            }
        }
        Err(Refusal::new(404, "switchboard_integration_not_found", "Switchboard integration not found"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    #[test]
    fn a_target_is_found_by_id_then_name_then_type() {
        let options = Options::default();
        let board = Switchboard { bot: options.bot.clone(), agent: options.agent.clone() };
        let find = |wanted: &str| board.target(wanted, Control::default());
        for wanted in [&board.agent.id, "zd-agentWorkspace", "zd:agentWorkspace", "next"] {
            assert_eq!(find(wanted), Ok(Holder::Agent), "{wanted}");
        }
        for wanted in [&board.bot.id, &board.bot.name, "custom"] {
            assert_eq!(find(wanted), Ok(Holder::Bot), "{wanted}");
        }
        assert_eq!(
            find("nobody"),
            Err(Refusal::new(404, "switchboard_integration_not_found", "Switchboard integration not found"))
        );
    }

    #[test]
    fn an_ambiguous_type_is_refused_and_an_id_wins_over_a_name() {
        let mut board = Switchboard { bot: Options::default().bot, agent: Options::default().agent };
        board.agent.integration_type = "custom".into();
        assert!(board.target("custom", Control::default()).is_err());
        board.agent.name = board.bot.id.clone();
        assert_eq!(board.target(&board.bot.id, Control::default()), Ok(Holder::Bot));
    }

    #[test]
    fn control_moves_by_the_rules() {
        let mut control = Control::default();
        assert!(control.offer(Holder::Bot).is_err(), "the active one cannot be offered control");
        assert!(control.accept().is_err(), "nothing is pending");
        assert!(control.offer(Holder::Agent).is_ok());
        assert!(control.accept().is_ok());
        assert_eq!(control, Control { active: Some(Holder::Agent), pending: None });
        assert!(control.release().is_ok());
        assert!(control.release().is_err(), "nobody is active");
    }
}
