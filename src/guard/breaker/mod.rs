//! Decides whether a service may be called; a pure machine that its actor feeds with time, chance and outcomes.
//!
//! ```text
//!            failures in a row, failure rate, slow rate
//!   closed ----------------------------------------------> open <---+
//!     ^  ^                                                  | |     | a probe fails
//!     |  +---- another conversation's probe succeeds -------+ |     |
//!     |                                      recovery is due  v     |
//!     +------------- `probes` probes succeed ----------- half-open -+
//! ```
//! Every change raises the generation; an outcome of an earlier generation frees its lease and does nothing else.
//! While the evidence names fewer conversations than `failure_threshold`, it may be one poisonous message: then an
//! open breaker lets the call of any other conversation through as a probe, one at a time.

mod config;
mod fleet;
#[cfg(test)]
mod fleet_properties;
#[cfg(test)]
mod fleet_tests;
#[cfg(test)]
mod properties;
mod report;
mod seat;
#[cfg(test)]
mod tests;
mod window;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{time, units::millis};
use config::RATE_CONVERSATIONS_MIN;
pub use config::{Config, FailureKind, JITTER, LEASE_EXTRA, POLL, PROBER_STANDS_BACK, RECOVERY_MAX, WINDOW};
pub use fleet::{Fleet, VETO_WITHIN};
pub use report::{Admission, Caller, Cause, Mode, Outcome, Report, Scope, Snapshot, State, Transition};
use report::{Fingerprint, hash};
pub use seat::{Given, Seat, Turn};
pub use window::Counts;
use window::{CONVERSATIONS_PER_BUCKET_MAX, Window};

/// Guards one service; times are spans since any one origin of a monotonic clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Breaker {
    #[serde(skip)]
    config: Config,
    mode: Mode,
    phase: Phase,
    generation: u64,
    /// Openings since the breaker was last closed.
    trips: u32,
    /// Failures since the last success.
    consecutive: u32,
    /// Conversations behind the present evidence, hashed; at most `failure_threshold`.
    suspects: Vec<u64>,
    /// The evidence is slowness, which belongs to no conversation.
    unattributed: bool,
    window: Window,
    leases: Vec<Lease>,
    next_lease: u64,
    /// The message whose probe failed last, hashed.
    failed_prober: Option<u64>,
    #[serde(with = "millis")]
    seen: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Closed,
    Open {
        #[serde(with = "millis")]
        since: Duration,
        #[serde(with = "millis")]
        until: Duration,
    },
    HalfOpen {
        #[serde(with = "millis")]
        since: Duration,
        successes: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    id: u64,
    #[serde(with = "millis")]
    expires: Duration,
}

impl Breaker {
    /// A closed breaker; counts of 0 in the configuration are taken as 1.
    pub fn new(config: Config) -> Self {
        Self {
            config: config.workable(),
            mode: Mode::Auto,
            phase: Phase::Closed,
            generation: 0,
            trips: 0,
            consecutive: 0,
            suspects: Vec::new(),
            unattributed: false,
            window: Window::default(),
            leases: Vec::new(),
            next_lease: 0,
            failed_prober: None,
            seen: Duration::ZERO,
        }
    }

    /// Half-opens the breaker when its recovery is due; `admit` does it too, this tells of it.
    pub fn poll(&mut self, now: Duration) -> Option<Transition> {
        let now = self.advance(now);
        match self.phase {
            Phase::Open { until, .. } if self.mode == Mode::Auto && now >= until => {
                Some(self.enter(Phase::HalfOpen { since: now, successes: 0 }, Cause::RecoveryDue))
            }
            _ => None,
        }
    }

    /// Answers a caller; `call_timeout` bounds the lease of a probe, and `others_waiting` says that somebody else could
    /// probe in the caller's place.
    pub fn admit(
        &mut self,
        now: Duration,
        caller: Caller<'_>,
        call_timeout: Duration,
        others_waiting: bool,
    ) -> Admission {
        let now = self.advance(now);
        self.poll(now);
        if self.phase == Phase::Closed {
            return Admission::Pass { generation: self.generation };
        }
        if let Some(retry_at) = self.refused_until(now, caller.into(), others_waiting) {
            return Admission::Refuse { retry_at };
        }
        let lease = self.next_lease;
        self.next_lease += 1;
        self.lend(now, call_timeout, lease);
        Admission::Probe { generation: self.generation, lease }
    }

    /// Learns from the end of a call; `unit_random` in [0, 1) stretches an opening that follows.
    pub fn record(&mut self, now: Duration, report: Report<'_>, unit_random: f64) -> Option<Transition> {
        let now = self.advance(now);
        let held_lease = report.lease.is_some_and(|id| self.give_back(id));
        if report.generation != self.generation {
            return None;
        }
        let failed = self.config.failed(report.outcome)?;
        if self.phase == Phase::Closed {
            self.learn(now, report, failed);
            let cause = self.cause_to_open(now)?;
            return Some(self.open(now, cause, unit_random));
        }
        if held_lease { self.probed(now, report.caller.into(), failed, unit_random) } else { None }
    }

    /// Holds the breaker open or closed by hand, or lets it decide again.
    ///
    /// After being held open it half-opens at once; after being held closed it starts without evidence.
    pub fn force(&mut self, now: Duration, mode: Mode) -> Option<Transition> {
        let now = self.advance(now);
        if mode == self.mode {
            return None;
        }
        self.mode = mode;
        let held_open = matches!(self.phase, Phase::Open { .. });
        match mode {
            Mode::Open => Some(self.enter(Phase::Open { since: now, until: now }, Cause::Forced)),
            Mode::Auto if held_open => Some(self.enter(self.phase, Cause::Forced)),
            Mode::Auto | Mode::Closed => Some(self.close(Cause::Forced)),
        }
    }

    /// Begins anew, closed and without evidence: the fleet's breaker, which this one follows, has changed. While that
    /// one is held closed, so is this.
    pub fn follow(&mut self, now: Duration, mode: Mode) {
        self.advance(now);
        self.mode = if mode == Mode::Closed { Mode::Closed } else { Mode::Auto };
        self.leases.clear();
        self.close(Cause::Fleet);
    }

    /// What the breaker is now, for people and for readers that must not wait for its owner.
    pub fn snapshot(&self, now: Duration) -> Snapshot {
        let now = now.max(self.seen);
        let (opened_at, until) = match self.phase {
            Phase::Open { since, until } => (Some(since), (self.mode == Mode::Auto).then_some(until)),
            _ => (None, None),
        };
        Snapshot {
            state: self.state(),
            mode: self.mode,
            generation: self.generation,
            consecutive_failures: self.consecutive,
            conversations: self.suspects.len(),
            open_to_others: opened_at.is_some() && self.may_be_poison(),
            trips: self.trips,
            opened_at_ms: opened_at.map(time::millis),
            until_ms: until.map(time::millis),
            probes_in_flight: self.live(now).count(),
            window: self.window.counts(now),
            scope: Scope::Node,
        }
    }

    /// Closed, open or half-open.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// The number of the last change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The clock never goes back in here; leases end on the way.
    fn advance(&mut self, now: Duration) -> Duration {
        self.seen = self.seen.max(now);
        let now = self.seen;
        self.leases.retain(|lease| lease.expires > now);
        now
    }

    /// Until when the caller is refused, or `None` when he may call. Changes nothing.
    fn refused_until(&self, now: Duration, who: Fingerprint, others_waiting: bool) -> Option<Duration> {
        let now = now.max(self.seen);
        if self.mode == Mode::Open {
            return Some(now.saturating_add(POLL));
        }
        match self.phase {
            Phase::Closed => None,
            Phase::Open { until, .. } if now < until => self.holds_back(now, until, who),
            // As good as half-open; that it is due is noted when somebody may probe.
            Phase::Open { until, .. } => self.occupied(now, until, 0, who, others_waiting),
            Phase::HalfOpen { since, successes } => self.occupied(now, since, successes, who, others_waiting),
        }
    }

    /// Until when an open breaker refuses the caller, or `None` when he may probe ahead of time.
    fn holds_back(&self, now: Duration, until: Duration, who: Fingerprint) -> Option<Duration> {
        if !self.may_be_poison() || self.suspects.contains(&who.conversation) {
            return Some(until);
        }
        self.next_free_lease(now).map(|free_at| free_at.min(until))
    }

    /// Until when a half-open breaker refuses the caller, or `None` when he may probe.
    fn occupied(
        &self,
        now: Duration,
        since: Duration,
        successes: u32,
        who: Fingerprint,
        others_waiting: bool,
    ) -> Option<Duration> {
        let all_out = self.live(now).count() as u64 + u64::from(successes) >= u64::from(self.config.probes);
        if all_out {
            // With no lease out, somebody closes it any moment.
            return Some(self.next_free_lease(now).unwrap_or(now.saturating_add(POLL)));
        }
        let has_just_failed = self.failed_prober == Some(who.message);
        let stands_back_until = since.saturating_add(PROBER_STANDS_BACK);
        (has_just_failed && others_waiting && now < stands_back_until).then_some(stands_back_until)
    }

    fn next_free_lease(&self, now: Duration) -> Option<Duration> {
        self.live(now).map(|lease| lease.expires).min().map(|expiry| expiry.min(now.saturating_add(POLL)))
    }

    fn live(&self, now: Duration) -> impl Iterator<Item = &Lease> {
        self.leases.iter().filter(move |lease| lease.expires > now)
    }

    fn lend(&mut self, now: Duration, call_timeout: Duration, id: u64) {
        let expires = now.saturating_add(call_timeout).saturating_add(LEASE_EXTRA);
        self.leases.push(Lease { id, expires });
    }

    fn give_back(&mut self, id: u64) -> bool {
        let before = self.leases.len();
        self.leases.retain(|lease| lease.id != id);
        self.leases.len() < before
    }

    fn learn(&mut self, now: Duration, report: Report<'_>, failed: bool) {
        if failed {
            self.fail(now, hash(report.caller.conversation), CONVERSATIONS_PER_BUCKET_MAX);
        } else {
            self.succeed(now, 1, u32::from(self.config.slow(report.outcome)));
        }
    }

    /// Notes a failure; the window tells `remembered_max` conversations apart.
    fn fail(&mut self, now: Duration, conversation: u64, remembered_max: usize) {
        self.consecutive = self.consecutive.saturating_add(1);
        self.suspect(conversation);
        self.window.failed(now, conversation, remembered_max);
    }

    fn succeed(&mut self, now: Duration, calls: u32, slow: u32) {
        self.consecutive = 0;
        self.suspects.clear();
        self.window.succeeded(now, calls, slow);
    }

    fn cause_to_open(&self, now: Duration) -> Option<Cause> {
        if self.mode != Mode::Auto {
            return None;
        }
        if self.consecutive >= self.config.failure_threshold {
            return Some(Cause::Failures);
        }
        let counts = self.window.counts(now);
        if counts.calls < self.config.minimum_calls {
            return None;
        }
        let reaches = |part: u32, rate: f64| part > 0 && f64::from(part) >= rate * f64::from(counts.calls);
        let conversations_min = self.threshold().min(RATE_CONVERSATIONS_MIN);
        if reaches(counts.failures, self.config.failure_rate)
            && self.window.failing(now, conversations_min).len() >= conversations_min
        {
            return Some(Cause::FailureRate);
        }
        reaches(counts.slow, self.config.slow_rate).then_some(Cause::SlowRate)
    }

    /// Judges the end of a probe whose lease was in force.
    fn probed(&mut self, now: Duration, who: Fingerprint, failed: bool, unit_random: f64) -> Option<Transition> {
        if failed {
            self.consecutive = self.consecutive.saturating_add(1);
            self.failed_prober = Some(who.message);
            self.suspect(who.conversation);
            let was_half_open = matches!(self.phase, Phase::HalfOpen { .. });
            return was_half_open.then(|| self.open(now, Cause::ProbeFailed, unit_random));
        }
        match self.phase {
            Phase::HalfOpen { since, successes } if successes + 1 < self.config.probes => {
                self.phase = Phase::HalfOpen { since, successes: successes + 1 };
                None
            }
            _ => Some(self.close(Cause::ProbeSucceeded)),
        }
    }

    fn open(&mut self, now: Duration, cause: Cause, unit_random: f64) -> Transition {
        match cause {
            Cause::FailureRate => {
                for conversation in self.window.failing(now, self.threshold()) {
                    self.suspect(conversation);
                }
            }
            Cause::SlowRate => self.unattributed = true,
            _ => {}
        }
        self.trips = self.trips.saturating_add(1);
        let until = now.saturating_add(self.config.recovery(self.trips, unit_random));
        self.enter(Phase::Open { since: now, until }, cause)
    }

    fn close(&mut self, cause: Cause) -> Transition {
        self.trips = 0;
        self.consecutive = 0;
        self.suspects.clear();
        self.unattributed = false;
        self.failed_prober = None;
        self.window = Window::default();
        self.enter(Phase::Closed, cause)
    }

    fn enter(&mut self, phase: Phase, cause: Cause) -> Transition {
        let from = self.state();
        self.phase = phase;
        self.generation += 1;
        Transition { from, to: self.state(), generation: self.generation, mode: self.mode, cause }
    }

    /// Whether one message may be behind all the evidence, so that the others deserve a try.
    fn may_be_poison(&self) -> bool {
        self.mode == Mode::Auto && self.trips > 0 && !self.unattributed && self.suspects.len() < self.threshold()
    }

    fn suspect(&mut self, conversation: u64) {
        if self.suspects.len() < self.threshold() && !self.suspects.contains(&conversation) {
            self.suspects.push(conversation);
        }
    }

    fn threshold(&self) -> usize {
        self.config.failure_threshold as usize
    }
}
