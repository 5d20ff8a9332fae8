//! Connections, names and confirms against a real server.

use std::{sync::Arc, time::Duration};

use lapin::{
    BasicProperties,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    envelope::Envelope,
    link::Link,
    private,
    publisher::{Outgoing, Publisher, Unconfirmed},
    topology::Topology,
};
use crate::{
    broker::{Lane, RabbitmqConfig, contract::tools},
    domain::secret::Secret,
    telemetry::Clock,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn config() -> RabbitmqConfig {
    let (address, prefix) = private::shared();
    RabbitmqConfig { nodes: vec![address], password: Secret::new("guest"), prefix, ..RabbitmqConfig::default() }
}

async fn up(link: &Link) {
    for line in [link.publish(), link.consume()] {
        timeout(PATIENCE, async {
            while line.live().is_none() {
                line.attend().await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("no connection: {:?}", link.trouble()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_confirmed_and_can_be_declared_again() {
    let topology = Arc::new(Topology::new(&config()));
    let config = RabbitmqConfig { prefix: topology.name("x"), ..config() };
    let topology = Arc::new(Topology::new(&config));
    let link = Link::new(&config, &topology).unwrap();
    up(&link).await;
    let (returned, mut back) = mpsc::unbounded_channel();
    let publisher = Publisher::new(link.publish().clone(), config.confirm_timeout, returned);
    let outgoing = |n: usize| {
        let job = Arc::new(tools::job(n, &format!("c{n}")));
        let (exchange, key) = topology.work(Lane::Chat, &job.conversation);
        let envelope = Envelope::new(job, Lane::Chat);
        Outgoing { exchange, key, properties: envelope.properties(), body: envelope.body() }
    };
    let clock = Clock::system();
    let began = clock.monotonic();
    let confirms = publisher.send((0..2_000).map(outgoing).collect()).await;
    for confirm in confirms {
        assert_eq!(confirm.await.unwrap(), Ok(()));
    }
    println!("2,000 confirmed in {:?}", clock.monotonic() - began);
    assert!(back.try_recv().is_err());
    link.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_on_every_channel_is_tried_at_another_server() {
    // One that stands for two.
    let config = config();
    let config = RabbitmqConfig { nodes: [config.nodes.clone(), config.nodes.clone()].concat(), ..config };
    let topology = Arc::new(Topology::new(&config));
    let link = Link::new(&config, &topology).unwrap();
    up(&link).await;
    let publish = link.publish();
    let setting_up = publish.live().unwrap().connection.create_channel().await.unwrap();
    let full = topology.name("full");
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), 1.into());
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    setting_up.queue_declare(full.as_str().into(), QueueDeclareOptions::default(), arguments).await.unwrap();
    let publisher = Publisher::new(publish.clone(), Duration::from_secs(15), mpsc::unbounded_channel().0);
    let outgoing = || Outgoing {
        exchange: String::new(),
        key: full.clone(),
        properties: BasicProperties::default(),
        body: b"something".to_vec(),
    };
    assert_eq!(publisher.publish(outgoing()).await, Ok(()));
    let (clock, first) = (Clock::system(), publish.live().unwrap().generation);
    let began = clock.monotonic();
    let changed = async {
        while publish.live().is_none_or(|live| live.generation == first) {
            let refused = publisher.publish(outgoing()).await.unwrap_err();
            assert!(matches!(refused, Unconfirmed::Refused | Unconfirmed::Away), "{refused}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let attended = async {
        loop {
            publish.attend().await;
        }
    };
    let changed = async {
        tokio::select! { () = changed => {}, () = attended => {} }
    };
    timeout(PATIENCE, changed).await.expect("the connection is changed");
    assert!(clock.monotonic() - began >= Duration::from_secs(5), "{:?}", clock.monotonic() - began);
    link.close().await;
}
