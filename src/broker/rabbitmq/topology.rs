//! Which exchanges and queues there are, with which arguments, and how they are declared.
//!
//! ```text
//! <p>.chat (direct) --NN--> <p>.chat.NN            one consumer at a time (x-single-active-consumer)
//! <p>.events (direct) --events--> <p>.events
//! <p>.retry.<lane>.<tier> (fanout) --> the same    after the tier's time to <p>.<lane>, with the key it came with
//! <p>.dlx (direct) --dead--> <p>.dead, --parked--> <p>.parked
//! <p>.unrouted (fanout) --> <p>.unrouted           alternate exchange of all others
//! <p>.fleet                                        holds nothing; its arguments are the fleet's numbers
//! ```
//! All durable, all queues quorum queues. Limits that may change belong into policies, not here: an argument cannot
//! be changed without deleting the queue.

use std::time::Duration;

use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use crate::{
    broker::{Lane, RabbitmqConfig},
    domain::ids::ConversationId,
};

/// Never reached: each lost connection raises a message's count, so it is no measure of failures (design rule 6). Absent
/// it would be 20 from RabbitMQ 4.0 on; -1 would move returned messages to the back of their queue.
const DELIVERY_LIMIT: i64 = 1_000_000;

/// The pauses for which there is a queue each. A pause is waited for in the longest tier that is not longer; whoever
/// receives it waits for the rest.
const TIERS: [(&str, Duration); 6] = [
    ("1s", Duration::from_secs(1)),
    ("2s", Duration::from_secs(2)),
    ("4s", Duration::from_secs(4)),
    ("30s", Duration::from_secs(30)),
    ("2m", Duration::from_secs(120)),
    ("10m", Duration::from_secs(600)),
];

/// One of the queues in which messages wait for their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// Its name.
    pub name: &'static str,
    /// How long a message stays there.
    pub pause: Duration,
}

/// The names and arguments of one installation.
#[derive(Debug, Clone)]
pub struct Topology {
    prefix: String,
    partitions: u32,
    prefetch: u16,
    tiers: Vec<Tier>,
}

impl Topology {
    /// As the configuration names it.
    pub fn new(config: &RabbitmqConfig) -> Self {
        let tiers = TIERS.iter().map(|(name, pause)| Tier { name, pause: *pause }).collect();
        Self { prefix: config.prefix.clone(), partitions: config.partitions, prefetch: config.prefetch, tiers }
    }

    /// The number of chat partitions.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// The unacknowledged messages a partition's consumer may hold.
    pub fn prefetch(&self) -> u16 {
        self.prefetch
    }

    /// The partition a conversation belongs to, for ever.
    pub fn partition_of(&self, conversation: &ConversationId) -> u32 {
        u32::try_from(hash(conversation.as_str()) % u64::from(self.partitions))
            .expect("smaller than the number of partitions")
    }

    /// The name of an object.
    pub fn name(&self, of: &str) -> String {
        format!("{}.{of}", self.prefix)
    }

    /// The queue of a partition.
    pub fn partition(&self, partition: u32) -> String {
        self.name(&format!("chat.{partition:02}"))
    }

    /// The exchange and the queue in which a lane's messages wait for a tier's time.
    pub fn tier(&self, lane: Lane, tier: Tier) -> String {
        self.name(&format!("retry.{}.{}", lane.as_str(), tier.name))
    }

    /// All tiers, the shortest first.
    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// The longest tier that is not longer than the pause.
    pub fn tier_for(&self, pause: Duration) -> Option<Tier> {
        self.tiers.iter().rev().find(|tier| tier.pause <= pause).copied()
    }

    /// All work queues.
    pub fn work_queues(&self) -> Vec<(Lane, String)> {
        let partitions = (0..self.partitions).map(|partition| (Lane::Chat, self.partition(partition)));
        partitions.chain([(Lane::Events, self.name("events"))]).collect()
    }

    /// The exchange and routing key of a lane's work.
    pub fn work(&self, lane: Lane, conversation: &ConversationId) -> (String, String) {
        (self.name(lane.as_str()), self.key(lane, conversation))
    }

    /// The routing key under which a lane's message finds its work queue, also from a tier.
    pub fn key(&self, lane: Lane, conversation: &ConversationId) -> String {
        match lane {
            Lane::Chat => format!("{:02}", self.partition_of(conversation)),
            Lane::Events => "events".into(),
        }
    }

    /// Whether everything is there, as far as it can be seen without touching it. Binding what is bound already waits for
    /// all servers of a cluster, also for one that hangs (measured on 3.10: as long as its `net_ticktime`, a minute).
    ///
    /// # Errors
    /// When the connection breaks meanwhile.
    pub async fn is_there(&self, connection: &Connection) -> lapin::Result<bool> {
        let channel = connection.create_channel().await?;
        match self.look_for_all(&channel).await {
            Ok(()) => channel.close(200, "seen".into()).await.map(|()| true),
            // The server has closed the channel on which it was asked for what is not there.
            Err(_) if connection.status().connected() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn look_for_all(&self, channel: &Channel) -> lapin::Result<()> {
        let tiers =
            [Lane::Chat, Lane::Events].into_iter().flat_map(|lane| self.tiers.iter().map(move |tier| (lane, tier)));
        let tiers: Vec<String> = tiers.map(|(lane, tier)| self.tier(lane, *tier)).collect();
        let others = |names: &[&str]| names.iter().map(|name| self.name(name)).collect::<Vec<_>>();
        for exchange in others(&["unrouted", "dlx", "chat", "events"]).iter().chain(&tiers) {
            let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            let arguments = FieldTable::default();
            channel.exchange_declare(exchange.as_str().into(), ExchangeKind::Direct, options, arguments).await?;
        }
        let work = self.work_queues().into_iter().map(|(_, queue)| queue);
        for queue in others(&["unrouted", "dead", "parked", "fleet"]).into_iter().chain(work).chain(tiers) {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
        }
        Ok(())
    }

    /// Declares everything, on channels of its own: one that is refused is closed by the server. What exists already
    /// with other arguments is not touched; the error names it.
    pub async fn declare(&self, connection: &Connection) -> lapin::Result<()> {
        let channel = connection.create_channel().await?;
        let declaring = Declaring { channel: &channel, topology: self };
        declaring.all().await?;
        channel.close(200, "declared".into()).await
    }
}

/// FNV-1a (64 bit, offset and prime as published by its authors), and after it the finalizer of MurmurHash3 (Appleby):
/// without that the last letters of a name, in which ids of one minute differ, hardly count. It must be the same on every
/// node and in every version.
pub fn hash(text: &str) -> u64 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

struct Declaring<'a> {
    channel: &'a Channel,
    topology: &'a Topology,
}

impl Declaring<'_> {
    async fn all(&self) -> lapin::Result<()> {
        let topology = self.topology;
        let (unrouted, dlx) = (topology.name("unrouted"), topology.name("dlx"));
        self.exchange(&unrouted, ExchangeKind::Fanout, false).await?;
        self.queue(&unrouted, &[]).await?;
        self.bind(&unrouted, &unrouted, "").await?;
        self.exchange(&dlx, ExchangeKind::Direct, true).await?;
        for key in ["dead", "parked"] {
            let queue = topology.name(key);
            self.queue(&queue, &[]).await?;
            self.bind(&queue, &dlx, key).await?;
        }
        self.fleet().await?;
        for lane in [Lane::Chat, Lane::Events] {
            self.exchange(&topology.name(lane.as_str()), ExchangeKind::Direct, true).await?;
        }
        let dying = dead_lettering(&dlx, Some("dead"));
        for (lane, queue) in topology.work_queues() {
            let single = ("x-single-active-consumer", AMQPValue::Boolean(lane == Lane::Chat));
            self.queue(&queue, &[&dying[..], &[single]].concat()).await?;
            let key = queue.rsplit('.').next().unwrap_or_default();
            self.bind(&queue, &topology.name(lane.as_str()), key).await?;
        }
        for lane in [Lane::Chat, Lane::Events] {
            for tier in topology.tiers() {
                self.tier(lane, *tier).await?;
            }
        }
        Ok(())
    }

    /// The key a message came with stays, so it finds its partition again.
    async fn tier(&self, lane: Lane, tier: Tier) -> lapin::Result<()> {
        let name = self.topology.tier(lane, tier);
        let pause = i64::try_from(tier.pause.as_millis()).unwrap_or(i64::MAX);
        let returning = dead_lettering(&self.topology.name(lane.as_str()), None);
        self.exchange(&name, ExchangeKind::Fanout, true).await?;
        self.queue(&name, &[&returning[..], &[("x-message-ttl", AMQPValue::LongLongInt(pause))]].concat()).await?;
        self.bind(&name, &name, "").await
    }

    /// Nodes that would count partitions or hold messages otherwise break the order; so these numbers are fixed with
    /// the first node. Of all arguments RabbitMQ compares only those it knows.
    async fn fleet(&self) -> lapin::Result<()> {
        let partitions = ("x-max-length", AMQPValue::LongLongInt(self.topology.partitions.into()));
        let prefetch = ("x-max-length-bytes", AMQPValue::LongLongInt(self.topology.prefetch.into()));
        self.queue(&self.topology.name("fleet"), &[partitions, prefetch]).await
    }

    async fn exchange(&self, name: &str, kind: ExchangeKind, alternate: bool) -> lapin::Result<()> {
        let mut arguments = FieldTable::default();
        if alternate {
            let unrouted = AMQPValue::LongString(self.topology.name("unrouted").into());
            arguments.insert("alternate-exchange".into(), unrouted);
        }
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        self.channel.exchange_declare(name.into(), kind, options, arguments).await
    }

    async fn queue(&self, name: &str, more: &[(&'static str, AMQPValue)]) -> lapin::Result<()> {
        let mut arguments = FieldTable::default();
        let text = |text: &str| AMQPValue::LongString(text.into());
        arguments.insert("x-queue-type".into(), text("quorum"));
        arguments.insert("x-overflow".into(), text("reject-publish"));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
        for (key, value) in more {
            arguments.insert((*key).into(), value.clone());
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, arguments).await?;
        Ok(())
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        self.channel.queue_bind(queue.into(), exchange.into(), key.into(), options, arguments).await
    }
}

/// At least once: what leaves a queue is in the next one before it is gone here.
fn dead_lettering(exchange: &str, key: Option<&str>) -> Vec<(&'static str, AMQPValue)> {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut arguments =
        vec![("x-dead-letter-exchange", text(exchange)), ("x-dead-letter-strategy", text("at-least-once"))];
    arguments.extend(key.map(|key| ("x-dead-letter-routing-key", text(key))));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_of_one_minute_are_spread_over_all_partitions() {
        let topology = Topology::new(&RabbitmqConfig::default());
        let mut counts = vec![0_u32; topology.partitions() as usize];
        for n in 0..1_600_u32 {
            let id = ConversationId::new(&format!("66f0a1b2c3d4e5f600{n:06x}")).unwrap();
            counts[topology.partition_of(&id) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (60..=140).contains(count)), "about 100 each: {counts:?}");
    }
}
