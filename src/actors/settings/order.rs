//! What an operator can order, and what it is set under.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    domain::ids::ConversationId,
    guard::{breaker::Mode, limiter::Limits},
};

/// Actors that can be paused together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// Those who answer conversations.
    Chat,
    /// Those who work off the events lane.
    Events,
    /// Those who judge dead letters.
    Retry,
}

impl Pool {
    /// All pools.
    pub const ALL: [Self; 3] = [Self::Chat, Self::Events, Self::Retry];

    /// The pool in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Events => "events",
            Self::Retry => "retry",
        }
    }

    pub(super) fn setting(self) -> String {
        format!("pause/{}", self.as_str())
    }
}

/// Where the bot says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mute {
    /// Nowhere at all.
    All,
    /// In the conversations of a brand.
    Brand(String),
    /// In one conversation.
    #[schema(value_type = String)]
    Conversation(ConversationId),
}

impl Mute {
    fn setting(&self) -> String {
        format!("mute/{}", self.to_string().replacen(' ', "/", 1))
    }

    /// Why a message is parked that came meanwhile.
    pub fn cause(&self) -> String {
        format!("muted: {self}")
    }
}

impl std::fmt::Display for Mute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Brand(brand) => write!(f, "brand {brand}"),
            Self::Conversation(id) => write!(f, "conversation {id}"),
        }
    }
}

/// Other limits of a service or an API key; what is left out stays as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OtherLimits {
    /// Requests that may come at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Requests in any 60 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<u64>,
    /// Requests in any 3600 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_hour: Option<u64>,
    /// Tokens in any 60 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Calls at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
}

impl OtherLimits {
    /// Whether it says anything of how often may be called, and not only how much at once.
    pub fn limits_requests(&self) -> bool {
        *self != Self { concurrency: self.concurrency, ..Self::default() }
    }

    /// Whether it takes away a limit that is configured: its window would be forgotten, and be empty when it comes back.
    pub fn forgets(&self, configured: &Limits) -> bool {
        let gone = |other: Option<u64>, configured: u64| other == Some(0) && configured > 0;
        gone(self.per_minute, configured.per_minute)
            || gone(self.per_hour, configured.per_hour)
            || gone(self.tokens_per_minute, configured.tokens_per_minute)
    }

    /// Whether it has a window longer than all that are configured: calls that only it counts are not remembered where the
    /// configuration is all that is known, as after a start.
    pub fn outlasts(&self, configured: &Limits) -> bool {
        let longest = configured.longest_window();
        let longer = |other: Option<u64>, seconds| other > Some(0) && Duration::from_secs(seconds) > longest;
        let all = [(self.per_hour, 3_600), (self.per_minute, 60), (self.tokens_per_minute, 60)];
        configured.limits_anything() && all.iter().any(|(other, seconds)| longer(*other, *seconds))
    }

    pub(super) fn over(&self, configured: &Limits) -> Limits {
        Limits {
            burst: self.burst.unwrap_or(configured.burst),
            per_minute: self.per_minute.unwrap_or(configured.per_minute),
            per_hour: self.per_hour.unwrap_or(configured.per_hour),
            tokens_per_minute: self.tokens_per_minute.unwrap_or(configured.tokens_per_minute),
            ..configured.clone()
        }
    }
}

/// One order of an operator's; taken back by what it is named after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// The pool takes nothing more in hand.
    Pause(Pool),
    /// The node takes nothing more from the queue: by the name of the run of its process.
    Drain(String),
    /// The bot says nothing there; what comes is parked.
    Mute(Mute),
    /// The breaker of a service is held.
    Breaker(String, Mode),
    /// A service, or an API key by the name of its limiter, has other limits.
    Limits(String, OtherLimits),
}

impl Order {
    /// What it is set under.
    pub fn name(&self) -> String {
        match self {
            Self::Pause(pool) => pool.setting(),
            Self::Drain(node) => format!("drain/{node}"),
            Self::Mute(mute) => mute.setting(),
            Self::Breaker(service, _) => format!("breaker/{service}"),
            Self::Limits(service, _) => format!("limits/{service}"),
        }
    }

    pub(super) fn value(&self) -> Value {
        match self {
            Self::Pause(_) | Self::Drain(_) => Value::Bool(true),
            Self::Mute(mute) => serde_json::json!(mute),
            Self::Breaker(_, mode) => serde_json::json!(mode),
            Self::Limits(_, limits) => serde_json::json!(limits),
        }
    }

    /// Whether it ends with a run of a process although nobody says so.
    pub(super) fn ends_with(&self) -> Option<String> {
        match self {
            Self::Drain(node) => Some(node.clone()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::limiter::WindowLimit;

    #[test]
    fn what_is_not_told_stays_as_configured() {
        let configured = Limits::default();
        let change = OtherLimits { per_minute: Some(7), burst: Some(0), ..OtherLimits::default() };
        assert_eq!(change.over(&configured), Limits { per_minute: 7, burst: 0, ..configured.clone() });
        assert_eq!(OtherLimits::default().over(&configured), configured);
        assert!(serde_json::from_str::<OtherLimits>(r#"{"per_second":1}"#).is_err());
    }

    #[test]
    fn no_window_is_longer_than_all_that_are_configured() {
        let hourly = OtherLimits { per_hour: Some(7), ..OtherLimits::default() };
        let minute = OtherLimits { per_minute: Some(7), per_hour: Some(0), ..OtherLimits::default() };
        let tokens = OtherLimits { tokens_per_minute: Some(7), ..OtherLimits::default() };
        let windows = vec![WindowLimit { requests: 1, per: Duration::from_secs(10) }];
        for (configured, outlast) in [
            (Limits { per_minute: 1, ..Limits::NONE }, [true, false, false]),
            (Limits { per_hour: 1, ..Limits::NONE }, [false; 3]),
            (Limits { tokens_per_minute: 1, ..Limits::NONE }, [true, false, false]),
            (Limits { windows, ..Limits::NONE }, [true; 3]),
            (Limits::NONE, [false; 3]),
        ] {
            assert_eq!([&hourly, &minute, &tokens].map(|other| other.outlasts(&configured)), outlast, "{configured:?}");
        }
    }
}
