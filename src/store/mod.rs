//! A SQLite file with one writer thread and group commit, on which the embedded broker and the local state stand.
//!
//! Callers hand the writer small operations; all that wait are run in one transaction and answered after the one
//! fdatasync that covers them (WAL, `synchronous = FULL`). Operations that need no answer ride along without forcing
//! a sync: they survive the death of the process, and a power cut may undo them, which their owners must bear.

mod ahead;
pub mod backup;
pub mod calls;
#[cfg(test)]
mod erasure;
mod file;
pub mod in_hand;
mod lock;
#[cfg(test)]
pub(crate) mod plan;
mod writer;

pub use file::{Error, Schema, touch};
pub use lock::FolderLock;
pub use writer::{Database, Durability};
