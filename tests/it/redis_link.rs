//! The daemon and `tidegate check` against Redis that is there, away, or not what was configured.

use std::{path::Path, process::Command, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use crate::support::{
    SOON, Scene, eventually,
    redis::{Certificates, Cluster, Redis, Sentinels},
};

/// `[state]` for these nodes, with more keys.
fn state(nodes: &[String], more: &str) -> String {
    format!("[state]\nkind = 'redis'\n[state.redis]\nmode = 'auto'\nnodes = {nodes:?}\n{more}\n")
}

/// What `/readyz` says of the state: its state, and the reason.
async fn readiness(scene: &Scene) -> (String, String, String) {
    let report = scene.daemon.admin("/readyz").await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = &report["dependencies"]["state"];
    (text(&report["status"]), text(&of["state"]), text(&of["reason"]))
}

/// The exit code of `check --json`, and what it says of the state and the cache: word, detail, remedy.
async fn check(config: &Path) -> (i32, Vec<(String, String)>) {
    check_with(config, &[]).await
}

/// The same in an environment.
async fn check_with(config: &Path, variables: &[(&str, &str)]) -> (i32, Vec<(String, String)>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["check", "--json", "--config"]).arg(config).env_clear().envs(variables.iter().copied());
    let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let out = String::from_utf8(ended.stdout).unwrap();
    let findings: Vec<Value> = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}"));
    let told = |it: &Value| {
        let word = match (it["ok"].as_bool(), it["warning"].as_bool()) {
            (Some(false), _) => "FAIL",
            (_, Some(true)) => "WARN",
            _ => "ok",
        };
        (word.to_owned(), format!("{} -> {}", it["detail"].as_str().unwrap(), it["remedy"].as_str().unwrap()))
    };
    let about = |it: &&Value| ["state", "cache"].contains(&it["what"].as_str().unwrap());
    (ended.status.code().unwrap(), findings.iter().filter(about).map(told).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stays_ready_while_redis_is_away_and_says_so() {
    let mut server = Redis::start();
    let scene = Scene::with(&state(&[server.address()], "")).await;
    eventually("it is ready", SOON, async || readiness(&scene).await.0 == "ready").await;
    assert_eq!(scene.daemon.metric("tidegate_dependency_up{dependency=\"state\"}").await, 1.0);
    server.kill();
    eventually("it is degraded", SOON, async || readiness(&scene).await.0 == "degraded").await;
    let (_, state, reason) = readiness(&scene).await;
    assert!(state == "down" && !reason.is_empty(), "{state}: {reason}");
    assert_eq!(scene.daemon.metric("tidegate_dependency_up{dependency=\"state\"}").await, 0.0);
    let public: Value = reqwest::get(scene.daemon.url("/readyz")).await.unwrap().json().await.unwrap();
    let told = public["dependencies"]["state"]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(!told.is_empty() && !told.contains("127.0.0.1"), "addresses are nobody's business outside: {told}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let said = scene.daemon.log().matches("no connection to").count();
    assert!((1..=6).contains(&said), "once for each connection and reason, not each attempt: {said}");
    server.restart();
    let began = Instant::now();
    eventually("it is ready again", SOON, async || readiness(&scene).await.0 == "ready").await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_fails_is_started_again_and_the_connection_goes_on() {
    let mut server = Redis::start();
    let scene = Scene::with(&state(&[server.address()], "")).await;
    eventually("it is ready", SOON, async || readiness(&scene).await.0 == "ready").await;
    for (restarts, mode) in [(1, "panic"), (2, "error")] {
        for actor in ["state", "published", "cache", "heartbeat"].map(|name| format!("node/redis/{name}")) {
            assert_eq!(scene.daemon.crash(&actor, &format!("{{\"mode\":\"{mode}\"}}")).await, 202, "{actor}");
            eventually("it is started again", SOON, async || {
                scene.daemon.admin(&format!("/admin/actors/{actor}")).await["restarts"].as_u64() == Some(restarts)
            })
            .await;
        }
    }
    server.restart();
    eventually("it connects again", SOON, async || {
        server.command(&["CLIENT", "LIST"]).lines().count() >= 4 && readiness(&scene).await.0 == "ready"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_listed_and_one_that_stops_is_gone() {
    let server = Redis::start();
    let named = |name: &str| format!("{}[node]\nname = '{name}'\n", state(&[server.address()], ""));
    let (ada, mut bob) = (Scene::with(&named("ada")).await, Scene::with(&named("bob")).await);
    let names = async |scene: &Scene| {
        let nodes = scene.daemon.admin("/admin/nodes").await;
        nodes.as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    eventually("each sees both", SOON, async || {
        names(&ada).await == ["ada", "bob"] && names(&bob).await == ["ada", "bob"]
    })
    .await;
    let node = ada.daemon.admin("/admin/nodes").await[0].clone();
    assert!(node["roles"].to_string().contains("chat") && node["addresses"].as_array().unwrap().len() == 2, "{node}");
    assert!(node["clock_skew_ms"].as_i64().unwrap().abs() < 1_000, "{node}");
    bob.daemon.terminate();
    eventually("one has left", SOON, async || bob.daemon.ended().is_some()).await;
    let began = Instant::now();
    eventually("the other knows", SOON, async || names(&ada).await == ["ada"]).await;
    assert!(began.elapsed() < Duration::from_secs(6), "it need not expire: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_fleet_lists_itself() {
    let scene = Scene::with("[node]\nname = 'ada'\n").await;
    let nodes = scene.daemon.admin("/admin/nodes").await;
    assert_eq!((nodes.as_array().unwrap().len(), nodes[0]["name"].as_str()), (1, Some("ada")), "{nodes}");
    assert_eq!(nodes[0]["clock_skew_ms"], Value::Null);
}

/// A mistake is a failure of `check` with a remedy; a daemon with the same mistake runs, and tells the same reason.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_by_check_and_by_the_daemon_which_goes_on() {
    let (plain, secured) = (Redis::start(), Redis::with_password("pw-4711"));
    let named = Redis::with_user("ada", "pw-4711");
    let member = Redis::with(&["--save", "", "--cluster-enabled", "yes"]);
    let sentinels = Sentinels::start();
    let certificates = Certificates::for_names("DNS:redis.example");
    let tls = Redis::with_tls(&certificates);
    let with_tls = format!("tls = true\nca_file = '{}'", certificates.ca_file().display());
    let (replica, watching) = (sentinels.replica.address(), sentinels.sentinels[0].address());
    let table: [(String, &str, &str, &str); 12] = [
        ("127.0.0.1:1".into(), "", "no connection to 127.0.0.1:1", "state.redis.nodes"),
        (secured.address(), "", "asks for a password", "state.redis.password"),
        (secured.address(), "password = 'pw-0815'", "does not accept", "state.redis.password"),
        (named.address(), "username = 'bob'\npassword = 'pw-4711'", "does not accept", "state.redis.username"),
        (tls.address(), &with_tls, "is for another name", "certificate"),
        (plain.address(), &with_tls, "does not speak TLS", "state.redis.tls = false"),
        (tls.address(), "", "speaks TLS", "state.redis.tls = true"),
        (member.address(), "mode = 'single'", "a member of a Cluster", "state.redis.mode"),
        (plain.address(), "mode = 'cluster'", "a server on its own", "state.redis.mode"),
        (plain.address(), "mode = 'sentinel'\nsentinel_master = 'main'", "not a Sentinel", "state.redis.mode"),
        (watching, "mode = 'sentinel'\nsentinel_master = 'nobody'", "no master named", "sentinel_master"),
        (replica, "mode = 'single'", "is a replica", "state.redis.nodes"),
    ];
    let mut scene = Scene::with("").await;
    let path = scene.daemon.data().with_file_name("config.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    for (node, more, told, remedy) in table {
        std::fs::write(&path, &good).unwrap();
        let config =
            state(&[node], more).replace("mode = 'auto'\n", if more.contains("mode") { "" } else { "mode = 'auto'\n" });
        scene.daemon.kill();
        scene.daemon.change(&config);
        let (code, findings) = check(&path).await;
        let fails = findings.iter().any(|(word, said)| word == "FAIL" && said.contains(told) && said.contains(remedy));
        assert!(code == 1 && fails, "{told}: {code} {findings:?}");
        scene.daemon.restart("").await;
        eventually(told, SOON, async || readiness(&scene).await.2.contains(told)).await;
        assert_eq!(readiness(&scene).await.0, "degraded", "{told}");
    }
    let log = scene.daemon.log();
    assert!(!log.contains("pw-4711") && !log.contains("pw-0815") && !log.contains("panicked"), "{log}");
}

/// Whoever may connect and not work would stand alone for ever.
#[tokio::test(flavor = "multi_thread")]
async fn check_tries_what_a_node_does_all_day() {
    let cache = Redis::start();
    let mut scene = Scene::with("[admin]\nfault_injection = false\n").await;
    scene.daemon.kill();
    let path = scene.daemon.data().with_file_name("config.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    let table: [(&[&str], &str); 6] = [
        (&["~tidegate:*", "&tidegate:*", "+@all", "-@dangerous", "+info"], ""),
        (&["~*", "&*", "+@all", "-@scripting"], "EVAL"),
        (&["~other:*", "&*", "+@all"], "EVAL"),
        (&["~*", "&*", "+@all", "-publish"], "PUBLISH"),
        (&["~*", "&other:*", "+@all"], "PUBLISH"),
        (&["~*", "&*", "+@all", "-subscribe"], "SUBSCRIBE"),
    ];
    for (rights, told) in table {
        let server = Redis::with(&[&["--appendonly", "yes", "--user", "default", "on", "nopass"], rights].concat());
        std::fs::write(&path, &good).unwrap();
        scene.daemon.change(&state(&[server.address()], &format!("cache_nodes = ['{}']", cache.address())));
        let (code, findings) = check(&path).await;
        if told.is_empty() {
            assert!(code == 0, "{rights:?}: {findings:?}");
            continue;
        }
        let fails = |(word, said): &(String, String)| {
            word == "FAIL" && said.contains("does not let this user") && said.contains(told) && said.contains("+@all")
        };
        assert!(code == 1 && findings.iter().any(fails), "{rights:?}: {code} {findings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_works_and_could_be_better_is_a_warning() {
    let best = Redis::with(&["--appendonly", "yes"]);
    let evicting = Redis::with(&["--save", "", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let managed = Redis::with(&["--appendonly", "yes", "--rename-command", "CONFIG", ""]);
    let silent = Redis::with(&[
        "--appendonly",
        "yes",
        "--user",
        "default",
        "on",
        "nopass",
        "~*",
        "&*",
        "+@all",
        "-info",
        "-config",
    ]);
    let (cluster, sentinels) = (Cluster::start(), Sentinels::start());
    let own_cache = format!("cache_nodes = ['{}']", evicting.address());
    let table: [(Vec<String>, &str, &[&str]); 6] = [
        (vec![best.address()], &own_cache, &[]),
        (vec![best.address()], "", &["the cache shares"]),
        (
            vec![evicting.address()],
            &own_cache,
            &["maxmemory-policy is allkeys-lru", "no append-only file", "the cache shares"],
        ),
        (vec![managed.address()], &own_cache, &[]),
        (
            vec![silent.address()],
            &own_cache,
            &["could not be read: neither INFO nor CONFIG", "could not be read: INFO"],
        ),
        (vec![best.address(), "127.0.0.1:1".into()], &own_cache, &["no connection to 127.0.0.1:1"]),
    ];
    let mut scene = Scene::with("[admin]\nfault_injection = false\n").await;
    scene.daemon.kill();
    let path = scene.daemon.data().with_file_name("config.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    for (nodes, more, warnings) in table {
        std::fs::write(&path, &good).unwrap();
        scene.daemon.change(&state(&nodes, more));
        let (code, findings) = check(&path).await;
        let warned: Vec<_> = findings.iter().filter(|(word, _)| word == "WARN").map(|(_, said)| said).collect();
        let all = warnings.iter().all(|warning| warned.iter().any(|said| said.contains(warning)));
        assert!(code == 0 && warned.len() == warnings.len() && all, "{nodes:?} {more}: {code} {findings:?}");
    }
    for (nodes, told) in [(cluster.addresses(), "a Cluster of 6"), (sentinels.addresses(), "redis 7")] {
        std::fs::write(&path, &good).unwrap();
        scene.daemon.change(&state(&nodes, &own_cache));
        let (code, findings) = check(&path).await;
        assert!(code == 0 && findings.iter().any(|(word, said)| word == "ok" && said.contains(told)), "{findings:?}");
    }
}

/// The old stack's variables: several nodes are a Cluster, Sentinels, or the first that is a master.
#[tokio::test(flavor = "multi_thread")]
async fn the_old_variables_lead_to_whatever_is_there() {
    let secured = Redis::with_password("pw-4711");
    let (cluster, sentinels) = (Cluster::start(), Sentinels::start());
    let pair = [sentinels.replica.address(), sentinels.master.address()];
    let mut scene = Scene::with("[admin]\nfault_injection = false\n").await;
    scene.daemon.kill();
    let path = scene.daemon.data().with_file_name("config.toml");
    let of_master = format!("at {}", sentinels.master.address());
    let table = [
        (vec![secured.address()], "pw-4711", 0, format!("at {}", secured.address())),
        (vec![secured.address()], "pw-0815", 1, "does not accept this user or password".into()),
        (cluster.addresses(), "", 0, "a Cluster of 6 servers".into()),
        (sentinels.addresses(), "", 0, of_master.clone()),
        (pair.to_vec(), "", 0, of_master),
    ];
    for (nodes, password, code, told) in table {
        let variables = [("REDIS_CLUSTER_NODES", nodes.join(",")), ("REDIS_PASSWORD", password.to_owned())];
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
        let (ended, findings) = check_with(&path, &variables).await;
        assert!(ended == code && findings.iter().any(|(_, said)| said.contains(&told)), "{told}: {ended} {findings:?}");
    }
}
