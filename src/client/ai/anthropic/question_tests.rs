use proptest::{prelude::*, sample::select};

use super::*;
use crate::domain::completion::Kind;

fn request(body: &Value) -> Request {
    Request::parse(Kind::Chat, body.to_string().as_bytes()).unwrap()
}

fn translated(body: &Value) -> Value {
    serde_json::from_slice(&translate(&request(body), "claude-x", 4096).unwrap()).unwrap()
}

/// A request with these messages and further fields.
fn with(messages: Value, more: Value) -> Value {
    let mut body = json!({ "model": "m", "messages": messages });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn user(content: Value) -> Value {
    json!([{ "role": "user", "content": content }])
}

fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

/// Messages of OpenAI's, and the instructions and turns they become.
fn conversations() -> Vec<(Value, Value, Value)> {
    let image = |url: &str| json!({ "type": "image_url", "image_url": { "url": url, "detail": "high" } });
    let call = |id: &str, arguments: &str| json!({ "id": id, "type": "function", "function": { "name": "look", "arguments": arguments } });
    let tool_use = |id: &str, input: Value| json!({ "type": "tool_use", "id": id, "name": "look", "input": input });
    vec![
        (user(json!("hi")), Value::Null, json!([{ "role": "user", "content": [text("hi")] }])),
        (
            json!([{ "role": "system", "content": "a" }, { "role": "user", "content": "b", "name": "ada" },
                { "role": "developer", "content": [text("c"), text("d")] }]),
            json!("a\nc\nd"),
            json!([{ "role": "user", "content": [text("b")] }]),
        ),
        (
            json!([{ "role": "assistant", "content": "hello" }, { "role": "user", "content": "a" },
                { "role": "user", "content": [text("b"), text("")] }, { "role": "assistant", "content": "" },
                { "role": "user", "content": "c" }]),
            Value::Null,
            json!([{ "role": "assistant", "content": [text("hello")] },
                { "role": "user", "content": [text("a"), text("b"), text("c")] }]),
        ),
        (
            user(json!([text("see"), image("https://i/1.png"), image("data:image/png;base64,AAAA")])),
            Value::Null,
            json!([{ "role": "user", "content": [
                text("see"),
                { "type": "image", "source": { "type": "url", "url": "https://i/1.png" } },
                { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "AAAA" } },
            ] }]),
        ),
        (
            json!([{ "role": "user", "content": "a" },
                { "role": "assistant", "content": null, "tool_calls": [call("c1", "{\"x\": 1}"), call("c2", "")] },
                { "role": "tool", "tool_call_id": "c1", "content": "one" },
                { "role": "tool", "tool_call_id": "c2", "content": "" },
                { "role": "user", "content": "b" },
                { "role": "assistant", "content": "ok", "tool_calls": [call("c3", "{}")] },
                { "role": "tool", "tool_call_id": "c3", "content": [text("three")] },
                { "role": "assistant", "content": null, "refusal": "no" }]),
            Value::Null,
            json!([{ "role": "user", "content": [text("a")] },
                { "role": "assistant", "content": [tool_use("c1", json!({ "x": 1 })), tool_use("c2", json!({}))] },
                { "role": "user", "content": [
                    { "type": "tool_result", "tool_use_id": "c1", "content": [text("one")] },
                    { "type": "tool_result", "tool_use_id": "c2" },
                    text("b"),
                ] },
                { "role": "assistant", "content": [text("ok"), tool_use("c3", json!({}))] },
                { "role": "user", "content": [
                    { "type": "tool_result", "tool_use_id": "c3", "content": [text("three")] } ] },
                { "role": "assistant", "content": [text("no")] }]),
        ),
    ]
}

#[test]
fn conversations_become_turns() {
    for (messages, system, turns) in conversations() {
        let body = translated(&with(messages.clone(), json!({})));
        assert_eq!(body["messages"], turns, "{messages}");
        assert_eq!(body["system"], system, "{messages}");
    }
}

#[test]
fn nothing_is_asked_for_that_the_client_did_not_ask() {
    let body = with(
        user(json!("hi")),
        json!({ "stream": false, "stop": null, "tools": null, "temperature": null,
        "top_p": null, "n": 1, "logprobs": false, "presence_penalty": 0, "response_format": { "type": "text" },
        "seed": 7, "store": true, "metadata": { "a": "b" }, "reasoning_effort": "low", "made_up": [1] }),
    );
    let expected = json!({ "model": "claude-x", "max_tokens": 4096,
        "messages": [{ "role": "user", "content": [text("hi")] }] });
    assert_eq!(translated(&body), expected);
}

#[test]
fn settings_are_passed_on_under_their_other_names() {
    for (given, expected) in [
        (json!({ "max_tokens": 7 }), json!({ "max_tokens": 7 })),
        (json!({ "max_tokens": 7, "max_completion_tokens": 9 }), json!({ "max_tokens": 9 })),
        (json!({ "stop": "x" }), json!({ "stop_sequences": ["x"] })),
        (json!({ "stop": ["x", "y"] }), json!({ "stop_sequences": ["x", "y"] })),
        (json!({ "temperature": 0.2 }), json!({ "temperature": 0.2 })),
        (json!({ "temperature": 1.7 }), json!({ "temperature": 1.0 })),
        (json!({ "top_p": 0.5, "top_k": 40 }), json!({ "top_p": 0.5, "top_k": 40 })),
        (json!({ "temperature": 0.2, "top_p": 0.5 }), json!({ "temperature": 0.2, "top_p": null })),
        (json!({ "thinking": { "type": "adaptive" } }), json!({ "thinking": { "type": "adaptive" } })),
        (json!({ "cache_control": { "type": "ephemeral" } }), json!({ "cache_control": { "type": "ephemeral" } })),
        (
            json!({ "response_format": { "type": "json_schema", "json_schema":
                { "name": "x", "strict": true, "schema": { "type": "object", "properties": {} } } } }),
            json!({ "output_config": { "format":
                { "type": "json_schema", "schema": { "type": "object", "properties": {} } } } }),
        ),
        (json!({ "user": "u1" }), json!({ "metadata": { "user_id": "u1" } })),
        (json!({ "stream": true, "stream_options": { "include_usage": true } }), json!({ "stream": true })),
    ] {
        let body = translated(&with(user(json!("hi")), given));
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&body[name], value);
        }
        assert!(body.get("stream_options").is_none());
    }
}

#[test]
fn tools_and_their_choice_are_passed_on() {
    let parameters = json!({ "type": "object", "properties": { "x": { "type": "number" } } });
    let look = json!({ "type": "function",
        "function": { "name": "look", "description": "d", "parameters": parameters, "strict": true } });
    let go = json!({ "type": "function", "function": { "name": "go" } });
    let tools = json!([look, go]);
    let expected = json!([{ "name": "look", "description": "d", "input_schema": parameters },
        { "name": "go", "input_schema": { "type": "object", "properties": {} } }]);
    for (choice, parallel, chosen) in [
        (Value::Null, Value::Null, Value::Null),
        (json!("auto"), Value::Null, json!({ "type": "auto" })),
        (json!("none"), json!(false), json!({ "type": "none" })),
        (json!("required"), json!(true), json!({ "type": "any" })),
        (Value::Null, json!(false), json!({ "type": "auto", "disable_parallel_tool_use": true })),
        (
            json!({ "type": "function", "function": { "name": "go" } }),
            json!(false),
            json!({ "type": "tool", "name": "go", "disable_parallel_tool_use": true }),
        ),
    ] {
        let more = json!({ "tools": tools, "tool_choice": choice, "parallel_tool_calls": parallel });
        let body = translated(&with(user(json!("hi")), more));
        assert_eq!((&body["tools"], &body["tool_choice"]), (&expected, &chosen), "{choice}");
    }
    let without = translated(&with(user(json!("hi")), json!({ "tool_choice": "auto", "tools": [] })));
    assert!(without.get("tools").is_none() && without.get("tool_choice").is_none());
}

#[test]
fn the_arguments_of_a_tool_are_said_to_be_an_object() {
    let some = json!({ "x": { "type": "number" } });
    for (parameters, schema) in [
        (json!({}), json!({ "type": "object" })),
        (json!({ "properties": some }), json!({ "type": "object", "properties": some })),
        (json!({ "type": "object", "required": [] }), json!({ "type": "object", "required": [] })),
        (Value::Null, json!({ "type": "object", "properties": {} })),
    ] {
        let tools = json!([{ "type": "function", "function": { "name": "go", "parameters": parameters } }]);
        let body = translated(&with(user(json!("hi")), json!({ "tools": tools })));
        assert_eq!(body["tools"], json!([{ "name": "go", "input_schema": schema }]));
    }
}

#[test]
fn tools_that_were_called_and_are_not_given_any_more_are_known_and_not_called() {
    let call = |name: &str| json!({ "id": name, "type": "function", "function": { "name": name, "arguments": "{}" } });
    let result = |name: &str| json!({ "role": "tool", "tool_call_id": name, "content": "done" });
    let messages = json!([{ "role": "user", "content": "a" },
        { "role": "assistant", "tool_calls": [call("look"), call("go")] }, result("look"), result("go"),
        { "role": "assistant", "tool_calls": [call("look")] }, result("look")]);
    let schema = json!({ "type": "object", "properties": {} });
    let body = translated(&with(messages.clone(), json!({})));
    let known = json!([{ "name": "go", "input_schema": schema }, { "name": "look", "input_schema": schema }]);
    assert_eq!((&body["tools"], &body["tool_choice"]), (&known, &json!({ "type": "none" })));
    let tools = json!([{ "type": "function", "function": { "name": "go" } }]);
    let body = translated(&with(messages, json!({ "tools": tools })));
    assert_eq!(
        (&body["tools"][0]["name"], &body["tools"][1], body.get("tool_choice")),
        (&json!("go"), &Value::Null, None)
    );
}

#[test]
fn what_would_be_lost_is_refused_and_its_field_is_named() {
    for (name, value) in [
        ("n", json!(2)),
        ("logprobs", json!(true)),
        ("top_logprobs", json!(3)),
        ("logit_bias", json!({ "50256": -100 })),
        ("presence_penalty", json!(0.5)),
        ("frequency_penalty", json!(-1)),
        ("response_format", json!({ "type": "json_object" })),
        ("response_format", json!({ "type": "json_schema", "json_schema": { "name": "x" } })),
        ("response_format", json!("json_schema")),
        ("response_format", json!({ "type": "json_schema", "json_schema": 7 })),
        ("stop", json!(["x", " \n"])),
        ("functions", json!([{ "name": "old" }])),
        ("function_call", json!("auto")),
        ("modalities", json!(["text", "audio"])),
        ("audio", json!({ "voice": "alloy" })),
        ("web_search_options", json!({})),
        ("max_tokens", json!("many")),
        ("max_tokens", json!(-1)),
        ("temperature", json!("hot")),
        ("stop", json!(7)),
        ("user", json!(7)),
        ("tools", json!([{ "type": "custom", "custom": { "name": "x" } }])),
        ("tools", json!([{ "type": "function" }])),
        ("tools", json!([{ "function": { "name": "x" } }])),
    ] {
        let body = with(user(json!("secret words")), json!({ name: value }));
        let wrong = translate(&request(&body), "m", 1).unwrap_err();
        assert_eq!(wrong.param, Some(name), "{value}");
        assert!(wrong.message.contains("provider") || wrong.message.contains("is not"), "{wrong}");
    }
    let tools = json!([{ "type": "function", "function": { "name": "go" } }]);
    for choice in [json!("always"), json!({ "type": "allowed_tools" }), json!({ "type": "function" }), json!(1)] {
        let body = with(user(json!("hi")), json!({ "tools": tools, "tool_choice": choice }));
        assert_eq!(translate(&request(&body), "m", 1).unwrap_err().param, Some("tool_choice"));
    }
}

#[test]
fn messages_that_have_no_counterpart_are_refused_without_repeating_them() {
    let call = |arguments: &str| {
        json!([{ "role": "user", "content": "a" }, { "role": "assistant", "tool_calls": [
            { "id": "c", "type": "function", "function": { "name": "f", "arguments": arguments } }] }])
    };
    for messages in [
        json!([{ "role": "system", "content": "secret words" }]),
        json!([{ "role": "user", "content": "" }]),
        json!([{ "role": "user", "content": 7 }]),
        json!([{ "role": "function", "name": "f", "content": "secret words" }]),
        json!([{ "role": "tool", "content": "secret words" }]),
        json!([{ "role": "assistant", "content": "a", "audio": { "id": "x" } }]),
        json!([{ "role": "assistant", "function_call": { "name": "f", "arguments": "secret words" } }]),
        json!([{ "role": "assistant", "tool_calls": [{ "id": "c", "type": "custom", "custom": { "input": "secret" } }] }]),
        call("secret words"),
        call("[1]"),
        user(json!([{ "type": "input_audio", "input_audio": { "data": "secret" } }])),
        user(json!([{ "type": "file", "file": { "file_data": "secret" } }])),
        user(json!([{ "type": "image_url", "image_url": { "url": "secret words" } }])),
        user(json!([{ "type": "image_url", "image_url": { "url": "data:image/svg+xml,secret" } }])),
        json!([{ "role": "system", "content": [{ "type": "image_url", "image_url": { "url": "https://secret" } }] }]),
    ] {
        let wrong = translate(&request(&with(messages.clone(), json!({}))), "m", 1).unwrap_err();
        assert_eq!(wrong.param, Some("messages"), "{messages}");
        assert!(!wrong.message.contains("secret"), "{wrong}");
    }
}

const WORDS: [&str; 9] =
    ["function", "text", "user", "tool", "assistant", "image_url", "data:a;base64,b", "json_schema", "{}"];
const NAMES: [&str; 16] = [
    "role",
    "content",
    "type",
    "function",
    "name",
    "arguments",
    "id",
    "tool_calls",
    "tool_call_id",
    "parameters",
    "url",
    "image_url",
    "text",
    "json_schema",
    "schema",
    "refusal",
];

/// Any JSON, and what the fields of a request hold among it.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(&WORDS[..]).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(select(&NAMES[..]).prop_map(String::from), inner, 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_a_client_sends_is_translated_or_refused(
        message in anything(),
        fields in proptest::collection::btree_map(
            select(&["tools", "tool_choice", "stop", "response_format", "temperature", "n", "max_tokens", "user"][..]),
            anything(),
            0..4,
        ),
    ) {
        let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }, message] });
        body.as_object_mut().unwrap().extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
        if let Ok(request) = Request::parse(Kind::Chat, body.to_string().as_bytes()) {
            match translate(&request, "claude-x", 4096) {
                Ok(theirs) => prop_assert!(serde_json::from_slice::<Value>(&theirs).is_ok()),
                Err(wrong) => prop_assert!(wrong.param.is_some()),
            }
        }
    }
}
