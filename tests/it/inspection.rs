//! G10: every message explains itself, and nothing that is shown gives a customer's words or a key away.

use std::collections::BTreeSet;

use serde_json::Value;
use tidegate::simulate::ai;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::support::{SOON, Scene, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_tells_its_story_and_a_task_its_result() {
    let scene = Scene::with("[chat]\nmerge_quiet = '100ms'\nmerge_cap = '300ms'\n").await;
    let message = scene.say("c", "tell me").await;
    scene.settles().await;
    let shown = async || scene.daemon.admin(&format!("/admin/messages/{message}")).await;
    eventually("it has ended", SOON, async || shown().await["outcome"] == "replied").await;
    let shown = shown().await;
    let mut stages: Vec<&str> =
        shown["timeline"].as_array().into_iter().flatten().filter_map(|entry| entry["stage"].as_str()).collect();
    // What it waited for besides depends on the machine.
    stages.dedup();
    stages.retain(|stage| *stage != "waited");
    assert_eq!(stages, ["accepted", "taken", "asked", "intended", "posted", "ended"], "{shown}");
    let merged = shown["timeline"].as_array().into_iter().flatten().find(|entry| entry["on"] == "merge");
    assert!(merged.is_some_and(|entry| entry["ms"].as_u64() >= Some(90)), "{shown}");
    let (status, task) = scene.daemon.task(&message).await;
    assert_eq!((status, task["state"].as_str()), (200, Some("done")), "{task}");
    assert!(task["result"].as_str().is_some_and(|text| text.starts_with("Answer")), "{task}");
    let refused = reqwest::get(scene.daemon.url(&format!("/v1/tasks/{message}"))).await.expect("the node answers");
    assert_eq!(refused.status(), 401);
    assert_eq!(scene.daemon.task("no-such-task").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_shows_what_is_in_hand() {
    let scene = Scene::with("").await;
    scene.ai.behave(ai::Behaviour { latency_ms: 2_000, ..ai::Behaviour::default() });
    let message = scene.say("c", "slow one").await;
    eventually("it is in the AI's hands", SOON, async || scene.ai.stats().calls == 1).await;
    let tree = scene.daemon.admin("/admin/actors?limit=10").await;
    let children = tree["children"].as_array().expect("a tree has children");
    let conversations = children.iter().find(|child| child["path"] == "node/conversations").expect("it is there");
    let one = &conversations["children"][0];
    assert_eq!(one["in_hand"]["message_id"], message.as_str(), "{one}");
    assert_eq!(one["in_hand"]["phase"], "ai", "{one}");
    for field in ["path", "kind", "state", "waiting", "handled", "failed", "restarts", "started_at", "children"] {
        assert!(one.get(field).is_some_and(|value| !value.is_null()), "{field} of {one}");
    }
    assert!(one.get("last_failure").is_some(), "{one}");
    scene.settles().await;
}

/// Every field that is a time, wherever it stands; `null` while there is none.
fn times(shown: &Value, found: &mut Vec<(String, Value)>) {
    for (name, value) in shown.as_object().into_iter().flatten() {
        let is_time = ["at", "until"].contains(&name.as_str()) || name.ends_with("_at");
        if is_time && !value.is_null() {
            found.push((name.clone(), value.clone()));
        }
        assert!(!["opened_at_ms", "until_ms"].contains(&name.as_str()), "a time that nobody can read: {name}");
        times(value, found);
    }
    shown.as_array().into_iter().flatten().for_each(|value| times(value, found));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_time_is_written_as_rfc_3339() {
    let scene = Scene::with("").await;
    let ended = scene.say("ended", "hello").await;
    scene.settles().await;
    scene.daemon.crash("node/conversations/ended", r#"{"mode":"panic"}"#).await;
    scene.ai.behave(ai::Behaviour { down: true, ..ai::Behaviour::default() });
    let waiting = scene.say("ended", "and now?").await;
    for n in 0..6 {
        scene.say(&format!("c{n}"), "hello").await;
    }
    let open = async || scene.daemon.admin("/admin/breakers").await["primary"]["opened_at"].is_string();
    eventually("the breaker opens", SOON, open).await;
    let message = format!("/admin/messages/{waiting}");
    let dated = async || scene.daemon.admin(&message).await["timeline"][0]["at"].is_string();
    eventually("the waiting one is known", SOON, dated).await;
    let now = OffsetDateTime::now_utc();
    let mut names = BTreeSet::new();
    for path in ["/admin/actors", "/admin/breakers", &message, &format!("/admin/messages/{ended}")] {
        let mut found = Vec::new();
        times(&scene.daemon.admin(path).await, &mut found);
        assert!(!found.is_empty(), "{path}");
        for (name, value) in found {
            let time = value.as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
            let time = time.unwrap_or_else(|| panic!("{path}: {name} is {value}"));
            assert!((time - now).abs() < time::Duration::minutes(10), "{path}: {name} is {value}");
            names.insert(name);
        }
    }
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["accepted_at", "at", "opened_at", "started_at", "until"]);
    let tree = scene.daemon.admin("/admin/actors/node/conversations/ended").await;
    assert!(tree["last_failure"]["at"].is_string(), "{tree}");
    scene.ai.behave(ai::Behaviour::default());
    scene.settles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_words_nor_keys_are_shown() {
    let scene = Scene::with("[faults]\npanic = 0.2\n[retry]\nbase = '10ms'\n").await;
    for n in 0..20 {
        scene.say(&format!("c{n}"), "swordfish is my password").await;
    }
    scene.settles().await;
    let (log, metrics) = (scene.daemon.log(), scene.daemon.metrics().await);
    let of = scene.zendesk.options();
    for secret in ["swordfish", "Answer to", crate::support::KEY, &of.key_secret, &of.webhook_secret] {
        assert!(!log.contains(secret) && !metrics.contains(secret), "{secret} is shown");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_ordered_only_where_that_is_allowed() {
    let scene = Scene::with("[admin]\nfault_injection = false\n").await;
    assert_eq!(scene.daemon.crash("node/retry", "").await, 403);
    let foreign = reqwest::Client::new()
        .post(scene.daemon.admin_url("/admin/actors/node/retry/crash"))
        .header("origin", "https://evil.example");
    assert_eq!(foreign.send().await.expect("the node answers").status(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_conversations_are_paged_by_id_and_searched() {
    let scene = Scene::with("").await;
    let all: Vec<String> = (0..30).map(|n| format!("c{n:02}")).collect();
    for conversation in &all {
        scene.say(conversation, "hello").await;
    }
    scene.settles().await;
    let (mut seen, mut after) = (Vec::new(), String::new());
    while seen.len() < all.len() {
        let page = scene.daemon.admin(&format!("/admin/conversations?limit=7&after={after}")).await;
        assert_eq!(page["total"], 30, "{page}");
        let ids = page["conversations"].as_array().into_iter().flatten();
        let ids: Vec<String> = ids.map(|one| one["id"].as_str().unwrap().to_owned()).collect();
        assert!((1..=7).contains(&ids.len()), "{page}");
        after.clone_from(ids.last().unwrap());
        seen.extend(ids);
    }
    assert_eq!(seen, all);
    let found = scene.daemon.admin("/admin/conversations?q=c1&limit=100").await;
    assert_eq!((&found["total"], found["conversations"][0]["id"].as_str()), (&10.into(), Some("c10")), "{found}");
    let tree = scene.daemon.admin("/admin/actors?q=c2&limit=3").await;
    let node = tree["children"].as_array().into_iter().flatten().find(|child| child["path"] == "node/conversations");
    let node = node.expect("there is one");
    assert_eq!((node["children"].as_array().map(Vec::len), &node["children_total"]), (Some(3), &10.into()), "{node}");
}
