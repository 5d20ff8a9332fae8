//! The events of a message that comes in parts, as chunks of a chat completion.
//!
//! ```text
//! message_start                      the assistant speaks
//! content_block_start .. stop        a call of a function: its id and name; texts and thoughts begin silently
//!    content_block_delta             text, or a piece of a call's arguments
//! message_delta                      why it ends
//! message_stop                       the tokens, and the end
//! ```
//! `ping` and whatever is new come to nothing (Anthropic API reference, "Streaming Messages").

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::{Error, Told, Usage, created, finish_reason};
use crate::{
    client::ai::{
        refusal::Refusal,
        stream::{Chunk, Step},
    },
    domain::{time::Timestamp, verdict::Failure},
};

/// Remembers what later chunks repeat.
pub(in crate::client::ai) struct Reader {
    id: String,
    model: String,
    created: i64,
    usage: Usage,
    calls: Vec<Call>,
}

/// A call of a function; its place in the list is its number.
struct Call {
    block: u64,
    has_arguments: bool,
}

/// Any event; which fields it has depends on its type.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    message: Option<Begun>,
    #[serde(default)]
    index: u64,
    content_block: Option<Block>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    usage: Option<Usage>,
    error: Option<Error>,
}

#[derive(Deserialize)]
struct Begun {
    #[serde(default)]
    id: String,
    #[serde(default)]
    model: String,
    #[serde(default)]
    usage: Usage,
}

#[derive(Deserialize)]
struct Block {
    r#type: String,
    #[serde(default)]
    text: String,
    id: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    r#type: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Cow<'a, str>,
    #[serde(borrow, default)]
    partial_json: Cow<'a, str>,
    stop_reason: Option<String>,
}

#[derive(Serialize)]
struct Written<'a, D> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: Vec<Choice<D>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Told>,
}

#[derive(Serialize)]
struct Choice<D> {
    index: u8,
    delta: D,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Text<'a> {
    content: &'a str,
}

impl Reader {
    /// Begins; `now` dates the answer.
    pub(in crate::client::ai) fn new(now: Timestamp) -> Self {
        let (id, model) = (String::new(), String::new());
        Self { id, model, created: created(now), usage: Usage::default(), calls: Vec::new() }
    }

    /// Reads the data of one event.
    pub(in crate::client::ai) fn read(&mut self, data: &[u8]) -> Result<Step, Refusal> {
        let event: Event<'_> = serde_json::from_slice(data).map_err(|_| Refusal::of(Failure::Garbled))?;
        if let Some(usage) = event.usage {
            self.usage.update(usage);
        }
        let chunk = match (&*event.r#type, event.message, event.content_block, event.delta) {
            ("message_start", Some(message), ..) => Some(self.begin(message)),
            ("content_block_start", _, Some(block), _) => self.block(event.index, block),
            ("content_block_delta", .., Some(delta)) => self.delta(event.index, &delta),
            ("content_block_stop", ..) => self.block_ends(event.index),
            ("message_delta", .., Some(delta)) => {
                let reason = delta.stop_reason.as_deref().map(|reason| finish_reason(Some(reason)));
                reason.map(|reason| self.chunk(json!({}), Some(reason)))
            }
            ("message_stop", ..) => return Ok(Step::Last(self.last())),
            ("error", ..) => return Err(refused(event.error)),
            _ => None,
        };
        Ok(chunk.map_or(Step::Nothing, |bytes| Step::Chunk(Chunk { bytes, tokens: None, usage_only: false })))
    }

    fn begin(&mut self, message: Begun) -> Bytes {
        (self.id, self.model) = (message.id, message.model);
        self.usage.update(message.usage);
        self.chunk(json!({ "role": "assistant", "content": "" }), None)
    }

    fn block(&mut self, index: u64, block: Block) -> Option<Bytes> {
        match (block.r#type.as_str(), block.id, block.name) {
            ("text", ..) if !block.text.is_empty() => Some(self.chunk(Text { content: &block.text }, None)),
            ("tool_use", Some(id), Some(name)) => {
                self.calls.push(Call { block: index, has_arguments: false });
                let function = json!({ "name": name, "arguments": "" });
                let number = self.calls.len() - 1;
                let call = json!({ "index": number, "id": id, "type": "function", "function": function });
                Some(self.chunk(json!({ "tool_calls": [call] }), None))
            }
            _ => None,
        }
    }

    fn delta(&mut self, index: u64, delta: &Delta<'_>) -> Option<Bytes> {
        match &*delta.r#type {
            "text_delta" if !delta.text.is_empty() => Some(self.chunk(Text { content: &delta.text }, None)),
            "input_json_delta" if !delta.partial_json.is_empty() => {
                let number = self.calls.iter().position(|call| call.block == index)?;
                self.calls[number].has_arguments = true;
                Some(self.chunk(arguments(number, &delta.partial_json), None))
            }
            _ => None,
        }
    }

    /// A call without arguments has none here, but an empty object at OpenAI, which clients parse.
    fn block_ends(&mut self, index: u64) -> Option<Bytes> {
        let number = self.calls.iter().position(|call| call.block == index && !call.has_arguments)?;
        Some(self.chunk(arguments(number, "{}"), None))
    }

    fn last(&self) -> Chunk {
        let bytes = self.event::<()>(Vec::new(), Some(self.usage.told()));
        Chunk { bytes, tokens: Some(self.usage.tokens()), usage_only: true }
    }

    fn chunk(&self, delta: impl Serialize, finish_reason: Option<&'static str>) -> Bytes {
        self.event(vec![Choice { index: 0, delta, logprobs: None, finish_reason }], None)
    }

    fn event<D: Serialize>(&self, choices: Vec<Choice<D>>, usage: Option<Told>) -> Bytes {
        let object = "chat.completion.chunk";
        let written = Written { id: &self.id, object, created: self.created, model: &self.model, choices, usage };
        let mut bytes = b"data: ".to_vec();
        serde_json::to_writer(&mut bytes, &written).expect("a chunk is plain data");
        bytes.extend_from_slice(b"\n\n");
        bytes.into()
    }
}

fn arguments(number: usize, piece: &str) -> Value {
    json!({ "tool_calls": [{ "index": number, "function": { "arguments": piece } }] })
}

fn refused(error: Option<Error>) -> Refusal {
    let failure = error.as_ref().map_or(Failure::Unavailable(500), Error::failure);
    Refusal { body: error.map(|error| error.shaped()), ..Refusal::of(failure) }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
