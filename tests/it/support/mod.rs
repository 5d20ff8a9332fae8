//! What tests are made of: a daemon between a simulated Zendesk and a simulated AI service.

mod balancer;
pub mod collector;
pub mod command;
mod daemon;
mod fleet;
pub mod gateway;
pub mod nginx;
pub mod prometheus;
mod proxy;
#[allow(dead_code, unused_imports, reason = "the tests of the library use what these do not")]
pub mod rabbitmq;
pub mod receiver;
#[allow(dead_code, reason = "the tests of the library use what these do not")]
pub mod redis;
pub mod webhooks;

use std::{net::SocketAddr, time::Duration};

use tidegate::simulate::{Ai, Zendesk, ai, zendesk};
use tokio::time::Instant;

pub use balancer::{Balancer, p99};
pub use daemon::{Daemon, KEY, metric};
pub use fleet::Fleet;
pub use proxy::Proxy;

/// The machine is shared and slow; a condition has this long to come true.
pub const SOON: Duration = Duration::from_secs(60);

/// How long everything may take to settle; trials have more to settle.
pub fn settle_within() -> Duration {
    Duration::from_secs(figure("TIDEGATE_SETTLE_SECONDS", 60))
}

/// Any free port of loopback.
pub const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A figure of a test that a trial makes larger (`scripts/trials/`).
pub fn figure(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Waits until a condition holds; fails, saying which, when it does not in time.
pub async fn eventually(what: &str, within: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The whole scene.
pub struct Scene {
    /// The conversations' side.
    pub zendesk: Zendesk,
    /// The AI service.
    pub ai: Ai,
    /// The daemon.
    pub daemon: Daemon,
}

/// A daemon's configuration that leads to the RabbitMQ that tests share, under a prefix of its own.
pub fn in_rabbitmq() -> String {
    let (address, prefix) = rabbitmq::shared();
    rabbitmq::config(&[address], &prefix)
}

impl Scene {
    /// Raises the curtain; `config` is TOML laid over the harness's own.
    pub async fn with(config: &str) -> Self {
        Self::set(config, zendesk::Options { webhook_retry_base: Duration::from_millis(50), ..Default::default() })
            .await
    }

    /// The same with a Zendesk of one's own.
    pub async fn set(config: &str, options: zendesk::Options) -> Self {
        let zendesk = Zendesk::start(ANYWHERE, options).await.expect("a port is free");
        let ai = Ai::start(ANYWHERE, ai::Options::default()).await.expect("a port is free");
        let daemon = Daemon::start(config, &zendesk, &ai).await;
        zendesk.aim(Some(&daemon.url("/webhooks/sunshine"))).expect("the address is sound");
        Self { zendesk, ai, daemon }
    }

    /// A customer writes; the text gets a reference, so that the judge knows what is answered.
    pub async fn say(&self, conversation: &str, text: &str) -> String {
        let reference = self.zendesk.next_reference();
        self.zendesk.say(conversation, &format!("{text} {reference}")).await
    }

    /// A customer sends content of any type into a conversation that is known to Zendesk.
    pub async fn write(&self, conversation: &str, content: &serde_json::Value) {
        let of = self.zendesk.options();
        let url = format!("{}/v2/apps/{}/conversations/{conversation}/messages", self.zendesk.url(), of.app_id);
        let body = serde_json::json!({ "author": { "type": "user", "userId": "u1" }, "content": content }).to_string();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client can be made");
        let sent = client.post(url).basic_auth(&of.key_id, Some(&of.key_secret)).body(body).send().await;
        assert_eq!(sent.expect("Zendesk answers").status(), 201);
    }

    /// Waits until every accepted message is answered or handed over.
    pub async fn settles(&self) {
        let settled = tidegate::simulate::customers::settled(&self.zendesk, settle_within()).await;
        assert!(settled, "not everything was settled: {:?}\n{}", self.zendesk.stats(), self.daemon.log_tail());
    }

    /// Nothing lost, nothing twice, everything in order.
    pub fn assert_sound(&self) {
        let report = self.zendesk.report();
        let judged = &report.stats.judged;
        let sound = judged.lost == 0 && judged.duplicates == 0 && judged.out_of_order == 0 && judged.misdirected == 0;
        assert!(sound, "{judged:?}\n{:?}", report.offences);
    }

    /// The texts we posted into a conversation.
    pub fn replies(&self, conversation: &str) -> Vec<String> {
        let messages = self.zendesk.messages(conversation);
        messages.into_iter().filter(|message| message.author == "business").map(|message| message.text).collect()
    }
}
