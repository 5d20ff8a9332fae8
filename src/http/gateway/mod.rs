//! The synchronous road: an OpenAI-compatible API in front of the AI services, behind the same guards as the chat.
//!
//! ```text
//! bearer key (keys) > body > request (domain::completion) > the key's own limits (quota) > chain of services (models)
//!    > the guards, with few retries (asking, retries) > client::Ai > whole answer (whole) or parts (stream)
//! ```
//! Errors have OpenAI's shape (refusal). A client that goes away takes its call with it.

mod asking;
mod deadline;
pub mod keys;
mod metrics;
pub(super) mod models;
mod quota;
mod refusal;
mod retries;
mod stream;
mod watch;
mod whole;

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{self, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, future::BoxFuture};
use tokio_util::task::TaskTracker;

use self::{
    asking::Asking, deadline::Deadline, metrics::Tally, quota::Purse, refusal::Refusal, retries::RetryBudget,
    watch::Watch,
};
use super::{
    ApiConfig, Public,
    body::{self, Announced},
};
use crate::{
    actors::{Budget, Parts, Share},
    domain::{
        completion::{Kind, Request},
        retry::Policy,
    },
};

pub use metrics::Metrics;
pub use models::{model, models};

/// Bytes of requests in memory at the most, from the first byte read until they are answered; while one is passed on,
/// it is there twice. Two requests of the largest size always fit; of several keys none gets more than half.
const BODIES_BYTES_MAX: usize = 64 << 20;

/// What the routes of the gateway work with.
pub struct Gateway {
    parts: Arc<Parts>,
    config: ApiConfig,
    body_bytes_max: usize,
    request_timeout: Duration,
    retries: RetryBudget,
    /// Between a try and the next.
    pauses: Policy,
    /// What each key may use.
    purses: Vec<Purse>,
    metrics: Metrics,
    /// Requests that are let in and not answered to their end.
    under_way: TaskTracker,
}

impl Gateway {
    /// Makes the gateway.
    pub fn new(parts: Arc<Parts>, http: &super::Config, config: ApiConfig, metrics: Metrics) -> Self {
        let body_bytes_max = usize::try_from(http.api_body_limit).unwrap_or(usize::MAX);
        let bytes = BODIES_BYTES_MAX.max(body_bytes_max.saturating_mul(2));
        let bodies = Budget::new(bytes);
        let of_one_key = if config.keys.len() > 1 { bytes / 2 } else { bytes };
        let retries = RetryBudget::new(config.retry_budget);
        let base = Duration::try_from_secs_f64(config.backoff_factor).unwrap_or_default();
        let pauses = Policy { max_retries: config.max_retries, base, ..Policy::default() };
        let purses = config.keys.iter().map(|key| Purse::of(&key.name, &parts, bodies.part(of_one_key))).collect();
        let request_timeout = http.request_timeout;
        Self {
            parts,
            config,
            body_bytes_max,
            request_timeout,
            retries,
            pauses,
            purses,
            metrics,
            under_way: TaskTracker::new(),
        }
    }

    /// Whether a request bears one of the keys.
    pub fn knows(&self, headers: &HeaderMap) -> bool {
        keys::find(&self.config.keys, headers).is_some()
    }

    /// Whether anybody is being answered.
    pub fn is_busy(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Reads the body; its bytes are held against the budget until the request is done with.
    async fn read(&self, key: usize, body: Body, deadline: Deadline) -> Result<(Bytes, Share), Refusal> {
        let mut share = self.purses[key].bodies.nothing();
        let read = body::read(body, self.body_bytes_max, Announced::Believed, &mut share);
        match self.parts.clock.by(|| deadline.at, read).await {
            Some(Ok(body)) => Ok((body, share)),
            Some(Err(body::Error::TooLong)) => Err(Refusal::too_large(self.body_bytes_max)),
            Some(Err(body::Error::NoRoom)) => Err(Refusal::no_room()),
            Some(Err(body::Error::BrokeOff)) => Err(Refusal::incomplete()),
            None => Err(Refusal::body_too_late()),
        }
    }
}

/// Where whole answers and streams are asked for.
pub const CHAT: &str = "/v1/chat/completions";

/// `POST /v1/chat/completions`
#[utoipa::path(post, path = "/v1/chat/completions", tag = "public", request_body(content = Object), responses((status = 200, body = Object)))]
pub fn chat(State(public): State<Arc<Public>>, request: extract::Request) -> BoxFuture<'static, Response> {
    answer(public.gateway.clone(), Kind::Chat, request)
}

/// `POST /v1/embeddings`
#[utoipa::path(post, path = "/v1/embeddings", tag = "public", request_body(content = Object), responses((status = 200, body = Object)))]
pub fn embeddings(State(public): State<Arc<Public>>, request: extract::Request) -> BoxFuture<'static, Response> {
    answer(public.gateway.clone(), Kind::Embeddings, request)
}

/// Whether it is a client of this API who asks for a path, so that errors have to have its shape.
pub fn owns(path: &str) -> bool {
    path.starts_with("/v1/") && !path.starts_with("/v1/tasks/")
}

/// Answers for a path that nothing is at (404), or nothing by this method (405).
pub fn unknown_url(status: StatusCode) -> Response {
    watch::named(Refusal::unknown_url(status).into_response(), &watch::new_id())
}

/// A request with one of the keys.
struct Visit {
    gateway: Arc<Gateway>,
    /// The place of the key.
    key: usize,
    /// Names the request in the log and in its answer.
    id: String,
    tally: Tally,
}

/// In a box of its own from the start: axum would move the whole walk, which is large, from hand to hand.
fn answer(gateway: Arc<Gateway>, kind: Kind, request: extract::Request) -> BoxFuture<'static, Response> {
    Box::pin(async move {
        let (head, body) = request.into_parts();
        let id = watch::new_id();
        let Some(key) = keys::find(&gateway.config.keys, &head.headers) else {
            return watch::named(Refusal::unknown_key().into_response(), &id);
        };
        let tally = Tally::new(&gateway.metrics, (key, gateway.purses[key].label));
        let visit = Arc::new(Visit { gateway, key, id, tally });
        let walked = walk(&visit, kind, &head.headers, body).await;
        watch::named(walked.unwrap_or_else(|refusal| visit.refuse(refusal)), &visit.id)
    })
}

impl Visit {
    fn refuse(&self, refusal: Refusal) -> Response {
        self.ended(Some(&refusal));
        refusal.into_response()
    }

    /// The request has come to its end, with or without a refusal.
    fn ended(&self, refusal: Option<&Refusal>) {
        self.tally.ended(refusal.map_or(StatusCode::OK, Refusal::status));
        if let Some(refusal) = refusal {
            refusal.log(&self.id, self.gateway.purses[self.key].label);
        }
    }
}

/// The walk of one request. Streams, and what may come from the cache (`whole`), are apart in boxes: all in one, the code
/// of a walk alone would fill a core's cache.
async fn walk(visit: &Arc<Visit>, kind: Kind, headers: &HeaderMap, body: Body) -> Result<Response, Refusal> {
    let Visit { gateway, key, .. } = &**visit;
    let under_way = gateway.under_way.token();
    let deadline = Deadline::of(headers, gateway.parts.clock.monotonic(), gateway.request_timeout)?;
    if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err(Refusal::encoded());
    }
    let (body, share) = gateway.read(*key, body, deadline).await?;
    let request = Request::parse(kind, &body)?;
    // The request has it all; while it waits it need not be there twice.
    drop(body);
    let chain = models::chain(gateway, &gateway.config.keys[*key], &request)?;
    let watch = Watch::new(gateway.parts.clock.clone());
    let right = quota::admit(gateway, *key, &request, deadline).await?;
    let is_stream = request.stream;
    let cached = !is_stream && asking::may_be_cached(gateway, *key, headers);
    let asking = Asking::new(visit.clone(), request, chain, deadline, watch, right, share, cached, under_way);
    if is_stream { stream::answer(Arc::new(asking)).boxed().await } else { whole::answer(&asking).await }
}
