//! The same answers as Anthropic's Messages API gives them.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::Reply;
use super::request::{Request, Spoken, text};

/// The body of `POST /v1/messages`, as far as it matters here.
#[derive(Deserialize)]
struct Body {
    model: String,
    max_tokens: u64,
    #[serde(default)]
    system: Value,
    messages: Vec<Spoken>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    tools: Vec<Tool>,
    #[serde(default)]
    output_config: Value,
    #[serde(default)]
    temperature: Value,
    #[serde(default)]
    top_p: Value,
}

#[derive(Deserialize)]
struct Tool {
    name: String,
    input_schema: Value,
}

/// Parses the body as strictly as the service does where clients of another service go wrong.
///
/// # Errors
/// The reason why it is unusable.
pub fn parse(body: &[u8]) -> Result<Request, String> {
    let body: Body = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if body.messages.is_empty() {
        return Err("messages: at least one message is required".to_owned());
    }
    if body.max_tokens == 0 {
        return Err("max_tokens: must be greater than or equal to 1".to_owned());
    }
    if !body.temperature.is_null() && !body.top_p.is_null() {
        return Err("`temperature` and `top_p` cannot both be specified for this model".to_owned());
    }
    if body.tools.iter().any(|tool| tool.input_schema["type"] != "object") {
        return Err("tools.0.custom.input_schema.type: Field required".to_owned());
    }
    let mut parts = body.messages.iter().filter_map(|message| message.content.as_array()).flatten();
    if body.tools.is_empty() && parts.any(|part| part["type"] == "tool_use" || part["type"] == "tool_result") {
        return Err("tools: Field required, since the messages hold calls of tools".to_owned());
    }
    let mut last = "";
    for message in &body.messages {
        let role = message.role.as_str();
        if !["user", "assistant"].contains(&role) {
            return Err("messages: unexpected role".to_owned());
        }
        if last == role {
            return Err("messages: roles must alternate".to_owned());
        }
        if is_empty(&message.content) {
            return Err("messages: text content blocks must be non-empty".to_owned());
        }
        last = role;
    }
    let system = (!body.system.is_null()).then(|| Spoken { role: "system".to_owned(), content: body.system });
    Ok(Request {
        model: body.model,
        messages: system.into_iter().chain(body.messages).collect(),
        stream: body.stream,
        wants_usage: true,
        tools: body.tools.into_iter().map(|tool| tool.name).collect(),
        schema: body.output_config.pointer("/format/schema").cloned(),
    })
}

fn is_empty(content: &Value) -> bool {
    match content {
        Value::Array(parts) => {
            parts.is_empty() || parts.iter().any(|part| part["type"] == "text" && text(&json!([part])).is_empty())
        }
        content => text(content).is_empty(),
    }
}

/// The message in one piece.
pub fn whole(reply: &Reply) -> Response {
    let content = match &reply.tool {
        Some(name) => json!([tool(reply, name)]),
        None if reply.text.is_empty() => json!([]),
        None => json!([{ "type": "text", "text": reply.text }]),
    };
    let mut message = message(reply, &content, reply.completion);
    message["stop_reason"] = json!(stop_reason(reply));
    Json(message).into_response()
}

/// The message as server-sent events.
pub fn chunks(reply: &Reply) -> Vec<Bytes> {
    let (block, deltas) = match &reply.tool {
        Some(name) => (tool(reply, name), vec![json!({ "type": "input_json_delta", "partial_json": "{}" })]),
        None => {
            let delta = |text| json!({ "type": "text_delta", "text": text });
            (json!({ "type": "text", "text": "" }), reply.pieces().into_iter().map(delta).collect())
        }
    };
    let mut events = vec![
        json!({ "type": "message_start", "message": message(reply, &json!([]), 1) }),
        json!({ "type": "content_block_start", "index": 0, "content_block": block }),
        json!({ "type": "ping" }),
    ];
    events.extend(deltas.into_iter().map(|delta| json!({ "type": "content_block_delta", "index": 0, "delta": delta })));
    events.push(json!({ "type": "content_block_stop", "index": 0 }));
    let delta = json!({ "stop_reason": stop_reason(reply), "stop_sequence": null });
    events.push(json!({ "type": "message_delta", "delta": delta, "usage": { "output_tokens": reply.completion } }));
    events.push(json!({ "type": "message_stop" }));
    events.iter().map(event).collect()
}

fn event(body: &Value) -> Bytes {
    format!("event: {}\ndata: {body}\n\n", body["type"].as_str().unwrap_or_default()).into()
}

fn message(reply: &Reply, content: &Value, output: u64) -> Value {
    let cached = reply.cached();
    let usage = json!({ "input_tokens": reply.prompt - cached, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached, "output_tokens": output });
    json!({
        "id": format!("msg_{:012x}", reply.number),
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": content,
        "stop_reason": null,
        "stop_sequence": null,
        "usage": usage,
    })
}

fn tool(reply: &Reply, name: &str) -> Value {
    json!({ "type": "tool_use", "id": format!("toolu_{:012x}", reply.number), "name": name, "input": {} })
}

fn stop_reason(reply: &Reply) -> &str {
    match reply.finish_reason.as_str() {
        "stop" => "end_turn",
        "length" => "max_tokens",
        "tool_calls" => "tool_use",
        "content_filter" => "refusal",
        other => other,
    }
}

/// An error in Anthropic's shape.
pub fn error(status: u16, message: &str) -> Response {
    let told = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (told, Json(error_body(status, message))).into_response()
}

/// An error that comes instead of the next event.
pub fn error_event() -> Bytes {
    event(&error_body(529, "the simulator was told to fail"))
}

fn error_body(status: u16, message: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    json!({ "type": "error", "error": { "type": kind, "message": message }, "request_id": "req_simulated" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_as_strictly_as_by_the_service() {
        let said = |role: &str, content: Value| json!({ "role": role, "content": content });
        let (hi, more) = (said("user", json!("hi")), said("assistant", json!([{ "type": "text", "text": "yes" }])));
        for (messages, fine) in [
            (json!([hi]), true),
            (json!([more, hi]), true),
            (json!([]), false),
            (json!([hi, hi]), false),
            (json!([said("system", json!("a"))]), false),
            (json!([said("user", json!(""))]), false),
            (json!([said("user", json!([{ "type": "text", "text": "" }]))]), false),
            (json!([said("user", json!([]))]), false),
        ] {
            let body = json!({ "model": "m", "max_tokens": 1, "system": "be kind", "messages": messages });
            assert_eq!(parse(body.to_string().as_bytes()).is_ok(), fine, "{messages}");
        }
        let body = |more: Value| {
            let mut body = json!({ "model": "m", "messages": [hi] });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            parse(body.to_string().as_bytes())
        };
        assert!(body(json!({})).is_err() && body(json!({ "max_tokens": 0 })).is_err());
        let result = said("user", json!([{ "type": "tool_result", "tool_use_id": "t" }]));
        let tool = |schema: Value| json!([{ "name": "t", "input_schema": schema }]);
        for (more, fine) in [
            (json!({ "tools": [{ "name": "t" }] }), false),
            (json!({ "tools": tool(json!({})) }), false),
            (json!({ "tools": tool(json!({ "type": "object" })) }), true),
            (json!({ "messages": [hi, more, result] }), false),
            (json!({ "messages": [hi, more, result], "tools": tool(json!({ "type": "object" })) }), true),
            (json!({ "temperature": 1, "top_p": 0.5 }), false),
            (json!({ "temperature": 1 }), true),
        ] {
            let mut fields = json!({ "max_tokens": 1 });
            fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert_eq!(body(fields).is_ok(), fine, "{more}");
        }
        let request = body(json!({ "max_tokens": 1, "system": "be kind", "stream": true })).unwrap();
        assert_eq!((request.words(), request.last_user_text().as_str(), request.stream), (3, "hi", true));
    }
}
