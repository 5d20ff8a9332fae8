//! Where messages are safe: the queue between the webhook and the answer.
//!
//! A publish returns when its messages are durable. A [`Delivery`] is owned by whoever works on it and is settled once;
//! one that is dropped comes back. Whatever `contract.rs` does not say, callers may not assume.

mod config;
#[cfg(test)]
mod contract;
mod embedded;
pub mod letters;
mod metrics;
mod rabbitmq;
mod upkeep;

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    domain::{
        ids::{ConversationId, UserId},
        job::{self, Job},
        time::Timestamp,
        trace::TraceContext,
    },
    store,
};

pub use config::{Config, EmbeddedConfig, Kind, RabbitmqConfig, SpoolConfig};
pub use embedded::{Embedded, WINDOW};
pub use letters::{Letter, Letters};
pub use metrics::Metrics;
pub use rabbitmq::{Fault, Greeting, Looked, Probe, Rabbitmq};
pub use upkeep::{Peer, Round, Shape, Trouble, Upkeep};

/// What a message belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Answered in, or changing the state of, a conversation: in that conversation's order.
    Chat,
    /// All else.
    Events,
}

/// Where deliveries are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Queue {
    /// One partition of the chat lane.
    Chat(u32),
    /// The events lane.
    Events,
    /// The dead letters that have not been judged yet, of all lanes.
    Dead,
}

/// A message to be made durable.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The lane.
    pub lane: Lane,
    /// The message.
    pub job: Arc<Job>,
    /// Set for what goes straight to the parked letters, for this reason: an event that cannot be understood, or a letter
    /// that was taken over from elsewhere.
    pub parked: Option<Cow<'static, str>>,
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// Stored durably.
    Stored,
    /// The same event was stored before.
    DuplicateEvent,
    /// The same message was stored before under another event id.
    DuplicateMessage,
}

/// Why the broker could not do it. None of these is final: the sender tries again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// `max_messages` or `max_bytes` is reached.
    #[error("the queue is full: {0} is reached")]
    Full(&'static str),
    /// The disk is full, or takes nothing more.
    #[error("the disk under the queue is full or cannot be written")]
    DiskFull,
    /// The delivery is no longer ours; whoever holds it now settles it.
    #[error("the delivery belongs to somebody else now")]
    Lost,
    /// A letter that no new life can help: it is none of ours, or could not be understood.
    #[error("the letter cannot be replayed")]
    Unreplayable,
    /// The place in a list of letters was not told by one.
    #[error("the list has no such place")]
    NoSuchPlace,
    /// Anything else.
    #[error("queue: {0}")]
    Store(String),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Full => Self::DiskFull,
            other => Self::Store(other.to_string()),
        }
    }
}

/// What lies in the queue of a customer who is to be forgotten.
pub struct Forgotten {
    /// What was in nobody's hand.
    pub deliveries: Vec<Delivery>,
    /// How many of their messages somebody has in hand.
    pub in_hand: usize,
}

/// The queue. Two implementations pass one contract: the embedded one and RabbitMQ.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Makes messages durable and answers for each, in order, once they are. A message whose event id or message id
    /// was stored before is not stored again, unless it was imported: it may have gone since, and be brought back.
    async fn publish(&self, messages: Vec<Publication>) -> Result<Vec<Published>, Error>;

    /// Waits for deliveries and takes at most `room` of them, in the order of publication; of one conversation at
    /// most its share of the window. Dropping the future loses nothing.
    async fn take(&self, queue: Queue, room: usize) -> Result<Vec<Delivery>, Error>;

    /// Where a message is, by event id or message id, as long as it is kept.
    async fn find(&self, id: &str) -> Result<Option<Found>, Error>;

    /// Whether another message could be stored now; writes to find out. A broker that cannot tell says yes.
    async fn can_store(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Takes in hand whatever lies here of a customer in nobody's hand, whatever its standing. Each is to be acked once
    /// its end has been recorded; one that is given back stands where it stood.
    async fn forget(&self, whose: &Whose) -> Result<Forgotten, Error>;

    /// How much lies where. Costs no I/O.
    fn counts(&self) -> Vec<Count>;

    /// Throws away what has outlived its retention, and memories of ids older than Zendesk's retries.
    async fn tidy(&self) -> Result<(), Error>;
}

/// Whose messages are to be removed.
#[derive(Debug, Clone)]
pub struct Whose {
    /// The customer.
    pub user: UserId,
    /// The conversations known to be theirs.
    pub conversations: Vec<ConversationId>,
}

impl Whose {
    /// Whether a message is theirs: it lies in a conversation of theirs, they wrote it, or it could not be understood
    /// and names them.
    pub fn owns(&self, job: &Job) -> bool {
        let wrote = match &job.kind {
            job::Kind::Message { user, .. } | job::Kind::Postback { user, .. } => user.as_ref() == Some(&self.user),
            job::Kind::Unusable { raw } => raw.contains(&format!("\"{}\"", self.user)),
            _ => false,
        };
        wrote || self.conversations.contains(&job.conversation)
    }
}

/// The states a message can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Waits to be taken.
    Ready,
    /// In somebody's hand.
    InHand,
    /// Waits for its time.
    Delayed,
    /// Failed; not judged yet.
    Dead,
    /// Failed for good, until somebody replays or discards it.
    Parked,
}

impl Standing {
    /// The standing as label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::InHand => "in_hand",
            Self::Delayed => "delayed",
            Self::Dead => "dead",
            Self::Parked => "parked",
        }
    }
}

impl Lane {
    /// The lane as label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Events => "events",
        }
    }
}

/// A number of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// The lane.
    pub lane: Lane,
    /// The standing.
    pub standing: Standing,
    /// How many.
    pub messages: u64,
    /// When the oldest of the lane's ready messages was taken in, if known.
    pub oldest: Option<Timestamp>,
}

/// A message found in the queue.
#[derive(Debug, Clone)]
pub struct Found {
    /// The message.
    pub job: Arc<Job>,
    /// Its lane.
    pub lane: Lane,
    /// Where it stands.
    pub standing: Standing,
    /// Tries spent.
    pub tries: u32,
    /// Why it failed, if it did.
    pub reason: Option<String>,
}

/// What happens to a delivery in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// It is done with.
    Ack,
    /// It comes again after a pause; no try is counted.
    Retry(Duration),
    /// It failed: to the dead letters, a try is counted.
    Bury {
        /// Why.
        why: String,
        /// The attempt's span, if its way is traced.
        attempt: Option<TraceContext>,
    },
    /// It failed for good.
    Park(String),
}

/// What a broker does to settle one delivery.
#[async_trait]
pub trait Settle: Send + Sync {
    /// Settles it.
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), Error>;

    /// Puts it back at once, as if it had not been taken. Called when a delivery is dropped.
    fn give_back(self: Box<Self>);

    /// Whether it is, or is about to be, somebody else's, so that nothing is to be begun with it.
    fn is_withdrawn(&self) -> bool {
        false
    }
}

/// A message in hand. Settled once; one that is dropped comes back.
#[must_use = "a delivery that is not settled comes back"]
pub struct Delivery {
    /// The message.
    pub job: Arc<Job>,
    /// The lane it belongs to.
    pub lane: Lane,
    /// Tries spent on it so far.
    pub tries: u32,
    /// Which life it lives: 0, and one more with each replay.
    pub replay: u32,
    /// Whether somebody may have worked on it before.
    pub redelivered: bool,
    /// Why it failed last.
    pub reason: Option<String>,
    /// The span of the attempt that is under way, if its way is traced; kept when it fails.
    pub attempt: Option<TraceContext>,
    settle: Option<Box<dyn Settle>>,
}

impl Delivery {
    /// Puts a delivery together; for brokers.
    pub fn new(job: Arc<Job>, lane: Lane, settle: Box<dyn Settle>) -> Self {
        Self { job, lane, tries: 0, replay: 0, redelivered: false, reason: None, attempt: None, settle: Some(settle) }
    }

    /// Ends it: whatever was to be done has been done.
    pub async fn ack(self) -> Result<(), Error> {
        self.settle(Settlement::Ack).await
    }

    /// Lets it come again after a pause; no try is counted.
    pub async fn retry(self, after: Duration) -> Result<(), Error> {
        self.settle(Settlement::Retry(after)).await
    }

    /// Sends it to the dead letters; a try is counted. `why` holds no text of a customer.
    pub async fn bury(self, why: &str) -> Result<(), Error> {
        let attempt = self.attempt;
        self.settle(Settlement::Bury { why: why.to_owned(), attempt }).await
    }

    /// Gives it up for good.
    pub async fn park(self, why: &str) -> Result<(), Error> {
        self.settle(Settlement::Park(why.to_owned())).await
    }

    /// Whether it is, or is about to be, somebody else's: nothing is to be begun with it any more.
    pub fn is_withdrawn(&self) -> bool {
        self.settle.as_ref().is_some_and(|settle| settle.is_withdrawn())
    }

    async fn settle(mut self, how: Settlement) -> Result<(), Error> {
        match self.settle.take() {
            Some(settle) => settle.settle(how).await,
            None => Err(Error::Lost),
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(settle) = self.settle.take() {
            settle.give_back();
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("id", &self.job.id).field("tries", &self.tries).finish_non_exhaustive()
    }
}
