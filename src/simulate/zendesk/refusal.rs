//! Errors of the API in Zendesk's shape: `{"errors":[{"code","title"}]}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An API call that is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    status: u16,
    code: &'static str,
    title: String,
    retry_after_s: Option<u64>,
}

impl Refusal {
    /// Refuses with this status, code and explanation.
    pub fn new(status: u16, code: &'static str, title: impl Into<String>) -> Self {
        Self { status, code, title: title.into(), retry_after_s: None }
    }

    /// The request is malformed.
    pub fn bad(title: impl Into<String>) -> Self {
        Self::new(400, "bad_request", title)
    }

    /// The conversation does not exist.
    pub fn no_conversation() -> Self {
        Self::new(404, "conversation_not_found", "Conversation not found")
    }

    /// A fault that was asked for.
    pub fn injected(status: u16) -> Self {
        Self::new(status, "uncategorized_error", "The simulator was told to fail")
    }

    /// Too many requests; `retry_after_s` becomes the header.
    pub fn throttled(retry_after_s: Option<u64>) -> Self {
        Self { retry_after_s, ..Self::new(429, "too_many_requests", "Too many requests") }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = json!({ "errors": [{ "code": self.code, "title": self.title }] });
        let mut response = (status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
