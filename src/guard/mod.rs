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
mod question;
mod slow_start;
#[cfg(test)]
mod tests;
mod walk;

use std::{sync::Arc, time::Duration};

use self::{
    breaker::{Caller, FailureKind, Outcome},
    bulkhead::Bulkhead,
};
use crate::{
    domain::{answer::Answer, timeline::Wait, verdict::Failure},
    telemetry::Clock,
};

pub use allowance::{Allowance, BudgetUse, Spent};
pub use cache::{Cache, Fleet as CacheFleet, Key, Sealer, Source, Tenant};
pub use config::CacheConfig;
pub use fair::{Class, Shares};
pub use fleet::Sharing;
pub use gate::Gate;
pub use metrics::Metrics;
pub use permits::{Call, Permit, Permits, VALIDITY};
use question::Bounds;
pub use question::{Brought, Busy, Failed, Progress, Question, Refused, ask_again_at};
use walk::{End, Walk};

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
        let question = Question { patience: None, until: None, ..question };
        loop {
            match self.ask_or_recall(question, progress, &call).await {
                Ok((answer, _)) => return Ok(answer),
                Err(Refused::Failed(failed)) => return Err(failed),
                // Only where there is no service at all: who has no end of his time waits.
                Err(Refused::Busy(_)) => {}
            }
        }
    }

    /// The same within the question's time, and says where the answer came from.
    pub async fn ask_or_recall<F>(
        &self,
        question: Question<'_>,
        progress: &dyn Progress,
        call: impl Fn(usize) -> F + Send + Sync,
    ) -> Result<(Answer, Source), Refused>
    where
        F: Future<Output = Result<Answer, Failure>> + Send,
    {
        // Whoever had no more time for it tells nothing to those who waited for the same call and have.
        let is_callers_own = |refused: &Refused| match refused {
            Refused::Busy(_) => true,
            Refused::Failed(failed) => failed.cut_short,
        };
        if question.key.is_none() {
            return Ok((self.ask_anew(question, progress, &call).await?, Source::Asked));
        }
        let ask = || self.ask_anew(question, progress, &call);
        // Apart: to look into the cache takes much room, and many wait who do not.
        let asked = Box::pin(self.cache.get_or(question.key, is_callers_own, ask)).await?;
        self.metrics.cache(asked.1, self.cache.is_shared());
        Ok(asked)
    }

    /// The same without the cache, for whatever a call may bring.
    pub async fn ask_anew<T, F>(
        &self,
        question: Question<'_>,
        progress: &dyn Progress,
        call: impl Fn(usize) -> F + Send + Sync,
    ) -> Result<T, Refused>
    where
        T: Brought + Send,
        F: Future<Output = Result<T, Failure>> + Send,
    {
        let mut chain: Vec<(usize, &Service)> = match question.chain {
            Some(chain) => chain.iter().filter_map(|index| Some((*index, self.services.get(*index)?))).collect(),
            None => self.services.iter().enumerate().collect(),
        };
        let deadline = question.until.unwrap_or(Duration::MAX);
        let patience = question.patience.unwrap_or(Duration::MAX);
        let mut until = self.clock.monotonic().saturating_add(patience).min(deadline);
        loop {
            // Asked before the breakers are looked at: a change meanwhile is not slept through.
            let versions: Vec<u64> = chain.iter().map(|(_, service)| service.gate.version()).collect();
            let (mut walk, mut done_with) = (Walk::default(), Vec::new());
            for (index, service) in &chain {
                let bounds = Bounds { others: chain.len() > 1, until };
                // Apart, as the call is: whoever waits for a breaker needs no room for it.
                match Box::pin(self.ask_one(service, question, bounds, progress, || call(*index))).await {
                    Tried::Answered(answer) => return Ok(answer),
                    Tried::Busy(on, at) => walk.busy(on, at),
                    Tried::Failed(failed, _) if walk::is_refusal(&failed.failure) && !question.stands_in(*index) => {
                        return Err(Refused::Failed(failed));
                    }
                    Tried::Failed(failed, took) => {
                        if walk.failed(failed) {
                            done_with.push(*index);
                        }
                        // A call is no wait.
                        until = until.saturating_add(took).min(deadline);
                    }
                }
            }
            match walk.end() {
                End::Failed(failed) => return Err(Refused::Failed(failed)),
                End::Waits(on, retry_at) if retry_at >= until => {
                    let now = self.clock.monotonic();
                    return Err(Refused::Busy(busy(&chain, question, on, retry_at, now)));
                }
                End::Waits(on, retry_at) => wait_for(on, &chain, &versions, retry_at, progress).await,
            }
            chain.retain(|(index, _)| !done_with.contains(index));
        }
    }

    async fn ask_one<T, F>(
        &self,
        service: &Service,
        question: Question<'_>,
        bounds: Bounds,
        progress: &dyn Progress,
        call: impl FnOnce() -> F + Send,
    ) -> Tried<T>
    where
        T: Brought + Send,
        F: Future<Output = Result<T, Failure>> + Send,
    {
        let (slot, pass, permit) = match self.enter(service, question, bounds, progress).await {
            Ok(entered) => entered,
            Err((on, retry_at)) => return Tried::Busy(on, retry_at),
        };
        let began = permit.began();
        progress.asking(service.name, began);
        let took = || self.clock.monotonic().saturating_sub(began);
        // Apart, for only few are called at once, and many wait.
        let mut call = Box::pin(call());
        let (mut pass, mut begun) = (Some(pass), false);
        let outcome = tokio::select! {
            biased;
            outcome = &mut call => outcome,
            () = question.has_begun() => {
                // Whoever waits for the service to prove itself does not wait for the end of a long answer.
                answers(service);
                if let Some(probe) = pass.take_if(|pass| pass.is_probe()) {
                    probe.report(Outcome::Success { took: took() });
                }
                begun = true;
                call.await
            }
        };
        let took = took();
        if outcome.is_ok() && !begun {
            answers(service);
        }
        self.learn(service, question.caller, pass, &permit, took, &outcome);
        drop(permit);
        drop(slot);
        progress.answered(service.name, took, outcome_of(&outcome).map_or_else(Failure::kind, |_| "ok"));
        match outcome {
            Ok(answer) => Tried::Answered(answer),
            Err(failure) => {
                if matches!(failure, Failure::Unusable(_)) && service.gate.note_misconfigured() {
                    tracing::error!(ai.service = service.name, %failure, "an AI service cannot be used as it is set up: see its api_key, base_url and model; who cannot ask another one waits");
                }
                let answers_others = service.gate.is_closed() && service.gate.answered_lately();
                let cut_short = matches!(failure, Failure::OutOfTime | Failure::GivenUp);
                Tried::Failed(Failed { service: service.name, failure, answers_others, cut_short }, took)
            }
        }
    }

    /// Takes all that a call needs, in order, or says what it would have to wait for, and until when (monotonic).
    async fn enter<'a>(
        &self,
        service: &'a Service,
        question: Question<'a>,
        bounds: Bounds,
        progress: &dyn Progress,
    ) -> Result<(bulkhead::Slot, gate::Pass<'a>, permits::Call), (Wait, Duration)> {
        let breaker = |retry_at| (Wait::Breaker, retry_at);
        service.gate.look(question.caller).map_err(breaker)?;
        progress.waiting(Wait::Slot, None);
        let slot = self.while_it_pays(bounds, service.bulkhead.enter(question.received.0, question.class)).await;
        let slot = slot.ok_or_else(|| (Wait::Slot, self.clock.monotonic()))?;
        loop {
            service.gate.look(question.caller).map_err(breaker)?;
            let permit = self.permit(service, question, bounds, progress).await?;
            service.gate.lease(question.caller).await;
            let pass = service.gate.admit(question.caller).map_err(breaker)?;
            if let Some(permit) = permit.used_now() {
                return Ok((slot, pass, permit));
            }
        }
    }

    /// Waits no longer than there is time, and with other services to turn to no longer than is worth it.
    async fn while_it_pays<T>(&self, bounds: Bounds, wait: impl Future<Output = T>) -> Option<T> {
        self.clock.by(|| bounds.worth_waiting_until(self.clock.monotonic()), wait).await
    }

    async fn permit(
        &self,
        service: &Service,
        Question { tokens, class, .. }: Question<'_>,
        bounds: Bounds,
        progress: &dyn Progress,
    ) -> Result<permits::Permit, (Wait, Duration)> {
        if let Some(permit) = service.permits.at_once(tokens) {
            self.metrics.limiter_waited(service.name, Duration::ZERO);
            return Ok(permit);
        }
        let began = self.clock.monotonic();
        let free_at = service.permits.free_at(tokens);
        if free_at > bounds.worth_waiting_until(began) {
            return Err((Wait::Limiter, free_at));
        }
        progress.waiting(Wait::Limiter, None);
        let permit = self.while_it_pays(bounds, service.permits.acquire(tokens, class)).await;
        self.metrics.limiter_waited(service.name, self.clock.monotonic().saturating_sub(began));
        permit.ok_or_else(|| (Wait::Limiter, self.clock.monotonic()))
    }

    /// Tells all guards how a call ended; without a pass its breaker knows already that it began well.
    fn learn<T: Brought>(
        &self,
        service: &Service,
        caller: Caller<'_>,
        pass: Option<gate::Pass<'_>>,
        permit: &permits::Call,
        took: Duration,
        outcome: &Result<T, Failure>,
    ) {
        let tokens = outcome.as_ref().map(Brought::tokens).unwrap_or_default();
        match outcome {
            // What it refuses to read it does not count.
            Err(Failure::Rejected(_) | Failure::OutOfTime) => permit.settle(0),
            _ if tokens.total() > 0 => permit.settle(tokens.total()),
            _ => {}
        }
        let took = outcome.as_ref().ok().and_then(Brought::began_after).unwrap_or(took);
        let outcome = outcome_of(outcome);
        self.metrics.asked(service.name, took, outcome.map(|_| ()), tokens);
        if let Ok(brought) = outcome {
            service.permits.hear_limit(brought.limit_requests());
        }
        // Half an answer began well and failed afterwards: that is evidence of its own.
        let pass = match (pass, outcome) {
            (Some(pass), _) => pass,
            (None, Ok(_)) => return,
            (None, Err(_)) => match service.gate.admit(caller) {
                Ok(pass) => pass,
                Err(_) => return,
            },
        };
        match outcome {
            Ok(_) => pass.report(Outcome::Success { took }),
            Err(failure) => failed(service, pass, took, failure),
        }
    }
}

/// The service answers: it may be asked more.
fn answers(service: &Service) {
    service.gate.note_well();
    service.permits.succeeded();
    service.bulkhead.succeeded();
}

fn failed(service: &Service, pass: gate::Pass<'_>, took: Duration, failure: &Failure) {
    let kind = match failure {
        Failure::Connect => FailureKind::Connect,
        Failure::Timeout => FailureKind::Timeout,
        Failure::Unavailable(_) | Failure::Garbled => FailureKind::ServerError,
        Failure::Throttled(retry_after) => {
            service.permits.throttled(*retry_after);
            return pass.report(Outcome::Neutral);
        }
        // Nobody was asked, or for too short a time.
        Failure::OutOfTime | Failure::GivenUp => return pass.report(Outcome::Neutral),
        // It answered, if only to refuse.
        _ => return pass.report(Outcome::Success { took }),
    };
    pass.report(Outcome::Failure { kind });
    service.bulkhead.failed();
}

/// How one service was asked.
enum Tried<T> {
    Answered(T),
    /// Cannot be asked before then (monotonic), for this reason.
    Busy(Wait, Duration),
    /// After a call that took so long.
    Failed(Failed, Duration),
}

/// An answer that broke off is a failure, too.
fn outcome_of<T: Brought>(outcome: &Result<T, Failure>) -> Result<&T, &Failure> {
    let brought = outcome.as_ref()?;
    brought.broke_off().map_or(Ok(brought), Err)
}

/// Waits until `retry_at` (monotonic), or until a breaker changes.
async fn wait_for(
    on: Wait,
    chain: &[(usize, &Service)],
    versions: &[u64],
    retry_at: Duration,
    progress: &dyn Progress,
) {
    progress.waiting(on, Some(retry_at));
    let gates = chain.iter().zip(versions);
    let waits = gates.map(|((_, service), version)| Box::pin(service.gate.wait(*version, retry_at)));
    futures_util::future::select_all(waits).await;
}

/// What stands in the way, and until when: of a limiter, when it will have something.
fn busy(chain: &[(usize, &Service)], question: Question<'_>, on: Wait, retry_at: Duration, now: Duration) -> Busy {
    let free = chain.iter().map(|(_, service)| service.permits.free_at(question.tokens)).min();
    let until = if on == Wait::Limiter { free.unwrap_or(retry_at).max(retry_at) } else { retry_at };
    // What was waited for in vain others get, and will get the next one, too.
    let least = if retry_at <= now { ask_again_at(now, now) } else { now };
    Busy { on, until: ask_again_at(until, now).max(least) }
}
