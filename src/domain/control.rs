//! Who answers a conversation: us, or a human (Zendesk's switchboard).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::time::Timestamp;

/// Who holds a conversation according to `activeSwitchboardIntegration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// Our integration.
    Us,
    /// Another integration, as a rule the agents' workspace.
    Other,
    /// Nobody: the switchboard is off or control was released. Then every integration may answer.
    Nobody,
}

impl Holder {
    /// Whether we may answer while this one holds the conversation.
    pub fn lets_us_answer(self) -> bool {
        self != Self::Other
    }
}

/// What is known of who holds a conversation, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The holder.
    pub holder: Holder,
    /// `createdAt` of the event that said so; the newest wins, whatever order events arrive in.
    pub at: Timestamp,
}

/// Tells our integration from others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ours {
    /// Our integration's id, name, integration id or type (`zendesk.integration`); empty: every integration whose
    /// type does not begin with `zd:`, which are Zendesk's own.
    pub integration: String,
}

/// A switchboard integration as events name it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Integration {
    /// The switchboard integration's id.
    pub id: Option<String>,
    /// Its name, such as `zd-agentWorkspace`.
    pub name: Option<String>,
    /// The id of the integration behind it.
    pub integration_id: Option<String>,
    /// Its type, such as `custom` or `zd:agentWorkspace`.
    pub integration_type: Option<String>,
}

impl Ours {
    /// Who holds a conversation whose active integration is `active`.
    pub fn holder(&self, active: Option<&Integration>) -> Holder {
        let Some(active) = active else { return Holder::Nobody };
        let ours = if self.integration.is_empty() {
            !active.integration_type.as_deref().is_some_and(|kind| kind.starts_with("zd:"))
        } else {
            [&active.id, &active.name, &active.integration_id, &active.integration_type]
                .into_iter()
                .any(|field| field.as_deref() == Some(self.integration.as_str()))
        };
        if ours { Holder::Us } else { Holder::Other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_by_any_name_of_ours() {
        let bot = Integration {
            id: Some("0a".into()),
            name: Some("mavi-bot".into()),
            integration_id: Some("0b".into()),
            integration_type: Some("custom".into()),
        };
        let desk = Integration { integration_type: Some("zd:agentWorkspace".into()), ..Integration::default() };
        for ours in ["", "0a", "mavi-bot", "0b", "custom"] {
            let ours = Ours { integration: ours.into() };
            assert_eq!(ours.holder(Some(&bot)), Holder::Us);
            assert_eq!(ours.holder(Some(&desk)), Holder::Other);
            assert_eq!(ours.holder(None), Holder::Nobody);
        }
        assert_eq!(Ours { integration: "another".into() }.holder(Some(&bot)), Holder::Other);
    }
}
