//! What the guards are asked, and how that may end.

use std::time::Duration;

use tokio::sync::Notify;

use super::{breaker::Caller, cache::Key, fair::Class};
use crate::domain::{
    answer::{Answer, Tokens},
    time::Timestamp,
    timeline::Wait,
    verdict::Failure,
};

/// With other services in the chain, a slot or the limiter of one is waited for no longer than this; one whose limiter
/// will not have anything by then is passed over at once.
const FALL_BACK_AFTER: Duration = Duration::from_secs(2);

/// When to ask again after a wait in vain for what others got.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Told what a question is doing, so that it can be seen and its waits attributed (G10).
pub trait Progress: Send + Sync {
    /// It waits, at the longest until then (monotonic) before it looks again.
    fn waiting(&self, on: Wait, until: Option<Duration>);
    /// The service is being asked, from `now` (monotonic) on.
    fn asking(&self, service: &'static str, now: Duration);
    /// The service has answered, or failed.
    fn answered(&self, service: &'static str, took: Duration, outcome: &'static str);
}

/// A question as the guards see it.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Who asks; evidence counts conversations.
    pub caller: Caller<'a>,
    /// With whom it shares when others wait too.
    pub class: Class,
    /// When the customer wrote, for the order in which slots are given.
    pub received: Timestamp,
    /// An estimate of the tokens it will use.
    pub tokens: u64,
    /// Under which name its answer is kept, if at all.
    pub key: Option<Key>,
    /// Which services may be asked, in order, by their place among all; `None`: all.
    pub chain: Option<&'a [usize]>,
    /// Which of them stand in with another model than the one asked for.
    pub stand_ins: &'a [usize],
    /// Rung when the first part of an answer is there, if it comes in parts.
    pub begun: Option<&'a Notify>,
    /// For how long somebody to ask is waited for, in all; `None`: as long as it takes.
    pub patience: Option<Duration>,
    /// Until when (monotonic) at the longest; `None`: without end.
    pub until: Option<Duration>,
}

impl Question<'_> {
    pub(super) fn stands_in(&self, service: usize) -> bool {
        self.stand_ins.contains(&service)
    }

    /// Waits for the first part of an answer.
    pub(super) async fn has_begun(&self) {
        match self.begun {
            Some(begun) => begun.notified().await,
            None => std::future::pending().await,
        }
    }
}

/// How a question failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The service; of several, the one whose failure decides.
    pub service: &'static str,
    /// Why.
    pub failure: Failure,
    /// Whether that service was answering others: its breaker was closed and somebody had success lately.
    pub answers_others: bool,
    /// A service was not asked, or given up early, because the one who asked had too little time.
    pub cut_short: bool,
}

/// A question that was not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It was asked, and failed.
    Failed(Failed),
    /// Nobody could be asked in the time there was.
    Busy(Busy),
}

/// What stood in the way of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    /// What had to be waited for.
    pub on: Wait,
    /// When (monotonic) to ask again.
    pub until: Duration,
}

/// When (monotonic) to ask again for what is free at that time. If it is free already, others got it, or a service is met
/// again slowly: nobody knows when there will be enough for all.
pub fn ask_again_at(free_at: Duration, now: Duration) -> Duration {
    if free_at <= now { now + ASK_AGAIN_AFTER } else { free_at }
}

/// What a call brought, as far as the guards are concerned.
pub trait Brought {
    /// Tokens used; 0 where the service does not tell.
    fn tokens(&self) -> Tokens;

    /// The service's own limit of requests a minute, if its headers tell it.
    fn limit_requests(&self) -> Option<u64>;

    /// Why the answer broke off, if it did: the service is to blame, and nobody else is asked, because a part of it has
    /// been passed on.
    fn broke_off(&self) -> Option<&Failure> {
        None
    }

    /// After how long the answer began; `None`: when it was complete.
    fn began_after(&self) -> Option<Duration> {
        None
    }
}

impl Brought for Answer {
    fn tokens(&self) -> Tokens {
        self.tokens
    }

    fn limit_requests(&self) -> Option<u64> {
        self.limit_requests
    }
}

/// How long a service is worth waiting for.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// There are others to turn to.
    pub others: bool,
    /// The question's own time (monotonic).
    pub until: Duration,
}

impl Bounds {
    pub fn worth_waiting_until(self, now: Duration) -> Duration {
        if self.others { self.until.min(now + FALL_BACK_AFTER) } else { self.until }
    }
}
