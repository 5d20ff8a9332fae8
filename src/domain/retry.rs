//! When to try again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often the base fits into the longest pause after failures of a service: 1 s doubling to 60 s.
const SERVICE_PAUSE_MAX: u32 = 60;

/// `[retry]`: how often a message that fails is tried again, and after which pauses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Tries after the first, before a message is parked.
    pub max_retries: u32,
    /// The unit of all pauses: retry `n` comes after `base * factor^n`, service failures begin with it.
    #[serde(with = "crate::domain::units::duration")]
    pub base: Duration,
    /// Growth from one pause to the next.
    pub factor: f64,
    /// Share of a pause by which it may be longer, so that those who failed together do not return together.
    pub jitter: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { max_retries: 3, base: Duration::from_secs(1), factor: 2.0, jitter: 0.2 }
    }
}

impl Policy {
    /// The pause before retry `n` (from 1) of a message that failed, or `None` when it has no further one:
    /// `2^n` seconds by default.
    pub fn pause(&self, n: u32, unit_random: f64) -> Option<Duration> {
        (n <= self.max_retries).then(|| self.spread(self.grown(n), unit_random))
    }

    /// The pause after the `n`th failure (from 1) of the service in a row: the base, doubling up to sixty times it.
    /// There is always a next one (G5).
    pub fn service_pause(&self, n: u32, unit_random: f64) -> Duration {
        let longest = self.base * SERVICE_PAUSE_MAX;
        self.spread(self.grown(n.saturating_sub(1)).min(longest), unit_random)
    }

    /// No pause before a retry is longer.
    pub fn longest_pause(&self) -> Duration {
        self.pause(self.max_retries, 1.0).unwrap_or_default()
    }

    fn grown(&self, n: u32) -> Duration {
        let exponent = i32::try_from(n.min(64)).unwrap_or(64);
        let seconds = self.base.as_secs_f64() * self.factor.max(1.0).powi(exponent);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 4)
    }

    fn spread(&self, pause: Duration, unit_random: f64) -> Duration {
        Duration::try_from_secs_f64(pause.as_secs_f64() * (1.0 + self.jitter * unit_random)).unwrap_or(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_come_after_two_four_and_eight_seconds_and_then_no_more() {
        let policy = Policy::default();
        let seconds: Vec<_> = (1..=4).map(|n| policy.pause(n, 0.0).map(|pause| pause.as_secs())).collect();
        assert_eq!(seconds, [Some(2), Some(4), Some(8), None]);
        assert_eq!(policy.pause(1, 1.0), Some(Duration::from_millis(2_400)));
        assert_eq!(policy.longest_pause(), Duration::from_millis(9_600));
    }

    #[test]
    fn a_failing_service_is_asked_after_one_second_doubling_to_sixty_for_ever() {
        let policy = Policy::default();
        let seconds: Vec<_> = (1..=9).map(|n| policy.service_pause(n, 0.0).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(policy.service_pause(u32::MAX, 0.0).as_secs(), 60);
    }
}
