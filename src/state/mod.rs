//! What nodes must agree on beside the queue: which replies were meant and made, who holds a conversation, what was
//! said in it.
//!
//! Nothing here is the only copy of a message. The traits are narrow, so that a node on its own keeps this in a local
//! file and a fleet in Redis; both pass the same contract.

pub mod audit;
pub mod board;
mod bridge;
pub mod budgets;
pub mod cache;
mod config;
#[cfg(test)]
mod contract;
mod local;
pub mod nodes;
pub mod quota;
pub mod redis;
pub mod settings;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    domain::{
        control::Control,
        ids::{ConversationId, EventId, MessageId, UserId},
        job::Job,
        prompt::History,
        reply::Reply,
        time::Timestamp,
        timeline::{Outcome, Timeline},
    },
    store,
};

pub use audit::Audit;
pub use bridge::Bridge;
pub use budgets::Budgets;
pub use config::{Config, Kind, OnLoss, RedisConfig, RedisMode, RetentionConfig};
pub use local::Local;
pub use redis::Redis;
pub use settings::Settings;

/// Why the state could not be asked or changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It is away, or did not answer in time; what was asked may have been done all the same.
    #[error("the state is away: {0}")]
    Away(String),
    /// It refuses, or what it says cannot be understood.
    #[error("state: {0}")]
    Failed(String),
    /// Another node has taken the conversation over; nothing was written.
    #[error("another node has taken the conversation over")]
    Fenced,
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What the ledger knows of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recall {
    /// Nothing was meant or made of it: that is certain.
    New,
    /// Nothing is known, which proves nothing: the message is older than what the ledger remembers. Look first.
    Unknown,
    /// A reply was meant; whether it was posted is not known.
    Intended(Reply),
    /// The customer was told, or was about to be, that there is no answer; a human was to take over. It is not asked
    /// about again.
    Told(Reply),
    /// It has ended.
    Ended(Outcome),
}

/// Whether an intent was entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It was; we may post.
    Ours,
    /// One of the messages is covered by another reply, or has ended.
    Taken(MessageId),
    /// A human holds the conversation; nothing was entered.
    Human(Control),
    /// Another node has taken the conversation over; nothing was entered.
    Lost,
}

/// Tells one owner of a conversation from the next: grows with each claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence(pub u64);

/// For so long Zendesk brings a message again: 15 minutes, and what the last of them takes.
const BROUGHT_AGAIN_WITHIN: Duration = Duration::from_secs(16 * 60);

/// One life of a message, as the ledger is asked about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// The message.
    pub message: MessageId,
    /// 0, and one more with each replay.
    pub replay: u32,
    /// When the fleet first saw it.
    pub first_seen: Timestamp,
    /// Whether this node may have worked on it before.
    pub redelivered: bool,
}

impl Life {
    /// The life that a delivery lives.
    pub fn of(job: &Job, replay: u32, redelivered: bool) -> Self {
        // A state that was lost or brought back meanwhile does not know that it has seen it before. What is older comes
        // for the first time, or its sender's clock is wrong.
        let is_of_now = job.received < job.first_seen && job.first_seen.since(job.received) <= BROUGHT_AGAIN_WITHIN;
        let first_seen = match job.imported {
            // What happened elsewhere no ledger of ours knows, however old it is.
            Some(_) => Timestamp(0),
            None if is_of_now => job.received,
            None => job.first_seen,
        };
        Self { message: job.message.clone(), replay, first_seen, redelivered }
    }
}

/// What a turn of a conversation begins with.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The conversation.
    pub conversation: ConversationId,
    /// The messages in hand.
    pub lives: Vec<Life>,
    /// Their customer, unless that was noted before.
    pub user: Option<UserId>,
    /// Whether the caller knows what is remembered, as long as no other node works on the conversation.
    pub recalled: bool,
    /// Now.
    pub now: Timestamp,
}

/// Whether a conversation may be worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// It may.
    Ours(Ours),
    /// Another node works on it.
    Held {
        /// Which.
        by: String,
    },
}

/// What a turn has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ours {
    /// What the turn's writes are checked against.
    pub fence: Fence,
    /// Whether it was taken from a node that is dead, or seems so: it may have been about to post.
    pub inherited: bool,
    /// What is remembered; `None`: what the caller knows still holds.
    pub remembered: Option<Remembered>,
    /// What is known of each message, in the order asked.
    pub recalls: Vec<Recall>,
}

/// How one message ended, and its story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The event.
    pub id: EventId,
    /// The message.
    pub message: MessageId,
    /// The conversation.
    pub conversation: ConversationId,
    /// Which of its lives ended so.
    #[serde(default)]
    pub replay: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// When.
    pub at: Timestamp,
    /// Why, for messages that were parked, ignored or handed over.
    pub cause: Option<String>,
    /// Its story.
    pub timeline: Timeline,
    /// The ledger's name of the reply, if there was one.
    pub reply: Option<String>,
    /// The reply's text, as long as results are kept.
    #[serde(default)]
    pub text: Option<String>,
}

/// The reply ledger (design rule 5): an intent before a post, the outcome after it; and the lease of the conversation
/// (rule 4), under which both are written.
#[async_trait]
pub trait Ledger {
    /// Begins a turn: claims the conversation and says all that there is to know.
    async fn claim(&self, turn: &Turn) -> Result<Claimed, Error>;

    /// Whether the conversation is still claimed under `fence`.
    async fn is_ours(&self, conversation: &ConversationId, fence: Fence) -> Result<bool, Error>;

    /// Ends the claim; without a fence whatever claim of this node's there is.
    async fn release(&self, conversation: &ConversationId, fence: Option<Fence>) -> Result<(), Error>;

    /// What is known of a message.
    async fn recall(&self, conversation: &ConversationId, life: &Life) -> Result<Recall, Error>;

    /// Enters that `reply` is about to be posted; durable when it returns. What is no answer (a farewell, say) covers
    /// nothing: it is *taken* when it was entered before, and needs no fence.
    async fn intend(&self, reply: &Reply, fence: Option<Fence>) -> Result<Claim, Error>;

    /// Takes an intent back that was never posted.
    async fn revoke(&self, reply: &Reply) -> Result<(), Error>;

    /// Enters how messages of one conversation ended, and what its record says now; written when it returns. Ends the
    /// claim under `fence`; under a stale one it is [`Error::Fenced`].
    async fn conclude(&self, records: Vec<Record>, said: Option<History>, fence: Option<Fence>) -> Result<(), Error>;
}

/// A conversation's message that is being tried again while its followers wait (design rule 9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Away {
    /// The message.
    pub head: MessageId,
    /// When it is expected back.
    pub until: Timestamp,
}

/// What is remembered of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Who holds it.
    pub control: Option<Control>,
    /// What was said; `None`: not known.
    pub history: Option<History>,
    /// Its head, if that is away.
    pub away: Option<Away>,
    /// The conversation it was merged into.
    pub alias: Option<ConversationId>,
    /// Its customer.
    pub user: Option<UserId>,
}

/// What is remembered of conversations.
#[async_trait]
pub trait Memory {
    /// All that is remembered of one.
    async fn remembered(&self, conversation: &ConversationId) -> Result<Remembered, Error>;

    /// Who holds it; cheap, asked right before each post.
    async fn control(&self, conversation: &ConversationId) -> Result<Option<Control>, Error>;

    /// Notes who holds it, unless something newer is known. `true` when the holder changed; then what is known of the
    /// words is out of date, because the other has spoken.
    async fn note_control(&self, conversation: &ConversationId, control: Control) -> Result<bool, Error>;

    /// Which node has it in hand, by its claim, as far as nodes share that.
    async fn claimed_by(&self, _: &ConversationId) -> Result<Option<String>, Error> {
        Ok(None)
    }

    /// Notes that its head is away, or back.
    async fn note_away(&self, conversation: &ConversationId, away: Option<Away>) -> Result<(), Error>;
}

/// What is kept about whom.
#[async_trait]
pub trait Keeping {
    /// How a message ended, by event id or message id; nothing while it lives again. Of one whose customer was forgotten,
    /// that alone.
    async fn record(&self, id: &str) -> Result<Option<Record>, Error>;

    /// How the messages of a conversation ended, the newest first, at most `limit`; without the words of the answers.
    async fn messages_of(&self, conversation: &ConversationId, limit: usize) -> Result<Vec<Record>, Error>;

    /// Keeps the story so far of a message that is not at the end of this life; replaced by the record of its end.
    async fn note_story(&self, job: &Job, replay: u32, story: &Timeline) -> Result<(), Error>;

    /// The story kept so far of a message that is not at its end, in its last life.
    async fn story(&self, message: &str) -> Result<Option<Timeline>, Error>;

    /// Notes that a customer wrote in a conversation `at` that time, so that it can be forgotten with them.
    async fn note_user(&self, conversation: &ConversationId, user: &UserId, at: Timestamp) -> Result<(), Error>;

    /// Moves what is remembered under `from` to `into`.
    async fn merge(&self, from: &ConversationId, into: &ConversationId) -> Result<(), Error>;

    /// The conversations that belong to a customer, as far as that was noted.
    async fn conversations_of(&self, user: &UserId) -> Result<Vec<ConversationId>, Error>;

    /// Forgets a conversation: its words, whatever was said in it, its holder and its customer. How its messages ended
    /// stays known, without their story.
    async fn forget_conversation(&self, conversation: &ConversationId) -> Result<(), Error>;

    /// Throws away what has outlived its retention.
    async fn tidy(&self, now: Timestamp) -> Result<(), Error>;
}

/// When this node was last alive, and what was open then (design rule 18).
#[async_trait]
pub trait Presence {
    /// When the node was last noted to be alive.
    async fn last_alive(&self) -> Result<Option<Timestamp>, Error>;

    /// Notes that the node is alive; returns when it last was.
    async fn alive(&self, now: Timestamp) -> Result<Option<Timestamp>, Error>;

    /// Conversations that we held and in which something was said since `since`, newest first, at most `limit`.
    async fn open_since(&self, since: Timestamp, limit: usize) -> Result<Vec<ConversationId>, Error>;
}

/// Everything that nodes share.
pub trait SharedState: Ledger + Memory + Keeping + Presence + Budgets + Settings + Audit + Send + Sync {}

impl<T: Ledger + Memory + Keeping + Presence + Budgets + Settings + Audit + Send + Sync> SharedState for T {}

/// The state as it is handed around.
pub type Shared = Arc<dyn SharedState>;

/// As the state's implementations keep what is not a column or a field of its own.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the state's types are plain data")
}

/// What cannot be read any more counts as not known.
fn parsed<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::job::Kind;

    #[test]
    fn a_message_that_zendesk_brings_again_is_as_old_as_it_was() {
        let seen = |minutes: i64| {
            let minute = 60_000;
            let (event, message) = (EventId::new("e").unwrap(), MessageId::new("m").unwrap());
            let kind = Kind::Message { text: "hello".into(), user: None, image: None };
            let at = Timestamp(minutes * minute);
            let job =
                Job { received: Timestamp(0), ..Job::new(event, message, ConversationId::new("c").unwrap(), kind, at) };
            Life::of(&job, 0, false).first_seen.0 / minute
        };
        assert_eq!(
            [1, 16, 17, -1].map(seen),
            [0, 0, 17, -1],
            "an old message, or a clock that is wrong, proves nothing"
        );
    }
}
