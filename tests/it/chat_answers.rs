//! Who is asked, and what: the chain of services, and the prompt.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::simulate::{Ai, ai};

use crate::{
    recorder::Recorder,
    support::{ANYWHERE, SOON, Scene, eventually},
};

async fn has_replies(scene: &Scene, conversation: &str, count: usize) {
    eventually("it is answered", SOON, async || scene.replies(conversation).len() == count).await;
}

/// The turns of each question so far, without the text's reference.
fn questions(ai: &Recorder) -> Vec<Value> {
    ai.calls("/chat/completions").into_iter().map(|call| call.body["messages"].clone()).collect()
}

/// A scene whose AI service is recorded; `service` stands in its table.
async fn recorded(service: &str) -> (Scene, Recorder) {
    let recorder = Recorder::start().await;
    let scene = Scene::with(&format!("[[ai.services]]\nbase_url = '{}/v1'\n{service}\n", recorder.url())).await;
    recorder.aim(&scene.ai.url());
    (scene, recorder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_answers_while_the_first_fails_or_its_breaker_is_open() {
    let second = Ai::start(ANYWHERE, ai::Options::default()).await.expect("a port is free");
    let config = format!(
        "[[ai.services]]\nbreaker = {{ failure_threshold = 2, recovery_timeout = '60s' }}\n[[ai.services]]\nname = \"second\"\n\
         model = \"simulated\"\nbase_url = \"{}/v1\"\n",
        second.url()
    );
    let scene = Scene::with(&config).await;
    scene.say("c0", "hello").await;
    scene.settles().await;
    assert_eq!((scene.ai.stats().calls, second.stats().calls), (1, 0), "the first is asked first");
    scene.ai.behave(ai::Behaviour { status: 500, ..ai::Behaviour::default() });
    for n in 0..8 {
        scene.say(&format!("c{n}"), "and now?").await;
        scene.settles().await;
    }
    scene.assert_sound();
    assert_eq!(second.stats().ok, 8);
    // Its failures and the probes of other conversations; an open one is passed by.
    let asked_in_vain = scene.ai.stats().calls - 1;
    assert!((2..8).contains(&asked_in_vain), "{asked_in_vain} calls");
    assert!(scene.daemon.metric("tidegate_breaker_state{service=\"primary\",state=\"open\"}").await > 0.5);
    assert!(scene.daemon.metric("tidegate_dead_letters_total").await < 0.5);
}

/// A service that cannot be used as it is set up, until somebody mends it.
async fn mended(status: u16) {
    let scene = Scene::with("").await;
    scene.ai.behave(ai::Behaviour { status, ..ai::Behaviour::default() });
    scene.say("c", "hello").await;
    eventually("somebody is alerted", SOON, async || scene.daemon.log().contains("cannot be used as it is set up"))
        .await;
    let shown = async || scene.daemon.admin("/readyz").await["dependencies"]["ai/primary"].clone();
    let (service, why) = (shown().await, "refuses this node as it is set up");
    let told = service["reason"].as_str().is_some_and(|reason| reason.contains(why));
    assert!(service["state"] == "down" && told, "{service}");
    let up = "tidegate_dependency_up{dependency=\"ai/primary\"}";
    assert_eq!(scene.daemon.metric(up).await, 0.0, "the metrics say the same");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.ai.stats().calls, 1, "{status}: it is not stormed");
    scene.ai.behave(ai::Behaviour::default());
    scene.settles().await;
    scene.assert_sound();
    has_replies(&scene, "c", 1).await;
    assert_eq!(shown().await, serde_json::json!({ "state": "up" }));
    assert_eq!(scene.daemon.metric(up).await, 1.0);
    for series in ["tidegate_dead_letters_total", "tidegate_retries_total", "tidegate_handoffs_total"] {
        assert!(scene.daemon.metric(series).await < 0.5, "{status}: {series}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_or_model_waits_until_it_is_mended() {
    tokio::join!(mended(401), mended(403), mended(404));
}

/// As behind a proxy that shows its own page, with the status 200.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_answers_with_what_is_no_answer_is_out_of_order_and_parks_nobody() {
    let breaker = "[retry]\nmax_retries = 0\n[[ai.services]]\n[ai.services.breaker]\nrecovery_timeout = '1s'\n";
    let scene = Scene::with(breaker).await;
    scene.ai.behave(ai::Behaviour { malformed: true, ..ai::Behaviour::default() });
    for n in 0..6 {
        scene.say(&format!("c{n}"), "hello").await;
    }
    eventually("the breaker opens", SOON, async || {
        scene.daemon.metric("tidegate_breaker_state{service=\"primary\",state=\"closed\"}").await < 0.5
    })
    .await;
    scene.ai.behave(ai::Behaviour::default());
    scene.settles().await;
    scene.assert_sound();
    for series in ["tidegate_dead_letters_total", "tidegate_retries_total", "tidegate_handoffs_total"] {
        assert!(scene.daemon.metric(series).await < 0.5, "{series}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pressed_button_is_answered() {
    let scene = Scene::with("").await;
    let reference = scene.zendesk.next_reference();
    scene.zendesk.postback("c", &format!("SHOW_RETURNS {reference}")).await;
    scene.settles().await;
    scene.assert_sound();
    assert_eq!(scene.replies("c"), [format!("Answer to {reference}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_before_is_read_from_zendesk_and_sent_along() {
    let (scene, recorder) = recorded("").await;
    scene.zendesk.aim(None).unwrap();
    scene.zendesk.say("c", "my name is Ayla").await;
    scene.zendesk.agent_says("c", "Hello Ayla").await;
    scene.zendesk.aim(Some(&scene.daemon.url("/webhooks/sunshine"))).unwrap();
    scene.zendesk.say("c", "who am I?").await;
    eventually("it is answered", SOON, async || scene.replies("c").len() == 2).await;
    let expected = json!([
        { "role": "user", "content": "my name is Ayla" },
        { "role": "assistant", "content": "Hello Ayla" },
        { "role": "user", "content": "who am I?" },
    ]);
    assert_eq!(questions(&recorder), [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_files_and_forms_become_words_and_an_address_only_for_models_that_see() {
    let image = json!({
        "type": "image", "mediaUrl": "https://example.org/parcel.png", "mediaType": "image/png", "text": "my parcel",
    });
    let file = json!({ "type": "file", "mediaUrl": "https://example.org/bill.pdf", "text": "my bill" });
    let form = json!({ "type": "formResponse", "fields": [
        { "type": "text", "name": "order", "label": "Order", "text": "4711" },
        { "type": "select", "name": "topic", "label": "Topic", "select": [{ "name": "refund", "label": "Refund" }] },
    ] });
    for sees in [true, false] {
        let (scene, recorder) = recorded(&format!("images = {sees}")).await;
        for (conversation, content) in [("image", &image), ("file", &file), ("form", &form)] {
            scene.say(conversation, "hello").await;
            has_replies(&scene, conversation, 1).await;
            scene.write(conversation, content).await;
            has_replies(&scene, conversation, 2).await;
        }
        let asked: Vec<Value> = questions(&recorder)
            .iter()
            .map(|turns| turns.as_array().unwrap().last().unwrap()["content"].clone())
            .collect();
        let line = "[The customer sent an image (image/png): my parcel]";
        let shown = json!([
            { "type": "text", "text": line },
            { "type": "image_url", "image_url": { "url": "https://example.org/parcel.png" } },
        ]);
        assert_eq!(asked[1], if sees { shown } else { json!(line) });
        assert_eq!(asked[3], "[The customer sent a file: my bill]");
        assert_eq!(asked[5], "Order: 4711\nTopic: Refund");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_only_a_proxy_reaches_is_asked_through_it() {
    // RFC 6761, section 6.4: nobody has a name that ends so.
    let mut scene = Scene::with("[[ai.services]]\nbase_url = 'http://ai.invalid/v1'\n").await;
    let proxy = scene.ai.url();
    scene.daemon.set_environment(&[("HTTP_PROXY", &proxy), ("NO_PROXY", "127.0.0.1")]);
    scene.daemon.restart("").await;
    scene.say("c1", "hello").await;
    has_replies(&scene, "c1", 1).await;
    assert_eq!(scene.ai.stats().calls, 1);
}
