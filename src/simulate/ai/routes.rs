//! The routes of the simulated AI service.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use futures_util::stream;
use serde_json::json;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::answer::Reply;
use super::behaviour::Behaviour;
use super::dialect::Dialect;
use super::embeddings;
use super::ledger::{Admission, Call, Ledger};
use super::request::Request;
use super::service::Service;
use crate::simulate::chance;
use crate::simulate::reference::Reference;
use crate::simulate::server::Wire;

/// The largest body.
const BODY_BYTES_MAX: usize = 10 << 20;

pub(super) type Shared = State<Arc<Service>>;
type Line = ConnectInfo<Wire>;

/// All routes.
pub fn routes() -> Router<Arc<Service>> {
    let calls = |State(service): Shared| async move { Json(json!({ "calls": service.ledger().calls_at_ms() })) };
    let openai = |operation| {
        post(move |State(service): Shared, ConnectInfo(wire): Line, headers: HeaderMap, body: Bytes| async move {
            serve(&service, &wire, &Dialect::Openai, &headers, operation, &body).await
        })
    };
    Router::new()
        .route("/v1/chat/completions", openai(Operation::Answer))
        .route("/v1/models", get(openai_models))
        .route("/openai/models", get(azure_models))
        .route("/v1/embeddings", openai(Operation::Embed))
        .route("/openai/deployments/{deployment}/chat/completions", azure(Operation::Answer))
        .route("/openai/deployments/{deployment}/embeddings", azure(Operation::Embed))
        .route("/v1/messages", post(messages))
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

async fn openai_models(State(service): Shared, headers: HeaderMap) -> Response {
    models(&service, &Dialect::Openai, &headers)
}

async fn azure_models(State(service): Shared, headers: HeaderMap) -> Response {
    models(&service, &Dialect::Azure { deployment: String::new() }, &headers)
}

fn models(service: &Service, dialect: &Dialect, headers: &HeaderMap) -> Response {
    if let Err(refused) = service.authenticate(dialect, headers) {
        return refused;
    }
    let model = |id: &String| json!({ "id": id, "object": "model", "created": 0, "owned_by": "simulator" });
    let models: Vec<_> = service.options.models.iter().map(model).collect();
    Json(json!({ "object": "list", "data": models })).into_response()
}

/// What a call is for.
#[derive(Clone, Copy)]
enum Operation {
    Answer,
    Embed,
}

/// Azure knows no operation without a version of its API.
fn azure(operation: Operation) -> MethodRouter<Arc<Service>> {
    let handler = move |State(service): Shared,
                        ConnectInfo(wire): Line,
                        Path(deployment): Path<String>,
                        RawQuery(query): RawQuery,
                        headers: HeaderMap,
                        body: Bytes| async move {
        let dialect = Dialect::Azure { deployment };
        let versioned = query.is_some_and(|query| query.split('&').any(|pair| pair.starts_with("api-version=2")));
        if !versioned {
            return dialect.error(404, "404", "Resource not found");
        }
        serve(&service, &wire, &dialect, &headers, operation, &body).await
    };
    post(handler)
}

async fn messages(State(service): Shared, ConnectInfo(wire): Line, headers: HeaderMap, body: Bytes) -> Response {
    if !headers.contains_key("anthropic-version") {
        return Dialect::Anthropic.error(400, "", "anthropic-version: header is required");
    }
    serve(&service, &wire, &Dialect::Anthropic, &headers, Operation::Answer, &body).await
}

async fn serve(
    service: &Service,
    wire: &Wire,
    dialect: &Dialect,
    headers: &HeaderMap,
    operation: Operation,
    body: &[u8],
) -> Response {
    if let Err(refused) = service.authenticate(dialect, headers) {
        return refused;
    }
    let ledger = service.ledger();
    let behaviour = Behaviour::clone(&service.dial.get());
    let retry_after = behaviour.retry_after;
    let mut call = Call::begin(&ledger);
    let (number, admission) = ledger.arrive(&behaviour);
    if behaviour.down {
        wire.cut();
        return failed(&ledger, &mut call, dialect, 503);
    }
    let left = match admission {
        Admission::Admitted(left) => left,
        Admission::Refused(wait_ms) => {
            call.finish();
            return refused(dialect, wait_ms);
        }
    };
    let mut response = match operation {
        Operation::Answer => complete(&ledger, call, dialect, (number, behaviour), body).await,
        Operation::Embed => embed(&ledger, call, dialect, &behaviour, body).await,
    };
    // An error tells nothing of the quota.
    if let (Some(left), true) = (left, response.status().is_success()) {
        dialect.tell(left, response.headers_mut());
    }
    if let (Some(seconds), false) = (retry_after, response.status().is_success()) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

async fn complete(
    ledger: &Ledger,
    mut call: Call,
    dialect: &Dialect,
    (number, mut behaviour): (u64, Behaviour),
    body: &[u8],
) -> Response {
    let request = match dialect.request(body) {
        Ok(request) => request,
        Err(why) => return unusable(ledger, &mut call, dialect, &why),
    };
    let text = request.last_user_text();
    request.triggered(&text, &mut behaviour);
    if let Some(status) = delayed(ledger, &behaviour).await {
        return failed(ledger, &mut call, dialect, status);
    }
    let references = Reference::find_all(&text);
    let reply = Reply::new(number, &request, &references, &behaviour);
    answer(ledger, call, dialect, &request, &reply, &references, &behaviour)
}

async fn embed(ledger: &Ledger, mut call: Call, dialect: &Dialect, behaviour: &Behaviour, body: &[u8]) -> Response {
    let deployment = match dialect {
        Dialect::Azure { deployment } => Some(deployment.as_str()),
        Dialect::Openai | Dialect::Anthropic => None,
    };
    let vectors = match embeddings::answer(body, deployment) {
        Ok(vectors) => vectors,
        Err(why) => return unusable(ledger, &mut call, dialect, &why),
    };
    if let Some(status) = delayed(ledger, behaviour).await {
        return failed(ledger, &mut call, dialect, status);
    }
    call.finish();
    if behaviour.malformed {
        ledger.failed();
        return malformed();
    }
    ledger.answered(&[]);
    Json(vectors).into_response()
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

fn failed(ledger: &Ledger, call: &mut Call, dialect: &Dialect, status: u16) -> Response {
    call.finish();
    ledger.failed();
    dialect.error(status, "simulated", "the simulator was told to fail")
}

fn unusable(ledger: &Ledger, call: &mut Call, dialect: &Dialect, why: &str) -> Response {
    call.finish();
    ledger.failed();
    dialect.error(400, "invalid_request", why)
}

fn malformed() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], "{\"choices\": [{\"mess").into_response()
}

fn refused(dialect: &Dialect, wait_ms: u64) -> Response {
    let mut response = dialect.error(429, "rate_limit_exceeded", "rate limit reached");
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1000)));
    headers.insert("retry-after-ms", HeaderValue::from(wait_ms));
    response
}

fn answer(
    ledger: &Ledger,
    mut call: Call,
    dialect: &Dialect,
    request: &Request,
    reply: &Reply,
    references: &[Reference],
    behaviour: &Behaviour,
) -> Response {
    if behaviour.malformed {
        call.finish();
        ledger.failed();
        return malformed();
    }
    let broken = request.stream && (behaviour.break_stream_after > 0 || behaviour.stream_error_after > 0);
    if broken {
        ledger.failed();
    } else {
        ledger.answered(references);
    }
    if request.stream {
        return streamed(dialect.chunks(reply), call, dialect, behaviour);
    }
    call.finish();
    dialect.whole(reply)
}

/// Sends the chunks one by one; the call goes with the stream, so that a client who leaves is noticed.
fn streamed(chunks: Vec<Bytes>, call: Call, dialect: &Dialect, behaviour: &Behaviour) -> Response {
    let mut chunks: Vec<Result<Bytes, std::io::Error>> = chunks.into_iter().map(Ok).collect();
    if behaviour.stream_error_after > 0 {
        chunks.truncate(behaviour.stream_error_after);
        chunks.push(Ok(dialect.error_event()));
    }
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
