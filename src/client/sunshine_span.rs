//! A call to Zendesk as part of a trace (OpenTelemetry's semantic conventions for HTTP clients).

use reqwest::{Method, Url};

use crate::telemetry::span::{Kind, Parent, Span};

/// Begins the span of a call. `operation`: what is asked of a conversation, as the path ends.
pub(super) fn of(method: &Method, url: &Url, operation: &'static str) -> Span {
    let template = || format!("/v2/apps/{{appId}}/conversations/{{conversationId}}{operation}");
    let span = Span::begin(Kind::Client, Parent::Current, || format!("{method} {}", template()).into());
    if span.is_some() {
        span.set("http.request.method", method.to_string());
        span.set("url.template", template());
        span.set("server.address", url.host_str().unwrap_or_default().to_owned());
    }
    span
}
