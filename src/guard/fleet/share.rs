//! What a node may do alone: what it has done itself within each window, and an equal part of what nobody had used.
//!
//! When all nodes lose the quota together, their shares add up to no more than the limits; when only one does, the
//! service sees at most that node's share too much.

use std::time::Duration;

use super::super::limiter::{Limits, WindowLimit, WindowUse};
use crate::state::quota::Use;

/// What was known of the quota when it was lost.
pub(super) struct Left<'a> {
    /// Its uses when they were last looked at.
    pub uses: &'a [Use],
    /// When (monotonic) that was.
    pub looked_at: Duration,
    /// This node's own calls, the oldest first, with their tokens.
    pub own: &'a [(Duration, u64)],
}

impl Left<'_> {
    /// The limits for one of so many nodes; `None` when it may do nothing: nobody knows how many there are or how much is
    /// left, or nothing is.
    pub fn share(&self, now: Duration, limits: &Limits, validity: Duration, live: usize) -> Option<Limits> {
        if live == 0 || self.uses.is_empty() {
            return None;
        }
        let mut share = Limits { burst: self.burst(limits, live), pace_hour: limits.pace_hour, ..Limits::NONE };
        for of in self.uses.iter().filter(|of| of.kind != "burst") {
            // A limit of nothing would be no limit.
            let part = Some(self.part(of, now, validity, live)).filter(|part| *part > 0)?;
            // The uses are told in this order.
            if of.kind == "tokens" {
                share.tokens_per_minute = part;
            } else if limits.per_minute > 0 && share.per_minute == 0 {
                share.per_minute = part;
            } else if limits.per_hour > 0 && share.per_hour == 0 {
                share.per_hour = part;
            } else {
                share.windows.push(WindowLimit { requests: part, per: Duration::from_millis(of.per_ms) });
            }
        }
        Some(share)
    }

    /// So many this node had used when that was looked at, and its part of what was left then.
    fn part(&self, of: &Use, now: Duration, validity: Duration, live: usize) -> u64 {
        let amount = |tokens: u64| if of.kind == "tokens" { tokens } else { 1 };
        let span = Duration::from_millis(of.per_ms) + validity;
        // What was called since is within its part: if it counted as used before, the share would grow with each loss.
        let counts = |at: Duration| at <= self.looked_at && at + span > now;
        let own: u64 = self.own.iter().filter(|(at, _)| counts(*at)).map(|(_, tokens)| amount(*tokens)).sum();
        let left = of.limit.saturating_sub(of.used + of.reserved);
        own + left / live as u64
    }

    fn burst(&self, limits: &Limits, live: usize) -> u32 {
        let part = limits.burst / u32::try_from(live).unwrap_or(u32::MAX);
        if limits.burst > 0 { part.max(1) } else { 0 }
    }
}

/// The longest window.
pub(super) fn longest(limits: &Limits) -> Duration {
    let minute = (limits.per_minute > 0 || limits.tokens_per_minute > 0).then_some(Duration::from_secs(60));
    let hour = (limits.per_hour > 0).then_some(Duration::from_secs(3600));
    let spans = limits.windows.iter().map(|window| window.per).chain(minute).chain(hour);
    spans.max().unwrap_or_default()
}

/// As operators see it.
pub(super) fn shown(of: &Use) -> WindowUse {
    let kind = match of.kind.as_str() {
        "tokens" => "tokens",
        "burst" => "burst",
        _ => "requests",
    };
    let Use { per_ms, configured, limit, used, reserved, .. } = *of;
    WindowUse { kind, per_ms, configured, limit, used, reserved }
}
