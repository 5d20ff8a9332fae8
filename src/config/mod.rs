//! The whole configuration: every part's own, added up, and how it is loaded.
//!
//! ```text
//! defaults < file < old stack's variables < OTEL_... < TIDEGATE__... < flags
//! ```
//! Loading reports everything that is wrong at once and repeats no secret.

mod address;
mod check;
mod layers;
mod load;
mod node;
mod old_names;
mod problem;
mod schema;

use serde::{Deserialize, Serialize};

pub use self::{
    load::{File, Loaded, load},
    node::{NodeConfig, Role},
    problem::{Origin, Problem, Refused, Warning},
};
use crate::{
    actors::{Ai, ChatConfig, FaultsConfig, RetryConfig},
    broker,
    client::SunshineConfig,
    guard, http, state, telemetry,
};

/// Everything that can be set; complete by `Default`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The process as a whole.
    pub node: NodeConfig,
    /// The public listener.
    pub http: http::Config,
    /// The listener for metrics, dashboard and operations.
    pub admin: http::AdminConfig,
    /// The synchronous road.
    pub api: http::ApiConfig,
    /// The conversations' side.
    pub zendesk: SunshineConfig,
    /// Where accepted messages are kept.
    pub broker: broker::Config,
    /// What the nodes share.
    pub state: state::Config,
    /// The AI services.
    pub ai: Ai,
    /// How a conversation is answered.
    pub chat: ChatConfig,
    /// What happens to a message that fails.
    pub retry: RetryConfig,
    /// Answers to requests that were asked before.
    pub cache: guard::CacheConfig,
    /// How long texts are kept.
    pub retention: state::RetentionConfig,
    /// Logs and traces.
    pub telemetry: telemetry::Config,
    /// Failures made on purpose.
    pub faults: FaultsConfig,
}

impl Config {
    /// Writes the effective values as TOML, secrets as `***`.
    pub fn effective(&self) -> String {
        toml::to_string(self).expect("every value of a configuration has a form in TOML")
    }
}

#[cfg(test)]
mod tests;
