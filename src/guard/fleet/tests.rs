//! Nodes that share a quota through a Redis of their own, on the real clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinSet, time::Instant};

use super::*;
use crate::{
    guard::{Class, Permits, Shares, limiter::WindowLimit},
    state::redis::{Link, RedisQuotas, opened_to, private::Redis},
    store::calls,
    telemetry::Clock,
};

/// One node: its own link and limiter, served as its actor does.
pub(super) struct Node {
    pub permits: Arc<Permits>,
    pub link: Arc<Link>,
    live: Arc<AtomicUsize>,
    clock: Clock,
    serving: JoinSet<()>,
    _folder: tempfile::TempDir,
}

impl Node {
    pub async fn start(redis: &Redis, limits: &Limits, on_loss: OnLoss) -> Self {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
        let (journal, past) = calls::Calls::open(&folder.path().join("calls"), Duration::ZERO, clock.now()).unwrap();
        let link = opened_to(redis).await;
        let live = Arc::new(AtomicUsize::new(2));
        let counted = live.clone();
        let sharing = Sharing {
            quotas: Arc::new(RedisQuotas::new(link.clone())),
            on_loss,
            live_nodes: Arc::new(move || counted.load(Ordering::Relaxed)),
        };
        let permits = Permits::among("s", limits.clone(), clock.clone(), Arc::new(journal), &past, Some(sharing));
        let mut serving = JoinSet::new();
        serving.spawn(serve(permits.clone(), clock.clone()));
        let listens = permits.clone();
        serving.spawn(async move { listens.listen().await });
        let node = Self { permits, link, live, clock, serving, _folder: folder };
        node.until("the quota was looked at", |node| !node.permits.used().is_empty()).await;
        // The first one's quota gives nothing in the second in which it is born.
        node.until("it gives", |node| node.permits.free_at(1) <= node.clock.monotonic()).await;
        node
    }

    /// Takes a permit and uses it, if that is possible in time.
    pub async fn calls_within(&self, ms: u64) -> bool {
        let call = async {
            loop {
                if self.permits.acquire(1, Class::Chat).await.used_now().is_some() {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_millis(ms), call).await.is_ok()
    }

    /// How many calls can be made one after the other, each within this time.
    pub async fn calls(&self, most: usize, ms: u64) -> usize {
        for made in 0..most {
            if !self.calls_within(ms).await {
                return made;
            }
        }
        most
    }

    pub fn standing(&self) -> Standing {
        self.permits.fleet.as_ref().unwrap().standing()
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds(self) {
            assert!(Instant::now() < deadline, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn stop(mut self) {
        self.serving.shutdown().await;
        self.link.close().await;
    }
}

async fn serve(permits: Arc<Permits>, clock: Clock) {
    let rung = Arc::new(Notify::new());
    let ring = rung.clone();
    permits.bell.connect(move || ring.notify_one());
    loop {
        let due = permits.attend().await.unwrap_or(Duration::MAX);
        let span = due.saturating_sub(clock.monotonic()).min(Duration::from_secs(60));
        let _ = tokio::time::timeout(span, rung.notified()).await;
    }
}

pub(super) fn window(requests: u64, ms: u64) -> Limits {
    Limits { windows: vec![WindowLimit { requests, per: Duration::from_millis(ms) }], ..Limits::NONE }
}

/// Callers that ask again as soon as they have called; when each call was made.
async fn closed_loop(nodes: &[(&Node, usize, Class)], span: Duration) -> Vec<Vec<Instant>> {
    let (mut callers, end) = (JoinSet::new(), Instant::now() + span);
    let made: Vec<Arc<Mutex<Vec<Instant>>>> = nodes.iter().map(|_| Arc::default()).collect();
    for (index, (node, count, class)) in nodes.iter().enumerate() {
        for _ in 0..*count {
            let (permits, made, class) = (node.permits.clone(), made[index].clone(), *class);
            callers.spawn(async move {
                while let Ok(permit) = tokio::time::timeout_at(end, permits.acquire(1, class)).await {
                    if let Some(call) = permit.used_now() {
                        made.lock().push(Instant::now());
                        drop(call);
                    }
                }
            });
        }
    }
    while callers.join_next().await.is_some() {}
    made.iter().map(|made| made.lock().clone()).collect()
}

/// The most calls within any span of this length.
fn fullest(made: &[Vec<Instant>], span: Duration) -> usize {
    let mut all: Vec<Instant> = made.concat();
    all.sort();
    (0..all.len()).map(|first| all[first..].iter().take_while(|at| **at - all[first] < span).count()).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_many_callers_gets_no_more_than_its_neighbour() {
    let redis = Redis::start();
    let limits = window(20, 500);
    let (many, few) = (
        Node::start(&redis, &limits, OnLoss::LocalShare).await,
        Node::start(&redis, &limits, OnLoss::LocalShare).await,
    );
    let made = closed_loop(&[(&many, 40, Class::Chat), (&few, 4, Class::Chat)], Duration::from_secs(6)).await;
    let counts = [made[0].len(), made[1].len()];
    let half = (counts[0] + counts[1]) as f64 / 2.0;
    assert!((counts[1] as f64 - half).abs() <= half * 0.2, "{counts:?}");
    assert!(fullest(&made, Duration::from_millis(500)) <= 20);
    many.stop().await;
    few.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_divides_its_part_among_its_classes_by_their_shares() {
    let redis = Redis::start();
    let limits = window(20, 500);
    let (divided, other) = (
        Node::start(&redis, &limits, OnLoss::LocalShare).await,
        Node::start(&redis, &limits, OnLoss::LocalShare).await,
    );
    divided.permits.set_shares(Shares { chat: 1, api: 3 });
    let callers = [(&divided, 40, Class::Chat), (&divided, 8, Class::Api), (&other, 8, Class::Chat)];
    let made = closed_loop(&callers, Duration::from_secs(6)).await;
    let [chat, api, others] = [made[0].len(), made[1].len(), made[2].len()].map(|count| count as f64);
    let quarter = (chat + api) / 4.0;
    assert!((chat - quarter).abs() <= quarter * 0.2, "{chat} of {}", chat + api);
    assert!((chat + api - others).abs() <= others * 0.4, "{chat} and {api} beside {others}");
    divided.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_reservers_on_the_real_clock_use_the_whole_quota_and_never_more() {
    let redis = Redis::start();
    let limits = window(50, 1000);
    let mut nodes = Vec::new();
    for _ in 0..4 {
        nodes.push(Node::start(&redis, &limits, OnLoss::LocalShare).await);
    }
    let span = Duration::from_secs(8);
    let callers: Vec<_> = nodes.iter().map(|node| (node, 8, Class::Chat)).collect();
    let made = closed_loop(&callers, span).await;
    let total: usize = made.iter().map(Vec::len).sum();
    let possible = 50.0 * (span.as_secs_f64() / 1.3).floor();
    println!("{total} of {possible} possible, fullest second {}", fullest(&made, Duration::from_secs(1)));
    assert!(fullest(&made, Duration::from_secs(1)) <= 50);
    assert!(total as f64 >= possible * 0.95, "{total} of {possible}");
    for node in nodes {
        node.stop().await;
    }
}

pub(super) async fn all_listen(link: &Link, nodes: u64) {
    let listeners = fred::types::scripts::Script::from_lua("return redis.call('PUBSUB', 'NUMSUB', ARGV[1])[2]");
    let deadline = Instant::now() + Duration::from_secs(20);
    while link.run::<u64, _>(&listeners, Vec::new(), vec![link.channel("quota")]).await.unwrap() < nodes {
        assert!(Instant::now() < deadline, "nobody listens");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_one_node_is_told_holds_on_all_and_takes_their_permits_back() {
    let redis = Redis::start();
    let limits = window(100, 1000);
    let (told, other) = (
        Node::start(&redis, &limits, OnLoss::LocalShare).await,
        Node::start(&redis, &limits, OnLoss::LocalShare).await,
    );
    all_listen(&told.link, 2).await;
    let before = other.permits.acquire(1, Class::Chat).await;
    let began = Instant::now();
    told.permits.throttled(Some(Duration::from_secs(1)));
    other.until("the pause is heard of", |other| other.permits.fleet.as_ref().unwrap().inner.lock().epoch == 1).await;
    assert!(began.elapsed() < Duration::from_millis(250), "announced, not found by looking: {:?}", began.elapsed());
    assert!(before.used_now().is_none(), "a permit of before the pause");
    assert!(other.calls_within(3_000).await && began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    other.until("what was learned is shared", |other| other.permits.used()[0].limit == 70).await;
    told.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_node_has_its_share_and_with_an_empty_one_it_tells_what_it_did() {
    let mut redis = Redis::start();
    let limits = window(20, 60_000);
    let (one, other) = (
        Node::start(&redis, &limits, OnLoss::LocalShare).await,
        Node::start(&redis, &limits, OnLoss::LocalShare).await,
    );
    assert_eq!((one.calls(4, 2_000).await, other.calls(2, 2_000).await), (4, 2));
    let knows = |used| move |node: &Node| node.permits.used()[0].used == used;
    one.until("it has looked", knows(6)).await;
    other.until("it has looked", knows(6)).await;
    redis.kill();
    one.until("it goes on alone", |node| node.standing() == Standing::Alone).await;
    other.until("it goes on alone", |node| node.standing() == Standing::Alone).await;
    assert_eq!((one.calls(20, 600).await, other.calls(20, 600).await), (7, 7), "half of the 14 that were left");
    redis.restart();
    one.until("the quota is back", knows(20)).await;
    other.until("the quota is back", knows(20)).await;
    assert!(!one.calls_within(3_500).await && !other.calls_within(500).await, "an empty Redis is told first");
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_is_missed_and_one_that_comes_back_is_told_what_was_done() {
    let redis = Redis::start();
    let limits = window(20, 60_000);
    let node = Node::start(&redis, &limits, OnLoss::LocalShare).await;
    assert_eq!(node.calls(4, 2_000).await, 4);
    node.until("it has looked", |node| node.permits.used()[0].used == 4).await;
    redis.freeze(true);
    node.until("it goes on alone", |node| node.standing() == Standing::Alone).await;
    assert_eq!(node.calls(20, 1_200).await, 8, "half of the 16 that were left");
    redis.freeze(false);
    node.until("what it did is known", |node| node.standing() == Standing::Shared && node.permits.used()[0].used >= 12)
        .await;
    assert_eq!(node.permits.used()[0].used, 12, "what was asked while it hung is not counted twice");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_shall_wait_or_has_never_counted_the_nodes_does_nothing_without_redis() {
    let mut redis = Redis::start();
    let limits = window(20, 60_000);
    let waits = Node::start(&redis, &limits, OnLoss::Wait).await;
    let alone = Node::start(&redis, &limits, OnLoss::LocalShare).await;
    alone.live.store(0, Ordering::Relaxed);
    assert!(waits.calls_within(2_000).await && alone.calls_within(2_000).await);
    redis.kill();
    waits.until("it is missed", |node| node.standing() == Standing::Waits).await;
    alone.until("it is missed", |node| node.standing() == Standing::Waits).await;
    assert!(!waits.calls_within(700).await && !alone.calls_within(700).await);
    redis.restart();
    assert!(waits.calls_within(5_000).await && alone.calls_within(5_000).await, "and goes on by itself");
    waits.stop().await;
    alone.stop().await;
}
