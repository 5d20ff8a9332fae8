//! The state on Redis under the contract of all shared states, and what only a fleet can get wrong.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use fred::types::scripts::Script;
use parking_lot::Mutex;

use super::{Redis, RedisNodes, opened, private};
use crate::{
    domain::{
        control::{Control, Holder},
        reply::Reply,
        time::Timestamp,
        timeline::Outcome,
    },
    state::{
        Budgets, Claim, Claimed, Error, Ledger, Life, Memory, Ours, Recall, Record, RedisConfig, RetentionConfig,
        Shared, Turn,
        contract::{self, Factory, RETENTION, contract},
        nodes::Nodes,
    },
    telemetry::Clock,
};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Nobody dies of silence within a test.
const FOR_LONG: Duration = Duration::from_secs(3_600);

/// A server, and the prefix under which one state after the other keeps the same memories.
struct Place {
    server: private::Redis,
    prefix: Mutex<String>,
}

impl Place {
    fn new() -> Self {
        Self { server: private::Redis::start(), prefix: Mutex::new("first".into()) }
    }

    async fn node(&self, retention: RetentionConfig, predecessor: Option<u64>) -> (u64, Arc<Redis>) {
        let config = RedisConfig {
            nodes: vec![self.server.address()],
            prefix: self.prefix.lock().clone(),
            ..RedisConfig::default()
        };
        let link = opened(&config).await;
        let boot = NEXT.fetch_add(1, Ordering::Relaxed);
        // The node's own clock stands at the beginning of time: it distrusts nothing but what the buckets say.
        let clock = Clock::with_wall(|| Timestamp(100 * 24 * 3_600 * 1_000));
        RedisNodes::new(link.clone()).beat(&Nodes::id_of(boot), "{}", FOR_LONG).await.unwrap();
        let state = Redis::open(link, retention, clock, Nodes::id_of(boot), predecessor.map(Nodes::id_of));
        (boot, state)
    }
}

#[async_trait]
impl Factory for Place {
    async fn open(&self, retention: RetentionConfig, _: Timestamp) -> Shared {
        self.node(retention, None).await.1
    }

    async fn fresh(&self) -> Shared {
        *self.prefix.lock() = format!("p{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.open(RETENTION, Timestamp(1)).await
    }
}

contract!(Place::new());

/// Two processes of a fleet, and what they share.
async fn two_nodes() -> (Place, (u64, Arc<Redis>), (u64, Arc<Redis>)) {
    let place = Place::new();
    let (one, other) = (place.node(RETENTION, None).await, place.node(RETENTION, None).await);
    (place, one, other)
}

fn turn(ids: &[&str]) -> Turn {
    let life = |id: &&str| Life {
        message: contract::message(id),
        replay: 0,
        first_seen: Timestamp(i64::MAX / 2),
        redelivered: true,
    };
    let conversation = contract::conversation("c");
    Turn { conversation, lives: ids.iter().map(life).collect(), user: None, recalled: false, now: Timestamp(5) }
}

fn answer(id: &str) -> Reply {
    contract::answer("c", &[id], "hello", Timestamp(6))
}

fn end(id: &str) -> Record {
    contract::record(id, "c", Outcome::Replied, Timestamp(7), Some(&answer(id)))
}

async fn claimed(node: &Redis, ids: &[&str]) -> Ours {
    match node.claim(&turn(ids)).await.unwrap() {
        Claimed::Ours(ours) => ours,
        held => panic!("{held:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_another_node_works_on_is_held_until_it_is_released() {
    let (_place, (_, one), (_, other)) = two_nodes().await;
    let first = claimed(&one, &["m"]).await;
    let held = other.claim(&turn(&["m"])).await.unwrap();
    assert_eq!(held, Claimed::Held { by: one.owner.clone() });
    let again = claimed(&one, &["m"]).await;
    assert!(again.fence > first.fence && !again.inherited, "an owner's next claim takes the place of its last");
    one.release(&turn(&[]).conversation, Some(first.fence)).await.unwrap();
    assert!(matches!(other.claim(&turn(&["m"])).await.unwrap(), Claimed::Held { .. }), "released under a stale fence");
    one.conclude(vec![end("m")], None, Some(again.fence)).await.unwrap();
    let next = claimed(&other, &["m"]).await;
    assert_eq!((next.recalls, next.inherited), (vec![Recall::Ended(Outcome::Replied)], false));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_claimed_by_one_who_has_died_is_taken_over_and_the_dead_can_write_nothing() {
    let place = Place::new();
    let (boot, one) = place.node(RETENTION, None).await;
    let before = claimed(&one, &["m", "n"]).await;
    assert_eq!(one.intend(&answer("m"), Some(before.fence)).await.unwrap(), Claim::Ours);
    let (_, successor) = place.node(RETENTION, Some(boot)).await;
    let after = claimed(&successor, &["m"]).await;
    assert!(after.inherited && after.fence > before.fence);
    assert_eq!(after.recalls, [Recall::Intended(answer("m"))]);
    let conversation = turn(&[]).conversation;
    assert!(!one.is_ours(&conversation, before.fence).await.unwrap());
    assert_eq!(one.intend(&answer("n"), Some(before.fence)).await.unwrap(), Claim::Lost);
    let ended = one.conclude(vec![end("m")], None, Some(before.fence)).await;
    assert!(matches!(ended, Err(Error::Fenced)), "{ended:?}");
    assert_eq!(claimed(&successor, &["m", "n"]).await.recalls, [Recall::Intended(answer("m")), Recall::New]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_beating_is_dead_to_the_others() {
    let (_place, (_, one), (_, other)) = two_nodes().await;
    claimed(&one, &["m"]).await;
    assert!(matches!(other.claim(&turn(&["m"])).await.unwrap(), Claimed::Held { .. }));
    RedisNodes::new(one.link.clone()).beat(&one.owner, "{}", Duration::from_millis(300)).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while let Claimed::Held { .. } = other.claim(&turn(&["m"])).await.unwrap() {
        assert!(tokio::time::Instant::now() < deadline, "still held");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_was_lost_is_born_again_in_the_very_answer_that_finds_nothing() {
    let (place, (_, one), _) = two_nodes().await;
    let now = 100 * 24 * 3_600 * 1_000;
    let asked = |first_seen: i64| {
        let mut turn = turn(&["m"]);
        turn.now = Timestamp(now + 1_000_000);
        turn.lives[0].first_seen = Timestamp(first_seen);
        turn
    };
    let mut early = asked(now + 500_000);
    early.now = Timestamp(now);
    let known = async |turn: Turn| match one.claim(&turn).await.unwrap() {
        Claimed::Ours(ours) => ours.recalls,
        held => panic!("{held:?}"),
    };
    assert_eq!(known(early).await, [Recall::New]);
    let flush = Script::from_lua("return redis.call('FLUSHALL')");
    let _: String = one.link.run(&flush, vec!["x".into()], Vec::<String>::new()).await.unwrap();
    assert_eq!(known(asked(now + 500_000)).await, [Recall::Unknown], "seen before the loss");
    assert_eq!(known(asked(now + 1_500_000)).await, [Recall::New], "seen after it");
    drop(place);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_new_connection_nothing_older_is_taken_for_new() {
    let mut place = Place::new();
    let (_, one) = place.node(RETENTION, None).await;
    let known = async |one: &Redis| match one.claim(&Turn { now: Timestamp(0), ..turn(&["m"]) }).await {
        Ok(Claimed::Ours(ours)) => Some(ours.recalls),
        _ => None,
    };
    assert_eq!(known(&one).await, Some(vec![Recall::New]));
    let before = *one.link.connections().borrow();
    place.server.restart();
    one.link.connections().wait_for(|count| *count > before).await.unwrap();
    one.trusted_from_now_on(Timestamp(i64::MAX / 2));
    assert_eq!(known(&one).await, Some(vec![Recall::Unknown]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_is_heard_by_the_other_node_without_asking() {
    let (_place, (_, one), (_, other)) = two_nodes().await;
    let conversation = turn(&[]).conversation;
    let control = |holder, at| Control { holder, at: Timestamp(at) };
    one.note_control(&conversation, control(Holder::Us, 1)).await.unwrap();
    claimed(&one, &["m"]).await;
    // Until the listener has subscribed, what is published is not heard.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let mut at = 10;
    while one.controls.get(&conversation).await.map(|heard| heard.control.holder) != Some(Holder::Other) {
        assert!(tokio::time::Instant::now() < deadline, "not heard");
        other.note_control(&conversation, control(Holder::Us, at)).await.unwrap();
        other.note_control(&conversation, control(Holder::Other, at + 1)).await.unwrap();
        at += 10;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nodes_use_of_a_budget_is_counted_once_whatever_is_told_again_or_lost() {
    let (_place, (_, one), (_, other)) = two_nodes().await;
    let (key, month) = ("shop", "2026-11");
    assert_eq!(one.spend(key, month, 5).await.unwrap(), 5);
    assert_eq!(other.spend(key, month, 100).await.unwrap(), 105);
    assert_eq!(one.spend(key, month, 7).await.unwrap(), 112);
    one.told.forget_since(key, month, 5);
    assert_eq!(one.spend(key, month, 7 + 2).await.unwrap(), 114, "told again after an answer was lost");
    let flush = Script::from_lua("return redis.call('FLUSHALL')");
    let _: String = one.link.run(&flush, vec!["x".into()], Vec::<String>::new()).await.unwrap();
    assert_eq!(one.spend(key, month, 1).await.unwrap(), 15, "what this process has used");
    assert_eq!(other.spend(key, month, 0).await.unwrap(), 115, "and the other");
    assert_eq!(one.spend(key, month, 0).await.unwrap(), 115);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_is_kept_for_more_than_a_year_and_what_a_process_told_for_more_than_a_month() {
    let (_place, (_, one), _) = two_nodes().await;
    one.spend("shop", "2026-11", 5).await.unwrap();
    let ttl = Script::from_lua("return {redis.call('TTL', KEYS[1]), redis.call('TTL', KEYS[2])}");
    let left: Vec<u64> = one.link.run(&ttl, one.budget_keys("shop", "2026-11").to_vec(), "").await.unwrap();
    let days: Vec<u64> = left.iter().map(|seconds| seconds.div_ceil(24 * 3_600)).collect();
    assert_eq!(days, [400, 40]);
    for month in 1..=12 {
        one.spend("shop", &format!("2027-{month:02}"), 1).await.unwrap();
    }
    assert!(one.told.len() <= 3, "a process remembers {} months", one.told.len());
}
