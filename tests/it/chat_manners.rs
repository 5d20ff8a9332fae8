//! What the customer sees besides answers: that one is being written, that it takes longer; and nothing at all in shadow.

use std::time::Duration;

use tidegate::simulate::ai;

use crate::{
    recorder::Recorder,
    support::{SOON, Scene, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_customer_sees_that_an_answer_is_being_written_if_it_takes_a_while() {
    let mut scene = Scene::with("[chat]\ntyping_after = '20s'\n").await;
    scene.say("quick", "hello").await;
    scene.settles().await;
    assert_eq!(scene.zendesk.stats().activities, 0, "an instant answer needs no sign");
    scene.daemon.restart("chat.typing_after = '300ms'").await;
    scene.ai.behave(ai::Behaviour { latency_ms: 3_000, ..ai::Behaviour::default() });
    scene.say("slow", "hello").await;
    eventually("it is shown", SOON, async || scene.zendesk.stats().activities == 1).await;
    assert!(scene.replies("slow").is_empty(), "before the answer");
    scene.settles().await;
    assert_eq!(scene.zendesk.stats().activities, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_of_patience_is_said_once_whatever_happens() {
    let mut scene = Scene::with("[chat]\nholding_after = '20s'\nholding_message = 'One moment, please.'\n").await;
    scene.say("quick", "hello").await;
    scene.settles().await;
    assert_eq!(scene.replies("quick").len(), 1);
    scene.daemon.restart("chat.holding_after = '400ms'").await;
    scene.ai.behave(ai::Behaviour { status: 503, ..ai::Behaviour::default() });
    scene.say("slow", "hello").await;
    let patience = |scene: &Scene| scene.replies("slow").iter().filter(|text| *text == "One moment, please.").count();
    eventually("it is said", SOON, async || patience(&scene) == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.daemon.restart("").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    scene.ai.behave(ai::Behaviour::default());
    eventually("it is answered", SOON, async || scene.replies("slow").iter().any(|text| text.starts_with("Answer")))
        .await;
    scene.settles().await;
    scene.assert_sound();
    assert_eq!((patience(&scene), scene.replies("slow").len()), (1, 2), "{:?}", scene.replies("slow"));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_shadow_the_answer_is_recorded_and_nothing_is_posted() {
    let config = "[chat]\nshadow = true\ntyping_after = '50ms'\nhandoff_phrases = ['human']\n";
    let scene = Scene::with(config).await;
    scene.ai.behave(ai::Behaviour { latency_ms: 300, ..ai::Behaviour::default() });
    let message = scene.say("c", "hello").await;
    let asks = scene.say("h", "a human, please").await;
    for (message, outcome) in [(&message, "replied"), (&asks, "handed_over")] {
        eventually("it has ended", SOON, async || {
            scene.daemon.admin(&format!("/admin/messages/{message}")).await["outcome"] == outcome
        })
        .await;
    }
    let (_, task) = scene.daemon.task(&message).await;
    assert!(task["result"].as_str().is_some_and(|text| text.starts_with("Answer")), "{task}");
    let stats = scene.zendesk.stats();
    assert_eq!((stats.posts, stats.activities, stats.passes), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_posted_in_a_second_than_configured() {
    let recorder = Recorder::start().await;
    let scene = Scene::with(&format!("[zendesk]\napi_url = '{}/sc'\nposts_per_second = 3\n", recorder.url())).await;
    recorder.aim(&scene.zendesk.url());
    for n in 0..12 {
        scene.say(&format!("c{n}"), "hello").await;
    }
    scene.settles().await;
    scene.assert_sound();
    eventually("all are recorded", SOON, async || recorder.posts().len() == 12).await;
    let mut at: Vec<_> = recorder.posts().into_iter().map(|post| post.at).collect();
    at.sort();
    for four in at.windows(4) {
        let span = four[3] - four[0];
        assert!(span >= Duration::from_millis(990), "four posts within {span:?}");
    }
}
