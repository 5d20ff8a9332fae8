//! Many dead letters at once: grouped, tried dry, replayed at a pace with canaries, discarded with a way back.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tidegate::simulate::ai;

use crate::support::{SOON, Scene, eventually, figure, in_rabbitmq, settle_within};

const QUICK: &str = "[retry]\nmax_retries = 0\n";

async fn order(scene: &Scene, deed: &str, body: Value) -> Value {
    let (status, told) = scene.daemon.order(Method::POST, &format!("/admin/dead-letters/{deed}"), body).await;
    assert!(status == 202 || status == 200, "{deed}: {status} {told}");
    told
}

async fn stage(scene: &Scene, job: &Value) -> String {
    let jobs = scene.daemon.admin("/admin/jobs").await;
    let found = jobs.as_array().into_iter().flatten().find(|it| it["id"] == job["id"]).cloned().unwrap_or_default();
    format!("{} {}/{}", found["stage"].as_str().unwrap_or_default(), found["done"], found["failed"])
}

/// So many letters, each of a conversation of its own.
async fn parked(scene: &Scene, prefix: &str, count: usize) {
    scene.ai.behave(ai::Behaviour { status: 400, ..ai::Behaviour::default() });
    for n in 0..count {
        scene.say(&format!("{prefix}{n}"), "words").await;
    }
    let lying = async || scene.daemon.admin("/admin/queues").await["chat"]["parked"].as_u64().unwrap_or_default();
    eventually("all are parked", SOON, async || lying().await >= count as u64).await;
    scene.ai.behave(ai::Behaviour::default());
    // They were handed to humans, who give them back.
    for n in 0..count {
        scene.zendesk.control(&format!("{prefix}{n}"), Some(tidegate::simulate::zendesk::Holder::Bot)).await;
    }
}

fn answers(scene: &Scene, conversation: &str) -> usize {
    scene.replies(conversation).iter().filter(|reply| reply.starts_with("Answer")).count()
}

async fn many_letters_are_worked_off(config: &str) {
    let scene = Scene::with(&format!("{config}{QUICK}")).await;
    parked(&scene, "c", 12).await;
    let groups = scene.daemon.admin("/admin/dead-letters/groups").await;
    let group = &groups["groups"][0];
    assert_eq!((&group["letters"], &group["cause"]), (&12.into(), &"rejected".into()), "{groups}");
    let filter = json!({ "fingerprint": group["fingerprint"] });
    let dry = async || order(&scene, "replay", json!({ "filter": filter, "dry_run": true })).await;
    eventually("all would be answered, as soon as it is known that the humans gave them back", SOON, async || {
        let dry = dry().await;
        (&dry["letters"], &dry["would"]["be_answered"]) == (&12.into(), &12.into())
    })
    .await;
    let dry = dry().await;
    assert!(!dry.to_string().contains("words"), "no customer's words: {dry}");
    // A canary that fails again stops the others.
    scene.ai.behave(ai::Behaviour { status: 400, ..ai::Behaviour::default() });
    let job = order(&scene, "replay", json!({ "filter": filter, "canary": 1, "rate": 100 })).await;
    eventually("the canary dies", SOON, async || stage(&scene, &job).await == "failed 1/0").await;
    scene.ai.behave(ai::Behaviour::default());
    for n in 0..12 {
        scene.zendesk.control(&format!("c{n}"), Some(tidegate::simulate::zendesk::Holder::Bot)).await;
    }
    // Undone before it began: nothing is lost.
    let job = order(&scene, "discard", json!({ "all": true, "undo": "1h" })).await;
    assert_eq!(job["stage"], "waiting", "{job}");
    let id = job["id"].as_str().unwrap_or_default();
    scene.daemon.order(Method::POST, &format!("/admin/jobs/{id}/cancel"), Value::Null).await;
    eventually("it is undone", SOON, async || stage(&scene, &job).await == "cancelled 0/0").await;
    let one = json!({ "filter": { "conversation": "c3" } });
    let job = order(&scene, "discard", one).await;
    eventually("one is discarded", SOON, async || stage(&scene, &job).await == "done 1/0").await;
    let job = order(&scene, "hand-over", json!({ "filter": { "conversation": "c4" } })).await;
    eventually("one goes to a human", SOON, async || stage(&scene, &job).await == "done 1/0").await;
    let job = order(&scene, "replay", json!({ "all": true, "rate": 200, "canary": 2 })).await;
    eventually("the others are replayed", SOON, async || stage(&scene, &job).await == "done 10/0").await;
    let all_answered = async || (0..12).filter(|n| answers(&scene, &format!("c{n}")) == 1).count() == 10;
    eventually("each is answered once", SOON, all_answered).await;
    assert_eq!((answers(&scene, "c3"), answers(&scene, "c4")), (0, 0));
    let none_left = async || scene.daemon.admin("/admin/queues").await["chat"]["parked"] == 0;
    eventually("no letter is left", SOON, none_left).await;
    for (deed, body) in [
        ("discard", json!({})),
        ("discard", json!({ "filter": { "conversation_id": "c1" } })),
        ("replay", json!({ "all": true, "rate": 0 })),
        ("replay", json!({ "all": true, "rate": 1e-20 })),
        ("discard", json!({ "all": true, "undo": "8d" })),
        ("replay", json!({ "all": 1 })),
    ] {
        let (status, told) =
            scene.daemon.order(Method::POST, &format!("/admin/dead-letters/{deed}"), body.clone()).await;
        assert_eq!(status, 400, "{body}: {told}");
    }
    assert_eq!(scene.daemon.order(Method::POST, "/admin/dead-letters/burn", json!({})).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_letters_of_the_embedded_queue_are_worked_off() {
    many_letters_are_worked_off("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_letters_in_rabbitmq_are_worked_off() {
    many_letters_are_worked_off(&in_rabbitmq()).await;
}

/// kill -9 in the middle: what is left lies where it lay, and what was done is not done twice.
async fn a_replay_is_cut_off_by_a_crash(config: &str) {
    let mut scene = Scene::with(&format!("{QUICK}{config}")).await;
    parked(&scene, "c", 40).await;
    let job = order(&scene, "replay", json!({ "all": true, "rate": 20 })).await;
    eventually("some are replayed", SOON, async || {
        stage(&scene, &job).await.split_once(' ').is_some_and(|(_, done)| !done.starts_with("0/"))
    })
    .await;
    scene.daemon.restart("").await;
    eventually("it was cut off in the middle", SOON, async || {
        let queues = scene.daemon.admin("/admin/queues").await;
        queues["chat"]["parked"].as_u64().is_some_and(|left| left > 0 && left < 40)
    })
    .await;
    assert_eq!(scene.daemon.admin("/admin/jobs").await, json!([]));
    order(&scene, "replay", json!({ "all": true, "rate": 500 })).await;
    let answered = async || (0..40).filter(|n| answers(&scene, &format!("c{n}")) > 0).count() == 40;
    eventually("all are answered", SOON, answered).await;
    tokio::time::timeout(Duration::from_secs(60), scene.settles()).await.expect("all is settled");
    assert!((0..40).all(|n| answers(&scene, &format!("c{n}")) == 1), "none twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_in_the_embedded_queue_that_is_cut_off_by_a_crash_loses_and_doubles_nothing() {
    a_replay_is_cut_off_by_a_crash("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_in_rabbitmq_that_is_cut_off_by_a_crash_loses_and_doubles_nothing() {
    a_replay_is_cut_off_by_a_crash(&in_rabbitmq()).await;
}

/// What the bot keeps while it is muted is replayed at a pace; the trial has ten thousand of them (`scripts/trials/letters`).
async fn a_pace_is_kept(config: &str) {
    let (count, rate) = (figure("TIDEGATE_LETTERS", 200), figure("TIDEGATE_LETTERS_RATE", 100));
    let scene = Scene::with(config).await;
    scene.daemon.order(Method::POST, "/admin/mutes", json!({ "mute": "all" })).await;
    for n in 0..count {
        scene.say(&format!("c{n}"), "hello").await;
    }
    let kept = async || scene.daemon.admin("/admin/queues").await["chat"]["parked"].as_u64() == Some(count);
    eventually("all are kept", settle_within(), kept).await;
    scene.daemon.order(Method::POST, "/admin/mutes/end", json!({ "mute": "all", "then": "keep" })).await;
    let began = tokio::time::Instant::now();
    let job = order(&scene, "replay", json!({ "all": true, "rate": rate })).await;
    let done = format!("done {count}/0");
    let mut seen = Vec::new();
    eventually("the job ends", settle_within(), async || {
        let stage = stage(&scene, &job).await;
        seen.push(stage.clone());
        stage == done
    })
    .await;
    let (took, paced) = (began.elapsed().as_secs_f64(), (count - 1) as f64 / rate as f64);
    println!("{count} letters at {rate}/s took {took:.2} s, {:.3} of what the pace asks for", took / paced);
    assert!(took >= paced * 0.95, "faster than ordered: {took:.2} s instead of {paced:.2} s");
    seen.dedup();
    assert!(seen.len() > 2, "its progress is seen: {seen:?}");
    if count > 1_000 {
        assert!(took <= paced * 1.05, "slower than ordered: {took:.2} s instead of {paced:.2} s");
    }
    scene.settles().await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_the_embedded_queue_are_replayed_at_the_pace_that_is_ordered() {
    a_pace_is_kept("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_in_rabbitmq_are_replayed_at_the_pace_that_is_ordered() {
    a_pace_is_kept(&in_rabbitmq()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_written_down() {
    let here = Scene::with(QUICK).await;
    parked(&here, "c", 3).await;
    let written = async |cause: &str| {
        let url = here.daemon.admin_url(&format!("/admin/dead-letters/export?cause={cause}"));
        reqwest::get(url).await.expect("the node answers").text().await.expect("it is whole")
    };
    let lines = written("rejected").await;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
    assert!(lines.len() == 3 && lines.iter().all(|line| line.to_string().contains("words")), "{lines:?}");
    assert_eq!(written("panic").await, "", "none of these");
    let audit = here.daemon.admin("/admin/audit").await.to_string();
    assert!(audit.contains("letters.export") && !audit.contains("words"), "{audit}");
}

async fn import(scene: &Scene, lines: String) -> (u16, Value) {
    let request = reqwest::Client::new().post(scene.daemon.admin_url("/admin/dead-letters/import")).body(lines);
    let answer = request.send().await.expect("the node answers");
    (answer.status().as_u16(), answer.json().await.expect("it is JSON"))
}

/// The trial has a hundred thousand (`scripts/trials/letters`).
#[tokio::test(flavor = "multi_thread")]
async fn very_many_letters_in_rabbitmq_are_filtered_from_memory() {
    let count = figure("TIDEGATE_LETTERS_FILTERED", 3_000);
    let mut scene = Scene::with(&in_rabbitmq()).await;
    let line = |n: u64| {
        let text = "why has my parcel not arrived? ".repeat(8);
        let cause = if n.is_multiple_of(3) { "panic: it broke" } else { "content refused" };
        json!({ "id": format!("e{n}"), "lane": "chat", "reason": cause, "tries": 4, "replay": 0, "job": {
            "v": 1, "id": format!("e{n}"), "message": format!("m{n}"), "conversation": format!("c{}", n % 1_000),
            "kind": { "kind": "message", "text": text }, "received": n, "position": 0, "first_seen": n } })
        .to_string()
    };
    eventually("RabbitMQ is there", SOON, async || import(&scene, String::new()).await.0 == 200).await;
    for first in (0..count).step_by(5_000) {
        let lines: Vec<String> = (first..count.min(first + 5_000)).map(line).collect();
        let (status, told) = import(&scene, lines.join("\n")).await;
        assert_eq!((status, &told["imported"]), (200, &lines.len().into()), "{told}");
    }
    // A process that knows nothing yet.
    scene.daemon.restart("").await;
    let filtered = async |filter: &str| {
        let began = tokio::time::Instant::now();
        let page = scene.daemon.admin(&format!("/admin/dead-letters?limit=1000&{filter}")).await;
        (page["letters"].as_array().map_or(0, Vec::len) as u64, began.elapsed().as_secs_f64())
    };
    let mut first = 0.0;
    eventually("RabbitMQ is there, and all is seen", SOON, async || {
        let (found, took) = filtered("cause=panic").await;
        first = took;
        found > 0
    })
    .await;
    let mut spans = Vec::new();
    for (filter, letters) in [
        ("conversation=c3", count / 1_000),
        ("cause=panic&conversation=c3", (0..count).filter(|n| n % 1_000 == 3 && n % 3 == 0).count() as u64),
        ("cause=panic", count.div_ceil(3).min(1_000)),
        ("id=m2999", 1),
    ] {
        let (found, took) = filtered(filter).await;
        assert_eq!(found, letters, "{filter}");
        spans.push(took);
    }
    let slowest = spans.iter().copied().fold(0.0, f64::max);
    println!("{count} letters: the first list took {first:.2} s, the slowest filter after it {slowest:.3} s");
    assert!(count <= 10_000 || slowest < 1.0, "{spans:?}");
}

/// Taken out here and put back elsewhere, a letter can be replayed there, unless it was answered here meanwhile.
async fn letters_are_taken_over(config: &str) {
    let here = Scene::with(QUICK).await;
    let there = Scene::with(&format!("{config}{QUICK}[zendesk]\napi_url = '{}'\n", here.zendesk.url())).await;
    parked(&here, "c", 3).await;
    let export = here.daemon.admin_url("/admin/dead-letters/export");
    let lines = reqwest::get(export).await.expect("the node answers").text().await.expect("it is whole");
    let import = async |lines: String| import(&there, lines).await;
    let (status, torn) = import(format!("{lines}{{\"id\":7")).await;
    assert!(status == 400 && torn["detail"].as_str().is_some_and(|it| it.contains("line 4")), "{status} {torn}");
    let none = async || there.daemon.admin("/admin/dead-letters").await["letters"] == json!([]);
    eventually("nothing of a torn file", SOON, none).await;
    assert_eq!(import(lines.clone()).await, (200, json!({ "imported": 3, "known": 0, "left_out": 0 })));
    assert_eq!(import(lines).await, (200, json!({ "imported": 0, "known": 3, "left_out": 0 })), "twice is once");
    let told = async |scene: &Scene| {
        let letters = scene.daemon.admin("/admin/dead-letters").await["letters"].clone();
        let mut told: Vec<String> = letters
            .as_array()
            .into_iter()
            .flatten()
            .map(|letter| {
                ["id", "message_id", "conversation_id", "cause", "reason", "fingerprint", "replay"]
                    .map(|it| letter[it].to_string())
                    .join(" ")
            })
            .collect();
        told.sort();
        told
    };
    assert_eq!(told(&there).await, told(&here).await);
    // One is answered where it came from.
    let job = order(&here, "replay", json!({ "filter": { "conversation": "c0" } })).await;
    eventually("one is replayed here", SOON, async || stage(&here, &job).await == "done 1/0").await;
    eventually("and answered", SOON, async || answers(&here, "c0") == 1).await;
    let job = order(&there, "replay", json!({ "all": true })).await;
    eventually("all are replayed there", SOON, async || stage(&there, &job).await == "done 3/0").await;
    eventually("and answered", SOON, async || (0..3).all(|n| answers(&here, &format!("c{n}")) == 1)).await;
    there.settles().await;
    assert_eq!((0..3).map(|n| answers(&here, &format!("c{n}"))).collect::<Vec<_>>(), [1, 1, 1], "none twice");
    assert_eq!(there.ai.stats().calls, 2, "whose answer lies in Zendesk is not asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_taken_over_by_another_embedded_queue() {
    letters_are_taken_over("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_taken_over_by_rabbitmq() {
    letters_are_taken_over(&in_rabbitmq()).await;
}
