//! Answers are kept for the first message of a conversation only: later ones depend on what was said before.

use axum::http::Method;

use crate::{
    recorder::Recorder,
    support::{SOON, Scene, eventually},
};

/// The same words each time; with a reference no two texts would be equal.
const WORDS: &str = "what are your opening hours?";

async fn ask(scene: &Scene, conversation: &str) {
    let before = scene.replies(conversation).len();
    scene.zendesk.say(conversation, WORDS).await;
    eventually("it is answered", SOON, async || scene.replies(conversation).len() > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_of_a_conversation_is_answered_from_the_cache_a_later_one_is_not() {
    let scene = Scene::with("").await;
    for conversation in ["a", "b", "c"] {
        ask(&scene, conversation).await;
    }
    assert_eq!(scene.ai.stats().calls, 1, "all three begin with it");
    ask(&scene, "a").await;
    assert_eq!(scene.ai.stats().calls, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_history_nobody_knows_which_message_is_the_first() {
    let scene = Scene::with("[chat]\nhistory = 0\n").await;
    for conversation in ["a", "a", "b"] {
        ask(&scene, conversation).await;
    }
    assert_eq!(scene.ai.stats().calls, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn words_after_what_is_no_text_are_not_the_first_message() {
    let scene = Scene::with("").await;
    ask(&scene, "a").await;
    scene.zendesk.aim(None).unwrap();
    scene.zendesk.postback("b", "START").await;
    let image = serde_json::json!({ "type": "image", "mediaUrl": "https://example.org/x.png" });
    scene.write("b", &image).await;
    scene.zendesk.aim(Some(&scene.daemon.url("/webhooks/sunshine"))).unwrap();
    ask(&scene, "b").await;
    assert_eq!(scene.ai.stats().calls, 2, "something had been said before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_cannot_be_read_is_not_taken_for_an_empty_one_and_is_read_again() {
    let (at_zendesk, at_ai) = (Recorder::start().await, Recorder::start().await);
    let config =
        format!("[zendesk]\napi_url = '{}/sc'\n[[ai.services]]\nbase_url = '{}/v1'\n", at_zendesk.url(), at_ai.url());
    let scene = Scene::with(&config).await;
    at_zendesk.aim(&scene.zendesk.url());
    at_ai.aim(&scene.ai.url());
    ask(&scene, "a").await;
    scene.zendesk.aim(None).unwrap();
    scene.zendesk.say("b", "my name is Ayla").await;
    scene.zendesk.aim(Some(&scene.daemon.url("/webhooks/sunshine"))).unwrap();
    at_zendesk.fail(Method::GET, "/messages", 1);
    ask(&scene, "b").await;
    assert_eq!(scene.ai.stats().calls, 2, "what was said before is not known");
    ask(&scene, "b").await;
    let asked = at_ai.calls("/chat/completions");
    let knows = |index: usize| asked[index].body.to_string().contains("my name is Ayla");
    assert_eq!((asked.len(), knows(1), knows(2)), (3, false, true), "{asked:?}");
}
