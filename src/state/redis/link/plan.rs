//! How Redis is reached, as the configuration says, with everything that can be checked without asking.

use std::sync::Arc;

use fred::types::config::Server;
use rustls::ClientConfig;

use crate::{
    state::{Error, RedisConfig, RedisMode},
    tls,
};

/// The plan.
#[derive(Clone)]
pub struct Plan {
    /// The nodes as `host:port`.
    pub nodes: Vec<String>,
    /// The shape of the installation.
    pub mode: RedisMode,
    /// What Sentinels call the master; empty: the only one they watch.
    pub master: String,
    /// How TLS is spoken, if it is.
    pub tls: Option<Arc<ClientConfig>>,
    /// What AUTH is told: nothing, a password, or a name and a password.
    credentials: Vec<String>,
}

impl Plan {
    /// For the state.
    pub fn new(config: &RedisConfig) -> Result<Self, Error> {
        if config.nodes.is_empty() || config.nodes.iter().any(|node| server(node).is_none()) {
            return Err(Error::Failed("state.redis.nodes must name hosts as host:port".into()));
        }
        let files = tls::Files { section: "state.redis", ca_file: &config.ca_file, client_cert: "", client_key: "" };
        let tls = config.tls.then(|| tls::config(&files)).transpose().map_err(Error::Failed)?;
        let password = (!config.password.is_empty()).then(|| config.password.expose().to_owned());
        let name = Some(config.username.clone()).filter(|name| !name.is_empty());
        // A name without a password is a user who needs none.
        let credentials = match (name, password) {
            (Some(name), password) => vec![name, password.unwrap_or_default()],
            (None, password) => password.into_iter().collect(),
        };
        Ok(Self {
            nodes: config.nodes.clone(),
            mode: config.mode,
            master: config.sentinel_master.clone(),
            tls,
            credentials,
        })
    }

    /// For the cache: its own nodes, if it has some.
    pub fn for_cache(config: &RedisConfig) -> Result<Self, Error> {
        let mut plan = Self::new(config)?;
        if !config.cache_nodes.is_empty() {
            plan.nodes.clone_from(&config.cache_nodes);
            plan.mode = RedisMode::Auto;
        }
        Ok(plan)
    }

    /// What AUTH is told.
    pub(super) fn credentials(&self) -> Vec<&str> {
        self.credentials.iter().map(String::as_str).collect()
    }

    /// A text without the password: some servers repeat commands that they do not know.
    pub(super) fn scrubbed(&self, text: &str) -> String {
        match self.credentials.last().filter(|word| !word.is_empty()) {
            Some(password) => text.replace(password.as_str(), "***"),
            None => text.to_owned(),
        }
    }

    /// The user's name and password.
    pub(super) fn user(&self) -> (Option<String>, Option<String>) {
        match self.credentials.as_slice() {
            [name, password] => (Some(name.clone()), Some(password.clone())),
            [password] => (None, Some(password.clone())),
            _ => (None, None),
        }
    }
}

/// A node as fred knows it.
pub(super) fn server(node: &str) -> Option<Server> {
    let (_, port) = node.rsplit_once(':')?;
    Some(Server::new(host(node).to_owned(), port.parse::<u16>().ok()?))
}

/// The host of `host:port`, without the brackets of IPv6.
pub(super) fn host(node: &str) -> &str {
    let host = node.rsplit_once(':').map_or(node, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}
