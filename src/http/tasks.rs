//! `GET /v1/tasks/{id}`: state and result of an accepted message, by event id (the old stack's result backend).

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Public, extract::Path, problem::Problem};
use crate::{actors::MessageView, broker::Standing, domain::timeline::Outcome};

/// A task as its asker sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Task {
    /// The event.
    id: String,
    /// `queued`, `running`, `retrying`, `done` or `failed`.
    state: &'static str,
    /// How it ended, once it has.
    outcome: Option<Outcome>,
    /// The reply, as long as results are kept.
    result: Option<String>,
    /// Why it failed, or failed last.
    error: Option<String>,
    /// Tries spent.
    tries: Option<u32>,
    /// When it ended, RFC 3339.
    ended_at: Option<String>,
}

/// Answers for one task.
#[utoipa::path(get, path = "/v1/tasks/{id}", tag = "public", params(("id" = String, Path)), responses((status = 200, body = Task)))]
pub async fn task(
    State(public): State<Arc<Public>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Task>, Problem> {
    if !public.gateway.knows(&headers) {
        let detail = "a key of api.keys is needed as bearer token";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail));
    }
    let found = public.inspector.message(&id).await.map_err(|error| {
        tracing::error!(error, "a task could not be looked up");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "cannot-look-up", "the task could not be looked up; try again")
    })?;
    match found {
        Some(view) => Ok(Json(Task::from(view))),
        None => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "no-such-task",
            "no task of this id is known, or it was kept long enough",
        )),
    }
}

impl From<MessageView> for Task {
    fn from(view: MessageView) -> Self {
        match view {
            MessageView::Queued { id, standing, phase, tries, reason, .. } => {
                let state = match standing {
                    _ if phase.is_some() => "running",
                    Standing::Dead | Standing::Delayed => "retrying",
                    Standing::Parked => "failed",
                    Standing::Ready | Standing::InHand if tries > 0 => "retrying",
                    Standing::Ready | Standing::InHand => "queued",
                };
                Self { id, state, outcome: None, result: None, error: reason, tries: Some(tries), ended_at: None }
            }
            MessageView::Ended(record) => Self {
                id: record.id.to_string(),
                state: if record.outcome == Outcome::Parked { "failed" } else { "done" },
                outcome: Some(record.outcome),
                result: record.text,
                error: record.cause,
                tries: None,
                ended_at: Some(record.at.to_rfc3339()),
            },
        }
    }
}
