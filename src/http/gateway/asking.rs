//! One request, from the moment it is let in: the question it puts to the guards, and its few further tries.

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{HeaderMap, header},
};
use foldhash::fast::FixedState;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{Gateway, deadline::Deadline, models, quota::Right, refusal::Refusal, watch::Watch};
use crate::{
    actors::{Payer, Share},
    client::{self, Ai, Completion, Stream},
    domain::{
        answer::Tokens,
        completion::{Kind, Request},
        hex::hex_after,
        time::Timestamp,
        verdict::{Blame, Failure, blame},
    },
    guard::{Brought, Class, Key, Question, Refused, Service, Tenant, ask_again_at, breaker::Caller},
};

/// Larger requests are not looked up in the cache: to compare them they are read whole, which takes much more memory.
const CACHED_BYTES_MAX: usize = 256 << 10;

/// Of a stream's bytes that hold one token: a part has about 250 of them around it.
const BYTES_PER_TOKEN: u64 = 250;

/// A request on its way.
pub struct Asking {
    pub gateway: Arc<Gateway>,
    /// The place of its key.
    pub key: usize,
    pub request: Request,
    /// Names it in the logs and the answer's headers.
    pub id: String,
    pub watch: Watch,
    /// The services that may be asked.
    chain: Vec<usize>,
    deadline: Deadline,
    arrived: Timestamp,
    right: Right,
    cached_as: Option<Key>,
    /// Names what is asked by whom, for the breaker's evidence: the same again proves nothing new.
    subject: String,
    /// Rung with the first part of a stream.
    begun: Notify,
    meter: Mutex<Meter>,
    /// Whether it has paid into the budget of further tries, as who makes a call does once.
    has_paid: AtomicBool,
    /// What a service said when it refused.
    said: Mutex<Said>,
    _body: Share,
    _under_way: TaskTrackerToken,
}

/// What a service said beside its status.
#[derive(Default)]
struct Said {
    body: Option<Bytes>,
    retry_after: Option<Duration>,
}

/// What a call that is under way has used so far.
#[derive(Default)]
struct Meter {
    /// The service, while its call is under way and not counted yet.
    service: Option<usize>,
    bytes: usize,
}

/// Whether an answer may come from the cache, and be kept in it: the key's policy, unless the request's `Cache-Control`
/// (RFC 9111, section 5.2.1) says otherwise. Answers are kept for `cache.ttl`, so `max-age` allows it from there on.
pub(super) fn may_be_cached(gateway: &Gateway, key: usize, headers: &HeaderMap) -> bool {
    let directives: Vec<String> = headers
        .get_all(header::CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|directive| directive.trim().to_ascii_lowercase()))
        .collect();
    let forbids = directives.iter().any(|directive| directive == "no-cache" || directive == "no-store");
    let max_age = directives.iter().find_map(|directive| directive.strip_prefix("max-age=")?.parse::<u64>().ok());
    let allows = max_age.map(|seconds| Duration::from_secs(seconds) >= gateway.parts.stack.cache().lifetime());
    !forbids && allows.unwrap_or(gateway.config.keys[key].cache)
}

impl Asking {
    #[expect(clippy::too_many_arguments, reason = "the stations of the walk, each once")]
    pub(super) fn new(
        gateway: Arc<Gateway>,
        key: usize,
        request: Request,
        chain: Vec<usize>,
        deadline: Deadline,
        watch: Watch,
        right: Right,
        body: Share,
        cached: bool,
        under_way: TaskTrackerToken,
    ) -> Self {
        let clock = gateway.parts.clock.clone();
        let kind = match request.kind {
            Kind::Chat => "chat",
            Kind::Embeddings => "embeddings",
        };
        let name = &gateway.config.keys[key].name;
        let tenant = || Tenant::new(&format!("key:{name}"));
        let cached = cached && request.bytes() <= CACHED_BYTES_MAX;
        let subject = hex_after(&gateway.purses[key].subject, &digest(&request).to_be_bytes());
        let cached_as = cached.then(|| Key::of_request(tenant(), kind, &request.canonical()));
        Self {
            key,
            // Not by `format!`, which would take as long as a guard does.
            id: hex_after("req_", &rand::random::<[u8; 16]>()),
            arrived: clock.now(),
            watch,
            subject,
            begun: Notify::new(),
            meter: Mutex::default(),
            has_paid: AtomicBool::new(false),
            said: Mutex::default(),
            _body: body,
            _under_way: under_way,
            gateway,
            request,
            chain,
            deadline,
            right,
            cached_as,
        }
    }

    /// Whether its answer may come from the cache.
    pub fn is_cached(&self) -> bool {
        self.cached_as.is_some()
    }

    /// The question as the guards see it.
    pub fn question(&self) -> Question<'_> {
        Question {
            caller: Caller { conversation: &self.subject, message: &self.id },
            received: self.arrived,
            tokens: self.request.tokens(),
            class: Class::Api,
            key: self.cached_as,
            chain: Some(&self.chain),
            begun: Some(&self.begun),
            patience: Some(self.gateway.config.wait.saturating_sub(self.watch.waited())),
            until: Some(self.deadline.at),
        }
    }

    /// Asks one service for a whole answer.
    pub async fn complete(&self, service: usize) -> Result<Completion, Failure> {
        let (ai, model, within, now) = self.begin(service)?;
        ai.complete(&self.request, model, within, now).await.map_err(|refusal| self.note(refusal))
    }

    /// Asks one service for an answer in parts; there is a first one.
    pub async fn stream(&self, service: usize) -> Result<Stream, Failure> {
        let (ai, model, within, now) = self.begin(service)?;
        ai.stream(&self.request, model, within, now).await.map_err(|refusal| self.note(refusal))
    }

    /// Whether a service has another model than the one asked for.
    pub fn stands_in(&self, service: usize) -> bool {
        self.gateway.parts.ai[service].offers(&self.request.model).is_none()
    }

    /// Begins a call: whom to ask, for which model, within which time, and when it is now.
    fn begin(&self, service: usize) -> Result<(&Ai, &str, Duration, Timestamp), Failure> {
        // What another one said is no answer of this one.
        *self.said.lock() = Said::default();
        let within = self.enough_for(service)?;
        if !self.has_paid.swap(true, Ordering::Relaxed) {
            self.gateway.retries.called();
        }
        self.meter.lock().service = Some(service);
        let ai = &self.gateway.parts.ai[service];
        Ok((ai, models::model_at(ai, &self.request), within, self.gateway.parts.clock.now()))
    }

    /// The time for a call: what is left of that which the configuration gives, without up to half of what the next
    /// service usually has, if there is enough for both: it answers where this one hangs. With less than two fifths of
    /// what a call may take nobody is asked: that it does not answer in a shorter time proves nothing against a service.
    fn enough_for(&self, service: usize) -> Result<Duration, Failure> {
        let left = self.deadline.by_config.saturating_sub(self.gateway.parts.clock.monotonic());
        let least = self.least_for(service);
        if left < least {
            return Err(Failure::OutOfTime);
        }
        let of_next = self.next_after(service, left).map(|next| self.usual_for(next));
        // A little more than its least, for some time goes by until it is asked.
        let shared = of_next.filter(|usual| left >= least + *usual * 9 / 20);
        let within = shared.map_or(left, |usual| left.saturating_sub(usual / 2).max(least));
        Ok(within.min(self.usual_for(service)))
    }

    /// The service that would be asked next, and could be within the time.
    fn next_after(&self, service: usize, left: Duration) -> Option<usize> {
        let services = self.gateway.parts.stack.services();
        let mut later = self.chain.iter().copied().skip_while(|known| *known != service).skip(1);
        later.find(|next| {
            let Service { gate, permits, .. } = &services[*next];
            let by = self.gateway.parts.clock.monotonic() + left;
            gate.is_closed() && permits.free_at(self.request.tokens()) <= by
        })
    }

    fn least_for(&self, service: usize) -> Duration {
        self.usual_for(service) * 2 / 5
    }

    fn usual_for(&self, service: usize) -> Duration {
        self.gateway.parts.ai[service].timeout().min(self.gateway.request_timeout)
    }

    /// The first part of a stream is there.
    pub fn begins(&self) {
        self.begun.notify_one();
    }

    /// So many bytes of an answer have come.
    pub fn came(&self, bytes: usize) {
        self.meter.lock().bytes += bytes;
    }

    fn note(&self, refusal: client::Refusal) -> Failure {
        *self.said.lock() = Said { body: refusal.body, retry_after: refusal.retry_after };
        // A call that failed is not paid for.
        self.meter.lock().service = None;
        refusal.failure
    }

    /// Asks, and asks again when a service failed, as long as nothing has reached the client: so often, within the
    /// time, and within what all further tries together may be.
    pub async fn persist<T, F>(&self, ask: impl Fn() -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Refused>>,
    {
        let mut tries = 0;
        loop {
            let refused = match ask().await {
                Ok(brought) => return Ok(brought),
                Err(refused) => refused,
            };
            let Some(pause) = self.pause(&refused, tries) else { return Err(self.refusal(&refused)) };
            self.watch.failed();
            tries += 1;
            tokio::time::sleep(pause).await;
        }
    }

    /// The pause before the next try, if there is to be one.
    fn pause(&self, refused: &Refused, tries: u32) -> Option<Duration> {
        let Refused::Failed(failed) = refused else { return None };
        if blame(&failed.failure) != Blame::Service || tries >= self.gateway.config.max_retries {
            return None;
        }
        let pause = match failed.failure {
            // The limiter knows how long to wait, and waits.
            Failure::Throttled(_) => Duration::ZERO,
            _ => {
                let asked_for = self.said.lock().retry_after.unwrap_or_default();
                self.gateway.pauses.service_pause(tries + 1, rand::random()).max(asked_for)
            }
        };
        let after = self.gateway.parts.clock.monotonic() + pause;
        let enough = self.chain.iter().map(|service| self.least_for(*service)).min().unwrap_or_default();
        if after >= self.deadline.at || after + enough > self.deadline.by_config {
            return None;
        }
        let allowed = self.gateway.retries.take();
        self.gateway.metrics.tried_again(allowed);
        allowed.then_some(pause)
    }

    fn refusal(&self, refused: &Refused) -> Refusal {
        match refused {
            Refused::Busy(busy) => Refusal::busy(*busy, self.gateway.parts.clock.monotonic()),
            Refused::Failed(failed) => {
                let Said { body, retry_after } = std::mem::take(&mut *self.said.lock());
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
        let (services, now) = (self.gateway.parts.stack.services(), self.gateway.parts.clock.monotonic());
        let tokens = self.request.tokens();
        let answering = self.chain.iter().map(|service| &services[*service]).filter(|it| it.gate.is_closed());
        let free_at = answering.map(|service| service.permits.free_at(tokens)).min();
        ask_again_at(free_at.unwrap_or(now), now) - now
    }

    /// Gives up when the time is over. No `async fn`, which would have room for the work twice.
    pub fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> impl Future<Output = Result<T, Refusal>> {
        let until = self.gateway.parts.clock.instant(self.deadline.give_up_at());
        tokio::time::timeout_at(until, work).map(|done| done.unwrap_or_else(|_| Err(Refusal::too_late())))
    }

    /// Counts what was used; what it cost, if that is known. Of what a service does not tell an estimate is counted.
    pub fn used(&self, tokens: Tokens) -> Option<f64> {
        let Meter { service, bytes } = std::mem::take(&mut *self.meter.lock());
        let Some(service) = service else {
            self.right.unused();
            return None;
        };
        let estimate = || Tokens { input: self.request.tokens_asked(), output: bytes as u64 / BYTES_PER_TOKEN };
        let tokens = if tokens.total() == 0 { estimate() } else { tokens };
        self.right.used(tokens.total());
        let parts = &self.gateway.parts;
        parts.charge(Payer::Key(self.key), service, models::model_at(&parts.ai[service], &self.request), tokens)
    }
}

impl Drop for Asking {
    /// Whoever leaves in the middle of an answer has used what has come of it.
    fn drop(&mut self) {
        let under_way = self.meter.lock().service.is_some();
        if under_way {
            self.used(Tokens::default());
        }
    }
}

fn digest(request: &Request) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    for field in request.fields() {
        field.hash(&mut hasher);
    }
    hasher.finish()
}

impl Brought for Completion {
    fn tokens(&self) -> Tokens {
        self.tokens
    }

    fn limit_requests(&self) -> Option<u64> {
        self.limit_requests
    }
}
