//! What operators did.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Admin, Problem, not_known};
use crate::{http::extract::Query, state::audit::Entry};

/// Entries listed at once.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// Which entries are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Asked {
    before: Option<String>,
    limit: Option<usize>,
}

/// Part of the audit log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditPage)]
pub struct Page {
    /// The newest first.
    entries: Vec<Entry>,
    /// The `before` of the next page; there may be none.
    next: Option<String>,
}

/// `GET /admin/audit`
#[utoipa::path(get, path = "/admin/audit", tag = "audit", params(Asked), responses((status = 200, body = Page)))]
pub async fn list(State(admin): State<Admin>, Query(asked): Query<Asked>) -> Result<Json<Page>, Problem> {
    let limit = asked.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let entries = admin.parts.state.audit(asked.before.as_deref(), limit).await.map_err(not_known)?;
    let next = entries.last().filter(|_| entries.len() == limit).map(|last| last.id.clone());
    Ok(Json(Page { entries, next }))
}
