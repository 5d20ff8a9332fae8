//! What API keys have used.

use super::{BEGIN, Factory, RETENTION, later};
use crate::state::budgets::TOKENS_MAX;

pub(in crate::state) async fn what_a_key_has_used_is_added_up_by_month_and_survives(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    assert_eq!(state.spend("shop", "2026-11", 0).await.unwrap(), 0);
    for (tokens, total) in [(5, 5), (0, 5), (7, 12), (0, 12)] {
        assert_eq!(state.spend("shop", "2026-11", tokens).await.unwrap(), total);
    }
    for (key, month) in [("shop", "2026-12"), ("desk", "2026-11"), ("a: {b} }c", "2026-11"), ("", "2026-11")] {
        assert_eq!(state.spend(key, month, 3).await.unwrap(), 3, "{key} in {month} counts by itself");
    }
    state.tidy(later(1)).await.unwrap();
    let state = factory.open(RETENTION, later(1)).await;
    assert_eq!(state.spend("shop", "2026-11", 0).await.unwrap(), 12);
    assert_eq!(state.spend("shop", "2026-11", 1).await.unwrap(), 13);
    assert_eq!(state.spend("a: {b} }c", "2026-11", 1).await.unwrap(), 4);
}

pub(in crate::state) async fn a_total_stays_at_the_highest_that_is_counted_exactly(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    assert_eq!(state.spend("much", "2026-11", TOKENS_MAX - 2).await.unwrap(), TOKENS_MAX - 2);
    assert_eq!(state.spend("much", "2026-11", 1).await.unwrap(), TOKENS_MAX - 1);
    assert_eq!(state.spend("much", "2026-11", u64::MAX).await.unwrap(), TOKENS_MAX);
    assert_eq!(state.spend("much", "2026-11", 1).await.unwrap(), TOKENS_MAX);
    assert_eq!(state.spend("much", "2026-11", 0).await.unwrap(), TOKENS_MAX);
}
