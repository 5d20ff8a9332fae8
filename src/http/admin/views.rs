//! How things stand, noun by noun.

use std::time::Duration;

use axum::{Extension, Json, extract::State};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Admin, Who};
use crate::{
    broker::Standing, domain::time::Timestamp, guard::breaker, http::AdminRole, state::nodes::Node, telemetry::Clock,
};

/// `GET /admin/queues`
pub async fn queues(State(admin): State<Admin>) -> Json<Value> {
    Json(of_queues(&admin))
}

/// `GET /admin/breakers`
pub async fn breakers(State(admin): State<Admin>) -> Json<Value> {
    Json(of_breakers(&admin))
}

/// `GET /admin/limiters`
pub async fn limiters(State(admin): State<Admin>) -> Json<Value> {
    Json(of_limiters(&admin))
}

/// What is in the spool counts as ready, too; a queue that needs none says `null`.
pub(super) fn of_queues(admin: &Admin) -> Value {
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
    Value::Object(lanes)
}

pub(super) fn of_breakers(admin: &Admin) -> Value {
    let services = admin.parts.stack.services().iter();
    let shown =
        services.map(|service| (service.name.to_owned(), breaker(&service.gate.snapshot(), &admin.parts.clock)));
    shown.collect::<serde_json::Map<_, _>>().into()
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

/// A message that was in hand when the process died.
#[derive(Debug, Serialize)]
pub struct Suspect {
    message_id: String,
    /// How often.
    crashes: u32,
}

/// `GET /admin/quarantine`: messages that were in hand when the process died; from two deaths on they run alone, at four
/// they are parked.
pub async fn quarantine(State(admin): State<Admin>) -> Json<Vec<Suspect>> {
    let suspects = admin.parts.in_hand.suspects().into_iter();
    Json(suspects.map(|(message_id, crashes)| Suspect { message_id, crashes }).collect())
}

/// `GET /admin/config`: the configuration in force, secrets as `***`.
pub async fn config(State(admin): State<Admin>) -> String {
    admin.effective.to_string()
}

/// Who asks, and what he may do.
#[derive(Debug, Serialize)]
pub struct Asker {
    name: String,
    role: AdminRole,
    /// Whether failures may be ordered.
    fault_injection: bool,
}

/// `GET /admin/whoami`
pub async fn whoami(State(admin): State<Admin>, Extension(who): Extension<Who>) -> Json<Asker> {
    Json(Asker { name: who.name, role: who.role, fault_injection: admin.config.fault_injection })
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

/// Of the services, of the posts, and of the API keys that are limited.
pub(super) fn of_limiters(admin: &Admin) -> Value {
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
    all.into()
}
