//! Errors in OpenAI's shape (API reference "Error codes"): `{"error": {"message", "type", "param", "code"}}`.

use std::time::Duration;

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    domain::{
        completion::{Invalid, error},
        time::Timestamp,
        timeline::Wait,
        verdict::Failure,
    },
    guard::{Busy, Failed, Spent},
};

/// What OpenAI's clients obey before `Retry-After`, because it is exact.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Obeyed by OpenAI's clients, which would try again at once otherwise.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// OpenAI's own word for it.
const BUDGET_SPENT: &str = "insufficient_quota";

/// A request that a node lost.
const LOST: &str = "lost";

/// When to come again after what passes by itself.
const SOON: Duration = Duration::from_secs(1);

/// Why a request is not answered. Holds nothing that is secret, and no text of the client's.
#[derive(Debug, Clone)]
pub struct Refusal(Box<Told>);

#[derive(Debug, Clone)]
struct Told {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    message: String,
    param: Option<&'static str>,
    retry_after: Option<Duration>,
    /// What the service itself said, in the same shape.
    said: Option<Bytes>,
    /// The service that failed.
    service: Option<&'static str>,
    /// How far the request came.
    seen: HeaderMap,
}

impl Refusal {
    fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Told {
            status,
            kind,
            code,
            message: message.into(),
            param: None,
            retry_after: None,
            said: None,
            service: None,
            seen: HeaderMap::new(),
        }))
    }

    fn about(mut self, param: Option<&'static str>) -> Self {
        self.0.param = param;
        self
    }

    /// With when to try again.
    pub fn retry_after(mut self, span: Duration) -> Self {
        self.0.retry_after = Some(span);
        self
    }

    /// With when the service itself wants to be asked again, if it says so.
    pub fn not_before(self, span: Option<Duration>) -> Self {
        match span {
            Some(span) => self.retry_after(span),
            None => self,
        }
    }

    /// With what the service said.
    pub fn saying(mut self, said: Option<Bytes>) -> Self {
        self.0.said = said;
        self
    }

    /// With the headers that tell how far the request came.
    pub fn seen(mut self, headers: HeaderMap) -> Self {
        self.0.seen = headers;
        self
    }

    /// The status it is answered with.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The service that is to blame.
    pub fn service(&self) -> Option<&'static str> {
        self.0.service
    }

    /// Writes down what was asked and failed. Of what nobody was asked for the breakers and limiters tell.
    pub fn log(&self, request_id: &str, api_key: &str) {
        let Told { status, code, service, .. } = &*self.0;
        if matches!(*status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) || *code == LOST {
            let status = status.as_u16();
            tracing::info!(request_id, api_key, status, code, ai.service = service, "a request on /v1 failed");
        }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>, param: Option<&'static str>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", "invalid_request", message).about(param)
    }

    /// No such key.
    pub fn unknown_key() -> Self {
        let message = "no valid API key; send one of api.keys as `Authorization: Bearer KEY`";
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message)
    }

    /// No such model, for this key; which of both is not told.
    pub fn unknown_model() -> Self {
        let message = "the model does not exist, or this key may not use it; GET /v1/models lists those it may";
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", message).about(Some("model"))
    }

    /// Nothing is at this path, or not by this method.
    pub fn unknown_url(status: StatusCode) -> Self {
        let message =
            "nothing is here, or not by this method; POST /v1/chat/completions or /v1/embeddings, GET /v1/models";
        Self::new(status, "invalid_request_error", "unknown_url", message)
    }

    /// The body is longer than `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("the body is longer than {limit} bytes (http.api_body_limit)");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "request_too_large", message)
    }

    /// The body broke off.
    pub fn incomplete() -> Self {
        Self::invalid("the body broke off", None)
    }

    /// The body did not arrive in time.
    pub fn body_too_late() -> Self {
        let message = "the request did not arrive in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "request_timeout", message)
    }

    /// Too many large requests are under way.
    pub fn no_room() -> Self {
        let message = "too many bytes of requests are under way; try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "overloaded", message).retry_after(SOON)
    }

    /// The node is being stopped.
    pub fn stopping() -> Self {
        let message = "this node is being stopped; try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "stopping", message).retry_after(SOON)
    }

    /// The work on the request came to a sudden end.
    pub fn lost() -> Self {
        let message = "this node lost the request; try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", LOST, message).retry_after(SOON)
    }

    /// The body is packed.
    pub fn encoded() -> Self {
        let message = "the body has a `Content-Encoding`; send it as it is";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", "unsupported_encoding", message)
    }

    /// The request's own time is over.
    pub fn too_late() -> Self {
        let message = "no answer in the time this request has (x-request-timeout, http.request_timeout)";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", "timeout", message)
    }

    /// The key has used what it may use in `span`.
    pub fn key_limited(retry_after: Duration) -> Self {
        let message = "this key has reached its rate limit";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded", message)
            .retry_after(retry_after)
    }

    /// The key has used up its month.
    pub fn budget_spent(spent: Spent, now: Timestamp) -> Self {
        let message = format!("the monthly_budget of this key: {spent}");
        Self::new(StatusCode::TOO_MANY_REQUESTS, BUDGET_SPENT, BUDGET_SPENT, &message)
            .retry_after(spent.0.until.since(now))
    }

    /// Nobody could be asked in time; `now` is monotonic.
    pub fn busy(busy: Busy, now: Duration) -> Self {
        let wait = busy.until.saturating_sub(now).max(Duration::from_millis(1));
        match busy.on {
            Wait::Limiter => {
                let message = "the AI service's rate limit is reached; a call is free after Retry-After";
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded", message)
                    .retry_after(wait)
            }
            Wait::Breaker => {
                let message = "the AI service fails and is not asked at the moment (breaker open)";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "breaker_open", message).retry_after(wait)
            }
            _ => {
                let message = "as many calls as are allowed at once are under way";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "overloaded", message).retry_after(wait)
            }
        }
    }

    /// A call failed.
    pub fn failed(failed: &Failed) -> Self {
        Self::of(&failed.failure).by(Some(failed.service))
    }

    /// With the service that failed.
    pub fn by(mut self, service: Option<&'static str>) -> Self {
        self.0.service = service;
        self
    }

    /// A failure of an AI service as its client is told.
    pub fn of(failure: &Failure) -> Self {
        let server = |status, code, message: &str| Self::new(status, "server_error", code, message);
        match failure {
            Failure::Connect => {
                server(StatusCode::BAD_GATEWAY, "upstream_unreachable", "the connection to the AI service failed")
            }
            Failure::Timeout => {
                server(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "the AI service did not answer in time")
            }
            Failure::Unavailable(status) => {
                let message = format!("the AI service failed with status {status}");
                server(StatusCode::BAD_GATEWAY, "upstream_error", &message)
            }
            Failure::Throttled(after) => {
                let message = "the AI service refuses further calls for now";
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded", message)
                    .retry_after(after.unwrap_or(SOON))
            }
            Failure::Unusable(_) => server(
                StatusCode::BAD_GATEWAY,
                "upstream_misconfigured",
                "the AI service refuses this gateway; see its log",
            ),
            Failure::Rejected(status) => {
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST);
                Self::new(status, "invalid_request_error", "rejected", "the AI service rejects this request")
            }
            Failure::ContentRefused => {
                let message = "the AI service declines to answer this content";
                Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", "content_filter", message)
            }
            Failure::OutOfTime | Failure::GivenUp => Self::too_late(),
            Failure::Garbled | Failure::UnusableAnswer => {
                server(StatusCode::BAD_GATEWAY, "upstream_unusable", "the AI service's answer cannot be understood")
            }
        }
    }

    /// As an event that ends a stream.
    pub fn event(&self) -> Bytes {
        format!("data: {}\n\n", self.body()).into()
    }

    fn body(&self) -> String {
        let Told { message, kind, param, code, .. } = &*self.0;
        error(message, kind, *param, *code)
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::invalid(invalid.message, invalid.param)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = self.0.said.clone().unwrap_or_else(|| self.body().into());
        let mut response = (self.0.status, body).into_response();
        let headers = response.headers_mut();
        headers.extend(self.0.seen);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.0.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(span) = self.0.retry_after {
            let ms = span.as_micros().div_ceil(1_000);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000) as u64));
            headers.insert(RETRY_AFTER_MS, HeaderValue::from(ms as u64));
        }
        if self.0.code == BUDGET_SPENT {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[tokio::test]
    async fn every_failure_has_a_status_a_shape_and_is_never_a_500() {
        let failures = [
            (Failure::Connect, 502),
            (Failure::Timeout, 504),
            (Failure::Unavailable(500), 502),
            (Failure::Throttled(Some(Duration::from_millis(1500))), 429),
            (Failure::Unusable(401), 502),
            (Failure::Rejected(422), 422),
            (Failure::ContentRefused, 400),
            (Failure::Garbled, 502),
            (Failure::UnusableAnswer, 502),
            (Failure::GivenUp, 504),
            (Failure::OutOfTime, 504),
        ];
        for (failure, status) in failures {
            let response = Refusal::of(&failure).into_response();
            assert_eq!(response.status(), status, "{failure:?}");
            let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            for field in ["message", "type", "code"] {
                assert!(body["error"][field].is_string(), "{body}");
            }
        }
    }

    #[test]
    fn when_to_come_again_is_told_exactly_and_in_whole_seconds() {
        let busy = |on| Busy { on, until: Duration::from_millis(11_500) };
        for (on, status) in [(Wait::Limiter, 429), (Wait::Breaker, 503), (Wait::Slot, 503)] {
            let response = Refusal::busy(busy(on), Duration::from_secs(10)).into_response();
            assert_eq!(response.status(), status);
            assert_eq!(
                (&response.headers()["retry-after"], &response.headers()["retry-after-ms"]),
                (&HeaderValue::from(2), &HeaderValue::from(1500))
            );
        }
    }
}
