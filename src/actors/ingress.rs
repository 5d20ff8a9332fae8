//! Admits what webhooks bring and makes it durable, many deliveries with one sync.
//!
//! What waits to be stored lies at a desk outside the actor. If the actor fails with it, nobody has been answered 200
//! yet: the sender hears 503 and tries again. Supervised by `ingress`.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use super::{KillPoint, Parts, roster::Card};
use crate::{
    broker::{Error, Publication, Published},
    guard::bell::Bell,
};

/// Messages stored with one sync at the most.
const BATCH_MAX: usize = 512;

/// Deliveries that may wait at one desk; further ones are refused. At full speed a tenth of a second's worth.
const WAITING_MAX: usize = 4_096;

/// When the sender may try again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Deliveries admitted, for which somebody waits.
struct Admission {
    messages: Vec<Publication>,
    answer: oneshot::Sender<Result<Vec<Published>, Error>>,
}

/// What became of each message of a delivery, in order.
pub type Admitted = Vec<Published>;

/// Why a delivery was not stored; the sender is told to try again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{cause}")]
pub struct Refusal {
    /// The cause, for the log and the answer.
    pub cause: String,
    /// When to try again.
    pub retry_after: Duration,
}

impl Refusal {
    fn new(cause: impl ToString) -> Self {
        Self { cause: cause.to_string(), retry_after: RETRY_AFTER }
    }
}

/// Where deliveries wait to be stored.
#[derive(Default)]
pub struct Desk {
    waiting: Mutex<VecDeque<Admission>>,
    /// When (monotonic) nothing could be stored, unless something has been since.
    refused_at: Mutex<Option<Duration>>,
    bell: Bell,
}

impl Desk {
    /// Hands a delivery in and waits until it is durable, or cannot be stored.
    pub async fn admit(&self, messages: Vec<Publication>) -> Result<Admitted, Refusal> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= WAITING_MAX {
                return Err(Refusal::new("too many deliveries wait to be stored"));
            }
            waiting.push_back(Admission { messages, answer });
        }
        self.bell.ring();
        let stored = answered.await.map_err(|_| Refusal::new("storing was interrupted"))?;
        stored.map_err(Refusal::new)
    }

    /// Whether deliveries can be stored, as far as the last ones tell. After a while without any it is worth a try.
    pub fn can_store(&self, now: Duration) -> bool {
        self.refused_at.lock().is_none_or(|at| now.saturating_sub(at) > RETRY_AFTER)
    }

    fn next_batch(&self) -> Vec<Admission> {
        let mut waiting = self.waiting.lock();
        let mut messages = 0;
        let mut batch = Vec::new();
        while let Some(next) = waiting.front() {
            messages += next.messages.len();
            if messages > BATCH_MAX && !batch.is_empty() {
                break;
            }
            batch.extend(waiting.pop_front());
        }
        batch
    }
}

/// The actor at one desk.
pub(super) struct Ingress {
    pub parts: Arc<Parts>,
    pub card: Arc<Card>,
    pub desk: Arc<Desk>,
}

/// What it is told.
pub(super) enum Message {
    /// Look at the desk.
    Bell,
}

impl Actor for Ingress {
    type Msg = Message;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_start(&self, myself: ActorRef<Message>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        for bell in [&self.desk.bell, &self.card.bell] {
            let myself = myself.clone();
            // One who cannot be reached has failed; its successor looks at the desk first.
            bell.connect(move || drop(myself.cast(Message::Bell)));
        }
        Ok(myself.cast(Message::Bell)?)
    }

    async fn handle(&self, _: ActorRef<Message>, message: Message, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Bell => self.store().await,
        }
    }
}

impl Ingress {
    async fn store(&self) -> Result<(), ActorProcessingErr> {
        self.card.meet_fault().await?;
        loop {
            let batch = self.desk.next_batch();
            if batch.is_empty() {
                return Ok(());
            }
            let _in_hand = self.card.begin("storing");
            self.card.handled(batch.len() as u64);
            self.store_batch(batch).await;
        }
    }

    async fn store_batch(&self, batch: Vec<Admission>) {
        let mut messages = Vec::new();
        let mut waiting = Vec::with_capacity(batch.len());
        for admission in batch {
            waiting.push((admission.answer, admission.messages.len()));
            messages.extend(admission.messages);
        }
        let stored = self.parts.broker.publish(messages).await;
        self.parts.faults.kill_point(KillPoint::AfterStore);
        *self.desk.refused_at.lock() = stored.is_err().then(|| self.parts.clock.monotonic());
        let mut outcomes = stored.as_ref().map(|outcomes| outcomes.iter().copied()).map_err(Clone::clone);
        for (answer, size) in waiting {
            let outcome = match &mut outcomes {
                Ok(outcomes) => Ok(outcomes.by_ref().take(size).collect()),
                Err(error) => Err(error.clone()),
            };
            // Who does not wait any more will send it again; it is known by then.
            let _ = answer.send(outcome);
        }
    }
}
