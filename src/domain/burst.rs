//! Which waiting messages become one question (design rule 10).
//!
//! Customers write in fragments: "hi", "my order", "#123". Fragments that follow each other within a quiet period
//! become one question and one reply.

use std::time::Duration;

use super::time::Timestamp;

/// The most fragments of one burst; their ids must fit into the 4 kB of a post's metadata.
pub const FRAGMENTS_MAX: usize = 64;

/// A message that waits, as far as merging is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// When this node took it.
    pub first_seen: Timestamp,
    /// Whether it must run by itself: it failed before, or was in hand when the process died.
    pub alone: bool,
    /// Whether its answer was withheld because a newer one came, which it joins whatever time lies between.
    pub superseded: bool,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gather {
    /// Take the first `n`.
    Take(usize),
    /// Wait for more until then.
    Until(Timestamp),
}

/// How fragments are merged (`[chat]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merging {
    /// A burst ends when nothing has come for this long; zero: no merging.
    pub quiet: Duration,
    /// A burst ends at the latest this long after its first fragment.
    pub cap: Duration,
}

/// Decides on the fragments waiting at the head of a conversation, in order; there is at least one.
pub fn gather(waiting: &[Fragment], now: Timestamp, merging: Merging) -> Gather {
    let first = waiting[0];
    if first.alone || merging.quiet.is_zero() {
        return Gather::Take(1);
    }
    // What was superseded has waited already; the time of the burst runs from the newer message on.
    let start = waiting.iter().find(|fragment| !fragment.superseded).unwrap_or(&first).first_seen;
    let last_start = start.after(merging.cap);
    let mut size = 1;
    let mut last = first;
    for next in waiting.iter().skip(1).take(FRAGMENTS_MAX - 1) {
        let in_time = next.first_seen <= last.first_seen.after(merging.quiet) && next.first_seen <= last_start;
        let belongs = !next.alone && (last.superseded || in_time);
        if !belongs {
            return Gather::Take(size);
        }
        size += 1;
        last = Fragment { first_seen: last.first_seen.max(next.first_seen), ..*next };
    }
    let closes = last.first_seen.after(merging.quiet).min(last_start);
    // Nobody waits longer than the cap; a wait that seems longer means that the wall clock was set back.
    let clock_went_back = closes.since(now) > merging.cap;
    if size == FRAGMENTS_MAX || now >= closes || clock_went_back { Gather::Take(size) } else { Gather::Until(closes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MERGING: Merging = Merging { quiet: Duration::from_millis(800), cap: Duration::from_secs(4) };

    fn at(times: &[i64]) -> Vec<Fragment> {
        times.iter().map(|ms| Fragment { first_seen: Timestamp(*ms), alone: false, superseded: false }).collect()
    }

    #[test]
    fn fragments_wait_for_quiet_but_not_beyond_the_cap() {
        assert_eq!(gather(&at(&[0]), Timestamp(100), MERGING), Gather::Until(Timestamp(800)));
        assert_eq!(gather(&at(&[0, 700]), Timestamp(700), MERGING), Gather::Until(Timestamp(1500)));
        assert_eq!(gather(&at(&[0, 700]), Timestamp(1500), MERGING), Gather::Take(2));
        let steady = at(&[0, 700, 1400, 2100, 2800, 3500]);
        assert_eq!(gather(&steady, Timestamp(3900), MERGING), Gather::Until(Timestamp(4000)));
        assert_eq!(gather(&steady, Timestamp(4000), MERGING), Gather::Take(6));
    }

    #[test]
    fn a_gap_ends_a_burst_even_in_a_backlog() {
        assert_eq!(gather(&at(&[0, 300, 5000, 5100]), Timestamp(60_000), MERGING), Gather::Take(2));
    }

    #[test]
    fn who_failed_runs_alone_and_zero_switches_merging_off() {
        let mut waiting = at(&[0, 100]);
        waiting[0].alone = true;
        assert_eq!(gather(&waiting, Timestamp(0), MERGING), Gather::Take(1));
        let mut waiting = at(&[0, 100]);
        waiting[1].alone = true;
        assert_eq!(gather(&waiting, Timestamp(0), MERGING), Gather::Take(1));
        let off = Merging { quiet: Duration::ZERO, ..MERGING };
        assert_eq!(gather(&at(&[0, 0]), Timestamp(0), off), Gather::Take(1));
    }

    #[test]
    fn what_was_superseded_joins_the_newer_message_whenever_that_came() {
        let mut waiting = at(&[0, 5_000, 5_300, 9_000]);
        assert_eq!(gather(&waiting, Timestamp(9_000), MERGING), Gather::Take(1));
        waiting[0].superseded = true;
        assert_eq!(gather(&waiting[..2], Timestamp(5_000), MERGING), Gather::Until(Timestamp(5_800)));
        assert_eq!(gather(&waiting, Timestamp(9_000), MERGING), Gather::Take(3));
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_nobody_waiting() {
        let taken_before = at(&[3_600_000, 3_600_300]);
        assert_eq!(gather(&taken_before, Timestamp(0), MERGING), Gather::Take(2));
        let other_node_is_ahead = at(&[50]);
        assert_eq!(gather(&other_node_is_ahead, Timestamp(0), MERGING), Gather::Until(Timestamp(850)));
    }

    #[test]
    fn a_burst_is_bounded() {
        let many = at(&vec![0; 500]);
        assert_eq!(gather(&many, Timestamp(0), MERGING), Gather::Take(FRAGMENTS_MAX));
    }
}
