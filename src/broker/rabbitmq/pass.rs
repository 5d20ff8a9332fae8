//! A look into queues that nobody has to have in order: all that lies there is taken without an acknowledgement, and the
//! channel closed, so that all of it comes back as it lay. RabbitMQ has no other way to look into a queue.
//!
//! One pass at a time: what one holds another does not see. A node waits for its own; another node's it notices by its
//! consumer, as far as the two do not begin in the same moment. Dead letters have consumers all the time, and what those
//! hold is not seen: it is judged within moments. Whatever happens to who looks (he gives up, his node dies), the channel
//! ends with him.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{
    Acker, Channel, Consumer,
    message::Delivery as Message,
    options::{BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{
    runtime::Handle,
    sync::OwnedMutexGuard,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    Inner,
    lease::tell,
    link::Live,
    tally::{Lying, lying_in},
};
use crate::broker::Error;

/// When nothing has come for so long, the server is asked whether anything is left.
const QUIET: Duration = Duration::from_secs(1);

/// What one consumer can hold. AMQP's 0 means no limit, which a quorum queue takes for 2,000 (measured, 3.10).
pub(super) const PREFETCH_MAX: usize = u16::MAX as usize;

/// How long a server that says that something is left may send nothing.
const SILENT_MAX: Duration = Duration::from_secs(10);

/// How long a server may take to open or to close a channel.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// How long a server may take to put back what a closed channel held; some of it may go elsewhere at once.
const BACK_WITHIN: Duration = Duration::from_secs(1);

/// How long another node's pass is waited for.
const OTHERS_WITHIN: Duration = Duration::from_secs(5);

/// Whose turn it is, and the ends of passes.
#[derive(Default)]
pub struct Passes {
    turn: Arc<tokio::sync::Mutex<()>>,
    endings: TaskTracker,
}

impl Passes {
    /// Keeps passes from beginning; `None`: one is under way.
    pub fn turn_now(&self) -> Option<OwnedMutexGuard<()>> {
        self.turn.clone().try_lock_owned().ok()
    }

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
    /// One for each queue that was looked into, also while it is: one that is dropped before the channel is closed cancels
    /// itself, and a cancel on a closing channel is an error that costs lapin the whole connection.
    consumers: Vec<Consumer>,
    /// The queues that were looked into.
    queues: Vec<String>,
    /// What lay in them then, without what has been acknowledged: so much is to come back.
    there: usize,
    turn: Option<OwnedMutexGuard<()>>,
    endings: TaskTracker,
    /// The queue that others consume from.
    dead: String,
}

impl Pass {
    /// Waits for its turn and opens a channel of its own.
    pub(super) async fn begin(inner: &Inner) -> Result<Self, Error> {
        let turn = inner.passes.turn.clone().lock_owned().await;
        let live = inner.link.consume().live().ok_or_else(|| Error::Store("RabbitMQ is away".into()))?;
        let opened = timeout(ANSWERS_WITHIN, live.connection.create_channel()).await;
        let channel = opened.map_err(|_| silent())?.map_err(|error| unseen(&error))?;
        let (consumers, queues, endings) = (Vec::new(), Vec::new(), inner.passes.endings.clone());
        let dead = inner.topology.name("dead");
        Ok(Self { live, channel, consumers, queues, there: 0, turn: Some(turn), endings, dead })
    }

    /// The connection it goes through.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// How much of a queue is in nobody's hand.
    pub async fn ready(&self, queue: &str) -> Result<usize, Error> {
        Ok(declared(&self.channel, queue).await?.ready)
    }

    /// Shows what lies in a queue, in order, at most `most`, until `each` has seen enough; whether another node's pass had
    /// some of it in hand. To be called once for a queue: what several consumers of it hold comes back in no order
    /// (measured), as it does where more lie there than one can hold.
    pub async fn look(
        &mut self,
        queue: &str,
        most: usize,
        mut each: impl FnMut(Message) -> ControlFlow<()>,
    ) -> Result<bool, Error> {
        let mut shared = !self.alone(queue).await?;
        let mut left = self.ready(queue).await?;
        if left == 0 {
            return Ok(shared);
        }
        self.queues.push(queue.to_owned());
        self.there += left;
        self.consume(queue, most).await?;
        let (mut seen, mut held, mut own, mut heard) = (0, 0, 1, Instant::now());
        while seen < most && left > 0 {
            if held == PREFETCH_MAX {
                // It holds as many as it may.
                self.consume(queue, most - seen).await?;
                (held, own) = (0, own + 1);
            }
            let consumer = self.consumers.last_mut().expect("one was just opened");
            match timeout(QUIET, consumer.next()).await {
                Ok(Some(Ok(message))) => {
                    (seen, held, left, heard) = (seen + 1, held + 1, left - 1, Instant::now());
                    if each(message).is_break() {
                        break;
                    }
                }
                Ok(Some(Err(error))) => return Err(unseen(&error)),
                Ok(None) => return Err(Error::Store("RabbitMQ has broken off a look into a queue".into())),
                Err(_) => {
                    let Lying { ready, consumers } = declared(&self.channel, queue).await?;
                    // Somebody else has taken the rest, or it is on its way to us.
                    let is_taken = consumers > own || heard.elapsed() > QUIET * 3;
                    if ready == 0 && is_taken {
                        shared = true;
                        break;
                    }
                    if heard.elapsed() > SILENT_MAX {
                        return Err(silent());
                    }
                }
            }
        }
        Ok(shared)
    }

    /// Waits a while for another node's pass; whether it has ended. Dead letters have consumers all the time.
    async fn alone(&self, queue: &str) -> Result<bool, Error> {
        let began = Instant::now();
        while queue != self.dead && declared(&self.channel, queue).await?.consumers > 0 {
            if began.elapsed() >= OTHERS_WITHIN {
                return Ok(false);
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(true)
    }

    /// Opens a consumer.
    async fn consume(&mut self, queue: &str, most: usize) -> Result<(), Error> {
        let prefetch = most.min(PREFETCH_MAX) as u16;
        let open = async {
            self.channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
            self.channel.basic_consume(queue.into(), "".into(), options, arguments).await
        };
        let opened = timeout(ANSWERS_WITHIN, open).await.map_err(|_| silent())?;
        self.consumers.push(opened.map_err(|error| unseen(&error))?);
        Ok(())
    }

    /// Acknowledges a message of this pass: it is gone.
    pub async fn acknowledge(&mut self, acker: &Acker) -> Result<(), Error> {
        self.there = self.there.saturating_sub(1);
        if matches!(tell(acker).await, Ok(true)) { Ok(()) } else { Err(Error::Lost) }
    }

    /// Ends it; returns when everything has come back, and what was acknowledged is gone.
    pub async fn end(mut self) {
        if let Some(ending) = self.ending() {
            // To its end, although whoever waits may be gone.
            let _ = self.endings.spawn(ending).await;
        }
    }

    fn ending(&mut self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let turn = self.turn.take()?;
        let (channel, consumers, live) = (self.channel.clone(), std::mem::take(&mut self.consumers), self.live.clone());
        let (queues, there) = (std::mem::take(&mut self.queues), self.there);
        Some(async move {
            if channel.status().connected() {
                // One that is not answered: the connection is on its way out.
                let _ = timeout(ANSWERS_WITHIN, channel.close(200, "seen".into())).await;
            }
            drop(consumers);
            let _ = timeout(BACK_WITHIN, back(&live, &queues, there)).await;
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
async fn back(live: &Live, queues: &[String], there: usize) {
    if there == 0 {
        return;
    }
    let Ok(channel) = live.connection.create_channel().await else { return };
    loop {
        let mut are_back = 0;
        for queue in queues {
            let Ok(lying) = declared(&channel, queue).await else { return };
            are_back += lying.ready;
        }
        if are_back >= there {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    let _ = channel.close(200, "back".into()).await;
}

async fn declared(channel: &Channel, queue: &str) -> Result<Lying, Error> {
    timeout(ANSWERS_WITHIN, lying_in(channel, queue)).await.map_err(|_| silent())?.map_err(|error| unseen(&error))
}

fn silent() -> Error {
    Error::Store("RabbitMQ does not answer".into())
}

fn unseen(error: &lapin::Error) -> Error {
    Error::Store(format!("a queue of RabbitMQ's cannot be looked into: {error}"))
}
