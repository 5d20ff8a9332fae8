//! `[http]`, `[admin]` and `[api]`: the two listeners, and who may use them.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::{
    domain::{hex::hex, secret::Secret, units},
    guard::limiter::{Limits, WindowLimit},
};

/// `[http]`: the public listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port; port 0 takes a free one.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Size in bytes of the largest webhook.
    #[serde(with = "units::bytes")]
    pub webhook_body_limit: u64,
    /// Size in bytes of the largest request on `/v1`.
    #[serde(with = "units::bytes")]
    pub api_body_limit: u64,
    /// Time in which a request must have arrived and been answered; a stream: its first part. A connection on which
    /// nothing is asked for as long is closed.
    #[serde(with = "units::duration")]
    pub request_timeout: Duration,
    /// Connections open at once; whoever comes beyond is answered 503.
    pub connections: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            webhook_body_limit: 1 << 20,
            api_body_limit: 10 << 20,
            request_timeout: Duration::from_secs(30),
            connections: 1024,
        }
    }
}

/// `[admin]`: the listener for metrics, dashboard and operations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address and port; anything but loopback needs `tokens`.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Serves `/metrics` without a token.
    pub metrics_public: bool,
    /// Allows failures on purpose: the crash route and `[faults]`.
    pub fault_injection: bool,
    /// Connections open at once; whoever comes beyond is answered 503.
    pub connections: usize,
    /// Who may use the listener; none on loopback: everyone there.
    pub tokens: Vec<AdminToken>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9090)),
            metrics_public: false,
            fault_injection: false,
            connections: 64,
            tokens: Vec::new(),
        }
    }
}

/// A bearer token of the admin listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminToken {
    /// Name in the audit log; unique.
    pub name: String,
    /// The token.
    pub token: Secret,
    /// What its holder may do.
    pub role: AdminRole,
}

/// Says what the holder of an admin token may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdminRole {
    /// Reads.
    #[default]
    Viewer,
    /// Reads and changes.
    Operator,
}

/// `[api]`: the synchronous road, `/v1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Who may use it; empty: nobody.
    pub keys: Vec<ApiKey>,
    /// Further tries of a call that failed for the service's sake, within `http.request_timeout`.
    pub max_retries: u32,
    /// Seconds before the first further try; each pause is twice the one before.
    pub backoff_factor: f64,
    /// All further tries together, as a share of the requests that called a service; from 0 to 1.
    pub retry_budget: f64,
    /// How long a free slot, a permit or a closed breaker is waited for, within `http.request_timeout`.
    #[serde(with = "units::duration")]
    pub wait: Duration,
    /// Whether services that do not offer the model asked for stand in with their own, after those that do.
    pub stand_in: bool,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            max_retries: 2,
            backoff_factor: 0.5,
            retry_budget: 0.1,
            wait: Duration::from_secs(5),
            stand_in: true,
        }
    }
}

/// A bearer key of `/v1` and what it is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiKey {
    /// Name in logs and metrics; unique.
    pub name: String,
    /// The key, or `sha256:` and its SHA-256 in hex.
    pub key: Secret,
    /// Models it may ask for; empty: all.
    pub models: Vec<String>,
    /// What it may use, in the shape of a service's limits; whatever is not said is not limited.
    #[serde(deserialize_with = "Quota::deserialize")]
    pub limits: Limits,
    /// Answers from the cache when the same was asked before with this key.
    pub cache: bool,
    /// Tokens it may use in a calendar month; 0 = no such limit.
    pub monthly_budget: u64,
}

impl Default for ApiKey {
    fn default() -> Self {
        Self {
            name: String::new(),
            key: Secret::default(),
            models: Vec::new(),
            limits: unlimited(),
            cache: false,
            monthly_budget: 0,
        }
    }
}

/// A key in the configuration that begins so is not the key but its SHA-256 in hex.
pub const HASHED: &str = "sha256:";

impl ApiKey {
    /// The key's SHA-256 in hex; `None`: what stands there for it is none.
    pub fn digest(&self) -> Option<String> {
        match self.key.expose().strip_prefix(HASHED) {
            Some(hash) => {
                let is_hash = hash.len() == 64 && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
                is_hash.then(|| hash.to_ascii_lowercase())
            }
            None => Some(hex(&Sha256::digest(self.key.expose()))),
        }
    }
}

/// Reads the limits of a key, whose default is "none", unlike a service's.
#[derive(Deserialize)]
#[serde(remote = "Limits", default = "unlimited", deny_unknown_fields)]
struct Quota {
    burst: u32,
    per_minute: u64,
    per_hour: u64,
    tokens_per_minute: u64,
    windows: Vec<WindowLimit>,
    pace_hour: bool,
}

fn unlimited() -> Limits {
    Limits::NONE
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        D::Error::custom(format!("`{text}` is not an address with a port; write it like 127.0.0.1:8000 or [::1]:8000"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_without_limits_is_not_limited() {
        let key: ApiKey = toml::from_str("name = 'a'\nlimits = { per_minute = 7 }").unwrap();
        assert_eq!(key.limits, Limits { per_minute: 7, ..unlimited() });
        assert_eq!(toml::from_str::<ApiKey>("limits = {}").unwrap(), ApiKey::default());
        assert!(toml::from_str::<ApiKey>("limits = { per_day = 7 }").is_err());
    }

    #[test]
    fn a_listener_has_an_address_and_a_port() {
        for text in ["127.0.0.1:0", "[::1]:8000", "0.0.0.0:80"] {
            assert!(toml::from_str::<Config>(&format!("listen = '{text}'")).is_ok(), "{text}");
        }
        for text in ["", "8000", ":8000", "localhost:8000", "127.0.0.1", "127.0.0.1:65536"] {
            assert!(toml::from_str::<Config>(&format!("listen = '{text}'")).is_err(), "{text}");
        }
    }
}
