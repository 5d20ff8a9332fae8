//! G10: every message explains itself, and nothing that is shown gives a customer's words or a key away.

use tidegate::simulate::ai;

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
async fn every_series_is_there_from_the_start() {
    let scene = Scene::with("").await;
    let metrics = scene.daemon.metrics().await;
    for series in [
        "http_requests_total{method=\"POST\",endpoint=\"/webhooks/sunshine\",status=\"200\"} 0",
        "ai_service_errors_total{error_type=\"429\",service=\"primary\"} 0",
        "tidegate_webhooks_total{outcome=\"accepted\"} 0",
        "tidegate_queue_messages{lane=\"chat\",state=\"ready\"} 0",
        "tidegate_queue_messages{lane=\"chat\",state=\"parked\"} 0",
        "tidegate_queue_oldest_age_seconds{lane=\"chat\"} 0",
        "tidegate_messages_total{lane=\"chat\",outcome=\"replied\"} 0",
        "tidegate_retries_total{lane=\"chat\",cause=\"panic\"} 0",
        "tidegate_dead_letters_total{lane=\"chat\",cause=\"time_limit\"} 0",
        "tidegate_actor_restarts_total{kind=\"conversation\",reason=\"panic\"} 0",
        "tidegate_ai_requests_total{service=\"primary\",outcome=\"ok\"} 0",
        "tidegate_ai_tokens_total{service=\"primary\",type=\"input\"} 0",
        "tidegate_breaker_state{service=\"primary\",state=\"closed\"} 1",
        "tidegate_breaker_transitions_total{service=\"primary\",to=\"open\"} 0",
        "tidegate_cache_requests_total{tier=\"local\",result=\"hit\"} 0",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(series)), "{series}");
    }
    for name in [
        "http_request_duration_seconds_bucket",
        "tidegate_message_duration_seconds",
        "tidegate_actors{",
        "tidegate_actor_waiting{",
        "tidegate_ai_request_duration_seconds_bucket",
        "tidegate_limiter_wait_seconds_bucket",
        "tidegate_dependency_up{",
        "tidegate_build_info{",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    ] {
        assert!(metrics.contains(name), "{name}");
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
