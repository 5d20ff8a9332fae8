//! Who may use the admin listener.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Admin, AdminRole, problem::Problem};

/// Lets a request pass if its sender may do what it asks. Tokens are needed off loopback, and wherever some are
/// configured.
pub async fn admit(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let public_metrics = admin.config.metrics_public && request.uri().path() == "/metrics";
    if !public_metrics && let Err(problem) = may(&admin, request.method(), request.headers()) {
        return problem.into_response();
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

fn may(admin: &Admin, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let is_change = !matches!(*method, Method::GET | Method::HEAD);
    if is_change && is_foreign(headers) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign-origin", "the request comes from another site"));
    }
    let open = admin.config.listen.ip().is_loopback() && admin.config.tokens.is_empty();
    if open {
        return Ok(());
    }
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let given = given.unwrap_or_default();
    // All are compared, so that the time taken does not tell which one is near.
    let role = admin
        .config
        .tokens
        .iter()
        .fold(None, |role, token| if token.token.matches(given) { Some(token.role) } else { role });
    match role {
        None => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "a token of admin.tokens is needed as bearer token",
        )),
        Some(AdminRole::Viewer) if is_change => {
            Err(Problem::new(StatusCode::FORBIDDEN, "not-an-operator", "this token may look, not act"))
        }
        Some(_) => Ok(()),
    }
}

/// A browser says where a request comes from; programs say nothing.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else {
        return headers.contains_key(header::ORIGIN);
    };
    origin.split_once("://").is_none_or(|(_, site)| site != host)
}
