//! The simulated Zendesk's webhooks: their form, their order, and the rules by which they are tried again.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::support::receiver::{Hook, Receiver, client, eventually};
use serde_json::json;
use tidegate::simulate::customers::{Plan, settled};
use tidegate::simulate::zendesk::{Behaviour, Options};
use tidegate::simulate::{Customers, Zendesk};
use tokio::sync::Notify;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const MESSAGE: &str = "conversation:message";

/// A simulator with short gaps between attempts.
async fn facing(receiver: &Receiver, retry_base: Duration) -> Zendesk {
    let webhook_target = Some(receiver.url());
    let options = Options { webhook_target, webhook_retry_base: retry_base, ..Options::default() };
    Zendesk::start(LOOPBACK, options).await.unwrap()
}

#[tokio::test]
async fn a_message_event_has_zendesks_form() {
    let receiver = Receiver::answering(|_| 200).await;
    let zendesk = facing(&receiver, Duration::from_secs(1)).await;
    let id = zendesk.say("c1", "hello").await;
    let hook = receiver.wait_for(MESSAGE, 1).await.remove(0);
    assert_eq!(hook.key, zendesk.options().webhook_secret);
    let body = &hook.body;
    assert_eq!(
        (body["app"]["id"].as_str(), body["webhook"]["version"].as_str()),
        (Some("66f0a1b2c3d4e5f600000001"), Some("v2"))
    );
    let message = &body["events"][0]["payload"]["message"];
    assert_eq!(message["id"], id.as_str());
    assert_eq!(message["content"], json!({ "type": "text", "text": "hello" }));
    assert_eq!(message["source"], json!({ "type": "web", "integrationId": "66f0a1b2c3d4e5f600000014" }));
    assert_eq!(
        (message["author"]["type"].as_str(), &message["author"]["userId"]),
        (Some("user"), &message["author"]["user"]["id"])
    );
    let active = &body["events"][0]["payload"]["conversation"]["activeSwitchboardIntegration"];
    assert_eq!((active["name"].as_str(), active["integrationType"].as_str()), (Some("tidegate"), Some("custom")));
    for time in [hook.text("/events/0/createdAt"), hook.text("/events/0/payload/message/received")] {
        assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time}");
    }
    let kinds: Vec<_> = receiver.hooks().iter().map(Hook::kind).collect();
    assert_eq!(kinds, ["conversation:create", MESSAGE]);
}

#[tokio::test]
async fn an_event_is_tried_five_times_with_doubling_gaps_and_one_id() {
    let receiver = Receiver::answering(|hook| if hook.kind() == MESSAGE { 500 } else { 200 }).await;
    let zendesk = facing(&receiver, Duration::from_millis(20)).await;
    zendesk.say("c1", "[ref:1]").await;
    eventually("giving up", || zendesk.stats().webhook_failures_final == 1).await;
    let tries = receiver.of(MESSAGE);
    assert_eq!((tries.len(), zendesk.stats().webhook_attempts), (5, 6));
    assert!(tries.iter().all(|hook| hook.body == tries[0].body));
    for (index, pair) in tries.windows(2).enumerate() {
        assert!(pair[1].at - pair[0].at >= Duration::from_millis(20 << index), "gap {index}");
    }
    assert_eq!((zendesk.tally().accepted, zendesk.tally().undelivered, zendesk.tally().lost), (0, 0, 0));
}

#[tokio::test]
async fn attempts_end_with_the_window() {
    let receiver = Receiver::answering(|_| 503).await;
    let webhook_target = Some(receiver.url());
    let (webhook_retry_base, webhook_retry_window) = (Duration::from_millis(100), Duration::from_millis(250));
    let options = Options { webhook_target, webhook_retry_base, webhook_retry_window, ..Options::default() };
    let zendesk = Zendesk::start(LOOPBACK, options).await.unwrap();
    zendesk.say("c1", "hi").await;
    eventually("giving up", || zendesk.stats().webhook_failures_final == 2).await;
    assert_eq!(receiver.of(MESSAGE).len(), 2, "the third attempt would be 300 ms after the first");
}

#[tokio::test]
async fn final_statuses_are_not_tried_again_and_others_are() {
    let status = Arc::new(AtomicUsize::new(200));
    let said = status.clone();
    let receiver = Receiver::answering(move |_| said.load(SeqCst) as u16).await;
    let zendesk = facing(&receiver, Duration::from_millis(1)).await;
    zendesk.say("c1", "hi").await;
    receiver.wait_for(MESSAGE, 1).await;
    let mut seen = 1;
    for (code, attempts) in
        [(400, 1), (401, 1), (403, 1), (404, 1), (406, 1), (302, 5), (409, 5), (413, 5), (429, 5), (500, 5)]
    {
        let before = zendesk.stats().webhook_failures_final;
        status.store(code, SeqCst);
        zendesk.say("c1", "hi").await;
        eventually("the end", || zendesk.stats().webhook_failures_final == before + 1).await;
        assert_eq!(receiver.of(MESSAGE).len() - seen, attempts, "{code}");
        seen += attempts;
    }
    for code in [200, 201, 202, 204] {
        status.store(code, SeqCst);
        zendesk.say("c1", "hi").await;
        seen += 1;
        receiver.wait_for(MESSAGE, seen).await;
        eventually("an empty queue", || zendesk.stats().webhooks_queued == 0).await;
    }
    assert_eq!(receiver.of(MESSAGE).len(), seen);
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_a_failure() {
    let first = Arc::new(AtomicBool::new(true));
    let receiver = Receiver::handling(move |hook| {
        let hang = hook.kind() == MESSAGE && first.swap(false, SeqCst);
        Box::pin(async move { if hang { std::future::pending().await } else { 200 } })
    })
    .await;
    let webhook_target = Some(receiver.url());
    let (webhook_timeout, webhook_retry_base) = (Duration::from_millis(200), Duration::from_millis(1));
    let options = Options { webhook_target, webhook_timeout, webhook_retry_base, ..Options::default() };
    let zendesk = Zendesk::start(LOOPBACK, options).await.unwrap();
    zendesk.say("c1", "[ref:1]").await;
    eventually("acceptance", || zendesk.tally().accepted == 1).await;
    let tries = receiver.of(MESSAGE);
    assert_eq!((tries.len(), tries[0].event_id()), (2, tries[1].event_id()));
}

#[tokio::test]
async fn a_failing_event_does_not_hold_up_the_next() {
    let receiver = Receiver::answering(|hook| if hook.said() == "bad" { 500 } else { 200 }).await;
    let zendesk = facing(&receiver, Duration::from_secs(3600)).await;
    zendesk.say("c1", "bad").await;
    zendesk.say("c1", "good").await;
    let hooks = receiver.wait_for(MESSAGE, 2).await;
    assert_eq!(hooks.iter().map(Hook::said).collect::<Vec<_>>(), ["bad", "good"]);
}

#[tokio::test]
async fn a_reset_forgets_events_that_wait_for_another_attempt() {
    let receiver = Receiver::answering(|hook| if hook.said() == "bad" { 500 } else { 200 }).await;
    let zendesk = facing(&receiver, Duration::from_millis(100)).await;
    zendesk.say("c1", "bad").await;
    eventually("the first attempt", || zendesk.stats().webhook_failed_attempts == 1).await;
    zendesk.reset();
    eventually("an empty queue", || zendesk.stats().webhooks_queued == 0).await;
    let seen = receiver.of(MESSAGE).len();
    zendesk.say("c1", "good").await;
    let hooks = receiver.wait_for(MESSAGE, seen + 1).await;
    assert_eq!((hooks[seen].said().as_str(), zendesk.stats().webhook_failed_attempts), ("good", 0));
}

#[tokio::test]
async fn one_conversation_is_sent_in_order_while_others_go_on() {
    let gate = Arc::new(Notify::new());
    let waiting = gate.clone();
    let receiver = Receiver::handling(move |hook| {
        let (held, gate) = (hook.said() == "a1", waiting.clone());
        Box::pin(async move {
            if held {
                gate.notified().await;
            }
            200
        })
    })
    .await;
    let zendesk = facing(&receiver, Duration::from_secs(1)).await;
    for (conversation, text) in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "b2")] {
        zendesk.say(conversation, text).await;
    }
    let said = || receiver.of(MESSAGE).iter().map(Hook::said).collect::<Vec<_>>();
    eventually("the other conversation", || said().contains(&"b2".to_owned())).await;
    assert!(!said().contains(&"a2".to_owned()), "a2 waits for a1");
    gate.notify_one();
    eventually("the held conversation", || said().last().is_some_and(|last| last == "a2")).await;
}

#[tokio::test]
async fn doubled_events_carry_the_same_message_and_the_asked_event_id() {
    let receiver = Receiver::answering(|_| 200).await;
    let zendesk = facing(&receiver, Duration::from_secs(1)).await;
    for (double_delivery_new_event, event_ids) in [(false, 1), (true, 2)] {
        zendesk.behave(Behaviour { double_delivery: 1.0, double_delivery_new_event, ..Behaviour::default() });
        let before = receiver.of(MESSAGE).len();
        let id = zendesk.say("c1", "[ref:1]").await;
        let hooks = receiver.wait_for(MESSAGE, before + 2).await.split_off(before);
        assert!(hooks.iter().all(|hook| hook.text("/events/0/payload/message/id") == id));
        assert_eq!(hooks.iter().map(Hook::event_id).collect::<HashSet<_>>().len(), event_ids);
    }
}

#[tokio::test]
async fn business_posts_echo_unless_told_otherwise() {
    let receiver = Receiver::answering(|_| 200).await;
    let zendesk = facing(&receiver, Duration::from_secs(1)).await;
    zendesk.say("c1", "hello").await;
    let options = zendesk.options().clone();
    let url = format!("{}/v2/apps/{}/conversations/c1/messages", zendesk.url(), options.app_id);
    let body = json!({ "author": { "type": "business", "displayName": "Bot" }, "content": { "type": "text", "text": "hi" },
        "metadata": { "job": "7" } });
    let post = || client().post(&url).basic_auth(&options.key_id, Some(&options.key_secret)).json(&body).send();
    post().await.unwrap();
    let echo = receiver.wait_for(MESSAGE, 2).await.remove(1);
    let message = &echo.body["events"][0]["payload"]["message"];
    assert_eq!(
        (&message["author"], &message["metadata"]),
        (&json!({ "type": "business", "displayName": "Bot" }), &body["metadata"])
    );
    zendesk.behave(Behaviour { echo: false, ..Behaviour::default() });
    post().await.unwrap();
    zendesk.say("c1", "last").await;
    let hooks = receiver.wait_for(MESSAGE, 3).await;
    assert_eq!(hooks[2].said(), "last");
}

/// A daemon of ten lines that answers every message, or none.
async fn bot(zendesk_url: Arc<parking_lot::Mutex<String>>, silent: bool) -> Receiver {
    let client = client();
    Receiver::handling(move |hook| {
        let (client, url) = (client.clone(), zendesk_url.lock().clone());
        Box::pin(async move {
            let customer = hook.text("/events/0/payload/message/author/type") == "user";
            if customer && !silent {
                let options = Options::default();
                let url = format!("{url}/sc/v2/apps/{}/conversations/{}/messages", options.app_id, hook.conversation());
                let body = json!({ "author": { "type": "business" },
                    "content": { "type": "text", "text": format!("Answer to {}", hook.said()) } });
                let post = client.post(url).basic_auth(options.key_id, Some(options.key_secret)).json(&body);
                assert_eq!(post.send().await.unwrap().status(), 201);
            }
            200
        })
    })
    .await
}

#[tokio::test]
async fn customers_settle_with_a_bot_that_answers() {
    let url = Arc::new(parking_lot::Mutex::new(String::new()));
    let bot = bot(url.clone(), false).await;
    let zendesk = facing(&bot, Duration::from_secs(1)).await;
    *url.lock() = zendesk.url();
    let plan = Plan {
        conversations: 20,
        per_second: 0.0,
        total: Some(300),
        burst_rate: 0.2,
        burst_within: Duration::from_millis(60),
        ..Plan::default()
    };
    let customers = Customers::start(&zendesk, plan);
    assert!(customers.finished(Duration::from_secs(20)).await);
    assert!(customers.settled(Duration::from_secs(20)).await);
    let stats = zendesk.stats();
    let judged = stats.judged;
    assert_eq!(
        (customers.written(), judged.customers_messages, judged.accepted, judged.answered),
        (300, 300, 300, 300)
    );
    assert_eq!((judged.lost, judged.duplicates, judged.out_of_order, judged.misdirected), (0, 0, 0, 0));
    assert!(stats.p50_ms > 0.0 && stats.p99_ms >= stats.p50_ms);
    assert!(customers.conversations().iter().any(|id| !zendesk.messages(id).is_empty()));
}

#[tokio::test]
async fn customers_do_not_settle_with_a_bot_that_is_silent() {
    let url = Arc::new(parking_lot::Mutex::new(String::new()));
    let bot = bot(url, true).await;
    let zendesk = facing(&bot, Duration::from_secs(1)).await;
    let customers = Customers::start(&zendesk, Plan { total: Some(5), per_second: 0.0, ..Plan::default() });
    assert!(customers.finished(Duration::from_secs(10)).await);
    eventually("acceptance", || zendesk.tally().accepted == 5).await;
    assert!(!settled(&zendesk, Duration::from_millis(100)).await);
    assert_eq!(zendesk.tally().lost, 5);
}
