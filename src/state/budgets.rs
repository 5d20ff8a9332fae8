//! What API keys have used of their monthly budgets, over all nodes.

use async_trait::async_trait;

use super::Error;

/// No total is higher: what all who count count exactly.
pub const TOKENS_MAX: u64 = (1 << 53) - 1;

/// The counts of tokens, by key and month.
///
/// A process tells of one key and month one thing after the other. After an error it is not known whether the tokens
/// were added; told again with the next, they count once.
#[async_trait]
pub trait Budgets: Send + Sync {
    /// Adds `tokens` to what `key` (a name from the configuration) has used in `month` (`2026-11`, UTC) and returns the
    /// total over all nodes, at most [`TOKENS_MAX`]; 0 only reads. A month is remembered for more than a year.
    async fn spend(&self, key: &str, month: &str, tokens: u64) -> Result<u64, Error>;
}
