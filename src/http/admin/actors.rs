//! The tree of actors.

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use super::{Admin, Problem, Who, came_of, noted, read};
use crate::{
    actors::roster::{Fault, FaultMode, Snapshot},
    http::extract::{Body, Path, Query},
};

/// Conversations listed at once.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// Which conversations are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Page {
    after: Option<String>,
    limit: Option<usize>,
    q: Option<String>,
}

/// `GET /admin/actors`
#[utoipa::path(get, path = "/admin/actors", tag = "actors", params(Page), responses((status = 200, body = Snapshot)))]
pub async fn tree(State(admin): State<Admin>, Query(page): Query<Page>) -> Result<Json<Snapshot>, Problem> {
    let limit = page.limit.unwrap_or(PAGE).min(PAGE_MAX);
    let tree = admin.inspector.tree(page.after.as_deref(), page.q.as_deref(), limit);
    tree.map(Json)
        .ok_or_else(|| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "starting", "the actors are being started"))
}

/// `GET /admin/actors/{path}`
#[utoipa::path(get, path = "/admin/actors/{path}", tag = "actors", params(("path" = String, Path)), responses((status = 200, body = Snapshot)))]
pub async fn one(State(admin): State<Admin>, Path(path): Path<String>) -> Result<Json<Snapshot>, Problem> {
    admin.inspector.actor(&path).map(Json).ok_or_else(|| no_actor(&path))
}

/// `POST /admin/actors/{path}/restart` and `/crash`
#[utoipa::path(post, path = "/admin/actors/{path}/{action}", tag = "actors", params(("path" = String, Path), ("action" = String, Path)), request_body(content = Option<Fault>), responses((status = 202)))]
pub async fn act(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(path): Path<String>,
    Body(body): Body,
) -> Result<Response, Problem> {
    match path.rsplit_once('/') {
        Some((path, "restart")) => restart(&admin, &who, path).await,
        Some((path, "crash")) => crash(&admin, &who, path, &body).await,
        _ => {
            let detail = "the actions are /restart and /crash";
            Err(Problem::new(StatusCode::NOT_FOUND, "no-such-action", detail))
        }
    }
}

async fn restart(admin: &Admin, who: &Who, path: &str) -> Result<Response, Problem> {
    if admin.inspector.actor(path).is_none() {
        return Err(no_actor(path));
    }
    if admin.inspector.is_root(path) {
        let detail = "nobody is above it to start it again; stop the process instead";
        return Err(Problem::new(StatusCode::CONFLICT, "not-restartable", detail));
    }
    noted(admin, who, "actor.restart", path, json!(null)).await?;
    let found = admin.inspector.restart(path, &who.name);
    came_of(admin, who, ("actor.restart", path), found.then_some(()).ok_or_else(|| no_actor(path))).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

async fn crash(admin: &Admin, who: &Who, path: &str, body: &[u8]) -> Result<Response, Problem> {
    if !admin.config.fault_injection {
        let detail = "failures are ordered only with admin.fault_injection = true";
        return Err(Problem::new(StatusCode::FORBIDDEN, "no-fault-injection", detail));
    }
    let fault = if body.is_empty() {
        Fault { mode: FaultMode::Panic, ms: None }
    } else {
        read(body, r#"{"mode":"panic|error|hang|block","ms":n}"#)?
    };
    if admin.inspector.actor(path).is_none() {
        return Err(no_actor(path));
    }
    noted(admin, who, "actor.crash", path, json!({ "mode": fault.mode })).await?;
    let found = admin.inspector.crash(path, fault);
    came_of(admin, who, ("actor.crash", path), found.then_some(()).ok_or_else(|| no_actor(path))).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

fn no_actor(path: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no-such-actor", format!("no actor at `{path}`; GET /admin/actors lists them"))
}
