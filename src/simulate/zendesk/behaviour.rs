//! What the simulated Zendesk does wrong on purpose; changeable while it runs.

use serde::{Deserialize, Serialize};

use crate::simulate::quota::Quota;

/// Faults of the API and of the webhooks; the default is a healthy, instant service. Rates are from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Milliseconds before an API call is handled.
    pub latency_ms: u64,
    /// API calls answered with `error_status` and without effect.
    pub error_rate: f64,
    /// The status of such an answer.
    pub error_status: u16,
    /// Posted messages that are stored and then answered 500.
    pub store_then_fail_rate: f64,
    /// Posted messages that are answered 500 and stored `late_store_ms` later.
    pub late_store_rate: f64,
    /// The delay of a late store in milliseconds.
    pub late_store_ms: u64,
    /// API calls that are never answered.
    pub hang_rate: f64,
    /// Answers 503 to every API call.
    pub down: bool,
    /// Closes the connection of every API call without an answer.
    pub drop_connection: bool,
    /// The quota of posted messages; beyond it 429.
    pub throttle: Option<Quota>,
    /// Whether a 429 carries `Retry-After`.
    pub retry_after: bool,
    /// Whether business posts come back as webhooks.
    pub echo: bool,
    /// Webhooks that are delivered twice.
    pub double_delivery: f64,
    /// Whether the second copy carries another event id (for the same message id).
    pub double_delivery_new_event: bool,
    /// Whether a discarded conversation is unknown after a merge; otherwise its id leads to the surviving one.
    pub merge_closes: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            latency_ms: 0,
            error_rate: 0.0,
            error_status: 500,
            store_then_fail_rate: 0.0,
            late_store_rate: 0.0,
            late_store_ms: 1000,
            hang_rate: 0.0,
            down: false,
            drop_connection: false,
            throttle: None,
            retry_after: true,
            echo: true,
            double_delivery: 0.0,
            double_delivery_new_event: false,
            merge_closes: false,
        }
    }
}
