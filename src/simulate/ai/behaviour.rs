//! What the simulated AI service does wrong on purpose; changeable while it runs.

use serde::{Deserialize, Serialize};

use crate::simulate::quota::Quota;

/// Faults and limits; the default is a healthy, instant service without limits. Rates are from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Milliseconds before an answer.
    pub latency_ms: u64,
    /// Up to so many milliseconds more, at random.
    pub latency_jitter_ms: u64,
    /// Milliseconds between the chunks of a stream.
    pub chunk_gap_ms: u64,
    /// Calls answered with `error_status`.
    pub error_rate: f64,
    /// The status of such an answer.
    pub error_status: u16,
    /// Answers every call with this status; 0 is off.
    pub status: u16,
    /// Calls that are never answered.
    pub hang_rate: f64,
    /// Answers no call at all.
    pub hang: bool,
    /// Closes every connection without an answer.
    pub down: bool,
    /// Sliding windows; beyond any of them 429 with `Retry-After`.
    pub quota: Vec<Quota>,
    /// Tells this many seconds in `Retry-After`, with every failure; beyond a quota instead of the exact wait.
    pub retry_after: Option<u64>,
    /// Pads every answer to this many characters.
    pub reply_chars: usize,
    /// Answers with an empty text.
    pub empty: bool,
    /// Answers 200 with a body that is no JSON.
    pub malformed: bool,
    /// Says no more than it must, as some services do that speak OpenAI's API: no `usage`, and no `[DONE]`.
    pub terse: bool,
    /// The `finish_reason`; empty means `stop`.
    pub finish_reason: String,
    /// Answers with a call of the tool of this name.
    pub tool_call: Option<String>,
    /// Breaks a stream off after so many chunks; 0 is off.
    pub break_stream_after: usize,
    /// Ends a stream with an error after so many chunks; 0 is off.
    pub stream_error_after: usize,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            latency_ms: 0,
            latency_jitter_ms: 0,
            chunk_gap_ms: 0,
            error_rate: 0.0,
            error_status: 500,
            status: 0,
            hang_rate: 0.0,
            hang: false,
            down: false,
            quota: Vec::new(),
            retry_after: None,
            reply_chars: 0,
            empty: false,
            malformed: false,
            terse: false,
            finish_reason: String::new(),
            tool_call: None,
            break_stream_after: 0,
            stream_error_after: 0,
        }
    }
}
