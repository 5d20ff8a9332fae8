//! A customer is removed, as if Zendesk had said so.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{AGAIN, Admin, Problem, Who, came_of, noted, read};
use crate::{
    broker::{Lane, Publication},
    domain::{
        ids::{ConversationId, EventId, MessageId, UserId},
        job::{Job, Kind},
    },
    http::extract::Body,
};

/// `POST /admin/erase`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Erase {
    #[schema(value_type = String)]
    user: UserId,
    app: Option<String>,
}

/// What was ordered.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ordered {
    /// Names the event; it has ended when nothing of the customer's is left.
    id: String,
}

/// `POST /admin/erase`: the customer's messages in queue, hand and dead letters, their stories and what was said. It
/// travels the events lane, so that it is done also when a node dies meanwhile.
#[utoipa::path(post, path = "/admin/erase", tag = "controls", request_body = Erase, responses((status = 202, body = Ordered), (status = 400, description = "no app is known")))]
pub async fn erase(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Body(body): Body,
) -> Result<(StatusCode, Json<Ordered>), Problem> {
    let Erase { user, app } = read(&body, r#"{"user":"…"}, with "app":"…" if it is not zendesk.app_id"#)?;
    let Some(app) = app.or_else(|| admin.app.as_deref().map(str::to_owned)) else {
        let detail = "zendesk.app_id is not set; name the app the customer belongs to: {\"user\":\"…\",\"app\":\"…\"}";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "no-app", detail));
    };
    let now = admin.parts.clock.now();
    let id = format!("erase:{:016x}", rand::random::<u64>());
    // The audit log names the event and not the customer, who is to be forgotten.
    noted(&admin, &who, "customer.erase", &id, Value::Null).await?;
    let expect = "hexadecimal digits are an id";
    let (event, message) = (EventId::new(&id).expect(expect), MessageId::new(&id).expect(expect));
    let conversation = ConversationId::new(&id).expect(expect);
    let job = Job { app: Some(app), ..Job::new(event, message, conversation, Kind::UserRemoved { user }, now) };
    let order = Publication { lane: Lane::Events, job: Arc::new(job), parked: None };
    let stored = admin.parts.broker.publish(vec![order]).await.map_err(|error| {
        tracing::error!(%error, "the removal of a customer could not be stored");
        let detail = "the order could not be stored; try again";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-done", detail).retry_after(AGAIN)
    });
    came_of(&admin, &who, ("customer.erase", &id), stored).await?;
    Ok((StatusCode::ACCEPTED, Json(Ordered { id })))
}
