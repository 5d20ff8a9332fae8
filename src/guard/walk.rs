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
    /// Nothing: too little time was left, or a stand-in does not want it.
    Misfit,
    /// Nothing, and it does not pass by itself.
    Setup,
    /// Nothing; its limiter knows when to ask again.
    Throttled,
    /// The service was asked for what it can do, and failed.
    Fault,
}

impl Weight {
    fn of(failure: &Failure) -> Self {
        match blame(failure) {
            Blame::Service => match failure {
                Failure::GivenUp => Self::Misfit,
                Failure::Throttled(_) => Self::Throttled,
                _ => Self::Fault,
            },
            Blame::Setup => Self::Setup,
            Blame::Message if *failure == Failure::UnusableAnswer => Self::Fault,
            Blame::Message | Blame::Hopeless => Self::Misfit,
        }
    }
}

impl Walk {
    /// A service cannot be asked before `at` (monotonic).
    pub fn busy(&mut self, on: Wait, at: Duration) {
        if self.busy.is_none_or(|(_, known)| at < known) {
            self.busy = Some((on, at));
        }
    }

    /// A service failed, and the next one may be asked. Whether this one need not be asked again: it has read the question
    /// and does not want it, or too little time is left for it, of which there is never more.
    pub fn failed(&mut self, failed: Failed) -> bool {
        let is_over = is_refusal(&failed.failure) || failed.failure == Failure::OutOfTime;
        let cut_short = failed.cut_short || self.failed.as_ref().is_some_and(|known| known.cut_short);
        let decides = |known: &Failed| Weight::of(&known.failure) < Weight::of(&failed.failure);
        if self.failed.as_ref().is_none_or(decides) {
            self.failed = Some(failed);
        }
        if let Some(decisive) = &mut self.failed {
            decisive.cut_short = cut_short;
        }
        is_over
    }

    /// Nobody is left to ask. A service that is not set up, or that is not for this question, is no reason to stop
    /// waiting for one that may come back.
    pub fn end(self) -> End {
        match (self.failed, self.busy) {
            (Some(failed), None) => End::Failed(failed),
            (Some(failed), _) if Weight::of(&failed.failure) >= Weight::Throttled => End::Failed(failed),
            (_, Some((on, until))) => End::Waits(on, until),
            // An empty chain: there is nothing that could come back.
            (None, None) => End::Waits(Wait::Breaker, Duration::MAX),
        }
    }
}

/// Whether a service refuses the question itself. From one that was asked for what it offers, that is a verdict; from one
/// that stands in with another model it is none: the two differ in what they can read, and in what they refuse.
pub(super) fn is_refusal(failure: &Failure) -> bool {
    matches!(failure, Failure::Rejected(_) | Failure::ContentRefused)
}
