//! `[faults]`: failures made on purpose, to see the node survive them; refused unless `admin.fault_injection` is on.

use serde::{Deserialize, Serialize};

/// Probabilities are per message taken into work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultsConfig {
    /// Probability that the actor panics, 0 to 1.
    pub panic: f64,
    /// Probability that the actor fails with an error, 0 to 1.
    pub error: f64,
    /// Probability that the actor waits for ever, 0 to 1.
    pub hang: f64,
    /// Probability that the actor blocks its worker thread, 0 to 1.
    pub block: f64,
    /// Point at which the process kills itself with SIGKILL, once.
    pub kill_at: KillPoint,
    /// Passes of that point that are let through first.
    pub kill_after: u64,
    /// The process kills itself while the AI works on a message that contains this text; empty: on none.
    pub kill_on: String,
    /// The actor panics whenever it takes a message that contains this text; empty: on none.
    pub panic_on: String,
}

impl Default for FaultsConfig {
    fn default() -> Self {
        Self {
            panic: 0.0,
            error: 0.0,
            hang: 0.0,
            block: 0.0,
            kill_at: KillPoint::Never,
            kill_after: 0,
            kill_on: String::new(),
            panic_on: String::new(),
        }
    }
}

/// Names a point on the way of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillPoint {
    /// Nowhere.
    #[default]
    #[serde(rename = "")]
    Never,
    /// The message is stored, the webhook not yet answered.
    AfterStore,
    /// The AI has answered, the intent is not yet written.
    BeforeIntent,
    /// The intent is written, nothing is posted yet.
    AfterIntent,
    /// Some parts of the reply are posted, others are not.
    BetweenParts,
    /// The reply is posted, its outcome not yet written.
    AfterPost,
    /// The outcome is written, the delivery not yet acknowledged.
    BeforeAck,
}
