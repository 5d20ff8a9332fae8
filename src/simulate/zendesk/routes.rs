//! The API of Sunshine Conversations v2, as far as a bot needs it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::conversation::{Conversation, Cursor};
use super::draft::{self, Author, Draft, Writer};
use super::gate::gate;
use super::refusal::Refusal;
use super::world::{Opening, World};
use crate::simulate::chance;

/// The largest body (Zendesk's specification: 100 kB of JSON).
const BODY_BYTES_MAX: usize = 100 * 1024;

type Answer = Result<Response, Refusal>;
type Body = Result<Bytes, BytesRejection>;
type Shared = State<Arc<World>>;

/// All routes of the API, behind the gate.
pub fn routes(world: &Arc<World>) -> Router<Arc<World>> {
    let at = |rest: &str| format!("/v2/apps/{{app}}/conversations{rest}");
    Router::new()
        .route(&at(""), post(create))
        .route(&at("/{id}"), get(show))
        .route(&at("/{id}/messages"), post(post_message).get(list_messages))
        .route(&at("/{id}/activity"), post(activity))
        .route(&at("/{id}/passControl"), post(pass_control))
        .route(&at("/{id}/offerControl"), post(offer_control))
        .route(&at("/{id}/acceptControl"), post(accept_control))
        .route(&at("/{id}/releaseControl"), post(release_control))
        .route_layer(middleware::from_fn_with_state(world.clone(), gate))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

#[derive(Deserialize)]
struct App {
    app: String,
}

#[derive(Deserialize)]
struct At {
    app: String,
    id: String,
}

impl At {
    fn find(&self, world: &World) -> Result<Arc<Conversation>, Refusal> {
        check_app(world, &self.app)?;
        world.known(&self.id)
    }
}

fn check_app(world: &World, app: &str) -> Result<(), Refusal> {
    let known = app == world.options.app_id;
    if known { Ok(()) } else { Err(Refusal::new(404, "app_not_found", "App not found")) }
}

fn read(body: Body) -> Result<Bytes, Refusal> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Refusal::new(413, "request_entity_too_large", "The body is larger than 100 kB")
        }
        _ => Refusal::bad("The body cannot be read"),
    })
}

fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::bad(format!("Invalid body: {error}")))
}

#[derive(Serialize)]
struct Posted<'a> {
    messages: [&'a RawValue; 1],
}

async fn post_message(State(world): Shared, Path(at): Path<At>, body: Body) -> Answer {
    let conversation = at.find(&world)?;
    world.throttled()?;
    let draft = Draft::parse(&read(body)?)?;
    let behaviour = world.dial.get();
    if chance(behaviour.late_store_rate) {
        world.injected();
        world.plan_late_store(conversation, draft, Duration::from_millis(behaviour.late_store_ms));
        return Err(Refusal::injected(500));
    }
    let room = if draft.writer == Writer::Customer { Some(world.room().await) } else { None };
    let stored = world.store(&conversation, &draft, room)?;
    if chance(behaviour.store_then_fail_rate) {
        world.injected();
        return Err(Refusal::injected(500));
    }
    Ok((StatusCode::CREATED, Json(Posted { messages: [&stored.json] })).into_response())
}

#[derive(Serialize)]
struct Listed<'a> {
    messages: Vec<&'a RawValue>,
    meta: Value,
    links: Value,
}

async fn list_messages(
    State(world): Shared,
    Path(at): Path<At>,
    Query(query): Query<HashMap<String, String>>,
) -> Answer {
    let conversation = at.find(&world)?;
    let page = world.with(&conversation, |_, state| state.page(&cursor(&query)));
    let mut meta = json!({ "hasMore": page.more });
    let mut links = json!({});
    let path = format!("/v2/apps/{}/conversations/{}/messages", at.app, at.id);
    if let Some(id) = &page.before {
        meta["beforeCursor"] = json!(id);
        links["prev"] = json!(format!("{path}?page[before]={id}"));
    }
    if let Some(id) = &page.after {
        meta["afterCursor"] = json!(id);
        links["next"] = json!(format!("{path}?page[after]={id}"));
    }
    let messages = page.messages.iter().map(|stored| &*stored.json).collect();
    Ok(Json(Listed { messages, meta, links }).into_response())
}

/// The cursor of a query: `page[before]`, `page[after]`, or the Python client's `page={"before":...}`, whose `size` is
/// ignored because the size of a page is fixed.
fn cursor(query: &HashMap<String, String>) -> Cursor {
    let page: Map<String, Value> =
        query.get("page").and_then(|page| serde_json::from_str(page).ok()).unwrap_or_default();
    let side = |name: &str| {
        let plain = query.get(&format!("page[{name}]")).cloned();
        plain.or_else(|| page.get(name).and_then(Value::as_str).map(str::to_owned)).filter(|id| !id.is_empty())
    };
    Cursor { before: side("before"), after: side("after") }
}

async fn show(State(world): Shared, Path(at): Path<At>) -> Answer {
    let conversation = at.find(&world)?;
    let shown = world.with(&conversation, |conversation, state| {
        let mut shown = json!(conversation.view(state.control, &world.board));
        shown["isDefault"] = json!(false);
        shown["createdAt"] = json!(conversation.created_at);
        shown
    });
    Ok(Json(json!({ "conversation": shown })).into_response())
}

#[derive(Deserialize)]
struct Creation {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    participants: Vec<Participant>,
    metadata: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Participant {
    user_id: Option<String>,
    user_external_id: Option<String>,
}

async fn create(State(world): Shared, Path(App { app }): Path<App>, body: Body) -> Answer {
    check_app(&world, &app)?;
    let Creation { kind, mut participants, metadata } = parse(&read(body)?)?;
    draft::check_metadata(metadata.as_ref())?;
    let kind = match (kind.as_str(), participants.len()) {
        ("personal", 1) => "personal",
        ("personal", _) => return Err(Refusal::bad("A personal conversation has exactly one participant")),
        ("sdkGroup", 0..=10) => "sdkGroup",
        _ => return Err(Refusal::bad("type must be personal or sdkGroup, with at most 10 participants")),
    };
    let user_id = participants.pop().and_then(|one| one.user_id.or(one.user_external_id));
    let conversation = world.begin(Opening { id: None, user_id, kind, metadata, reason: "none" }).await?;
    let view = world.with(&conversation, |conversation, state| json!(conversation.view(state.control, &world.board)));
    Ok((StatusCode::CREATED, Json(json!({ "conversation": view }))).into_response())
}

#[derive(Deserialize)]
struct Activity {
    #[serde(rename = "type")]
    kind: String,
    author: Author,
}

async fn activity(State(world): Shared, Path(at): Path<At>, body: Body) -> Answer {
    at.find(&world)?;
    let activity: Activity = parse(&read(body)?)?;
    let writer = draft::writer(&activity.author)?;
    match (activity.kind.as_str(), writer) {
        ("conversation:read", _) | ("typing:start" | "typing:stop", Writer::Api) => {}
        _ => return Err(Refusal::bad("type must be typing:start, typing:stop or conversation:read")),
    }
    world.counters.activities.fetch_add(1, Relaxed);
    Ok(Json(json!({})).into_response())
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ControlBody {
    switchboard_integration: Option<String>,
    metadata: Option<Map<String, Value>>,
}

impl ControlBody {
    fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let parsed: Self = parse(body)?;
        draft::check_metadata(parsed.metadata.as_ref())?;
        Ok(parsed)
    }

    fn target(&self) -> Result<&str, Refusal> {
        self.switchboard_integration.as_deref().ok_or_else(|| Refusal::bad("switchboardIntegration is required"))
    }
}

async fn pass_control(State(world): Shared, Path(at): Path<At>, body: Body) -> Answer {
    let conversation = at.find(&world)?;
    let body = ControlBody::parse(&read(body)?)?;
    let (target, room) = (body.target()?, world.room().await);
    world.switch(&conversation, "switchboard:passControl", body.metadata.as_ref(), room, |control| {
        control.pass(Some(world.board.target(target, *control)?));
        Ok(())
    })?;
    world.counters.passes.fetch_add(1, Relaxed);
    Ok(Json(json!({})).into_response())
}

async fn offer_control(State(world): Shared, Path(at): Path<At>, body: Body) -> Answer {
    let conversation = at.find(&world)?;
    let body = ControlBody::parse(&read(body)?)?;
    let (target, room) = (body.target()?, world.room().await);
    world.switch(&conversation, "switchboard:offerControl", body.metadata.as_ref(), room, |control| {
        control.offer(world.board.target(target, *control)?)
    })?;
    Ok(Json(json!({})).into_response())
}

async fn accept_control(State(world): Shared, Path(at): Path<At>, body: Body) -> Answer {
    let conversation = at.find(&world)?;
    let body = ControlBody::parse(&read(body)?)?;
    let room = world.room().await;
    let kind = "switchboard:acceptControl";
    world.switch(&conversation, kind, body.metadata.as_ref(), room, |control| control.accept())?;
    Ok(Json(json!({})).into_response())
}

async fn release_control(State(world): Shared, Path(at): Path<At>, body: Body) -> Answer {
    let conversation = at.find(&world)?;
    let body = read(body)?;
    let body = if body.is_empty() { ControlBody::default() } else { ControlBody::parse(&body)? };
    let room = world.room().await;
    let kind = "switchboard:releaseControl";
    world.switch(&conversation, kind, body.metadata.as_ref(), room, |control| control.release())?;
    Ok(Json(json!({})).into_response())
}
