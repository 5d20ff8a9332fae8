//! `[[ai.services]]`: the AI services, in the order in which they are tried.
//!
//! The guards in front of a service are set beside it in the file, but belong to another part; their types are
//! parameters here, so that this part knows nothing of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{secret::Secret, units};

/// `[ai]`: the chain of services, with how callers share them, `S`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[serde(bound(
    deserialize = "L: Deserialize<'de> + Default, B: Deserialize<'de> + Default, S: Deserialize<'de> + Default"
))]
pub struct AiConfig<L, B, S> {
    /// How conversations and the synchronous road share each service when both wait for it.
    pub shares: S,
    /// The services; the first answers, the others stand in for it.
    pub services: Vec<AiService<L, B>>,
}

impl<L: Default, B: Default, S: Default> Default for AiConfig<L, B, S> {
    fn default() -> Self {
        Self { shares: S::default(), services: vec![AiService::default()] }
    }
}

/// One AI service that speaks OpenAI's chat completions, with its limits `L` and its breaker `B`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[serde(bound(deserialize = "L: Deserialize<'de> + Default, B: Deserialize<'de> + Default"))]
pub struct AiService<L, B> {
    /// Name in metrics, routes and commands; unique.
    pub name: String,
    /// Address up to and without `/chat/completions`; empty: the service is not used.
    pub base_url: String,
    /// Bearer key; empty: none is sent.
    pub api_key: Secret,
    /// Model asked for.
    pub model: String,
    /// Whether the model takes images; then it is shown their addresses.
    pub images: bool,
    /// Time one call may take, answer included.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// Calls in flight at most, on this node.
    pub concurrency: usize,
    /// What the provider allows, over all nodes together.
    pub limits: L,
    /// When calls stop because the service is broken.
    pub breaker: B,
}

impl<L: Default, B: Default> Default for AiService<L, B> {
    fn default() -> Self {
        Self {
            name: "primary".into(),
            base_url: String::new(),
            api_key: Secret::default(),
            model: String::new(),
            images: false,
            timeout: Duration::from_secs(30),
            concurrency: 32,
            limits: L::default(),
            breaker: B::default(),
        }
    }
}
