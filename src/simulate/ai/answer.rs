//! The answers of the simulated AI service: whole completions, streams of chunks, errors.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};

use super::behaviour::Behaviour;
use super::request::Request;
use crate::simulate::reference::Reference;

/// The creation time told in every answer; a constant, so that answers are equal byte for byte.
const CREATED: u64 = 1_767_225_600;
/// Characters of one streamed chunk.
const CHUNK_CHARS: usize = 24;
const PADDING: &str = " and here is what else there is to say about it";

/// What the service says to one request.
pub struct Reply {
    /// Which answer of the service this is.
    pub number: u64,
    /// The model that was asked.
    pub model: String,
    /// The text; empty with a tool.
    pub text: String,
    /// The tool that is called.
    pub tool: Option<String>,
    /// Why it ends, in OpenAI's words.
    pub finish_reason: String,
    /// Tokens of the question.
    pub prompt: u64,
    /// Tokens of the answer.
    pub completion: u64,
    wants_usage: bool,
    terse: bool,
}

impl Reply {
    /// Answers the references of the last user message.
    pub fn new(number: u64, request: &Request, references: &[Reference], behaviour: &Behaviour) -> Self {
        let tool = behaviour.tool_call.clone();
        let text = match &request.schema {
            _ if behaviour.empty || tool.is_some() => String::new(),
            Some(schema) => shaped(schema, &text(references, behaviour.reply_chars)),
            None => text(references, behaviour.reply_chars),
        };
        let (prompt, completion) = (tokens(request.words()), tokens(text.split_whitespace().count()));
        let finish_reason = match (&tool, behaviour.finish_reason.as_str()) {
            (Some(_), "") => "tool_calls",
            (None, "") => "stop",
            (_, reason) => reason,
        };
        Self {
            number,
            model: request.model.clone(),
            text,
            tool,
            finish_reason: finish_reason.to_owned(),
            prompt,
            completion,
            wants_usage: request.wants_usage && !behaviour.terse,
            terse: behaviour.terse,
        }
    }

    fn id(&self) -> String {
        format!("chatcmpl-{:012x}", self.number)
    }

    fn usage(&self) -> Value {
        let (prompt, completion) = (self.prompt, self.completion);
        json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
            "prompt_tokens_details": { "cached_tokens": self.cached() } })
    }

    /// Of what was asked a little comes from a cache, so that whoever forgets that counts wrongly.
    pub fn cached(&self) -> u64 {
        self.prompt / 4
    }

    /// The text cut into the pieces of a stream.
    pub fn pieces(&self) -> Vec<String> {
        let characters: Vec<char> = self.text.chars().collect();
        characters.chunks(CHUNK_CHARS).map(|piece| piece.iter().collect()).collect()
    }

    /// The completion in one piece.
    pub fn whole(&self) -> Response {
        let message = match &self.tool {
            Some(name) => json!({ "role": "assistant", "content": null, "tool_calls": [tool_call(name)] }),
            None => json!({ "role": "assistant", "content": self.text }),
        };
        let choice = json!({ "index": 0, "message": message, "finish_reason": self.finish_reason, "logprobs": null });
        let mut body = json!({
            "id": self.id(),
            "object": "chat.completion",
            "created": CREATED,
            "model": self.model,
            "choices": [choice],
        });
        if !self.terse {
            body["usage"] = self.usage();
        }
        Json(body).into_response()
    }

    /// The completion as server-sent events, `[DONE]` included if it says so much.
    pub fn chunks(&self) -> Vec<Bytes> {
        let mut deltas = vec![json!({ "role": "assistant", "content": "" })];
        if let Some(name) = &self.tool {
            let mut call = tool_call(name);
            call["index"] = json!(0);
            deltas.push(json!({ "tool_calls": [call] }));
        }
        deltas.extend(self.pieces().into_iter().map(|piece| json!({ "content": piece })));
        let choice = |delta: Value, reason: Value| json!([{ "index": 0, "delta": delta, "finish_reason": reason }]);
        let mut chunks: Vec<Bytes> =
            deltas.into_iter().map(|delta| self.chunk(&choice(delta, Value::Null), &Value::Null)).collect();
        chunks.push(self.chunk(&choice(json!({}), json!(self.finish_reason)), &Value::Null));
        if self.wants_usage {
            chunks.push(self.chunk(&json!([]), &self.usage()));
        }
        if !self.terse {
            chunks.push(Bytes::from_static(b"data: [DONE]\n\n"));
        }
        chunks
    }

    fn chunk(&self, choices: &Value, usage: &Value) -> Bytes {
        let mut body = json!({
            "id": self.id(),
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": self.model,
            "choices": choices,
        });
        if self.wants_usage {
            body["usage"] = usage.clone();
        }
        format!("data: {body}\n\n").into()
    }
}

fn tool_call(name: &str) -> Value {
    json!({ "id": "call_1", "type": "function", "function": { "name": name, "arguments": "{}" } })
}

fn text(references: &[Reference], chars_min: usize) -> String {
    let mut text = "Answer to".to_owned();
    for reference in references {
        text.push_str(&format!(" {reference}"));
    }
    if references.is_empty() {
        text.push_str(" you");
    }
    // The text is ASCII, so its bytes are its characters.
    let missing = chars_min.saturating_sub(text.len());
    text.extend(PADDING.chars().cycle().take(missing));
    text
}

/// The text in each property of an object.
fn shaped(schema: &Value, text: &str) -> String {
    let names = schema["properties"].as_object().into_iter().flat_map(serde_json::Map::keys);
    Value::Object(names.map(|name| (name.clone(), json!(text))).collect()).to_string()
}

/// Tokens of so many words, at 1.3 tokens a word.
fn tokens(words: usize) -> u64 {
    (words as u64 * 13).div_ceil(10)
}

/// An error in OpenAI's shape.
pub fn error(status: u16, code: &str, message: &str) -> Response {
    let told = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (told, Json(error_body(status, code, message))).into_response()
}

/// An error that comes instead of the next chunk.
pub fn error_event() -> Bytes {
    format!("data: {}\n\n", error_body(500, "simulated", "the simulator was told to fail")).into()
}

fn error_body(status: u16, code: &str, message: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    json!({ "error": { "message": message, "type": kind, "param": null, "code": code } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_names_all_references_and_has_the_wanted_length() {
        assert_eq!(text(&[Reference(1), Reference(2)], 0), "Answer to [ref:00000001] [ref:00000002]");
        assert_eq!(text(&[], 0), "Answer to you");
        assert_eq!(text(&[Reference(1)], 9000).len(), 9000);
    }

    #[test]
    fn tokens_are_rounded_up() {
        assert_eq!([0, 1, 10, 11].map(tokens), [0, 2, 13, 15]);
    }

    #[test]
    fn the_chunks_add_up_to_the_text() {
        let body =
            br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream_options":{"include_usage":true}}"#;
        let behaviour = Behaviour { reply_chars: 200, ..Behaviour::default() };
        let reply = Reply::new(1, &Request::parse(body, None).unwrap(), &[Reference(7)], &behaviour);
        let chunks = reply.chunks();
        let (done, events) = chunks.split_last().unwrap();
        assert_eq!(&done[..], b"data: [DONE]\n\n");
        let parsed: Vec<Value> = events.iter().map(|event| serde_json::from_slice(&event[6..]).unwrap()).collect();
        let said: String =
            parsed.iter().filter_map(|chunk| chunk.pointer("/choices/0/delta/content")?.as_str()).collect();
        assert_eq!(said, reply.text);
        assert_eq!(parsed.last().unwrap()["usage"], reply.usage());
    }
}
