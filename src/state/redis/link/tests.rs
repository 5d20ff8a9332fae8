//! The link against real servers that die, hang, are replaced, and are not what was configured.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use fred::types::scripts::Script;
use tokio::time::{Instant, sleep, timeout};

use super::{
    super::private::{Certificates, Cluster, Redis, Sentinels},
    Link, Plan, find,
};
use crate::{
    domain::secret::Secret,
    state::{Error, RedisConfig, RedisMode},
};

static WRITE: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua("redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])"));

/// The machine is shared and slow.
const SOON: Duration = Duration::from_secs(30);

fn to(nodes: Vec<String>) -> RedisConfig {
    RedisConfig { nodes, ..RedisConfig::default() }
}

/// A link that is up.
pub(crate) async fn opened(config: &RedisConfig) -> Arc<Link> {
    let link = Link::open(config).unwrap();
    let up = timeout(SOON, link.connections().wait_for(|count| *count > 0)).await.is_ok();
    assert!(up, "{:?}", link.state().trouble());
    link
}

/// One to a server, with the usual configuration.
pub(crate) async fn opened_to(server: &Redis) -> Arc<Link> {
    opened(&to(vec![server.address()])).await
}

async fn write(link: &Link, tag: &str) -> Result<String, Error> {
    link.run(&WRITE, vec![link.key(tag, "k")], tag).await
}

/// How long it takes until `holds`.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < SOON, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
    let took = began.elapsed();
    eprintln!("{what}: {} ms", took.as_millis());
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_killed_is_missed_at_once_and_found_again() {
    let mut server = Redis::start();
    let link = opened(&to(vec![server.address()])).await;
    assert_eq!(write(&link, "a").await.unwrap(), "a");
    server.kill();
    assert!(until("the loss is noticed", async || !link.is_up()).await < Duration::from_secs(1));
    assert!(matches!(write(&link, "a").await, Err(Error::Away(_))));
    sleep(Duration::from_secs(1)).await;
    server.restart();
    let took = until("a killed server is back", async || write(&link, "a").await.is_ok()).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(*link.connections().borrow(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_noticed_while_calls_go_on_and_is_found_again() {
    let server = Redis::start();
    let link = opened(&to(vec![server.address()])).await;
    server.freeze(true);
    let began = Instant::now();
    let noticed = until("a hanging server is noticed", async || {
        let asked = Instant::now();
        assert!(write(&link, "a").await.is_err());
        assert!(asked.elapsed() < Duration::from_millis(900), "a call ends in time");
        !link.is_up()
    })
    .await;
    assert!(noticed < Duration::from_secs(2), "{noticed:?}");
    let trouble = link.state().trouble().unwrap();
    assert!(trouble.contains("does not answer"), "{trouble}");
    sleep(Duration::from_secs(3).saturating_sub(began.elapsed())).await;
    assert!(!link.is_up());
    server.freeze(false);
    let took = until("a server that hung is back", async || write(&link, "a").await.is_ok()).await;
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_save_says_why_and_is_not_besieged() {
    let server = Redis::with(&["--save", "3600 1000"]);
    let link = opened(&to(vec![server.address()])).await;
    server.lose_folder();
    assert_eq!(write(&link, "a").await.unwrap(), "a");
    server.command(&["BGSAVE"]);
    until("it takes no writes any more", async || server.command(&["PING"]).starts_with("-MISCONF")).await;
    let trouble = || link.state().trouble().unwrap_or_default();
    until("the reason is told", async || trouble().contains("MISCONF")).await;
    assert!(!link.is_up() && !trouble().contains("does not answer"), "{}", trouble());
    let clients = || {
        let told = server.command(&["INFO", "stats"]);
        let line = told.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap()
    };
    let (made, before) = (*link.connections().borrow(), clients());
    sleep(Duration::from_secs(2)).await;
    assert_eq!(*link.connections().borrow(), made, "what cannot be used is no connection");
    let tried = clients() - before;
    assert!(tried < 60, "{tried} connections in two seconds");
    server.command(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    until("it is used again", async || write(&link, "a").await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_the_server_forgot_runs_all_the_same() {
    let server = Redis::start();
    let link = opened(&to(vec![server.address()])).await;
    for _ in 0..2 {
        assert_eq!(write(&link, "a").await.unwrap(), "a");
        assert_eq!(server.command(&["SCRIPT", "FLUSH"]), "OK");
    }
    let broken = Script::from_lua("return redis.call('INCR')");
    let failed = link.run::<i64, _>(&broken, vec![link.key("a", "b")], ()).await;
    assert!(matches!(failed, Err(Error::Failed(_))), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_heard_again_after_the_server_was_away() {
    let mut server = Redis::start();
    let link = opened(&to(vec![server.address()])).await;
    let channel = link.channel("news");
    let mut heard = link.listen(&channel).await.unwrap();
    until("it listens", async || server.command(&["PUBLISH", &channel, "one"]) == "1").await;
    assert_eq!(heard.recv().await.unwrap().value.as_string().unwrap(), "one");
    server.restart();
    until("it listens again", async || server.command(&["PUBLISH", &channel, "two"]) == "1").await;
    assert_eq!(heard.recv().await.unwrap().value.as_string().unwrap(), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_sentinels_replace_is_left_for_the_new_one() {
    let mut group = Sentinels::start();
    let link = opened(&to(group.addresses())).await;
    assert_eq!(write(&link, "a").await.unwrap(), "a");
    group.sentinels[0].kill();
    group.master.freeze(true);
    until("writes after Sentinel's failover", async || write(&link, "b").await.is_ok()).await;
    assert_eq!(group.replica.command(&["GET", &link.key("b", "k")]), "b");
    group.master.freeze(false);
    sleep(Duration::from_secs(1)).await;
    until("the old master does not tempt", async || write(&link, "c").await.is_ok()).await;
    assert_eq!(group.replica.command(&["GET", &link.key("c", "k")]), "c");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_goes_on_when_the_only_master_that_was_named_dies() {
    let mut cluster = Cluster::with_node_timeout(1_500);
    let link = opened(&to(vec![cluster.nodes[0].address()])).await;
    let tags: Vec<String> = (0..12).map(|n| format!("t{n}")).collect();
    for tag in &tags {
        assert_eq!(&write(&link, tag).await.unwrap(), tag);
    }
    cluster.nodes[0].kill();
    let mut all = async || {
        for tag in &tags {
            if write(&link, tag).await.is_err() {
                return false;
            }
        }
        true
    };
    until("all slots after the loss of a master", &mut all).await;
    cluster.nodes[0].restart();
    until("all slots after its return", all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_hangs_harms_nobody_and_a_master_that_hangs_is_replaced() {
    let cluster = Cluster::with_node_timeout(1_500);
    // A frozen replica comes first among the nodes that are asked.
    let nodes = [3, 4, 5, 0, 1, 2].map(|index: usize| cluster.nodes[index].address());
    cluster.nodes[3].freeze(true);
    let link = opened(&to(nodes.to_vec())).await;
    let tags: Vec<String> = (0..12).map(|n| format!("t{n}")).collect();
    for tag in tags.iter().cycle().take(200) {
        assert_eq!(&write(&link, tag).await.unwrap(), tag);
    }
    cluster.nodes[3].freeze(false);
    until("the replica follows", async || cluster.nodes[3].command(&["ROLE"]).contains("connected")).await;
    cluster.nodes[0].freeze(true);
    let noticed = until("a hanging master is noticed", async || !link.is_up()).await;
    assert!(noticed < Duration::from_secs(2), "{noticed:?}");
    until("all slots after a master hung", async || {
        for tag in &tags {
            if write(&link, tag).await.is_err() {
                return false;
            }
        }
        true
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_takes_its_calls_with_it() {
    let cluster = Cluster::start();
    let link = opened(&to(cluster.addresses())).await;
    let key = link.key("a", "k");
    assert_eq!(write(&link, "a").await.unwrap(), "a");
    let connections = *link.connections().borrow();
    let home = cluster.master_of(&key);
    assert_eq!(cluster.nodes[home + 3].command(&["CLUSTER", "FAILOVER"]), "OK");
    until("the replica is master", async || cluster.nodes[home + 3].command(&["ROLE"]).starts_with("master")).await;
    until("the calls follow", async || write(&link, "a").await.is_ok()).await;
    assert!(*link.connections().borrow() > connections, "the new master may have lost the last writes");
    assert_eq!(cluster.nodes[home + 3].command(&["GET", &key]), "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_users_and_tls_open_the_door() {
    let secured = Redis::with_password("pw-4711");
    let config = RedisConfig { password: Secret::new("pw-4711"), ..to(vec![secured.address()]) };
    assert_eq!(write(&*opened(&config).await, "a").await.unwrap(), "a");
    let named = Redis::with_user("ada", "pw-4711");
    let config = RedisConfig { username: "ada".into(), ..RedisConfig { nodes: vec![named.address()], ..config } };
    assert_eq!(write(&*opened(&config).await, "a").await.unwrap(), "a");
    let certificates = Certificates::for_localhost();
    let server = Redis::with_tls(&certificates);
    let ca_file = certificates.ca_file().display().to_string();
    let by_name = server.address().replace("127.0.0.1", "localhost");
    for node in [server.address(), by_name] {
        let config = RedisConfig { tls: true, ca_file: ca_file.clone(), ..to(vec![node]) };
        assert_eq!(write(&*opened(&config).await, "a").await.unwrap(), "a");
    }
}

/// Each mistake is told apart, and no text repeats the password.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_apart() {
    let (plain, secured, named) = (Redis::start(), Redis::with_password("pw-4711"), Redis::with_user("ada", "pw-4711"));
    let (host, port) = plain.address().rsplit_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
    let follow = format!("{host} {port}");
    let replica = Redis::with(&["--save", "", "--replicaof", &follow]);
    let member = Redis::with(&["--save", "", "--cluster-enabled", "yes"]);
    let sentinels = Sentinels::start();
    let watching = sentinels.sentinels[0].address();
    let certificates = Certificates::for_localhost();
    let (tls, other) = (Redis::with_tls(&certificates), Certificates::for_names("DNS:redis.example"));
    let elsewhere = Redis::with_tls(&other);
    let frozen = Redis::start();
    frozen.freeze(true);
    let repeating = Redis::with(&["--save", "", "--rename-command", "AUTH", ""]);
    let base = RedisConfig::default();
    let password = |word: &str| RedisConfig { password: Secret::new(word), ..base.clone() };
    let mode = |mode| RedisConfig { mode, ..base.clone() };
    let with_tls =
        |of: &Certificates| RedisConfig { tls: true, ca_file: of.ca_file().display().to_string(), ..base.clone() };
    let sentinel = |name: &str| RedisConfig { sentinel_master: name.into(), ..mode(RedisMode::Sentinel) };
    let table = [
        (base.clone(), "127.0.0.1:1".into(), "no connection to 127.0.0.1:1"),
        (base.clone(), frozen.address(), "accepts the connection and does not answer"),
        (base.clone(), secured.address(), "asks for a password"),
        (password("pw-0815"), secured.address(), "does not accept this user or password"),
        (RedisConfig { username: "bob".into(), ..password("pw-4711") }, named.address(), "does not accept this user"),
        (password("pw-4711"), named.address(), "does not accept this user"),
        (password("pw-4711"), repeating.address(), "unknown command 'AUTH'"),
        (with_tls(&certificates), plain.address(), "does not speak TLS"),
        (base.clone(), tls.address(), "speaks TLS, but state.redis.tls is false"),
        (password("pw-4711"), tls.address(), "speaks TLS, but state.redis.tls is false"),
        (with_tls(&other), elsewhere.address(), "is for another name"),
        (with_tls(&certificates), elsewhere.address(), "is not trusted"),
        (mode(RedisMode::Single), member.address(), "a member of a Cluster"),
        (mode(RedisMode::Cluster), member.address(), "its Cluster is down"),
        (mode(RedisMode::Cluster), plain.address(), "a server on its own"),
        (mode(RedisMode::Sentinel), plain.address(), "a server, not a Sentinel"),
        (mode(RedisMode::Single), watching.clone(), "a Sentinel"),
        (sentinel("nobody"), watching.clone(), "knows no master named `nobody`"),
        (mode(RedisMode::Single), replica.address(), "is a replica"),
        (base.clone(), replica.address(), "is a replica"),
    ];
    for (config, node, told) in table {
        let plan = Plan::new(&RedisConfig { nodes: vec![node], ..config }).unwrap();
        let trouble = find(&plan, &[]).await.expect_err(told);
        let text = format!("{trouble} {trouble:?} {}", trouble.remedy());
        assert!(text.contains(told), "{told}: {text}");
        assert!(!text.contains("pw-"), "{text}");
    }
    let fine = Plan::new(&RedisConfig { nodes: vec![watching], ..base }).unwrap();
    assert_eq!(find(&fine, &[]).await.unwrap().node(), sentinels.master.address(), "the only master needs no name");
}

/// Also when the client itself is refused, no text repeats the password.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_changed_meanwhile_is_not_told() {
    let mut server = Redis::with_password("pw-4711");
    let link = opened(&RedisConfig { password: Secret::new("pw-4711"), ..to(vec![server.address()]) }).await;
    server.change_password("pw-0815");
    until("the loss is noticed", async || !link.is_up()).await;
    until("the reason is known", async || link.state().trouble().is_some_and(|text| text.contains("password"))).await;
    let told = format!("{:?} {:?}", link.state().trouble(), write(&link, "a").await);
    assert!(!told.contains("pw-"), "{told}");
}
