//! What is kept for each accepted event until it is settled.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    control::Holder,
    ids::{ConversationId, EventId, MessageId, UserId},
    time::Timestamp,
    trace::{self, TraceContext},
};

/// One accepted event, as it lies in the queue. The JSON form is versioned by `v`; a newer node reads older forms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Version of the stored form.
    pub v: u8,
    /// The event's id; the message's id where the event came without one. Names the task (`/v1/tasks/{id}`).
    pub id: EventId,
    /// The message's id; the event's id for events that carry no message. Replies are marked with it.
    pub message: MessageId,
    /// The conversation whose order this belongs to; for `user:*` events the user's id stands here.
    pub conversation: ConversationId,
    /// The Zendesk app the event came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The brand, as far as the event named one (the cache's tenant).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brand: Option<String>,
    /// What happened.
    pub kind: Kind,
    /// `message.received`, else `createdAt`, else the time of arrival: the first part of the order.
    pub received: Timestamp,
    /// Position in the delivery: the second part of the order.
    pub position: u32,
    /// When this node took the event.
    pub first_seen: Timestamp,
    /// When an operator gave it the life it lives now, if one did: its deadline counts from then (design rule 14).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed: Option<Timestamp>,
    /// Which life it lived where it was exported, if it was taken over from elsewhere: its next one is counted from there,
    /// and what became of it there is not in our ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<u32>,
    /// The span in which it was sent to the queue, if its way is traced: parent of every attempt, on whatever node.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "trace::lenient")]
    pub trace: Option<TraceContext>,
    /// The span of the first attempt that failed; later ones link to it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "trace::lenient")]
    pub first_attempt: Option<TraceContext>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// A customer wrote.
    Message {
        /// The text, or the line that stands for an image, file, location or form.
        text: String,
        /// The customer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserId>,
        /// Where an image lies, for models that take images.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image: Option<String>,
    },
    /// A customer pressed a button.
    Postback {
        /// What the button stands for, with its title if known.
        text: String,
        /// The customer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserId>,
    },
    /// The switchboard gave the conversation to somebody.
    Control {
        /// The new holder.
        holder: Holder,
        /// Whether a hand-over failed (`switchboard:*:failure`).
        failed: bool,
    },
    /// Two users, and with them two conversations, became one. Travels in the surviving conversation.
    Merge {
        /// The conversation that ceased.
        discarded: Option<ConversationId>,
        /// The user that ceased.
        discarded_user: Option<UserId>,
        /// The user that stays.
        surviving_user: Option<UserId>,
    },
    /// A conversation was removed.
    ConversationRemoved,
    /// A customer was removed: whatever is kept of them is forgotten.
    UserRemoved {
        /// The customer.
        user: UserId,
    },
    /// A message of ours reached, or failed to reach, its channel.
    DeliveryReport {
        /// Whether it failed.
        failed: bool,
        /// Zendesk's code of the failure.
        code: Option<String>,
    },
    /// An event of Zendesk Support, kept as received.
    Support {
        /// The event's type, such as `zen:event-type:ticket.status_changed`.
        event_type: String,
    },
    /// An event that could not be understood; its bytes, as far as UTF-8, are kept for the dead letters.
    Unusable {
        /// The raw event.
        raw: String,
    },
}

impl Kind {
    /// The same without what a customer wrote.
    pub fn without_words(self) -> Self {
        match self {
            Self::Message { user, .. } => Self::Message { text: String::new(), user, image: None },
            Self::Postback { user, .. } => Self::Postback { text: String::new(), user },
            Self::Unusable { .. } => Self::Unusable { raw: String::new() },
            told => told,
        }
    }
}

impl Kind {
    /// The customer this event is about, where it names one.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::Message { user, .. } | Self::Postback { user, .. } => user.as_ref(),
            Self::UserRemoved { user } => Some(user),
            Self::Merge { surviving_user, .. } => surviving_user.as_ref(),
            _ => None,
        }
    }

    /// The customer's words, where there are any to answer.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Message { text, .. } | Self::Postback { text, .. } => Some(text),
            _ => None,
        }
    }
}

impl Job {
    /// The version this build writes.
    pub const VERSION: u8 = 1;

    /// One in its first life, alone in its delivery, received and first seen `at` this moment, of no app or brand.
    pub fn new(id: EventId, message: MessageId, conversation: ConversationId, kind: Kind, at: Timestamp) -> Self {
        Self {
            v: Self::VERSION,
            id,
            message,
            conversation,
            app: None,
            brand: None,
            kind,
            received: at,
            position: 0,
            first_seen: at,
            replayed: None,
            imported: None,
            trace: None,
            first_attempt: None,
        }
    }

    /// The same message after an attempt that failed, with the first one's span.
    pub fn attempted(self: &Arc<Self>, attempt: Option<TraceContext>) -> Arc<Self> {
        match attempt {
            Some(_) if self.first_attempt.is_none() => Arc::new(Self { first_attempt: attempt, ..(**self).clone() }),
            _ => self.clone(),
        }
    }

    /// The same message at the beginning of a new life.
    pub fn replayed(&self, now: Timestamp) -> Self {
        Self { replayed: Some(now), ..self.clone() }
    }

    /// What replies of one conversation are ordered by (G3).
    pub fn order(&self) -> (Timestamp, u32) {
        (self.received, self.position)
    }
}
