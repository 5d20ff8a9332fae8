//! Design rule 18: after more than 15 minutes away, what Zendesk gave up delivering is looked for.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::simulate::{
    ai,
    zendesk::{Behaviour, Holder},
};

use crate::{
    recorder::Recorder,
    support::{Daemon, SOON, Scene, eventually},
};

/// The node's last sign of life.
fn alive(daemon: &Daemon) -> i64 {
    let file = rusqlite::Connection::open(daemon.data().join("state.db")).unwrap();
    file.query_row("SELECT value FROM meta WHERE key = 'alive'", [], |row| row.get(0)).unwrap()
}

/// Makes the node's last sign of life 20 minutes older, as if it had been away for so long.
fn age(daemon: &Daemon) {
    let file = rusqlite::Connection::open(daemon.data().join("state.db")).unwrap();
    let aged = file.execute("UPDATE meta SET value = value - 1200000 WHERE key = 'alive'", []).unwrap();
    assert_eq!(aged, 1, "the node has left a sign of life");
}

/// The node dies, and what Zendesk sends meanwhile is lost.
fn leave(scene: &mut Scene) {
    scene.daemon.kill();
    scene.zendesk.aim(None).unwrap();
}

/// The node comes back after more than 15 minutes; webhooks are not sent yet, so that none helps it.
async fn come_back(scene: &mut Scene, changes: &str) {
    age(&scene.daemon);
    scene.daemon.restart(changes).await;
}

async fn known(scene: &Scene, conversations: &[&str]) {
    for conversation in conversations {
        scene.say(conversation, "hello").await;
    }
    scene.settles().await;
    for conversation in conversations {
        eventually("the greeting is answered", SOON, async || scene.replies(conversation).len() == 1).await;
    }
}

async fn has_replies(scene: &Scene, conversation: &str, count: usize) {
    eventually("it is answered", SOON, async || scene.replies(conversation).len() == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_meanwhile_is_answered_also_when_it_is_no_text() {
    let recorder = Recorder::start().await;
    let mut scene = Scene::with(&format!("[[ai.services]]\nbase_url = '{}/v1'\nimages = true\n", recorder.url())).await;
    recorder.aim(&scene.ai.url());
    known(&scene, &["words", "image"]).await;
    leave(&mut scene);
    scene.say("words", "are you there?").await;
    let image = json!({ "type": "image", "mediaUrl": "https://example.org/parcel.png", "mediaType": "image/png" });
    scene.write("image", &image).await;
    come_back(&mut scene, "").await;
    has_replies(&scene, "words", 2).await;
    has_replies(&scene, "image", 2).await;
    let asked: Vec<Value> = recorder.calls("/chat/completions").into_iter().map(|call| call.body).collect();
    let shown = asked.iter().filter(|body| body.to_string().contains("https://example.org/parcel.png")).count();
    assert_eq!(shown, 1, "{asked:?}");
    scene.settles().await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_human_who_took_over_unheard_is_not_talked_over() {
    let mut scene = Scene::with("").await;
    known(&scene, &["waiting", "written"]).await;
    scene.ai.behave(ai::Behaviour { hang: true, ..ai::Behaviour::default() });
    let before = scene.ai.stats().calls;
    let waiting = scene.say("waiting", "help!").await;
    eventually("the AI is asked", SOON, async || scene.ai.stats().calls > before).await;
    leave(&mut scene);
    for conversation in ["waiting", "written"] {
        assert!(scene.zendesk.control(conversation, Some(Holder::Agent)).await);
    }
    scene.say("written", "a human, at last").await;
    scene.ai.behave(ai::Behaviour::default());
    come_back(&mut scene, "").await;
    eventually("what waited is left alone", SOON, async || {
        scene.daemon.admin(&format!("/admin/messages/{waiting}")).await["outcome"] == "ignored"
    })
    .await;
    eventually("all is made up for", SOON, async || scene.daemon.log().contains("has been made up for")).await;
    assert_eq!((scene.replies("waiting").len(), scene.replies("written").len()), (1, 1));
    assert_eq!(scene.zendesk.stats().posts_while_human, 0);
    // Given back, the bot answers again.
    scene.zendesk.aim(Some(&scene.daemon.url("/webhooks/sunshine"))).unwrap();
    scene.zendesk.control("written", Some(Holder::Bot)).await;
    scene.say("written", "and now?").await;
    has_replies(&scene, "written", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_cannot_be_read_is_read_again_also_after_a_restart() {
    let mut scene = Scene::with("").await;
    known(&scene, &["c"]).await;
    leave(&mut scene);
    scene.say("c", "are you there?").await;
    scene.zendesk.behave(Behaviour { down: true, ..Behaviour::default() });
    come_back(&mut scene, "").await;
    let failed = "could not be reconciled";
    eventually("it cannot be read", SOON, async || scene.daemon.log().contains(failed)).await;
    let tried = scene.daemon.log().matches(failed).count();
    scene.daemon.restart("").await;
    eventually("it is tried again", SOON, async || scene.daemon.log().matches(failed).count() > tried).await;
    scene.zendesk.behave(Behaviour::default());
    has_replies(&scene, "c", 2).await;
    scene.settles().await;
    scene.assert_sound();
    eventually("all is made up for", SOON, async || scene.daemon.log().contains("has been made up for")).await;
    // Once is enough.
    scene.daemon.restart("").await;
    assert_eq!(scene.daemon.log().matches("could not be reached for more than").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_configured_app_the_first_webhook_names_it() {
    let mut scene = Scene::with("[zendesk]\napp_id = ''\n").await;
    known(&scene, &["c", "other"]).await;
    leave(&mut scene);
    scene.say("c", "are you there?").await;
    come_back(&mut scene, "").await;
    scene.zendesk.aim(Some(&scene.daemon.url("/webhooks/sunshine"))).unwrap();
    scene.say("other", "hello again").await;
    has_replies(&scene, "other", 2).await;
    has_replies(&scene, "c", 2).await;
    scene.settles().await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_could_store_nothing_for_long_was_away_too() {
    let scene = Scene::with("[broker.embedded]\nmax_messages = 5\n").await;
    known(&scene, &["c"]).await;
    scene.ai.behave(ai::Behaviour { hang: true, ..ai::Behaviour::default() });
    for n in 0..5 {
        scene.say(&format!("f{n}"), "fill the queue").await;
    }
    eventually("the queue is full", SOON, async || scene.zendesk.tally().accepted == 6).await;
    scene.say("c", "are you there?").await;
    eventually("Zendesk has given up", SOON, async || scene.zendesk.stats().webhook_failures_final == 1).await;
    let mark = alive(&scene.daemon);
    // Longer than from one sign of life to the next.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(alive(&scene.daemon), mark, "one who refuses what comes is not there for Zendesk");
    age(&scene.daemon);
    scene.ai.behave(ai::Behaviour::default());
    eventually("there is room", SOON, async || {
        scene.daemon.metric("tidegate_queue_messages{lane=\"chat\"").await < 0.5
    })
    .await;
    assert_eq!(scene.replies("c").len(), 1);
    scene.say("f0", "is there room?").await;
    has_replies(&scene, "c", 2).await;
}
