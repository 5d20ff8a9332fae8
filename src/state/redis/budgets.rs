//! What API keys have used, over all nodes.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use async_trait::async_trait;
use fred::types::scripts::Script;
use parking_lot::Mutex;

use super::shared::{Redis, args, bucket};
use crate::state::{Budgets, Error, budgets::TOKENS_MAX};

static SPEND: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("scripts/budget.lua")));

/// A total is kept for so long after it was last added to.
pub(super) const KEPT: Duration = Duration::from_secs(400 * 24 * 3_600);

/// What a process has told is kept for so long after it last told something: longer than its month lasts.
pub(super) const TOLD_KEPT: Duration = Duration::from_secs(40 * 24 * 3_600);

/// Of each key this process remembers so many months: the present one, and what is left to tell of those before.
const MONTHS_MAX: usize = 3;

/// What this process has told, by key and month.
#[derive(Default)]
pub(super) struct Told(Mutex<BTreeMap<(String, String), u64>>);

impl Told {
    fn so_far(&self, key: &str, month: &str) -> u64 {
        self.0.lock().get(&(key.to_owned(), month.to_owned())).copied().unwrap_or(0)
    }

    fn note(&self, key: &str, month: &str, told: u64) {
        let mut all = self.0.lock();
        let so_far = all.entry((key.to_owned(), month.to_owned())).or_default();
        *so_far = told.max(*so_far);
        let mut months = all.keys().filter(|(of, _)| of == key);
        let oldest = months.next().cloned();
        let is_full = months.count() >= MONTHS_MAX;
        if let Some(oldest) = oldest.filter(|_| is_full) {
            all.remove(&oldest);
        }
    }

    /// Months that are remembered.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// As if the answers since had been lost.
    #[cfg(test)]
    pub fn forget_since(&self, key: &str, month: &str, told: u64) {
        self.0.lock().insert((key.to_owned(), month.to_owned()), told);
    }
}

#[async_trait]
impl Budgets for Redis {
    async fn spend(&self, key: &str, month: &str, tokens: u64) -> Result<u64, Error> {
        let told = self.told.so_far(key, month).saturating_add(tokens).min(TOKENS_MAX);
        let [total_key, told_key] = self.budget_keys(key, month);
        let args = args![told, TOKENS_MAX, KEPT.as_secs(), TOLD_KEPT.as_secs()];
        let total: String = self.link.run(&SPEND, vec![total_key, told_key], args).await?;
        self.told.note(key, month, told);
        total.parse().map_err(|_| Error::Failed("what a key has used is no number".into()))
    }
}

impl Redis {
    /// The total, and what this process has told of it.
    pub(super) fn budget_keys(&self, key: &str, month: &str) -> [String; 2] {
        let tag = format!("b{}", bucket(key));
        let total = self.link.key(&tag, &format!("budget:{month}:{key}"));
        let told = self.link.key(&tag, &format!("spent:{month}:{}:{key}", self.owner));
        [total, told]
    }
}
