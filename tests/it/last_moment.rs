//! What happens between the answer and its post: a human takes over, time runs out, the process ends.

use std::time::Duration;

use axum::http::StatusCode;
use tidegate::simulate::{
    ai,
    zendesk::{Behaviour, Holder},
};

use crate::{
    recorder::Recorder,
    support::{SOON, Scene, eventually},
};

async fn outcome(scene: &Scene, message: &str) -> String {
    let told = scene.daemon.admin(&format!("/admin/messages/{message}")).await;
    told["outcome"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_is_seen_while_a_reply_waits_for_its_turn_to_be_posted() {
    let scene = Scene::with("[zendesk]\nposts_per_second = 1\n").await;
    let names = ["a", "b", "c", "d"];
    let mut messages = Vec::new();
    for name in names {
        messages.push(scene.say(name, "hello").await);
    }
    eventually("all are thought about", SOON, async || scene.ai.stats().calls == 4).await;
    let posted = || names.iter().filter(|name| !scene.replies(name).is_empty()).count();
    eventually("the first is posted", SOON, async || posted() >= 1).await;
    let waiting: Vec<usize> = (0..4).filter(|n| scene.replies(names[*n]).is_empty()).collect();
    for n in &waiting {
        scene.zendesk.control(names[*n], Some(Holder::Agent)).await;
    }
    for n in &waiting {
        eventually("it is left alone", SOON, async || outcome(&scene, &messages[*n]).await == "ignored").await;
    }
    assert!(waiting.len() >= 2, "several waited for the limiter of posts");
    assert_eq!((posted(), scene.zendesk.stats().posts_while_human), (4 - waiting.len(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_zendesk_keeps_waiting_past_the_deadline_goes_to_a_human() {
    let scene = Scene::with("[chat]\ndeadline = '4s'\n").await;
    scene.say("c", "first").await;
    scene.settles().await;
    scene.zendesk.behave(Behaviour { down: true, ..Behaviour::default() });
    let message = scene.say("c", "second").await;
    eventually("it is thought about", SOON, async || scene.ai.stats().calls == 2).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    scene.zendesk.behave(Behaviour::default());
    eventually("a human holds it", SOON, async || scene.zendesk.holder("c") == Some(Holder::Agent)).await;
    eventually("it has ended", SOON, async || outcome(&scene, &message).await == "handed_over").await;
    let answers = scene.replies("c").iter().filter(|text| text.starts_with("Answer")).count();
    assert_eq!(answers, 1, "a stale answer was posted: {:?}", scene.replies("c"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_promised_a_human_gets_no_answer_after_a_crash() {
    let recorder = Recorder::start().await;
    let config = format!("[zendesk]\napi_url = '{}/sc'\n[chat]\nhandoff_phrases = ['person']\n", recorder.url());
    let mut scene = Scene::with(&config).await;
    recorder.aim(&scene.zendesk.url());
    recorder.refuse("/passControl", Some(StatusCode::SERVICE_UNAVAILABLE));
    let message = scene.say("c", "let me speak to a person").await;
    eventually("a human is promised", SOON, async || scene.replies("c").len() == 1).await;
    scene.daemon.kill();
    recorder.refuse("/passControl", None);
    // Looked at afresh, it would be an ordinary question.
    scene.daemon.restart("[chat]\nhandoff_phrases = []\n").await;
    eventually("a human holds it", SOON, async || scene.zendesk.holder("c") == Some(Holder::Agent)).await;
    eventually("it has ended", SOON, async || outcome(&scene, &message).await == "handed_over").await;
    assert_eq!((scene.replies("c").len(), scene.ai.stats().calls), (1, 0), "{:?}", scene.replies("c"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_told_of_a_failure_gets_no_answer_after_the_end_of_the_process() {
    let recorder = Recorder::start().await;
    let config = format!("[zendesk]\napi_url = '{}/sc'\n", recorder.url());
    let mut scene = Scene::with(&config).await;
    recorder.aim(&scene.zendesk.url());
    recorder.refuse("/passControl", Some(StatusCode::SERVICE_UNAVAILABLE));
    scene.ai.behave(ai::Behaviour { finish_reason: "content_filter".into(), ..ai::Behaviour::default() });
    let message = scene.say("c", "hello").await;
    eventually("the customer is told", SOON, async || scene.replies("c").len() == 1).await;
    scene.daemon.terminate();
    eventually("it ends", SOON, async || scene.daemon.ended().is_some()).await;
    recorder.refuse("/passControl", None);
    scene.ai.behave(ai::Behaviour::default());
    scene.daemon.restart("").await;
    eventually("it has ended", SOON, async || outcome(&scene, &message).await == "parked").await;
    assert_eq!(scene.zendesk.holder("c"), Some(Holder::Agent));
    assert_eq!((scene.replies("c").len(), scene.ai.stats().calls), (1, 1), "{:?}", scene.replies("c"));
}
