//! The client of the AI services against the simulated one, as each provider speaks.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::receiver::eventually;
use serde_json::{Value, json};
use tidegate::client::{Ai, AiService, Provider, Refusal, Stream};
use tidegate::domain::answer::Tokens;
use tidegate::domain::completion::{Kind, Request};
use tidegate::domain::prompt::{History, Prompt, Role};
use tidegate::domain::secret::Secret;
use tidegate::domain::time::Timestamp;
use tidegate::domain::verdict::Failure;
use tidegate::simulate::ai::{self, Behaviour, Quota};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const PROVIDERS: [Provider; 3] = [Provider::Openai, Provider::Azure, Provider::Anthropic];
const NOW: Timestamp = Timestamp(1_767_225_600_000);
const LONG: Duration = Duration::from_secs(10);

async fn simulator() -> ai::Ai {
    let options = ai::Options { key: Some("k".into()), ..ai::Options::default() };
    ai::Ai::start(LOOPBACK, options).await.unwrap()
}

fn service(simulator: &ai::Ai, provider: Provider) -> AiService<(), ()> {
    let base_url = match provider {
        Provider::Openai => format!("{}/v1", simulator.url()),
        Provider::Azure | Provider::Anthropic => simulator.url(),
    };
    let (api_key, model) = (Secret::new("k"), "simulated".into());
    AiService { provider, base_url, api_key, model, timeout: LONG, ..AiService::default() }
}

fn client(simulator: &ai::Ai, provider: Provider) -> Ai {
    Ai::new(&service(simulator, provider), "to_human").unwrap()
}

fn chat(text: &str, stream: bool) -> Request {
    let messages = json!([{ "role": "system", "content": "be kind" }, { "role": "user", "content": "[ref:9]" },
        { "role": "assistant", "content": "ok" }, { "role": "user", "content": text }]);
    let tools = json!([{ "type": "function", "function": { "name": "look", "parameters": { "type": "object" } } }]);
    let body = json!({ "model": "m", "messages": messages, "tools": tools, "stream": stream });
    Request::parse(Kind::Chat, body.to_string().as_bytes()).unwrap()
}

async fn complete(ai: &Ai, text: &str) -> Result<(Value, Tokens, Option<u64>), Refusal> {
    let completion = ai.complete(&chat(text, false), ai.model(), LONG, NOW).await?;
    Ok((serde_json::from_slice(&completion.body).unwrap(), completion.tokens, completion.limit_requests))
}

async fn stream(ai: &Ai, text: &str) -> Result<Stream, Refusal> {
    ai.stream(&chat(text, true), ai.model(), LONG, NOW).await
}

/// All chunks' bodies up to the end, and the tokens told last.
async fn drained(mut stream: Stream) -> (Vec<Value>, Option<Tokens>, Result<(), Failure>) {
    let (mut bodies, mut tokens) = (Vec::new(), None);
    loop {
        match stream.next().await {
            Ok(Some(chunk)) => {
                let data = chunk.bytes.strip_prefix(b"data: ").and_then(|data| data.strip_suffix(b"\n\n"));
                bodies.push(serde_json::from_slice(data.unwrap()).unwrap());
                tokens = chunk.tokens.or(tokens);
                assert_eq!(chunk.usage_only, chunk.tokens.is_some());
            }
            Ok(None) => return (bodies, tokens, Ok(())),
            Err(failure) => return (bodies, tokens, Err(failure)),
        }
    }
}

fn said(chunks: &[Value]) -> String {
    chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/delta/content")?.as_str()).collect()
}

#[tokio::test]
async fn a_conversation_is_answered_by_every_provider() {
    for provider in PROVIDERS {
        let simulator = simulator().await;
        let ai = client(&simulator, provider);
        let mut history = History::default();
        history.add(Role::Assistant, "hello", 20);
        history.add(Role::User, "[ref:7]", 20);
        let ask = |text: &'static str| {
            let prompt = Prompt::new("be kind", &history, &[text, "please"], Vec::new());
            let ai = &ai;
            async move { ai.ask(&prompt, NOW).await.1 }
        };
        let answer = ask("one [ref:00000001]").await.unwrap();
        // Strict about neighbours of one role, Anthropic sees the last two turns as one.
        let expected = match provider {
            Provider::Anthropic => "Answer to [ref:00000007] [ref:00000001]",
            Provider::Openai | Provider::Azure => "Answer to [ref:00000001]",
        };
        assert_eq!((answer.text.as_str(), answer.handoff), (expected, false), "{provider:?}");
        // Seven words at 1.3 tokens each.
        assert_eq!(answer.tokens.input, 10, "{provider:?}");
        assert!(ask("[[ai:handoff]]").await.unwrap().handoff, "{provider:?}");
        assert_eq!(ask("[[ai:refuse]]").await, Err(Failure::ContentRefused), "{provider:?}");
        assert_eq!(ask("[[ai:503]]").await, Err(Failure::Unavailable(503)), "{provider:?}");
        assert_eq!(ask("[[ai:400]]").await, Err(Failure::Rejected(400)), "{provider:?}");
        simulator.behave(Behaviour { malformed: true, ..Behaviour::default() });
        assert_eq!(ask("hi").await, Err(Failure::Garbled), "{provider:?}");
        simulator.behave(Behaviour { down: true, ..Behaviour::default() });
        assert_eq!(ask("hi").await, Err(Failure::Connect), "{provider:?}");
    }
}

#[tokio::test]
async fn every_provider_gives_the_same_completion() {
    for provider in PROVIDERS {
        let simulator = simulator().await;
        let quota = vec![Quota { requests: 50, per_ms: 60_000 }];
        simulator.behave(Behaviour { quota, ..Behaviour::default() });
        let ai = client(&simulator, provider);
        let (body, tokens, limit) = complete(&ai, "one [ref:00000001]").await.unwrap();
        assert_eq!(body["object"], "chat.completion");
        assert_eq!(body["model"], "simulated", "{provider:?}");
        assert_eq!(body["choices"][0]["message"]["content"], "Answer to [ref:00000001]", "{provider:?}");
        assert_eq!(body["choices"][0]["finish_reason"], "stop");
        assert!(body["created"].as_u64() > Some(1_700_000_000) && body["id"].as_str().is_some_and(|id| id.len() > 8));
        // Six words asked and three answered, at 1.3 tokens a word; also what came from a cache counts.
        assert_eq!((tokens, limit), (Tokens { input: 8, cached_input: 2, output: 4 }, Some(50)), "{provider:?}");
        assert_eq!((&body["usage"]["prompt_tokens"], &body["usage"]["total_tokens"]), (&json!(8), &json!(12)));
        let (body, ..) = complete(&ai, "[[ai:handoff]]").await.unwrap();
        let choice = &body["choices"][0];
        assert_eq!(choice["message"]["tool_calls"][0]["function"], json!({ "name": "look", "arguments": "{}" }));
        assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
        let (body, ..) = complete(&ai, "[[ai:refuse]]").await.unwrap();
        assert_eq!(body["choices"][0]["finish_reason"], "content_filter", "{provider:?}");
        assert_eq!(simulator.stats().ok, 3);
    }
}

#[tokio::test]
async fn every_provider_streams_the_same_answer() {
    for provider in PROVIDERS {
        let simulator = simulator().await;
        let quota = vec![Quota { requests: 50, per_ms: 60_000 }];
        simulator.behave(Behaviour { reply_chars: 300, chunk_gap_ms: 1, quota, ..Behaviour::default() });
        let ai = client(&simulator, provider);
        let open = stream(&ai, "[ref:00000001]").await.unwrap();
        assert_eq!(open.limit_requests, Some(50), "{provider:?}");
        let (chunks, tokens, end) = drained(open).await;
        assert_eq!(end, Ok(()), "{provider:?}");
        let text = said(&chunks);
        assert!(text.len() == 300 && text.starts_with("Answer to [ref:00000001]"), "{provider:?}: {text}");
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        assert!(
            chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == chunks[0]["id"])
        );
        let reasons: Vec<&Value> = chunks
            .iter()
            .filter_map(|chunk| chunk.pointer("/choices/0/finish_reason"))
            .filter(|it| !it.is_null())
            .collect();
        assert_eq!(reasons, ["stop"]);
        let usage = &chunks.last().unwrap()["usage"];
        let tokens = tokens.unwrap();
        assert_eq!(
            (usage["prompt_tokens"].as_u64(), usage["completion_tokens"].as_u64()),
            (Some(tokens.input), Some(tokens.output))
        );
        assert!(tokens.input == 7 && tokens.output > 50, "{provider:?}: {tokens:?}");
        let (chunks, _, end) = drained(stream(&ai, "[[ai:handoff]]").await.unwrap()).await;
        let calls = chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/delta/tool_calls/0"));
        let arguments: String = calls.clone().filter_map(|call| call["function"]["arguments"].as_str()).collect();
        let names: Vec<&str> = calls.filter_map(|call| call["function"]["name"].as_str()).collect();
        assert_eq!((names, arguments.as_str(), end), (vec!["look"], "{}", Ok(())), "{provider:?}");
        eventually("the end of the calls", || simulator.stats().in_flight == 0).await;
        assert_eq!((simulator.stats().ok, simulator.stats().aborted_by_client), (2, 0));
    }
}

#[tokio::test]
async fn a_used_up_quota_is_told_with_its_wait() {
    for provider in PROVIDERS {
        let simulator = simulator().await;
        let quota = vec![Quota { requests: 0, per_ms: 10 }];
        simulator.behave(Behaviour { quota, retry_after: Some(7), ..Behaviour::default() });
        let ai = client(&simulator, provider);
        for refusal in [complete(&ai, "hi").await.err().unwrap(), stream(&ai, "hi").await.err().unwrap()] {
            assert_eq!(refusal.failure, Failure::Throttled(Some(Duration::from_secs(7))), "{provider:?}");
            assert_eq!(refusal.status, Some(429));
            let body: Value = serde_json::from_slice(&refusal.body.unwrap()).unwrap();
            assert_eq!(body["error"]["type"], "rate_limit_error", "{provider:?}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_stops_short_is_no_answer() {
    for provider in PROVIDERS {
        let simulator = simulator().await;
        let ai = client(&simulator, provider);
        simulator.behave(Behaviour { break_stream_after: 4, ..Behaviour::default() });
        let (chunks, _, end) = drained(stream(&ai, "hi").await.unwrap()).await;
        assert_eq!((chunks.len() > 1, end), (true, Err(Failure::Connect)), "{provider:?}");
        simulator.behave(Behaviour { stream_error_after: 4, ..Behaviour::default() });
        let (chunks, _, end) = drained(stream(&ai, "hi").await.unwrap()).await;
        let status = if provider == Provider::Anthropic { 529 } else { 500 };
        assert_eq!((chunks.len() > 1, end), (true, Err(Failure::Unavailable(status))), "{provider:?}");
        assert_eq!((simulator.stats().ok, simulator.stats().errors), (0, 2));
    }
}

#[tokio::test]
async fn a_silent_stream_is_given_up_and_the_provider_learns_it() {
    for provider in PROVIDERS {
        let simulator = simulator().await;
        simulator.behave(Behaviour { chunk_gap_ms: 4_000, ..Behaviour::default() });
        let service = AiService { timeout: Duration::from_secs(1), ..service(&simulator, provider) };
        let ai = Ai::new(&service, "").unwrap();
        let (chunks, _, end) = drained(stream(&ai, "hi").await.unwrap()).await;
        assert_eq!((chunks.len(), end), (1, Err(Failure::Timeout)), "{provider:?}");
        eventually("the abort", || simulator.stats().aborted_by_client == 1).await;
        assert_eq!(simulator.stats().in_flight, 0);
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_is_aborted_at_the_provider() {
    for provider in PROVIDERS {
        let simulator = simulator().await;
        let ai = client(&simulator, provider);
        simulator.behave(Behaviour { reply_chars: 9000, chunk_gap_ms: 20, ..Behaviour::default() });
        let mut open = stream(&ai, "hi").await.unwrap();
        open.next().await.unwrap().unwrap();
        assert_eq!((simulator.stats().in_flight, simulator.stats().aborted_by_client), (1, 0));
        drop(open);
        eventually("the abort", || simulator.stats().aborted_by_client == 1).await;
        tokio::select! {
            _ = stream(&ai, "[[ai:hang]]") => panic!("it does not hang"),
            () = eventually("it hangs", || simulator.stats().hung == 1) => {}
        }
        eventually("the abort", || simulator.stats().aborted_by_client == 2).await;
        let refusal = ai.complete(&chat("[[ai:hang]]", false), ai.model(), Duration::from_secs(1), NOW).await;
        assert_eq!(
            refusal.err(),
            Some(Refusal { failure: Failure::Timeout, status: None, body: None, retry_after: None })
        );
        eventually("the abort", || simulator.stats().aborted_by_client == 3).await;
    }
}

#[tokio::test]
async fn embeddings_are_given_by_those_who_have_them() {
    let simulator = simulator().await;
    let body = json!({ "model": "m", "input": ["a b", "c"], "dimensions": 3, "encoding_format": "base64" });
    let request = Request::parse(Kind::Embeddings, body.to_string().as_bytes()).unwrap();
    for provider in [Provider::Openai, Provider::Azure] {
        let completion = client(&simulator, provider).complete(&request, "simulated", LONG, NOW).await.unwrap();
        let body: Value = serde_json::from_slice(&completion.body).unwrap();
        assert_eq!((&body["object"], &body["model"]), (&json!("list"), &json!("simulated")), "{provider:?}");
        assert_eq!(body["data"][1]["embedding"].as_str().map(str::len), Some(16), "{provider:?}");
        assert_eq!(completion.tokens, Tokens { input: 3, ..Tokens::default() });
    }
    assert_eq!(simulator.stats().ok, 2);
    simulator.behave(Behaviour { status: 503, ..Behaviour::default() });
    let refusal = client(&simulator, Provider::Openai).complete(&request, "simulated", LONG, NOW).await.unwrap_err();
    assert_eq!(refusal.failure, Failure::Unavailable(503));
    let refusal = client(&simulator, Provider::Anthropic).complete(&request, "simulated", LONG, NOW).await.unwrap_err();
    assert_eq!((refusal.failure, simulator.stats().calls), (Failure::Rejected(400), 3));
}

#[tokio::test]
async fn a_wrong_key_is_the_operators_business_alone() {
    let simulator = simulator().await;
    for provider in PROVIDERS {
        let service = AiService { api_key: Secret::new("wrong"), ..service(&simulator, provider) };
        let refusal = complete(&Ai::new(&service, "").unwrap(), "hi").await.unwrap_err();
        assert_eq!(
            refusal,
            Refusal { failure: Failure::Unusable(401), status: Some(401), body: None, retry_after: None }
        );
    }
}
