//! What the properties are asked of: the machine in here, the quota of a fleet, or both side by side.

use super::*;

/// What keeps a service's limits.
pub(super) trait Subject {
    fn reserve(&mut self, now: Duration, tokens: u64, max_wait: Duration) -> Reservation;
    /// What a request of so many tokens is booked with.
    fn booked(&self, tokens: u64) -> u64;
    fn void(&mut self, now: Duration, seq: u64);
    fn settle(&mut self, now: Duration, seq: u64, tokens: u64);
    fn is_valid(&self, epoch: u64) -> bool;
    /// Takes notice of the time.
    fn look(&mut self, now: Duration);
    fn pause(&mut self, now: Duration, until: Duration);
    fn throttled(&mut self, now: Duration, retry_after: Option<Duration>, unit_random: f64);
    fn succeeded(&mut self, now: Duration);
    fn limit_header(&mut self, now: Duration, requests_per_minute: u64);
}

impl Subject for Limiter {
    fn reserve(&mut self, now: Duration, tokens: u64, max_wait: Duration) -> Reservation {
        self.reserve(now, tokens, max_wait)
    }

    fn booked(&self, tokens: u64) -> u64 {
        self.log.rules.tokens.map_or(tokens, |rule| tokens.min(rule.limit))
    }

    fn void(&mut self, _: Duration, seq: u64) {
        self.void(seq);
    }

    fn settle(&mut self, _: Duration, seq: u64, tokens: u64) {
        self.settle(seq, tokens);
    }

    fn is_valid(&self, epoch: u64) -> bool {
        self.is_valid(epoch)
    }

    fn look(&mut self, now: Duration) {
        self.advance(now);
    }

    fn pause(&mut self, now: Duration, until: Duration) {
        self.pause(now, until);
    }

    fn throttled(&mut self, now: Duration, retry_after: Option<Duration>, unit_random: f64) {
        self.throttled(now, retry_after, unit_random);
    }

    fn succeeded(&mut self, now: Duration) {
        self.succeeded(now);
    }

    fn limit_header(&mut self, now: Duration, requests_per_minute: u64) {
        self.limit_header(now, requests_per_minute);
    }
}

/// The machine and the quota side by side; they must agree on everything.
pub(super) struct Both<Q> {
    pub machine: Limiter,
    pub quota: Q,
}

impl<Q: Subject> Subject for Both<Q> {
    fn reserve(&mut self, now: Duration, tokens: u64, max_wait: Duration) -> Reservation {
        let decided = self.machine.reserve(now, tokens, max_wait);
        assert_eq!(Subject::reserve(&mut self.quota, now, tokens, max_wait), decided);
        decided
    }

    fn booked(&self, tokens: u64) -> u64 {
        let booked = self.machine.booked(tokens);
        assert_eq!(self.quota.booked(tokens), booked);
        booked
    }

    fn void(&mut self, now: Duration, seq: u64) {
        self.machine.void(seq);
        self.quota.void(now, seq);
    }

    fn settle(&mut self, now: Duration, seq: u64, tokens: u64) {
        self.machine.settle(seq, tokens);
        self.quota.settle(now, seq, tokens);
    }

    fn is_valid(&self, epoch: u64) -> bool {
        assert_eq!(self.quota.is_valid(epoch), self.machine.is_valid(epoch));
        self.machine.is_valid(epoch)
    }

    fn look(&mut self, now: Duration) {
        self.machine.look(now);
        self.quota.look(now);
    }

    fn pause(&mut self, now: Duration, until: Duration) {
        self.machine.pause(now, until);
        self.quota.pause(now, until);
    }

    fn throttled(&mut self, now: Duration, retry_after: Option<Duration>, unit_random: f64) {
        self.machine.throttled(now, retry_after, unit_random);
        self.quota.throttled(now, retry_after, unit_random);
    }

    fn succeeded(&mut self, now: Duration) {
        self.machine.succeeded(now);
        self.quota.succeeded(now);
    }

    fn limit_header(&mut self, now: Duration, requests_per_minute: u64) {
        self.machine.limit_header(now, requests_per_minute);
        self.quota.limit_header(now, requests_per_minute);
    }
}
