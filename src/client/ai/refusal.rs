//! Why there is no answer, and what the provider said to it.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::domain::{
    completion::{Invalid, error},
    verdict::Failure,
};

/// The longest error of a provider that is handed on.
const BODY_BYTES_MAX: usize = 64 << 10;

/// There is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What it means for us.
    pub failure: Failure,
    /// The provider's status, if it gave one that says so.
    pub status: Option<u16>,
    /// The provider's error in OpenAI's shape, if it said one that is for the client: what it says of our own key
    /// (401, 403) is not.
    pub body: Option<Bytes>,
    /// How long it asks to be left alone (`Retry-After`, RFC 9110, section 10.2.3), whatever the status.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A failure without a word of the provider's.
    pub(super) fn of(failure: Failure) -> Self {
        Self { failure, status: None, body: None, retry_after: None }
    }

    /// A provider's answer with a status that is no success: its body, and the same in OpenAI's shape.
    pub(super) fn answered(failure: Failure, status: u16, said: &[u8], shaped: Option<Bytes>) -> Self {
        let failure = match failure {
            Failure::Rejected(_) if refuses_content(said) => Failure::ContentRefused,
            failure => failure,
        };
        let about_us = matches!(status, 401 | 403);
        Self { status: Some(status), body: shaped.filter(|_| !about_us), ..Self::of(failure) }
    }

    /// A request that this provider cannot be asked.
    pub(super) fn untranslatable(wrong: &Invalid) -> Self {
        let body = error(&wrong.message, "invalid_request_error", wrong.param, "unsupported_by_provider");
        Self { status: Some(400), body: Some(body.into()), ..Self::of(Failure::Rejected(400)) }
    }
}

/// The type OpenAI gives to errors of this status.
fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

/// Errors as OpenAI and those who follow it more or less write them.
#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    message: Option<Value>,
    detail: Option<Value>,
    code: Option<Value>,
}

/// An error body in OpenAI's shape: as it came, if it has that, else the same message in it. So are the errors of
/// Ollama (`error` is a text), of older vLLM (the fields without `error` around them) and of FastAPI (`detail`).
pub(super) fn openai_shape(body: &Bytes, status: u16) -> Option<Bytes> {
    if body.len() > BODY_BYTES_MAX {
        return None;
    }
    let said: Said<'_> = serde_json::from_slice(body).ok()?;
    let inner: Option<Value> = said.error.and_then(|error| serde_json::from_str(error.get()).ok());
    let message = match inner {
        Some(Value::Object(inner)) if inner.get("message").is_some_and(Value::is_string) => return Some(body.clone()),
        Some(Value::String(text)) => text,
        _ => match said.message.or(said.detail)? {
            Value::String(text) => text,
            Value::Null => return None,
            other => other.to_string(),
        },
    };
    Some(error(&message, kind(status), None, said.code.unwrap_or_default()).into())
}

#[derive(Deserialize)]
struct Coded {
    error: Code,
}

#[derive(Deserialize)]
struct Code {
    #[serde(default)]
    code: Value,
    #[serde(default)]
    r#type: Value,
}

impl Code {
    fn refuses_content(&self) -> bool {
        matches!(self.code.as_str(), Some("content_filter" | "content_policy_violation"))
    }
}

/// Some services refuse content by a 400 whose code says so (Azure OpenAI: `content_filter`).
fn refuses_content(body: &[u8]) -> bool {
    serde_json::from_slice::<Coded>(body).is_ok_and(|coded| coded.error.refuses_content())
}

/// An error that comes instead of the next part of an answer, its status long told; `event` is the event's data.
pub(super) fn within_stream(event: &Bytes) -> Refusal {
    let body = openai_shape(event, 500);
    let coded: Option<Coded> = body.as_deref().and_then(|body| serde_json::from_slice(body).ok());
    let Some(Coded { error }) = coded else { return Refusal::of(Failure::Unavailable(500)) };
    let number = error.code.as_u64().or_else(|| error.code.as_str()?.parse().ok());
    let status = number.and_then(|number| u16::try_from(number).ok()).filter(|status| (400..600).contains(status));
    let says_limit = |value: &Value| value.as_str().is_some_and(|text| text.starts_with("rate_limit"));
    let failure = if error.refuses_content() {
        Failure::ContentRefused
    } else if status == Some(429) || says_limit(&error.code) || says_limit(&error.r#type) {
        Failure::Throttled(None)
    } else {
        Failure::Unavailable(status.unwrap_or(500))
    };
    Refusal { status, body: body.filter(|_| !matches!(status, Some(401 | 403))), ..Refusal::of(failure) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shaped(body: &str, status: u16) -> Option<Value> {
        let shaped = openai_shape(&Bytes::copy_from_slice(body.as_bytes()), status)?;
        Some(serde_json::from_slice::<Value>(&shaped).unwrap()["error"].take())
    }

    #[test]
    fn an_error_in_openais_shape_passes_byte_for_byte() {
        let body = Bytes::from_static(br#"{ "error" : {"message":"m","type":"t","innererror":{"a":1}} }"#);
        assert_eq!(openai_shape(&body, 400), Some(body));
    }

    #[test]
    fn other_errors_are_put_into_openais_shape() {
        let error = |message: &str, kind: &str, code: Value| json!({ "message": message, "type": kind, "param": null, "code": code });
        for (body, status, expected) in [
            (r#"{"error":"no such model"}"#, 404, Some(error("no such model", "invalid_request_error", Value::Null))),
            (
                r#"{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}"#,
                400,
                Some(error("too long", "invalid_request_error", json!(400))),
            ),
            (r#"{"detail":"Not Found"}"#, 503, Some(error("Not Found", "server_error", Value::Null))),
            (
                r#"{"detail":[{"loc":["body"]}]}"#,
                422,
                Some(error(r#"[{"loc":["body"]}]"#, "invalid_request_error", Value::Null)),
            ),
            (r#"{"error":null}"#, 500, None),
            (r#"{"error":{}}"#, 500, None),
            ("<html>", 502, None),
            ("", 502, None),
        ] {
            assert_eq!(shaped(body, status), expected, "{body}");
        }
        let long = format!(r#"{{"error":"{}"}}"#, "x".repeat(BODY_BYTES_MAX));
        assert_eq!(shaped(&long, 400), None);
    }

    #[test]
    fn what_a_provider_says_of_our_key_stays_here() {
        let body = Bytes::from_static(br#"{"error":{"message":"Incorrect API key provided: sk-abc"}}"#);
        for (status, told) in [(400, true), (401, false), (403, false), (404, true), (500, true)] {
            let failure = Failure::of_status(status, None).unwrap();
            let refusal = Refusal::answered(failure, status, &body, Some(body.clone()));
            assert_eq!(refusal.body.is_some(), told, "{status}");
        }
    }

    #[test]
    fn refused_content_is_told_by_the_code() {
        let of = |code: &str| {
            let body = format!(r#"{{"error":{{"code":{code}}}}}"#);
            Refusal::answered(Failure::Rejected(400), 400, body.as_bytes(), None).failure
        };
        assert_eq!(of(r#""content_filter""#), Failure::ContentRefused);
        assert_eq!(of(r#""content_policy_violation""#), Failure::ContentRefused);
        assert_eq!([of(r#""other""#), of("400"), of("null")], [const { Failure::Rejected(400) }; 3]);
    }

    #[test]
    fn an_error_within_a_stream_is_classified_by_what_it_says() {
        for (event, failure, status) in [
            (r#"{"error":{"message":"m","type":"server_error","code":null}}"#, Failure::Unavailable(500), None),
            (r#"{"error":{"message":"m","code":502}}"#, Failure::Unavailable(502), Some(502)),
            (r#"{"error":{"message":"m","code":"503"}}"#, Failure::Unavailable(503), Some(503)),
            (r#"{"error":{"message":"m","code":7}}"#, Failure::Unavailable(500), None),
            (r#"{"error":{"message":"m","code":429}}"#, Failure::Throttled(None), Some(429)),
            (r#"{"error":{"message":"m","code":"rate_limit_exceeded"}}"#, Failure::Throttled(None), None),
            (r#"{"error":{"message":"m","type":"rate_limit_error"}}"#, Failure::Throttled(None), None),
            (r#"{"error":{"message":"m","code":"content_filter"}}"#, Failure::ContentRefused, None),
            (r#"{"error":"out of memory"}"#, Failure::Unavailable(500), None),
            ("oops", Failure::Unavailable(500), None),
        ] {
            let refusal = within_stream(&Bytes::copy_from_slice(event.as_bytes()));
            assert_eq!((refusal.failure, refusal.status), (failure, status), "{event}");
            assert_eq!(refusal.body.is_some(), event != "oops", "{event}");
        }
    }
}
