//! `tidegate check` against RabbitMQ that is there, away, or not what was configured.

use std::{path::Path, process::Command};

use lapin::{
    Connection, ConnectionProperties,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;

use crate::support::{
    SOON, Scene, eventually,
    rabbitmq::{self, Rabbit},
};

fn on(nodes: &[String], more: &str) -> String {
    format!(
        "[broker]\nkind = 'rabbitmq'\n[broker.rabbitmq]\nnodes = {nodes:?}\nusername = 'guest'\npassword = 'guest'\n\
         prefix = 'tg.c'\n{more}\n"
    )
}

/// What `check` says of the broker and the spool: the word, and the text with its remedy.
type Said = Vec<(&'static str, String)>;

async fn check(config: &Path) -> (i32, Said) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["check", "--json", "--config"]).arg(config).env_clear();
    let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let out = String::from_utf8(ended.stdout).unwrap();
    let findings: Vec<Value> = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}"));
    assert!(!out.contains("pw-0815"), "a password is told: {out}");
    let told = |it: &Value| {
        let word = match (it["ok"].as_bool(), it["warning"].as_bool(), it["remedy"].as_str()) {
            (Some(false), ..) => "FAIL",
            (_, Some(true), _) => "WARN",
            (.., Some("")) => "ok",
            _ => "note",
        };
        (word, format!("{} -> {}", it["detail"].as_str().unwrap(), it["remedy"].as_str().unwrap()))
    };
    let about =
        |it: &&Value| ["broker", "spool", "configuration", "state folder"].contains(&it["what"].as_str().unwrap());
    (ended.status.code().unwrap(), findings.iter().filter(about).map(told).collect())
}

fn says(said: &Said, word: &str, text: &str) -> bool {
    said.iter().any(|(of, told)| *of == word && told.contains(text))
}

/// A scene whose daemon does not run, its configuration file, and what is in it.
async fn still() -> (Scene, std::path::PathBuf, String) {
    let mut scene = Scene::with("[admin]\nfault_injection = false\n").await;
    scene.daemon.kill();
    let path = scene.daemon.data().with_file_name("config.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    (scene, path, good)
}

/// `definitions`, and the management API on a further port.
fn managed(folder: &Path) -> String {
    format!("{}management.tcp.port = PORT\nmanagement.tcp.ip = 127.0.0.1\n", rabbitmq::definitions(folder))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_is_a_failure_with_a_remedy_and_nothing_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let rabbit = Rabbit::with(&managed(folder.path()));
    let (there, management) = (rabbit.address(), rabbit.further_address());
    let address = format!("amqp://guest:guest@{there}/%2f");
    let connection = Connection::connect(&address, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("other.dead".into(), durable, FieldTable::default()).await.unwrap();
    let mut numbers = FieldTable::default();
    for (key, value) in [("x-max-length", 8), ("x-max-length-bytes", 256), ("x-delivery-limit", 1_000_000)] {
        numbers.insert(key.into(), AMQPValue::LongLongInt(value));
    }
    for (key, value) in [("x-queue-type", "quorum"), ("x-overflow", "reject-publish")] {
        numbers.insert(key.into(), AMQPValue::LongString(value.into()));
    }
    channel.queue_declare("fleet.fleet".into(), durable, numbers).await.unwrap();
    let kind = lapin::ExchangeKind::Topic;
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare("kind.chat".into(), kind, options, FieldTable::default()).await.unwrap();
    let before = names(&management).await;

    let (scene, path, good) = still().await;
    let table: [(&[String], &str, i32, &str, &str); 11] = [
        (&["127.0.0.1:1".into()], "", 1, "no connection to 127.0.0.1:1", "broker.rabbitmq.nodes"),
        (std::slice::from_ref(&there), "password = 'pw-0815'", 1, "this user or password", "broker.rabbitmq.password"),
        (std::slice::from_ref(&there), "vhost = 'nowhere'", 1, "no virtual host `nowhere`", "rabbitmqctl add_vhost"),
        (std::slice::from_ref(&there), "vhost = 'closed'", 1, "into the virtual host `closed`", "set_permissions"),
        (
            std::slice::from_ref(&there),
            "username = 'reader'\npassword = 'reader'",
            1,
            "declare what is needed",
            "set_perm",
        ),
        (std::slice::from_ref(&there), "username = 'narrow'\npassword = 'narrow'", 0, "will be made by the first", ""),
        (std::slice::from_ref(&there), "tls = true", 1, "does not speak TLS", "broker.rabbitmq.tls = false"),
        (
            std::slice::from_ref(&there),
            "prefix = 'other'",
            1,
            "`other.dead` is there with other",
            "broker.rabbitmq.prefix",
        ),
        (std::slice::from_ref(&there), "prefix = 'fleet'", 1, "partitions is 16 here, but 8", "partitions = 8"),
        (std::slice::from_ref(&there), "prefix = 'kind'", 1, "the exchange `kind.chat`", "delete the exchange"),
        (std::slice::from_ref(&there), "", 0, "will be made by the first node", ""),
    ];
    for (nodes, more, code, told, remedy) in table {
        std::fs::write(&path, &good).unwrap();
        scene.daemon.change(&keyed(nodes, more));
        let (ended, said) = check(&path).await;
        let word = if code == 1 { "FAIL" } else { "ok" };
        let found = said.iter().any(|(of, it)| *of == word && it.contains(told) && it.contains(remedy));
        assert!(ended == code && found, "{more}: {ended} {said:?}");
    }
    assert_eq!(names(&management).await, before, "check makes nothing");
}

/// The configuration with some keys written over.
fn keyed(nodes: &[String], more: &str) -> String {
    let overwritten = |line: &str| more.lines().any(|other| other.split(' ').next() == line.split(' ').next());
    let base = on(nodes, "");
    let kept: Vec<&str> = base.lines().filter(|line| !overwritten(line)).collect();
    format!("{}\n{more}\n", kept.join("\n"))
}

/// Asks the management API.
async fn told(management: &str, path: &str) -> Value {
    tidegate::cli::tls();
    let request = reqwest::Client::new().get(format!("http://{management}/api/{path}"));
    request.basic_auth("guest", Some("guest")).send().await.unwrap().json().await.unwrap_or_default()
}

/// The names of all queues and exchanges.
async fn names(management: &str) -> Vec<String> {
    let (queues, exchanges) = (told(management, "queues").await, told(management, "exchanges").await);
    let all = queues.as_array().unwrap().iter().chain(exchanges.as_array().unwrap());
    let mut names: Vec<_> = all.map(|one| one["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn what_works_and_could_be_better_is_a_warning_and_the_commands_told_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let rabbit = Rabbit::with(&managed(folder.path()));
    let url = format!("management_url = 'http://{}'", rabbit.further_address());
    let (mut scene, path, _) = still().await;
    let nodes = [rabbit.address(), "127.0.0.1:1".into()];
    scene.daemon.change(&on(&nodes, &url));
    let (code, said) = check(&path).await;
    assert_eq!(code, 0, "{said:?}");
    for told in ["no connection to 127.0.0.1:1", "a cluster of 1", "limits are set by policies"] {
        assert!(says(&said, "WARN", told), "{told}: {said:?}");
    }
    assert!(says(&said, "ok", "RabbitMQ 3.10") || says(&said, "ok", "RabbitMQ 4"), "{said:?}");
    assert!(says(&said, "note", "application:get_env(rabbit, consumer_timeout)"), "{said:?}");
    assert!(says(&said, "ok", "spool"), "{said:?}");

    scene.daemon.spawn_again();
    scene.daemon.serves().await;
    eventually("it is connected", SOON, async || scene.daemon.admin("/readyz").await["status"] == "ready").await;
    scene.daemon.kill();
    let (_, said) = check(&path).await;
    assert!(says(&said, "ok", "exchanges and queues are as they should be"), "{said:?}");
    assert!(says(&said, "WARN", "tg.c.events, tg.c.dead, tg.c.parked: no limit"), "{said:?}");
    let commands = said.iter().find(|(_, text)| text.contains("set_policy")).unwrap().1.clone();
    for command in commands.lines().filter_map(|line| line.strip_prefix("rabbitmqctl ")) {
        let words: Vec<&str> = command.split(' ').map(|word| word.trim_matches('\'')).collect();
        rabbit.ctl(&words);
    }
    let limited = async || {
        let queue = told(&rabbit.further_address(), "queues/%2F/tg.c.chat.03").await;
        queue["effective_policy_definition"]["max-length"].as_u64()
    };
    eventually("the policy applies", SOON, async || limited().await == Some(1_000_000 / 17)).await;
    eventually("check sees it", SOON, async || {
        says(&check(&path).await.1, "ok", "the queues have limits of length by policy")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_looked_at_is_said_and_how_to_look() {
    let (address, _) = rabbitmq::shared();
    let (scene, path, good) = still().await;
    let table = ["", "management_url = 'http://127.0.0.1:1'", "password = ''"];
    for more in table {
        std::fs::write(&path, &good).unwrap();
        scene.daemon.change(&keyed(std::slice::from_ref(&address), more));
        let (code, said) = check(&path).await;
        if more.starts_with("password") {
            assert!(code == 1 && says(&said, "WARN", "password is empty"), "{said:?}");
            assert!(says(&said, "FAIL", "this user or password"), "the server tells: {said:?}");
            continue;
        }
        assert!(code == 0 && says(&said, "WARN", "not looked at: the size of the cluster"), "{more}: {code} {said:?}");
        assert!(says(&said, "WARN", "rabbitmqctl cluster_status"), "{said:?}");
        assert!(says(&said, "WARN", "rabbitmqctl set_policy -p / --priority 10"), "{said:?}");
    }
    std::fs::write(&path, &good).unwrap();
    scene.daemon.change(&on(&[address], "[broker.spool]\nenabled = false\n"));
    let (code, said) = check(&path).await;
    assert!(code == 0 && says(&said, "note", "broker.spool.enabled is false"), "{said:?}");
}

/// Two servers that know nothing of each other have different names of clusters.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_two_clusters_are_a_failure() {
    let (shared, _) = rabbitmq::shared();
    let other = Rabbit::start();
    other.ctl(&["set_cluster_name", "elsewhere"]);
    let (scene, path, _) = still().await;
    scene.daemon.change(&on(&[shared, other.address()], ""));
    let (code, said) = check(&path).await;
    assert!(code == 1 && says(&said, "FAIL", "`elsewhere`: each would have a queue of its own"), "{code} {said:?}");
}
