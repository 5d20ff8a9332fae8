//! G10: the story of a message that did not fare well, over tries and restarts; its waits and its work add up.

use std::time::Duration;

use serde_json::Value;
use tidegate::{
    domain::time::Timestamp,
    simulate::{
        ai,
        quota::Quota,
        zendesk::{Behaviour, Holder},
    },
};

use crate::support::{SOON, Scene, eventually};

async fn told(scene: &Scene, message: &str) -> Value {
    scene.daemon.admin(&format!("/admin/messages/{message}")).await
}

fn entries(told: &Value) -> Vec<Value> {
    told["timeline"].as_array().cloned().unwrap_or_default()
}

/// Milliseconds waited for something.
fn waited(told: &Value, on: &str) -> u64 {
    entries(told).iter().filter(|entry| entry["on"] == on).filter_map(|entry| entry["ms"].as_u64()).sum()
}

/// Whether the story accounts for the time from acceptance to the end, but for a twentieth, and for what a busy machine
/// takes from one step to the next.
fn is_covered(told: &Value) -> bool {
    let entries = entries(told);
    let at = |entry: &Value| Timestamp::parse(entry["at"].as_str().unwrap()).unwrap().0;
    let spent: u64 = entries.iter().filter_map(|entry| entry["ms"].as_u64()).sum();
    let total = at(entries.last().unwrap()) - at(&entries[0]);
    println!("{spent} of {total} ms: {entries:?}");
    spent.abs_diff(total.unsigned_abs()) <= total.unsigned_abs() / 20 + 300
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waited_failed_was_tried_again_and_answered_tells_all_of_it() {
    let config = "[chat]\nmerge_quiet = '200ms'\nmerge_cap = '600ms'\n[[ai.services]]\nbreaker = { failure_threshold = 2, recovery_timeout = '1s' }\n";
    let scene = Scene::with(config).await;
    scene.say("c", "hello").await;
    scene.settles().await;
    scene.ai.behave(ai::Behaviour { status: 503, ..ai::Behaviour::default() });
    let message = scene.say("c", "is anybody there?").await;
    eventually("it waits for the breaker", SOON, async || told(&scene, &message).await["phase"] == "waiting:breaker")
        .await;
    scene.ai.behave(ai::Behaviour { latency_ms: 900, ..ai::Behaviour::default() });
    let before = scene.ai.stats().calls;
    eventually("the AI thinks", SOON, async || scene.ai.stats().calls > before).await;
    // Its answer is withheld for the newer message; when both are taken up, the actor panics.
    assert_eq!(scene.daemon.crash("node/conversations/c", r#"{"mode":"panic"}"#).await / 100, 2);
    scene.say("c", "hello?").await;
    let told = scene.daemon.settled(&message).await;
    assert_eq!(told["outcome"], "replied", "{told}");
    for on in ["merge", "backoff", "breaker", "retry"] {
        assert!(waited(&told, on) > 0, "{on}: {told}");
    }
    let stages: Vec<String> =
        entries(&told).iter().filter_map(|entry| entry["stage"].as_str().map(str::to_owned)).collect();
    let order = ["accepted", "taken", "asked", "superseded", "failed", "taken", "asked", "intended", "posted", "ended"];
    let mut rest = stages.iter();
    for stage in order {
        assert!(rest.any(|next| next == stage), "{stage} in its place: {stages:?}");
    }
    assert!(is_covered(&told), "{told}");
    scene.settles().await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_dead_or_delayed_explains_itself_also_after_a_restart() {
    let mut scene = Scene::with("[retry]\nbase = '8s'\n").await;
    scene.say("c", "hello").await;
    scene.settles().await;
    scene.daemon.crash("node/conversations/c", r#"{"mode":"panic"}"#).await;
    let message = scene.say("c", "and this?").await;
    let tells = async |scene: &Scene| {
        let told = told(scene, &message).await;
        let failed = entries(&told).into_iter().find(|entry| entry["stage"] == "failed");
        failed.is_some_and(|entry| entry["cause"].as_str().is_some_and(|cause| cause.starts_with("panic")))
    };
    eventually("it tells why it failed", SOON, async || tells(&scene).await).await;
    scene.daemon.restart("").await;
    assert!(tells(&scene).await, "{}", told(&scene, &message).await);
    assert_eq!(told(&scene, &message).await["standing"], "delayed");
    let told = scene.daemon.settled(&message).await;
    assert!(waited(&told, "retry") >= 8_000, "{told}");
    assert!(is_covered(&told), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_message_tells_each_of_its_tries() {
    let scene = Scene::with("[retry]\nbase = '20ms'\n").await;
    let told = scene.daemon.settled(&scene.say("c", "[[ai:400]]").await).await;
    let tries = entries(&told).iter().filter(|entry| entry["stage"] == "asked").count();
    assert_eq!((told["outcome"].as_str(), tries), (Some("parked"), 4), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wait_has_its_cause() {
    let config = "[zendesk]\nposts_per_second = 1\n[[ai.services]]\nlimits = { windows = [{ requests = 1, per = '700ms' }] }\nconcurrency = 1\n";
    let scene = Scene::with(config).await;
    scene.ai.behave(ai::Behaviour { latency_ms: 300, ..ai::Behaviour::default() });
    let mut messages = Vec::new();
    for n in 0..3 {
        messages.push(scene.say(&format!("c{n}"), "hello?").await);
    }
    messages.push(scene.say("c0", "and then?").await);
    scene.settles().await;
    let mut all = Vec::new();
    for message in &messages {
        all.push(scene.daemon.settled(message).await);
    }
    for told in &all {
        assert!(is_covered(told), "{told}");
    }
    for on in ["slot", "limiter"] {
        assert!(all.iter().any(|told| waited(told, on) > 100), "nobody waited for {on}: {all:?}");
    }
    assert!(waited(&all[3], "turn") > 100, "{}", all[3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_zendesk_is_told_too() {
    let scene = Scene::with("").await;
    scene.say("c", "hello").await;
    scene.settles().await;
    scene.ai.behave(ai::Behaviour { latency_ms: 300, ..ai::Behaviour::default() });
    let message = scene.say("c", "and now?").await;
    eventually("the AI is asked", SOON, async || scene.ai.stats().calls == 2).await;
    scene.zendesk.behave(Behaviour { down: true, ..Behaviour::default() });
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.zendesk.behave(Behaviour::default());
    let told = scene.daemon.settled(&message).await;
    assert!(waited(&told, "zendesk") > 2_000, "{told}");
    assert!(is_covered(&told), "{told}");
    let throttle = Some(Quota { requests: 1, per_ms: 2_000 });
    scene.zendesk.behave(Behaviour { throttle, ..Behaviour::default() });
    let second = scene.say("c", "first").await;
    let third = scene.say("c", "second").await;
    let (second, third) = (scene.daemon.settled(&second).await, scene.daemon.settled(&third).await);
    assert!(waited(&second, "zendesk") + waited(&third, "zendesk") > 500, "{second} {third}");
    assert_ne!(scene.zendesk.holder("c"), Some(Holder::Agent));
}
