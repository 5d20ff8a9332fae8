//! What the simulated AI service has seen: the proof of who called how often, and when.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dashmap::DashMap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::behaviour::Behaviour;
use crate::simulate::quota::{Left, Peak, Quotas};
use crate::simulate::reference::Reference;

/// Times of calls kept for `GET /sim/calls`.
const CALLS_MAX: usize = 100_000;
/// References counted; later ones are not.
const REFERENCES_MAX: usize = 1_000_000;

/// Counts since the start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Calls for an answer or for embeddings, whatever came of them.
    pub calls: u64,
    /// Calls answered 200 with a usable body.
    pub ok: u64,
    /// Calls answered 429 by the quota.
    pub status_429: u64,
    /// Calls answered with another error, malformed, broken off or cut.
    pub errors: u64,
    /// Calls that were made to hang.
    pub hung: u64,
    /// Calls whose client left before the answer was complete.
    pub aborted_by_client: u64,
    /// Calls under way.
    pub in_flight: u64,
    /// The most calls that were under way at once.
    pub in_flight_max: u64,
    /// For each quota, the most calls that arrived in any of its windows.
    pub max_in_window: Vec<Peak>,
    /// Calls that arrived before a wait told earlier by a 429 was over.
    pub calls_before_retry_after: u64,
    /// References seen in answered calls.
    pub references_seen: u64,
    /// References that were in more than one answered call.
    pub asked_more_than_once: u64,
}

/// Keeps the counts; one short lock for what must be exact in time.
pub struct Ledger {
    started: Instant,
    timed: Mutex<Timed>,
    asked: DashMap<Reference, u32>,
    asked_more_than_once: AtomicU64,
    ok: AtomicU64,
    errors: AtomicU64,
    hung: AtomicU64,
    aborted: AtomicU64,
    in_flight: AtomicU64,
    in_flight_max: AtomicU64,
}

#[derive(Default)]
struct Timed {
    quotas: Quotas,
    calls_at_ms: VecDeque<u64>,
    calls: u64,
    status_429: u64,
    wait_until_us: u64,
    too_early: u64,
}

/// What the quota says to a call.
pub enum Admission {
    /// Go on; how much is left, when there is a quota.
    Admitted(Option<Left>),
    /// Refused for so many milliseconds.
    Refused(u64),
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            timed: Mutex::default(),
            asked: DashMap::new(),
            asked_more_than_once: AtomicU64::new(0),
            ok: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            hung: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            in_flight_max: AtomicU64::new(0),
        }
    }
}

impl Ledger {
    /// Records the arrival of a call and asks the quota; tells the call's number too.
    pub fn arrive(&self, behaviour: &Behaviour) -> (u64, Admission) {
        let mut timed = self.timed.lock();
        // The clock is read under the lock, so that the log is in order.
        let now_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        timed.calls += 1;
        if timed.calls_at_ms.len() == CALLS_MAX {
            timed.calls_at_ms.pop_front();
        }
        timed.calls_at_ms.push_back(now_us / 1000);
        if now_us < timed.wait_until_us {
            timed.too_early += 1;
        }
        let number = timed.calls;
        let admission = match timed.quotas.arrive(&behaviour.quota, now_us) {
            Ok(left) => Admission::Admitted(left),
            Err(wait_us) => {
                let told_ms =
                    behaviour.retry_after.map_or(wait_us.div_ceil(1000), |seconds| seconds.saturating_mul(1000));
                timed.status_429 += 1;
                timed.wait_until_us = timed.wait_until_us.max(now_us.saturating_add(told_ms.saturating_mul(1000)));
                Admission::Refused(told_ms)
            }
        };
        (number, admission)
    }

    /// Records that a call with these references was answered.
    pub fn answered(&self, references: &[Reference]) {
        self.ok.fetch_add(1, Relaxed);
        for reference in references {
            if self.asked.len() >= REFERENCES_MAX && !self.asked.contains_key(reference) {
                continue;
            }
            let mut times = self.asked.entry(*reference).or_insert(0);
            *times += 1;
            if *times == 2 {
                self.asked_more_than_once.fetch_add(1, Relaxed);
            }
        }
    }

    /// Records a call that ended in an error.
    pub fn failed(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    /// Records a call that will never be answered.
    pub fn hangs(&self) {
        self.hung.fetch_add(1, Relaxed);
    }

    /// In how many answered calls the reference was.
    pub fn asked(&self, reference: Reference) -> u32 {
        self.asked.get(&reference).map_or(0, |times| *times)
    }

    /// The times of the last calls, in milliseconds since the start or the last reset.
    pub fn calls_at_ms(&self) -> Vec<u64> {
        self.timed.lock().calls_at_ms.iter().copied().collect()
    }

    /// All counts.
    pub fn stats(&self) -> Stats {
        let timed = self.timed.lock();
        Stats {
            calls: timed.calls,
            ok: self.ok.load(Relaxed),
            status_429: timed.status_429,
            errors: self.errors.load(Relaxed),
            hung: self.hung.load(Relaxed),
            aborted_by_client: self.aborted.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            in_flight_max: self.in_flight_max.load(Relaxed),
            max_in_window: timed.quotas.peaks(),
            calls_before_retry_after: timed.too_early,
            references_seen: self.asked.len() as u64,
            asked_more_than_once: self.asked_more_than_once.load(Relaxed),
        }
    }
}

/// A call under way; dropped before [`Call::finish`], it was aborted by its client.
pub struct Call {
    ledger: Arc<Ledger>,
    finished: bool,
}

impl Call {
    /// A call begins.
    pub fn begin(ledger: &Arc<Ledger>) -> Self {
        let now = ledger.in_flight.fetch_add(1, Relaxed) + 1;
        ledger.in_flight_max.fetch_max(now, Relaxed);
        Self { ledger: ledger.clone(), finished: false }
    }

    /// The answer is complete.
    pub fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.ledger.in_flight.fetch_sub(1, Relaxed);
        if !self.finished {
            self.ledger.aborted.fetch_add(1, Relaxed);
        }
    }
}
