//! Admits what webhooks bring and makes it durable, many deliveries with one sync.
//!
//! What waits to be stored lies at a desk outside the actor. If the actor fails with it, nobody has been answered 200
//! yet: the sender hears 503 and tries again. Supervised by `ingress`.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use super::{KillPoint, Parts, budget::Share, roster::Card};
use crate::{
    broker::{Error, Lane, Publication, Published},
    guard::bell::Bell,
    telemetry::Clock,
};

/// Messages stored with one sync at the most.
const BATCH_MAX: usize = 512;

/// Deliveries that may wait at one desk; further ones are refused. At full speed a tenth of a second's worth.
const WAITING_MAX: usize = 4_096;

/// A delivery that is not stored after this long is refused, so that its sender hears something: Zendesk waits 20 s in
/// all. Stored late all the same, it is known when it comes again.
pub const STORED_WITHIN: Duration = Duration::from_secs(10);

/// A sender whose body has left less time than this proves nothing about the store.
const TELLING: Duration = Duration::from_millis(500);

/// When the sender may try again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Deliveries admitted, for which somebody waits.
struct Admission {
    messages: Vec<Publication>,
    answer: oneshot::Sender<Result<Vec<Published>, Error>>,
    /// Held until it is stored, also when nobody waits any more.
    share: Share,
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
pub struct Desk {
    clock: Clock,
    waiting: Mutex<VecDeque<Admission>>,
    tried: Mutex<Option<(Duration, bool)>>,
    bell: Bell,
}

impl Desk {
    /// Begins with nothing on it.
    pub fn new(clock: Clock) -> Self {
        Self { clock, waiting: Mutex::default(), tried: Mutex::default(), bell: Bell::default() }
    }

    /// Hands a delivery in and waits until it is durable, cannot be stored, or the time is over. `share`: what its
    /// bytes take of the budget.
    pub async fn admit(&self, messages: Vec<Publication>, share: Share, within: Duration) -> Result<Admitted, Refusal> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= WAITING_MAX {
                return Err(Refusal::new("too many deliveries wait to be stored"));
            }
            waiting.push_back(Admission { messages, answer, share });
        }
        self.bell.ring();
        let Ok(answered) = tokio::time::timeout(within, answered).await else {
            if within >= TELLING {
                self.note(false);
            }
            return Err(Refusal::new("storing takes too long"));
        };
        let stored = answered.map_err(|_| Refusal::new("storing was interrupted"))?;
        stored.map_err(Refusal::new)
    }

    /// When (monotonic) storing was tried last, and whether it worked; `None` before the first delivery.
    pub fn tried_last(&self) -> Option<(Duration, bool)> {
        *self.tried.lock()
    }

    /// Notes whether something could be stored.
    pub fn note(&self, stored: bool) {
        *self.tried.lock() = Some((self.clock.monotonic(), stored));
    }

    /// Whether the last delivery at any of the desks could not be stored.
    pub(super) fn are_refusing(desks: &[Arc<Self>]) -> bool {
        let last = desks.iter().filter_map(|desk| desk.tried_last()).max();
        last.is_some_and(|(_, stored)| !stored)
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
            waiting.push((admission.answer, admission.messages.len(), admission.share));
            messages.extend(admission.messages);
        }
        let parked: Vec<_> = messages.iter().map(|message| message.parked.clone()).collect();
        let stored = self.parts.broker.publish(messages).await;
        self.parts.faults.kill_point(KillPoint::AfterStore);
        self.desk.note(stored.is_ok());
        let is_stored = |published: &&Published| **published == Published::Stored;
        self.parts.pulse.accepted(stored.iter().flatten().filter(is_stored).count() as u64);
        for (published, parked) in stored.iter().flatten().zip(parked) {
            if let (Published::Stored, Some(reason)) = (published, parked) {
                // It lies among the parked letters already.
                self.parts.metrics.buried(Lane::Events, &format!("unusable: {reason}"));
            }
        }
        let mut outcomes = stored.as_ref().map(|outcomes| outcomes.iter().copied()).map_err(Clone::clone);
        for (answer, size, _share) in waiting {
            let outcome = match &mut outcomes {
                Ok(outcomes) => Ok(outcomes.by_ref().take(size).collect()),
                Err(error) => Err(error.clone()),
            };
            // Who does not wait any more will send it again; it is known by then.
            let _ = answer.send(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        actors::Budget,
        domain::{support, time::Timestamp},
    };

    #[tokio::test(start_paused = true)]
    async fn a_delivery_that_nobody_stores_is_refused_in_time_and_counts_as_a_refusal() {
        let clock = Clock::system();
        let (desk, budget) = (Desk::new(clock.clone()), Budget::new(10));
        let mut share = budget.nothing();
        assert!(share.cover(10));
        let job = support::job(b"{}", None, "digest", Timestamp(1));
        let publication = Publication { lane: Lane::Events, job: Arc::new(job), parked: None };
        let began = clock.monotonic();
        let refused = desk.admit(vec![publication], share, STORED_WITHIN).await.unwrap_err();
        assert_eq!(clock.monotonic() - began, STORED_WITHIN, "{refused}");
        assert_eq!(desk.tried_last().map(|(_, stored)| stored), Some(false));
        assert!(!budget.nothing().cover(1), "it still waits to be stored");
        desk.next_batch();
        assert!(budget.nothing().cover(10));
    }
}
