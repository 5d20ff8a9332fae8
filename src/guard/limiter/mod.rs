//! Keeps a service's limits exactly; a pure machine that its actor feeds with time and chance.
//!
//! A caller reserves and is told when his permit begins; he sleeps until then, never polls, and nobody passes him.
//! The permit may be used from `at` to `until` and only while its epoch is valid. One that is not used goes back by
//! `void`, as if it had never been. With `V` the permits' validity, what is *used* never exceeds
//! - any window: at most its limit in every half-open interval of its length, at whatever moments permits are used;
//! - the burst bucket: at most `burst + d / interval` in every interval of length `d`;
//!
//! and a saturated limiter grants at least as much as one permit in each `(W + V) / L`, for the tightest window.

mod learning;
mod limits;
mod log;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod subject;
#[cfg(test)]
mod subject_shared;
#[cfg(test)]
mod tests;

use std::time::Duration;

use learning::Learning;
pub use learning::{PAUSE_MAX, PAUSE_MIN};
use limits::Rules;
pub use limits::{Limits, SlowBurst, WindowLimit};
use log::Log;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::time::millis;

/// Limits one service; times are spans since any one origin of a monotonic clock.
#[derive(Clone, Debug)]
pub struct Limiter {
    limits: Limits,
    learning: Learning,
    log: Log,
    paused_until: Duration,
    epoch: u64,
    seen: Duration,
}

/// Answers a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a permit that is not used must be voided"]
pub enum Reservation {
    /// The caller has a place.
    Granted {
        /// When the permit may be used, now or later.
        at: Duration,
        /// The last moment to use it; then it must be voided.
        until: Duration,
        /// Names the permit to `void` and `settle`.
        seq: u64,
        /// The permit is void once [`Limiter::is_valid`] denies this.
        epoch: u64,
    },
    /// The wait would be too long; nothing is reserved.
    Refused {
        /// When the request would be free to go, as things are.
        at: Duration,
    },
}

/// Shows the use of one limit to operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct WindowUse {
    /// `requests`, `tokens` or `burst`.
    pub kind: &'static str,
    /// The window's length in milliseconds; for the burst, in which one request is regained.
    pub per_ms: u64,
    /// As configured; 0 when only the service told of the limit.
    pub configured: u64,
    /// What holds now.
    pub limit: u64,
    /// Used, or usable at this moment.
    pub used: u64,
    /// Reserved ahead; the burst counts these as used.
    pub reserved: u64,
}

impl Limiter {
    /// A limiter without history; a permit is to be used within `validity`, which lengthens every window.
    pub fn new(limits: Limits, validity: Duration) -> Self {
        let log = Log::new(Rules::of(&limits, None, 1.0), validity);
        let learning = Learning::default();
        Self { limits, learning, log, paused_until: Duration::ZERO, epoch: 0, seen: Duration::ZERO }
    }

    /// Reserves the earliest place for a request of an estimated number of tokens, unless it is further than `max_wait`.
    ///
    /// An estimate beyond the token window is taken as the whole window; it could never pass otherwise.
    pub fn reserve(&mut self, now: Duration, tokens: u64, max_wait: Duration) -> Reservation {
        let now = self.advance(now);
        let tokens = self.log.rules.tokens.map_or(tokens, |rule| tokens.min(rule.limit));
        let at = self.log.earliest(now.max(self.paused_until), tokens);
        if let Some(room_at) = self.log.full_until() {
            return Reservation::Refused { at: at.max(room_at) };
        }
        if at.saturating_sub(now) > max_wait {
            return Reservation::Refused { at };
        }
        let seq = self.log.append(at, tokens);
        Reservation::Granted { at, until: at.saturating_add(self.log.validity), seq, epoch: self.epoch }
    }

    /// Counts a call that was made beside the limiter, whether or not there was room for it.
    pub fn made(&mut self, at: Duration, tokens: u64) {
        let at = self.advance(at);
        self.log.append(at, tokens);
    }

    /// Takes back a permit that was not used and will not be; twice is no more than once.
    pub fn void(&mut self, seq: u64) {
        self.log.remove(seq);
    }

    /// Replaces a request's estimate by the tokens it really cost.
    pub fn settle(&mut self, seq: u64, actual_tokens: u64) {
        self.log.settle(seq, actual_tokens);
    }

    /// Grants nothing before `until`; permits given before are invalid. An earlier end than the present one is ignored.
    pub fn pause(&mut self, now: Duration, until: Duration) {
        let now = self.advance(now);
        if until > now.max(self.paused_until) {
            self.paused_until = until;
            self.renew(now);
        }
    }

    /// Whether permits of this epoch may still be used.
    pub fn is_valid(&self, epoch: u64) -> bool {
        epoch == self.epoch
    }

    /// The epoch of permits granted now.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The end of the present pause, if there is one.
    pub fn paused_until(&self, now: Duration) -> Option<Duration> {
        (self.paused_until > now.max(self.seen)).then_some(self.paused_until)
    }

    /// The share of the configured limits that is in force, lowered by unexplained 429s.
    pub fn factor(&self) -> f64 {
        self.learning.factor
    }

    /// Takes in a 429: pauses for the time it names, else for a growing one, and lowers the limits: they were too high.
    ///
    /// Those that arrive during a pause belong to the incident that caused it and lower nothing further.
    pub fn throttled(&mut self, now: Duration, retry_after: Option<Duration>, unit_random: f64) {
        let now = self.advance(now);
        // "At once" after a refusal is no advice.
        if let Some(asked) = retry_after.filter(|asked| !asked.is_zero()) {
            let new_incident = now >= self.paused_until;
            if new_incident {
                self.learning.told_to_wait(now);
                self.obey_lessons();
            }
            self.pause(now, now.saturating_add(asked.min(PAUSE_MAX)));
            return;
        }
        if now >= self.paused_until {
            let pause = self.learning.throttled(now, unit_random);
            self.obey_lessons();
            self.pause(now, now.saturating_add(pause));
        }
    }

    /// Takes in a success: the next unexplained pause is short again, lowered limits rise by 5 % a minute.
    pub fn succeeded(&mut self, now: Duration) {
        let now = self.advance(now);
        let shortest = self.log.rules.windows.iter().map(|rule| rule.span).min();
        if self.learning.succeeded(now, shortest) {
            self.obey_lessons();
        }
    }

    /// Takes in the service's own limit per minute, which counts as far as it is below the configured one; 0 is ignored.
    pub fn limit_header(&mut self, now: Duration, requests_per_minute: u64) {
        let now = self.advance(now);
        if requests_per_minute == 0 {
            return;
        }
        let before = self.learning.header.replace(requests_per_minute);
        let lower = before.is_none_or(|before| requests_per_minute < before);
        if self.obey_lessons() && lower {
            self.renew(now);
        }
    }

    /// Puts other limits in force; permits given before are invalid, and windows longer than any before start without
    /// history.
    pub fn set_limits(&mut self, now: Duration, limits: Limits) {
        let now = self.advance(now);
        self.limits = limits;
        if self.obey_lessons() {
            self.renew(now);
        }
    }

    /// The limits as configured.
    #[cfg(test)]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How much of each limit is used.
    pub fn used(&self, now: Duration) -> Vec<WindowUse> {
        let now = now.max(self.seen);
        let rules = &self.log.rules;
        let mut uses = Vec::with_capacity(rules.windows.len() + 2);
        for rule in &rules.windows {
            let [(used, _), (reserved, _)] = self.log.use_of(now, rule.span);
            let (configured, limit) = (rule.configured, rule.limit);
            uses.push(WindowUse { kind: "requests", per_ms: millis(rule.span), configured, limit, used, reserved });
        }
        if let Some(rule) = rules.tokens {
            let [(_, used), (_, reserved)] = self.log.use_of(now, rule.span);
            let (configured, limit) = (rule.configured, rule.limit);
            uses.push(WindowUse { kind: "tokens", per_ms: millis(rule.span), configured, limit, used, reserved });
        }
        if let Some(bucket) = rules.bucket {
            let (limit, per_ms) = (u64::from(bucket.capacity), millis(bucket.interval));
            let used = self.log.drawn(now).min(limit);
            uses.push(WindowUse { kind: "burst", per_ms, configured: limit, limit, used, reserved: 0 });
        }
        uses
    }

    /// The clock never goes back in here; old entries end on the way.
    fn advance(&mut self, now: Duration) -> Duration {
        self.seen = self.seen.max(now);
        self.log.forget(self.seen);
        self.seen
    }

    fn renew(&mut self, now: Duration) {
        self.epoch += 1;
        self.log.cut_ahead(now);
    }

    /// Puts what was configured and learned in force; returns whether that is a change.
    fn obey_lessons(&mut self) -> bool {
        let mut rules = Rules::of(&self.limits, self.learning.header, self.learning.factor);
        // What is remembered does not shrink: it counts when more is allowed again.
        rules.entries_max = rules.entries_max.max(self.log.rules.entries_max);
        let changed = rules != self.log.rules;
        if changed {
            self.log.obey(rules);
        }
        changed
    }
}
