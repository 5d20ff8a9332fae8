//! The routes of the simulated AI service.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream;
use serde_json::json;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::answer::{Reply, error};
use super::behaviour::Behaviour;
use super::embeddings::embeddings;
use super::ledger::{Admission, Call, Ledger};
use super::request::Request;
use super::service::Service;
use crate::simulate::chance;
use crate::simulate::quota::Left;
use crate::simulate::reference::Reference;
use crate::simulate::server::Wire;

/// The largest body.
const BODY_BYTES_MAX: usize = 10 << 20;

pub(super) type Shared = State<Arc<Service>>;

/// All routes.
pub fn routes() -> Router<Arc<Service>> {
    let calls = |State(service): Shared| async move { Json(json!({ "calls": service.ledger().calls_at_ms() })) };
    Router::new()
        .route("/v1/chat/completions", post(complete))
        .route("/v1/models", get(models))
        .route("/v1/embeddings", post(embeddings))
        .route("/sim/behaviour", get(behaviour).put(behaviour).patch(behaviour))
        .route("/sim/stats", get(|State(service): Shared| async move { Json(service.ledger().stats()) }))
        .route("/sim/calls", get(calls))
        .route("/sim/reset", post(reset))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

async fn behaviour(State(service): Shared, method: Method, body: Bytes) -> Response {
    service.dial.serve(&method, &body)
}

async fn reset(State(service): Shared) -> Response {
    service.reset();
    Json(json!({})).into_response()
}

async fn models(State(service): Shared, headers: HeaderMap) -> Response {
    if let Err(refused) = service.authenticate(&headers) {
        return refused;
    }
    let model = |id: &String| json!({ "id": id, "object": "model", "created": 0, "owned_by": "simulator" });
    let models: Vec<_> = service.options.models.iter().map(model).collect();
    Json(json!({ "object": "list", "data": models })).into_response()
}

async fn complete(
    State(service): Shared,
    ConnectInfo(wire): ConnectInfo<Wire>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(refused) = service.authenticate(&headers) {
        return refused;
    }
    let ledger = service.ledger();
    let mut behaviour = Behaviour::clone(&service.dial.get());
    let mut call = Call::begin(&ledger);
    let (number, admission) = ledger.arrive(&behaviour);
    if behaviour.down {
        wire.cut();
        return failed(&ledger, &mut call, 503);
    }
    let left = match admission {
        Admission::Admitted(left) => left,
        Admission::Refused(wait_ms) => {
            call.finish();
            return refused(wait_ms);
        }
    };
    let request = match Request::parse(&body) {
        Ok(request) => request,
        Err(why) => {
            call.finish();
            ledger.failed();
            return error(400, "invalid_request", &why);
        }
    };
    let text = request.last_user_text();
    request.triggered(&text, &mut behaviour);
    if let Some(status) = delayed(&ledger, &behaviour).await {
        return failed(&ledger, &mut call, status);
    }
    let references = Reference::find_all(&text);
    let reply = Reply::new(number, &request, &references, &behaviour);
    let mut response = answer(&ledger, call, &request, &reply, &references, &behaviour);
    if let Some(left) = left {
        tell(left, response.headers_mut());
    }
    response
}

/// Waits as the behaviour says, for ever if it must; then the status of a failure, if there is to be one.
async fn delayed(ledger: &Ledger, behaviour: &Behaviour) -> Option<u16> {
    if behaviour.hang || chance(behaviour.hang_rate) {
        ledger.hangs();
        pending::<()>().await;
    }
    let jitter_ms = match behaviour.latency_jitter_ms {
        0 => 0,
        most => rand::random_range(0..=most),
    };
    let latency_ms = behaviour.latency_ms + jitter_ms;
    if latency_ms > 0 {
        sleep(Duration::from_millis(latency_ms)).await;
    }
    match behaviour.status {
        0 | 200 => chance(behaviour.error_rate).then_some(behaviour.error_status),
        status => Some(status),
    }
}

fn failed(ledger: &Ledger, call: &mut Call, status: u16) -> Response {
    call.finish();
    ledger.failed();
    error(status, "simulated", "the simulator was told to fail")
}

fn refused(wait_ms: u64) -> Response {
    let mut response = error(429, "rate_limit_exceeded", "rate limit reached");
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1000)));
    headers.insert("retry-after-ms", HeaderValue::from(wait_ms));
    response
}

fn tell(left: Left, headers: &mut HeaderMap) {
    headers.insert("x-ratelimit-limit-requests", HeaderValue::from(left.limit));
    headers.insert("x-ratelimit-remaining-requests", HeaderValue::from(left.remaining));
    let reset = if left.reset_us < 1_000_000 {
        format!("{}ms", left.reset_us.div_ceil(1000))
    } else {
        format!("{}s", left.reset_us as f64 / 1e6)
    };
    if let Ok(reset) = HeaderValue::from_str(&reset) {
        headers.insert("x-ratelimit-reset-requests", reset);
    }
}

fn answer(
    ledger: &Ledger,
    mut call: Call,
    request: &Request,
    reply: &Reply,
    references: &[Reference],
    behaviour: &Behaviour,
) -> Response {
    if behaviour.malformed {
        call.finish();
        ledger.failed();
        return ([(header::CONTENT_TYPE, "application/json")], "{\"choices\": [{\"mess").into_response();
    }
    let broken = request.stream && behaviour.break_stream_after > 0;
    if broken {
        ledger.failed();
    } else {
        ledger.answered(references);
    }
    if request.stream {
        return streamed(reply, call, behaviour);
    }
    call.finish();
    reply.whole()
}

/// Sends the chunks one by one; the call goes with the stream, so that a client who leaves is noticed.
fn streamed(reply: &Reply, call: Call, behaviour: &Behaviour) -> Response {
    let mut chunks: Vec<Result<Bytes, std::io::Error>> = reply.chunks().into_iter().map(Ok).collect();
    if behaviour.break_stream_after > 0 {
        chunks.truncate(behaviour.break_stream_after);
        chunks.push(Err(std::io::ErrorKind::ConnectionAborted.into()));
    }
    let gap = Duration::from_millis(behaviour.chunk_gap_ms);
    let events = stream::unfold((chunks.into_iter(), call), move |(mut chunks, mut call)| async move {
        let chunk = chunks.next()?;
        if chunk.is_err() {
            // What is written is flushed only while the stream is pending; without this the break would swallow it.
            yield_now().await;
        }
        if !gap.is_zero() {
            sleep(gap).await;
        }
        if chunks.len() == 0 {
            call.finish();
        }
        Some((chunk, (chunks, call)))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}
