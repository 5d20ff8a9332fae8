//! What the inspector tells.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::{
    actors::{explain, roster::Snapshot},
    broker::Standing,
    domain::{
        control::Holder,
        ids::{ConversationId, EventId, MessageId},
        time::{Timestamp, rfc3339},
        timeline::{Outcome, Stage, Timeline},
    },
    state::Record,
};

/// What is known of a message.
#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum MessageView {
    /// It is in the queue.
    Queued {
        /// The event.
        id: String,
        /// In a sentence, why it has not been answered yet.
        explanation: String,
        /// The message.
        message_id: String,
        /// The conversation.
        conversation_id: String,
        /// Where it stands.
        standing: Standing,
        /// What is being done with it, if it is in hand.
        phase: Option<String>,
        /// Tries spent.
        tries: u32,
        /// Why it failed last.
        reason: Option<String>,
        /// When it was accepted, RFC 3339.
        accepted_at: String,
        /// Its story, over all its tries.
        timeline: Vec<EntryView>,
    },
    /// It has ended.
    Ended(#[serde(serialize_with = "ended")] Record),
}

/// A conversation that is alive, in a line.
#[derive(Debug, Serialize, ToSchema)]
pub struct AliveView {
    /// The conversation.
    pub id: String,
    /// Messages that wait behind the one in hand.
    pub waiting: usize,
    /// What is being done with what it has in hand.
    pub phase: Option<String>,
    /// Since when the customer has been waiting, RFC 3339.
    pub waiting_since: Option<String>,
    /// The same in milliseconds.
    pub waiting_ms: Option<u64>,
    /// How often its actor failed.
    pub restarts: u64,
    /// In a sentence, what it waits for.
    pub explanation: String,
}

/// What is known of a conversation.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConversationView {
    /// The conversation.
    pub id: String,
    /// In a sentence, why there is no answer, or how it came to rest.
    pub explanation: String,
    /// Its customer.
    pub customer_id: Option<String>,
    /// Who holds it.
    pub holder: Option<Holder>,
    /// The conversation it was merged into.
    pub merged_into: Option<String>,
    /// Its actor, if it is alive on this node.
    pub actor: Option<Snapshot>,
    /// What waits or is in hand here, in order.
    pub waiting: Vec<WaitingView>,
    /// What has ended, the newest first.
    pub ended: Vec<EndedSummary>,
}

/// A message that waits.
#[derive(Debug, Serialize, ToSchema)]
pub struct WaitingView {
    pub(super) message_id: String,
    pub(super) accepted_at: String,
    pub(super) tries: u32,
    pub(super) explanation: String,
}

/// A message that has ended, in a line.
#[derive(Debug, Serialize, ToSchema)]
pub struct EndedSummary {
    pub(super) message_id: String,
    pub(super) outcome: Outcome,
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub(super) at: Timestamp,
    pub(super) explanation: String,
}

impl EndedSummary {
    pub(super) fn of(record: &Record) -> Self {
        Self {
            message_id: record.message.to_string(),
            outcome: record.outcome,
            at: record.at,
            explanation: explain::ended(record),
        }
    }
}

/// One entry of a timeline, dated for people.
#[derive(Debug, Serialize)]
pub struct EntryView {
    #[serde(with = "rfc3339")]
    pub(super) at: Timestamp,
    #[serde(flatten)]
    pub(super) stage: Stage,
}

pub(super) fn story(timeline: &Timeline) -> Vec<EntryView> {
    timeline.entries().iter().map(|entry| EntryView { at: entry.at, stage: entry.stage.clone() }).collect()
}

/// A record as people read it; its text is not theirs.
#[derive(Serialize)]
struct EndedView<'a> {
    id: &'a EventId,
    pub(super) explanation: String,
    pub(super) message_id: &'a MessageId,
    conversation_id: &'a ConversationId,
    pub(super) outcome: Outcome,
    #[serde(with = "rfc3339")]
    pub(super) at: Timestamp,
    cause: Option<&'a str>,
    timeline: Vec<EntryView>,
    reply: Option<&'a str>,
}

fn ended<S: Serializer>(record: &Record, serializer: S) -> Result<S::Ok, S::Error> {
    let view = EndedView {
        id: &record.id,
        explanation: explain::ended(record),
        message_id: &record.message,
        conversation_id: &record.conversation,
        outcome: record.outcome,
        at: record.at,
        cause: record.cause.as_deref(),
        timeline: story(&record.timeline),
        reply: record.reply.as_deref(),
    };
    view.serialize(serializer)
}
