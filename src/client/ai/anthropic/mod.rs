//! Anthropic's Messages API, translated from and into OpenAI's chat completions.
//!
//! Anthropic API reference: "Create a Message", "Streaming Messages", "Errors", "Rate limits"; where both differ, the
//! choice is that of Anthropic's own "OpenAI SDK compatibility", unless something would be lost without a word.

pub(super) mod answer;
pub(super) mod events;
mod messages;
pub(super) mod question;
