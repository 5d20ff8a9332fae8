//! What an operator may set on a breaker, and the numbers he may not.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Outcome;

/// Rates are taken over this span; long enough for a minute's quota to show, short enough to forget an incident.
pub const WINDOW: Duration = Duration::from_secs(60);
/// The window moves on in this many steps, so it covers between 55 and 60 seconds.
pub const WINDOW_BUCKETS: usize = 12;
/// Doubling of the recovery timeout ends here, so that a service that is back is noticed within minutes.
pub const RECOVERY_MAX: Duration = Duration::from_secs(600);
/// A probe's lease outlives its call's timeout by this much, so that only a vanished prober loses it.
pub const LEASE_EXTRA: Duration = Duration::from_secs(5);
/// An opening lasts up to this share longer, so that several nodes do not probe in step.
pub const JITTER: f64 = 0.2;
/// How long a message whose probe failed leaves the half-open breaker to others that wait.
pub const PROBER_STANDS_BACK: Duration = Duration::from_secs(2);
/// How soon to ask again while all probes are out, or while the breaker is held open by hand.
pub const POLL: Duration = Duration::from_secs(1);
/// The failure rate needs at least this many distinct conversations (or `failure_threshold`, when that is less).
pub const RATE_CONVERSATIONS_MIN: usize = 3;

/// Sets when a breaker opens and how it recovers; the `[ai.services.breaker]` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Failures without a success in between that open the breaker; at least 1.
    pub failure_threshold: u32,
    /// How long the first opening lasts; each further one doubles it up to 10 minutes.
    #[serde(with = "crate::domain::units::duration")]
    pub recovery_timeout: Duration,
    /// Share of failed calls within a minute that opens the breaker; above 1 it never does.
    pub failure_rate: f64,
    /// A success that took this long counts as slow.
    #[serde(with = "crate::domain::units::duration")]
    pub slow_call: Duration,
    /// Share of slow calls within a minute that opens the breaker; above 1 it never does.
    pub slow_rate: f64,
    /// Calls within a minute below which the rates say nothing.
    pub minimum_calls: u32,
    /// Probes at once while half-open, and successes that close the breaker; at least 1.
    pub probes: u32,
    /// Which failures are the service's; any other proves that it answers.
    pub failures: Vec<FailureKind>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            failure_threshold: 5,
            recovery_timeout: Duration::from_secs(60),
            failure_rate: 0.5,
            slow_call: Duration::from_secs(10),
            slow_rate: 0.8,
            minimum_calls: 20,
            probes: 1,
            failures: vec![FailureKind::Connect, FailureKind::Timeout, FailureKind::ServerError],
        }
    }
}

impl Config {
    /// How long the `trips`-th opening in a row lasts.
    ///
    /// A recovery timeout above [`RECOVERY_MAX`] is an operator's wish and is kept, without doubling.
    pub fn recovery(&self, trips: u32, unit_random: f64) -> Duration {
        let doublings = trips.saturating_sub(1).min(31);
        let longest = RECOVERY_MAX.max(self.recovery_timeout);
        let span = self.recovery_timeout.saturating_mul(1 << doublings).min(longest);
        let stretched = span.as_secs_f64() * (1.0 + JITTER * unit_random.clamp(0.0, 1.0));
        Duration::try_from_secs_f64(stretched).unwrap_or(longest)
    }

    /// Whether a call failed by the service's fault; `None` when its end says nothing.
    pub(super) fn failed(&self, outcome: Outcome) -> Option<bool> {
        match outcome {
            Outcome::Neutral => None,
            Outcome::Success { .. } => Some(false),
            Outcome::Failure { kind } => Some(self.failures.contains(&kind)),
        }
    }

    /// Whether it was a success that took too long.
    pub(super) fn slow(&self, outcome: Outcome) -> bool {
        matches!(outcome, Outcome::Success { took } if took >= self.slow_call)
    }

    /// The same settings with the counts raised to where they can work at all.
    pub(super) fn workable(mut self) -> Self {
        self.failure_threshold = self.failure_threshold.max(1);
        self.probes = self.probes.max(1);
        self.minimum_calls = self.minimum_calls.max(1);
        self
    }
}

/// Says in which way a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// No connection came about, or it broke.
    #[serde(rename = "connect")]
    Connect,
    /// The answer did not come in time.
    #[serde(rename = "timeout")]
    Timeout,
    /// The service answered with a status of 500 or more.
    #[serde(rename = "5xx")]
    ServerError,
    /// The service refused the request; a 429 is no such failure but [`super::Outcome::Neutral`].
    #[serde(rename = "4xx")]
    ClientError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_documented_one_and_unknown_keys_are_refused() {
        let written = r#"
            failure_threshold = 5
            recovery_timeout = "60s"
            failure_rate = 0.5
            slow_call = "10s"
            slow_rate = 0.8
            minimum_calls = 20
            probes = 1
            failures = ["connect", "timeout", "5xx"]
        "#;
        assert_eq!(toml::from_str::<Config>(written).unwrap(), Config::default());
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
        assert!(toml::from_str::<Config>("threshold = 5").is_err());
        assert!(toml::from_str::<Config>("recovery_timeout = 60").is_err());
    }

    #[test]
    fn recovery_doubles_with_jitter_up_to_its_maximum() {
        let config = Config::default();
        let table =
            [(1, 0.0, 60), (2, 0.0, 120), (3, 0.0, 240), (4, 0.0, 480), (5, 0.0, 600), (99, 0.0, 600), (1, 0.5, 66)];
        for (trips, unit_random, seconds) in table {
            assert_eq!(config.recovery(trips, unit_random).as_secs_f64().round(), f64::from(seconds), "trip {trips}");
        }
        let patient = Config { recovery_timeout: Duration::from_secs(1800), ..config };
        assert_eq!(patient.recovery(3, 0.0), Duration::from_secs(1800));
    }
}
