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
    Connection, ExchangeKind,
    types::{AMQPValue, FieldTable},
};

use super::object::Object;
use crate::{
    broker::{Lane, RabbitmqConfig},
    domain::ids::ConversationId,
};

/// Never reached: each lost connection and each look raises a message's count (`operators.rs` begins anew in time), so it is
/// no measure of failures (design rule 6). Absent
/// it would be 20 from RabbitMQ 4.0 on; -1 would move returned messages to the back of their queue.
pub const DELIVERY_LIMIT: i64 = 1_000_000;

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

    /// The queues that several may look into: letters, what could not be routed, and what waits for its time.
    pub fn open_queues(&self) -> Vec<String> {
        let lanes = [Lane::Chat, Lane::Events].into_iter();
        let tiers = lanes.flat_map(|lane| self.tiers.iter().map(move |tier| self.tier(lane, *tier)));
        ["parked", "dead", "unrouted"].map(|queue| self.name(queue)).into_iter().chain(tiers).collect()
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
        for object in self.objects() {
            match object.look(&channel).await {
                Ok(()) => {}
                // The server has closed the channel on which it was asked for what is not there.
                Err(_) if connection.status().connected() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        channel.close(200, "seen".into()).await.map(|()| true)
    }

    /// Declares everything, on a channel of its own: one that is refused is closed by the server. What exists already
    /// with other arguments is not touched; the error names it.
    pub async fn declare(&self, connection: &Connection) -> lapin::Result<()> {
        let channel = connection.create_channel().await?;
        for object in self.objects() {
            object.declare(&channel).await?;
        }
        channel.close(200, "declared".into()).await
    }

    /// All that is to be there, in the order in which it can be made.
    pub fn objects(&self) -> Vec<Object> {
        let mut listing = Listing { topology: self, objects: Vec::new() };
        listing.all();
        listing.objects
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

struct Listing<'a> {
    topology: &'a Topology,
    objects: Vec<Object>,
}

impl Listing<'_> {
    fn all(&mut self) {
        let topology = self.topology;
        let (unrouted, dlx) = (topology.name("unrouted"), topology.name("dlx"));
        self.exchange(&unrouted, ExchangeKind::Fanout, false);
        self.queue(&unrouted, &[]);
        self.bind(&unrouted, &unrouted, "");
        self.exchange(&dlx, ExchangeKind::Direct, true);
        for key in ["dead", "parked"] {
            let queue = topology.name(key);
            self.queue(&queue, &[]);
            self.bind(&queue, &dlx, key);
        }
        self.fleet();
        for lane in [Lane::Chat, Lane::Events] {
            self.exchange(&topology.name(lane.as_str()), ExchangeKind::Direct, true);
        }
        let dying = dead_lettering(&dlx, Some("dead"));
        for (lane, queue) in topology.work_queues() {
            let single = ("x-single-active-consumer", AMQPValue::Boolean(lane == Lane::Chat));
            self.queue(&queue, &[&dying[..], &[single]].concat());
            let key = queue.rsplit('.').next().unwrap_or_default();
            self.bind(&queue, &topology.name(lane.as_str()), key);
        }
        for lane in [Lane::Chat, Lane::Events] {
            for tier in topology.tiers() {
                self.tier(lane, *tier);
            }
        }
    }

    /// The key a message came with stays, so it finds its partition again.
    fn tier(&mut self, lane: Lane, tier: Tier) {
        let name = self.topology.tier(lane, tier);
        let pause = i64::try_from(tier.pause.as_millis()).unwrap_or(i64::MAX);
        let returning = dead_lettering(&self.topology.name(lane.as_str()), None);
        self.exchange(&name, ExchangeKind::Fanout, true);
        self.queue(&name, &[&returning[..], &[("x-message-ttl", AMQPValue::LongLongInt(pause))]].concat());
        self.bind(&name, &name, "");
    }

    /// Nodes that would count partitions or hold messages otherwise break the order; so these numbers are fixed with
    /// the first node. Of all arguments RabbitMQ compares only those it knows.
    fn fleet(&mut self) {
        let partitions = ("x-max-length", AMQPValue::LongLongInt(self.topology.partitions.into()));
        let prefetch = ("x-max-length-bytes", AMQPValue::LongLongInt(self.topology.prefetch.into()));
        self.queue(&self.topology.name("fleet"), &[partitions, prefetch]);
    }

    fn exchange(&mut self, name: &str, kind: ExchangeKind, alternate: bool) {
        let mut arguments = FieldTable::default();
        if alternate {
            let unrouted = AMQPValue::LongString(self.topology.name("unrouted").into());
            arguments.insert("alternate-exchange".into(), unrouted);
        }
        self.objects.push(Object::Exchange { name: name.to_owned(), kind, arguments });
    }

    fn queue(&mut self, name: &str, more: &[(&'static str, AMQPValue)]) {
        let mut arguments = FieldTable::default();
        let text = |text: &str| AMQPValue::LongString(text.into());
        arguments.insert("x-queue-type".into(), text("quorum"));
        arguments.insert("x-overflow".into(), text("reject-publish"));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
        for (key, value) in more {
            arguments.insert((*key).into(), value.clone());
        }
        self.objects.push(Object::Queue { name: name.to_owned(), arguments });
    }

    fn bind(&mut self, queue: &str, exchange: &str, key: &str) {
        let [queue, exchange, key] = [queue, exchange, key].map(str::to_owned);
        self.objects.push(Object::Binding { queue, exchange, key });
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

    #[test]
    fn a_conversation_stays_in_its_partition_whatever_version_runs() {
        let topology = Topology::new(&RabbitmqConfig::default());
        let pinned = ["66f0a1b2c3d4e5f600000001", "c", "support:1"]
            .map(|id| topology.partition_of(&ConversationId::new(id).unwrap()));
        assert_eq!(pinned, [0, 14, 0]);
    }

    #[test]
    fn a_pause_is_waited_for_in_the_longest_tier_that_is_not_longer() {
        let topology = Topology::new(&RabbitmqConfig::default());
        let tier = |seconds: f64| topology.tier_for(Duration::from_secs_f64(seconds)).map(|tier| tier.name);
        let table =
            [(0.0, None), (0.99, None), (1.0, Some("1s")), (3.9, Some("2s")), (4.0, Some("4s")), (29.0, Some("4s"))];
        let longer = [
            (30.0, Some("30s")),
            (119.0, Some("30s")),
            (120.0, Some("2m")),
            (599.0, Some("2m")),
            (86_400.0, Some("10m")),
        ];
        for (seconds, name) in table.into_iter().chain(longer) {
            assert_eq!(tier(seconds), name, "{seconds} s");
        }
    }
}
