//! How many bytes of requests may be in memory at once, from the first byte read until they are stored or answered (G9).
//!
//! A count of requests alone bounds nothing: each may be as long as `http.webhook_body_limit`, or `http.api_body_limit`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes, shared by all who take from it.
#[derive(Clone)]
pub struct Budget(Arc<Bytes>);

struct Bytes {
    left: AtomicUsize,
    /// What they are a part of.
    whole: Option<Budget>,
}

impl Budget {
    /// So many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Bytes { left: AtomicUsize::new(bytes), whole: None }))
    }

    /// A part of it, of so many bytes: what is taken from the part is taken from the whole as well.
    pub fn part(&self, bytes: usize) -> Self {
        Self(Arc::new(Bytes { left: AtomicUsize::new(bytes), whole: Some(self.clone()) }))
    }

    /// Nothing of it yet.
    pub fn nothing(&self) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }

    fn take(&self, bytes: usize) -> bool {
        let Bytes { left, whole } = &*self.0;
        let less = |left: usize| left.checked_sub(bytes);
        if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
            return false;
        }
        let has = whole.as_ref().is_none_or(|whole| whole.take(bytes));
        if !has {
            left.fetch_add(bytes, Ordering::Relaxed);
        }
        has
    }

    fn take_back(&self, bytes: usize) {
        let Bytes { left, whole } = &*self.0;
        left.fetch_add(bytes, Ordering::Relaxed);
        if let Some(whole) = whole {
            whole.take_back(bytes);
        }
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
        self.budget.take_back(std::mem::take(&mut self.bytes));
    }

    fn grow(&mut self, bytes: usize) -> bool {
        let taken = self.budget.take(bytes);
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

    #[test]
    fn who_may_take_a_part_leaves_the_rest_to_others() {
        let whole = Budget::new(10);
        let (one, other) = (whole.part(6), whole.part(6));
        let (mut of_one, mut of_other) = (one.nothing(), other.nothing());
        assert!(!of_one.grow(7) && of_one.grow(6) && !of_one.grow(1));
        assert!(!of_other.grow(5) && of_other.grow(4) && !of_other.grow(1));
        drop(of_one);
        assert!(of_other.grow(2) && !of_other.grow(1));
        drop(of_other);
        assert!(whole.nothing().grow(10));
    }
}
