//! When a supervisor restarts what, and when it gives up (the rules of Erlang/OTP's `supervisor`).

use std::{collections::VecDeque, time::Duration};

/// Which children are restarted when one ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The one that ended.
    OneForOne,
    /// The one that ended and those started after it.
    RestForOne,
    /// All.
    OneForAll,
}

/// Whether a child that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Permanent,
    /// After an abnormal end only. Being killed is abnormal: nobody who is well gets killed.
    Transient,
    /// Never.
    Temporary,
}

impl Restart {
    /// Whether a child is started again after an end of that kind.
    pub fn after(self, abnormal: bool) -> bool {
        match self {
            Self::Permanent => true,
            Self::Transient => abnormal,
            Self::Temporary => false,
        }
    }
}

impl Strategy {
    /// The children, by position among `count`, that end and start with the one at `index`: a range.
    pub fn affected(self, index: usize, count: usize) -> std::ops::Range<usize> {
        match self {
            Self::OneForOne => index..index + 1,
            Self::RestForOne => index..count,
            Self::OneForAll => 0..count,
        }
    }
}

/// How many restarts within which time are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// The most restarts.
    pub max_restarts: usize,
    /// The window.
    pub within: Duration,
}

/// The pause before the `n`th restart in a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Before the first.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
    /// Share by which a pause may be longer.
    pub jitter: f64,
}

impl Backoff {
    /// Doubles from the first to the longest; `n` counts from 1.
    pub fn pause(&self, n: usize, unit_random: f64) -> Duration {
        let doublings = u32::try_from(n.saturating_sub(1)).unwrap_or(u32::MAX).min(30);
        let pause = self.first.saturating_mul(1 << doublings).min(self.longest);
        pause.mul_f64(1.0 + self.jitter * unit_random)
    }
}

/// What to do about an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start again after a pause.
    Again(Duration),
    /// Too many: give up and tell those above.
    Escalate,
}

/// Remembers restarts and decides on the next.
#[derive(Debug)]
pub struct Restarts {
    intensity: Intensity,
    backoff: Backoff,
    /// When, and which child.
    recent: VecDeque<(Duration, usize)>,
}

impl Restarts {
    /// Starts without a history.
    pub fn new(intensity: Intensity, backoff: Backoff) -> Self {
        Self { intensity, backoff, recent: VecDeque::new() }
    }

    /// Notes an end of one child at `now` (monotonic) that asks for a restart, and decides. All children count towards
    /// the intensity; a child's pause grows with its own failures only.
    pub fn ended(&mut self, child: usize, now: Duration, unit_random: f64) -> Decision {
        while self.recent.front().is_some_and(|(at, _)| now.saturating_sub(*at) > self.intensity.within) {
            self.recent.pop_front();
        }
        if self.recent.len() >= self.intensity.max_restarts {
            return Decision::Escalate;
        }
        self.recent.push_back((now, child));
        let in_a_row = self.recent.iter().filter(|(_, failed)| *failed == child).count();
        Decision::Again(self.backoff.pause(in_a_row, unit_random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn restarts() -> Restarts {
        let intensity = Intensity { max_restarts: 3, within: SECOND * 10 };
        let backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(3), jitter: 0.0 };
        Restarts::new(intensity, backoff)
    }

    #[test]
    fn restarts_within_the_window_are_counted_slowed_and_then_escalated() {
        let mut restarts = restarts();
        let pauses: Vec<_> = (0..4).map(|n| restarts.ended(0, SECOND * n, 0.0)).collect();
        let again = |ms| Decision::Again(Duration::from_millis(ms));
        assert_eq!(pauses, [again(1), again(2), again(3), Decision::Escalate]);
    }

    #[test]
    fn each_child_is_slowed_for_its_own_failures_and_all_count_together() {
        let mut restarts = restarts();
        let again = |ms| Decision::Again(Duration::from_millis(ms));
        let pauses = [0, 1, 0, 1].map(|child| restarts.ended(child, SECOND, 0.0));
        assert_eq!(pauses, [again(1), again(1), again(2), Decision::Escalate]);
    }

    #[test]
    fn old_restarts_are_forgotten() {
        let mut restarts = restarts();
        for n in 0..100 {
            assert_ne!(restarts.ended(0, SECOND * 4 * n, 0.0), Decision::Escalate);
        }
    }

    #[test]
    fn a_strategy_names_its_children_and_a_kill_is_abnormal() {
        assert_eq!(Strategy::OneForOne.affected(1, 4), 1..2);
        assert_eq!(Strategy::RestForOne.affected(1, 4), 1..4);
        assert_eq!(Strategy::OneForAll.affected(1, 4), 0..4);
        assert!(Restart::Transient.after(true) && !Restart::Transient.after(false) && !Restart::Temporary.after(true));
    }
}
