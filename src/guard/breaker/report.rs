//! What a breaker is told and what it tells.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Counts, FailureKind};

/// Says who wants to call the service.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Evidence counts distinct conversations; on the synchronous road, the key and its request.
    pub conversation: &'a str,
    /// The message, which does not probe twice in a row while others wait.
    pub message: &'a str,
}

/// Answers a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a probe that reports nothing holds its lease until it expires"]
pub enum Admission {
    /// Call; the outcome is reported with this generation.
    Pass {
        /// The breaker's present generation.
        generation: u64,
    },
    /// Call as a probe; the outcome is reported with both numbers.
    Probe {
        /// The breaker's present generation.
        generation: u64,
        /// Occupies one of the probes until reported or expired.
        lease: u64,
    },
    /// Do not call.
    Refuse {
        /// When to ask again, always later than now.
        retry_at: Duration,
    },
}

/// Says how a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The service answered.
    Success {
        /// From sending to the whole answer.
        took: Duration,
    },
    /// The call failed; a kind that is not configured as a failure counts as a success.
    Failure {
        /// In which way.
        kind: FailureKind,
    },
    /// Cancelled or 429: gives the lease back and counts nothing.
    Neutral,
}

/// Tells the breaker the end of an admitted call.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Who called.
    pub caller: Caller<'a>,
    /// From the admission.
    pub generation: u64,
    /// From the admission, for a probe.
    pub lease: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
}

/// Names the three states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Calls pass.
    Closed,
    /// Calls are refused until the recovery is due.
    Open,
    /// A few probes decide.
    HalfOpen,
}

impl State {
    /// Every state, for series that start at 0.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The name in metrics, logs and the admin interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Says who decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The breaker itself.
    #[default]
    Auto,
    /// Held open by an operator.
    Open,
    /// Held closed by an operator.
    Closed,
}

/// Says why the state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Failures in a row.
    Failures,
    /// The share of failures in the last minute.
    FailureRate,
    /// The share of slow calls in the last minute.
    SlowRate,
    /// The recovery timeout is over.
    RecoveryDue,
    /// A probe failed.
    ProbeFailed,
    /// Enough probes succeeded.
    ProbeSucceeded,
    /// An operator's order.
    Forced,
}

/// Tells of one change of state or mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state after; the same when only the mode changed.
    pub to: State,
    /// The generation that begins.
    pub generation: u64,
    /// The mode after.
    pub mode: Mode,
    /// Why.
    pub cause: Cause,
}

/// Shows a breaker to operators; times are milliseconds since the owner's origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// The present state; an open breaker stays open past `until_ms` until somebody asks.
    pub state: State,
    /// Who decides.
    pub mode: Mode,
    /// The number of the last change.
    pub generation: u64,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// Distinct conversations behind the evidence, counted up to the failure threshold.
    pub conversations: usize,
    /// Open, but a conversation outside of the evidence may probe at once.
    pub open_to_others: bool,
    /// Openings since the breaker was last closed.
    pub trips: u32,
    /// When it opened, while it is open.
    pub opened_at_ms: Option<u64>,
    /// When it half-opens, while it is open by itself.
    pub until_ms: Option<u64>,
    /// Probe leases out.
    pub probes_in_flight: usize,
    /// The last minute.
    pub window: Counts,
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
