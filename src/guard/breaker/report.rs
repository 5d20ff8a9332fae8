//! What a breaker is told and what it tells.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Counts, FailureKind};

/// Says who wants to call the service.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Evidence counts distinct conversations; on the synchronous road, the key and its request.
    pub conversation: &'a str,
    /// The message, which does not probe twice in a row while others wait.
    pub message: &'a str,
}

/// A caller as the evidence remembers him.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    pub conversation: u64,
    pub message: u64,
}

impl From<Caller<'_>> for Fingerprint {
    fn from(caller: Caller<'_>) -> Self {
        Self { conversation: hash(caller.conversation), message: hash(caller.message) }
    }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[schema(as = BreakerState)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[schema(as = BreakerMode)]
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
    /// The fleet's breaker, which this node follows.
    Fleet,
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

impl Transition {
    /// Whose breaker changed.
    pub fn scope(&self) -> Scope {
        if self.cause == Cause::Fleet { Scope::Fleet } else { Scope::Node }
    }
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
    /// Whose state it is.
    pub scope: Scope,
}

/// Says whose breaker decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = BreakerScope)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// This node's own.
    Node,
    /// The one of all nodes.
    Fleet,
}

impl Scope {
    /// The name in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Fleet => "fleet",
        }
    }
}

/// Ids are kept as hashes, so that their length costs nothing: FNV-1a, which is the same in every build, because nodes
/// of different versions compare them.
pub(super) fn hash(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
