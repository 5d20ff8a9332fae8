//! The whole of RabbitMQ is away, or takes nothing, under load: every webhook is answered at once all the same.

use std::time::Duration;

use serde_json::Value;
use tidegate::simulate::{Customers, ai, customers::Plan};
use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};

use crate::support::{
    Balancer, SOON, Scene, eventually, figure, p99,
    rabbitmq::{self, Rabbit},
};

/// How often the node is asked whether it is ready.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A node and the load before it.
struct Outage {
    scene: Scene,
    balancer: Balancer,
    customers: Customers,
}

impl Outage {
    async fn begins(rabbit: &Rabbit) -> Self {
        let scene = Scene::with(&rabbitmq::config(&[rabbit.address()], "t")).await;
        scene.ai.behave(ai::Behaviour { latency_ms: 20, ..ai::Behaviour::default() });
        let balancer = Balancer::before(scene.daemon.url("/webhooks/sunshine")).await;
        scene.zendesk.aim(Some(&balancer.url())).expect("the address is sound");
        let per_second = figure("TIDEGATE_OUTAGE_PER_SECOND", 40) as f64;
        let customers = Customers::start(&scene.zendesk, Plan { conversations: 40, per_second, ..Plan::default() });
        eventually("the work is under way", SOON, async || scene.zendesk.stats().judged.answered >= 50).await;
        Self { scene, balancer, customers }
    }

    /// Looks at the node for half of the outage: it is ready and says why it is not well.
    async fn goes_on(&self) {
        eventually("messages are spooled", SOON, async || self.spooled().await > 0.5).await;
        let says_so = async || self.scene.daemon.admin("/readyz").await["status"] == "degraded";
        eventually("the node says that it is degraded", SOON, says_so).await;
        let until = Instant::now() + Duration::from_millis(figure("TIDEGATE_AWAY_MS", 5_000)) / 2;
        while Instant::now() < until {
            let answer = reqwest::get(self.scene.daemon.url("/readyz")).await.expect("the process lives");
            assert_eq!(answer.status(), 200, "a node whose broker is away stays ready");
            let said: Value = answer.json().await.expect("it is JSON");
            assert_eq!(said["status"], "degraded", "{said}");
            sleep(LOOK_EVERY).await;
        }
    }

    async fn spooled(&self) -> f64 {
        self.scene.daemon.metric("tidegate_spool_messages").await
    }

    /// What was answered between these two moments was answered 200, and quickly.
    fn answered_at_once(&self, what: &str, from: Instant, until: Instant) {
        let all = self.balancer.between(from, until);
        let refused = all.iter().filter(|one| one.status != Some(200)).count();
        let p99 = p99(&all);
        println!("{what}: {} webhooks, {refused} refused, 99 % answered within {p99:.1?}", all.len());
        assert_eq!(refused, 0, "{what}\n{}", self.scene.daemon.log_tail());
        assert!(all.len() > 20, "{what}: there was no load");
        let allowed = Duration::from_millis(figure("TIDEGATE_P99_MS", 10_000));
        assert!(p99 < allowed, "{what}: {p99:?}, {allowed:?} are allowed");
    }

    /// The broker is back: everything is settled, and nothing is left in the spool.
    async fn ends_well(self) {
        let (began, spooled) = (Instant::now(), self.spooled().await);
        eventually("the spool is empty", SOON * 2, async || self.spooled().await < 0.5).await;
        println!("{spooled} messages were spooled; the spool was empty after {:.1?}", began.elapsed());
        self.customers.stop().await;
        self.scene.settles().await;
        self.scene.assert_sound();
        eventually("the spool is empty", SOON, async || self.spooled().await < 0.5).await;
        let stats = self.scene.zendesk.stats();
        assert_eq!((stats.judged.handed_off, stats.webhook_failures_final), (0, 0), "{stats:?}");
        println!("{stats:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_down_and_the_node_dies_meanwhile() {
    let mut rabbit = block_in_place(Rabbit::start);
    let mut outage = Outage::begins(&rabbit).await;
    rabbit.kill();
    // Whoever waits for a confirm when it happens waits for a second.
    let from = Instant::now() + Duration::from_secs(1);
    outage.goes_on().await;
    outage.answered_at_once("the broker is down", from, Instant::now() - LOOK_EVERY);
    outage.scene.daemon.kill();
    outage.scene.daemon.restart("").await;
    let again = Instant::now();
    outage.goes_on().await;
    outage.answered_at_once("down, after a death of the node", again, Instant::now());
    block_in_place(|| rabbit.restart());
    outage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_has_no_memory_left() {
    let rabbit = block_in_place(Rabbit::start);
    let outage = Outage::begins(&rabbit).await;
    block_in_place(|| rabbit.alarm(true));
    outage.goes_on().await;
    // Each publisher is told with its first message in alarm; whoever waits for that confirm waits for a second.
    let from = Instant::now();
    outage.goes_on().await;
    outage.answered_at_once("the broker takes nothing", from, Instant::now());
    block_in_place(|| rabbit.alarm(false));
    outage.ends_well().await;
}
