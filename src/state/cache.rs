//! Answers that all nodes keep together. An entry may be gone at any time, and be anything when it is found: whoever
//! reads it judges it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::Error;

/// What is found under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// An entry.
    Entry(Bytes),
    /// None; it is ours to make, and nobody else makes it until our turn ends or is not renewed.
    Ours,
    /// None; another makes it.
    Theirs,
}

/// The answers of the fleet.
#[async_trait]
pub trait Answers: Send + Sync {
    /// Looks for an entry; when there is none, takes the turn to make it for `turn`, or renews it. `spoiled`: the entry
    /// there is good for nothing.
    async fn look(&self, name: &str, turn: Duration, spoiled: bool) -> Result<Look, Error>;

    /// Ends our turn; keeps the entry, if there is one.
    async fn keep(&self, name: &str, entry: Option<(Vec<u8>, Duration)>) -> Result<(), Error>;

    /// The number of a tenant's last erasure, which is part of every name; where that is not known, a number that was
    /// never used before.
    async fn erased(&self, tenant: &str) -> Result<u64, Error>;

    /// Erases a tenant's answers; returns the new number.
    async fn erase(&self, tenant: &str) -> Result<u64, Error>;
}
