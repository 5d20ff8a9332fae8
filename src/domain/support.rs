//! Event webhooks of Zendesk Support: another system than messaging, with a body of its own.

use super::{
    fields::{lenient, raw_object},
    ids::{ConversationId, EventId, MessageId},
    job::{Job, Kind},
    time::Timestamp,
};

raw_object! { RawSupport { id: "id", kind: "type", subject: "subject", time: "time" } }

/// Reads a Support webhook whose signature has been checked. Whatever it holds is kept: `invocation` (the header
/// `X-Zendesk-Webhook-Invocation-Id`) names it, else the event's own id, else a digest of its bytes made by the caller.
pub fn job(body: &[u8], invocation: Option<&str>, digest: &str, now: Timestamp) -> Job {
    let event: RawSupport<'_> = serde_json::from_slice(body).unwrap_or_default();
    let named = |id: &str| EventId::new(&format!("support:{id}")).ok();
    let id = invocation
        .and_then(named)
        .or_else(|| lenient::<String>(event.id).as_deref().and_then(named))
        .or_else(|| named(digest))
        .expect("a digest is printable and short");
    let subject: Option<String> = lenient(event.subject);
    let conversation = subject.as_deref().and_then(|it| ConversationId::new(it).ok());
    let received = lenient::<String>(event.time).and_then(|text| Timestamp::parse(&text)).unwrap_or(now);
    let message = MessageId::new(id.as_str()).expect("an event id is a message id");
    let conversation = conversation.unwrap_or_else(|| ConversationId::new(id.as_str()).expect("an event id is an id"));
    let kind = Kind::Support { event_type: lenient(event.kind).unwrap_or_else(|| "unknown".into()) };
    Job { received, ..Job::new(id, message, conversation, kind, now) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_support_event_is_named_by_its_invocation_then_its_id_then_its_bytes() {
        let body = br#"{"id":"2c9e","type":"zen:event-type:user.created","subject":"zen:user:9"}"#;
        assert_eq!(job(body, Some("01JQ"), "d1", Timestamp(1)).id.as_str(), "support:01JQ");
        assert_eq!(job(body, None, "d1", Timestamp(1)).id.as_str(), "support:2c9e");
        assert_eq!(job(b"", None, "d1", Timestamp(1)).id.as_str(), "support:d1");
        assert_eq!(job(body, None, "d1", Timestamp(1)).conversation.as_str(), "zen:user:9");
    }
}
