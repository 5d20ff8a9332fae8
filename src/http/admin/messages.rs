//! Timelines: each message and each conversation explains itself.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Admin, Problem, not_known};
use crate::{
    actors::{AliveView, ConversationView, MessageView},
    domain::ids::ConversationId,
    http::extract::{Path, Query},
};

/// Conversations listed at once.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// Which conversations are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Asked {
    q: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
    /// `waiting`: those whose customers have been waiting longest, in that order.
    #[param(inline)]
    sort: Option<Sort>,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Sort {
    Waiting,
}

/// Part of the conversations that are alive on this node.
#[derive(Debug, Serialize, ToSchema)]
pub struct Alive {
    conversations: Vec<AliveView>,
    /// How many match.
    total: usize,
    /// The `after` of the next page, if there is one.
    next: Option<String>,
}

/// `GET /admin/messages/{id}`
#[utoipa::path(get, path = "/admin/messages/{id}", tag = "messages", params(("id" = String, Path)), responses((status = 200, body = Object)))]
pub async fn message(State(admin): State<Admin>, Path(id): Path<String>) -> Result<Json<MessageView>, Problem> {
    let found = admin.inspector.message(&id).await.map_err(not_known)?;
    found
        .map(Json)
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no-such-message", "no message of this id is known"))
}

/// `GET /admin/conversations`: those that are alive on this node.
#[utoipa::path(get, path = "/admin/conversations", tag = "messages", params(Asked), responses((status = 200, body = Alive)))]
pub async fn conversations(State(admin): State<Admin>, Query(asked): Query<Asked>) -> Json<Alive> {
    let limit = asked.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    if let Some(Sort::Waiting) = asked.sort {
        let conversations = admin.inspector.longest_waiting(limit);
        return Json(Alive { total: conversations.len(), conversations, next: None });
    }
    let (conversations, total) = admin.inspector.conversations(asked.after.as_deref(), asked.q.as_deref(), limit);
    let next = conversations.last().filter(|_| conversations.len() == limit).map(|last| last.id.clone());
    Json(Alive { conversations, total, next })
}

/// `GET /admin/conversations/{id}`
#[utoipa::path(get, path = "/admin/conversations/{id}", tag = "messages", params(("id" = String, Path)), responses((status = 200, body = ConversationView)))]
pub async fn conversation(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<ConversationView>, Problem> {
    let unknown =
        || Problem::new(StatusCode::NOT_FOUND, "no-such-conversation", "nothing is known of this conversation");
    let id = ConversationId::new(&id).map_err(|_| unknown())?;
    admin.inspector.conversation(&id).await.map_err(not_known)?.map(Json).ok_or_else(unknown)
}
