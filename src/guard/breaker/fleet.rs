//! The breaker of all nodes: the same machine, fed with what every node reports, and written down as a document that
//! the nodes change one after the other (`state/board.rs`).
//!
//! It opens on the evidence of all together, unless a node vetoes: one that had a success lately and whose own calls do
//! not say the same. A node that says nothing vetoes nothing. One that has failed for two conversations since its
//! success vetoes no more; otherwise an outage for all would go unseen for as long as a success counts. One
//! conversation alone does not lift the veto, not even of the node it fails on: that node opens by itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Breaker, Cause, Config, Counts, Fingerprint, Mode, Phase, Scope, Snapshot, State};
use crate::domain::units::millis;

/// A node's success speaks against opening for this long.
pub const VETO_WITHIN: Duration = Duration::from_secs(10);

/// Conversations that must fail on a node, without a success in between, before its last success counts no more; one
/// alone may be a poisonous message.
const VETO_FALLS_AT: usize = 2;

/// Failing conversations told apart in five seconds; with more of them nobody suspects a single message.
const CONVERSATIONS_MAX: usize = 8;

/// Nodes remembered for their veto. Beyond that the oldest success gives way, which costs at most a needless opening.
const NODES_MAX: usize = 64;

/// Failures reported at once; more of them say nothing new.
const FAILURES_MAX: usize = 256;

/// The fleet's breaker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fleet {
    breaker: Breaker,
    /// Nodes that had a success within [`VETO_WITHIN`].
    #[serde(default)]
    nodes: Vec<Seen>,
}

/// What is remembered of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Seen {
    node: u64,
    #[serde(with = "millis")]
    succeeded: Duration,
    /// Conversations that have failed there since, hashed; at most [`VETO_FALLS_AT`].
    failing: Vec<u64>,
    /// The node's own last minute.
    own: Counts,
}

/// The outcomes of a node since its last report, in one generation.
#[derive(Clone, Debug, Default)]
pub(super) struct Digest {
    pub generation: u64,
    succeeded: u32,
    slow: u32,
    /// The conversation of each failure before the last success, and after it.
    failed_before: Vec<u64>,
    failed_since: Vec<u64>,
    /// The node's own last minute.
    pub own: Counts,
}

/// The end of a probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub generation: u64,
    pub lease: u64,
    pub who: Fingerprint,
    /// Whether it failed; `None` when it was not made, or says nothing.
    pub failed: Option<bool>,
}

impl Digest {
    pub fn of(generation: u64) -> Self {
        Self { generation, ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.succeeded == 0 && !self.has_failures()
    }

    pub fn has_failures(&self) -> bool {
        !self.failed_before.is_empty() || !self.failed_since.is_empty()
    }

    pub fn has_success(&self) -> bool {
        self.succeeded > 0
    }

    pub fn succeed(&mut self, slow: bool) {
        self.succeeded = self.succeeded.saturating_add(1);
        self.slow = self.slow.saturating_add(u32::from(slow));
        self.failed_before.append(&mut self.failed_since);
    }

    pub fn fail(&mut self, conversation: u64) {
        if self.failed_before.len() + self.failed_since.len() < FAILURES_MAX {
            self.failed_since.push(conversation);
        }
    }
}

impl Fleet {
    pub(super) fn new(config: Config) -> Self {
        Self { breaker: Breaker::new(config), nodes: Vec::new() }
    }

    /// Reads the document.
    pub fn read(body: &[u8], config: &Config) -> Option<Self> {
        let mut fleet: Self = serde_json::from_slice(body).ok()?;
        fleet.breaker.config = config.clone().workable();
        Some(fleet)
    }

    /// Writes the document.
    pub(super) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers, names and lists of them can be written")
    }

    /// Learns what a node reports.
    pub(super) fn learn(&mut self, now: Duration, node: u64, digest: &Digest, unit_random: f64) {
        let now = self.advance(now);
        if digest.generation != self.breaker.generation || self.breaker.phase != Phase::Closed {
            return;
        }
        for conversation in &digest.failed_before {
            self.breaker.fail(now, *conversation, CONVERSATIONS_MAX);
        }
        if digest.succeeded > 0 {
            self.breaker.succeed(now, digest.succeeded, digest.slow);
        }
        for conversation in &digest.failed_since {
            self.breaker.fail(now, *conversation, CONVERSATIONS_MAX);
        }
        self.remember(now, node, digest);
        if let Some(cause) = self.breaker.cause_to_open(now).filter(|cause| !self.vetoed(*cause)) {
            self.breaker.open(now, cause, unit_random);
        }
    }

    /// Lends a probe to a caller; `token` names the lease.
    pub(super) fn acquire(&mut self, now: Duration, who: Fingerprint, call_timeout: Duration, token: u64) -> bool {
        let now = self.advance(now);
        // Whoever else waits may be on another node, so somebody always does.
        let refused = self.breaker.phase == Phase::Closed || self.breaker.refused_until(now, who, true).is_some();
        if refused {
            return false;
        }
        self.breaker.poll(now);
        self.breaker.lend(now, call_timeout, token);
        true
    }

    /// Learns how a probe ended; one whose lease is over, or of another generation, has no say.
    pub(super) fn end(&mut self, now: Duration, ended: &Ended, unit_random: f64) {
        let now = self.advance(now);
        let held = self.breaker.give_back(ended.lease);
        if let Some(failed) = ended.failed
            && held
            && ended.generation == self.breaker.generation
        {
            self.breaker.probed(now, ended.who, failed, unit_random);
        }
    }

    pub(super) fn force(&mut self, now: Duration, mode: Mode) {
        self.breaker.force(now, mode);
    }

    /// Until when a caller is refused, or `None` when he may call or ask for a probe.
    pub(super) fn refused_until(&self, now: Duration, who: Fingerprint) -> Option<Duration> {
        self.breaker.refused_until(now, who, true)
    }

    pub(super) fn state(&self) -> State {
        self.breaker.state()
    }

    pub(super) fn mode(&self) -> Mode {
        self.breaker.mode
    }

    pub(super) fn generation(&self) -> u64 {
        self.breaker.generation
    }

    /// The latest time it was told; a clock that was ahead when a node decided is in it.
    pub(super) fn seen(&self) -> Duration {
        self.breaker.seen
    }

    /// Whether the last report was a failure, so that a success is news.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.breaker.consecutive > 0
    }

    /// Whether a node's success is known, and counts for a while yet.
    pub(super) fn has_veto_of(&self, now: Duration, node: u64) -> bool {
        let lasts = |seen: &Seen| seen.node == node && seen.succeeded.saturating_add(VETO_WITHIN / 2) > now;
        self.nodes.iter().any(lasts)
    }

    /// Whether others must hear of it at once: it has changed, or a probe was lent or given back.
    pub(super) fn is_news_after(&self, before: &Self) -> bool {
        self.breaker.generation != before.breaker.generation || self.breaker.leases != before.breaker.leases
    }

    pub(super) fn snapshot(&self, now: Duration) -> Snapshot {
        Snapshot { scope: Scope::Fleet, ..self.breaker.snapshot(now) }
    }

    fn advance(&mut self, now: Duration) -> Duration {
        let now = self.breaker.advance(now);
        self.nodes.retain(|seen| seen.succeeded.saturating_add(VETO_WITHIN) > now);
        now
    }

    fn remember(&mut self, now: Duration, node: u64, digest: &Digest) {
        if digest.succeeded > 0 {
            self.nodes.retain(|seen| seen.node != node);
            if self.nodes.len() == NODES_MAX {
                self.nodes.remove(0);
            }
            self.nodes.push(Seen { node, succeeded: now, failing: Vec::new(), own: digest.own });
        }
        let Some(seen) = self.nodes.iter_mut().find(|seen| seen.node == node) else { return };
        seen.own = digest.own;
        for conversation in &digest.failed_since {
            if seen.failing.len() < VETO_FALLS_AT && !seen.failing.contains(conversation) {
                seen.failing.push(*conversation);
            }
        }
    }

    /// Whether a node that had a success lately contradicts.
    fn vetoed(&self, cause: Cause) -> bool {
        self.nodes.iter().any(|seen| seen.contradicts(cause, &self.breaker.config))
    }
}

impl Seen {
    fn contradicts(&self, cause: Cause, config: &Config) -> bool {
        let below = |part: u32, rate: f64| f64::from(part) < rate * f64::from(self.own.calls);
        match cause {
            Cause::FailureRate => below(self.own.failures, config.failure_rate),
            Cause::SlowRate => below(self.own.slow, config.slow_rate),
            _ => self.failing.len() < VETO_FALLS_AT,
        }
    }
}

#[cfg(test)]
impl Fleet {
    /// Leases in force, and successes of probes that count already.
    pub(super) fn probes(&self, now: Duration) -> u64 {
        let successes = if let Phase::HalfOpen { successes, .. } = self.breaker.phase { successes } else { 0 };
        self.breaker.live(now).count() as u64 + u64::from(successes)
    }
}
