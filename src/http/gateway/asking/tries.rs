//! The few further tries of a request, as long as nothing has reached its client.

use std::{sync::atomic::Ordering, time::Duration};

use axum::body::Bytes;

use super::Asking;
use crate::{
    domain::verdict::{Blame, Failure, blame},
    guard::{Refused, ask_again_at},
    http::gateway::refusal::Refusal,
};

/// What a service said when it failed.
pub(super) struct Said {
    pub service: usize,
    pub is_throttled: bool,
    pub body: Option<Bytes>,
    pub retry_after: Option<Duration>,
}

impl Asking {
    /// Asks, and asks again when a service failed, as long as nothing has reached the client: so often, within the
    /// time, and within what all further tries together may be.
    pub async fn persist<T, F>(&self, ask: impl Fn() -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Refused>>,
    {
        let mut tries = 0;
        loop {
            self.failures.lock().clear();
            let asked = ask().await;
            self.give_back();
            let refused = match asked {
                Ok(brought) => return Ok(brought),
                Err(refused) => refused,
            };
            let Some(pause) = self.pause(&refused, tries) else {
                let refusal = self.refusal(&refused);
                let service = refusal.service().or(self.watch.service());
                return Err(refusal.seen(self.watch.so_far(service)));
            };
            self.watch.failed();
            tries += 1;
            tokio::time::sleep(pause).await;
        }
    }

    /// A further try that called nobody costs nothing.
    pub(super) fn give_back(&self) {
        if self.may_try.swap(false, Ordering::Relaxed) {
            self.visit.gateway.retries.give_back();
        }
    }

    /// The pause before the next try, if there is to be one.
    fn pause(&self, refused: &Refused, tries: u32) -> Option<Duration> {
        let Refused::Failed(failed) = refused else { return None };
        if blame(&failed.failure) != Blame::Service || tries >= self.visit.gateway.config.max_retries {
            return None;
        }
        let pause = self.pause_after(&failed.failure, tries);
        let after = self.visit.gateway.parts.clock.monotonic() + pause;
        let enough = self.chain.iter().map(|service| self.least_for(*service)).min().unwrap_or_default();
        if after + enough > self.deadline.at {
            return None;
        }
        if !self.visit.gateway.retries.take() {
            self.visit.gateway.metrics.tried_again(false);
            return None;
        }
        self.may_try.store(true, Ordering::Relaxed);
        Some(pause)
    }

    /// As long as those ask for who failed. For those who throttle their limiters know how long to wait, and wait.
    fn pause_after(&self, failure: &Failure, tries: u32) -> Duration {
        let failures = self.failures.lock();
        let failed = || failures.iter().filter(|said| !said.is_throttled);
        if matches!(failure, Failure::Throttled(_)) && failed().next().is_none() {
            return Duration::ZERO;
        }
        let asked_for = failed().filter_map(|said| said.retry_after).max().unwrap_or_default();
        self.visit.gateway.pauses.service_pause(tries + 1, rand::random()).max(asked_for)
    }

    fn refusal(&self, refused: &Refused) -> Refusal {
        match refused {
            Refused::Busy(busy) => Refusal::busy(*busy, self.visit.gateway.parts.clock.monotonic()),
            Refused::Failed(failed) => {
                let services = self.visit.gateway.parts.stack.services();
                let failures = std::mem::take(&mut *self.failures.lock());
                let retry_after = failures.iter().filter_map(|said| said.retry_after).max();
                let said = failures.into_iter().find(|said| services[said.service].name == failed.service);
                let body = said.and_then(|said| said.body);
                let is_clients_fault = matches!(blame(&failed.failure), Blame::Message | Blame::Hopeless);
                // What it says of our own trouble with it, of our key for instance, is not for the client.
                let pause = match failed.failure {
                    Failure::Throttled(told) => told.max(Some(self.free_in())),
                    _ => None,
                };
                Refusal::failed(failed).saying(body.filter(|_| is_clients_fault)).not_before(retry_after.max(pause))
            }
        }
    }

    /// In what time the first of its services may be asked again, as far as their limits go.
    fn free_in(&self) -> Duration {
        let (services, now) = (self.visit.gateway.parts.stack.services(), self.visit.gateway.parts.clock.monotonic());
        let tokens = self.request.tokens();
        let answering = self.chain.iter().map(|service| &services[*service]).filter(|it| it.gate.is_closed());
        let free_at = answering.map(|service| service.permits.free_at(tokens)).min();
        ask_again_at(free_at.unwrap_or(now), now) - now
    }
}
