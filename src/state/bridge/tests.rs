//! What a node says while Redis is away, and what Redis knows afterwards.

use std::path::Path;

use super::*;
use crate::{
    domain::{control::Holder, timeline::Outcome},
    state::{
        RedisConfig, RetentionConfig, Settings,
        contract::{self, conversation},
        nodes::Nodes,
        redis::{Link, private},
        settings::Setting,
    },
    telemetry::Clock,
};

const SOON: Duration = Duration::from_secs(20);

fn bridge(server: &private::Redis, folder: &Path, boot: u64) -> (Arc<Bridge>, Arc<Local>) {
    let link =
        Link::open(&RedisConfig { nodes: vec![server.address()], ..RedisConfig::default() }).expect("an address");
    let local = Arc::new(Local::open(folder, RetentionConfig::default(), Timestamp(0)).expect("a folder"));
    let clock = Clock::with_wall(|| Timestamp(1));
    let before = Some(Nodes::id_of(boot - 1));
    let redis = Redis::open(link, RetentionConfig::default(), clock, Nodes::id_of(boot), before);
    (Bridge::new(redis, local.clone()), local)
}

fn turn(message: &str) -> Turn {
    let life =
        Life { message: contract::message(message), replay: 0, first_seen: Timestamp(1_000_000), redelivered: false };
    Turn { conversation: conversation("c"), lives: vec![life], user: None, recalled: false, now: Timestamp(2) }
}

fn answer(message: &str) -> Reply {
    contract::answer("c", &[message], "hello", Timestamp(3))
}

fn end(message: &str) -> Record {
    contract::record(message, "c", Outcome::Replied, Timestamp(4), Some(&answer(message)))
}

async fn recalls(bridge: &Bridge, message: &str) -> Vec<Recall> {
    match bridge.claim(&turn(message)).await.unwrap() {
        Claimed::Ours(ours) => ours.recalls,
        held => panic!("{held:?}"),
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_redis_is_away_is_told_to_it_also_by_the_next_process() {
    let (mut server, folder) = (private::Redis::start(), tempfile::tempdir().unwrap());
    let (before, local) = bridge(&server, folder.path(), 7);
    assert_eq!(recalls(&before, "first").await, [Recall::New]);
    server.kill();
    until("it is noticed", async || !before.redis.is_up()).await;
    // Absence here proves nothing, and what was done here is known.
    assert_eq!(recalls(&before, "m").await, [Recall::Unknown]);
    assert_eq!(before.intend(&answer("m"), Some(Fence(0))).await.unwrap(), Claim::Ours);
    assert_eq!(recalls(&before, "m").await, [Recall::Intended(answer("m"))]);
    before.conclude(vec![end("m")], None, Some(Fence(0))).await.unwrap();
    assert_eq!(recalls(&before, "m").await, [Recall::Ended(Outcome::Replied)]);
    assert_eq!(before.intend(&answer("meant"), Some(Fence(0))).await.unwrap(), Claim::Ours);
    before.note_control(&conversation("d"), Control { holder: Holder::Other, at: Timestamp(5) }).await.unwrap();
    drop(before);
    local.close();
    server.restart();
    let (after, local) = bridge(&server, folder.path(), 8);
    let redis = after.redis.clone();
    until("it is forwarded", async || redis.record("event of m").await.is_ok_and(|record| record.is_some())).await;
    until("all of it", async || !*after.behind.borrow()).await;
    assert_eq!(redis.record("m").await.unwrap().unwrap().text.as_deref(), Some("hello"));
    assert_eq!(recalls(&after, "meant").await, [Recall::Intended(answer("meant"))]);
    let control = redis.remembered(&conversation("d")).await.unwrap().control;
    assert_eq!(control.map(|control| control.holder), Some(Holder::Other));
    assert!(local.outstanding().await.unwrap().is_none(), "the file has forgotten what was forwarded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_refuses_to_write_counts_as_away() {
    let (server, folder) = (private::Redis::start(), tempfile::tempdir().unwrap());
    let (bridge, _) = bridge(&server, folder.path(), 7);
    recalls(&bridge, "first").await;
    let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
    std::io::Write::write_all(&mut stream, b"CONFIG SET maxmemory 1\r\n").unwrap();
    until("it refuses", async || {
        let script = fred::types::scripts::Script::from_lua("return redis.call('SET', KEYS[1], '1')");
        bridge.redis.link.run::<String, _>(&script, vec!["x".into()], Vec::<String>::new()).await.is_err()
    })
    .await;
    assert_eq!(bridge.intend(&answer("m"), None).await.unwrap(), Claim::Ours, "the file takes it");
    assert_eq!(recalls(&bridge, "m").await, [Recall::Intended(answer("m"))]);
    std::io::Write::write_all(&mut stream, b"CONFIG SET maxmemory 0\r\n").unwrap();
    until("it is forwarded", async || !*bridge.behind.borrow()).await;
    assert_eq!(recalls(&bridge, "m").await, [Recall::Intended(answer("m"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_key_has_used_waits_for_redis_and_counts_once() {
    let (mut server, folder) = (private::Redis::start(), tempfile::tempdir().unwrap());
    let (bridge, local) = bridge(&server, folder.path(), 7);
    let (key, month) = ("shop", "2026-11");
    until("it has begun", async || bridge.spend(key, month, 0).await.is_ok()).await;
    assert_eq!(bridge.spend(key, month, 5).await.unwrap(), 5);
    server.kill();
    until("it is noticed", async || !bridge.redis.is_up()).await;
    let away = bridge.spend(key, month, 7).await;
    assert!(matches!(away, Err(Error::Away(_))), "{away:?}");
    assert_eq!(local.spend(key, month, 0).await.unwrap(), 0, "the file would only know of this node");
    server.restart();
    let total = Mutex::new(0);
    until("Redis is back", async || {
        let told = bridge.spend(key, month, 7).await;
        told.map(|told| *total.lock() = told).is_ok()
    })
    .await;
    assert_eq!(total.into_inner(), 12, "whatever Redis has kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_comes_first_after_redis_lost_all_does_not_stand_alone() {
    let (server, folder) = (private::Redis::start(), tempfile::tempdir().unwrap());
    let (bridge, _) = bridge(&server, folder.path(), 7);
    let setting = |name: &str| Setting {
        name: name.into(),
        value: true.into(),
        by: "ada".into(),
        at: Timestamp(1),
        ends_with: None,
    };
    let names = async || {
        let all = bridge.settings(None).await.unwrap().unwrap();
        all.settings.into_iter().map(|setting| setting.name).collect::<Vec<_>>()
    };
    for name in ["mute/all", "pause/chat"] {
        bridge.set(&setting(name)).await.unwrap();
    }
    assert_eq!(names().await, ["mute/all", "pause/chat"]);
    assert_eq!(server.command(&["FLUSHALL"]), "OK");
    bridge.set(&setting("pause/retry")).await.unwrap();
    assert_eq!(names().await, ["mute/all", "pause/chat", "pause/retry"]);
    assert_eq!(server.command(&["FLUSHALL"]), "OK");
    assert!(bridge.unset("pause/chat").await.unwrap(), "it was set");
    assert_eq!(names().await, ["mute/all", "pause/retry"]);
}
