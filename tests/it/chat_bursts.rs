//! Customers write in fragments: one question, one reply (design rule 10).

use std::time::Duration;

use tidegate::simulate::ai;

use crate::support::{SOON, Scene, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_five_fragments_in_three_seconds_is_one_call_and_one_reply() {
    let scene = Scene::with("[chat]\nmerge_quiet = '4s'\nmerge_cap = '30s'\n").await;
    for n in 0..5 {
        scene.say("burst", &format!("part {n}")).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    scene.settles().await;
    scene.assert_sound();
    assert_eq!((scene.ai.stats().calls, scene.replies("burst").len()), (1, 1));
    assert_eq!(scene.replies("burst")[0].matches("[ref:").count(), 5, "all fragments are in the one question");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_who_writes_on_is_answered_all_the_same() {
    // A fifth of: writes every 5 s while the AI takes 6 s.
    let scene = Scene::with("[chat]\nmerge_quiet = '160ms'\nmerge_cap = '800ms'\n").await;
    scene.ai.behave(ai::Behaviour { latency_ms: 1_200, ..ai::Behaviour::default() });
    for n in 0..8 {
        scene.say("steady", &format!("and {n}")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(!scene.replies("steady").is_empty(), "answered while still writing");
    scene.settles().await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_message_while_the_ai_thinks_joins_the_question_once() {
    let scene = Scene::with("[chat]\nmerge_quiet = '100ms'\nmerge_cap = '500ms'\n").await;
    scene.ai.behave(ai::Behaviour { latency_ms: 3_000, ..ai::Behaviour::default() });
    scene.say("c", "my order").await;
    eventually("the AI is asked", SOON, async || scene.ai.stats().calls == 1).await;
    scene.say("c", "number 7").await;
    scene.settles().await;
    assert_eq!((scene.ai.stats().calls, scene.replies("c").len()), (2, 1), "the first answer was withheld");
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_merging_each_message_has_its_own_reply_in_order() {
    let scene = Scene::with("").await;
    scene.ai.behave(ai::Behaviour { latency_ms: 20, latency_jitter_ms: 60, ..ai::Behaviour::default() });
    for n in 0..15 {
        scene.say("c", &format!("number {n}")).await;
    }
    scene.settles().await;
    scene.assert_sound();
    assert_eq!((scene.ai.stats().calls, scene.replies("c").len()), (15, 15));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_burst_is_retried_unmerged() {
    let scene = Scene::with("[chat]\nmerge_quiet = '300ms'\nmerge_cap = '900ms'\n[retry]\nbase = '10ms'\n").await;
    scene.say("c", "good one").await;
    let bad = scene.say("c", "[[ai:400]]").await;
    eventually("the bad one is parked", SOON, async || {
        scene.daemon.admin(&format!("/admin/messages/{bad}")).await["outcome"] == "parked"
    })
    .await;
    scene.settles().await;
    scene.assert_sound();
    assert!(scene.replies("c").iter().any(|reply| reply.starts_with("Answer")), "the good fragment was answered");
}
