//! The node's pulse: what it has taken in and brought to an end, second by second, for the last minutes.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

use super::Parts;
use crate::domain::{
    time::{Timestamp, rfc3339},
    timeline::Outcome,
};

/// Beats remembered: five minutes.
const BEATS_MAX: usize = 300;

/// Counts since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Beat {
    /// When, RFC 3339.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Messages made durable.
    pub accepted: u64,
    /// Answered, alone or in a burst.
    pub answered: u64,
    /// Handed to humans.
    pub handed_over: u64,
    /// Failures that went to the dead letters.
    pub failed: u64,
    /// Given up.
    pub parked: u64,
    /// Messages held at that moment, waiting or in hand.
    pub held: usize,
}

/// The last minutes.
#[derive(Default)]
pub struct Pulse {
    accepted: AtomicU64,
    beats: Mutex<VecDeque<Beat>>,
}

impl Pulse {
    /// So many messages more have been made durable.
    pub(super) fn accepted(&self, count: u64) {
        self.accepted.fetch_add(count, Ordering::Relaxed);
    }

    /// The beats so far, oldest first.
    pub fn beats(&self) -> Vec<Beat> {
        self.beats.lock().iter().copied().collect()
    }
}

/// What has happened so far.
pub fn now(parts: &Parts) -> Beat {
    let ended = |outcomes: &[Outcome]| outcomes.iter().map(|outcome| parts.metrics.ended_so(*outcome)).sum();
    Beat {
        at: parts.clock.now(),
        accepted: parts.pulse.accepted.load(Ordering::Relaxed),
        answered: ended(&[Outcome::Replied, Outcome::Merged]),
        handed_over: ended(&[Outcome::HandedOver]),
        failed: parts.metrics.buried_so_far(),
        parked: ended(&[Outcome::Parked]),
        held: parts.directory.held(),
    }
}

/// Takes the pulse.
pub(super) fn beat(parts: &Parts) {
    let beat = now(parts);
    let mut beats = parts.pulse.beats.lock();
    if beats.len() == BEATS_MAX {
        beats.pop_front();
    }
    beats.push_back(beat);
}
