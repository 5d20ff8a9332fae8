//! Leave to make one call, and the call that is made with it.

use std::{sync::Arc, time::Duration};

use super::Permits;
use crate::{
    domain::time::Timestamp,
    guard::{fleet::Held, limiter::Limiter},
};

/// Leave to make one call so soon that it arrives within `VALIDITY`; given back when dropped unused.
#[must_use = "a permit that is dropped goes back"]
pub struct Permit {
    pub(super) permits: Arc<Permits>,
    pub(super) right: Right,
    pub(super) tokens: u64,
    pub(super) used: bool,
}

/// A call that has begun under a permit; lives until it has ended.
#[must_use = "the call lasts as long as this lives"]
pub struct Call {
    permits: Arc<Permits>,
    right: Right,
    began: Duration,
    /// Where tokens are limited: the time and the estimate by which it is in the journal.
    noted: Option<(Timestamp, u64)>,
}

/// Where a permit comes from.
#[derive(Clone)]
pub(super) enum Right {
    Machine { until: Duration, seq: u64, epoch: u64, life: u64 },
    Quota(Held),
}

impl Permit {
    /// Uses the permit for a call that begins now; `None` when it has become invalid:
    /// too late, or the service has asked for a pause since. Then it goes back, and another has to be asked for.
    pub fn used_now(mut self) -> Option<Call> {
        let permits = self.permits.clone();
        let now = permits.clock.monotonic();
        let valid = match (&self.right, &permits.fleet) {
            (Right::Machine { until, epoch, life, .. }, _) => {
                let is_valid = |limiter: &mut Limiter| limiter.is_valid(*epoch);
                now <= *until && permits.machine.lock().of(*life).is_some_and(is_valid)
            }
            (Right::Quota(held), fleet) => fleet.as_ref().is_some_and(|fleet| fleet.is_valid(now, held)),
        };
        self.used = valid;
        let mut noted = None;
        let limits = permits.limits.load();
        if valid && limits.limits_anything() {
            let at = permits.clock.now();
            permits.calls.note(permits.name, at, self.tokens);
            noted = (limits.tokens_per_minute > 0).then_some((at, self.tokens));
            if let Some(fleet) = &permits.fleet {
                fleet.called(now, self.tokens, matches!(self.right, Right::Quota(_)));
            }
        }
        drop(limits);
        valid.then(|| Call { permits, right: self.right.clone(), began: now, noted })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.used {
            match (&self.right, &self.permits.fleet) {
                (Right::Machine { seq, life, .. }, _) => {
                    if let Some(limiter) = self.permits.machine.lock().of(*life) {
                        limiter.void(*seq);
                    }
                }
                (Right::Quota(held), Some(fleet)) => fleet.give_back(self.permits.clock.monotonic(), held.clone()),
                (Right::Quota(_), None) => {}
            }
            self.permits.ended();
            self.permits.bell.ring();
        }
    }
}

impl Call {
    /// When it began (monotonic).
    pub fn began(&self) -> Duration {
        self.began
    }

    /// The call really used so many tokens.
    pub fn settle(&self, tokens: u64) {
        if let Some((at, estimated)) = self.noted.filter(|(_, estimated)| *estimated != tokens) {
            self.permits.calls.note_settled(self.permits.name, self.permits.clock.now(), at, estimated, tokens);
        }
        match (&self.right, &self.permits.fleet) {
            (Right::Machine { seq, life, .. }, _) => {
                if let Some(limiter) = self.permits.machine.lock().of(*life) {
                    limiter.settle(*seq, tokens);
                }
            }
            (Right::Quota(held), Some(fleet)) => fleet.settle(held, tokens),
            (Right::Quota(_), None) => {}
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.permits.ended();
    }
}
