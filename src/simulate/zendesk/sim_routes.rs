//! The simulator's own routes under `/sim`: behaviour, counts, and what people do. They need no authentication.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::control::Holder;
use super::refusal::Refusal;
use super::world::World;
use crate::simulate::dial;

type Answer = Result<Response, Refusal>;
type Shared = State<Arc<World>>;

/// All routes under `/sim`.
pub fn routes() -> Router<Arc<World>> {
    Router::new()
        .route("/sim/behaviour", get(behaviour).put(behaviour).patch(behaviour))
        .route("/sim/stats", get(|State(world): Shared| async move { Json(world.stats()) }))
        .route("/sim/report", get(|State(world): Shared| async move { Json(world.report()) }))
        .route("/sim/reset", post(reset))
        .route("/sim/target", put(target))
        .route("/sim/say", post(say))
        .route("/sim/agent", post(agent_says))
        .route("/sim/postback", post(postback))
        .route("/sim/control", post(control))
        .route("/sim/merge", post(merge))
        .route("/sim/remove-user", post(remove_user))
        .route("/sim/conversations/{id}", get(show))
}

fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::bad(error.to_string()))
}

fn done() -> Answer {
    Ok(Json(json!({})).into_response())
}

async fn behaviour(State(world): Shared, method: Method, body: Bytes) -> Response {
    world.dial.serve(&method, &body)
}

async fn reset(State(world): Shared) -> Answer {
    world.reset();
    done()
}

#[derive(Deserialize)]
struct Target {
    url: Option<String>,
}

async fn target(State(world): Shared, body: Bytes) -> Response {
    let Ok(Target { url }) = serde_json::from_slice(&body) else {
        return dial::refused(StatusCode::BAD_REQUEST, "expected {\"url\": \"http://...\"} or {\"url\": null}");
    };
    match world.aim(&url.as_deref().into_iter().collect::<Vec<_>>()) {
        Ok(()) => Json(json!({ "url": url })).into_response(),
        Err(why) => dial::refused(StatusCode::BAD_REQUEST, &why),
    }
}

#[derive(Deserialize)]
struct Speech {
    conversation: String,
    text: String,
}

async fn say(State(world): Shared, body: Bytes) -> Answer {
    let Speech { conversation, text } = parse(&body)?;
    let message_id = world.say(&conversation, &text).await?;
    Ok(Json(json!({ "message_id": message_id })).into_response())
}

async fn agent_says(State(world): Shared, body: Bytes) -> Answer {
    let Speech { conversation, text } = parse(&body)?;
    let message_id = world.agent_says(&conversation, &text).await?;
    Ok(Json(json!({ "message_id": message_id })).into_response())
}

#[derive(Deserialize)]
struct Postback {
    conversation: String,
    payload: String,
}

async fn postback(State(world): Shared, body: Bytes) -> Answer {
    let Postback { conversation, payload } = parse(&body)?;
    let event_id = world.postback(&conversation, &payload).await?;
    Ok(Json(json!({ "event_id": event_id })).into_response())
}

#[derive(Deserialize)]
struct Control {
    conversation: String,
    to: To,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum To {
    Bot,
    Agent,
    None,
}

async fn control(State(world): Shared, body: Bytes) -> Answer {
    let Control { conversation, to } = parse(&body)?;
    let to = match to {
        To::Bot => Some(Holder::Bot),
        To::Agent => Some(Holder::Agent),
        To::None => None,
    };
    world.control(&conversation, to).await?;
    done()
}

#[derive(Deserialize)]
struct Merge {
    surviving: String,
    discarded: String,
}

async fn merge(State(world): Shared, body: Bytes) -> Answer {
    let Merge { surviving, discarded } = parse(&body)?;
    world.merge(&world.known(&surviving)?, &world.known(&discarded)?).await?;
    done()
}

#[derive(Deserialize)]
struct Removal {
    conversation: String,
}

async fn remove_user(State(world): Shared, body: Bytes) -> Answer {
    let Removal { conversation } = parse(&body)?;
    world.remove_user(&world.known(&conversation)?).await;
    done()
}

#[derive(Deserialize)]
struct At {
    id: String,
}

async fn show(State(world): Shared, Path(At { id }): Path<At>) -> Answer {
    let conversation = world.known(&id)?;
    let shown: Value = world.with(&conversation, |conversation, state| {
        let messages: Vec<_> = state.messages.iter().map(|stored| &*stored.json).collect();
        json!({
            "conversation": conversation.view(state.control, &world.board),
            "user_id": conversation.user_id,
            "judged": state.judge.tally(),
            "messages": messages,
        })
    });
    Ok(Json(shown).into_response())
}
