//! What a walk along the chain of services has come to, as long as nobody has answered.

use std::time::Duration;

use super::Failed;
use crate::domain::{
    timeline::Wait,
    verdict::{Blame, Failure, blame},
};

/// Who could not be asked, and how those failed who were.
#[derive(Default)]
pub(super) struct Walk {
    failed: Option<Failed>,
    busy: Option<(Wait, Duration)>,
}

/// How a walk ends on which nobody has answered.
pub(super) enum End {
    /// With this failure.
    Failed(Failed),
    /// With a wait for this, until then (monotonic).
    Waits(Wait, Duration),
}

/// How much a failure says about the question; of several the weightiest decides, of equal ones the first, which is that
/// of the better service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// Of a service that was asked in another's place it says only that the two differ.
    Misfit,
    /// It says nothing about the question, and nothing that passes by itself.
    Setup,
    /// The service was asked for what it can do, and failed.
    Fault,
}

impl Weight {
    fn of(failure: &Failure) -> Self {
        match blame(failure) {
            Blame::Service => Self::Fault,
            Blame::Setup => Self::Setup,
            Blame::Message if *failure == Failure::UnusableAnswer => Self::Fault,
            Blame::Message | Blame::Hopeless => Self::Misfit,
        }
    }
}

impl Walk {
    /// A service cannot be asked before `at` (monotonic).
    pub fn is_busy(&mut self, on: Wait, at: Duration) {
        if self.busy.is_none_or(|(_, known)| at < known) {
            self.busy = Some((on, at));
        }
    }

    /// A service refuses the question. Where a better one could have answered it had it been asked, or not failed, that
    /// is no verdict: the services differ in what they can read, and in what they refuse.
    pub fn is_verdict(&self, failure: &Failure) -> bool {
        self.failed.is_none() && self.busy.is_none() && is_refusal(failure)
    }

    /// A service failed.
    pub fn failed(&mut self, failed: Failed) {
        let decides = |known: &Failed| Weight::of(&known.failure) < Weight::of(&failed.failure);
        if self.failed.as_ref().is_none_or(decides) {
            self.failed = Some(failed);
        }
    }

    /// Nobody is left to ask. A service that is not set up, or that is not for this question, is no reason to stop
    /// waiting for one that may come back.
    pub fn end(self) -> End {
        match (self.failed, self.busy) {
            (Some(failed), None) => End::Failed(failed),
            (Some(failed), _) if Weight::of(&failed.failure) == Weight::Fault => End::Failed(failed),
            (_, Some((on, until))) => End::Waits(on, until),
            // An empty chain: there is nothing that could come back.
            (None, None) => End::Waits(Wait::Breaker, Duration::MAX),
        }
    }
}

/// Whether the service has read the question and does not want it: it would not want it the next time.
pub(super) fn is_refusal(failure: &Failure) -> bool {
    matches!(failure, Failure::Rejected(_) | Failure::ContentRefused)
}
