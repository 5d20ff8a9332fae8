//! The breaker's memory of the last minute, in buckets of five seconds.
//!
//! A conversation counts at most once in each bucket as a failure: a repeated one is not counted at all, neither as a
//! failure nor as a call, so that one poisonous message adds little however often it is tried.

use std::{collections::HashSet, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use super::config::{WINDOW, WINDOW_BUCKETS};

/// Failing conversations remembered in one bucket; beyond it each failure counts, and the breaker is about to open.
pub const CONVERSATIONS_PER_BUCKET_MAX: usize = 1024;

/// Counts the calls of the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = BreakerCounts)]
pub struct Counts {
    /// Calls that succeeded, and failures as far as they count.
    pub calls: u32,
    /// Failures, each conversation once in five seconds.
    pub failures: u32,
    /// Successes that took too long.
    pub slow: u32,
}

/// Holds the outcomes of the last minute.
#[derive(Clone, Debug, Default)]
pub struct Window {
    buckets: [Bucket; WINDOW_BUCKETS],
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Bucket {
    /// Number of the five seconds since the origin that the counts belong to.
    slot: u64,
    counts: Counts,
    failing: HashSet<u64>,
}

impl Window {
    /// Adds successes, so many of them slow.
    pub fn succeeded(&mut self, now: Duration, calls: u32, slow: u32) {
        let counts = &mut self.current(now).counts;
        counts.calls = counts.calls.saturating_add(calls);
        counts.slow = counts.slow.saturating_add(slow);
    }

    /// Adds a failure of a conversation, unless this bucket, which remembers at most `remembered_max` conversations,
    /// has one of it already.
    pub fn failed(&mut self, now: Duration, conversation: u64, remembered_max: usize) {
        let bucket = self.current(now);
        if bucket.failing.contains(&conversation) {
            return;
        }
        if bucket.failing.len() < remembered_max {
            bucket.failing.insert(conversation);
        }
        bucket.counts.calls = bucket.counts.calls.saturating_add(1);
        bucket.counts.failures = bucket.counts.failures.saturating_add(1);
    }

    /// The sums over the last minute.
    pub fn counts(&self, now: Duration) -> Counts {
        self.live(now).fold(Counts::default(), |sum, bucket| Counts {
            calls: sum.calls.saturating_add(bucket.counts.calls),
            failures: sum.failures.saturating_add(bucket.counts.failures),
            slow: sum.slow.saturating_add(bucket.counts.slow),
        })
    }

    /// The distinct conversations that failed within the last minute, at most `enough` of them.
    pub fn failing(&self, now: Duration, enough: usize) -> HashSet<u64> {
        let mut distinct = HashSet::new();
        for conversation in self.live(now).flat_map(|bucket| &bucket.failing) {
            if distinct.len() >= enough {
                break;
            }
            distinct.insert(*conversation);
        }
        distinct
    }

    fn live(&self, now: Duration) -> impl Iterator<Item = &Bucket> {
        let slot = slot(now);
        self.buckets.iter().filter(move |bucket| bucket.slot + WINDOW_BUCKETS as u64 > slot)
    }

    fn current(&mut self, now: Duration) -> &mut Bucket {
        let slot = slot(now);
        let bucket = &mut self.buckets[(slot % WINDOW_BUCKETS as u64) as usize];
        if bucket.slot != slot {
            *bucket = Bucket { slot, ..Bucket::default() };
        }
        bucket
    }
}

/// Written without the buckets that hold nothing.
impl Serialize for Window {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.buckets.iter().filter(|bucket| bucket.counts.calls > 0))
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut window = Self::default();
        for bucket in Vec::<Bucket>::deserialize(deserializer)? {
            let place = (bucket.slot % WINDOW_BUCKETS as u64) as usize;
            window.buckets[place] = bucket;
        }
        Ok(window)
    }
}

fn slot(now: Duration) -> u64 {
    now.as_secs() / (WINDOW.as_secs() / WINDOW_BUCKETS as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_conversation_counts_once_in_each_bucket() {
        let mut window = Window::default();
        for second in 0..10 {
            window.failed(at(second), 1, 9);
        }
        window.failed(at(9), 2, 9);
        window.succeeded(at(9), 1, 1);
        assert_eq!(window.counts(at(9)), Counts { calls: 4, failures: 3, slow: 1 });
        assert_eq!(window.failing(at(9), 10).len(), 2);
        assert_eq!(window.failing(at(9), 1).len(), 1);
    }

    #[test]
    fn outcomes_are_forgotten_after_a_minute() {
        let mut window = Window::default();
        window.failed(at(4), 1, 9);
        assert_eq!(window.counts(at(59)).failures, 1);
        assert_eq!(window.counts(at(60)).failures, 0);
        window.failed(at(64), 2, 9);
        assert_eq!(window.counts(at(64)).failures, 1);
        assert_eq!(window.counts(at(100_000)), Counts::default());
    }
}
