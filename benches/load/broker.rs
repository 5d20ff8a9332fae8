//! The queue in RabbitMQ beside bare programs on the same private server: what a publisher and a consumer can do at most,
//! what our door takes, and the whole road with Redis.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Options,
    client::{load, webhook},
    daemon::Daemon,
    e2e,
    ingest::verdict,
    median, percentile,
    rabbitmq::Rabbit,
    redis::Redis,
};

/// As many queues as a fleet has partitions.
const QUEUES: u64 = 16;

/// Messages a consumer holds at once.
const PREFETCH: u16 = 256;

/// What one round brought.
#[derive(Default)]
struct Round {
    published: f64,
    published_p99: f64,
    ingested: f64,
    ingested_p99: f64,
    consumed: f64,
    road: f64,
    road_p99: f64,
    cpu: f64,
}

/// Measures all four, side by side.
pub async fn broker(options: &Options) {
    let (server, redis) = (Rabbit::start(), Redis::start());
    let mut rounds = Vec::new();
    for n in 0..options.rounds {
        rounds.push(round(options, &server, &redis, n).await);
        let round = &rounds[n];
        println!(
            "round {n}: bare publish {:.0}/s, our ingest {:.0}/s ({:.2}), bare consume {:.0}/s, our road {:.0}/s",
            round.published,
            round.ingested,
            round.ingested / round.published,
            round.consumed,
            round.road
        );
    }
    let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    println!(
        "RabbitMQ on this machine, {} in flight, {} rounds of {} s, {} messages on the road, medians",
        options.connections, options.rounds, options.seconds, options.messages
    );
    println!("{:<34}{:>10}{:>10}", "", "1/s", "p99 ms");
    println!("{:<34}{:>10.0}{:>10.1}", "bare publish and confirm", of(|r| r.published), of(|r| r.published_p99));
    println!("{:<34}{:>10.0}{:>10.1}", "tidegate, webhook to 200", of(|r| r.ingested), of(|r| r.ingested_p99));
    println!("{:<34}{:>10.0}", "bare consume and acknowledge", of(|r| r.consumed));
    println!("{:<34}{:>10.0}{:>10.1}", "tidegate, webhook to reply", of(|r| r.road), of(|r| r.road_p99));
    let ratio = of(|r| r.ingested / r.published);
    println!("CPU of the daemon per 1000 messages on the road: {:.3} s", of(|r| r.cpu));
    println!("to reach: ingest >= 0.80 of bare publishing {} ({ratio:.2})", verdict(ratio >= 0.8));
    println!("to reach: road >= 2000/s {}", verdict(of(|r| r.road) >= 2_000.0));
}

async fn round(options: &Options, server: &Rabbit, redis: &Redis, n: usize) -> Round {
    let bare = Bare::open(&server.address(), &format!("bare{n}")).await;
    let (published, published_p99) = bare.publish(options).await;
    let consumed = bare.consume().await;
    let daemon = Daemon::start(Some("ingress"), &on_rabbitmq(server, &format!("door{n}"))).await;
    let ours = load(daemon.public, options.plan()).await;
    assert_eq!(ours.failed, 0, "every webhook is answered 200");
    drop(daemon);
    let shared = [
        ("STATE__KIND", "redis".to_owned()),
        ("STATE__REDIS__NODES", redis.address()),
        // The customers write the same messages in each round: to one ledger the second time they are duplicates.
        ("STATE__REDIS__PREFIX", format!("road{n}")),
    ];
    let settings = [&on_rabbitmq(server, &format!("road{n}"))[..], &shared].concat();
    let road = e2e::road(options, &settings).await;
    Round {
        published,
        published_p99,
        ingested: ours.per_second,
        ingested_p99: percentile(&ours.latencies, 0.99),
        consumed,
        road: road.run.per_second,
        road_p99: percentile(&road.run.latencies, 0.99),
        cpu: road.cpu_per_1000,
    }
}

fn on_rabbitmq(server: &Rabbit, prefix: &str) -> Vec<(&'static str, String)> {
    vec![
        ("BROKER__KIND", "rabbitmq".to_owned()),
        ("BROKER__RABBITMQ__NODES", server.address()),
        ("BROKER__RABBITMQ__PASSWORD", "guest".to_owned()),
        ("BROKER__RABBITMQ__PREFIX", prefix.to_owned()),
    ]
}

/// A publisher and consumers with nothing around them, on queues like ours.
struct Bare {
    connection: Connection,
    name: String,
    published: AtomicU64,
}

impl Bare {
    async fn open(address: &str, name: &str) -> Self {
        let uri = format!("amqp://guest:guest@{address}/%2f");
        let connection = Connection::connect(&uri, ConnectionProperties::default()).await.expect("it is there");
        let channel = connection.create_channel().await.expect("it is there");
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let declared = channel.exchange_declare(name.into(), ExchangeKind::Direct, options, FieldTable::default());
        declared.await.expect("it can be declared");
        for n in 0..QUEUES {
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
            arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
            let (queue, key) = (format!("{name}.{n}"), n.to_string());
            let options = QueueDeclareOptions { durable: true, ..Default::default() };
            channel.queue_declare(queue.as_str().into(), options, arguments).await.expect("it can be declared");
            let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
            let bound = channel.queue_bind(queue.as_str().into(), name.into(), key.as_str().into(), options, arguments);
            bound.await.expect("it can be bound");
        }
        Self { connection, name: name.to_owned(), published: AtomicU64::new(0) }
    }

    /// As many in flight as our door has connections; messages a second, and the p99 in milliseconds.
    async fn publish(&self, options: &Options) -> (f64, f64) {
        let channel = self.connection.create_channel().await.expect("it is there");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("it confirms");
        let (next, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let until = began + Duration::from_secs(options.seconds);
        let mut publishers = JoinSet::new();
        for _ in 0..options.connections {
            publishers.spawn(publish_until(channel.clone(), self.name.clone(), next.clone(), until));
        }
        let mut latencies: Vec<u32> = publishers.join_all().await.into_iter().flatten().collect();
        latencies.sort_unstable();
        self.published.store(latencies.len() as u64, Ordering::Relaxed);
        (latencies.len() as f64 / began.elapsed().as_secs_f64(), percentile(&latencies, 0.99))
    }

    /// Consumes all that was published, a channel for each queue; messages a second.
    async fn consume(&self) -> f64 {
        let left = Arc::new(AtomicU64::new(self.published.load(Ordering::Relaxed)));
        let began = Instant::now();
        let mut consumers = JoinSet::new();
        for n in 0..QUEUES {
            let channel = self.connection.create_channel().await.expect("it is there");
            channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.expect("it is there");
            let queue = format!("{}.{n}", self.name);
            let options = BasicConsumeOptions::default();
            let consumer = channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default());
            let mut consumer = consumer.await.expect("it is there");
            let left = left.clone();
            consumers.spawn(async move {
                while let Some(message) = consumer.next().await {
                    let message = message.expect("it is there");
                    message.acker.ack(BasicAckOptions::default()).await.expect("it is there");
                    left.fetch_sub(1, Ordering::Relaxed);
                }
                drop(channel);
            });
        }
        while left.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.published.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
    }
}

/// One publisher, one in flight; how long each confirm took, in microseconds.
async fn publish_until(channel: Channel, exchange: String, next: Arc<AtomicU64>, until: Instant) -> Vec<u32> {
    let mut took = Vec::new();
    while Instant::now() < until {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let (body, key) = (webhook(n, 1_000), (n % QUEUES).to_string());
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(n.to_string().into());
        let began = Instant::now();
        let sent = channel.basic_publish(exchange.as_str().into(), key.as_str().into(), options, &body, properties);
        let confirmed = sent.await.expect("it is there").await.expect("it is there");
        assert!(matches!(confirmed, Confirmation::Ack(None)), "it is taken");
        took.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    took
}
