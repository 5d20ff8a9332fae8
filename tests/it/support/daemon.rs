//! The daemon as a process, ended by its handle, also when a test panics.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tidegate::simulate::{Ai, Zendesk};
use tokio::{net::TcpStream, time::Instant};

use crate::ports::free_address;

/// The bearer key of `/v1` in tests.
pub const KEY: &str = "test-api-key";

/// What every test's daemon is told; a test's own configuration goes over it.
const BASE: &str = r#"
[http]
[admin]
fault_injection = true
[api]
keys = [{ name = "test", key = "test-api-key" }]
[node]
shutdown_grace = "6s"
[zendesk]
timeout = "1s"
[retry]
base = "50ms"
[chat]
merge_quiet = "0s"
[ai]
[[ai.services]]
name = "primary"
model = "simulated"
timeout = "5s"
[ai.services.limits]
burst = 0
per_minute = 0
per_hour = 0
[ai.services.breaker]
recovery_timeout = "500ms"
[broker]
[broker.embedded]
[telemetry]
log_level = "info,tidegate=debug"
log_format = "json"
"#;

/// A running daemon.
pub struct Daemon {
    child: Child,
    folder: TempDir,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    public: SocketAddr,
    admin: SocketAddr,
    client: reqwest::Client,
}

/// Lays one table over another.
fn lay(below: &mut toml::Table, above: toml::Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay(below, above),
            (Some(toml::Value::Array(below)), toml::Value::Array(above)) if key == "services" => {
                for (index, value) in above.into_iter().enumerate() {
                    match (below.get_mut(index), value) {
                        (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay(below, above),
                        (_, value) => below.push(value),
                    }
                }
            }
            (_, value) => drop(below.insert(key, value)),
        }
    }
}

impl Daemon {
    /// Starts a daemon and waits until it serves.
    pub async fn start(config: &str, zendesk: &Zendesk, ai: &Ai) -> Self {
        Self::start_with(&[], config, zendesk, ai).await
    }

    /// The same with more arguments for `tidegate run`.
    pub async fn start_with(arguments: &[&str], config: &str, zendesk: &Zendesk, ai: &Ai) -> Self {
        tidegate::cli::tls();
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let [public, admin] = [(); 2].map(|()| free_address());
        let mut table: toml::Table = BASE.parse().expect("the base is TOML");
        let of = zendesk.options();
        let data = folder.path().join("data");
        let data = data.display();
        let places = format!(
            "[http]\nlisten = '{public}'\n[admin]\nlisten = '{admin}'\n[broker.embedded]\npath = '{data}'\n\
             [broker.spool]\npath = '{data}/spool'\n[zendesk]\napp_id = '{}'\n\
             webhook_secrets = ['{}']\napi_url = '{}/sc'\nkey_id = '{}'\nkey_secret = '{}'\nintegration = '{}'\n\
             [[ai.services]]\nbase_url = '{}/v1'\n",
            of.app_id,
            of.webhook_secret,
            zendesk.url(),
            of.key_id,
            of.key_secret,
            of.bot.name,
            ai.url()
        );
        lay(&mut table, places.parse().expect("the places are TOML"));
        lay(&mut table, config.parse().unwrap_or_else(|error| panic!("the test's configuration: {error}")));
        fs::write(folder.path().join("config.toml"), toml::to_string(&table).expect("it is TOML"))
            .expect("it can be written");
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let environment = Vec::new();
        let child = spawn(&folder, &arguments, &environment);
        let mut daemon = Self { child, folder, arguments, environment, public, admin, client: reqwest::Client::new() };
        daemon.serves().await;
        daemon
    }

    /// Starts the process again, with some keys changed (`section.key = value` lines).
    pub async fn restart(&mut self, changes: &str) {
        self.kill();
        self.change(changes);
        self.child = spawn(&self.folder, &self.arguments, &self.environment);
        self.serves().await;
    }

    /// Changes keys for the next start.
    pub fn change(&self, changes: &str) {
        let path = self.folder.path().join("config.toml");
        let mut table: toml::Table = fs::read_to_string(&path).expect("it was written").parse().expect("it is TOML");
        lay(&mut table, changes.parse().expect("the changes are TOML"));
        fs::write(path, toml::to_string(&table).expect("it is TOML")).expect("it can be written");
    }

    /// What its environment will be at the next start.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        self.environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }

    /// Starts the process and does not wait for it.
    pub fn spawn_again(&mut self) {
        self.kill();
        self.child = spawn(&self.folder, &self.arguments, &self.environment);
    }

    /// Waits until the daemon answers wherever it listens; the public listener is not the first to.
    pub async fn serves(&mut self) {
        let deadline = Instant::now() + super::SOON;
        // A request there would be counted.
        let public = self.is_public().then_some(self.public);
        let is_open = async || match public {
            Some(public) => TcpStream::connect(public).await.is_ok(),
            None => true,
        };
        loop {
            let answer = self.client.get(self.admin_url("/livez")).send().await;
            if answer.is_ok_and(|answer| answer.status() == 200) && is_open().await {
                return;
            }
            if let Some(status) = self.ended() {
                panic!("the daemon ended ({status}):\n{}", self.log_tail());
            }
            assert!(Instant::now() < deadline, "the daemon does not serve:\n{}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether it takes anything from outside, as its roles say.
    fn is_public(&self) -> bool {
        let given = self.arguments.iter().skip_while(|argument| *argument != "--role").skip(1).step_by(2);
        let mut roles: Vec<String> = given.cloned().collect();
        if roles.is_empty() {
            let config = fs::read_to_string(self.folder.path().join("config.toml")).expect("it was written");
            let table: toml::Table = config.parse().expect("it is TOML");
            let set = table.get("node").and_then(|node| node.get("roles")).and_then(toml::Value::as_array);
            roles.extend(set.into_iter().flatten().filter_map(|role| role.as_str().map(str::to_owned)));
        }
        roles.is_empty() || roles.iter().any(|role| role == "ingress" || role == "api")
    }

    /// kill -9.
    pub fn kill(&mut self) {
        // One that has ended already need not be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid is small")).expect("a pid is not zero");
        kill_process(pid, Signal::TERM).expect("the daemon runs");
    }

    /// Stops the process where it is, or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid is small")).expect("a pid is not zero");
        kill_process(pid, if frozen { Signal::STOP } else { Signal::CONT }).expect("the daemon runs");
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder of its queue and state.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where the public listener listens.
    pub fn address(&self) -> SocketAddr {
        self.public
    }

    /// Where the admin listener listens.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Waits until the process has ended by itself.
    pub async fn ends(&mut self) {
        super::eventually("the daemon ends", super::SOON, async || self.ended().is_some()).await;
    }

    /// An address of the public listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.public)
    }

    /// An address of the admin listener.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// Asks the admin listener.
    pub async fn admin(&self, path: &str) -> Value {
        let answer = self.client.get(self.admin_url(path)).send().await.expect("the admin listener answers");
        answer.json().await.expect("it answers JSON")
    }

    /// Orders something at the admin listener: the status, and what it answers.
    pub async fn order(&self, method: reqwest::Method, path: &str, body: Value) -> (u16, Value) {
        let request = self.client.request(method, self.admin_url(path)).body(body.to_string());
        let answer = request.send().await.expect("the admin listener answers");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// What is told of a message that has ended. Its end is written down after the reply is seen, maybe by another node.
    pub async fn settled(&self, message: &str) -> Value {
        let deadline = Instant::now() + super::SOON;
        loop {
            let told = self.admin(&format!("/admin/messages/{message}")).await;
            if told["state"] == "ended" {
                return told;
            }
            assert!(Instant::now() < deadline, "{message} does not end: {told}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Orders an actor to fail; the status.
    pub async fn crash(&self, actor: &str, body: &str) -> u16 {
        let url = self.admin_url(&format!("/admin/actors/{actor}/crash"));
        self.client.post(url).body(body.to_owned()).send().await.expect("the admin listener answers").status().as_u16()
    }

    /// A task as its asker sees it.
    pub async fn task(&self, id: &str) -> (u16, Value) {
        let request = self.client.get(self.url(&format!("/v1/tasks/{id}"))).bearer_auth(KEY);
        let answer = request.send().await.expect("the public listener answers");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// All metrics.
    pub async fn metrics(&self) -> String {
        let answer = self.client.get(self.admin_url("/metrics")).send().await.expect("the admin listener answers");
        answer.text().await.expect("metrics are text")
    }

    /// The sum of all series whose name and labels begin so.
    pub async fn metric(&self, series: &str) -> f64 {
        metric(&self.metrics().await, series)
    }

    /// What the daemon has logged since it was first started.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The end of the log, for failures.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

/// The sum of all series whose name and labels begin so; fails when there is none.
pub fn metric(metrics: &str, series: &str) -> f64 {
    let values: Vec<f64> = metrics
        .lines()
        .filter(|line| line.starts_with(series))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse().ok())
        .collect();
    assert!(!values.is_empty(), "no series {series}");
    values.iter().sum()
}

fn spawn(folder: &TempDir, arguments: &[String], environment: &[(String, String)]) -> Child {
    let log =
        fs::File::options().create(true).append(true).open(folder.path().join("log")).expect("a log can be written");
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("run")
        .arg("--config")
        .arg(folder.path().join("config.toml"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the daemon can be started")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
