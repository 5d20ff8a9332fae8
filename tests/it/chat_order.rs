//! Messages that come late, grow old or are overtaken; conversations that are put away and come back.

use std::time::Duration;

use serde_json::Value;
use tidegate::simulate::{ai, zendesk::Holder};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    recorder::Recorder,
    support::{
        SOON, Scene, eventually,
        webhooks::{delivery, message},
    },
};

async fn told(scene: &Scene, message: &str) -> Value {
    scene.daemon.admin(&format!("/admin/messages/{message}")).await
}

fn stages(told: &Value) -> Vec<&str> {
    told["timeline"].as_array().into_iter().flatten().filter_map(|entry| entry["stage"].as_str()).collect()
}

/// A customer's message that Zendesk received 30 seconds ago and delivers only now.
async fn deliver_late(scene: &Scene, id: &str, conversation: &str) {
    let mut event = message(&format!("event-{id}"), id, conversation, "what I said first");
    let received = OffsetDateTime::now_utc() - Duration::from_secs(30);
    event["payload"]["message"]["received"] = Value::String(received.format(&Rfc3339).unwrap());
    let answer = scene.deliver(delivery(&[event])).await;
    assert_eq!(answer.counts(), [1, 0, 0, 0, 0]);
}

/// The messages answered in a conversation, in the order of the replies.
fn answered(scene: &Scene, conversation: &str) -> Vec<String> {
    let messages = scene.zendesk.messages(conversation);
    messages.iter().filter_map(|message| message.metadata.get("tidegate_ids")?.as_str().map(str::to_owned)).collect()
}

/// Fills the limiter of posts, so that the next reply waits for seconds with its intent written.
async fn reply_waits(scene: &Scene, conversation: &str) -> String {
    for n in 0..4 {
        scene.say(&format!("busy{n}"), "hello").await;
    }
    eventually("all are asked", SOON, async || scene.ai.stats().ok >= 4).await;
    let message = scene.say(conversation, "hello").await;
    eventually("its reply waits", SOON, async || {
        let told = told(scene, &message).await;
        told["phase"] == "waiting:limiter" && stages(&told).contains(&"intended")
    })
    .await;
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_after_its_successor_was_answered_is_answered_and_marked_late() {
    let scene = Scene::with("").await;
    let successor = scene.say("c", "hello").await;
    scene.settles().await;
    deliver_late(&scene, "m-late", "c").await;
    let late = scene.daemon.settled("m-late").await;
    assert_eq!(late["outcome"], "replied", "{late}");
    assert!(stages(&late).contains(&"late"), "{late}");
    assert!(!stages(&scene.daemon.settled(&successor).await).contains(&"late"));
    assert_eq!(answered(&scene, "c"), [successor.as_str(), "m-late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_is_revoked_when_an_earlier_message_arrives_before_the_post() {
    let scene = Scene::with("[zendesk]\nposts_per_second = 1\n").await;
    let message = reply_waits(&scene, "c").await;
    deliver_late(&scene, "m-first", "c").await;
    let told = scene.daemon.settled(&message).await;
    assert_eq!(answered(&scene, "c"), ["m-first", message.as_str()], "{told}");
    assert_eq!(stages(&told).iter().filter(|stage| **stage == "intended").count(), 2, "{told}");
    assert!(!stages(&told).contains(&"late"), "{told}");
    scene.settles().await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_human_who_takes_over_while_the_reply_waits_for_its_turn_is_not_talked_over() {
    let scene = Scene::with("[zendesk]\nposts_per_second = 1\n").await;
    let message = reply_waits(&scene, "c").await;
    assert!(scene.zendesk.control("c", Some(Holder::Agent)).await);
    let told = scene.daemon.settled(&message).await;
    assert_eq!(told["outcome"], "ignored", "{told}");
    assert_eq!((scene.replies("c").len(), scene.zendesk.stats().posts_while_human), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_grows_too_old_in_a_pause_is_not_answered_by_the_last_look() {
    let scene = Scene::with("[chat]\ndeadline = '2s'\n[retry]\nbase = '2s'\n").await;
    scene.ai.behave(ai::Behaviour { status: 503, ..ai::Behaviour::default() });
    let message = scene.say("c", "hello").await;
    eventually("the AI has failed", SOON, async || scene.ai.stats().errors == 1).await;
    // The pause after the failure is longer than what is left of the deadline.
    scene.ai.behave(ai::Behaviour::default());
    let told = scene.daemon.settled(&message).await;
    assert_eq!((told["outcome"].as_str(), scene.ai.stats().calls), (Some("handed_over"), 1), "{told}");
    assert!(scene.replies("c").iter().all(|reply| !reply.starts_with("Answer")), "{:?}", scene.replies("c"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_after_the_deadline_is_not_posted() {
    let scene = Scene::with("[chat]\ndeadline = '3s'\n").await;
    scene.ai.behave(ai::Behaviour { latency_ms: 2_500, ..ai::Behaviour::default() });
    for n in 0..8 {
        scene.say(&format!("c{n}"), "hello").await;
    }
    eventually("the AI is asked", SOON, async || scene.ai.stats().calls == 8).await;
    // The process stands still until the answers are there and the messages too old.
    scene.daemon.freeze(true);
    tokio::time::sleep(Duration::from_secs(4)).await;
    scene.daemon.freeze(false);
    for n in 0..8 {
        let conversation = format!("c{n}");
        eventually("a human has it", SOON, async || scene.zendesk.holder(&conversation) == Some(Holder::Agent)).await;
        let replies = scene.replies(&conversation);
        assert!(replies.iter().all(|reply| !reply.starts_with("Answer")), "{replies:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_was_put_away_comes_back_with_its_history() {
    let (at_zendesk, at_ai) = (Recorder::start().await, Recorder::start().await);
    let config =
        format!("[zendesk]\napi_url = '{}/sc'\n[[ai.services]]\nbase_url = '{}/v1'\n", at_zendesk.url(), at_ai.url());
    let scene = Scene::with(&config).await;
    at_zendesk.aim(&scene.zendesk.url());
    at_ai.aim(&scene.ai.url());
    scene.say("c", "my name is Ayla").await;
    scene.settles().await;
    let path = "/admin/actors/node/conversations/c";
    let status = async || reqwest::get(scene.daemon.admin_url(path)).await.unwrap().status().as_u16();
    assert_eq!(status().await, 200);
    eventually("it is put away", SOON, async || status().await == 404).await;
    let read = at_zendesk.calls("/messages").len();
    scene.say("c", "who am I?").await;
    scene.settles().await;
    scene.assert_sound();
    let asked = at_ai.calls("/chat/completions");
    assert!(asked[1].body.to_string().contains("my name is Ayla"), "{:?}", asked[1].body);
    eventually("the reply is recorded", SOON, async || at_zendesk.posts().len() == 2).await;
    assert_eq!(at_zendesk.calls("/messages").len(), read + 1, "the reply alone; nothing had to be read");
}
