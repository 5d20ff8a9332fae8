//! G6 for the actors above the conversations: one that hangs is killed, one that blocks its thread is replaced, and what
//! it stood in the way of goes on.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::simulate::{ai, zendesk};
use tokio::time::Instant;

use crate::support::{SOON, Scene, eventually, metric, webhooks};

/// The limit of these tests.
const LIMIT: Duration = Duration::from_millis(500);

/// From the order to the successor: the limit, the grace of a kill, and what a shared machine may take for the rest.
const BACK_WITHIN: Duration = Duration::from_secs(8);

/// Work of every kind, so that whichever actor has a failure ordered meets it.
struct Work<'a> {
    scene: &'a Scene,
    events: u32,
}

impl Work<'_> {
    async fn give(&mut self) {
        self.events += 1;
        let n = self.events;
        let user =
            webhooks::event(&format!("gone{n}"), "user:remove", &json!({ "user": { "id": format!("u-gone{n}") } }));
        let answer = self.scene.deliver(webhooks::delivery(&[user])).await;
        assert_eq!(answer.status, 200, "{}\n{}", answer.body, self.scene.daemon.log_tail());
        let failing = format!("failing{n}");
        self.scene.say(&failing, "hello").await;
        eventually("it is answered or held up", BACK_WITHIN, async || !self.scene.replies(&failing).is_empty()).await;
        assert_eq!(self.scene.daemon.crash(&format!("node/conversations/{failing}"), r#"{"mode":"panic"}"#).await, 202);
        // Passes through the dead letters.
        self.scene.say(&failing, "hello again").await;
    }

    async fn is_done(&self) -> bool {
        let applied = "tidegate_messages_total{lane=\"events\",outcome=\"applied\"}";
        let applied = metric(&self.scene.daemon.metrics().await, applied);
        (f64::from(self.events) - applied).abs() < 0.5
    }
}

async fn shown(scene: &Scene, actor: &str) -> Value {
    scene.daemon.admin(&format!("/admin/actors/{actor}")).await
}

/// Lets one actor fail in one way, under work; it must be back in time, say why, and have lost nothing.
async fn comes_back(work: &mut Work<'_>, actor: &str, mode: &str, cause: &str) {
    let scene = work.scene;
    let before = shown(scene, actor).await["restarts"].as_u64().expect("it is shown");
    // Blocks for so long that a kill alone would not do.
    let order = format!("{{\"mode\":\"{mode}\",\"ms\":4000}}");
    assert_eq!(scene.daemon.crash(actor, &order).await, 202, "{actor}");
    work.give().await;
    let began = Instant::now();
    work.give().await;
    let what = format!("{actor} is back after a {mode}");
    eventually(&what, BACK_WITHIN, async || {
        let shown = shown(scene, actor).await;
        shown["restarts"].as_u64() > Some(before) && shown["state"] == "running"
    })
    .await;
    let reason = shown(scene, actor).await["last_failure"]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.starts_with("time limit: ") && reason.contains(cause), "{actor} {mode}: {reason}");
    println!("{actor} {mode}: back after {:?} ({reason})", began.elapsed());
    work.give().await;
    scene.settles().await;
    eventually("every event is applied", SOON, async || work.is_done().await).await;
}

async fn every_actor_survives(mode: &str, cause: &str) {
    let scene =
        Scene::with(&format!("[node]\nactor_time_limit = '{}ms'\n[retry]\nbase = '20ms'\n", LIMIT.as_millis())).await;
    let mut work = Work { scene: &scene, events: 0 };
    for actor in [
        "node/chat/0",
        "node/events",
        "node/retry",
        "node/ingress/0",
        "node/broker-link",
        "node/guards",
        "node/guards/limiter/primary",
        "node/guards/breaker/primary",
        "node/conversations",
    ] {
        comes_back(&mut work, actor, mode, cause).await;
    }
    scene.assert_sound();
    let killed = scene.daemon.metric("tidegate_actor_restarts_total{kind=\"consumer\",reason=\"time_limit\"}").await;
    assert!(killed > 0.5, "the metrics say why");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_above_the_conversations_that_hangs_is_killed_and_the_work_goes_on() {
    every_actor_survives("hang", "took more than 500ms").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_above_the_conversations_that_blocks_is_replaced_and_the_work_goes_on() {
    every_actor_survives("block", "blocked its thread and was replaced").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_itself_is_looked_after() {
    let scene = Scene::with(&format!("[node]\nactor_time_limit = '{}ms'\n", LIMIT.as_millis())).await;
    assert_eq!(scene.daemon.crash("node/watchdog", r#"{"mode":"hang"}"#).await, 202);
    eventually("it is back", SOON, async || {
        shown(&scene, "node/watchdog").await["restarts"].as_u64().is_some_and(|restarts| restarts >= 1)
    })
    .await;
    // And does its work again.
    comes_back(&mut Work { scene: &scene, events: 0 }, "node/broker-link", "hang", "took more than").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_of_the_one_above_all_ends_the_process() {
    let mut scene = Scene::with(&format!("[node]\nactor_time_limit = '{}ms'\n", LIMIT.as_millis())).await;
    assert_eq!(scene.daemon.crash("node", r#"{"mode":"hang"}"#).await, 202);
    eventually("the process ends", SOON, async || scene.daemon.ended().is_some()).await;
    assert_eq!(scene.daemon.ended().and_then(|status| status.code()), Some(70), "{}", scene.daemon.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_waits_for_work_is_not_stuck() {
    let scene = Scene::with("[node]\nactor_time_limit = '2s'\n").await;
    scene.say("c", "hello").await;
    scene.settles().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let metrics = scene.daemon.metrics().await;
    for line in metrics.lines().filter(|line| line.starts_with("tidegate_actor_restarts_total")) {
        assert!(line.ends_with(" 0"), "{line}");
    }
}

const TIME_LIMITS: &str = "cause=\"time_limit\"}";

async fn failed_by_time(scene: &Scene) -> f64 {
    scene.daemon.metric(&format!("tidegate_dead_letters_total{{lane=\"chat\",{TIME_LIMITS}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_short_alone_and_long_together_meet_the_soft_limit() {
    let times = "[chat]\nmerge_quiet = '10ms'\nsoft_time_limit = '3s'\ntime_limit = '12s'\n";
    let scene = Scene::with(&format!("{times}[[ai.services]]\ntimeout = '2900ms'\n[retry]\nbase = '20ms'\n")).await;
    scene.ai.behave(ai::Behaviour { latency_ms: 2_000, ..ai::Behaviour::default() });
    scene.say("c", "one thing").await;
    eventually("the AI is asked", SOON, async || scene.ai.stats().calls == 1).await;
    // The first answer is withheld for it, and both are asked about once more.
    scene.say("c", "and another").await;
    eventually("it has taken too long", SOON, async || failed_by_time(&scene).await > 0.5).await;
    scene.settles().await;
    scene.assert_sound();
    assert!(scene.ai.stats().aborted_by_client >= 1, "the second call was cancelled");
    let killed = scene.daemon.metric("tidegate_actor_restarts_total{kind=\"conversation\"").await;
    assert!(killed < 0.5, "nobody was killed for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_hangs_for_longer_than_the_limits_costs_no_try() {
    let times = "[chat]\nsoft_time_limit = '500ms'\ntime_limit = '700ms'\n";
    let scene = Scene::with(&format!("{times}[[ai.services]]\ntimeout = '300ms'\n")).await;
    scene.ai.behave(ai::Behaviour { hang: true, ..ai::Behaviour::default() });
    scene.say("alone", "anybody there?").await;
    eventually("it has been in the AI's hands for longer", SOON, async || scene.ai.stats().hung >= 4).await;
    scene.ai.behave(ai::Behaviour::default());
    scene.settles().await;
    scene.assert_sound();
    let dead = scene.daemon.metric("tidegate_dead_letters_total{lane=\"chat\"").await;
    assert!(dead < 0.5, "{dead} dead letters");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_while_posting_meets_the_hard_limit() {
    let times = "[chat]\nsoft_time_limit = '4s'\ntime_limit = '5s'\n[zendesk]\ntimeout = '20s'\n";
    let scene = Scene::with(&format!("{times}[[ai.services]]\ntimeout = '3s'\n[retry]\nbase = '20ms'\n")).await;
    scene.ai.behave(ai::Behaviour { latency_ms: 400, ..ai::Behaviour::default() });
    scene.say("c", "hello").await;
    eventually("the AI is asked", SOON, async || scene.ai.stats().calls == 1).await;
    scene.zendesk.behave(zendesk::Behaviour { hang_rate: 1.0, ..Default::default() });
    eventually("it has taken too long", SOON, async || failed_by_time(&scene).await > 0.5).await;
    scene.zendesk.behave(zendesk::Behaviour::default());
    let reason = shown(&scene, "node/conversations/c").await["last_failure"]["reason"].to_string();
    assert!(reason.contains("took more than 5s, the last of it in post"), "{reason}");
    scene.settles().await;
    scene.assert_sound();
    assert_eq!(scene.ai.stats().calls, 1, "what was meant is posted, and nobody asked again");
}
