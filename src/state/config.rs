//! `[state]` and `[retention]`: what the nodes share, and how long it is kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{secret::Secret, units};

/// Chooses and describes the shared state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the state lives.
    pub kind: Kind,
    /// The connection to Redis.
    pub redis: RedisConfig,
}

/// Names an implementation of the shared state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// In this process, for one node.
    #[default]
    Local,
    /// In Redis, shared by all nodes.
    Redis,
}

/// `[state.redis]`: how Redis is reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// Shape of the installation.
    pub mode: RedisMode,
    /// Nodes as `host:port`; give all that are known, each is a way in.
    pub nodes: Vec<String>,
    /// Name of the master that the Sentinels watch.
    pub sentinel_master: String,
    /// User name; empty: the default user.
    pub username: String,
    /// Password; empty: none.
    pub password: Secret,
    /// First part of every key, so that several installations share a Redis.
    pub prefix: String,
    /// Nodes of a second Redis that holds the cache only and may evict; empty: the cache shares `nodes`.
    pub cache_nodes: Vec<String>,
    /// What the limiter does while Redis is away.
    pub on_loss: OnLoss,
    /// Speaks TLS to Redis.
    pub tls: bool,
    /// File with the certificate authority (PEM); empty: the system's.
    pub ca_file: String,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            mode: RedisMode::Auto,
            nodes: vec!["127.0.0.1:6379".into()],
            sentinel_master: String::new(),
            username: String::new(),
            password: Secret::default(),
            prefix: "tidegate".into(),
            cache_nodes: Vec::new(),
            on_loss: OnLoss::LocalShare,
            tls: false,
            ca_file: String::new(),
        }
    }
}

/// Names the shape of a Redis installation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedisMode {
    /// Asks the servers: Cluster if they say so, else Sentinel, else the first that is a master.
    #[default]
    Auto,
    /// One server.
    Single,
    /// Servers watched by Sentinels; `nodes` are the Sentinels.
    Sentinel,
    /// Redis Cluster.
    Cluster,
}

/// Says what the limiter does while Redis is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLoss {
    /// Each node goes on with its share of the limits.
    #[default]
    LocalShare,
    /// Calls wait until Redis is back; messages stay safe in the broker.
    Wait,
}

/// `[retention]`: how long texts are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Parked messages.
    #[serde(with = "units::duration")]
    pub parked: Duration,
    /// Timelines and conversation history.
    #[serde(with = "units::duration")]
    pub history: Duration,
    /// Results that `GET /v1/tasks/{id}` returns.
    #[serde(with = "units::duration")]
    pub results: Duration,
    /// What operators did (`GET /admin/audit`).
    #[serde(with = "units::duration")]
    pub audit: Duration,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { parked: 30 * DAY, history: 7 * DAY, results: DAY, audit: 90 * DAY }
    }
}
