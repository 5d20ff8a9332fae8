//! `[broker]`: where accepted messages are kept until they are settled.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{secret::Secret, units};

/// Chooses and describes the broker of this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which broker is used; the sections of the others are checked but have no effect.
    pub kind: Kind,
    /// The broker inside this process.
    pub embedded: EmbeddedConfig,
    /// The connection to RabbitMQ.
    pub rabbitmq: RabbitmqConfig,
    /// The local store that takes messages while RabbitMQ does not confirm.
    pub spool: SpoolConfig,
}

/// Names a broker implementation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// SQLite on the local disk, for one node.
    #[default]
    Embedded,
    /// A RabbitMQ cluster shared by all nodes.
    Rabbitmq,
}

/// `[broker.embedded]`: limits and place of the broker inside this process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// Folder of the store; one process at a time, on a disk that survives the process.
    pub path: String,
    /// Messages held at most; beyond it webhooks are answered 503.
    pub max_messages: u64,
    /// Size of the store in bytes at most; beyond it webhooks are answered 503.
    #[serde(with = "units::bytes")]
    pub max_bytes: u64,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self { path: "data".into(), max_messages: 1_000_000, max_bytes: 4 << 30 }
    }
}

/// `[broker.rabbitmq]`: how RabbitMQ is reached and what is declared there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RabbitmqConfig {
    /// Nodes of the cluster as `host:port`, tried in turn.
    pub nodes: Vec<String>,
    /// User name for the broker.
    pub username: String,
    /// Password for the broker.
    pub password: Secret,
    /// Virtual host.
    pub vhost: String,
    /// First part of every exchange and queue name, so that several installations share a broker.
    pub prefix: String,
    /// Pause between heartbeats, 1 s to 60 s; a hung broker is noticed within two of them.
    #[serde(with = "units::duration")]
    pub heartbeat: Duration,
    /// Time after which an unconfirmed publish counts as failed and the connection as hung.
    #[serde(with = "units::duration")]
    pub confirm_timeout: Duration,
    /// The broker's own `consumer_timeout`; nothing is held unacknowledged for longer than half of it.
    #[serde(with = "units::duration")]
    pub consumer_timeout: Duration,
    /// Number of chat partitions, 1 to 100; the same on every node, fixed once queues exist.
    pub partitions: u32,
    /// Unacknowledged messages per partition; the same on every node, or order breaks.
    pub prefetch: u16,
    /// Address of the management HTTP API, for `tidegate check` only; empty: it is not asked.
    pub management_url: String,
    /// Speaks TLS to the broker.
    pub tls: bool,
    /// File with the certificate authority (PEM); empty: the system's.
    pub ca_file: String,
    /// File with the client certificate (PEM); empty: none.
    pub client_cert: String,
    /// File with the client certificate's key (PEM); empty: none.
    pub client_key: String,
}

impl Default for RabbitmqConfig {
    fn default() -> Self {
        Self {
            nodes: vec!["127.0.0.1:5672".into()],
            username: "guest".into(),
            password: Secret::default(),
            vhost: "/".into(),
            prefix: "tidegate".into(),
            heartbeat: Duration::from_secs(10),
            confirm_timeout: Duration::from_secs(15),
            consumer_timeout: Duration::from_secs(30 * 60),
            partitions: 16,
            prefetch: 256,
            management_url: String::new(),
            tls: false,
            ca_file: String::new(),
            client_cert: String::new(),
            client_key: String::new(),
        }
    }
}

/// `[broker.spool]`: the local store that takes messages while RabbitMQ does not confirm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolConfig {
    /// Spools instead of answering 503.
    pub enabled: bool,
    /// Folder of the spool; one process at a time, on a disk that survives the process.
    pub path: String,
    /// Messages spooled at most; beyond it webhooks are answered 503.
    pub max_messages: u64,
    /// Size of the spool in bytes at most; beyond it webhooks are answered 503.
    #[serde(with = "units::bytes")]
    pub max_bytes: u64,
    /// Time a publish may wait for its confirm before the message is spooled as well.
    #[serde(with = "units::duration")]
    pub confirm_within: Duration,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            path: "data/spool".into(),
            max_messages: 1_000_000,
            max_bytes: 4 << 30,
            confirm_within: Duration::from_secs(1),
        }
    }
}
