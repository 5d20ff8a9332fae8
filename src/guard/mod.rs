//! What stands between a question and an AI service.
//!
//! ```text
//! cache > single flight > look at the breaker > slot > permit of the limiter > pass of the breaker > the call
//! ```
//!
//! The order has reasons. An open breaker is looked at before anything is taken, so that those who wait for it hold
//! nothing. A slot comes before a permit, because a permit is good for 300 ms only and a wait for a slot may be long.
//! The breaker's pass comes last: a probe's lease must not wait for anything else.

mod allowance;
pub mod bell;
pub mod breaker;
pub mod bulkhead;
mod cache;
mod config;
mod fair;
mod fleet;
mod gate;
pub mod limiter;
mod lines;
mod machine;
mod metrics;
mod permits;
mod slow_start;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use self::{
    breaker::{Caller, FailureKind, Outcome},
    bulkhead::Bulkhead,
};
use crate::{
    domain::{
        answer::Answer,
        time::Timestamp,
        timeline::Wait,
        verdict::{Blame, Failure, blame},
    },
    telemetry::Clock,
};

pub use allowance::{Allowance, Spent};
pub use cache::{Cache, Fleet as CacheFleet, Key, Sealer, Tenant};
pub use config::CacheConfig;
pub use fair::{Class, Shares};
pub use fleet::Sharing;
pub use gate::Gate;
pub use metrics::Metrics;
pub use permits::{Permit, Permits};

/// With other services in the chain, a slot or the limiter of one is waited for no longer than this; one whose limiter
/// will not have anything by then is passed over at once.
const FALL_BACK_AFTER: Duration = Duration::from_secs(2);

/// The guards of one service.
pub struct Service {
    /// The service's name, as label value.
    pub name: &'static str,
    /// The breaker.
    pub gate: Gate,
    /// The limiter.
    pub permits: Arc<Permits>,
    /// The slots.
    pub bulkhead: Bulkhead,
}

/// The guards of all services, in the order of the fallback chain.
pub struct Stack {
    services: Vec<Service>,
    cache: Cache,
    clock: Clock,
    metrics: Metrics,
}

/// Told what a question is doing, so that it can be seen and its waits attributed (G10).
pub trait Progress: Send + Sync {
    /// It waits, at the longest until then (monotonic) before it looks again.
    fn waiting(&self, on: Wait, until: Option<Duration>);
    /// The service is being asked.
    fn asking(&self, service: &'static str);
    /// The service has answered, or failed.
    fn answered(&self, service: &'static str, took: Duration, outcome: &'static str);
}

/// A question as the guards see it.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Who asks; evidence counts conversations.
    pub caller: Caller<'a>,
    /// With whom it shares when others wait too.
    pub class: Class,
    /// When the customer wrote, for the order in which slots are given.
    pub received: Timestamp,
    /// An estimate of the tokens it will use.
    pub tokens: u64,
    /// Under which name its answer is kept, if at all.
    pub key: Option<Key>,
}

/// How a question failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The service asked last.
    pub service: &'static str,
    /// Why.
    pub failure: Failure,
    /// Whether that service was answering others: its breaker was closed and somebody had success lately.
    pub answers_others: bool,
}

impl Stack {
    /// Puts the guards together.
    pub fn new(services: Vec<Service>, cache: Cache, clock: Clock, metrics: Metrics) -> Self {
        Self { services, cache, clock, metrics }
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The services, in the order of the chain.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// Asks the first service of the chain that can be asked, and the next if it fails. Waits as long as it takes for
    /// one that can; whoever cannot wait for ever drops the future, which leaves no trace.
    pub async fn ask<F>(
        &self,
        question: Question<'_>,
        progress: &dyn Progress,
        call: impl Fn(usize) -> F + Send + Sync,
    ) -> Result<Answer, Failed>
    where
        F: Future<Output = Result<Answer, Failure>> + Send,
    {
        let asked = self.cache.get_or(question.key, || self.ask_chain(question, progress, &call)).await;
        let (answer, source) = asked?;
        if question.key.is_some() {
            self.metrics.cache(source, self.cache.is_shared());
        }
        Ok(answer)
    }

    async fn ask_chain<F>(
        &self,
        question: Question<'_>,
        progress: &dyn Progress,
        call: &(impl Fn(usize) -> F + Send + Sync),
    ) -> Result<Answer, Failed>
    where
        F: Future<Output = Result<Answer, Failure>> + Send,
    {
        loop {
            // Asked before the breakers are looked at: a change meanwhile is not slept through.
            let versions: Vec<u64> = self.services.iter().map(|service| service.gate.version()).collect();
            let mut last_failure = None;
            let mut retry_at = Duration::MAX;
            let mut wait = Wait::Breaker;
            for (index, service) in self.services.iter().enumerate() {
                match self.ask_one(service, question, progress, || call(index)).await {
                    Tried::Answered(answer) => return Ok(answer),
                    Tried::Busy(on, at) if at < retry_at => (wait, retry_at) = (on, at),
                    Tried::Busy(..) => {}
                    Tried::Failed(failed) => match blame(&failed.failure) {
                        // Another service would fail on it as well.
                        Blame::Message | Blame::Hopeless => return Err(failed),
                        Blame::Service | Blame::Setup => last_failure = Some(failed),
                    },
                }
            }
            // A service that is not set up is no reason to stop waiting for one that is.
            let another_may_come_back = retry_at < Duration::MAX;
            match last_failure {
                Some(failed) if !another_may_come_back || blame(&failed.failure) != Blame::Setup => return Err(failed),
                _ => self.wait(wait, &versions, retry_at, progress).await,
            }
        }
    }

    /// Waits until `retry_at` (monotonic), or until a breaker changes.
    async fn wait(&self, on: Wait, versions: &[u64], retry_at: Duration, progress: &dyn Progress) {
        progress.waiting(on, Some(retry_at));
        let gates = self.services.iter().zip(versions);
        let waits = gates.map(|(service, version)| Box::pin(service.gate.wait(*version, retry_at)));
        futures_util::future::select_all(waits).await;
    }

    async fn ask_one<F>(
        &self,
        service: &Service,
        question: Question<'_>,
        progress: &dyn Progress,
        call: impl FnOnce() -> F + Send,
    ) -> Tried
    where
        F: Future<Output = Result<Answer, Failure>> + Send,
    {
        let (slot, pass, permit) = match self.enter(service, question, progress).await {
            Ok(entered) => entered,
            Err((on, retry_at)) => return Tried::Busy(on, retry_at),
        };
        progress.asking(service.name);
        let began = self.clock.monotonic();
        let outcome = call().await;
        let took = self.clock.monotonic().saturating_sub(began);
        self.learn(service, pass, &permit, took, &outcome);
        drop(permit);
        drop(slot);
        progress.answered(service.name, took, outcome.as_ref().map_or_else(Failure::kind, |_| "ok"));
        match outcome {
            Ok(answer) => Tried::Answered(answer),
            Err(failure) => {
                if matches!(failure, Failure::Unusable(_)) {
                    tracing::error!(ai.service = service.name, %failure, "an AI service cannot be used as it is set up; its messages wait");
                }
                let answers_others = service.gate.is_closed() && service.gate.answered_lately();
                Tried::Failed(Failed { service: service.name, failure, answers_others })
            }
        }
    }

    /// Takes all that a call needs, in order, or says what it would have to wait for, and until when (monotonic).
    async fn enter<'a>(
        &self,
        service: &'a Service,
        question: Question<'a>,
        progress: &dyn Progress,
    ) -> Result<(bulkhead::Slot, gate::Pass<'a>, permits::Call), (Wait, Duration)> {
        let breaker = |retry_at| (Wait::Breaker, retry_at);
        service.gate.look(question.caller).map_err(breaker)?;
        progress.waiting(Wait::Slot, None);
        let slot = self.while_it_pays(service.bulkhead.enter(question.received.0, question.class)).await;
        let slot = slot.ok_or_else(|| (Wait::Slot, self.clock.monotonic()))?;
        loop {
            service.gate.look(question.caller).map_err(breaker)?;
            let permit = self.permit(service, question, progress).await?;
            service.gate.lease(question.caller).await;
            let pass = service.gate.admit(question.caller).map_err(breaker)?;
            if let Some(permit) = permit.used_now() {
                return Ok((slot, pass, permit));
            }
        }
    }

    /// With other services to turn to, waits no longer than is worth it.
    async fn while_it_pays<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        if self.services.len() == 1 {
            return Some(wait.await);
        }
        tokio::time::timeout(FALL_BACK_AFTER, wait).await.ok()
    }

    async fn permit(
        &self,
        service: &Service,
        Question { tokens, class, .. }: Question<'_>,
        progress: &dyn Progress,
    ) -> Result<permits::Permit, (Wait, Duration)> {
        if let Some(permit) = service.permits.at_once(tokens) {
            self.metrics.limiter_waited(service.name, Duration::ZERO);
            return Ok(permit);
        }
        let began = self.clock.monotonic();
        let free_at = service.permits.free_at(tokens);
        if self.services.len() > 1 && free_at > began + FALL_BACK_AFTER {
            return Err((Wait::Limiter, free_at));
        }
        progress.waiting(Wait::Limiter, None);
        let permit = self.while_it_pays(service.permits.acquire(tokens, class)).await;
        self.metrics.limiter_waited(service.name, self.clock.monotonic().saturating_sub(began));
        permit.ok_or_else(|| (Wait::Limiter, self.clock.monotonic()))
    }

    /// Tells all guards how a call ended.
    fn learn(
        &self,
        service: &Service,
        pass: gate::Pass<'_>,
        permit: &permits::Call,
        took: Duration,
        outcome: &Result<Answer, Failure>,
    ) {
        self.metrics.asked(service.name, took, outcome);
        match outcome {
            Ok(answer) => {
                service.permits.succeeded(answer.limit_requests);
                if answer.tokens.total() > 0 {
                    permit.settle(answer.tokens.total());
                }
                pass.report(Outcome::Success { took });
                service.bulkhead.succeeded();
            }
            Err(Failure::Throttled(retry_after)) => {
                service.permits.throttled(*retry_after);
                pass.report(Outcome::Neutral);
            }
            Err(failure) => {
                let kind = match failure {
                    Failure::Connect => Some(FailureKind::Connect),
                    Failure::Timeout => Some(FailureKind::Timeout),
                    Failure::Unavailable(_) => Some(FailureKind::ServerError),
                    _ => None,
                };
                match kind {
                    Some(kind) => {
                        pass.report(Outcome::Failure { kind });
                        service.bulkhead.failed();
                    }
                    // It answered, if only to refuse.
                    None => pass.report(Outcome::Success { took }),
                }
            }
        }
    }
}

enum Tried {
    Answered(Answer),
    /// Cannot be asked before then (monotonic), for this reason.
    Busy(Wait, Duration),
    Failed(Failed),
}
