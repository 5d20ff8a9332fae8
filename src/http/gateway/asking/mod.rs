//! One request, from the moment it is let in: the question it puts to the guards, and the calls that are made for it.

mod meter;
mod tries;

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::{HeaderMap, header};
use foldhash::fast::FixedState;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::task_tracker::TaskTrackerToken;

use self::{meter::Meter, tries::Said};
use super::{Gateway, Visit, deadline::Deadline, models, quota::Right, refusal::Refusal, watch::Watch};
use crate::{
    actors::Share,
    client::{self, Ai, Completion, Stream},
    domain::{
        answer::Tokens,
        completion::{Kind, Request, tokens_said},
        hex::hex_after,
        time::Timestamp,
        verdict::Failure,
    },
    guard::{Brought, Class, Key, Question, Service, Tenant, breaker::Caller},
};

/// Larger requests are not looked up in the cache: to compare them they are read whole, which takes much more memory.
const CACHED_BYTES_MAX: usize = 256 << 10;

/// A request on its way.
pub struct Asking {
    pub visit: Arc<Visit>,
    pub request: Request,
    pub watch: Watch,
    /// The services that may be asked.
    chain: Vec<usize>,
    /// Those of them that stand in with another model.
    stand_ins: Vec<usize>,
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
    /// A further try is paid for, and has called nobody yet.
    may_try: AtomicBool,
    /// How the services failed that were asked since it was last begun.
    failures: Mutex<Vec<Said>>,
    _body: Share,
    _under_way: TaskTrackerToken,
}

/// One call: whom to ask, for which model, within which time, and when it is now.
struct Call<'a> {
    ai: &'a Ai,
    model: &'a str,
    within: Duration,
    now: Timestamp,
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
        visit: Arc<Visit>,
        request: Request,
        chain: Vec<usize>,
        deadline: Deadline,
        watch: Watch,
        right: Right,
        body: Share,
        cached: bool,
        under_way: TaskTrackerToken,
    ) -> Self {
        let Visit { gateway, key, .. } = &*visit;
        let kind = match request.kind {
            Kind::Chat => "chat",
            Kind::Embeddings => "embeddings",
        };
        let name = &gateway.config.keys[*key].name;
        let tenant = || Tenant::new(&format!("key:{name}"));
        let cached = cached && request.bytes() <= CACHED_BYTES_MAX;
        let subject = hex_after(&gateway.purses[*key].subject, &digest(&request).to_be_bytes());
        let stands_in = |service: &usize| gateway.parts.ai[*service].offers(&request.model).is_none();
        let stand_ins = chain.iter().copied().filter(stands_in).collect();
        let cached_as = cached.then(|| Key::of_request(tenant(), kind, &request.canonical()));
        Self {
            arrived: gateway.parts.clock.now(),
            watch,
            subject,
            begun: Notify::new(),
            meter: Mutex::default(),
            has_paid: AtomicBool::new(false),
            may_try: AtomicBool::new(false),
            failures: Mutex::default(),
            _body: body,
            _under_way: under_way,
            visit,
            request,
            chain,
            stand_ins,
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
            caller: Caller { conversation: &self.subject, message: &self.visit.id },
            received: self.arrived,
            tokens: self.request.tokens(),
            class: Class::Api,
            key: self.cached_as,
            chain: Some(&self.chain),
            stand_ins: &self.stand_ins,
            begun: Some(&self.begun),
            patience: Some(self.visit.gateway.config.wait.saturating_sub(self.watch.waited())),
            until: Some(self.deadline.at),
        }
    }

    /// Asks one service for a whole answer.
    pub async fn complete(&self, service: usize) -> Result<Completion, Failure> {
        let Call { ai, model, within, now } = self.begin(service)?;
        let completion = ai.complete(&self.request, model, within, now).await;
        let completion = completion.map_err(|refusal| self.note(service, within, refusal))?;
        if completion.tokens.total() == 0 {
            self.meter.lock().answer_tokens = tokens_said(&completion.body);
        }
        Ok(completion)
    }

    /// Asks one service for an answer in parts; there is a first one.
    pub async fn stream(&self, service: usize) -> Result<Stream, Failure> {
        let Call { ai, model, within, now } = self.begin(service)?;
        let stream = ai.stream(&self.request, model, within, now).await;
        stream.map_err(|refusal| self.note(service, within, refusal))
    }

    /// Whether a service has another model than the one asked for.
    pub fn stands_in(&self, service: usize) -> bool {
        self.stand_ins.contains(&service)
    }

    fn begin(&self, service: usize) -> Result<Call<'_>, Failure> {
        let within = self.enough_for(service)?;
        if !self.has_paid.swap(true, Ordering::Relaxed) {
            self.visit.gateway.retries.called();
        }
        if self.may_try.swap(false, Ordering::Relaxed) {
            self.visit.gateway.metrics.tried_again(true);
        }
        *self.meter.lock() = Meter { service: Some(service), ..Meter::default() };
        let ai = &self.visit.gateway.parts.ai[service];
        Ok(Call { ai, model: models::model_at(ai, &self.request), within, now: self.visit.gateway.parts.clock.now() })
    }

    /// The time for a call: what is left, without up to half of what the next service usually has, if there is enough
    /// for both: it answers where this one hangs. With less than two fifths of what a call may take nobody is asked.
    fn enough_for(&self, service: usize) -> Result<Duration, Failure> {
        let left = self.deadline.at.saturating_sub(self.visit.gateway.parts.clock.monotonic());
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
        let services = self.visit.gateway.parts.stack.services();
        let mut later = self.chain.iter().copied().skip_while(|known| *known != service).skip(1);
        later.find(|next| {
            let Service { gate, permits, .. } = &services[*next];
            let by = self.visit.gateway.parts.clock.monotonic() + left;
            gate.is_closed() && permits.free_at(self.request.tokens()) <= by
        })
    }

    fn least_for(&self, service: usize) -> Duration {
        least(self.usual_for(service))
    }

    /// What a call may take; a client in a hurry has as much less of it as there is less in all.
    fn usual_for(&self, service: usize) -> Duration {
        self.visit.gateway.parts.ai[service].timeout().min(self.deadline.span)
    }

    /// Whether it proves something against a service that it does not answer within that time: a client in a hurry proves
    /// nothing, unless it leaves a call all the time that there is for one.
    fn proves(&self, service: usize, within: Duration) -> bool {
        !self.deadline.is_clients || within >= self.visit.gateway.parts.ai[service].timeout()
    }

    /// The first part of a stream is there.
    pub fn begins(&self) {
        self.begun.notify_one();
    }

    /// So many bytes of a stream have come.
    pub fn came(&self, bytes: usize) {
        self.meter.lock().stream_bytes += bytes;
    }

    fn note(&self, service: usize, within: Duration, refusal: client::Refusal) -> Failure {
        let client::Refusal { failure, body, retry_after, .. } = refusal;
        let is_throttled = matches!(failure, Failure::Throttled(_));
        let mut failures = self.failures.lock();
        failures.retain(|said| said.service != service);
        failures.push(Said { service, is_throttled, body, retry_after });
        drop(failures);
        // A call that failed is not paid for.
        self.meter.lock().service = None;
        if failure == Failure::Timeout && !self.proves(service, within) { Failure::GivenUp } else { failure }
    }

    fn too_late(&self) -> Refusal {
        let service = self.watch.service();
        Refusal::too_late().by(service).seen(self.watch.so_far(service))
    }

    /// Gives up when the time is over. No `async fn`, which would have room for the work twice.
    pub fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> impl Future<Output = Result<T, Refusal>> {
        let until = self.visit.gateway.parts.clock.instant(self.deadline.give_up_at());
        tokio::time::timeout_at(until, work).map(|done| done.unwrap_or_else(|_| Err(self.too_late())))
    }
}

impl Drop for Asking {
    /// Whoever leaves in the middle of an answer has used what has come of it.
    fn drop(&mut self) {
        let under_way = self.meter.lock().service.is_some();
        if under_way {
            self.used(Tokens::default());
        }
        self.give_back();
    }
}

/// Of what a call may take, the least for which a service is asked: that it does not answer in a shorter time proves
/// nothing against it.
fn least(usual: Duration) -> Duration {
    usual * 2 / 5
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
