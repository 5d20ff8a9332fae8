//! `[chat]` and `[retry]`: how a conversation is answered, and what happens to a message that fails.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{client, domain::units, guard};

/// The chain of AI services together with their guards.
pub type Ai = client::AiConfig<guard::limiter::Limits, guard::breaker::Config, guard::Shares>;

/// One AI service together with its guards.
pub type Service = client::AiService<guard::limiter::Limits, guard::breaker::Config>;

/// `[chat]`: how a conversation is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChatConfig {
    /// Quiet period after which fragments of one customer become one request; 0 = one request per message.
    #[serde(with = "units::duration")]
    pub merge_quiet: Duration,
    /// Time after the first fragment at which the request goes out in any case.
    #[serde(with = "units::duration")]
    pub merge_cap: Duration,
    /// Earlier messages of the conversation sent along at most.
    pub history: usize,
    /// First message of every request, from the system; empty: none.
    pub system_prompt: String,
    /// Age of a message, from its receipt, at which a human takes over instead of a stale answer.
    #[serde(with = "units::duration")]
    pub deadline: Duration,
    /// Time in the AI, look and post phases after which the message in hand has failed.
    #[serde(with = "units::duration")]
    pub time_limit: Duration,
    /// Time in these phases after which the AI call is cancelled.
    #[serde(with = "units::duration")]
    pub soft_time_limit: Duration,
    /// Age of an unanswered message at which `holding_message` is posted; 0 = never.
    #[serde(with = "units::duration")]
    pub holding_after: Duration,
    /// Says that an answer takes longer.
    pub holding_message: String,
    /// Says that a message could not be answered, when it is parked; empty: nothing is said.
    pub failure_message: String,
    /// Phrases of a customer that ask for a human, compared without regard to case.
    pub handoff_phrases: Vec<String>,
    /// Name of the tool by which the AI asks for a human; empty: no such tool is offered.
    pub handoff_tool: String,
    /// Time in work before the customer sees that an answer is being written.
    #[serde(with = "units::duration")]
    pub typing_after: Duration,
    /// Asks the AI and records the answer, but posts nothing.
    pub shadow: bool,
}

impl Default for ChatConfig {
    fn default() -> Self {
        Self {
            merge_quiet: Duration::from_millis(800),
            merge_cap: Duration::from_secs(4),
            history: 20,
            system_prompt: String::new(),
            deadline: Duration::from_secs(60 * 60),
            time_limit: Duration::from_secs(300),
            soft_time_limit: Duration::from_secs(240),
            holding_after: Duration::ZERO,
            holding_message: String::new(),
            failure_message: "Sorry, I could not answer this. A colleague will take over.".into(),
            handoff_phrases: Vec::new(),
            handoff_tool: "hand_over_to_human".into(),
            typing_after: Duration::from_millis(400),
            shadow: false,
        }
    }
}

pub use crate::domain::retry::Policy as RetryConfig;
