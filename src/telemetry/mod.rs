//! What the daemon shows of itself: time, labels and logs. Metrics are registered by the parts that count them.

mod clock;
mod config;
mod logs;
pub mod process;
pub mod series;

pub use clock::Clock;
pub use config::Config;
pub use logs::{Error, init};
