//! Redis fails in every way it can while three nodes work: they go on, nothing is lost or doubled, the limits hold as
//! far as can be (G4), and all come back without a restart.

use std::time::Duration;

use tidegate::simulate::{Customers, ai, customers::Plan};
use tokio::time::Instant;

use crate::support::{
    Fleet, SOON, eventually, figure,
    redis::{Cluster, Redis, Sentinels},
};

const NODES: usize = 3;

/// Calls per second that the AI service allows.
const QUOTA: u64 = 60;

/// Webhooks per second: less than the quota, so that what waits for a limiter is not what is tested.
const PER_SECOND: f64 = 40.0;

/// How long Redis is away, in milliseconds.
fn away() -> Duration {
    Duration::from_millis(figure("TIDEGATE_AWAY_MS", 3_000))
}

fn config() -> String {
    format!(
        "[cache]\nenabled = false\n[[ai.services]]\n[ai.services.limits]\n\
         windows = [{{ requests = {QUOTA}, per = '1s' }}]\n"
    )
}

/// Three nodes at work; the judge is asked at the end.
struct Work<R> {
    fleet: Fleet<R>,
    customers: Customers,
}

impl Work<Redis> {
    async fn on_one() -> Self {
        let redis = Redis::start();
        let place = format!("nodes = ['{}']\n", redis.address());
        Self::begins(redis, &place).await
    }
}

impl<R> Work<R> {
    async fn begins(redis: R, place: &str) -> Self {
        let fleet = Fleet::on(redis, place, NODES, &config()).await;
        let quota = ai::Quota { requests: 1_000_000, per_ms: 1_000 };
        fleet.ai.behave(ai::Behaviour { latency_ms: 20, quota: vec![quota], ..ai::Behaviour::default() });
        let plan = Plan { conversations: 60, per_second: PER_SECOND, ..Plan::default() };
        let customers = Customers::start(&fleet.zendesk, plan);
        let work = Self { fleet, customers };
        work.goes_on("at the start").await;
        work
    }

    /// Waits until a second's worth more is answered.
    async fn goes_on(&self, when: &str) {
        let answered = || self.fleet.zendesk.stats().judged.answered;
        let enough = answered() + 40;
        eventually(when, SOON, async || answered() >= enough).await;
    }

    /// Waits until all nodes reach the state again, and tells how long that took.
    async fn comes_back(&self, what: &str) {
        let began = Instant::now();
        self.fleet.agrees().await;
        println!("{what}: all nodes are back after {} ms", began.elapsed().as_millis());
        self.goes_on("after it is back").await;
    }

    /// Everything is settled and sound, and no window saw more than the quota and one node's share.
    async fn ends(self) {
        self.customers.stop().await;
        self.fleet.settles().await;
        self.fleet.assert_sound();
        let peak = self.fleet.ai.stats().max_in_window[0].max_in_window;
        println!("{peak} calls in the fullest second, {QUOTA} are allowed");
        assert!(peak <= QUOTA + QUOTA / NODES as u64, "{peak} calls in a second\n{}", self.fleet.logs());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_killed_and_comes_back_empty() {
    let mut work = Work::on_one().await;
    work.fleet.redis.kill();
    work.goes_on("without Redis").await;
    tokio::time::sleep(away()).await;
    work.fleet.redis.restart();
    work.comes_back("kill -9").await;
    work.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_accepts_and_does_not_answer() {
    let work = Work::on_one().await;
    work.fleet.redis.freeze(true);
    work.goes_on("while it hangs").await;
    tokio::time::sleep(away()).await;
    work.fleet.redis.freeze(false);
    work.comes_back("SIGSTOP").await;
    work.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_forgets_its_scripts_and_then_everything() {
    let work = Work::on_one().await;
    work.fleet.redis.command(&["SCRIPT", "FLUSH"]);
    work.goes_on("without scripts").await;
    for _ in 0..3 {
        work.fleet.redis.command(&["FLUSHALL"]);
        work.goes_on("without memory").await;
    }
    work.comes_back("FLUSHALL").await;
    work.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_takes_nothing_more() {
    let work = Work::on_one().await;
    // No memory left: every write is refused with OOM.
    work.fleet.redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    work.goes_on("while it refuses").await;
    tokio::time::sleep(away()).await;
    work.fleet.redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    work.comes_back("OOM").await;
    work.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_is_lost_and_the_sentinels_make_another() {
    let sentinels = Sentinels::start();
    let place = format!("mode = 'sentinel'\nsentinel_master = 'main'\nnodes = {:?}\n", sentinels.addresses());
    let mut work = Work::begins(sentinels, &place).await;
    work.fleet.redis.master.kill();
    work.goes_on("without a master").await;
    work.comes_back("failover under Sentinel").await;
    work.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_loses_a_master() {
    let cluster = Cluster::with_node_timeout(2_000);
    let place = format!("mode = 'cluster'\nnodes = {:?}\n", cluster.addresses());
    let mut work = Work::begins(cluster, &place).await;
    work.fleet.redis.nodes[0].kill();
    work.goes_on("without a master").await;
    work.comes_back("failover of a Cluster").await;
    work.ends().await;
}
