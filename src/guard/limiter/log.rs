//! The sliding log: one entry for each permit, in the order of their times, which is also the order of asking.
//!
//! A permit granted for `at` is used at any moment of `[at, at + V]`, so a window of length `W` is kept as `W + V` here
//! and holds as `W` at the service; whoever finds the bucket empty waits `V` longer for the same reason.
//! Entries are in order, so a window of `L` requests asks only for the `L`-th entry from the end. Tokens differ from
//! entry to entry; a cursor remembers which of the latest entries fit together and moves by a few places each time.

use std::{collections::VecDeque, time::Duration};

use super::limits::{Bucket, Rule, Rules};

/// Remembers the permits that still count, and those that lie ahead.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub rules: Rules,
    pub validity: Duration,
    entries: VecDeque<Entry>,
    next_seq: u64,
    /// The first of the latest entries whose tokens are in `recent_tokens`.
    recent_from: usize,
    recent_tokens: u128,
    /// When the bucket is full again (the theoretical arrival time of GCRA).
    full_at: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    seq: u64,
    at: Duration,
    tokens: u64,
    /// The bucket before this entry, so that it can be taken back.
    full_at_before: Option<Duration>,
}

impl Log {
    pub fn new(rules: Rules, validity: Duration) -> Self {
        let entries = VecDeque::new();
        Self { rules, validity, entries, next_seq: 0, recent_from: 0, recent_tokens: 0, full_at: None }
    }

    /// The earliest time from `floor` on at which one more request of `tokens` keeps every rule.
    pub fn earliest(&mut self, floor: Duration, tokens: u64) -> Duration {
        let mut at = self.entries.back().map_or(floor, |last| last.at.max(floor));
        for rule in &self.rules.windows {
            at = at.max(self.free_again(self.entries.len().checked_sub(rule.limit as usize), rule.span));
        }
        if let Some(rule) = self.rules.tokens {
            self.fit(rule, tokens);
            at = at.max(self.free_again(self.recent_from.checked_sub(1), rule.span));
        }
        if let Some(bucket) = self.rules.bucket {
            at = at.max(self.poured(bucket).map_or(Duration::ZERO, |poured| poured.saturating_add(self.validity)));
        }
        at
    }

    /// When the log takes another entry, or `None` when it has room.
    pub fn full_until(&self) -> Option<Duration> {
        let oldest = self.entries.len().checked_sub(self.rules.entries_max)?;
        Some(self.free_again(Some(oldest), self.rules.longest_span()))
    }

    /// Adds an entry, not earlier than any other, and returns its number.
    pub fn append(&mut self, at: Duration, tokens: u64) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        if self.rules.is_unlimited() {
            return seq;
        }
        self.entries.push_back(Entry { seq, at, tokens, full_at_before: self.full_at });
        self.recent_tokens += u128::from(tokens);
        self.full_at = filled(self.rules.bucket, self.full_at, at);
        seq
    }

    /// Takes an entry out as if it had never been; unknown numbers do nothing.
    pub fn remove(&mut self, seq: u64) {
        let Some(index) = self.index_of(seq) else { return };
        let Some(gone) = self.entries.remove(index) else { return };
        if index < self.recent_from {
            self.recent_from -= 1;
        } else {
            self.recent_tokens -= u128::from(gone.tokens);
        }
        self.refill(index, gone.full_at_before);
    }

    /// Replaces the estimate of an entry's tokens.
    pub fn settle(&mut self, seq: u64, tokens: u64) {
        let Some(index) = self.index_of(seq) else { return };
        let estimate = std::mem::replace(&mut self.entries[index].tokens, tokens);
        if index >= self.recent_from {
            self.recent_tokens = self.recent_tokens - u128::from(estimate) + u128::from(tokens);
        }
    }

    /// Drops what no rule looks at any more.
    pub fn forget(&mut self, now: Duration) {
        let kept = self.rules.longest_span().saturating_add(self.validity);
        while self.entries.front().is_some_and(|oldest| oldest.at.saturating_add(kept) <= now) {
            let gone = self.entries.pop_front().map_or(0, |oldest| oldest.tokens);
            match self.recent_from.checked_sub(1) {
                Some(earlier) => self.recent_from = earlier,
                None => self.recent_tokens -= u128::from(gone),
            }
        }
    }

    /// Takes back every entry that nobody can have used by `now`.
    pub fn cut_ahead(&mut self, now: Duration) {
        // Holders read the clock a little later than the owner: what is due within V may be in use already.
        let due = now.saturating_add(self.validity);
        while let Some(last) = self.entries.back().filter(|last| last.at > due).copied() {
            self.remove(last.seq);
        }
    }

    /// Puts other rules in force for the entries there are.
    pub fn obey(&mut self, rules: Rules) {
        self.rules = rules;
        self.refill(0, None);
    }

    /// Requests and tokens of one window: used by `now`, and reserved ahead of it.
    pub fn use_of(&self, now: Duration, span: Duration) -> [(u64, u64); 2] {
        let mut sums = [(0, 0); 2];
        let kept = span.saturating_add(self.validity);
        for entry in self.entries.iter().rev().take_while(|entry| entry.at.saturating_add(kept) > now) {
            let (requests, tokens) = &mut sums[usize::from(entry.at > now)];
            *requests += 1;
            *tokens = entry.tokens.saturating_add(*tokens);
        }
        sums
    }

    /// Requests that the bucket is short of at `now`.
    pub fn drawn(&self, now: Duration) -> u64 {
        let (Some(bucket), Some(full_at)) = (self.rules.bucket, self.full_at) else { return 0 };
        let missing = full_at.saturating_sub(now).as_nanos().div_ceil(bucket.interval.as_nanos().max(1));
        u64::try_from(missing).unwrap_or(u64::MAX)
    }

    /// When the bucket has room for one more, or `None` while it was not empty: with a capacity of `C` that is when it
    /// was to be full again as of the `C`-th entry from the end.
    ///
    /// A forgotten entry no longer matters: the window that sets the pace has been refilled since.
    fn poured(&self, bucket: Bucket) -> Option<Duration> {
        let next = self.entries.len().checked_sub(bucket.capacity as usize)? + 1;
        self.entries.get(next).map_or(self.full_at, |entry| entry.full_at_before)
    }

    /// When the entry at `index` has left a window of this length.
    fn free_again(&self, index: Option<usize>, span: Duration) -> Duration {
        let entry = index.and_then(|index| self.entries.get(index));
        entry.map_or(Duration::ZERO, |entry| entry.at.saturating_add(span).saturating_add(self.validity))
    }

    /// Moves the cursor so that the recent entries are as many as fit into the window together with `tokens`.
    fn fit(&mut self, rule: Rule, tokens: u64) {
        let room = u128::from(rule.limit.saturating_sub(tokens));
        while self.recent_tokens > room {
            self.recent_tokens -= u128::from(self.entries[self.recent_from].tokens);
            self.recent_from += 1;
        }
        while let Some(earlier) = self.recent_from.checked_sub(1) {
            let with_earlier = self.recent_tokens + u128::from(self.entries[earlier].tokens);
            if with_earlier > room {
                break;
            }
            (self.recent_from, self.recent_tokens) = (earlier, with_earlier);
        }
    }

    /// Fills the bucket anew from the entry at `index` on.
    fn refill(&mut self, index: usize, full_at: Option<Duration>) {
        self.full_at = full_at;
        for entry in self.entries.iter_mut().skip(index) {
            entry.full_at_before = self.full_at;
            self.full_at = filled(self.rules.bucket, self.full_at, entry.at);
        }
    }

    fn index_of(&self, seq: u64) -> Option<usize> {
        // As long as none was taken out they are numbered without a gap, and a search would go all over the memory.
        let first = self.entries.front()?.seq;
        let place = seq.checked_sub(first).and_then(|place| usize::try_from(place).ok())?;
        if self.entries.get(place).is_some_and(|entry| entry.seq == seq) {
            return Some(place);
        }
        self.entries.binary_search_by_key(&seq, |entry| entry.seq).ok()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

fn filled(bucket: Option<Bucket>, full_at: Option<Duration>, at: Duration) -> Option<Duration> {
    let bucket = bucket?;
    let refilled = full_at.map_or(at, |full_at| full_at.max(at)).saturating_add(bucket.interval);
    // No bucket is emptier than empty: what was granted under other rules, or beside them, may have drawn more.
    Some(refilled.min(at.saturating_add(bucket.interval.saturating_mul(bucket.capacity))))
}
