//! What operators have set for all nodes while they run: pauses, mutes, breakers held by hand, other limits.
//!
//! The state keeps it and does not understand it; every node reads it and does what it says (`actors/settings.rs`).

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Error;
use crate::domain::time::{Timestamp, rfc3339};

/// One thing that is set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// What is set, such as `pause/chat`; unique.
    pub name: String,
    /// To what.
    pub value: Value,
    /// Who set it.
    pub by: String,
    /// When, RFC 3339.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The run of a process with which it ends; without one it holds until it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_with: Option<String>,
}

/// All that is set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct All {
    /// Tells this from whatever was or will be set; 0: nothing was ever set.
    pub version: u64,
    /// By name.
    pub settings: Vec<Setting>,
}

/// Where settings are kept.
#[async_trait]
pub trait Settings {
    /// All that is set; `None` if that is what is `known`.
    async fn settings(&self, known: Option<u64>) -> Result<Option<All>, Error>;

    /// Sets something, in the place of what was set under that name; durable when it returns.
    async fn set(&self, setting: &Setting) -> Result<(), Error>;

    /// Takes something back; `false` if it was not set.
    async fn unset(&self, name: &str) -> Result<bool, Error>;

    /// Takes back what was to end with this run of a process, unless it was set anew meanwhile.
    async fn end(&self, name: &str, ends_with: &str) -> Result<(), Error>;
}
