//! The quota of a service that all nodes use together: who may call it when.
//!
//! A node tells what has become of its permits and asks for more in one turn; what comes back is exact over all nodes.
//! Nothing in here knows a node's time: waits are spans, so that no two clocks have to agree.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Error;

/// What is called with the birth of a quota and an epoch that is announced.
pub type Heard = Arc<dyn Fn(&str, u64) + Send + Sync>;

/// A quota kept for the whole fleet.
#[async_trait]
pub trait Quotas: Send + Sync {
    /// Takes in what a node tells, then reserves what it asks for. After an error anything may have been done: what was
    /// asked for counts as lost.
    async fn turn(&self, name: &str, policy: &Policy, ask: &Ask) -> Result<Told, Error>;

    /// Calls `heard` with each epoch that is announced, and the birth it belongs to; returns when there is nothing to listen to. What is missed
    /// meanwhile is told by the next turn.
    async fn hear(&self, name: &str, heard: Heard) -> Error;
}

/// What a service allows, as configured; 0 means that there is no such limit. Every node must have the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Requests in any 60 seconds.
    pub minute: u64,
    /// Requests in any 3600 seconds.
    pub hour: u64,
    /// Further windows: requests in any so many microseconds.
    pub windows: Vec<(u64, u64)>,
    /// Tokens in any 60 seconds.
    pub tokens: u64,
    /// Requests that may come at once.
    pub burst: u32,
    /// Whether the burst refills no faster than the hour allows.
    pub pace_hour: bool,
    /// For so many microseconds a permit may be used.
    pub validity: u64,
    /// Permits remembered.
    pub entries: usize,
}

/// What a node tells and asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Ask {
    /// The birth of the quota that the node has met; empty: none, [`Ask::REMEMBERS`]: none, but it remembers calls.
    pub birth: String,
    /// The latest epoch of this birth that it has met. A quota that is behind has forgotten, and is as good as lost.
    pub epoch: u64,
    /// The number that was to be given next when this birth was last asked.
    pub next: u64,
    /// What it tells, in order.
    pub notes: Vec<Note>,
    /// So many permits at once, if they are free now; of those that are not, the first is reserved ahead.
    pub want: u32,
    /// An estimate of the tokens that each will use.
    pub tokens: u64,
    /// Nothing is reserved further ahead than this, in microseconds.
    pub max_wait: u64,
    /// Whether to tell how much is used.
    pub look: bool,
}

/// What a node tells.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// A permit was not used and will not be.
    Void(u64),
    /// A request has really used so many tokens.
    Settle(u64, u64),
    /// The service answered 429: the span it asks for in microseconds, 0 for none; and chance, from 0 to 1.
    Throttled(u64, f64),
    /// The service answered.
    Succeeded(u8),
    /// The service told its own limit of requests per minute.
    LimitHeader(u64),
    /// Nothing may be used for so many microseconds.
    Pause(u64),
    /// Calls made while the quota was away, even if there are none: others may have made some too.
    Made {
        /// The run of a node that made them.
        run: String,
        /// How many microseconds ago, with how many tokens, and the run's own number for it, which rises from call to
        /// call: those that were told before are passed over. The oldest first.
        calls: Vec<(u64, u64, u64)>,
    },
}

/// What a node is told.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Told {
    /// Names this life of the quota.
    pub birth: String,
    /// The quota has lost its memory: nothing was taken in, nothing given. The node tells what it has done itself first.
    pub lost: bool,
    /// Permits of any earlier epoch are invalid.
    pub epoch: u64,
    /// The number that the next permit will have.
    pub next: u64,
    /// Permits: the microseconds until each begins, and its number.
    pub grants: Vec<(u64, u64)>,
    /// The tokens reserved for each.
    pub tokens: u64,
    /// When nothing was given: the microseconds until a permit is free, as things are.
    pub free: u64,
    /// The microseconds until the present pause ends.
    pub pause: u64,
    /// How much is used, when that was asked.
    pub uses: Vec<Use>,
}

/// The use of one limit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Use {
    /// `requests`, `tokens` or `burst`.
    pub kind: String,
    /// The window's length in milliseconds; for the burst, in which one request is regained.
    pub per_ms: u64,
    /// As configured; 0 when only the service told of the limit.
    pub configured: u64,
    /// What holds now.
    pub limit: u64,
    /// Used, or usable at this moment.
    pub used: u64,
    /// Reserved ahead.
    pub reserved: u64,
}

impl Ask {
    /// The birth that a node gives which has not met the quota and remembers calls of an earlier life of its own.
    pub const REMEMBERS: &str = "?";
}

/// Whole microseconds; a span that is too long is as long as a number in a script can be told.
pub fn micros(span: Duration) -> u64 {
    const MOST: u64 = 10_u64.pow(14) - 1;
    u64::try_from(span.as_micros()).map_or(MOST, |micros| micros.min(MOST))
}
