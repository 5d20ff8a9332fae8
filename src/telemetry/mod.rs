//! What the daemon shows of itself: time, labels, logs and traces. Metrics are registered by the parts that count them.

mod clock;
mod config;
mod logs;
pub mod process;
pub mod series;
pub mod span;
pub mod traces;
mod unsampled;

pub use clock::Clock;
pub use config::Config;
pub use logs::{Error, init};
