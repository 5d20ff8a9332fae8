//! What operators see and do.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Admin,
    extract::{Body, Path, Query},
    problem::Problem,
};
use crate::{
    actors::roster::{Fault, Snapshot},
    broker::Standing,
    domain::time::Timestamp,
    guard::breaker,
    state::nodes::Node,
    telemetry::Clock,
};

/// Conversations listed at once.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// Which page of the conversations.
#[derive(Debug, Deserialize)]
pub struct Page {
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /admin/actors`
pub async fn actors(State(admin): State<Admin>, Query(page): Query<Page>) -> Result<Json<Snapshot>, Problem> {
    let limit = page.limit.unwrap_or(PAGE).min(PAGE_MAX);
    let tree = admin.inspector.tree(page.after.as_deref(), limit);
    tree.map(Json)
        .ok_or_else(|| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "starting", "the actors are being started"))
}

/// `GET /admin/actors/{path}`
pub async fn actor(State(admin): State<Admin>, Path(path): Path<String>) -> Result<Json<Snapshot>, Problem> {
    admin.inspector.actor(&path).map(Json).ok_or_else(|| no_actor(&path))
}

/// `POST /admin/actors/{path}/crash`
pub async fn act(State(admin): State<Admin>, Path(path): Path<String>, Body(body): Body) -> Result<Response, Problem> {
    let Some((path, "crash")) = path.rsplit_once('/') else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "no-such-action", "the only action is /crash"));
    };
    if !admin.config.fault_injection {
        let detail = "failures are ordered only with admin.fault_injection = true";
        return Err(Problem::new(StatusCode::FORBIDDEN, "no-fault-injection", detail));
    }
    let fault: Fault = if body.is_empty() {
        Fault { mode: crate::actors::roster::FaultMode::Panic, ms: None }
    } else {
        serde_json::from_slice(&body).map_err(|error| {
            let detail = format!("write {{\"mode\":\"panic|error|hang|block\",\"ms\":n}}: {error}");
            Problem::new(StatusCode::BAD_REQUEST, "unusable-body", detail)
        })?
    };
    if !admin.inspector.crash(path, fault) {
        return Err(no_actor(path));
    }
    tracing::warn!(actor.path = path, "a failure was ordered");
    Ok(StatusCode::ACCEPTED.into_response())
}

fn no_actor(path: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no-such-actor", format!("no actor at `{path}`; GET /admin/actors lists them"))
}

/// `GET /admin/messages/{id}`
pub async fn message(State(admin): State<Admin>, Path(id): Path<String>) -> Result<Response, Problem> {
    let found = admin.inspector.message(&id).await.map_err(|error| {
        tracing::error!(error, "a message could not be looked up");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "cannot-look-up", "the message could not be looked up; try again")
    })?;
    match found {
        Some(view) => Ok(Json(view).into_response()),
        None => Err(Problem::new(StatusCode::NOT_FOUND, "no-such-message", "no message of this id is known")),
    }
}

/// `GET /admin/queues`. What is in the spool counts as ready, too; a queue that needs none says `null`.
pub async fn queues(State(admin): State<Admin>) -> Json<Value> {
    let now = admin.parts.clock.now();
    let mut lanes = serde_json::Map::new();
    for count in admin.parts.broker.counts() {
        let lane = lanes.entry(count.lane.as_str()).or_insert_with(|| json!({}));
        lane[count.standing.as_str()] = json!(count.messages);
        if count.standing == Standing::Ready {
            lane["spool"] = json!(admin.parts.upkeep.spooled_of(count.lane));
            lane["oldest_age_ms"] = json!(count.oldest.map_or(0, |oldest| now.since(oldest).as_millis() as u64));
        }
    }
    Json(Value::Object(lanes))
}

/// `GET /admin/breakers`
pub async fn breakers(State(admin): State<Admin>) -> Json<Value> {
    let services = admin.parts.stack.services().iter();
    Json(
        services
            .map(|service| (service.name.to_owned(), breaker(&service.gate.snapshot(), &admin.parts.clock)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    )
}

/// A breaker with its times as the wall clock shows them.
fn breaker(snapshot: &breaker::Snapshot, clock: &Clock) -> Value {
    let (now, monotonic) = (clock.now(), clock.monotonic());
    let dated = |at_ms: Option<u64>| {
        let at = Duration::from_millis(at_ms?);
        let ahead = at.saturating_sub(monotonic);
        let ago = i64::try_from(monotonic.saturating_sub(at).as_millis()).unwrap_or(i64::MAX);
        Some(Timestamp(now.after(ahead).0.saturating_sub(ago)).to_rfc3339())
    };
    let mut shown = json!(snapshot);
    for (by_origin, name, at_ms) in
        [("opened_at_ms", "opened_at", snapshot.opened_at_ms), ("until_ms", "until", snapshot.until_ms)]
    {
        shown.as_object_mut().map(|fields| fields.remove(by_origin));
        shown[name] = json!(dated(at_ms));
    }
    shown
}

/// `GET /admin/nodes`: those who live, as far as this one knows.
pub async fn nodes(State(admin): State<Admin>) -> Json<Vec<Node>> {
    let mut nodes = admin.parts.nodes.all();
    let own = nodes.iter_mut().find(|node| node.id == admin.parts.nodes.id());
    if let Some(own) = own {
        own.in_hand = admin.parts.directory.all().iter().filter(|cell| cell.lock().hand.is_some()).count();
    }
    Json(nodes)
}

/// `GET /admin/limiters`: of the services, of the posts, and of the API keys that are limited.
pub async fn limiters(State(admin): State<Admin>) -> Json<Value> {
    let services = admin.parts.stack.services().iter();
    let limiter = |permits: &crate::guard::Permits| json!({ "used": permits.used(), "waiting": permits.waiting() });
    let mut all: serde_json::Map<String, Value> = services
        .map(|service| {
            let mut shown = limiter(&service.permits);
            shown["slots"] = json!(service.bulkhead.usage());
            (service.name.to_owned(), shown)
        })
        .collect();
    all.insert("zendesk".into(), limiter(&admin.parts.posts));
    let keys = admin.parts.key_limits.iter();
    all.extend(keys.map(|(key, permits)| (format!("key:{key}"), limiter(permits))));
    Json(all.into())
}
