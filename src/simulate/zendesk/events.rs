//! The bodies of webhooks: one event in Zendesk's envelope.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::clock::timestamp;
use super::conversation::View;

/// The id of the simulated webhook.
const WEBHOOK_ID: &str = "66f0a1b2c3d4e5f600000002";

#[derive(Serialize)]
struct Envelope<'a, P> {
    app: App<'a>,
    webhook: Webhook,
    events: [Event<'a, P>; 1],
}

#[derive(Serialize)]
struct App<'a> {
    id: &'a str,
}

#[derive(Serialize)]
struct Webhook {
    id: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct Event<'a, P> {
    id: &'a str,
    #[serde(rename = "createdAt")]
    created_at: String,
    #[serde(rename = "type")]
    kind: &'a str,
    payload: &'a P,
}

/// The payload of `conversation:message`.
#[derive(Serialize)]
pub struct Message<'a> {
    /// The conversation under its present control.
    pub conversation: View<'a>,
    /// The stored message.
    pub message: &'a RawValue,
}

/// The body of a delivery with one event.
pub fn body<P: Serialize>(app_id: &str, event_id: &str, kind: &str, created_ms: u64, payload: &P) -> Bytes {
    let envelope = Envelope {
        app: App { id: app_id },
        webhook: Webhook { id: WEBHOOK_ID, version: "v2" },
        events: [Event { id: event_id, created_at: timestamp(created_ms), kind, payload }],
    };
    serde_json::to_vec(&envelope).expect("strings and JSON values always serialize").into()
}
