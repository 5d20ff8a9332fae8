//! G2 and G7 at Zendesk's side: its API fails, lies about what it stored, refuses; nothing is said twice.

use std::time::Duration;

use tidegate::simulate::{
    quota::Quota,
    zendesk::{self, Behaviour},
};

use crate::support::{SOON, Scene, eventually, figure};

async fn six_messages(scene: &Scene) {
    for n in 0..6 {
        scene.say(&format!("c{n}"), "where is it?").await;
    }
}

async fn answered_once(scene: &Scene) {
    scene.settles().await;
    scene.assert_sound();
    assert_eq!(scene.zendesk.stats().judged.answered, 6);
    assert_eq!(scene.ai.stats().asked_more_than_once, 0, "the AI is asked once per reply");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_zendesk_is_down_replies_wait_and_the_ai_is_asked_once() {
    let scene = Scene::with("").await;
    six_messages(&scene).await;
    scene.settles().await;
    scene.zendesk.behave(Behaviour { down: true, ..Behaviour::default() });
    for n in 0..6 {
        scene.say(&format!("c{n}"), "and now?").await;
    }
    eventually("all are asked", SOON, async || scene.ai.stats().calls == 12).await;
    tokio::time::sleep(Duration::from_millis(figure("TIDEGATE_ZENDESK_OUTAGE_MS", 3_000))).await;
    let ready = reqwest::get(scene.daemon.url("/readyz")).await.expect("the node answers");
    assert_eq!(ready.status(), 200, "degraded is ready");
    assert!(ready.text().await.expect("it is text").contains("degraded"));
    scene.zendesk.behave(Behaviour::default());
    scene.settles().await;
    scene.assert_sound();
    assert_eq!((scene.ai.stats().calls, scene.ai.stats().asked_more_than_once), (12, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_500_after_the_message_was_stored_makes_no_second_copy() {
    let scene = Scene::with("").await;
    scene.zendesk.behave(Behaviour { store_then_fail_rate: 1.0, ..Behaviour::default() });
    six_messages(&scene).await;
    answered_once(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_stored_late_makes_no_second_copy() {
    // As late as it may be: within the time limit of a post.
    let late_store_ms = figure("TIDEGATE_LATE_STORE_MS", 600);
    let scene = Scene::with(&format!("[zendesk]\ntimeout = '{}ms'\n", late_store_ms * 3 / 2)).await;
    scene.zendesk.behave(Behaviour { late_store_rate: 1.0, late_store_ms, ..Behaviour::default() });
    six_messages(&scene).await;
    answered_once(&scene).await;
    tokio::time::sleep(Duration::from_millis(late_store_ms * 2)).await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_without_effect_are_tried_again() {
    let scene = Scene::with("").await;
    scene.zendesk.behave(Behaviour { error_rate: 0.5, ..Behaviour::default() });
    six_messages(&scene).await;
    answered_once(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_on_posts_is_obeyed() {
    let scene = Scene::with("").await;
    let throttle = Some(Quota { requests: 2, per_ms: 1_000 });
    scene.zendesk.behave(Behaviour { throttle, ..Behaviour::default() });
    six_messages(&scene).await;
    answered_once(&scene).await;
    assert!(scene.zendesk.stats().throttled >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_conversation_parks() {
    let options = zendesk::Options { messages_max: 1, ..zendesk::Options::default() };
    let scene = Scene::set("", options).await;
    let message = scene.say("full", "hello?").await;
    eventually("it is parked", SOON, async || {
        scene.daemon.admin(&format!("/admin/messages/{message}")).await["outcome"] == "parked"
    })
    .await;
    let told = scene.daemon.admin(&format!("/admin/messages/{message}")).await;
    assert!(told["cause"].as_str().is_some_and(|cause| cause.contains("423")), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_reply_comes_in_parts_in_order() {
    let scene = Scene::with("").await;
    scene.say("long", "[[ai:long:9000]]").await;
    eventually("three parts", SOON, async || scene.replies("long").len() == 3).await;
    let marks: Vec<String> = scene
        .zendesk
        .messages("long")
        .iter()
        .filter_map(|message| message.metadata.get("tidegate_part")?.as_str().map(str::to_owned))
        .collect();
    assert_eq!(marks, ["1/3", "2/3", "3/3"]);
    assert!(scene.replies("long").iter().all(|part| part.encode_utf16().count() <= 4_096));
}
