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
    BasicProperties, Channel, Confirmation,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::{
    sync::{Mutex, Semaphore, mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;

use super::link::{Line, Live};

/// Publications under way at once; more only lengthens their wait (measured: about 100 is the sweet spot).
const IN_FLIGHT_MAX: usize = 256;

/// A channel on which something was refused is used for so long before another takes its place. One that was opened when a
/// queue's leader had just gone refuses what is for that queue for ever (RabbitMQ 3.10: a channel asks the leader it knew
/// when it first published there, and nobody else).
const RENEW_EVERY: Duration = Duration::from_secs(1);

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
    /// It leads nowhere.
    #[error("RabbitMQ has no queue for the message")]
    Unroutable,
}

/// Becomes the outcome of one publication.
pub type Confirm = oneshot::Receiver<Result<(), Unconfirmed>>;

/// The channel of the moment.
struct Current {
    /// Of the connection.
    generation: u64,
    /// Counts channels.
    number: u64,
    opened: Instant,
    channel: Channel,
}

/// The publisher.
pub struct Publisher {
    line: Arc<Line>,
    confirm_timeout: Duration,
    channel: Mutex<Option<Current>>,
    /// The number of the last channel on which something was refused.
    refused_on: Arc<AtomicU64>,
    in_flight: Arc<Semaphore>,
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
        let (channel, refused_on) = (Mutex::default(), Arc::default());
        Self { line, confirm_timeout, channel, refused_on, in_flight, returned, tasks: TaskTracker::new() }
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

    async fn send_batch(&self, batch: Vec<Outgoing>, answers: Vec<oneshot::Sender<Result<(), Unconfirmed>>>) {
        let many = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let Ok(permits) = self.in_flight.clone().acquire_many_owned(many).await else { return };
        // Held until the frames are written, so that batches do not mix and an order once given is kept.
        let mut current = self.channel.lock().await;
        let (generation, number, channel) = match self.channel(&mut current).await {
            Ok(channel) => channel,
            Err(error) => return answers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone())))),
        };
        let line = self.line.clone();
        let returned = self.returned.clone();
        let refused_on = self.refused_on.clone();
        let within = self.confirm_timeout;
        let (written, is_written) = oneshot::channel();
        self.tasks.spawn(async move {
            let _permits = permits;
            // Each is polled once before any is polled again: they are written in this order.
            let sent = join_all(batch.iter().map(|outgoing| timeout(within, send(&channel, outgoing)))).await;
            let _ = written.send(());
            let followed = sent.into_iter().zip(&batch).zip(answers).map(|((sent, outgoing), answer)| {
                let (line, returned, refused_on) = (&line, &returned, &refused_on);
                async move {
                    let outcome = match sent {
                        Ok(Ok(confirm)) => match timeout(within, confirm).await {
                            Ok(confirmation) => judge(confirmation, outgoing, returned),
                            Err(_) => Err(Unconfirmed::Lost),
                        },
                        Ok(Err(_)) | Err(_) => Err(Unconfirmed::Lost),
                    };
                    match outcome {
                        Err(Unconfirmed::Lost) => line.give_up(generation),
                        Err(Unconfirmed::Refused) => drop(refused_on.fetch_max(number, Ordering::Relaxed)),
                        _ => {}
                    }
                    // Who does not wait any more has taken care of it otherwise.
                    let _ = answer.send(outcome);
                }
            });
            join_all(followed).await;
        });
        // A server that does not read holds up whoever comes next for no longer than it may take to confirm.
        let _ = timeout(within, is_written).await;
    }

    async fn channel(&self, current: &mut Option<Current>) -> Result<(u64, u64, Channel), Unconfirmed> {
        let live: Live = self.line.live().filter(|live| !live.is_blocked()).ok_or(Unconfirmed::Away)?;
        let refused_on = self.refused_on.load(Ordering::Relaxed);
        let is_usable = |current: &Current| {
            let is_refused = current.number == refused_on && current.opened.elapsed() > RENEW_EVERY;
            current.generation == live.generation && current.channel.status().connected() && !is_refused
        };
        if let Some(current) = current.as_ref().filter(|current| is_usable(current)) {
            return Ok((current.generation, current.number, current.channel.clone()));
        }
        let open = async {
            let channel = live.connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            lapin::Result::Ok(channel)
        };
        let Ok(Ok(channel)) = timeout(self.confirm_timeout, open).await else {
            self.line.give_up(live.generation);
            return Err(Unconfirmed::Away);
        };
        let number = current.as_ref().map_or(0, |current| current.number) + 1;
        let opened = Instant::now();
        *current = Some(Current { generation: live.generation, number, opened, channel: channel.clone() });
        Ok((live.generation, number, channel))
    }
}

async fn send(channel: &Channel, outgoing: &Outgoing) -> lapin::Result<lapin::PublisherConfirm> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let (exchange, key) = (outgoing.exchange.as_str().into(), outgoing.key.as_str().into());
    channel.basic_publish(exchange, key, options, &outgoing.body, outgoing.properties.clone()).await
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
