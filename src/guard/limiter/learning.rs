//! What a limiter learns from its service: additive increase, multiplicative decrease, and the service's own words.

use std::time::Duration;

/// No pause is longer, whatever the service asks.
pub const PAUSE_MAX: Duration = Duration::from_secs(600);
/// The first pause after a 429 that names no time; each further one doubles it.
pub const PAUSE_MIN: Duration = Duration::from_secs(1);
/// A pause of our own choice lasts up to this share longer, so that nodes do not come back in step.
const JITTER: f64 = 0.2;
/// What is left of the limits after an unexplained 429.
const DECREASE: f64 = 0.7;
/// Regained with each step of successes, as a share of the configured limits.
const INCREASE: f64 = 0.05;
/// A step is a minute, or the shortest window where that is shorter: by then the service has shown what it allows.
const INCREASE_EVERY: Duration = Duration::from_secs(60);
/// The limits never fall below this share; from there a full recovery takes 19 minutes.
const FACTOR_MIN: f64 = 0.05;

/// Holds what was learned since the start.
#[derive(Clone, Debug)]
pub(super) struct Learning {
    /// The share of the configured limits that is in force.
    pub factor: f64,
    /// The service's own limit in requests per minute.
    pub header: Option<u64>,
    /// Unexplained 429s since the last success.
    unexplained: u32,
    /// When the factor changed last.
    changed_at: Duration,
}

impl Default for Learning {
    fn default() -> Self {
        Self { factor: 1.0, header: None, unexplained: 0, changed_at: Duration::ZERO }
    }
}

impl Learning {
    /// Takes in a 429 that names its time: the limits are too high all the same.
    pub fn told_to_wait(&mut self, now: Duration) {
        self.factor = (self.factor * DECREASE).max(FACTOR_MIN);
        self.changed_at = now;
    }

    /// Takes in a 429 that names no time; returns how long to pause.
    pub fn throttled(&mut self, now: Duration, unit_random: f64) -> Duration {
        let pause = PAUSE_MIN.saturating_mul(1 << self.unexplained.min(16)).min(PAUSE_MAX);
        self.unexplained = self.unexplained.saturating_add(1);
        self.factor = (self.factor * DECREASE).max(FACTOR_MIN);
        self.changed_at = now;
        pause.mul_f64(1.0 + JITTER * unit_random.clamp(0.0, 1.0)).min(PAUSE_MAX)
    }

    /// Takes in a success under limits whose shortest window is `window`; returns whether the factor rose.
    pub fn succeeded(&mut self, now: Duration, window: Option<Duration>) -> bool {
        self.unexplained = 0;
        let every = window.unwrap_or(INCREASE_EVERY).clamp(Duration::from_secs(1), INCREASE_EVERY);
        let steps = now.saturating_sub(self.changed_at).as_millis() / every.as_millis();
        if self.factor >= 1.0 || steps == 0 {
            return false;
        }
        self.factor = (self.factor + INCREASE * steps as f64).min(1.0);
        self.changed_at = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_jitter_until_a_success() {
        let mut learning = Learning::default();
        let mut pauses = |count: u32, unit_random| {
            (0..count).map(|_| learning.throttled(Duration::ZERO, unit_random).as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(4, 0.0), [1000, 2000, 4000, 8000]);
        assert_eq!(pauses(2, 0.5), [17_600, 35_200]);
        assert_eq!(pauses(20, 0.9).last(), Some(&600_000));
        learning.succeeded(Duration::ZERO, None);
        assert_eq!(learning.throttled(Duration::ZERO, 0.0), PAUSE_MIN);
    }

    #[test]
    fn the_factor_falls_at_once_and_rises_by_the_minute() {
        let mut learning = Learning::default();
        let seconds = Duration::from_secs;
        learning.throttled(seconds(0), 0.0);
        assert_eq!(learning.factor, 0.7);
        assert!(!learning.succeeded(seconds(59), None));
        assert!(learning.succeeded(seconds(60), None));
        assert!(!learning.succeeded(seconds(61), None));
        assert!((learning.factor - 0.75).abs() < 1e-9);
        assert!(learning.succeeded(seconds(100_000), None));
        assert_eq!(learning.factor, 1.0);
        for _ in 0..100 {
            learning.throttled(seconds(100_000), 0.0);
        }
        assert_eq!(learning.factor, FACTOR_MIN);
    }
}
