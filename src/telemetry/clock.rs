//! The two clocks: the wall's, for what the outside world dates, and a monotonic one, for everything else.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::FutureExt;
use tokio::time::Instant;

use crate::domain::time::Timestamp;

/// Above this difference between the clocks somebody has set the wall clock, and no deadline acts (design rule 16).
const DISAGREEMENT_MAX: Duration = Duration::from_secs(30);

/// The monotonic clock begins here, so that what happened before the start has a place on it.
pub const HEAD_START: Duration = Duration::from_secs(2 * 3600);

/// Tells the time.
#[derive(Clone)]
pub struct Clock {
    started: Instant,
    started_wall: Timestamp,
    wall: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self::with_wall(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
        })
    }

    /// A wall clock of one's own, beside the system's monotonic one.
    pub fn with_wall(wall: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { started: Instant::now(), started_wall: wall(), wall: Arc::new(wall) }
    }

    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        (self.wall)()
    }

    /// The time since this clock was made, and `HEAD_START`; never runs backwards.
    pub fn monotonic(&self) -> Duration {
        HEAD_START + self.started.elapsed()
    }

    /// The moment of the monotonic clock as an instant to sleep until.
    pub fn instant(&self, monotonic: Duration) -> Instant {
        self.started + monotonic.saturating_sub(HEAD_START)
    }

    /// What some work brings, unless it takes until then (monotonic; `Duration::MAX`: as long as it takes). When that is,
    /// is asked only if the work is not there at once, as it mostly is: then no timer has to be set.
    pub async fn by<T>(&self, until: impl FnOnce() -> Duration, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        if let Some(there) = work.as_mut().now_or_never() {
            return Some(there);
        }
        match until() {
            Duration::MAX => Some(work.await),
            until => tokio::time::timeout_at(self.instant(until), work).await.ok(),
        }
    }

    /// Whether the clocks agree well enough for deadlines to act on the wall clock.
    pub fn agrees(&self) -> bool {
        let by_wall = self.now().0.saturating_sub(self.started_wall.0);
        let by_monotonic = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        by_wall.abs_diff(by_monotonic) <= DISAGREEMENT_MAX.as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_is_waited_for_until_then_and_what_is_there_at_once_is_not_late() {
        let clock = Clock::system();
        let (second, now) = (Duration::from_secs(1), clock.monotonic());
        let takes = |span| tokio::time::sleep(span);
        assert_eq!(clock.by(|| Duration::ZERO, std::future::ready(7)).await, Some(7));
        assert_eq!(clock.by(|| now + second * 2, takes(second)).await, Some(()));
        assert_eq!(clock.by(|| now + second * 2, takes(second * 60)).await, None);
        assert_eq!(clock.monotonic(), now + second * 2);
        assert_eq!(clock.by(|| Duration::MAX, takes(second * 60)).await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_is_set_is_noticed() {
        let wall = Arc::new(AtomicI64::new(1_000_000));
        let clock = Clock::with_wall({
            let wall = wall.clone();
            move || Timestamp(wall.load(Ordering::Relaxed))
        });
        tokio::time::advance(Duration::from_secs(60)).await;
        wall.fetch_add(60_000, Ordering::Relaxed);
        assert!(clock.agrees());
        wall.fetch_add(7_200_000, Ordering::Relaxed);
        assert!(!clock.agrees());
    }
}
