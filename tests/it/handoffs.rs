//! Conversations are handed over with what the agent needs, confirmed by Zendesk, and never to nobody.

use std::time::Duration;

use serde_json::Value;
use tidegate::simulate::{ai, zendesk::Holder};

use crate::{
    recorder::Recorder,
    support::{Daemon, SOON, Scene, eventually},
};

const APOLOGY: &str = "Sorry, I could not answer this. A colleague will take over.";

async fn handoffs(daemon: &Daemon, outcome: &str) -> f64 {
    daemon.metric(&format!("tidegate_handoffs_total{{outcome=\"{outcome}\"}}")).await
}

fn cause(told: &Value) -> &str {
    told["cause"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_or_the_model_can_ask_for_a_human_who_learns_why() {
    let recorder = Recorder::start().await;
    let address = format!("[zendesk]\napi_url = '{}/sc'\n", recorder.url());
    let scene = Scene::with(&format!("{address}[chat]\nhandoff_phrases = ['speak to a person']\n")).await;
    recorder.aim(&scene.zendesk.url());
    let first = scene.say("phrase", "hello").await;
    scene.settles().await;
    scene.say("phrase", "I want to SPEAK TO A PERSON please").await;
    let model = scene.say("model", "[[ai:handoff]]").await;
    for conversation in ["phrase", "model"] {
        eventually("a human holds it", SOON, async || scene.zendesk.holder(conversation) == Some(Holder::Agent)).await;
    }
    scene.settles().await;
    eventually("Zendesk confirms both", SOON, async || handoffs(&scene.daemon, "confirmed").await > 1.5).await;
    assert!((handoffs(&scene.daemon, "asked").await - 2.0).abs() < 0.1);
    assert_eq!(scene.zendesk.stats().judged.lost, 0);
    let passed = recorder.calls("/passControl");
    for (conversation, begins, why, said) in [
        ("phrase", &first, "the customer asked for a human", "SPEAK TO A PERSON"),
        ("model", &model, "the model asked for a human", "[[ai:handoff]]"),
    ] {
        let call = passed.iter().find(|call| call.path.contains(&format!("/{conversation}/"))).unwrap();
        assert_eq!(call.body["switchboardIntegration"], "zd:agentWorkspace");
        assert_eq!(call.body["metadata"]["first_message_id"], begins.as_str(), "{}", call.body);
        let summary = call.body["metadata"]["tidegate_summary"].as_str().unwrap_or_default();
        assert!(summary.contains(why) && summary.contains(said), "{summary}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_hand_off_is_told_and_parked_and_the_bot_stays() {
    let config = "[zendesk]\nhandoff_to = 'nobody'\n[chat]\nhandoff_phrases = ['human']\ndeadline = '4s'\n";
    let scene = Scene::with(config).await;
    for (conversation, text, why) in [
        ("phrase", "a human, please", "the customer asked for a human"),
        ("model", "[[ai:handoff]]", "the model asked for a human"),
        ("content", "[[ai:refuse]]", "content"),
    ] {
        let told = scene.daemon.settled(&scene.say(conversation, text).await).await;
        assert_eq!(told["outcome"], "parked", "{told}");
        assert!(cause(&told).contains(why) && cause(&told).contains("refuses the hand-off"), "{told}");
        assert_eq!(scene.replies(conversation), [APOLOGY], "told once");
    }
    scene.say("phrase", "then you").await;
    eventually("the bot answers", SOON, async || scene.replies("phrase").len() == 2).await;
    scene.ai.behave(ai::Behaviour { status: 503, ..ai::Behaviour::default() });
    let late = scene.daemon.settled(&scene.say("late", "is anybody there?").await).await;
    assert_eq!(late["outcome"], "parked", "{late}");
    assert!(cause(&late).contains("deadline") && cause(&late).contains("refuses the hand-off"), "{late}");
    assert!((handoffs(&scene.daemon, "refused").await - 4.0).abs() < 0.1);
    assert!(handoffs(&scene.daemon, "asked").await < 0.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_after_the_event_came_is_not_asked_for_again() {
    let recorder = Recorder::start().await;
    // Longer than the time limit of a call.
    recorder.hold_back("/passControl", Duration::from_millis(1_500));
    let config = format!("[zendesk]\napi_url = '{}/sc'\n[chat]\nhandoff_phrases = ['human']\n", recorder.url());
    let scene = Scene::with(&config).await;
    recorder.aim(&scene.zendesk.url());
    let told = scene.daemon.settled(&scene.say("c", "a human, please").await).await;
    assert_eq!(told["outcome"], "handed_over", "{told}");
    eventually("it is confirmed", SOON, async || handoffs(&scene.daemon, "confirmed").await > 0.5).await;
    assert_eq!(scene.zendesk.stats().passes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_off_that_is_not_confirmed_is_an_alarm() {
    let scene = Scene::with("[chat]\nhandoff_phrases = ['human']\n").await;
    scene.ai.behave(ai::Behaviour { latency_ms: 500, ..ai::Behaviour::default() });
    scene.say("c", "[[ai:handoff]]").await;
    eventually("the AI is asked", SOON, async || scene.ai.stats().calls == 1).await;
    // From now on no event arrives.
    scene.zendesk.aim(None).unwrap();
    eventually("a human holds it", SOON, async || scene.zendesk.holder("c") == Some(Holder::Agent)).await;
    eventually("nobody has confirmed it", SOON, async || handoffs(&scene.daemon, "unconfirmed").await > 0.5).await;
    assert!(handoffs(&scene.daemon, "confirmed").await < 0.1);
    assert!(scene.daemon.log().contains("a hand-off was not confirmed"));
}
