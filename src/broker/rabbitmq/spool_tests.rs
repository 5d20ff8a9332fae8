//! What becomes of messages while RabbitMQ is away, hung or back.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::Instant};

use super::{Rabbitmq, contract_tests::go, private::Rabbit};
use crate::{
    broker::{Broker, Config, Error, Peer, Published, RabbitmqConfig, SpoolConfig, Upkeep, contract::tools},
    domain::secret::Secret,
    telemetry::Clock,
};

const PATIENCE: Duration = Duration::from_secs(90);

pub(super) fn config(address: String, folder: &Path) -> Config {
    let rabbitmq = RabbitmqConfig { nodes: vec![address], password: Secret::new("guest"), ..RabbitmqConfig::default() };
    let path = folder.join("spool").display().to_string();
    Config { rabbitmq, spool: SpoolConfig { path, ..SpoolConfig::default() }, ..Config::default() }
}

/// A broker whose rounds are gone, each in a task, until it is dropped.
pub(super) struct Kept {
    pub broker: Arc<Rabbitmq>,
    _rounds: JoinSet<()>,
}

impl Kept {
    pub fn open(config: &Config) -> Self {
        let broker = Arc::new(Rabbitmq::open(config, Duration::MAX, Clock::system()).unwrap());
        let mut rounds = JoinSet::new();
        for round in broker.rounds() {
            rounds.spawn(go(round));
        }
        broker.spread("me", &[Peer { id: "me".to_owned(), consumes: true }]);
        Self { broker, _rounds: rounds }
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Rabbitmq) -> bool) {
        let began = Instant::now();
        while !holds(&self.broker) {
            assert!(began.elapsed() < PATIENCE, "{what}: {:?}", self.broker.trouble());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn publish(&self, names: std::ops::Range<usize>) -> Duration {
        let began = Instant::now();
        let messages = names.map(|n| tools::chat(n, "c")).collect();
        assert!(self.broker.publish(messages).await.unwrap().iter().all(|outcome| *outcome == Published::Stored));
        began.elapsed()
    }

    pub fn spooled(&self) -> u64 {
        self.broker.spooled().unwrap()
    }
}

/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_and_one_that_is_off_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(NOWHERE.into(), folder.path());
    config.spool.max_messages = 2;
    let kept = Kept::open(&config);
    kept.publish(0..2).await;
    assert_eq!(kept.spooled(), 2);
    let refused = kept.broker.publish(vec![tools::chat(2, "c")]).await;
    assert!(matches!(refused, Err(Error::Full("broker.spool.max_messages"))), "{refused:?}");
    assert!(kept.broker.can_store().await.is_err());
    let again = kept.broker.publish(vec![tools::chat(1, "c")]).await.unwrap();
    assert_eq!(again, [Published::DuplicateEvent]);
    assert!(kept.broker.find("e1").await.unwrap().is_some());
    kept.broker.close().await;
    drop(kept);
    config.spool.enabled = false;
    let kept = Kept::open(&config);
    assert_eq!(kept.spooled(), 2, "what was spooled is not forgotten");
    assert!(kept.broker.publish(vec![tools::chat(3, "c")]).await.is_err());
    assert!(kept.broker.can_store().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_spooled_is_forwarded_in_order_after_an_outage_and_a_restart() {
    let (folder, mut rabbit) = (tempfile::tempdir().unwrap(), Rabbit::start());
    let config = config(rabbit.address(), folder.path());
    let kept = Kept::open(&config);
    kept.until("no connection", |broker| broker.trouble().is_none()).await;
    kept.publish(0..20).await;
    assert_eq!(kept.spooled(), 0);
    rabbit.kill();
    kept.until("the end is not noticed", |broker| broker.trouble().is_some()).await;
    let took = kept.publish(20..60).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(kept.spooled(), 40);
    kept.broker.close().await;
    drop(kept);
    let kept = Kept::open(&config);
    assert_eq!(kept.spooled(), 40);
    kept.publish(60..70).await;
    rabbit.restart();
    kept.until("the spool is not emptied", |broker| broker.spooled() == Some(0)).await;
    let partition = kept.broker.inner.topology.partition_of(&tools::job(0, "c").conversation);
    let mut came = Vec::new();
    while came.len() < 70 {
        for delivery in tools::take(&*kept.broker, super::Queue::Chat(partition), 70).await {
            came.extend(tools::numbers(std::slice::from_ref(&delivery)));
            delivery.ack().await.unwrap();
        }
    }
    assert_eq!(came, (0..70).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_server_costs_one_publish_a_second_and_the_next_nothing() {
    let (folder, rabbit) = (tempfile::tempdir().unwrap(), Rabbit::start());
    let kept = Kept::open(&config(rabbit.address(), folder.path()));
    kept.until("no connection", |broker| broker.trouble().is_none()).await;
    kept.publish(0..1).await;
    rabbit.freeze(true);
    let took = kept.publish(1..3).await;
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(3), "{took:?}");
    let took = kept.publish(3..5).await;
    assert!(took < Duration::from_millis(700), "{took:?}");
    assert!(kept.spooled() >= 4);
    rabbit.freeze(false);
    kept.until("the spool is not emptied", |broker| broker.spooled() == Some(0)).await;
}
