//! What a model answered.

/// An answer of an AI service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The text; may be empty when the model asks for a human.
    pub text: String,
    /// Whether the model asks for a human.
    pub handoff: bool,
    /// Tokens of the question and the answer, as the service counts them; 0 when it does not.
    pub tokens: Tokens,
    /// The service's own limit of requests a minute, if its headers tell it.
    pub limit_requests: Option<u64>,
    /// Whether another model stood in for the one asked for; such an answer is not kept for those who ask later.
    pub stands_in: bool,
}

/// Tokens used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// By the question.
    pub input: u64,
    /// Of these, those that the provider had in its own cache.
    pub cached_input: u64,
    /// By the answer.
    pub output: u64,
}

impl Tokens {
    /// Both together.
    pub fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }
}
