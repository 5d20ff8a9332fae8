//! The rules, without tokio, clock or I/O: what an event is, who is to blame for a failure, when to try again.
//!
//! What comes from outside is parsed once, in [`event`], into types that cannot be wrong; everyone below takes those.

pub mod answer;
pub mod burst;
pub mod completion;
pub mod content;
pub mod control;
pub mod event;
pub mod fields;
pub mod hex;
pub mod ids;
pub mod job;
pub mod month;
pub mod prompt;
pub mod reason;
pub mod reply;
pub mod restart;
pub mod retry;
pub mod retry_after;
pub mod secret;
pub mod support;
pub mod time;
pub mod timeline;
pub mod trace;
pub mod units;
pub mod verdict;
