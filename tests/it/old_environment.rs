//! The old stack's environment file starts the daemon as it is, with the new keys beside it that it never had.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tidegate::simulate::{Ai, Zendesk, ai, zendesk};

use crate::{
    ports::free_port,
    support::{ANYWHERE, SOON, command::tidegate, eventually, rabbitmq, redis::Redis},
};

/// As it lay beside the old stack.
const FILE: &str = include_str!("env.production");

/// What is accepted and has no effect, and is said to have none.
const WITHOUT_EFFECT: [&str; 4] =
    ["GUNICORN_THREADS", "GUNICORN_MAX_REQUESTS", "REDIS_MAX_CONNECTIONS", "RABBITMQ_CONNECTION_RETRIES"];

/// What only matters together with another: the host's port, and what is not set by `false`.
const SILENT: [&str; 2] = ["JAEGER_AGENT_PORT", "DEBUG"];

/// Ends a process with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // One that has ended already need not be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the old stack had no names for.
fn new_keys(zendesk: &Zendesk, ai: &Ai, folder: &TempDir, public: u16, prefix: String) -> [(&'static str, String); 11] {
    let of = zendesk.options();
    let within = |name: &str| folder.path().join(name).display().to_string();
    [
        ("TIDEGATE__HTTP__LISTEN", format!("127.0.0.1:{public}")),
        ("TIDEGATE__ZENDESK__APP_ID", of.app_id.clone()),
        ("TIDEGATE__ZENDESK__WEBHOOK_SECRETS", of.webhook_secret.clone()),
        ("TIDEGATE__ZENDESK__KEY_ID", of.key_id.clone()),
        ("TIDEGATE__ZENDESK__KEY_SECRET", of.key_secret.clone()),
        ("TIDEGATE__ZENDESK__API_URL", format!("{}/sc", zendesk.url())),
        ("TIDEGATE__AI__SERVICES__0__BASE_URL", format!("{}/v1", ai.url())),
        ("TIDEGATE__AI__SERVICES__0__MODEL", "simulated".to_owned()),
        // The test's own corner of what it shares with others.
        ("TIDEGATE__BROKER__RABBITMQ__PREFIX", prefix),
        ("TIDEGATE__BROKER__EMBEDDED__PATH", within("data")),
        ("TIDEGATE__BROKER__SPOOL__PATH", within("spool")),
    ]
}

/// `tidegate check` says what becomes of each name, and shows no password.
async fn check_tells_each(old: &[(&str, &str)], environment: &[(&str, &str)]) {
    let checked = tidegate(&["check"], environment).await;
    let said = format!("{}{}", checked.out, checked.err);
    for (name, _) in old {
        let told = said.contains(&format!("({name})")) || said.contains(&format!("{name} is"));
        assert!(told || SILENT.contains(name), "check does not tell what becomes of {name}:\n{said}");
    }
    for name in WITHOUT_EFFECT {
        assert!(said.contains(&format!("{name} is accepted and has no effect")), "{name}:\n{said}");
    }
    assert!(!said.contains("hunter1"), "a password is shown:\n{said}");
}

fn run(environment: &[(&str, &str)], folder: &TempDir) -> Ended {
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("run").env_clear().envs(environment.iter().copied()).stdin(Stdio::null()).stderr(log);
    Ended(command.spawn().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_environment_starts_the_daemon_and_each_name_is_told() {
    tidegate::cli::tls();
    let zendesk = Zendesk::start(ANYWHERE, zendesk::Options::default()).await.unwrap();
    let ai = Ai::start(ANYWHERE, ai::Options::default()).await.unwrap();
    let redis = Redis::with_password("hunter1");
    let (address, prefix) = rabbitmq::shared();
    let (admin, public) = (free_port(), free_port());
    let file = FILE.replace("{redis}", &redis.address()).replace("{rabbitmq}", &address);
    let file = file.replace("{prometheus}", &admin.to_string());
    let old: Vec<(&str, &str)> = file.lines().filter_map(|line| line.split_once('=')).collect();
    assert_eq!(old.len(), 30);
    let folder = tempfile::tempdir().unwrap();
    let new = new_keys(&zendesk, &ai, &folder, public, prefix);
    let new = new.iter().map(|(name, value)| (*name, value.as_str()));
    let environment: Vec<(&str, &str)> = old.iter().copied().chain(new).collect();

    check_tells_each(&old, &environment).await;
    let _daemon = run(&environment, &folder);
    let logged = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    let ready = format!("http://127.0.0.1:{public}/readyz");
    eventually("the daemon is ready", SOON, async || {
        reqwest::get(&ready).await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    zendesk.aim(Some(&format!("http://127.0.0.1:{public}/webhooks/sunshine"))).unwrap();
    let message = zendesk.say("c1", &format!("where is my parcel? {}", zendesk.next_reference())).await;
    let settled = tidegate::simulate::customers::settled(&zendesk, SOON).await;
    assert!(settled && zendesk.stats().judged.answered == 1, "{message}: {:?}\n{}", zendesk.stats(), logged());
    let metrics = reqwest::get(format!("http://127.0.0.1:{admin}/metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("tidegate_build_info"), "PROMETHEUS_PORT is where it always was");
}
