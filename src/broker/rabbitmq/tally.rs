//! How much lies where: what the server says of its queues every few seconds, and what this node holds of them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use lapin::{Channel, options::QueueDeclareOptions, types::FieldTable};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{Inner, link::Live, topology::Topology};
use crate::broker::{Count, Error, Lane, Standing};

/// How often the server is asked; it has about thirty queues to look at.
pub const EVERY: Duration = Duration::from_secs(5);

/// How long the server may take to tell of all queues.
const TELLS_WITHIN: Duration = Duration::from_secs(10);

/// The longest time a round may take; it may have to leave partitions, in which messages in hand are waited for.
pub const WITHIN: Duration = Duration::from_secs(120);

const STANDINGS: [Standing; 5] =
    [Standing::Ready, Standing::InHand, Standing::Delayed, Standing::Dead, Standing::Parked];

/// What the server says of a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lying {
    /// Messages in nobody's hand.
    pub ready: usize,
    /// Who consumes from it.
    pub consumers: u32,
}

/// What the server said last.
#[derive(Default)]
pub(super) struct Tally {
    at_server: Mutex<HashMap<(Lane, Standing), u64>>,
    /// Of its own: the server closes a channel on which it is asked for a queue that is not there.
    channel: tokio::sync::Mutex<Option<(u64, Channel)>>,
}

impl Tally {
    /// Asks for all queues; declared passively, for that takes no message out of them.
    pub async fn ask(&self, inner: &Arc<Inner>) -> Result<(), Error> {
        for source in inner.sources() {
            source.attend(inner).await;
        }
        inner.index.tidy();
        match timeout(TELLS_WITHIN, self.count(inner)).await {
            Ok(counted) => counted,
            Err(_) => Err(silent()),
        }
    }

    /// What lies in a queue of letters, `dead` or `parked`, at this moment.
    pub async fn lying(&self, inner: &Inner, queue: &str) -> Result<Lying, Error> {
        let live = inner.link.consume().live().ok_or_else(|| Error::Store("RabbitMQ is away".into()))?;
        let asked = async {
            let mut current = self.channel.lock().await;
            let channel = usable(&mut current, &live).await?;
            let lying = lying_in(&channel, &inner.topology.name(queue)).await.map_err(unknown)?;
            *current = Some((live.generation, channel));
            Ok(lying)
        };
        timeout(TELLS_WITHIN, asked).await.unwrap_or_else(|_| Err(silent()))
    }

    async fn count(&self, inner: &Inner) -> Result<(), Error> {
        // Nobody to ask: the numbers stay as they were.
        let Some(live) = inner.link.consume().live() else { return Ok(()) };
        // Keeps passes from beginning; one that is under way has letters in hand, and their numbers stay as they were.
        let turn = inner.passes.turn_now();
        let mut current = self.channel.lock().await;
        let channel = usable(&mut current, &live).await?;
        let mut sums = HashMap::new();
        for (lane, standing, queue) in queues(&inner.topology) {
            let of = (lane, standing);
            if turn.is_none() && matches!(standing, Standing::Dead | Standing::Parked) {
                let before = self.at_server.lock().get(&of).copied();
                sums.extend(before.map(|before| (of, before)));
                continue;
            }
            *sums.entry(of).or_default() += lying_in(&channel, &queue).await.map_err(unknown)?.ready as u64;
        }
        *self.at_server.lock() = sums;
        *current = Some((live.generation, channel));
        Ok(())
    }

    /// Every standing of both lanes.
    pub fn counts(&self, inner: &Inner) -> Vec<Count> {
        let at_server = self.at_server.lock().clone();
        let mut counts = Vec::new();
        for lane in [Lane::Chat, Lane::Events] {
            let (mut held, oldest) = held(inner, lane);
            held[0] += inner.publishing.spool().map_or(0, |spool| spool.of_lane(lane)) as usize;
            for (standing, held) in STANDINGS.into_iter().zip(held) {
                let there = at_server.get(&(lane, standing)).copied().unwrap_or(0);
                let oldest = oldest.filter(|_| standing == Standing::Ready);
                counts.push(Count { lane, standing, messages: there + held as u64, oldest });
            }
        }
        counts
    }
}

/// What this node holds, in the order of [`STANDINGS`], and when the first of what is ready was taken in: what lies at
/// the server is younger.
fn held(inner: &Inner, lane: Lane) -> ([usize; 5], Option<crate::domain::time::Timestamp>) {
    let now = inner.clock.monotonic();
    let (mut held, mut oldest) = ([0; 5], None);
    for source in inner.sources() {
        let window = source.window();
        match source.lane {
            Some(of) if of == lane => {
                held[0] += window.ready(now);
                held[1] += window.out();
                held[2] += window.delayed(now);
                let first = window.iter().map(|held| held.envelope.job.first_seen).min();
                oldest = oldest.into_iter().chain(first).min();
            }
            // A dead letter in hand is a dead letter.
            None if lane == Lane::Chat => held[3] += window.ready(now) + window.delayed(now) + window.out(),
            _ => {}
        }
    }
    (held, oldest)
}

/// Which queue counts as what. The dead and the parked letters of both lanes lie in one queue each, which is counted
/// under the chat lane.
fn queues(topology: &Topology) -> Vec<(Lane, Standing, String)> {
    let work = topology.work_queues().into_iter().map(|(lane, queue)| (lane, Standing::Ready, queue));
    let mut queues: Vec<_> = work.collect();
    for lane in [Lane::Chat, Lane::Events] {
        let tiers = topology.tiers().iter().map(|tier| (lane, Standing::Delayed, topology.tier(lane, *tier)));
        queues.extend(tiers);
    }
    queues.push((Lane::Chat, Standing::Dead, topology.name("dead")));
    queues.push((Lane::Chat, Standing::Parked, topology.name("parked")));
    queues
}

/// The channel that is there, or a new one.
async fn usable(current: &mut Option<(u64, Channel)>, live: &Live) -> Result<Channel, Error> {
    let is_usable =
        |(generation, channel): &(u64, Channel)| *generation == live.generation && channel.status().connected();
    match current.take().filter(is_usable) {
        Some((_, channel)) => Ok(channel),
        None => live.connection.create_channel().await.map_err(unknown),
    }
}

/// Declared passively, for that takes no message out of it.
pub(super) async fn lying_in(channel: &Channel, queue: &str) -> lapin::Result<Lying> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    let ready = usize::try_from(queue.message_count()).unwrap_or(usize::MAX);
    Ok(Lying { ready, consumers: queue.consumer_count() })
}

fn silent() -> Error {
    Error::Store("RabbitMQ does not tell how much lies there".into())
}

fn unknown(error: lapin::Error) -> Error {
    Error::Store(format!("RabbitMQ does not tell how much lies there: {error}"))
}
