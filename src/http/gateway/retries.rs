//! Further tries must not multiply an outage: they are a share of the requests that called a service.
//!
//! The idea and the bucket are those of Finagle's `RetryBudget` and of gRPC's retry throttling (proposal A6): each call
//! pays a fraction in, each further try takes a whole one out.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a try costs; calls pay in thousandths of it.
const TRY: u64 = 1000;

/// Tries that may be saved up, and that there are at the start.
const SAVED_MAX: u64 = 10;

/// How many further tries may be made.
pub struct RetryBudget {
    left: AtomicU64,
    paid_by_call: u64,
}

impl RetryBudget {
    /// A budget of so many tries for each call, between 0 and 1.
    pub fn new(share: f64) -> Self {
        Self { left: (SAVED_MAX * TRY).into(), paid_by_call: (share.clamp(0.0, 1.0) * TRY as f64) as u64 }
    }

    /// A call is made.
    pub fn called(&self) {
        self.put(self.paid_by_call);
    }

    /// A further try that was taken is not needed.
    pub fn give_back(&self) {
        self.put(TRY);
    }

    /// Takes one further try, if there is one.
    pub fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(TRY)).is_ok()
    }

    fn put(&self, more: u64) {
        let filled = |left: u64| Some((left + more).min(SAVED_MAX * TRY));
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, filled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_calls_fail_tries_stay_a_tenth_of_them() {
        let budget = RetryBudget::new(0.1);
        let tries = (0..1000).map(|_| {
            budget.called();
            (0..3).filter(|_| budget.take()).count()
        });
        let tries: usize = tries.sum();
        assert!((100..=111).contains(&tries), "{tries}");
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let budget = RetryBudget::new(1.0);
        (0..1000).for_each(|_| budget.called());
        assert_eq!((0..1000).filter(|_| budget.take()).count() as u64, SAVED_MAX);
    }
}
