use super::*;

/// The deltas and reasons of these events, what the last chunk tells, and whether it ended.
fn read(events: &[Value]) -> (Vec<(Value, Value)>, Option<Value>, bool) {
    let mut reader = Reader::new(Timestamp(1_767_225_600_999));
    let (mut chunks, mut usage, mut ended) = (Vec::new(), None, false);
    for event in events {
        assert!(!ended, "nothing is read after the end");
        let chunk = match reader.read(event.to_string().as_bytes()).unwrap() {
            Step::Nothing => continue,
            Step::Done => panic!("the end comes with the tokens"),
            Step::Chunk(chunk) => chunk,
            Step::Last(chunk) => {
                ended = true;
                chunk
            }
        };
        let body = chunk.bytes.strip_prefix(b"data: ").and_then(|body| body.strip_suffix(b"\n\n")).unwrap();
        let mut body: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(body["object"], "chat.completion.chunk");
        assert_eq!(body["created"], 1_767_225_600);
        assert_eq!((&body["id"], &body["model"]), (&json!("msg_1"), &json!("claude-x")));
        assert_eq!((chunk.usage_only, chunk.tokens.is_some()), (ended, ended));
        if ended {
            assert_eq!(body["choices"], json!([]));
            usage = Some(body["usage"].take());
        } else {
            let choice = &body["choices"][0];
            chunks.push((choice["delta"].clone(), choice["finish_reason"].clone()));
        }
    }
    (chunks, usage, ended)
}

fn start() -> Value {
    let usage = json!({ "input_tokens": 25, "cache_read_input_tokens": 100, "output_tokens": 1 });
    let message = json!({ "id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "claude-x",
        "stop_reason": null, "usage": usage });
    json!({ "type": "message_start", "message": message })
}

fn block(index: u64, block: Value) -> Value {
    json!({ "type": "content_block_start", "index": index, "content_block": block })
}

fn delta(index: u64, delta: Value) -> Value {
    json!({ "type": "content_block_delta", "index": index, "delta": delta })
}

fn stop(index: u64) -> Value {
    json!({ "type": "content_block_stop", "index": index })
}

fn end(reason: &str) -> [Value; 2] {
    let usage = json!({ "output_tokens": 15 });
    let delta = json!({ "stop_reason": reason, "stop_sequence": null });
    [json!({ "type": "message_delta", "delta": delta, "usage": usage }), json!({ "type": "message_stop" })]
}

fn goes_on(delta: Value) -> (Value, Value) {
    (delta, Value::Null)
}

#[test]
fn a_text_comes_piece_by_piece_and_ends_with_the_tokens() {
    let text = |text: &str| json!({ "type": "text_delta", "text": text });
    let events = [
        &[start(), block(0, json!({ "type": "text", "text": "" })), json!({ "type": "ping" })][..],
        &[delta(0, text("Hel\"lo")), delta(0, text("")), delta(0, text(" ü\n")), stop(0)],
        &end("end_turn"),
    ]
    .concat();
    let (chunks, usage, ended) = read(&events);
    let expected = [
        goes_on(json!({ "role": "assistant", "content": "" })),
        goes_on(json!({ "content": "Hel\"lo" })),
        goes_on(json!({ "content": " ü\n" })),
        (json!({}), json!("stop")),
    ];
    assert_eq!(chunks, expected);
    let told = json!({ "prompt_tokens": 125, "completion_tokens": 15, "total_tokens": 140,
        "prompt_tokens_details": { "cached_tokens": 100 } });
    assert_eq!((usage, ended), (Some(told), true));
}

#[test]
fn calls_of_functions_are_numbered_and_always_have_arguments() {
    let call = |id: &str, name: &str| json!({ "type": "tool_use", "id": id, "name": name, "input": {} });
    let piece = |json: &str| json!({ "type": "input_json_delta", "partial_json": json });
    let events = [
        &[start(), block(0, json!({ "type": "thinking", "thinking": "" }))][..],
        &[delta(0, json!({ "type": "thinking_delta", "thinking": "hm" })), stop(0)],
        &[block(1, json!({ "type": "text", "text": "I look. " })), stop(1)],
        &[
            block(2, call("toolu_1", "look")),
            delta(2, piece("")),
            delta(2, piece("{\"a\":")),
            delta(2, piece("1}")),
            stop(2),
        ],
        &[block(3, call("toolu_2", "go")), delta(3, piece("")), stop(3)],
        &end("tool_use"),
    ]
    .concat();
    let begins = |index: u64, id: &str, name: &str| {
        let function = json!({ "name": name, "arguments": "" });
        goes_on(json!({ "tool_calls": [{ "index": index, "id": id, "type": "function", "function": function }] }))
    };
    let goes = |index: u64, piece: &str| {
        goes_on(json!({ "tool_calls": [{ "index": index, "function": { "arguments": piece } }] }))
    };
    let expected = [
        goes_on(json!({ "role": "assistant", "content": "" })),
        goes_on(json!({ "content": "I look. " })),
        begins(0, "toolu_1", "look"),
        goes(0, "{\"a\":"),
        goes(0, "1}"),
        begins(1, "toolu_2", "go"),
        goes(1, "{}"),
        (json!({}), json!("tool_calls")),
    ];
    assert_eq!(read(&events).0, expected);
}

#[test]
fn what_is_new_is_passed_over_and_what_is_broken_is_not() {
    let odd = [
        json!({ "type": "message_paused", "index": 3, "delta": { "x": 1 } }),
        block(9, json!({ "type": "hologram" })),
        delta(9, json!({ "type": "hologram_delta", "light": 1 })),
        delta(7, json!({ "type": "input_json_delta", "partial_json": "{" })),
        json!({ "type": "message_delta", "delta": {} }),
    ];
    assert_eq!(read(&[&[start()][..], &odd].concat()).0.len(), 1);
    for broken in ["", "{", "[]", "{}", "[DONE]"] {
        let refusal = Reader::new(Timestamp(0)).read(broken.as_bytes()).err();
        assert_eq!(refusal, Some(Refusal::of(Failure::Garbled)), "{broken}");
    }
}

#[test]
fn an_error_ends_it() {
    let event = |kind: &str| json!({ "type": "error", "error": { "type": kind, "message": "m" } }).to_string();
    for (kind, failure) in [
        ("overloaded_error", Failure::Unavailable(529)),
        ("rate_limit_error", Failure::Throttled(None)),
        ("api_error", Failure::Unavailable(500)),
    ] {
        let refusal = Reader::new(Timestamp(0)).read(event(kind).as_bytes()).err().unwrap();
        assert_eq!(refusal.failure, failure);
        let body: Value = serde_json::from_slice(&refusal.body.unwrap()).unwrap();
        assert_eq!(body["error"]["code"], kind);
    }
    let bare = Reader::new(Timestamp(0)).read(br#"{"type":"error"}"#).err();
    assert_eq!(bare, Some(Refusal::of(Failure::Unavailable(500))));
}
