//! A look into queues that nobody has to have in order: all that lies there is taken without an acknowledgement, and the
//! channel closed, so that all of it comes back as it lay. RabbitMQ has no other way to look into a queue.
//!
//! One pass at a time: what one holds another does not see. Whatever happens to who looks (he gives up, his node dies),
//! the channel ends with him.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{
    Acker, Channel, Consumer,
    message::Delivery as Message,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::{
    runtime::Handle,
    sync::OwnedMutexGuard,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;

use super::{Inner, link::Live};
use crate::broker::Error;

/// Messages that may be on their way to this node at once; when they have come, the next are asked for.
const WAVE: u16 = 256;

/// When nothing has come for so long, the server is asked whether anything is left.
const QUIET: Duration = Duration::from_secs(1);

/// How long a server that says that something is left may send nothing.
const SILENT_MAX: Duration = Duration::from_secs(10);

/// How long a server may take to open or to close a channel.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// How long a server may take to put back what a closed channel held.
const BACK_WITHIN: Duration = Duration::from_secs(2);

/// Whose turn it is, and the ends of passes.
#[derive(Default)]
pub struct Passes {
    turn: Arc<tokio::sync::Mutex<()>>,
    endings: TaskTracker,
}

impl Passes {
    /// Waits until what passes held is back.
    pub async fn end(&self) {
        self.endings.close();
        let _ = timeout(ANSWERS_WITHIN, self.endings.wait()).await;
    }
}

/// A pass. What it has seen and not acknowledged comes back when it ends.
pub struct Pass {
    live: Live,
    channel: Channel,
    /// Full ones, each of which holds a wave.
    consumers: Vec<Consumer>,
    /// The queue looked into last, and how much of it is held.
    held: (String, usize),
    turn: Option<OwnedMutexGuard<()>>,
    endings: TaskTracker,
}

impl Pass {
    /// Waits for its turn and opens a channel of its own.
    pub(super) async fn begin(inner: &Inner) -> Result<Self, Error> {
        let turn = inner.passes.turn.clone().lock_owned().await;
        let live = inner.link.consume().live().ok_or_else(|| Error::Store("RabbitMQ is away".into()))?;
        let opened = timeout(ANSWERS_WITHIN, live.connection.create_channel()).await;
        let channel = opened.map_err(|_| silent())?.map_err(|error| unseen(&error))?;
        let (consumers, held, endings) = (Vec::new(), (String::new(), 0), inner.passes.endings.clone());
        Ok(Self { live, channel, consumers, held, turn: Some(turn), endings })
    }

    /// The connection it goes through.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// How much of a queue is in nobody's hand.
    pub async fn ready(&self, queue: &str) -> Result<usize, Error> {
        ready(&self.channel, queue).await
    }

    /// Shows what lies in a queue, in order, at most `most`, until `each` has seen enough.
    pub async fn look(
        &mut self,
        queue: &str,
        most: usize,
        mut each: impl FnMut(Message) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.held = (queue.to_owned(), 0);
        while self.held.1 < most && self.ready(queue).await? > 0 {
            if self.wave(queue, most, &mut each).await?.is_break() {
                break;
            }
        }
        Ok(())
    }

    async fn wave(
        &mut self,
        queue: &str,
        most: usize,
        each: &mut impl FnMut(Message) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let wave = u16::try_from(most - self.held.1).unwrap_or(WAVE).min(WAVE);
        let left = self.ready(queue).await?.min(wave.into());
        let mut consumer = self.consume(queue, wave).await?;
        let (mut came, mut heard) = (0, Instant::now());
        let flow = loop {
            if came >= left {
                break ControlFlow::Continue(());
            }
            match timeout(QUIET, consumer.next()).await {
                Ok(Some(Ok(message))) => {
                    (came, heard) = (came + 1, Instant::now());
                    self.held.1 += 1;
                    if each(message).is_break() {
                        break ControlFlow::Break(());
                    }
                }
                Ok(Some(Err(error))) => return Err(unseen(&error)),
                Ok(None) => return Err(Error::Store("RabbitMQ has broken off a look into a queue".into())),
                // Somebody else has taken the rest.
                Err(_) if self.ready(queue).await? == 0 => break ControlFlow::Break(()),
                Err(_) if heard.elapsed() > SILENT_MAX => return Err(silent()),
                Err(_) => {}
            }
        };
        self.consumers.push(consumer);
        Ok(flow)
    }

    async fn consume(&self, queue: &str, many: u16) -> Result<Consumer, Error> {
        let open = async {
            self.channel.basic_qos(many, BasicQosOptions::default()).await?;
            let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
            self.channel.basic_consume(queue.into(), "".into(), options, arguments).await
        };
        timeout(ANSWERS_WITHIN, open).await.map_err(|_| silent())?.map_err(|error| unseen(&error))
    }

    /// Acknowledges a message of this pass: it is gone.
    pub async fn acknowledge(&mut self, acker: &Acker) -> Result<(), Error> {
        self.held.1 = self.held.1.saturating_sub(1);
        // A channel that was closed meanwhile says `false`, not an error.
        let told = timeout(ANSWERS_WITHIN, acker.ack(BasicAckOptions::default())).await;
        if matches!(told, Ok(Ok(true))) { Ok(()) } else { Err(Error::Lost) }
    }

    /// Ends it; returns when everything has come back, and what was acknowledged is gone.
    pub async fn end(mut self) {
        if let Some(ending) = self.ending() {
            ending.await;
        }
    }

    fn ending(&mut self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let turn = self.turn.take()?;
        let (channel, consumers, live) = (self.channel.clone(), std::mem::take(&mut self.consumers), self.live.clone());
        let (queue, held) = std::mem::take(&mut self.held);
        Some(async move {
            if channel.status().connected() {
                // One that is not answered: the connection is on its way out.
                let _ = timeout(ANSWERS_WITHIN, channel.close(200, "seen".into())).await;
            }
            drop(consumers);
            let _ = timeout(BACK_WITHIN, back(&live, &queue, held)).await;
            drop(turn);
        })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        // Without a runtime the connection ends with it.
        if let (Some(ending), Ok(runtime)) = (self.ending(), Handle::try_current()) {
            self.endings.spawn_on(ending, &runtime);
        }
    }
}

/// A closed channel is answered before all that it held is back; the next pass would not see it.
async fn back(live: &Live, queue: &str, held: usize) {
    if held == 0 {
        return;
    }
    let Ok(channel) = live.connection.create_channel().await else { return };
    while ready(&channel, queue).await.is_ok_and(|ready| ready < held) {
        sleep(Duration::from_millis(5)).await;
    }
    let _ = channel.close(200, "back".into()).await;
}

async fn ready(channel: &Channel, queue: &str) -> Result<usize, Error> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default());
    let queue = timeout(ANSWERS_WITHIN, declared).await.map_err(|_| silent())?.map_err(|error| unseen(&error))?;
    Ok(usize::try_from(queue.message_count()).unwrap_or(usize::MAX))
}

fn silent() -> Error {
    Error::Store("RabbitMQ does not answer".into())
}

fn unseen(error: &lapin::Error) -> Error {
    Error::Store(format!("a queue of RabbitMQ's cannot be looked into: {error}"))
}
