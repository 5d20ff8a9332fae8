//! Who answers: the bot, or a human. And what is forgotten with a customer. How conversations are handed over stands in
//! `handoffs.rs`.

use tidegate::simulate::{ai, zendesk::Holder};

use crate::support::{SOON, Scene, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_human_who_takes_over_while_the_ai_thinks_is_not_talked_over() {
    let scene = Scene::with("").await;
    scene.ai.behave(ai::Behaviour { latency_ms: 700, ..ai::Behaviour::default() });
    let message = scene.say("c", "help!").await;
    eventually("the AI is asked", SOON, async || scene.ai.stats().calls == 1).await;
    scene.zendesk.control("c", Some(Holder::Agent)).await;
    eventually("it has ended", SOON, async || {
        scene.daemon.admin(&format!("/admin/messages/{message}")).await["outcome"] == "ignored"
    })
    .await;
    assert_eq!((scene.replies("c").len(), scene.zendesk.stats().posts_while_human), (0, 0));
    scene.ai.behave(ai::Behaviour::default());
    scene.zendesk.control("c", Some(Holder::Bot)).await;
    scene.say("c", "and you again?").await;
    eventually("the bot answers again", SOON, async || scene.replies("c").len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_deadline_a_human_takes_over_instead_of_a_stale_answer() {
    let scene = Scene::with("[chat]\ndeadline = '2s'\n").await;
    scene.ai.behave(ai::Behaviour { status: 503, ..ai::Behaviour::default() });
    scene.say("late", "is anybody there?").await;
    eventually("a human holds it", SOON, async || scene.zendesk.holder("late") == Some(Holder::Agent)).await;
    scene.ai.behave(ai::Behaviour::default());
    scene.settles().await;
    assert!(scene.replies("late").iter().all(|reply| !reply.starts_with("Answer")), "{:?}", scene.replies("late"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_customer_is_forgotten() {
    let scene = Scene::with("").await;
    let message = scene.say("gone", "my secret is swordfish").await;
    scene.settles().await;
    let (_, before) = scene.daemon.task(&message).await;
    assert!(before["result"].as_str().is_some_and(|text| text.starts_with("Answer")), "{before}");
    assert!(scene.zendesk.remove_user("gone").await);
    eventually("the reply is forgotten", SOON, async || {
        let (_, task) = scene.daemon.task(&message).await;
        task["result"].is_null()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merged_conversation_is_answered_where_it_went() {
    let scene = Scene::with("").await;
    scene.say("old", "hello").await;
    scene.say("new", "hello").await;
    scene.settles().await;
    assert!(scene.zendesk.merge("new", "old").await);
    scene.say("new", "still there?").await;
    scene.settles().await;
    scene.assert_sound();
}
