//! Boards: small documents that all nodes change, one after the other.
//!
//! A change is decided by the node, on the version it knows; the board takes it only if nobody was quicker. So a rule
//! that holds in the node's machine holds for all nodes, and the board need not understand what is written on it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::Error;

/// What a board says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// Rises with every change, also over a loss of the board; 0: nothing was written yet.
    pub version: u64,
    /// The document.
    pub body: Option<Bytes>,
    /// The board's clock, which never goes back as long as the board is not lost.
    pub now: Duration,
}

/// A change to be made.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The version on which it was decided.
    pub expected: u64,
    /// The document.
    pub body: Bytes,
    /// When it was decided, by the board's clock as the node knows it; that clock is never before it from now on.
    pub at: Duration,
    /// Whether it is announced; if not, others see it when they read or write.
    pub announce: bool,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It was made.
    Done {
        /// The version it is.
        version: u64,
        /// The board's clock.
        now: Duration,
    },
    /// Somebody was quicker: this is on the board.
    Conflict(Board),
}

/// What is heard of a board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It says this now. May come late.
    Says(Board),
    /// Something may have been missed; reading tells.
    Unknown,
}

/// Keeps boards by name.
#[async_trait]
pub trait Boards: Send + Sync {
    /// Reads a board.
    async fn read(&self, name: &str) -> Result<Board, Error>;

    /// Changes a board, if it is still as expected. After an error the change may have been made.
    async fn write(&self, name: &str, draft: Draft) -> Result<Written, Error>;

    /// What is heard of a board from now on. Any of it may be missed, so whoever listens also reads now and then.
    fn news(&self, name: &str) -> BoxStream<'static, News>;
}
