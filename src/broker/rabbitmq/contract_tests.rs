//! The queue in RabbitMQ under the contract of all brokers, and what is its own: the tiers, and copies.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lapin::{options::QueueDeclareOptions, types::FieldTable};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Rabbitmq, envelope::Envelope, private};
use crate::{
    broker::{
        Broker, Config, Lane, Letters, Peer, Queue, RabbitmqConfig, Round, SpoolConfig, Upkeep,
        contract::{Factory, Setup, contract, tools::*},
    },
    domain::{ids::ConversationId, secret::Secret},
    telemetry::Clock,
};

/// A loaded server takes its time to declare everything.
const CONNECTS_WITHIN: Duration = Duration::from_secs(60);

/// Tests wait for true counts; the node has more time.
const ROUND_AT_MOST: Duration = Duration::from_millis(200);

/// A prefix of its own on the server all tests share, and a folder for the spool.
pub(super) struct Place {
    config: RabbitmqConfig,
    folder: TempDir,
    open: Mutex<Option<(Arc<Rabbitmq>, JoinSet<()>)>>,
}

impl Place {
    pub fn new() -> Self {
        Self::with_partitions(1)
    }

    fn with_partitions(partitions: u32) -> Self {
        let (address, prefix) = private::shared();
        let password = Secret::new("guest");
        let config = RabbitmqConfig { nodes: vec![address], password, prefix, partitions, ..Default::default() };
        Self { config, folder: tempfile::tempdir().unwrap(), open: Mutex::new(None) }
    }

    /// Another node's place on the same queues.
    pub fn beside(&self) -> Self {
        Self { config: self.config.clone(), folder: tempfile::tempdir().unwrap(), open: Mutex::new(None) }
    }

    pub async fn rabbitmq(&self, setup: Setup) -> Arc<Rabbitmq> {
        let before = self.open.lock().take();
        if let Some((before, mut rounds)) = before {
            before.close().await;
            rounds.shutdown().await;
        }
        let rabbitmq = RabbitmqConfig { prefetch: u16::try_from(setup.window).unwrap(), ..self.config.clone() };
        let path = self.folder.path().join("spool").display().to_string();
        let config = Config { rabbitmq, spool: SpoolConfig { path, ..Default::default() }, ..Config::default() };
        let broker = Arc::new(Rabbitmq::open(&config, setup.parked_for, Clock::system()).unwrap());
        let mut rounds = JoinSet::new();
        for round in broker.rounds() {
            rounds.spawn(go(round));
        }
        broker.spread("me", &[Peer { id: "me".to_owned(), consumes: true }]);
        let connected = async {
            while broker.trouble().is_some() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(CONNECTS_WITHIN, connected).await.unwrap_or_else(|_| panic!("{:?}", broker.trouble()));
        *self.open.lock() = Some((broker.clone(), rounds));
        broker
    }
}

/// Goes the rounds for ever.
pub(super) async fn go(round: Round) {
    loop {
        timeout(round.within, (round.go)()).await.expect("a round ends in time").ok();
        if let Some(every) = round.every {
            sleep(every.min(ROUND_AT_MOST)).await;
        }
    }
}

#[async_trait]
impl Factory for Place {
    async fn open(&self, setup: Setup) -> Arc<dyn Broker> {
        self.rabbitmq(setup).await
    }

    fn letters(&self) -> Arc<dyn Letters> {
        self.open.lock().as_ref().expect("one is open").0.clone()
    }

    fn window_min(&self) -> usize {
        256
    }
}

contract!(Place::new());

/// How many of the conversations belong to a partition.
fn many_in(broker: &Rabbitmq, all: &[(usize, String)], partition: u32) -> usize {
    let of = |conversation: &str| broker.inner.topology.partition_of(&ConversationId::new(conversation).unwrap());
    all.iter().filter(|(_, conversation)| of(conversation) == partition).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tier_brings_its_messages_back_to_their_partition_at_their_time() {
    const PARTITIONS: u32 = 3;
    let place = Place::with_partitions(PARTITIONS);
    let broker = place.rabbitmq(Setup::default()).await;
    // All six take ten minutes: `scripts/trials/tiers`.
    let is_trial = std::env::var_os("TIDEGATE_ALL_TIERS").is_some();
    let (pauses, each) = if is_trial { (&[600, 120, 30, 4, 2, 1][..], 60) } else { (&[4, 2, 1][..], 20) };
    let pauses: Vec<_> = pauses.iter().copied().map(Duration::from_secs).collect();
    // Each pause with conversations of its own, the longest published and delayed first.
    let all: Vec<_> = (0..pauses.len() * each).map(|n| (n, format!("c{n}"))).collect();
    publish(&*broker, all.iter().map(|(n, conversation)| (*n, conversation.as_str()))).await;
    let clock = Clock::system();
    let mut taken = Vec::new();
    for partition in 0..PARTITIONS {
        let count = many_in(&broker, &all, partition);
        assert!(count > 5, "spread");
        let mut here = take_many(&*broker, Queue::Chat(partition), count).await;
        taken.append(&mut here);
    }
    let mut began = vec![Duration::ZERO; all.len()];
    taken.sort_by_key(|delivery| name(delivery).parse::<usize>().unwrap());
    for (n, delivery) in taken.into_iter().enumerate() {
        began[n] = clock.monotonic();
        delivery.retry(pauses[n / each]).await.unwrap();
    }
    let mut coming = JoinSet::new();
    let patience = pauses[0] * 2 + PATIENCE;
    for partition in 0..PARTITIONS {
        let (broker, clock) = (broker.clone(), clock.clone());
        let count = many_in(&broker, &all, partition);
        coming.spawn(async move {
            let mut came = Vec::new();
            while came.len() < count {
                let taking = broker.take(Queue::Chat(partition), 16);
                for delivery in timeout(patience, taking).await.expect("all come back").unwrap() {
                    came.push((name(&delivery).parse::<usize>().unwrap(), clock.monotonic()));
                    delivery.ack().await.unwrap();
                }
            }
            came
        });
    }
    let came: Vec<_> = coming.join_all().await.into_iter().flatten().collect();
    assert_each_once(came.iter().map(|(n, _)| *n).collect(), all.len());
    for (n, at) in came {
        let (pause, after) = (pauses[n / each], at - began[n]);
        assert!(after + Duration::from_millis(2) >= pause, "{n}: after {after:?}, not {pause:?}");
        if is_trial {
            println!("{pause:?}: after {after:.2?}");
        }
        // One behind a longer pause would come when that is over.
        assert!(after < pause * 2 - Duration::from_millis(100), "{n}: after {after:?}, not {pause:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_message_twice_is_one_delivery_and_both_are_acknowledged() {
    let place = Place::new();
    let broker = place.rabbitmq(Setup::default()).await;
    // As one who does not know of the first, or a copy whose original was not acknowledged.
    for name in ["twice", "twice", "other"] {
        let envelope = Envelope::new(Arc::new(job(name, "c")), Lane::Chat);
        broker.inner.publisher.publish(broker.inner.to_work(&envelope)).await.unwrap();
    }
    let taken = take_many(&*broker, CHAT, 2).await;
    assert_eq!(names(&taken), ["twice", "other"], "once");
    for delivery in taken {
        delivery.ack().await.unwrap();
    }
    drop(broker);
    let broker = place.rabbitmq(Setup::default()).await;
    assert_tally(&*broker, [0; 5]).await;
    is_empty(&*broker, Lane::Chat, "sentinel").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn takes_that_are_given_up_leave_one_consumer_behind() {
    let place = Place::new();
    let broker = place.rabbitmq(Setup::default()).await;
    let queue = broker.inner.topology.partition(0);
    let me = [Peer { id: "me".to_owned(), consumes: true }];
    for n in 0..100 {
        // Given up at another moment each time: before, while and after it subscribes, or leaves.
        broker.spread("me", if n % 2 == 0 { &me } else { &[] });
        let taken = timeout(Duration::from_micros(n * 100), broker.take(CHAT, 1)).await;
        assert!(taken.is_err(), "nothing is there");
    }
    broker.spread("me", &me);
    publish(&*broker, [("only", "c")]).await;
    take_one(&*broker, CHAT).await.ack().await.unwrap();
    let live = broker.inner.link.consume().live().unwrap();
    let channel = live.connection.create_channel().await.unwrap();
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let told = channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await.unwrap();
    assert_eq!(told.consumer_count(), 1);
}
