//! G1 and G2 under the hardest hand: the process dies, at any moment, and nothing is lost or said twice.

use std::time::Duration;

use serde_json::Value;
use tidegate::simulate::{Customers, Zendesk, ai, customers::Plan, reference::Reference};

use crate::support::{Daemon, SOON, Scene, eventually, figure};

/// Dies at a fault point under a small load and starts again. What is there in the end.
async fn dies_at(point: &str, wipe_state: bool) -> Scene {
    let mut scene = Scene::with(&format!("[faults]\nkill_at = '{point}'\nkill_after = 3\n")).await;
    if point == "between_parts" {
        scene.ai.behave(ai::Behaviour { reply_chars: 9_000, ..ai::Behaviour::default() });
    }
    for n in 0..12 {
        scene.say(&format!("c{}", n % 4), "where is my parcel?").await;
    }
    let mut daemon = scene.daemon;
    eventually("the daemon dies at its fault point", SOON, async || daemon.ended().is_some()).await;
    if wipe_state {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(daemon.data().join(format!("state.db{end}")));
        }
    }
    daemon.restart("[faults]\nkill_at = ''\n").await;
    scene.daemon = daemon;
    scene.settles().await;
    scene.assert_sound();
    assert_eq!(scene.zendesk.stats().judged.answered, 12, "{:?}", scene.zendesk.stats());
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_after_the_store_loses_nothing_although_the_sender_was_not_answered() {
    dies_at("after_store", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_before_the_intent_asks_the_ai_again_and_answers_once() {
    dies_at("before_intent", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_after_the_intent_posts_what_was_meant() {
    let scene = dies_at("after_intent", false).await;
    // Others may have been in the AI's hands when the process died; the one with an intent was not asked about again.
    let asked_again = scene.ai.stats().asked_more_than_once;
    assert!(asked_again <= 3, "{asked_again} messages were asked about again; at most those in flight may be");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_between_two_parts_posts_the_missing_ones_only() {
    let scene = dies_at("between_parts", false).await;
    for conversation in ["c0", "c1", "c2", "c3"] {
        let what = "3 replies of 3 parts each, and no more";
        eventually(what, SOON, async || scene.replies(conversation).len() >= 9).await;
        assert_eq!(scene.replies(conversation).len(), 9, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_after_the_post_does_not_post_again() {
    dies_at("after_post", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_before_the_acknowledgement_does_not_answer_again() {
    dies_at("before_ack", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_lost_between_post_and_acknowledgement_does_not_answer_again() {
    dies_at("after_post", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_at_random_moments_lose_and_double_nothing() {
    let mut scene = Scene::with("").await;
    scene.ai.behave(ai::Behaviour { latency_ms: 40, latency_jitter_ms: 40, ..ai::Behaviour::default() });
    let plan = Plan { conversations: 20, per_second: 60.0, ..Plan::default() };
    let customers = Customers::start(&scene.zendesk, plan);
    for _ in 0..figure("TIDEGATE_KILLS", 8) {
        let moment = Duration::from_millis(rand::random_range(200..900));
        tokio::time::sleep(moment).await;
        scene.daemon.restart("").await;
    }
    customers.stop().await;
    scene.settles().await;
    scene.assert_sound();
    let judged = scene.zendesk.stats().judged;
    println!("{judged:?}");
    assert!(judged.answered > 100, "{judged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_ends_in_time_and_runs_nothing_finished_again() {
    let mut scene = Scene::with("").await;
    scene.ai.behave(ai::Behaviour { latency_ms: 100, ..ai::Behaviour::default() });
    let plan = Plan { conversations: 20, per_second: 60.0, ..Plan::default() };
    let customers = Customers::start(&scene.zendesk, plan);
    let zendesk = scene.zendesk.clone();
    eventually("some are answered", SOON, async || zendesk.stats().judged.answered > 30).await;
    scene.daemon.terminate();
    let mut daemon = scene.daemon;
    eventually("the daemon ends within its grace", Duration::from_secs(15), async || daemon.ended().is_some()).await;
    assert_eq!(daemon.ended().and_then(|status| status.code()), Some(0), "{}", daemon.log_tail());
    let finished = finished(&scene.zendesk, &customers.conversations());
    assert!(finished.len() > 30);
    let before: Vec<u32> = finished.iter().map(|reference| scene.ai.asked(*reference)).collect();
    daemon.restart("").await;
    scene.daemon = daemon;
    customers.stop().await;
    scene.settles().await;
    scene.assert_sound();
    let after: Vec<u32> = finished.iter().map(|reference| scene.ai.asked(*reference)).collect();
    assert_eq!(before, after, "what was finished was not run again");
}

/// The references that have been answered.
fn finished(zendesk: &Zendesk, conversations: &[String]) -> Vec<Reference> {
    let messages = conversations.iter().flat_map(|conversation| zendesk.messages(conversation));
    let replies = messages.filter(|message| message.author == "business");
    let named = |text: String| -> Vec<Reference> {
        let numbers =
            text.split("[ref:").skip(1).filter_map(|rest| u32::from_str_radix(rest.split(']').next()?, 16).ok());
        numbers.map(Reference).collect()
    };
    replies.flat_map(|message| named(message.text)).collect()
}

/// The conversations the AI works for at the moment; `None` while the daemon is down.
async fn in_the_ais_hands(daemon: &Daemon) -> Option<Vec<String>> {
    let tree: Value = reqwest::get(daemon.admin_url("/admin/actors?limit=10")).await.ok()?.json().await.ok()?;
    let children = tree["children"].as_array()?;
    let all = children.iter().find(|child| child["path"] == "node/conversations")?["children"].as_array()?;
    let working = all.iter().filter(|one| one["in_hand"]["phase"] == "ai");
    Some(working.map(|one| one["path"].as_str().unwrap_or_default().to_owned()).collect())
}

async fn is_parked(daemon: &Daemon, message: &str) -> bool {
    let Ok(answer) = reqwest::get(daemon.admin_url(&format!("/admin/messages/{message}"))).await else { return false };
    answer.json::<Value>().await.is_ok_and(|shown| shown["outcome"] == "parked")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_kills_the_process_again_and_again_is_found_and_parked_alone() {
    let mut scene = Scene::with("[faults]\nkill_on = 'poison'\n").await;
    scene.ai.behave(ai::Behaviour { latency_ms: 2_000, ..ai::Behaviour::default() });
    for n in 0..3 {
        scene.say(&format!("innocent{n}"), "where is my parcel?").await;
    }
    eventually("the AI has them", SOON, async || scene.ai.stats().in_flight == 3).await;
    let poison = scene.say("poisoned", "poison").await;
    // In each life of the process, the most messages that the AI worked on at once.
    let mut at_once = vec![0];
    let deadline = tokio::time::Instant::now() + SOON * 2;
    while !is_parked(&scene.daemon, &poison).await {
        assert!(tokio::time::Instant::now() < deadline, "not parked after {} deaths", at_once.len() - 1);
        if scene.daemon.ended().is_some() {
            at_once.push(0);
            scene.daemon.spawn_again();
        }
        let working = in_the_ais_hands(&scene.daemon).await.map_or(0, |working| working.len());
        let most = at_once.last_mut().expect("there is a life");
        *most = working.max(*most);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(at_once.len() - 1, 4, "deaths; the most at once in each life: {at_once:?}");
    assert!(at_once[1] > 1, "one death tells nothing of anybody: {at_once:?}");
    assert!(at_once[2..].iter().all(|most| *most <= 1), "from two on, one at a time: {at_once:?}");
    scene.settles().await;
    scene.assert_sound();
    let shown = scene.daemon.settled(&poison).await;
    assert_eq!(shown["cause"], "the process died 4 times with it in hand", "{shown}");
    let judged = scene.zendesk.stats().judged;
    assert_eq!((judged.answered, judged.handed_off), (3, 1), "its neighbours are answered: {judged:?}");
    assert!(scene.daemon.ended().is_none(), "and the process lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_message_that_is_given_up_in_its_own_turn_is_not_waited_for_any_longer() {
    let mut scene = Scene::with("[zendesk]\nhandoff_to = 'nobody'\n").await;
    scene.say("c", "hello").await;
    scene.settles().await;
    scene.daemon.crash("node/conversations/c", r#"{"mode":"panic"}"#).await;
    let refused = scene.say("c", "[[ai:refuse]]").await;
    eventually("it is parked", SOON, async || {
        scene.daemon.admin(&format!("/admin/messages/{refused}")).await["outcome"] == "parked"
    })
    .await;
    assert!(scene.daemon.metric("tidegate_retries_total").await > 0.5, "it was tried again before");
    scene.daemon.restart("").await;
    scene.say("c", "and this?").await;
    // Waited for, its return would be given half a minute.
    eventually("the next one is answered", Duration::from_secs(10), async || scene.replies("c").len() == 3).await;
}
