//! How many bytes of webhooks may be in memory at once, from the first byte read until they are stored (G9).
//!
//! A count of deliveries alone bounds nothing: each may be as long as `http.webhook_body_limit`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes, shared by all who take from it.
#[derive(Clone)]
pub struct Budget {
    left: Arc<AtomicUsize>,
}

impl Budget {
    /// So many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)) }
    }

    /// Nothing of it yet.
    pub fn nothing(&self) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

/// A share of the budget; goes back when dropped.
pub struct Share {
    budget: Budget,
    bytes: usize,
}

impl Share {
    /// Takes as much as is missing to so many bytes; `false`, and nothing taken, if there is not so much left.
    #[must_use]
    pub fn cover(&mut self, bytes: usize) -> bool {
        self.grow(bytes.saturating_sub(self.bytes))
    }

    /// Holds nothing any more.
    pub fn give_back(&mut self) {
        self.budget.left.fetch_add(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }

    fn grow(&mut self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        let taken = self.budget.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        self.bytes += if taken { bytes } else { 0 };
        taken
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_never_more_than_there_is_and_comes_back() {
        let budget = Budget::new(10);
        let (mut one, mut other) = (budget.nothing(), budget.nothing());
        assert!(one.grow(4) && other.grow(5) && !one.grow(2) && one.grow(1) && !other.grow(1));
        drop(one);
        assert!(other.grow(5) && !other.grow(1));
        drop(other);
        assert!(budget.nothing().grow(10));
    }
}
