//! G6: a message that kills its actor again and again is parked alone; what comes after it is answered.

use serde_json::Value;
use tidegate::simulate::zendesk::Holder;

use crate::support::{SOON, Scene, eventually};

/// The first try, and the three of `retry.max_retries`.
const TRIES: u64 = 4;

async fn restarts(scene: &Scene, conversation: &str) -> u64 {
    let shown = scene.daemon.admin(&format!("/admin/actors/node/conversations/{conversation}")).await;
    shown["restarts"].as_u64().unwrap_or_default()
}

async fn shown(scene: &Scene, message: &str) -> Value {
    scene.daemon.admin(&format!("/admin/messages/{message}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_kills_its_actor_again_and_again_is_parked_alone() {
    let scene = Scene::with("[faults]\npanic_on = 'poison'\n[retry]\nbase = '40ms'\n").await;
    scene.say("c", "hello").await;
    scene.say("neighbour", "hello").await;
    scene.settles().await;
    let poison = scene.say("c", "poison").await;
    let follower = scene.say("c", "and this?").await;
    eventually("it has killed its actor", SOON, async || restarts(&scene, "c").await >= 1).await;
    for n in 0..5 {
        scene.say("neighbour", &format!("number {n}")).await;
    }
    eventually("the message is parked", SOON, async || shown(&scene, &poison).await["outcome"] == "parked").await;
    let story = shown(&scene, &poison).await;
    assert!(story["cause"].as_str().is_some_and(|cause| cause.starts_with("panic: ")), "{story}");
    // Parking hands the conversation to a human, and with it what was waiting behind.
    eventually("its follower has an end", SOON, async || shown(&scene, &follower).await["outcome"].is_string()).await;
    assert_eq!(shown(&scene, &follower).await["outcome"], "ignored");
    scene.settles().await;
    assert!(scene.zendesk.control("c", Some(Holder::Bot)).await, "the human gives it back");
    for n in 0..5 {
        scene.say("c", &format!("later {n}")).await;
    }
    scene.settles().await;
    scene.assert_sound();
    assert_eq!((restarts(&scene, "c").await, restarts(&scene, "neighbour").await), (TRIES, 0));
    let queues = scene.daemon.admin("/admin/queues").await;
    assert_eq!((&queues["chat"]["parked"], &queues["chat"]["dead"]), (&Value::from(1), &Value::from(0)), "{queues}");
    let judged = scene.zendesk.stats().judged;
    assert_eq!((judged.answered, judged.handed_off), (2 + 5 + 5, 2), "{judged:?}");
}
