//! What an actor has in hand, since when, and who can end it. Lies on its card, outside the actor, so that the watchdog
//! sees it without asking.
//!
//! Waiting for work is nothing in hand; one that waits until a time of its own registers that time as its wake-up.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus_client::metrics::histogram::Histogram;

use crate::telemetry::Clock;

/// A wait is stuck this long after its registered wake-up (design rule 12).
pub(super) const WAKE_SLACK: Duration = Duration::from_secs(5);

/// An actor that was killed and has not ended after this long blocks its thread.
pub(super) const KILL_GRACE: Duration = Duration::from_secs(1);

/// What its supervisor is to do with a stuck actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Kill it.
    Kill(String),
    /// It was killed and does not end: start another in its place.
    Replace(String),
}

/// Takes an order to the supervisor of one incarnation.
pub(super) type Keeper = Arc<dyn Fn(Order) + Send + Sync>;

/// The stamp of one actor.
pub(super) struct Stamp {
    clock: Clock,
    /// How long the actor was busy with each thing.
    durations: Histogram,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Counts what was taken in hand, so that an outlived incarnation does not end what its successor has begun.
    serial: u64,
    work: Option<Work>,
    /// When (monotonic) an actor that has nothing in hand will look again by itself.
    wake_up: Option<Duration>,
    keeper: Option<Keeper>,
    killed: Option<Killed>,
}

#[derive(Clone, Copy)]
struct Work {
    what: &'static str,
    since: Duration,
    /// A limit of its own; else the one for all.
    within: Option<Duration>,
}

struct Killed {
    at: Duration,
    cause: String,
}

impl Stamp {
    pub fn new(clock: Clock, durations: Histogram) -> Self {
        Self { clock, durations, inner: Mutex::default() }
    }

    /// Something is in hand until the guard is dropped.
    pub fn begin(&self, what: &'static str, within: Option<Duration>) -> Busy<'_> {
        let mut inner = self.inner.lock();
        let began = self.clock.monotonic();
        inner.serial += 1;
        inner.work = Some(Work { what, since: began, within });
        Busy { stamp: self, serial: inner.serial, began }
    }

    /// When (monotonic) the actor will look again by itself at the latest.
    pub fn wakes_at(&self, at: Option<Duration>) {
        self.inner.lock().wake_up = at;
    }

    /// An incarnation runs whose supervisor is reached so.
    pub fn kept_by(&self, keeper: impl Fn(Order) + Send + Sync + 'static) {
        self.inner.lock().keeper = Some(Arc::new(keeper));
    }

    /// The incarnation has ended, or counts no more.
    pub fn clear(&self) {
        let mut inner = self.inner.lock();
        *inner = Inner { serial: inner.serial + 1, ..Inner::default() };
    }

    /// Has the incarnation that runs killed by its supervisor; `false` if none runs.
    pub fn kill(&self, cause: &str) -> bool {
        let keeper = {
            let mut inner = self.inner.lock();
            let Some(keeper) = inner.keeper.clone() else { return false };
            inner.killed = Some(Killed { at: self.clock.monotonic(), cause: cause.to_owned() });
            keeper
        };
        keeper(Order::Kill(cause.to_owned()));
        true
    }

    /// What is in hand, and for how long.
    pub fn in_hand(&self) -> Option<(&'static str, Duration)> {
        let work = self.inner.lock().work?;
        Some((work.what, self.clock.monotonic().saturating_sub(work.since)))
    }

    /// What is to be done about the actor, and who does it; each order is given once.
    pub fn examine(&self, limit: Duration) -> Option<(Keeper, Order)> {
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        let keeper = inner.keeper.clone()?;
        if let Some(killed) = &mut inner.killed {
            let blocked = now.saturating_sub(killed.at) > KILL_GRACE;
            // Told again a grace later, should the supervisor have died with the order.
            killed.at = if blocked { now } else { killed.at };
            let cause = || format!("{}; it blocked its thread and was replaced", killed.cause);
            return blocked.then(|| (keeper, Order::Replace(cause())));
        }
        let cause = match (inner.work, inner.wake_up) {
            (Some(work), _) => {
                let limit = work.within.unwrap_or(limit);
                let over = now.saturating_sub(work.since) > limit;
                over.then(|| format!("time limit: {} took more than {}", work.what, humantime::format_duration(limit)))
            }
            (None, Some(wake_up)) => (now > wake_up + WAKE_SLACK).then(|| "time limit: it missed its wake-up".into()),
            (None, None) => None,
        }?;
        inner.killed = Some(Killed { at: now, cause: cause.clone() });
        Some((keeper, Order::Kill(cause)))
    }
}

/// Something in an actor's hand.
#[must_use = "it is in hand as long as this lives"]
pub struct Busy<'a> {
    stamp: &'a Stamp,
    serial: u64,
    began: Duration,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let took = self.stamp.clock.monotonic().saturating_sub(self.began);
        self.stamp.durations.observe(took.as_secs_f64());
        let mut inner = self.stamp.inner.lock();
        if inner.serial == self.serial {
            inner.work = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn kept() -> Stamp {
        let stamp = Stamp::new(Clock::system(), Histogram::new([1.0]));
        stamp.kept_by(drop);
        stamp
    }

    fn order(stamp: &Stamp) -> Option<Order> {
        stamp.examine(LIMIT).map(|(_, order)| order)
    }

    #[tokio::test(start_paused = true)]
    async fn work_over_its_limit_is_killed_then_replaced_and_waiting_for_work_is_neither() {
        let stamp = kept();
        tokio::time::advance(LIMIT * 100).await;
        assert_eq!(order(&stamp), None, "nothing in hand");
        let work = stamp.begin("storing", None);
        tokio::time::advance(LIMIT).await;
        assert_eq!(order(&stamp), None, "not over the limit yet");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(order(&stamp), Some(Order::Kill("time limit: storing took more than 30s".into())));
        tokio::time::advance(KILL_GRACE).await;
        assert_eq!(order(&stamp), None, "it may still end");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(matches!(order(&stamp), Some(Order::Replace(cause)) if cause.contains("blocked")));
        stamp.clear();
        stamp.kept_by(drop);
        let successor = stamp.begin("storing", None);
        drop(work);
        assert!(stamp.in_hand().is_some(), "an outlived one does not end its successor's work");
        drop(successor);
        assert!(stamp.in_hand().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_stuck_five_seconds_after_its_wake_up_and_long_work_may_have_a_limit_of_its_own() {
        let stamp = kept();
        stamp.wakes_at(Some(stamp.clock.monotonic() + LIMIT));
        tokio::time::advance(LIMIT + WAKE_SLACK).await;
        assert_eq!(order(&stamp), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(matches!(order(&stamp), Some(Order::Kill(cause)) if cause.contains("missed its wake-up")));
        let stamp = kept();
        let _round = stamp.begin("a round", Some(LIMIT * 20));
        tokio::time::advance(LIMIT * 20).await;
        assert_eq!(order(&stamp), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(order(&stamp).is_some());
    }
}
