//! A message is taken when RabbitMQ has confirmed it or when it is in the spool, whichever comes first; the spool is
//! forwarded whenever RabbitMQ takes messages.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use lapin::BasicProperties;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use super::{
    Inner,
    envelope::Envelope,
    publisher::{Confirm, Outgoing, Unconfirmed},
    seen::{self, Seen},
    spool::{Item, Place, Spool, Spooled},
};
use crate::broker::{Config, Error, Lane, Publication, Published, Standing};

/// Messages forwarded at once.
const BATCH: usize = 256;

/// Batches of one place in one round.
const BATCHES_MAX: usize = 16;

/// An empty spool is looked at this often, so that who goes the rounds shows signs of life.
const LOOK_FOR: Duration = Duration::from_millis(500);

/// How long what is under way may take beyond its confirm when all ends: it may have to be spooled.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// Pause after something could not be forwarded.
const PAUSE: Duration = Duration::from_millis(300);

/// How this node's messages reach the queue.
pub struct Publishing {
    spool: Option<Arc<Spool>>,
    /// Off: an earlier time's spool is forwarded, nothing is added.
    enabled: bool,
    confirm_within: Duration,
    /// The server did not confirm in time; until it has taken something from the spool nobody waits for it.
    stalled: AtomicBool,
    /// What lies in the spool and is larger than the server takes, as the last round found it.
    oversized: AtomicU64,
    seen: Seen,
    /// Numbers in the spool of what was forwarded and is not deleted yet.
    sent: tokio::sync::Mutex<Vec<i64>>,
    tasks: TaskTracker,
}

/// What is not known to be safe, and the confirm it may still get.
struct Unsafe {
    item: Item,
    why: Unconfirmed,
    late: Option<Confirm>,
}

impl Publishing {
    /// Opens the spool if there is to be one.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let (config, confirm_timeout) = (&config.spool, config.rabbitmq.confirm_timeout);
        let wanted = config.enabled || Spool::exists(config);
        let spool = if wanted { Some(Arc::new(Spool::open(config)?)) } else { None };
        let seen = Seen::default();
        if let Some(spool) = &spool {
            seen.remember(&spool.last_ids(seen::IDS_MAX / 2)?);
        }
        Ok(Self {
            spool,
            enabled: config.enabled,
            // Nobody is told sooner that it is not confirmed when there is nowhere else to keep it.
            confirm_within: if config.enabled { config.confirm_within } else { confirm_timeout },
            stalled: AtomicBool::new(false),
            oversized: AtomicU64::new(0),
            seen,
            sent: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// The spool, also one that takes nothing more.
    pub fn spool(&self) -> Option<&Arc<Spool>> {
        self.spool.as_ref()
    }

    /// The spool, if messages may be added to it.
    pub fn open_spool(&self) -> Option<&Arc<Spool>> {
        self.spool.as_ref().filter(|_| self.enabled)
    }

    /// How many messages stay in the spool because RabbitMQ does not take what is so large.
    pub fn oversized(&self) -> u64 {
        self.oversized.load(Ordering::Relaxed)
    }

    /// A round has found so many.
    fn note_oversized(&self, many: u64) {
        if self.oversized.swap(many, Ordering::Relaxed) < many {
            tracing::error!(
                messages = many,
                "RabbitMQ does not take messages that are so large; they stay in the spool until its max_message_size is raised and it is started again"
            );
        }
    }

    /// Waits for what is under way, but not longer than the slowest confirm may take.
    pub async fn end(&self) {
        self.tasks.close();
        if timeout(self.confirm_within + ENDS_WITHIN, self.tasks.wait()).await.is_err() {
            tracing::warn!("publications are still under way; what RabbitMQ does not confirm stays in the spool");
        }
    }

    /// Begins what is waited for at the end.
    pub fn begin(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// Runs to its end although whoever asked may be gone.
    pub async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        self.tasks.spawn(work).await.unwrap_or_else(|_| Err(Error::Store("publishing broke off".into())))
    }
}

impl Inner {
    /// Makes messages durable, those that are new.
    pub(super) async fn take_in(&self, messages: Vec<Publication>) -> Result<Vec<Published>, Error> {
        let (claim, outcomes) = self.publishing.seen.claim(&messages).await;
        let new = messages.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == Published::Stored);
        self.store(new.map(|(message, _)| self.item(message)).collect()).await?;
        claim.keep();
        Ok(outcomes)
    }

    async fn store(&self, items: Vec<Item>) -> Result<(), Error> {
        let Some(spool) = self.publishing.open_spool() else {
            if self.publishing.spool().is_some_and(|spool| items.iter().any(|item| spool.holds(item.place))) {
                return Err(Error::Store("what an earlier time has spooled goes first".into()));
            }
            let failed = self.send_within(items).await.into_iter().next();
            return failed.map_or(Ok(()), |failed| Err(failed.why.into()));
        };
        let takes = self.takes_messages() && !self.publishing.stalled.load(Ordering::Relaxed);
        let (direct, aside): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| takes && !spool.holds(item.place));
        let (spooled, failed) = tokio::join!(spool.append(aside), self.send_within(direct));
        spooled?;
        let (items, late): (Vec<_>, Vec<_>) = failed.into_iter().map(|failed| (failed.item, failed.late)).unzip();
        let seqs = spool.append(items).await?;
        for (seq, late) in seqs.into_iter().zip(late) {
            let Some(late) = late else { continue };
            let spool = spool.clone();
            self.publishing.tasks.spawn(async move {
                if late.await == Ok(Ok(()))
                    && let Err(error) = spool.remove(vec![seq]).await
                {
                    tracing::warn!(%error, "a message confirmed late stays in the spool and is sent twice");
                }
            });
        }
        Ok(())
    }

    /// Sends all and waits for their confirms for a while; returns what is not confirmed by then.
    async fn send_within(&self, items: Vec<Item>) -> Vec<Unsafe> {
        let until = Instant::now() + self.publishing.confirm_within;
        let outgoing = items.iter().map(|item| self.outgoing(item)).collect();
        let Ok(confirms) = timeout_at(until, self.publisher.send(outgoing)).await else {
            self.publishing.stalled.store(true, Ordering::Relaxed);
            return items.into_iter().map(|item| Unsafe { item, why: Unconfirmed::Lost, late: None }).collect();
        };
        let mut failed = Vec::new();
        for (item, mut confirm) in items.into_iter().zip(confirms) {
            match timeout_at(until, &mut confirm).await {
                Ok(Ok(Ok(()))) => self.enter(&item),
                Ok(outcome) => {
                    let why = outcome.unwrap_or(Err(Unconfirmed::Lost)).err().unwrap_or(Unconfirmed::Lost);
                    failed.push(Unsafe { item, why, late: None });
                }
                Err(_) => {
                    self.publishing.stalled.store(true, Ordering::Relaxed);
                    failed.push(Unsafe { item, why: Unconfirmed::Lost, late: Some(confirm) });
                }
            }
        }
        failed
    }

    /// A round of the forwarder: what is spooled is sent in order, place by place, and deleted when it is confirmed. Nothing
    /// is deleted behind what was not confirmed, so that it is sent again in its order.
    pub(super) async fn forward(&self) -> Result<(), Error> {
        let Some(spool) = self.publishing.spool() else {
            sleep(LOOK_FOR).await;
            return Ok(());
        };
        if timeout(LOOK_FOR, spool.filled()).await.is_err() {
            return Ok(());
        }
        let forwarded = self.forward_all(spool).await;
        // What is here is not on the disk yet, cannot be sent, or cannot be deleted.
        if !matches!(forwarded, Ok(true)) {
            sleep(PAUSE).await;
        }
        forwarded.map(drop)
    }

    /// Returns whether anything was forwarded.
    async fn forward_all(&self, spool: &Spool) -> Result<bool, Error> {
        // What could not be deleted is not sent once more.
        let mut sent = self.publishing.sent.lock().await;
        spool.remove(sent.clone()).await?;
        sent.clear();
        let (mut any, mut oversized) = (false, 0);
        for place in spool.places() {
            let mut after = 0;
            for _ in 0..BATCHES_MAX {
                if !self.takes_messages() {
                    return Ok(any);
                }
                let batch = spool.next(place, after, BATCH).await?;
                let Some(last) = batch.last() else { break };
                after = last.seq;
                let is_held_up = self.send_in_order(&batch, &mut sent, &mut oversized).await;
                any |= !sent.is_empty();
                spool.remove(sent.clone()).await?;
                sent.clear();
                if is_held_up {
                    break;
                }
            }
        }
        self.publishing.note_oversized(oversized);
        if any {
            self.publishing.stalled.store(false, Ordering::Relaxed);
        }
        Ok(any)
    }

    /// Sends a batch and notes what was confirmed, up to the first that was not: whether there is such a one.
    async fn send_in_order(&self, batch: &[Spooled], sent: &mut Vec<i64>, oversized: &mut u64) -> bool {
        let confirms = self.publisher.send(batch.iter().map(|spooled| self.outgoing_again(spooled)).collect()).await;
        for (spooled, outcome) in batch.iter().zip(join_all(confirms).await) {
            match outcome {
                Ok(Ok(())) => {
                    sent.push(spooled.seq);
                    spooled.item.iter().for_each(|item| self.enter(item));
                }
                // Whoever waited behind it would wait for ever: it alone stays.
                Ok(Err(Unconfirmed::TooLarge)) => *oversized += 1,
                _ => return true,
            }
        }
        false
    }

    fn takes_messages(&self) -> bool {
        self.link.publish().live().is_some_and(|live| !live.is_blocked())
    }

    fn item(&self, message: &Publication) -> Item {
        let place = match message.lane {
            Lane::Chat => Place(self.topology.partition_of(&message.job.conversation).into()),
            Lane::Events => Place::EVENTS,
        };
        let parked = message.parked.clone().map(Cow::into_owned);
        Item { place, lane: message.lane, job: message.job.clone(), parked }
    }

    fn outgoing_again(&self, spooled: &Spooled) -> Outgoing {
        match &spooled.item {
            Ok(item) => self.outgoing(item),
            Err(body) => {
                tracing::error!(
                    row = spooled.seq,
                    "a message in the spool cannot be read; it is moved to the parked letters"
                );
                let properties = BasicProperties::default().with_message_id(format!("spooled-{}", spooled.seq).into());
                self.as_it_is(properties, body.clone(), "it could not be read from the spool")
            }
        }
    }

    fn outgoing(&self, item: &Item) -> Outgoing {
        match self.letter(item) {
            Some(letter) => self.to_letters("parked", &letter),
            None => self.to_work(&Envelope::new(item.job.clone(), item.lane)),
        }
    }

    fn letter(&self, item: &Item) -> Option<Envelope> {
        let why = item.parked.clone()?;
        Some(Envelope::new(item.job.clone(), item.lane).parked(why, self.clock.now()))
    }

    /// What lies among the parked letters now is known to lie there.
    fn enter(&self, item: &Item) {
        if item.parked.is_some() {
            self.index.add(|| self.letter(item).map(|letter| letter.letter(Standing::Parked)));
        }
    }
}
