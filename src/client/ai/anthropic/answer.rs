//! A message of Anthropic's as a chat completion, and its errors as OpenAI's.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::{
    client::ai::refusal::Refusal,
    domain::{answer::Tokens, completion, time::Timestamp, verdict::Failure},
};

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(default)]
    id: String,
    #[serde(default)]
    model: String,
    #[serde(borrow)]
    content: Vec<Block<'a>>,
    stop_reason: Option<String>,
    #[serde(default)]
    usage: Usage,
}

#[derive(Deserialize)]
struct Block<'a> {
    r#type: String,
    text: Option<String>,
    id: Option<String>,
    name: Option<String>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

/// Tokens as Anthropic counts them: what was read from or written to its cache is not in `input_tokens`.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct Usage {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

/// Tokens as OpenAI tells them.
#[derive(Serialize)]
pub(super) struct Told {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: Details,
}

#[derive(Serialize)]
struct Details {
    cached_tokens: u64,
}

impl Usage {
    /// Takes over what a later count tells; counts are sums from the beginning.
    pub(super) fn update(&mut self, later: Usage) {
        self.input_tokens = later.input_tokens.or(self.input_tokens);
        self.cache_creation_input_tokens = later.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.cache_read_input_tokens = later.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.output_tokens = later.output_tokens.or(self.output_tokens);
    }

    pub(super) fn tokens(&self) -> Tokens {
        let input = [self.input_tokens, self.cache_creation_input_tokens, self.cache_read_input_tokens];
        let input = input.into_iter().flatten().fold(0, u64::saturating_add);
        let cached_input = self.cache_read_input_tokens.unwrap_or(0);
        Tokens { input, cached_input, output: self.output_tokens.unwrap_or(0) }
    }

    pub(super) fn told(&self) -> Told {
        let Tokens { input, cached_input, output } = self.tokens();
        Told {
            prompt_tokens: input,
            completion_tokens: output,
            total_tokens: input.saturating_add(output),
            prompt_tokens_details: Details { cached_tokens: cached_input },
        }
    }
}

/// OpenAI's word for why an answer ends here. A pause (`pause_turn`) comes only of tools that run at Anthropic, which
/// nobody asks for through us.
pub(super) fn finish_reason(stop_reason: Option<&str>) -> &'static str {
    match stop_reason {
        Some("max_tokens" | "model_context_window_exceeded") => "length",
        Some("tool_use") => "tool_calls",
        Some("refusal") => "content_filter",
        _ => "stop",
    }
}

/// Seconds since 1970, as OpenAI dates its answers.
pub(super) fn created(now: Timestamp) -> i64 {
    now.0.max(0) / 1000
}

/// Writes the answer in OpenAI's shape. What is neither text nor a call of a function (thoughts) is left out, as
/// Anthropic's own compatibility layer does.
pub(in crate::client::ai) fn translate(body: &[u8], now: Timestamp) -> Result<(Bytes, Tokens), Refusal> {
    let message: Message<'_> = serde_json::from_slice(body).map_err(|_| Refusal::of(Failure::Garbled))?;
    let texts: Vec<&str> = message.content.iter().filter_map(|block| block.text.as_deref()).collect();
    let calls: Vec<Value> = message.content.iter().filter_map(call).collect();
    let content = (!texts.is_empty() || calls.is_empty()).then(|| texts.concat());
    let mut said = json!({ "role": "assistant", "content": content, "refusal": null });
    if !calls.is_empty() {
        said["tool_calls"] = Value::Array(calls);
    }
    let finish_reason = finish_reason(message.stop_reason.as_deref());
    let choice = json!({ "index": 0, "message": said, "logprobs": null, "finish_reason": finish_reason });
    let completion = json!({
        "id": message.id,
        "object": "chat.completion",
        "created": created(now),
        "model": message.model,
        "choices": [choice],
        "usage": message.usage.told(),
    });
    Ok((completion.to_string().into(), message.usage.tokens()))
}

fn call(block: &Block<'_>) -> Option<Value> {
    if block.r#type != "tool_use" {
        return None;
    }
    let arguments = block.input.map_or("{}", RawValue::get);
    let function = json!({ "name": block.name.as_deref()?, "arguments": arguments });
    Some(json!({ "id": block.id.as_deref()?, "type": "function", "function": function }))
}

#[derive(Deserialize)]
struct Refused {
    error: Error,
}

/// What is wrong, in Anthropic's words.
#[derive(Deserialize)]
pub(super) struct Error {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    message: String,
}

impl Error {
    /// The error in OpenAI's shape; Anthropic's type is the code.
    pub(super) fn shaped(&self) -> Bytes {
        let kind = match self.r#type.as_str() {
            "authentication_error" | "rate_limit_error" => &self.r#type,
            "api_error" | "overloaded_error" | "timeout_error" => "server_error",
            _ => "invalid_request_error",
        };
        completion::error(&self.message, kind, None, self.r#type.as_str()).into()
    }

    /// What it means within a stream, where no status tells it (Anthropic API reference, "Errors").
    pub(super) fn failure(&self) -> Failure {
        match self.r#type.as_str() {
            "rate_limit_error" => Failure::Throttled(None),
            "overloaded_error" => Failure::Unavailable(529),
            "timeout_error" => Failure::Unavailable(504),
            _ => Failure::Unavailable(500),
        }
    }
}

/// The error in this body, in OpenAI's shape.
pub(in crate::client::ai) fn error(body: &[u8]) -> Option<Bytes> {
    serde_json::from_slice::<Refused>(body).ok().map(|refused| refused.error.shaped())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_767_225_600_999);

    fn translated(content: &Value, stop_reason: &str, usage: &Value) -> (Value, Tokens) {
        let message = json!({ "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
            "content": content, "stop_reason": stop_reason, "stop_sequence": null, "usage": usage });
        let (body, tokens) = translate(message.to_string().as_bytes(), NOW).unwrap();
        (serde_json::from_slice(&body).unwrap(), tokens)
    }

    #[test]
    fn a_message_becomes_a_completion() {
        let usage = json!({ "input_tokens": 10, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 200,
            "output_tokens": 7, "service_tier": "standard" });
        let (body, tokens) = translated(&json!([{ "type": "text", "text": "Hi" }]), "end_turn", &usage);
        let said = json!({ "role": "assistant", "content": "Hi", "refusal": null });
        let expected = json!({
            "id": "msg_1", "object": "chat.completion", "created": 1_767_225_600, "model": "claude-x",
            "choices": [{ "index": 0, "message": said, "logprobs": null, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": 213, "completion_tokens": 7, "total_tokens": 220,
                "prompt_tokens_details": { "cached_tokens": 200 } },
        });
        assert_eq!((body, tokens), (expected, Tokens { input: 213, cached_input: 200, output: 7 }));
    }

    #[test]
    fn texts_calls_and_thoughts_are_told_apart() {
        let text = |text: &str| json!({ "type": "text", "text": text });
        let thought = json!({ "type": "thinking", "thinking": "hm", "signature": "s" });
        let call = json!({ "type": "tool_use", "id": "toolu_1", "name": "look", "input": { "a": [1.50] } });
        let bare = json!({ "type": "tool_use", "id": "toolu_2", "name": "go", "input": {} });
        let of = |id: &str, name: &str, arguments: &str| json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } });
        let (look, go) = (of("toolu_1", "look", r#"{"a":[1.5]}"#), of("toolu_2", "go", "{}"));
        for (content, said, calls) in [
            (json!([text("a"), text("b")]), json!("ab"), None),
            (json!([thought, text("a")]), json!("a"), None),
            (json!([]), json!(""), None),
            (json!([call]), Value::Null, Some(json!([look]))),
            (json!([text("a"), call, bare]), json!("a"), Some(json!([look, go]))),
        ] {
            let message = translated(&content, "tool_use", &json!({})).0["choices"][0]["message"].take();
            assert_eq!((&message["content"], message.get("tool_calls")), (&said, calls.as_ref()), "{content}");
        }
    }

    #[test]
    fn every_reason_to_stop_has_a_word() {
        for (reason, expected) in [
            ("end_turn", "stop"),
            ("stop_sequence", "stop"),
            ("max_tokens", "length"),
            ("model_context_window_exceeded", "length"),
            ("tool_use", "tool_calls"),
            ("refusal", "content_filter"),
            ("pause_turn", "stop"),
            ("whatever comes", "stop"),
        ] {
            assert_eq!(translated(&json!([]), reason, &json!({})).0["choices"][0]["finish_reason"], expected);
        }
    }

    #[test]
    fn what_is_no_message_is_no_answer() {
        for body in ["", "[]", "{}", r#"{"type":"error","error":{}}"#, r#"{"content":"text"}"#] {
            assert_eq!(translate(body.as_bytes(), NOW), Err(Refusal::of(Failure::Garbled)), "{body}");
        }
    }

    #[test]
    fn an_error_becomes_one_of_openais() {
        for (kind, expected, failure) in [
            ("invalid_request_error", "invalid_request_error", Failure::Unavailable(500)),
            ("authentication_error", "authentication_error", Failure::Unavailable(500)),
            ("not_found_error", "invalid_request_error", Failure::Unavailable(500)),
            ("rate_limit_error", "rate_limit_error", Failure::Throttled(None)),
            ("overloaded_error", "server_error", Failure::Unavailable(529)),
            ("timeout_error", "server_error", Failure::Unavailable(504)),
            ("api_error", "server_error", Failure::Unavailable(500)),
        ] {
            let body = json!({ "type": "error", "error": { "type": kind, "message": "m" }, "request_id": "r" });
            let shaped: Value = serde_json::from_slice(&error(body.to_string().as_bytes()).unwrap()).unwrap();
            assert_eq!(shaped, json!({ "error": { "message": "m", "type": expected, "param": null, "code": kind } }));
            let within: Refused = serde_json::from_value(body).unwrap();
            assert_eq!(within.error.failure(), failure, "{kind}");
        }
        assert_eq!(error(b"<html>"), None);
    }
}
