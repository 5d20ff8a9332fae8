//! The queue in RabbitMQ, shared by all nodes.
//!
//! ```text
//! publish --> publisher (confirms) --> <p>.chat --> <p>.chat.NN --> source (one per queue) --> take
//!                                                       ^                    | retry, bury, park: a copy is confirmed,
//!                                                    tiers <-- lease --------+ then the original is acknowledged
//! ```
//! A crash between the two leaves both; whoever meets the second finds the first settled in the ledger, or holds it and
//! acknowledges the second (`window.rs`).

mod arrivals;
#[cfg(test)]
mod contract_tests;
mod envelope;
#[cfg(test)]
mod faults_tests;
mod index;
mod keeping;
mod lease;
#[cfg(test)]
mod letters_tests;
mod link;
#[cfg(test)]
mod link_tests;
mod object;
mod operators;
mod overflow;
mod pass;
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the integration tests use what these do not")]
#[path = "../../tests/it/support/rabbitmq.rs"]
pub(crate) mod private;
mod probe;
mod publisher;
mod publishing;
mod refusals;
mod removal;
mod seen;
mod source;
mod spool;
#[cfg(test)]
mod spool_tests;
mod spread;
mod tally;
mod topology;
mod window;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use lapin::{BasicProperties, message::BasicReturnMessage};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::timeout};

pub use self::probe::{Fault, Greeting, Looked, Probe};
use self::{
    envelope::Envelope,
    index::Index,
    link::{Line, Link},
    pass::Passes,
    publisher::{Outgoing, Publisher},
    publishing::Publishing,
    source::Source,
    tally::Tally,
    topology::{Tier, Topology},
};
use super::{
    Broker, Config, Count, Delivery, Error, Forgotten, Found, Lane, Peer, Publication, Published, Queue, Round, Shape,
    Standing, Trouble, Upkeep, Whose,
};
use crate::telemetry::Clock;

/// Messages of the events lane, or dead letters, held at once.
const PREFETCH_OTHERS: u16 = 64;

/// So long what came back is waited for at a time.
const REROUTE_FOR: Duration = Duration::from_millis(500);

/// A round of a connection's keeper: a look, or a pause, an attempt to connect and everything declared.
const ATTEND_WITHIN: Duration = Duration::from_secs(60);

/// A round of the spool's forwarder: some thousand messages, or a server that does not confirm.
const FORWARD_WITHIN: Duration = Duration::from_secs(300);

/// The queue in RabbitMQ.
pub struct Rabbitmq {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Clock,
    parked_for: Duration,
    topology: Arc<Topology>,
    link: Link,
    publisher: Publisher,
    publishing: Publishing,
    chat: Vec<Arc<Source>>,
    events: Arc<Source>,
    dead: Arc<Source>,
    passes: Passes,
    tally: Tally,
    index: Index,
    /// The server's time limit for an acknowledgement, as configured, or as it said itself when it was over.
    consumer_timeout: Mutex<Duration>,
    /// What the server gave back although its confirm said that all is well.
    returned: tokio::sync::Mutex<mpsc::UnboundedReceiver<BasicReturnMessage>>,
}

impl Rabbitmq {
    /// Reads the configuration; nothing is connected before the rounds are gone. `parked_for`: how long parked messages
    /// are kept.
    pub fn open(config: &Config, parked_for: Duration, clock: Clock) -> Result<Self, Error> {
        let publishing = Publishing::open(config)?;
        let config = &config.rabbitmq;
        let topology = Arc::new(Topology::new(config));
        let link = Link::new(config, &topology)?;
        let (back, returned) = mpsc::unbounded_channel();
        let publisher = Publisher::new(link.publish().clone(), config.confirm_timeout, back);
        let partition = |n| Source::new(topology.partition(n), Some(Lane::Chat), config.prefetch, false);
        let inner = Inner {
            clock,
            parked_for,
            chat: (0..config.partitions).map(partition).collect(),
            events: Source::new(topology.name("events"), Some(Lane::Events), PREFETCH_OTHERS, true),
            dead: Source::new(topology.name("dead"), None, PREFETCH_OTHERS, true),
            passes: Passes::default(),
            tally: Tally::default(),
            index: Index::default(),
            topology,
            link,
            publisher,
            publishing,
            consumer_timeout: Mutex::new(config.consumer_timeout),
            returned: tokio::sync::Mutex::new(returned),
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    /// Nothing is held longer without an acknowledgement (design rule 8).
    fn held_for(&self) -> Duration {
        *self.consumer_timeout.lock() / 2
    }

    /// A server whose limit is shorter than ours says so when it closes the channel.
    fn learn(&self, error: &lapin::Error) {
        const SAYS: &str = "Timeout value used: ";
        let said = error.to_string();
        let Some((_, rest)) = said.split_once(SAYS) else { return };
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if let Ok(milliseconds) = digits.parse::<u64>() {
            let limit = Duration::from_millis(milliseconds.max(1_000));
            tracing::warn!(
                ?limit,
                "RabbitMQ's consumer_timeout is over; broker.rabbitmq.consumer_timeout must not be longer"
            );
            let mut consumer_timeout = self.consumer_timeout.lock();
            *consumer_timeout = limit.min(*consumer_timeout);
        }
    }

    fn source(&self, queue: Queue) -> &Arc<Source> {
        match queue {
            Queue::Chat(partition) => &self.chat[partition as usize],
            Queue::Events => &self.events,
            Queue::Dead => &self.dead,
        }
    }

    fn sources(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.chat.iter().chain([&self.events, &self.dead])
    }

    fn to_work(&self, envelope: &Envelope) -> Outgoing {
        let (exchange, key) = self.topology.work(envelope.lane, &envelope.job.conversation);
        Outgoing { exchange, key, properties: envelope.properties(), body: envelope.body() }
    }

    fn to_tier(&self, envelope: &Envelope, tier: Tier) -> Outgoing {
        let exchange = self.topology.tier(envelope.lane, tier);
        let key = self.topology.key(envelope.lane, &envelope.job.conversation);
        Outgoing { exchange, key, properties: envelope.properties(), body: envelope.body() }
    }

    /// `key`: `dead` or `parked`.
    fn to_letters(&self, key: &str, envelope: &Envelope) -> Outgoing {
        let exchange = self.topology.name("dlx");
        Outgoing { exchange, key: key.to_owned(), properties: envelope.properties(), body: envelope.body() }
    }

    /// To the parked letters, whatever it is.
    fn as_it_is(&self, properties: BasicProperties, body: Vec<u8>, reason: &str) -> Outgoing {
        let properties = envelope::parked_as_it_is(properties, reason, self.clock.now());
        Outgoing { exchange: self.topology.name("dlx"), key: "parked".to_owned(), properties, body }
    }

    /// Publishes again what came back although its confirm said that all is well. Waits for that only for a while, for
    /// who waits cannot be stopped.
    async fn reroute(&self) {
        let mut returned = self.returned.lock().await;
        while let Ok(Some(back)) = timeout(REROUTE_FOR, returned.recv()).await {
            let message = back.delivery;
            tracing::error!(exchange = %message.exchange, key = %message.routing_key, "RabbitMQ had no queue for a message; it is published again");
            let outgoing = Outgoing {
                exchange: message.exchange.to_string(),
                key: message.routing_key.to_string(),
                properties: message.properties,
                body: message.data,
            };
            while let Err(error) = self.publisher.publish(outgoing.clone()).await {
                tracing::error!(%error, "it could not be published again; the next attempt follows");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

#[async_trait]
impl Broker for Rabbitmq {
    async fn publish(&self, messages: Vec<Publication>) -> Result<Vec<Published>, Error> {
        let inner = self.inner.clone();
        self.inner.publishing.whole(async move { inner.take_in(messages).await }).await
    }

    async fn take(&self, queue: Queue, room: usize) -> Result<Vec<Delivery>, Error> {
        self.inner.source(queue).take(&self.inner, room).await
    }

    async fn find(&self, id: &str) -> Result<Option<Found>, Error> {
        for source in self.inner.sources() {
            let window = source.window();
            let is_it = |envelope: &Envelope| envelope.job.id.as_str() == id || envelope.job.message.as_str() == id;
            if let Some(held) = window.iter().find(|held| is_it(&held.envelope)) {
                let envelope = &held.envelope;
                let standing = if source.lane.is_none() { Standing::Dead } else { Standing::Ready };
                return Ok(Some(Found {
                    job: envelope.job.clone(),
                    lane: envelope.lane,
                    standing,
                    tries: envelope.tries,
                    reason: envelope.reason.clone(),
                }));
            }
        }
        let Some(spool) = self.inner.publishing.spool() else { return Ok(None) };
        let found = spool.find(id).await?;
        Ok(found.map(|item| Found {
            job: item.job,
            lane: item.lane,
            standing: Standing::Ready,
            tries: 0,
            reason: None,
        }))
    }

    async fn can_store(&self) -> Result<(), Error> {
        match (self.inner.link.publish().trouble(), self.inner.publishing.open_spool()) {
            (None, _) => Ok(()),
            (Some(_), Some(spool)) => spool.can_store().await,
            (Some(trouble), None) => Err(Error::Store(trouble.to_string())),
        }
    }

    async fn forget(&self, whose: &Whose) -> Result<Forgotten, Error> {
        removal::take(&self.inner, whose).await
    }

    fn counts(&self) -> Vec<Count> {
        self.inner.tally.counts(&self.inner)
    }

    async fn tidy(&self) -> Result<(), Error> {
        self.inner.tidy().await
    }
}

/// Goes one round.
type Going = fn(Arc<Inner>) -> BoxFuture<'static, Result<(), Error>>;

fn attend(line: Arc<Line>) -> BoxFuture<'static, Result<(), Error>> {
    Box::pin(async move {
        line.attend().await;
        Ok(())
    })
}

#[async_trait]
impl Upkeep for Rabbitmq {
    fn shape(&self) -> Shape {
        let partitions = self.inner.topology.partitions();
        Shape {
            system: "rabbitmq",
            partitions,
            window: partitions as usize * usize::from(self.inner.topology.prefetch()),
        }
    }

    fn rounds(&self) -> Vec<Round> {
        let round = |name, every, within, go: Going| {
            let inner = self.inner.clone();
            Round { name, every, within, go: Arc::new(move || go(inner.clone())) }
        };
        vec![
            round("publish", None, ATTEND_WITHIN, |inner| attend(inner.link.publish().clone())),
            round("consume", None, ATTEND_WITHIN, |inner| attend(inner.link.consume().clone())),
            round("returned", None, Duration::MAX, |inner| {
                Box::pin(async move {
                    inner.reroute().await;
                    Ok(())
                })
            }),
            round("tally", Some(tally::EVERY), tally::WITHIN, |inner| {
                Box::pin(async move { inner.tally.ask(&inner).await })
            }),
            round("spool", None, FORWARD_WITHIN, |inner| Box::pin(async move { inner.forward().await })),
            round("unrouted", Some(keeping::EVERY), keeping::WITHIN, |inner| {
                Box::pin(async move { inner.bring_home().await })
            }),
        ]
    }

    fn trouble(&self) -> Option<Trouble> {
        if let Some(trouble) = self.inner.link.trouble() {
            return Some(Trouble { reason: trouble.to_string(), lasting: trouble.is_lasting() });
        }
        let many = self.oversized();
        let reason = format!("{many} messages in the spool are larger than RabbitMQ's max_message_size");
        (many > 0).then_some(Trouble { reason, lasting: false })
    }

    fn oversized(&self) -> u64 {
        self.inner.publishing.oversized()
    }

    fn spooled(&self) -> Option<u64> {
        self.inner.publishing.spool().map(|spool| spool.messages())
    }

    fn spooled_of(&self, lane: Lane) -> Option<u64> {
        self.inner.publishing.spool().map(|spool| spool.of_lane(lane))
    }

    fn consumes(&self) -> bool {
        self.inner.link.consume().live().is_some()
    }

    fn spread(&self, me: &str, peers: &[Peer]) {
        let connected_for = self.inner.link.consume().live().map(|live| live.since.elapsed());
        let owners = spread::owners(&self.inner.chat, &spread::candidates(me, peers, connected_for));
        for (source, owner) in self.inner.chat.iter().zip(owners) {
            if source.want(owner == Some(me)) {
                // Whoever takes from it sees to it; this is for when nobody does.
                let (source, inner) = (source.clone(), self.inner.clone());
                self.inner.publishing.begin(async move { source.attend(&inner).await });
            }
        }
    }

    fn rest(&self, resting: bool) {
        for source in [&self.inner.events, &self.inner.dead] {
            if source.want(!resting) && resting {
                let (source, inner) = (source.clone(), self.inner.clone());
                self.inner.publishing.begin(async move { source.attend(&inner).await });
            }
        }
    }

    async fn close(&self) {
        futures_util::future::join_all(self.inner.sources().map(|source| source.end())).await;
        self.inner.publishing.end().await;
        self.inner.passes.end().await;
        self.inner.link.close().await;
        if let Some(spool) = self.inner.publishing.spool() {
            spool.close();
        }
    }
}
