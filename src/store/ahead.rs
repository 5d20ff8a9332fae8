//! Calls noted before they are made: one line of the journal for many calls that follow each other closely.
//!
//! A line for each call costs a write to the file and a lock held meanwhile, which is as much as all guards together.
//! What is noted may be more than what is made, never less: of each burst what is left of its last line, so that after a
//! start windows may look fuller than they are, by three eighths at the very worst. Whoever calls seldom has a line for
//! each call.

use crate::domain::time::Timestamp;

/// So far a line reaches.
pub(super) const REACH_MS: i64 = 100;

/// A line is for this part of the calls that were made in such a time.
const PART: u32 = 8;

/// Calls of one line at the most.
const CALLS_MAX: u32 = 64;

/// A line of the journal: so many calls, each with so many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// No call that it stands for is later.
    pub at: Timestamp,
    pub tokens: u64,
    pub calls: u32,
}

/// What has been noted for one limiter.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Since when the calls are counted, and how many there were; and in the time before.
    counted_since: i64,
    counted: u32,
    counted_before: u32,
    /// When the last line was written, and what is left of it.
    noted_at: i64,
    calls_left: u32,
    tokens_left: u64,
}

impl Ahead {
    /// A call begins; what has to be noted before, unless it is.
    pub fn call(&mut self, now: Timestamp, tokens: u64) -> Option<Entry> {
        let reaches = |since: i64| (since..since.saturating_add(REACH_MS)).contains(&now.0);
        if !reaches(self.counted_since) {
            let follows = reaches(self.counted_since.saturating_add(REACH_MS));
            self.counted_before = if follows { self.counted } else { 0 };
            (self.counted_since, self.counted) = (now.0, 0);
        }
        self.counted = self.counted.saturating_add(1);
        if self.calls_left > 0 && reaches(self.noted_at) {
            if tokens > self.tokens_left {
                return Some(Entry { at: now, tokens, calls: 1 });
            }
            self.calls_left -= 1;
            self.tokens_left -= tokens;
            return None;
        }
        let calls = (self.counted.max(self.counted_before) / PART).clamp(1, CALLS_MAX);
        self.noted_at = now.0;
        self.calls_left = calls - 1;
        self.tokens_left = tokens.saturating_mul(u64::from(calls - 1));
        let reach = if calls > 1 { REACH_MS } else { 0 };
        Some(Entry { at: Timestamp(now.0.saturating_add(reach)), tokens, calls })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        /// Whenever the process ends, and whatever the clock does.
        #[test]
        fn what_is_made_is_noted(
            steps in vec((prop_oneof![8 => 0..3_i64, 1 => 0..400_i64, 1 => -200..0_i64], 0..50_u64), 1..2_000),
        ) {
            let (mut ahead, mut now) = (Ahead::default(), 1_000_000);
            let (mut made, mut noted): (Vec<(i64, u64)>, Vec<Entry>) = (Vec::new(), Vec::new());
            for (passes, tokens) in steps {
                now += passes;
                noted.extend(ahead.call(Timestamp(now), tokens));
                made.push((now, tokens));
            }
            // Whichever window they are counted in: from each moment on there are as many, and as many tokens.
            for since in made.iter().map(|(at, _)| *at) {
                let made_since = made.iter().filter(|(at, _)| *at >= since);
                let noted_since = noted.iter().filter(|entry| entry.at.0 >= since);
                let calls: u32 = noted_since.clone().map(|entry| entry.calls).sum();
                prop_assert!(calls as usize >= made_since.clone().count());
                let tokens: u64 = noted_since.map(|entry| entry.tokens * u64::from(entry.calls)).sum();
                prop_assert!(tokens >= made_since.map(|(_, tokens)| tokens).sum());
            }
            prop_assert!(noted.iter().all(|entry| entry.calls <= CALLS_MAX));
        }

        #[test]
        fn not_much_more_is_noted_than_is_made(
            steps in vec((prop_oneof![8 => 0..3_i64, 1 => 0..400_i64], 0..50_u64), 1..2_000),
        ) {
            let (mut ahead, mut now) = (Ahead::default(), 1_000_000);
            let mut noted = 0;
            for (passes, tokens) in &steps {
                now += passes;
                noted += ahead.call(Timestamp(now), *tokens).map_or(0, |entry| entry.calls as usize);
            }
            prop_assert!(noted <= steps.len() + steps.len() * 3 / 8 + PART as usize, "{noted} of {}", steps.len());
        }
    }

    fn noted(calls: i64, apart_ms: impl Fn(i64) -> i64) -> (u32, usize) {
        let mut ahead = Ahead::default();
        let entries: Vec<Entry> =
            (0..calls).filter_map(|call| ahead.call(Timestamp(1_000_000 + apart_ms(call)), 1)).collect();
        (entries.iter().map(|entry| entry.calls).sum(), entries.len())
    }

    #[test]
    fn who_calls_seldom_has_a_line_for_each_call_and_who_calls_often_one_for_many() {
        for apart_ms in [13, 100, 5_000] {
            assert_eq!(noted(1_000, |call| call * apart_ms), (1_000, 1_000), "{apart_ms} ms apart");
        }
        assert_eq!(noted(15, |_| 0), (15, 15), "a small burst");
        let (calls, lines) = noted(10_000, |call| call / 10);
        assert!((10_000..10_064).contains(&calls) && lines < 400, "{calls} in {lines}");
    }
}
