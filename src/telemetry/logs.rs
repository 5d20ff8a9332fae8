//! Log lines: for people on a terminal, as JSON elsewhere.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use super::Config;

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level is no filter.
    #[error(
        "telemetry.log_level: `{0}` is no level; write error, warn, info, debug or trace, or a filter like info,tidegate=debug"
    )]
    Level(String),
    /// Somebody has begun already.
    #[error("logging has begun already")]
    Begun,
}

/// Begins to log to standard error.
pub fn init(config: &Config) -> Result<(), Error> {
    // Each actor's whole life is one span of ractor's at INFO; it costs memory and says nothing.
    let directives = format!("{},ractor=warn,hyper=warn,reqwest=warn", config.log_level);
    let filter = EnvFilter::try_new(&directives).map_err(|_| Error::Level(config.log_level.clone()))?;
    let as_json = match config.log_format.as_str() {
        "json" => true,
        "text" => false,
        _ => !std::io::stderr().is_terminal(),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let begun = if as_json {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
    } else {
        registry.with(fmt::layer().with_target(false).with_writer(std::io::stderr)).try_init()
    };
    begun.map_err(|_| Error::Begun)
}
