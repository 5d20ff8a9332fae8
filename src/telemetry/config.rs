//! `[telemetry]`: logs and traces.

use serde::{Deserialize, Serialize};

/// What is logged, and where traces go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Least important level that is logged, or a filter such as `info,tidegate=debug`.
    pub log_level: String,
    /// Shape of a log line: `text`, `json`, or `auto` for text on a terminal and JSON elsewhere.
    pub log_format: String,
    /// Address of an OTLP/HTTP receiver, such as `http://127.0.0.1:4318`; empty: no traces are sent.
    pub otlp_endpoint: String,
    /// Share of new traces that are recorded, 0 to 1; a caller's decision is kept.
    pub sample_rate: f64,
    /// Where people look at a trace, such as `http://127.0.0.1:16686/trace/{trace_id}`; empty: nowhere.
    pub trace_url: String,
    /// `service.name` of logs and traces.
    pub service_name: String,
    /// `deployment.environment.name` of logs and traces; empty: none.
    pub environment: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log_level: "info".into(),
            log_format: "auto".into(),
            otlp_endpoint: String::new(),
            sample_rate: 0.1,
            trace_url: String::new(),
            service_name: "tidegate".into(),
            environment: String::new(),
        }
    }
}
