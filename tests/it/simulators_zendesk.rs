//! The simulated Zendesk, driven over HTTP: its API, its faults, and what its judge notices.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::receiver::{Receiver, client, eventually};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tidegate::simulate::Zendesk;
use tidegate::simulate::quota::Quota;
use tidegate::simulate::zendesk::{Behaviour, Holder, Options};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const C: &str = "66f0a1b2c3d4e5f600000064";

struct Desk {
    zendesk: Zendesk,
    client: reqwest::Client,
}

impl Desk {
    async fn with(options: Options) -> Self {
        Self { zendesk: Zendesk::start(LOOPBACK, options).await.unwrap(), client: client() }
    }

    async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// A desk whose webhooks go to the receiver.
    async fn facing(receiver: &Receiver) -> Self {
        Self::with(Options { webhook_target: Some(receiver.url()), ..Options::default() }).await
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Response {
        self.try_call(method, path, body).await.unwrap()
    }

    async fn try_call(&self, method: Method, path: &str, body: &Value) -> reqwest::Result<Response> {
        let options = self.zendesk.options();
        let url = format!("{}/v2/apps/{}/conversations{path}", self.zendesk.url(), options.app_id);
        let request = self.client.request(method, url).basic_auth(&options.key_id, Some(&options.key_secret));
        if body.is_null() { request.send().await } else { request.json(body).send().await }
    }

    async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, &Value::Null).await.json().await.unwrap()
    }

    async fn post(&self, text: &str) -> Response {
        self.call(Method::POST, &format!("/{C}/messages"), &reply(text)).await
    }

    async fn action(&self, action: &str, body: &Value) -> StatusCode {
        self.call(Method::POST, &format!("/{C}/{action}"), body).await.status()
    }

    async fn sim(&self, method: Method, path: &str, body: &Value) -> Value {
        let request = self.client.request(method, format!("{}/sim/{path}", self.zendesk.url()));
        let answer = request.json(body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.unwrap()
    }

    fn texts(&self) -> Vec<String> {
        self.zendesk.messages(C).into_iter().map(|message| message.text).collect()
    }
}

fn reply(text: &str) -> Value {
    json!({ "author": { "type": "business" }, "content": { "type": "text", "text": text } })
}

async fn code(response: Response) -> String {
    let body: Value = response.json().await.unwrap();
    body.pointer("/errors/0/code").and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_posted_message_comes_back_with_its_metadata() {
    let desk = Desk::start().await;
    desk.zendesk.say(C, "hello").await;
    let mut body = reply("hi there");
    body["metadata"] = json!({ "tidegate_ids": "a,b", "part": 1 });
    let answer = desk.call(Method::POST, &format!("/{C}/messages"), &body).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let posted: Value = answer.json().await.unwrap();
    assert_eq!(posted["messages"][0]["metadata"], body["metadata"]);
    assert_eq!(posted["messages"][0]["source"], json!({ "type": "api:conversations" }));
    let listed = desk.get(&format!("/{C}/messages")).await;
    assert_eq!(listed["messages"][1], posted["messages"][0]);
    assert_eq!(listed["meta"], json!({ "hasMore": false }));
}

#[tokio::test]
async fn pages_are_walked_in_both_query_forms() {
    let desk = Desk::start().await;
    for number in 0..250 {
        desk.zendesk.say(C, &format!("m{number}")).await;
    }
    let texts = |page: &Value| -> Vec<String> {
        let text = |message: &Value| message["content"]["text"].as_str().unwrap().to_owned();
        page["messages"].as_array().unwrap().iter().map(text).collect()
    };
    let newest = desk.get(&format!("/{C}/messages")).await;
    assert_eq!((texts(&newest).len(), texts(&newest)[0].as_str()), (100, "m150"));
    assert_eq!(newest["meta"]["hasMore"], true);
    let cursor = newest["meta"]["beforeCursor"].as_str().unwrap().to_owned();
    let python = json!({ "before": cursor, "size": 25 }).to_string();
    let encoded: String = python.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for query in [format!("page[before]={cursor}"), format!("page%5Bbefore%5D={cursor}"), format!("page={encoded}")] {
        let middle = desk.get(&format!("/{C}/messages?{query}")).await;
        assert_eq!((texts(&middle).len(), texts(&middle)[0].as_str()), (100, "m50"), "{query}");
        let forth = middle["meta"]["afterCursor"].as_str().unwrap();
        assert_eq!(desk.get(&format!("/{C}/messages?page[after]={forth}")).await["messages"], newest["messages"]);
    }
}

#[tokio::test]
async fn wrong_calls_are_refused_in_zendesks_shape() {
    let desk = Desk::with(Options { messages_max: 2, ..Options::default() }).await;
    desk.zendesk.say(C, "hello").await;
    let messages = format!("/{C}/messages");
    let large = reply(&"x".repeat(101 * 1024));
    let table = [
        (format!("/{}/messages", "0".repeat(24)), reply("hi"), 404, "conversation_not_found"),
        (messages.clone(), json!({ "content": {} }), 400, "bad_request"),
        (messages.clone(), reply(&"x".repeat(4097)), 400, "bad_request"),
        (messages.clone(), large, 413, "request_entity_too_large"),
        (
            format!("/{C}/passControl"),
            json!({ "switchboardIntegration": "x" }),
            404,
            "switchboard_integration_not_found",
        ),
        (format!("/{C}/passControl"), json!({}), 400, "bad_request"),
        (format!("/{C}/activity"), json!({ "author": { "type": "business" }, "type": "dance" }), 400, "bad_request"),
    ];
    for (path, body, status, wanted) in table {
        let answer = desk.call(Method::POST, &path, &body).await;
        assert_eq!((answer.status().as_u16(), code(answer).await.as_str()), (status, wanted), "{path} {body:.80}");
    }
    assert_eq!(desk.post("the second fits").await.status(), StatusCode::CREATED);
    let full = desk.post("the third does not").await;
    assert_eq!((full.status().as_u16(), code(full).await.as_str()), (423, "locked"));
    desk.zendesk.say(C, "the customer still can").await;
    assert_eq!(desk.texts(), ["the second fits", "the customer still can"]);
}

#[tokio::test]
async fn only_the_right_credentials_and_app_are_served_with_and_without_a_prefix() {
    let desk = Desk::start().await;
    desk.zendesk.say(C, "hello").await;
    let options = desk.zendesk.options().clone();
    let right = (options.app_id.as_str(), options.key_id.as_str(), options.key_secret.as_str());
    let table = [
        (right, 200),
        ((right.0, right.1, "wrong"), 401),
        ((right.0, "wrong", right.2), 401),
        (("other", right.1, right.2), 404),
    ];
    for prefix in ["", "/sc", "/any"] {
        for ((app, key, secret), wanted) in table {
            let url = format!("{}{prefix}/v2/apps/{app}/conversations/{C}", desk.zendesk.url());
            let answer = desk.client.get(url).basic_auth(key, Some(secret)).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), wanted, "{prefix} {app} {key}");
        }
    }
    let anonymous = format!("{}/v2/apps/{}/conversations/{C}", desk.zendesk.url(), options.app_id);
    assert_eq!(desk.client.get(anonymous).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn control_moves_by_api_and_every_move_is_announced() {
    let receiver = Receiver::answering(|_| 200).await;
    let desk = Desk::facing(&receiver).await;
    desk.zendesk.say(C, "hello").await;
    let to = |target: &str| json!({ "switchboardIntegration": target, "metadata": { "why": "asked" } });
    assert_eq!(desk.action("offerControl", &to("custom")).await, 400, "we are active already");
    assert_eq!(desk.action("acceptControl", &json!({})).await, 403, "nothing was offered");
    assert_eq!(desk.action("passControl", &to("zd:agentWorkspace")).await, 200);
    let active = desk.get(&format!("/{C}")).await["conversation"]["activeSwitchboardIntegration"]["name"].clone();
    assert_eq!(active, "zd-agentWorkspace");
    assert_eq!(desk.action("offerControl", &to(&desk.zendesk.options().bot.id)).await, 200);
    assert_eq!(desk.action("acceptControl", &json!({})).await, 200);
    assert_eq!(desk.zendesk.holder(C), Some(Holder::Bot));
    assert_eq!(desk.action("releaseControl", &json!({})).await, 200);
    assert_eq!(desk.zendesk.holder(C), None);
    assert_eq!(desk.action("releaseControl", &Value::Null).await, 403, "nobody is active");
    receiver.wait_for("switchboard:releaseControl", 1).await;
    let moves: Vec<_> = receiver.hooks().into_iter().filter(|hook| hook.kind().starts_with("switchboard:")).collect();
    let kinds: Vec<_> = moves.iter().map(|hook| hook.kind().replace("switchboard:", "")).collect();
    assert_eq!(kinds, ["passControl", "offerControl", "acceptControl", "releaseControl"]);
    let name = |index: usize, side: &str| moves[index].text(&format!("/events/0/payload/conversation/{side}/name"));
    assert_eq!(name(0, "activeSwitchboardIntegration"), "zd-agentWorkspace");
    assert_eq!(name(1, "pendingSwitchboardIntegration"), "tidegate");
    assert_eq!(name(3, "activeSwitchboardIntegration"), "");
    assert_eq!(moves[0].text("/events/0/payload/metadata/why"), "asked");
    assert_eq!(desk.zendesk.stats().passes, 1);
}

#[tokio::test]
async fn a_created_conversation_and_activities_are_counted() {
    let desk = Desk::start().await;
    let body = json!({ "type": "personal", "participants": [{ "userId": "u1" }] });
    let created: Value = desk.call(Method::POST, "", &body).await.json().await.unwrap();
    let id = created["conversation"]["id"].as_str().unwrap();
    let typing = json!({ "author": { "type": "business" }, "type": "typing:start" });
    let answer = desk.call(Method::POST, &format!("/{id}/activity"), &typing).await;
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "{}"));
    let stats = desk.zendesk.stats();
    assert_eq!((stats.conversations, stats.activities, stats.api_requests), (1, 1, 2));
    assert_eq!(desk.call(Method::POST, "", &json!({ "type": "personal" })).await.status(), 400);
}

#[tokio::test]
async fn a_failure_stores_never_now_or_later_as_asked() {
    let desk = Desk::start().await;
    desk.zendesk.say(C, "hello").await;
    desk.zendesk.behave(Behaviour { error_rate: 1.0, error_status: 502, ..Behaviour::default() });
    assert_eq!(desk.post("never").await.status(), 502);
    desk.zendesk.behave(Behaviour { store_then_fail_rate: 1.0, ..Behaviour::default() });
    assert_eq!(desk.post("now").await.status(), 500);
    assert_eq!(desk.texts(), ["hello", "now"]);
    desk.zendesk.behave(Behaviour { late_store_rate: 1.0, late_store_ms: 150, ..Behaviour::default() });
    assert_eq!(desk.post("later").await.status(), 500);
    assert_eq!(desk.texts(), ["hello", "now"]);
    eventually("the late message", || desk.texts() == ["hello", "now", "later"]).await;
    let stats = desk.zendesk.stats();
    assert_eq!((stats.api_errors_injected, stats.posts), (3, 2));
}

#[tokio::test]
async fn the_api_can_be_down_cut_slow_or_hanging() {
    let desk = Desk::start().await;
    desk.zendesk.say(C, "hello").await;
    desk.zendesk.behave(Behaviour { down: true, ..Behaviour::default() });
    assert_eq!(desk.post("a").await.status(), 503);
    desk.zendesk.behave(Behaviour { drop_connection: true, ..Behaviour::default() });
    let error = desk.try_call(Method::GET, &format!("/{C}"), &Value::Null).await.unwrap_err();
    assert!(error.is_request() && !error.is_timeout() && !error.is_connect(), "{error:?}");
    desk.zendesk.behave(Behaviour { latency_ms: 120, ..Behaviour::default() });
    let begun = tokio::time::Instant::now();
    assert_eq!(desk.post("b").await.status(), 201);
    assert!(begun.elapsed() >= Duration::from_millis(120));
    desk.zendesk.behave(Behaviour { hang_rate: 1.0, ..Behaviour::default() });
    let patience = tokio::time::timeout(Duration::from_millis(150), desk.post("c"));
    assert!(patience.await.is_err(), "a hanging call is not answered");
    assert_eq!(desk.texts(), ["hello", "b"]);
}

#[tokio::test]
async fn posts_beyond_the_quota_get_429_with_retry_after_on_request() {
    let desk = Desk::start().await;
    desk.zendesk.say(C, "hello").await;
    let throttle = Some(Quota { requests: 2, per_ms: 60_000 });
    desk.zendesk.behave(Behaviour { throttle, ..Behaviour::default() });
    assert_eq!([desk.post("a").await.status(), desk.post("b").await.status()], [201, 201]);
    let refused = desk.post("c").await;
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (429, "60"));
    assert_eq!(desk.get(&format!("/{C}/messages")).await["messages"].as_array().unwrap().len(), 3, "reading is free");
    desk.zendesk.behave(Behaviour { throttle, retry_after: false, ..Behaviour::default() });
    let refused = desk.post("c").await;
    assert!(refused.status() == 429 && !refused.headers().contains_key("retry-after"));
    assert_eq!(desk.zendesk.stats().throttled, 2);
}

#[tokio::test]
async fn the_judge_notices_lost_doubled_disordered_and_handed_over_messages() {
    let receiver = Receiver::answering(|_| 200).await;
    let desk = Desk::facing(&receiver).await;
    let mut ids = Vec::new();
    for number in 1..=6 {
        // Places are ordered by the millisecond, so each message gets its own.
        tokio::time::sleep(Duration::from_millis(2)).await;
        ids.push(desk.zendesk.say(C, &format!("[ref:{number:08x}]")).await);
    }
    eventually("all accepted", || desk.zendesk.tally().accepted == 6).await;
    assert_eq!(desk.zendesk.tally().lost, 6);
    // The judge lets an acceptance and a reply cross for 50 ms; what follows is beyond that and out of order.
    tokio::time::sleep(Duration::from_millis(60)).await;
    for text in ["Answer to [ref:00000002]", "Answer to [ref:00000001]", "Answer to [ref:00000002] again"] {
        assert_eq!(desk.post(text).await.status(), 201);
    }
    let mut failure = reply("We cannot answer this, a colleague will.");
    failure["metadata"] = json!({ "tidegate_kind": "failure", "tidegate_ids": format!("{},{}", ids[2], ids[3]) });
    desk.call(Method::POST, &format!("/{C}/messages"), &failure).await;
    let report = desk.zendesk.report();
    let tally = report.stats.judged;
    assert_eq!((tally.answered, tally.duplicates, tally.out_of_order), (2, 1, 1));
    assert_eq!((tally.handed_off, tally.lost, tally.misdirected), (2, 2, 0));
    let named: Vec<_> = report.offences.iter().map(|named| (named.offence, named.reference.0)).collect();
    assert_eq!(named.len(), 4, "{named:?}");
    assert_eq!(desk.action("passControl", &json!({ "switchboardIntegration": "zd:agentWorkspace" })).await, 200);
    assert_eq!((desk.zendesk.tally().handed_off, desk.zendesk.tally().lost), (4, 0));
    desk.post("[ref:00000099]").await;
    let stats = desk.zendesk.stats();
    assert_eq!((stats.judged.misdirected, stats.posts_while_human), (1, 1));
}

#[tokio::test]
async fn everything_can_be_done_over_http_too() {
    let receiver = Receiver::answering(|_| 200).await;
    let desk = Desk::start().await;
    desk.sim(Method::PUT, "target", &json!({ "url": receiver.url() })).await;
    desk.sim(Method::PATCH, "behaviour", &json!({ "latency_ms": 1 })).await;
    let behaviour = desk.sim(Method::PATCH, "behaviour", &json!({ "echo": false })).await;
    assert_eq!((behaviour["latency_ms"].as_u64(), behaviour["echo"].as_bool()), (Some(1), Some(false)));
    desk.sim(Method::POST, "say", &json!({ "conversation": C, "text": "[ref:1]" })).await;
    desk.sim(Method::POST, "postback", &json!({ "conversation": C, "payload": "PAY [ref:2]" })).await;
    desk.sim(Method::POST, "control", &json!({ "conversation": C, "to": "agent" })).await;
    desk.sim(Method::POST, "agent", &json!({ "conversation": C, "text": "I am human" })).await;
    desk.sim(Method::POST, "control", &json!({ "conversation": C, "to": "none" })).await;
    desk.sim(Method::POST, "say", &json!({ "conversation": "second", "text": "hi" })).await;
    desk.sim(Method::POST, "merge", &json!({ "surviving": C, "discarded": "second" })).await;
    desk.sim(Method::POST, "remove-user", &json!({ "conversation": C })).await;
    let shown = desk.sim(Method::GET, &format!("conversations/{C}"), &Value::Null).await;
    assert_eq!(shown["messages"].as_array().unwrap().len(), 3);
    receiver.wait_for("user:remove", 1).await;
    receiver.wait_for("conversation:create", 2).await;
    receiver.wait_for("conversation:message", 2).await;
    assert_eq!(receiver.of("conversation:message").len(), 2, "no echo of the agent's message");
    eventually("the postback's webhook", || desk.zendesk.tally().accepted == 2).await;
    let report = desk.sim(Method::GET, "report", &Value::Null).await;
    assert_eq!((report["customers_messages"].as_u64(), report["handed_off"].as_u64()), (Some(2), Some(2)));
    desk.sim(Method::POST, "reset", &Value::Null).await;
    let stats = desk.sim(Method::GET, "stats", &Value::Null).await;
    assert_eq!((stats["conversations"].as_u64(), stats["customers_messages"].as_u64()), (Some(0), Some(0)));
    assert_eq!(desk.zendesk.behaviour(), Behaviour::default());
}

#[tokio::test]
async fn a_merged_conversation_is_answered_under_both_ids_unless_it_closes() {
    let receiver = Receiver::answering(|_| 200).await;
    let desk = Desk::facing(&receiver).await;
    desk.zendesk.say("old", "[ref:1]").await;
    desk.zendesk.say(C, "[ref:2]").await;
    eventually("both accepted", || desk.zendesk.tally().accepted == 2).await;
    assert!(desk.zendesk.merge(C, "old").await);
    assert_eq!(desk.call(Method::POST, "/old/messages", &reply("Answer to [ref:1]")).await.status(), 201);
    assert_eq!(desk.texts(), ["[ref:1]", "[ref:2]", "Answer to [ref:1]"]);
    assert_eq!((desk.zendesk.tally().lost, desk.zendesk.tally().misdirected), (1, 0));
    desk.zendesk.behave(Behaviour { merge_closes: true, ..Behaviour::default() });
    assert_eq!(desk.call(Method::POST, "/old/messages", &reply("Answer to [ref:2]")).await.status(), 404);
    assert!(!desk.zendesk.merge(C, C).await);
}

#[tokio::test]
async fn dropping_the_last_handle_ends_listening_and_cuts_hanging_calls() {
    let desk = Desk::start().await;
    desk.zendesk.say(C, "hello").await;
    desk.zendesk.behave(Behaviour { hang_rate: 1.0, ..Behaviour::default() });
    let Desk { zendesk, client } = desk;
    let options = zendesk.options().clone();
    let url = format!("{}/v2/apps/{}/conversations/{C}", zendesk.url(), options.app_id);
    let hanging = client.get(&url).basic_auth(&options.key_id, Some(&options.key_secret)).send();
    let ending = async {
        eventually("the call", || zendesk.stats().api_requests == 1).await;
        drop(zendesk);
    };
    let (answer, ()) = tokio::join!(hanging, ending);
    assert!(answer.is_err_and(|error| !error.is_timeout()));
    assert!(client.get(&url).send().await.is_err_and(|error| error.is_connect()));
}
