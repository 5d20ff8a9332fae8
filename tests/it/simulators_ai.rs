//! The simulated AI service, driven over HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::receiver::{client, eventually};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tidegate::simulate::Ai;
use tidegate::simulate::ai::{Behaviour, Options, Peak, Quota};
use tidegate::simulate::reference::Reference;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

struct Service {
    ai: Ai,
    client: reqwest::Client,
}

impl Service {
    async fn start() -> Self {
        Self { ai: Ai::start(LOOPBACK, Options::default()).await.unwrap(), client: client() }
    }

    async fn behaving(behaviour: Behaviour) -> Self {
        let service = Self::start().await;
        service.ai.behave(behaviour);
        service
    }

    async fn send(&self, body: &Value) -> reqwest::Result<Response> {
        self.client.post(format!("{}/v1/chat/completions", self.ai.url())).json(body).send().await
    }

    async fn ask(&self, text: &str) -> Response {
        self.send(&question(text)).await.unwrap()
    }

    async fn answer(&self, text: &str) -> Value {
        let answer = self.ask(text).await;
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }
}

fn question(text: &str) -> Value {
    let tools = json!([{ "type": "function", "function": { "name": "to_human", "parameters": {} } }]);
    let history = json!([{ "role": "system", "content": "be kind" }, { "role": "user", "content": "[ref:9]" },
        { "role": "assistant", "content": "ok" }, { "role": "user", "content": text }]);
    json!({ "model": "m1", "messages": history, "tools": tools })
}

fn said(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[tokio::test]
async fn the_answer_names_the_references_of_the_last_user_message() {
    let service = Service::start().await;
    let answer = service.answer("one [ref:00000001] two [ref:00000002]").await;
    assert_eq!(said(&answer), "Answer to [ref:00000001] [ref:00000002]");
    assert_eq!((answer["model"].as_str(), answer["choices"][0]["finish_reason"].as_str()), (Some("m1"), Some("stop")));
    // Eight words asked (be kind, [ref:9], ok, one [..] two [..]) and four answered, at 1.3 tokens a word.
    assert_eq!(
        answer["usage"],
        json!({ "prompt_tokens": 11, "completion_tokens": 6, "total_tokens": 17, "prompt_tokens_details": { "cached_tokens": 2 } })
    );
    service.answer("again [ref:00000002]").await;
    let stats = service.ai.stats();
    assert_eq!((stats.calls, stats.ok, stats.references_seen, stats.asked_more_than_once), (2, 2, 2, 1));
    assert_eq!((service.ai.asked(Reference(2)), service.ai.asked(Reference(9))), (2, 0));
    assert_eq!(service.ai.calls_at_ms().len(), 2);
}

#[tokio::test]
async fn a_stream_adds_up_and_ends_with_usage_and_done() {
    let service = Service::behaving(Behaviour { reply_chars: 300, chunk_gap_ms: 1, ..Behaviour::default() }).await;
    let mut body = question("[ref:00000001]");
    body["stream"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    let text = service.send(&body).await.unwrap().text().await.unwrap();
    let events: Vec<&str> = text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(*done, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    let delta = |chunk: &Value| chunk.pointer("/choices/0/delta/content").and_then(Value::as_str).map(str::to_owned);
    let whole: String = chunks.iter().filter_map(delta).collect();
    assert!(whole.len() == 300 && whole.starts_with("Answer to [ref:00000001]"), "{whole}");
    assert!(chunks.last().unwrap()["usage"]["total_tokens"].as_u64().unwrap() > 0);
    eventually("the end of the call", || service.ai.stats().in_flight == 0).await;
    assert_eq!(service.ai.stats().aborted_by_client, 0);
}

#[tokio::test]
async fn a_broken_stream_breaks_the_connection() {
    let service = Service::behaving(Behaviour { break_stream_after: 2, ..Behaviour::default() }).await;
    let mut body = question("hi");
    body["stream"] = json!(true);
    let answer = service.send(&body).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.is_err());
    assert_eq!((service.ai.stats().ok, service.ai.stats().errors), (0, 1));
}

#[tokio::test]
async fn beyond_the_quota_calls_get_429_and_early_ones_are_counted() {
    let quota = vec![Quota { requests: 2, per_ms: 5_000 }, Quota { requests: 100, per_ms: 60_000 }];
    let service = Service::behaving(Behaviour { quota, ..Behaviour::default() }).await;
    let first = service.ask("hi").await;
    let header = |answer: &Response, name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header(&first, "x-ratelimit-limit-requests"), "2");
    assert_eq!(header(&first, "x-ratelimit-remaining-requests"), "1");
    assert_eq!(header(&first, "x-ratelimit-reset-requests"), "5s");
    assert_eq!(service.ask("hi").await.status(), 200);
    let refused = service.ask("hi").await;
    assert_eq!((refused.status(), header(&refused, "retry-after").as_str()), (StatusCode::TOO_MANY_REQUESTS, "5"));
    let wait_ms: u64 = header(&refused, "retry-after-ms").parse().unwrap();
    assert!((1..=5_000).contains(&wait_ms));
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["code"], "rate_limit_exceeded");
    assert_eq!(service.ask("hi").await.status(), 429);
    assert_eq!((service.ai.stats().status_429, service.ai.stats().calls_before_retry_after), (2, 1));
    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    assert_eq!(service.ask("hi").await.status(), 200, "the told wait was exact");
    let stats = service.ai.stats();
    assert_eq!(stats.calls_before_retry_after, 1);
    assert_eq!(stats.max_in_window[1], Peak { requests: 100, per_ms: 60_000, max_in_window: 5 });
    assert_eq!(stats.max_in_window[0].max_in_window, 4);
}

#[tokio::test]
async fn a_fixed_retry_after_is_told_as_it_is() {
    let quota = vec![Quota { requests: 0, per_ms: 10 }];
    let service = Service::behaving(Behaviour { quota, retry_after: Some(7), ..Behaviour::default() }).await;
    let refused = service.ask("hi").await;
    assert_eq!((refused.headers()["retry-after"].to_str().unwrap(), refused.status().as_u16()), ("7", 429));
}

#[tokio::test]
async fn failures_come_as_asked() {
    let service = Service::start().await;
    service.ai.behave(Behaviour { error_rate: 1.0, error_status: 502, ..Behaviour::default() });
    assert_eq!(service.ask("hi").await.status(), 502);
    service.ai.behave(Behaviour { status: 401, ..Behaviour::default() });
    assert_eq!(service.ask("hi").await.json::<Value>().await.unwrap()["error"]["type"], "authentication_error");
    service.ai.behave(Behaviour { malformed: true, ..Behaviour::default() });
    assert!(service.ask("hi").await.json::<Value>().await.is_err());
    service.ai.behave(Behaviour { down: true, ..Behaviour::default() });
    let cut = service.send(&question("hi")).await.unwrap_err();
    assert!(!cut.is_timeout() && !cut.is_connect(), "{cut:?}");
    service.ai.behave(Behaviour { empty: true, finish_reason: "length".into(), ..Behaviour::default() });
    let empty = service.answer("hi").await;
    assert_eq!((said(&empty), empty["choices"][0]["finish_reason"].as_str()), ("", Some("length")));
    service.ai.behave(Behaviour { tool_call: Some("look_up".into()), ..Behaviour::default() });
    let call = service.answer("hi").await["choices"][0].clone();
    assert_eq!(call["message"]["tool_calls"][0]["function"]["name"], "look_up");
    assert_eq!(call["finish_reason"], "tool_calls");
    assert_eq!(service.send(&json!({ "model": "m" })).await.unwrap().status(), 400);
    let stats = service.ai.stats();
    assert_eq!((stats.calls, stats.ok, stats.errors, stats.in_flight), (7, 2, 5, 0));
}

#[tokio::test]
async fn triggers_in_the_text_make_single_calls_fail() {
    let service = Service::start().await;
    assert_eq!(service.ask("[[ai:500]]").await.status(), 500);
    assert_eq!(service.ask("[[ai:400]]").await.status(), 400);
    let refusal = service.answer("[[ai:refuse]]").await;
    assert_eq!(refusal["choices"][0]["finish_reason"], "content_filter");
    let handoff = service.answer("[[ai:handoff]]").await;
    assert_eq!(handoff["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "to_human");
    assert_eq!(said(&service.answer("[[ai:long:9000]]").await).len(), 9000);
    let begun = tokio::time::Instant::now();
    service.answer("[[ai:slow:120]]").await;
    assert!(begun.elapsed() >= Duration::from_millis(120));
    assert_eq!(said(&service.answer("plain").await), "Answer to you");
}

#[tokio::test]
async fn a_hanging_call_is_counted_when_its_client_leaves() {
    let service = Service::start().await;
    let body = question("[[ai:hang]]");
    tokio::select! {
        _ = service.send(&body) => panic!("it does not hang"),
        () = eventually("it hangs", || service.ai.stats().hung == 1) => {}
    }
    eventually("the abort", || service.ai.stats().aborted_by_client == 1).await;
    let stats = service.ai.stats();
    assert_eq!((stats.hung, stats.in_flight, stats.in_flight_max, stats.ok), (1, 0, 1, 0));
}

#[tokio::test]
async fn calls_under_way_are_counted() {
    let service =
        Service::behaving(Behaviour { latency_ms: 1_500, latency_jitter_ms: 20, ..Behaviour::default() }).await;
    let all = futures_util::future::join_all((0..8).map(|_| service.ask("hi"))).await;
    assert!(all.iter().all(|answer| answer.status() == 200));
    assert_eq!((service.ai.stats().in_flight_max, service.ai.stats().in_flight), (8, 0));
}

#[tokio::test]
async fn a_key_is_demanded_when_one_is_set() {
    let ai =
        Ai::start(LOOPBACK, Options { key: Some("k".into()), models: vec!["a".into(), "b".into()] }).await.unwrap();
    let models = |key: &str| client().get(format!("{}/v1/models", ai.url())).bearer_auth(key).send();
    assert_eq!(models("wrong").await.unwrap().status(), 401);
    let listed: Value = models("k").await.unwrap().json().await.unwrap();
    assert_eq!((listed["data"][1]["id"].as_str(), listed["object"].as_str()), (Some("b"), Some("list")));
    let anonymous =
        client().post(format!("{}/v1/chat/completions", ai.url())).json(&question("hi")).send().await.unwrap();
    assert_eq!((anonymous.status().as_u16(), ai.stats().calls), (401, 0));
}

#[tokio::test]
async fn embeddings_come_as_numbers_or_packed() {
    let service = Service::start().await;
    let url = format!("{}/v1/embeddings", service.ai.url());
    let ask = |body: Value| service.client.post(&url).json(&body).send();
    let plain: Value = ask(json!({ "model": "e", "input": ["a", "b"] })).await.unwrap().json().await.unwrap();
    assert_eq!(
        (plain["data"].as_array().unwrap().len(), plain["data"][0]["embedding"].as_array().unwrap().len()),
        (2, 8)
    );
    assert_ne!(plain["data"][0]["embedding"], plain["data"][1]["embedding"]);
    let body = json!({ "model": "e", "input": "a", "encoding_format": "base64", "dimensions": 3 });
    let packed: Value = ask(body).await.unwrap().json().await.unwrap();
    assert_eq!(packed["data"][0]["embedding"].as_str().unwrap().len(), 16);
}

#[tokio::test]
async fn behaviour_and_counts_are_served_over_http() {
    let service = Service::start().await;
    let url = |path: &str| format!("{}/sim/{path}", service.ai.url());
    let change = json!({ "quota": [{ "requests": 1, "per_ms": 60_000 }] });
    let changed = service.client.patch(url("behaviour")).json(&change).send().await.unwrap();
    assert_eq!(changed.json::<Value>().await.unwrap()["quota"], change["quota"]);
    assert_eq!([service.ask("hi").await.status(), service.ask("hi").await.status()], [200, 429]);
    let get = |path: &str| service.client.get(url(path)).send();
    assert_eq!(get("stats").await.unwrap().json::<Value>().await.unwrap()["max_in_window"][0]["max_in_window"], 2);
    assert_eq!(get("calls").await.unwrap().json::<Value>().await.unwrap()["calls"].as_array().unwrap().len(), 2);
    service.client.post(url("reset")).send().await.unwrap();
    assert_eq!((service.ai.stats().calls, service.ai.behaviour()), (0, Behaviour::default()));
}

#[tokio::test]
async fn dropping_the_last_handle_ends_hanging_calls() {
    let Service { ai, client } = Service::behaving(Behaviour { hang: true, ..Behaviour::default() }).await;
    let url = format!("{}/v1/chat/completions", ai.url());
    let hanging = client.post(&url).json(&question("hi")).send();
    let ending = async {
        eventually("the call", || ai.stats().hung == 1).await;
        let clone = ai.clone();
        drop(ai);
        assert_eq!(clone.stats().in_flight, 1, "a clone keeps it running");
    };
    let (answer, ()) = tokio::join!(hanging, ending);
    assert!(answer.is_err_and(|error| !error.is_timeout()));
    assert!(client.get(&url).send().await.is_err_and(|error| error.is_connect()));
}
