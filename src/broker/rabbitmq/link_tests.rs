//! Connections, names and confirms against a real server.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};

use super::{
    envelope::Envelope,
    link::Link,
    private,
    publisher::{Outgoing, Publisher},
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
