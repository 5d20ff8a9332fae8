//! The queue in RabbitMQ, shared by all nodes.
//!
//! ```text
//! publish --> publisher (confirms) --> <p>.chat --> <p>.chat.NN --> source (one per queue) --> take
//!                                                       ^                    | retry, bury, park: a copy is confirmed,
//!                                                    tiers <-- lease --------+ then the original is acknowledged
//! ```
//! A crash between the two leaves both; whoever meets the second finds the first settled in the ledger, or holds both and
//! settles them as one (`window.rs`).

#[cfg(test)]
mod contract_tests;
mod envelope;
#[cfg(test)]
mod faults_tests;
mod lease;
mod link;
#[cfg(test)]
mod link_tests;
mod object;
mod overflow;
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the integration tests use what these do not")]
#[path = "../../tests/it/support/rabbitmq.rs"]
pub(crate) mod private;
mod probe;
mod publisher;
mod publishing;
mod seen;
mod source;
mod spool;
#[cfg(test)]
mod spool_tests;
mod tally;
mod topology;
mod window;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lapin::{
    BasicProperties,
    message::{BasicReturnMessage, Delivery as Message},
    options::BasicAckOptions,
};
use parking_lot::Mutex;
use tokio::sync::mpsc;

pub use self::probe::{Fault, Greeting, Looked, Probe};
use self::{
    envelope::Envelope,
    link::Link,
    publisher::{Outgoing, Publisher, Unconfirmed},
    publishing::Publishing,
    source::Source,
    tally::Tally,
    topology::{Tier, Topology},
};
use super::{
    Broker, Config, Count, Delivery, Error, Forgotten, Found, Lane, Publication, Published, Queue, Round, Shape,
    Standing, Trouble, Upkeep, Whose,
};
use crate::telemetry::Clock;

/// Messages of the events lane, or dead letters, held at once.
const PREFETCH_OTHERS: u16 = 64;

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
    topology: Arc<Topology>,
    link: Link,
    publisher: Publisher,
    publishing: Publishing,
    chat: Vec<Arc<Source>>,
    events: Arc<Source>,
    dead: Arc<Source>,
    tally: Tally,
    /// The server's time limit for an acknowledgement, as configured, or as it said itself when it was over.
    consumer_timeout: Mutex<Duration>,
    /// What the server gave back although its confirm said that all is well.
    returned: tokio::sync::Mutex<mpsc::UnboundedReceiver<BasicReturnMessage>>,
}

impl Rabbitmq {
    /// Reads the configuration; nothing is connected before the rounds are gone.
    pub fn open(config: &Config, clock: Clock) -> Result<Self, Error> {
        let publishing = Publishing::open(config)?;
        let config = &config.rabbitmq;
        let topology = Arc::new(Topology::new(config));
        let link = Link::new(config, &topology)?;
        let (back, returned) = mpsc::unbounded_channel();
        let publisher = Publisher::new(link.publish().clone(), config.confirm_timeout, back);
        let partition = |n| Source::new(topology.partition(n), Some(Lane::Chat), config.prefetch, false);
        let inner = Inner {
            clock,
            chat: (0..config.partitions).map(partition).collect(),
            events: Source::new(topology.name("events"), Some(Lane::Events), PREFETCH_OTHERS, true),
            dead: Source::new(topology.name("dead"), None, PREFETCH_OTHERS, true),
            tally: Tally::default(),
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
            tracing::warn!(?limit, "RabbitMQ's consumer_timeout is shorter than broker.rabbitmq.consumer_timeout");
            *self.consumer_timeout.lock() = limit;
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

    /// A message that is none of ours is not eaten: it goes to the parked letters as it is. `false`: it could not go there.
    async fn park_foreign(&self, queue: &str, message: Message) -> bool {
        tracing::error!(queue, "a message that is none of Tidegate's; it is moved to the parked letters");
        let foreign = self.as_it_is(message.properties, message.data, "not a message of Tidegate's");
        let parked = self.publisher.publish(foreign).await;
        if parked.is_ok() {
            // One that cannot be acknowledged any more comes again.
            let _ = message.acker.ack(BasicAckOptions::default()).await;
        }
        parked.is_ok()
    }

    /// To the parked letters, whatever it is.
    fn as_it_is(&self, properties: BasicProperties, body: Vec<u8>, reason: &str) -> Outgoing {
        let properties = envelope::parked_as_it_is(properties, reason, self.clock.now());
        Outgoing { exchange: self.topology.name("dlx"), key: "parked".to_owned(), properties, body }
    }

    /// Publishes again what came back although its confirm said that all is well.
    async fn reroute(&self) {
        let mut returned = self.returned.lock().await;
        while let Some(back) = returned.recv().await {
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
                // The next connection declares what is missing.
                if error == Unconfirmed::Unroutable
                    && let Some(live) = self.link.publish().live()
                {
                    self.link.publish().give_up(live.generation);
                }
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

    async fn forget(&self, _: &Whose) -> Result<Forgotten, Error> {
        Ok(Forgotten { deliveries: Vec::new(), in_hand: 0 })
    }

    fn counts(&self) -> Vec<Count> {
        self.inner.tally.counts(&self.inner)
    }

    async fn tidy(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait]
impl Upkeep for Rabbitmq {
    fn shape(&self) -> Shape {
        let partitions = self.inner.topology.partitions();
        Shape { partitions, window: partitions as usize * usize::from(self.inner.topology.prefetch()) }
    }

    fn rounds(&self) -> Vec<Round> {
        let lines = [self.inner.link.publish(), self.inner.link.consume()].map(|line| {
            let line = line.clone();
            Round {
                name: line.name(),
                every: None,
                within: ATTEND_WITHIN,
                go: Arc::new(move || {
                    let line = line.clone();
                    Box::pin(async move {
                        line.attend().await;
                        Ok(())
                    })
                }),
            }
        });
        let inner = self.inner.clone();
        let reroute = Round {
            name: "returned",
            every: None,
            within: Duration::MAX,
            go: Arc::new(move || {
                let inner = inner.clone();
                Box::pin(async move {
                    inner.reroute().await;
                    Ok(())
                })
            }),
        };
        let inner = self.inner.clone();
        let tally = Round {
            name: "tally",
            every: Some(tally::EVERY),
            within: tally::WITHIN,
            go: Arc::new(move || {
                let inner = inner.clone();
                Box::pin(async move { inner.tally.ask(&inner).await })
            }),
        };
        let inner = self.inner.clone();
        let spool = Round {
            name: "spool",
            every: None,
            within: FORWARD_WITHIN,
            go: Arc::new(move || {
                let inner = inner.clone();
                Box::pin(async move { inner.forward().await })
            }),
        };
        lines.into_iter().chain([reroute, tally, spool]).collect()
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

    fn spread(&self, me: &str, nodes: &[String]) {
        for source in &self.inner.chat {
            // The highest of the nodes' hashes has it (rendezvous hashing, Thaler and Ravishankar 1998).
            let owner = nodes.iter().max_by_key(|node| (topology::hash(&format!("{node}/{}", source.queue)), *node));
            source.want(owner.is_some_and(|owner| owner == me));
        }
    }

    async fn close(&self) {
        futures_util::future::join_all(self.inner.sources().map(|source| source.end())).await;
        self.inner.publishing.end().await;
        self.inner.link.close().await;
        if let Some(spool) = self.inner.publishing.spool() {
            spool.close();
        }
    }
}
