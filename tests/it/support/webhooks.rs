//! Webhooks by hand: bodies that Zendesk would send, or never should, and what the daemon says to them.

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Daemon, Scene};

/// What a webhook was answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header `Retry-After`.
    pub retry_after: Option<u64>,
    /// The body, if it is JSON.
    pub body: Value,
}

impl Answer {
    /// Accepted, duplicate, ignored, rejected and control events, in this order.
    pub fn counts(&self) -> [u64; 5] {
        ["accepted", "duplicate", "ignored", "rejected", "control"]
            .map(|name| self.body[name].as_u64().unwrap_or_else(|| panic!("no count of {name}: {self:?}")))
    }
}

/// Posts a body with these headers and no others of ours.
pub async fn post(daemon: &Daemon, path: &str, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Answer {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.post(daemon.url(path)).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap_or_else(|error| panic!("no answer: {error}\n{}", daemon.log_tail()));
    let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    Answer { status: answer.status().as_u16(), retry_after, body: answer.json().await.unwrap_or_default() }
}

impl Scene {
    /// Posts a body as Zendesk does, with the right secret.
    pub async fn deliver(&self, body: impl Into<reqwest::Body>) -> Answer {
        let secret = &self.zendesk.options().webhook_secret;
        let headers = [("x-api-key", secret.as_str()), ("content-type", "application/json")];
        post(&self.daemon, "/webhooks/sunshine", &headers, body).await
    }
}

/// The present, as Zendesk writes it.
pub fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap()
}

/// A body with these events.
pub fn delivery(events: &[Value]) -> String {
    json!({ "app": { "id": "66f0a1b2c3d4e5f600000001" }, "webhook": { "id": "w", "version": "v2" }, "events": events })
        .to_string()
}

/// An event of a customer who writes; change what should be different.
pub fn message(event: &str, message: &str, conversation: &str, text: &str) -> Value {
    json!({
        "id": event, "createdAt": now(), "type": "conversation:message",
        "payload": {
            "conversation": { "id": conversation, "type": "personal" },
            "message": {
                "id": message, "received": now(),
                "author": { "type": "user", "userId": "u1", "user": { "id": "u1" } },
                "content": { "type": "text", "text": text }, "source": { "type": "web" },
            },
        },
    })
}

/// An event of another type.
pub fn event(id: &str, kind: &str, payload: &Value) -> Value {
    json!({ "id": id, "createdAt": now(), "type": kind, "payload": payload })
}
