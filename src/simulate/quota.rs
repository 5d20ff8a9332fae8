//! Quotas as exact sliding logs, and the proof whether anybody exceeded them.
//!
//! A window of `per_ms` is half open: two calls exactly `per_ms` apart are never in the same window. Admission counts
//! admitted calls; the peak counts *all* arrivals, refused ones too, because it answers what the service saw.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Times kept per log; beyond it the oldest are forgotten.
const LOG_MAX: usize = 1_000_000;
/// Windows remembered, those of earlier quotas included.
const WINDOWS_MAX: usize = 16;

/// So many requests in any span of so many milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Requests admitted in a window.
    pub requests: u32,
    /// The width of the window in milliseconds.
    pub per_ms: u64,
}

/// What a quota's window has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peak {
    /// Requests allowed in a window.
    pub requests: u32,
    /// The width of the window in milliseconds.
    pub per_ms: u64,
    /// The most calls that arrived in any window while the quota was in force.
    pub max_in_window: u64,
}

/// How much of the tightest window is left after an admitted call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Requests allowed in that window.
    pub limit: u32,
    /// Requests still free in it.
    pub remaining: u32,
    /// Microseconds until it is empty again.
    pub reset_us: u64,
}

/// Several quotas at once; a call is admitted when all of them admit it.
#[derive(Default)]
pub struct Quotas {
    windows: Vec<Window>,
}

struct Window {
    quota: Quota,
    active: bool,
    admitted: VecDeque<u64>,
    arrivals: VecDeque<u64>,
    peak: usize,
}

impl Quotas {
    /// Counts one arrival under these quotas.
    ///
    /// # Errors
    /// The microseconds after which a call would be admitted, when a quota is used up.
    pub fn arrive(&mut self, quotas: &[Quota], now_us: u64) -> Result<Option<Left>, u64> {
        self.follow(quotas);
        let active = || self.windows.iter().filter(|window| window.active);
        if active().next().is_none() {
            return Ok(None);
        }
        let mut wait_us = 0;
        for window in self.windows.iter_mut().filter(|window| window.active) {
            wait_us = wait_us.max(window.arrive(now_us));
        }
        if wait_us > 0 {
            return Err(wait_us);
        }
        let mut tightest: Option<Left> = None;
        for window in self.windows.iter_mut().filter(|window| window.active) {
            let left = window.admit(now_us);
            if tightest.is_none_or(|known| left.remaining < known.remaining) {
                tightest = Some(left);
            }
        }
        Ok(tightest)
    }

    /// What each quota has seen, earlier quotas included.
    pub fn peaks(&self) -> Vec<Peak> {
        let peak = |window: &Window| Peak {
            requests: window.quota.requests,
            per_ms: window.quota.per_ms,
            max_in_window: window.peak as u64,
        };
        self.windows.iter().map(peak).collect()
    }

    /// Takes over a changed list of quotas; a window that is no longer listed keeps its peak and stops counting.
    fn follow(&mut self, quotas: &[Quota]) {
        let active = self.windows.iter().filter(|window| window.active).map(|window| &window.quota);
        if active.eq(quotas.iter()) {
            return;
        }
        self.windows.iter_mut().filter(|window| !quotas.contains(&window.quota)).for_each(Window::retire);
        let mut listed = Vec::with_capacity(quotas.len());
        for quota in quotas.iter().take(WINDOWS_MAX) {
            let known = self.windows.iter().position(|window| window.quota == *quota);
            let mut window = known.map_or_else(|| Window::new(*quota), |at| self.windows.remove(at));
            window.active = true;
            listed.push(window);
        }
        let room = WINDOWS_MAX - listed.len();
        self.windows.truncate(room);
        listed.append(&mut self.windows);
        self.windows = listed;
    }
}

impl Window {
    fn new(quota: Quota) -> Self {
        Self { quota, active: true, admitted: VecDeque::new(), arrivals: VecDeque::new(), peak: 0 }
    }

    fn retire(&mut self) {
        self.active = false;
        self.admitted = VecDeque::new();
        self.arrivals = VecDeque::new();
    }

    /// Counts the arrival; 0 when a place is free, else the microseconds until one is.
    fn arrive(&mut self, now_us: u64) -> u64 {
        let per_us = self.quota.per_ms.saturating_mul(1000);
        push(&mut self.arrivals, now_us, per_us);
        self.peak = self.peak.max(self.arrivals.len());
        forget(&mut self.admitted, now_us, per_us);
        let allowed = self.quota.requests as usize;
        if self.admitted.len() < allowed {
            return 0;
        }
        // A quota of no requests never frees a place; it tells its whole window.
        let blocker = self.admitted.len().checked_sub(allowed).and_then(|index| self.admitted.get(index));
        blocker.map_or(per_us, |at| at.saturating_add(per_us) - now_us)
    }

    fn admit(&mut self, now_us: u64) -> Left {
        let per_us = self.quota.per_ms.saturating_mul(1000);
        push(&mut self.admitted, now_us, per_us);
        let used = u32::try_from(self.admitted.len()).unwrap_or(u32::MAX);
        Left { limit: self.quota.requests, remaining: self.quota.requests.saturating_sub(used), reset_us: per_us }
    }
}

fn push(log: &mut VecDeque<u64>, now_us: u64, per_us: u64) {
    forget(log, now_us, per_us);
    if log.len() == LOG_MAX {
        log.pop_front();
    }
    log.push_back(now_us);
}

fn forget(log: &mut VecDeque<u64>, now_us: u64, per_us: u64) {
    while log.front().is_some_and(|at| at.saturating_add(per_us) <= now_us) {
        log.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO_IN_TEN_MS: [Quota; 1] = [Quota { requests: 2, per_ms: 10 }];

    #[test]
    fn a_used_up_window_tells_the_exact_wait() {
        let mut quotas = Quotas::default();
        let table =
            [(0, Ok(1)), (3_000, Ok(0)), (4_000, Err(6_000)), (9_999, Err(1)), (10_000, Ok(0)), (12_999, Err(1))];
        for (now, wanted) in table {
            let got = quotas.arrive(&TWO_IN_TEN_MS, now).map(|left| left.map_or(9, |left| left.remaining));
            assert_eq!(got, wanted, "at {now}");
        }
    }

    #[test]
    fn the_peak_counts_refused_arrivals_too() {
        let mut quotas = Quotas::default();
        for now in [0, 1, 2, 3] {
            let _ = quotas.arrive(&TWO_IN_TEN_MS, now);
        }
        assert_eq!(quotas.peaks(), [Peak { requests: 2, per_ms: 10, max_in_window: 4 }]);
    }

    #[test]
    fn arrivals_exactly_one_width_apart_are_in_different_windows() {
        for (second, wanted) in [(9_999, 2), (10_000, 1)] {
            let mut quotas = Quotas::default();
            for now in [0, second] {
                let _ = quotas.arrive(&TWO_IN_TEN_MS, now);
            }
            assert_eq!(quotas.peaks()[0].max_in_window, wanted, "second at {second}");
        }
    }

    #[test]
    fn a_lifted_quota_keeps_its_peak_and_stops_counting() {
        let mut quotas = Quotas::default();
        assert!(quotas.arrive(&TWO_IN_TEN_MS, 0).is_ok());
        (1..50).for_each(|now| assert_eq!(quotas.arrive(&[], now), Ok(None)));
        assert_eq!(quotas.peaks()[0].max_in_window, 1);
    }

    proptest! {
        #[test]
        fn never_more_are_admitted_than_a_plain_count_over_all_windows_allows(
            gaps in proptest::collection::vec(0_u64..6_000, 1..200), requests in 1_u32..5, per_ms in 1_u64..20,
        ) {
            let quota = [Quota { requests, per_ms }];
            let mut quotas = Quotas::default();
            let (mut now, mut admitted, mut arrived) = (0, Vec::new(), Vec::new());
            for gap in gaps {
                now += gap;
                arrived.push(now);
                match quotas.arrive(&quota, now) {
                    Ok(_) => admitted.push(now),
                    Err(wait) => prop_assert!(wait > 0 && wait <= per_ms * 1000),
                }
            }
            let most = |times: &[u64]| times.iter().map(|start| times.iter().filter(|at| *at >= start && **at < start + per_ms * 1000).count()).max().unwrap_or(0);
            prop_assert!(most(&admitted) <= requests as usize);
            prop_assert_eq!(quotas.peaks()[0].max_in_window as usize, most(&arrived));
        }
    }
}
