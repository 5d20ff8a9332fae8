//! Publishes with confirms: many under way at once, each answered when the server has it safe.
//!
//! With several under way lapin hands a message that could be routed nowhere to the wrong confirm (measured), so a
//! returned message is known by its id, whichever confirm carries it. As a rule nothing is returned at all: every
//! exchange has an alternate one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use lapin::{
    BasicProperties, Channel, Confirmation, ErrorKind,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::{
    sync::{Mutex, Semaphore, mpsc, oneshot},
    time::{Instant, error::Elapsed, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    link::{Line, Live},
    refusals::Refusals,
};

/// Publications under way at once; more only lengthens their wait (measured: about 100 is the sweet spot).
const IN_FLIGHT_MAX: usize = 256;

/// A channel on which something was refused is used for so long before another takes its place. One that was opened when a
/// queue's leader had just gone refuses what is for that queue for ever (RabbitMQ 3.10: a channel asks the leader it knew
/// when it first published there, and nobody else).
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// A channel on which a confirm is waited for so long gives way to another, and if that does no better, to a third
/// after twice as long, until it is the connection's turn (`confirm_timeout`). When a queue's leader has gone, a channel
/// asks the next one for what it had sent only after 10 s (RabbitMQ 3.10, `rabbit_fifo_client`); a new channel does at once.
const PATIENCE: Duration = Duration::from_secs(3);

/// One that gives way within so long beside its patience was of no more use than the one before.
const SOON_AFTER: Duration = Duration::from_secs(30);

/// What is to be published.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The exchange.
    pub exchange: String,
    /// The routing key.
    pub key: String,
    /// Properties, the message's id among them.
    pub properties: BasicProperties,
    /// The body.
    pub body: Vec<u8>,
}

/// Why a publication is not known to be safe. It may be there all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unconfirmed {
    /// There is no connection, or the server takes nothing now: it was not sent.
    #[error("RabbitMQ takes no messages now")]
    Away,
    /// The connection broke, or the server did not answer in time.
    #[error("RabbitMQ did not confirm")]
    Lost,
    /// The server does not take it: a full queue, or an error of its own.
    #[error("RabbitMQ refused the message")]
    Refused,
    /// It is larger than the server takes; sent again it would end the channel again.
    #[error("the message is larger than RabbitMQ's max_message_size")]
    TooLarge,
    /// It leads nowhere.
    #[error("RabbitMQ has no queue for the message")]
    Unroutable,
}

/// Becomes the outcome of one publication.
pub type Confirm = oneshot::Receiver<Result<(), Unconfirmed>>;

/// Where the outcome of one publication goes.
type Answer = oneshot::Sender<Result<(), Unconfirmed>>;

/// The channel of the moment.
struct Current {
    /// Of the connection.
    generation: u64,
    /// Counts channels.
    number: u64,
    opened: Instant,
    channel: Channel,
    /// Nothing is waited for on it any more.
    over: CancellationToken,
    /// How long a confirm may take.
    patience: Duration,
}

impl Current {
    /// Whether another channel has to take its place.
    fn has_refused(&self, refused_on: u64) -> bool {
        self.number == refused_on && self.opened.elapsed() > RENEW_EVERY
    }
}

/// The publisher.
pub struct Publisher {
    line: Arc<Line>,
    confirm_timeout: Duration,
    channel: Mutex<Option<Current>>,
    /// The number of the last channel on which something was refused.
    refused_on: Arc<AtomicU64>,
    refusals: parking_lot::Mutex<Refusals>,
    in_flight: Arc<Semaphore>,
    /// The largest body in bytes, once the server has told it, and the connection on which it did: somebody may raise it
    /// and start the server anew.
    body_max: Arc<parking_lot::Mutex<Option<(u64, usize)>>>,
    /// Messages the server gave back although their confirm said that all is well.
    returned: mpsc::UnboundedSender<BasicReturnMessage>,
    tasks: TaskTracker,
}

impl Publisher {
    /// Publishes through this connection. `returned` is given what came back although it seemed safe.
    pub fn new(
        line: Arc<Line>,
        confirm_timeout: Duration,
        returned: mpsc::UnboundedSender<BasicReturnMessage>,
    ) -> Self {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let (channel, refused_on, refusals, body_max, tasks) = Default::default();
        Self { line, confirm_timeout, channel, refused_on, refusals, in_flight, body_max, returned, tasks }
    }

    /// Sends all, in order, and returns their confirms. Waits only while too many are under way. What was sent is
    /// followed up also when nobody waits for its confirm any more.
    pub async fn send(&self, all: Vec<Outgoing>) -> Vec<Confirm> {
        let mut confirms = Vec::with_capacity(all.len());
        let mut all = all.into_iter().peekable();
        while all.peek().is_some() {
            let batch: Vec<Outgoing> = all.by_ref().take(IN_FLIGHT_MAX).collect();
            let (answers, waiting): (Vec<_>, Vec<_>) = batch.iter().map(|_| oneshot::channel()).unzip();
            confirms.extend(waiting);
            self.send_batch(batch, answers).await;
        }
        confirms
    }

    /// Sends one and waits for its confirm.
    pub async fn publish(&self, outgoing: Outgoing) -> Result<(), Unconfirmed> {
        let mut confirms = self.send(vec![outgoing]).await;
        let confirm = confirms.pop().expect("one for each");
        confirm.await.unwrap_or(Err(Unconfirmed::Lost))
    }

    async fn send_batch(&self, batch: Vec<Outgoing>, answers: Vec<Answer>) {
        let many = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        // Nobody waits for a turn while nothing can be sent.
        if self.usable().is_none() {
            return answer_all(answers, &Unconfirmed::Away);
        }
        let Ok(permits) = self.in_flight.clone().acquire_many_owned(many).await else { return };
        // Held until the frames are written, so that batches do not mix and an order once given is kept.
        let mut current = self.channel.lock().await;
        let (live, current) = match self.channel(&mut current).await {
            Ok(channel) => channel,
            Err(error) => return answer_all(answers, &error),
        };
        let (number, channel) = (current.number, current.channel.clone());
        let (over, patience) = (current.over.clone(), current.patience);
        let (batch, answers) = self.without_too_large(live.generation, batch, answers);
        let (line, returned, body_max) = (self.line.clone(), self.returned.clone(), self.body_max.clone());
        let (within, refused_on) = (self.confirm_timeout, self.refused_on.clone());
        let way = Way { line, live, number, within, patience, over, returned, body_max, refused_on };
        let (written, is_written) = oneshot::channel();
        self.tasks.spawn(async move {
            let _permits = permits;
            way.go(&channel, &batch, answers, written).await;
        });
        // A server that does not read holds up whoever comes next for no longer than it may take to confirm.
        let _ = timeout(self.confirm_timeout, is_written).await;
    }

    /// The connection, while the server takes messages.
    fn usable(&self) -> Option<Live> {
        self.line.live().filter(|live| !live.is_blocked())
    }

    /// Answers for those the server is known not to take.
    fn without_too_large(
        &self,
        generation: u64,
        batch: Vec<Outgoing>,
        answers: Vec<Answer>,
    ) -> (Vec<Outgoing>, Vec<Answer>) {
        let Some((_, max)) = self.body_max.lock().filter(|(told_on, _)| *told_on == generation) else {
            return (batch, answers);
        };
        let (large, rest): (Vec<_>, Vec<_>) =
            batch.into_iter().zip(answers).partition(|(outgoing, _)| outgoing.body.len() > max);
        answer_all(large.into_iter().map(|(_, answer)| answer).collect(), &Unconfirmed::TooLarge);
        rest.into_iter().unzip()
    }

    async fn channel<'a>(&self, current: &'a mut Option<Current>) -> Result<(Live, &'a Current), Unconfirmed> {
        let live = self.usable().ok_or(Unconfirmed::Away)?;
        let refused_on = self.refused_on.load(Ordering::Relaxed);
        let of_this = current.as_ref().filter(|current| current.generation == live.generation);
        let has_refused = of_this.is_some_and(|current| current.has_refused(refused_on));
        if has_refused && self.line.has_others() && self.refusals.lock().refused() {
            tracing::warn!("RabbitMQ refuses messages on every channel; another of its servers is asked");
            self.line.give_up(live.generation);
            return Err(Unconfirmed::Away);
        }
        let is_usable = |current: &Current| {
            let is_open = current.channel.status().connected() && !current.over.is_cancelled();
            current.generation == live.generation && is_open && !has_refused
        };
        if !current.as_ref().is_some_and(is_usable) {
            *current = Some(self.open(&live, current.as_ref()).await?);
        }
        Ok((live, current.as_ref().expect("it was just opened")))
    }

    /// Opens a channel after `last`.
    async fn open(&self, live: &Live, last: Option<&Current>) -> Result<Current, Unconfirmed> {
        let open = async {
            let channel = live.connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            lapin::Result::Ok(channel)
        };
        let Ok(Ok(channel)) = timeout(self.confirm_timeout, open).await else {
            self.line.give_up(live.generation);
            return Err(Unconfirmed::Away);
        };
        // One that gave way soon after it was opened: the server is slow rather than a leader gone.
        let slow = last.filter(|last| last.generation == live.generation && last.over.is_cancelled());
        let slow = slow.filter(|last| last.opened.elapsed() < last.patience + SOON_AFTER);
        let patience = slow.map_or(PATIENCE, |last| last.patience * 2);
        Ok(Current {
            generation: live.generation,
            number: last.map_or(0, |last| last.number) + 1,
            opened: Instant::now(),
            channel,
            over: CancellationToken::new(),
            patience: patience.min(self.confirm_timeout),
        })
    }
}

fn answer_all(answers: Vec<Answer>, error: &Unconfirmed) {
    for answer in answers {
        // Who does not wait any more has taken care of it otherwise.
        let _ = answer.send(Err(error.clone()));
    }
}

/// The connection a batch goes through, and how long its server may take.
struct Way {
    line: Arc<Line>,
    live: Live,
    /// Of the channel.
    number: u64,
    within: Duration,
    patience: Duration,
    over: CancellationToken,
    returned: mpsc::UnboundedSender<BasicReturnMessage>,
    body_max: Arc<parking_lot::Mutex<Option<(u64, usize)>>>,
    refused_on: Arc<AtomicU64>,
}

impl Way {
    /// Writes a batch and follows each of it up.
    async fn go(&self, channel: &Channel, batch: &[Outgoing], answers: Vec<Answer>, written: oneshot::Sender<()>) {
        // Each is polled once before any is polled again: they are written in this order.
        let sending = join_all(batch.iter().map(|outgoing| send(channel, outgoing)));
        let Ok(sent) = timeout(self.within, sending).await else {
            self.is_lost();
            return answer_all(answers, &Unconfirmed::Lost);
        };
        let _ = written.send(());
        let followed = sent.into_iter().zip(batch).zip(answers).map(|((sent, outgoing), answer)| async move {
            // Who does not wait any more has taken care of it otherwise.
            let _ = answer.send(self.follow(channel, sent, outgoing).await);
        });
        join_all(followed).await;
    }

    /// Waits for the confirm of one that was written.
    async fn follow(
        &self,
        channel: &Channel,
        sent: lapin::Result<lapin::PublisherConfirm>,
        outgoing: &Outgoing,
    ) -> Result<(), Unconfirmed> {
        let outcome = match sent {
            Ok(confirm) => match self.in_time(confirm).await {
                None => return Err(Unconfirmed::Lost),
                Some(Ok(Err(error))) if let Some(max) = told_max(&error) => {
                    *self.body_max.lock() = Some((self.live.generation, max));
                    // The channel is opened anew, on the same connection.
                    return Err(if outgoing.body.len() > max { Unconfirmed::TooLarge } else { Unconfirmed::Lost });
                }
                Some(Ok(confirmation)) => judge(confirmation, outgoing, &self.returned),
                Some(Err(_)) => Err(Unconfirmed::Lost),
            },
            // So it is after the server has closed the channel.
            Err(_) if !channel.status().connected() => return Err(Unconfirmed::Lost),
            Err(_) => Err(Unconfirmed::Lost),
        };
        match outcome {
            Err(Unconfirmed::Lost) => self.is_lost(),
            Err(Unconfirmed::Refused) => drop(self.refused_on.fetch_max(self.number, Ordering::Relaxed)),
            // The next connection declares what is missing.
            Err(Unconfirmed::Unroutable) => self.line.give_up(self.live.generation),
            _ => {}
        }
        outcome
    }

    /// Waits for a confirm; `None` when another channel has taken this one's place.
    async fn in_time<T>(&self, confirm: impl Future<Output = T>) -> Option<Result<T, Elapsed>> {
        let renewed = async {
            sleep(self.patience).await;
            // A server in alarm confirms nothing, on no channel.
            if self.patience < self.within && !self.live.is_blocked() {
                tracing::debug!(channel = self.number, "RabbitMQ does not confirm; another channel is opened");
                self.over.cancel();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            confirmed = timeout(self.within, confirm) => Some(confirmed),
            () = self.over.cancelled() => None,
            () = renewed => None,
        }
    }

    /// A server in alarm reads nothing; on another connection it would not either.
    fn is_lost(&self) {
        if !self.live.is_blocked() {
            self.line.give_up(self.live.generation);
        }
    }
}

async fn send(channel: &Channel, outgoing: &Outgoing) -> lapin::Result<lapin::PublisherConfirm> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let (exchange, key) = (outgoing.exchange.as_str().into(), outgoing.key.as_str().into());
    channel.basic_publish(exchange, key, options, &outgoing.body, outgoing.properties.clone()).await
}

/// The largest body the server takes, if it closed the channel over one that is larger: `message size 30000 is larger than
/// configured max size 20000`.
fn told_max(error: &lapin::Error) -> Option<usize> {
    let ErrorKind::ProtocolError(error) = error.kind() else { return None };
    let said = error.get_message().to_string();
    let (_, max) = said.split_once("is larger than")?;
    max.rsplit(' ').next()?.parse().ok()
}

fn judge(
    confirmation: lapin::Result<Confirmation>,
    outgoing: &Outgoing,
    returned: &mpsc::UnboundedSender<BasicReturnMessage>,
) -> Result<(), Unconfirmed> {
    let (outcome, back) = match confirmation {
        Ok(Confirmation::Ack(back)) => (Ok(()), back),
        Ok(Confirmation::Nack(back)) => (Err(Unconfirmed::Refused), back),
        // The channel was not asked to confirm: nothing is known.
        Ok(Confirmation::NotRequested) | Err(_) => (Err(Unconfirmed::Lost), None),
    };
    let Some(back) = back else { return outcome };
    if back.delivery.properties.message_id() == outgoing.properties.message_id() {
        return Err(Unconfirmed::Unroutable);
    }
    // Another one's: its confirm may have said that all is well.
    let _ = returned.send(back);
    outcome
}
