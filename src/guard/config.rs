//! `[cache]`: answers to requests that were asked before, word for word.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::units;

/// Whether, how long and up to which size answers are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Uses the cache where the rules allow it.
    pub enabled: bool,
    /// Time an answer is kept, give or take a random share.
    #[serde(with = "units::duration")]
    pub ttl: Duration,
    /// Size in bytes of the largest answer that is kept.
    #[serde(with = "units::bytes")]
    pub max_value: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { enabled: true, ttl: Duration::from_secs(60 * 60), max_value: 256 << 10 }
    }
}
