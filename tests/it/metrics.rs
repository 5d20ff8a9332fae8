//! The metrics that dashboards and alerts are built on (the design's section 6): there from the start, and true.

use std::{collections::BTreeSet, io::Write, process::Stdio};

use tidegate::simulate::ai;

use crate::{
    official_client::python,
    support::{
        SOON, Scene, eventually,
        webhooks::{delivery, event, post},
    },
};

const LANES: &[&str] = &["chat", "events"];
const ENDPOINTS: &[&str] = &["/webhooks/sunshine", "/webhooks/zendesk"];
const PAGES: &[&str] = &["/v1/tasks/{id}", "/livez", "/readyz"];
const STATUSES: &[&str] = &["200", "400", "401", "404", "405", "408", "413", "503"];
const WEBHOOKS: &[&str] = &[
    "accepted",
    "duplicate",
    "ignored",
    "rejected",
    "control",
    "unauthorized",
    "unusable",
    "too_large",
    "unavailable",
];
const STANDINGS: &[&str] = &["ready", "in_hand", "delayed", "dead", "parked"];
const OUTCOMES: &[&str] =
    &["replied", "merged", "ignored", "handed_over", "parked", "applied", "duplicate", "discarded"];
const CAUSES: &[&str] = &[
    "panic",
    "error",
    "time_limit",
    "crash",
    "rejected",
    "content_refused",
    "service_failed_on_it",
    "zendesk_refused",
    "muted",
];
const KINDS: &[&str] = &[
    "supervisor",
    "link",
    "breaker",
    "limiter",
    "allowance",
    "ingress",
    "consumer",
    "conversation",
    "conversations",
    "events",
    "retry",
    "bulk",
    "watchdog",
    "node",
];
const FAILURES: &[&str] = &[
    "connect",
    "timeout",
    "given_up",
    "5xx",
    "429",
    "unusable",
    "4xx",
    "content_refused",
    "out_of_time",
    "garbled",
    "unusable_answer",
];
const SERVICE: &[&str] = &["primary"];
const BREAKER: &[&str] = &["closed", "open", "half_open"];

/// What a series says when nothing has happened yet.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    Zero,
    One,
    Something,
}

/// Labels with all their values.
type Axes = &'static [(&'static str, &'static [&'static str])];

/// A metric with all the series it has from the start.
const FAMILIES: &[(&str, Axes, Says)] = {
    use Says::{One, Something, Zero};
    &[
        ("http_requests_total", &[("method", &["POST"]), ("endpoint", ENDPOINTS), ("status", STATUSES)], Zero),
        ("http_requests_total", &[("method", &["GET"]), ("endpoint", PAGES), ("status", STATUSES)], Zero),
        ("http_request_duration_seconds_count", &[("method", &["POST"]), ("endpoint", ENDPOINTS)], Zero),
        ("http_request_duration_seconds_count", &[("method", &["GET"]), ("endpoint", PAGES)], Zero),
        ("ai_service_errors_total", &[("error_type", FAILURES), ("service", SERVICE)], Zero),
        ("tidegate_webhooks_total", &[("outcome", WEBHOOKS)], Zero),
        ("tidegate_queue_messages", &[("lane", LANES), ("state", STANDINGS)], Zero),
        ("tidegate_queue_oldest_age_seconds", &[("lane", LANES)], Zero),
        ("tidegate_message_duration_seconds_count", &[("lane", LANES), ("outcome", OUTCOMES)], Zero),
        ("tidegate_messages_total", &[("lane", LANES), ("outcome", OUTCOMES)], Zero),
        ("tidegate_retries_total", &[("lane", LANES), ("cause", CAUSES)], Zero),
        ("tidegate_dead_letters_total", &[("lane", LANES), ("cause", CAUSES)], Zero),
        ("tidegate_actors", &[("kind", KINDS), ("state", &["starting", "running", "stopped"])], Something),
        (
            "tidegate_actor_restarts_total",
            &[("kind", KINDS), ("reason", &["panic", "error", "killed", "time_limit"])],
            Zero,
        ),
        ("tidegate_actor_handle_duration_seconds_count", &[("kind", KINDS)], Something),
        ("tidegate_actor_waiting", &[("kind", KINDS)], Zero),
        ("tidegate_ai_requests_total", &[("service", SERVICE), ("outcome", FAILURES)], Zero),
        ("tidegate_ai_requests_total", &[("service", SERVICE), ("outcome", &["ok"])], Zero),
        ("tidegate_ai_request_duration_seconds_count", &[("service", SERVICE)], Zero),
        ("tidegate_ai_tokens_total", &[("service", SERVICE), ("type", &["input", "output"])], Zero),
        ("tidegate_breaker_state", &[("service", SERVICE), ("state", &["closed"])], One),
        ("tidegate_breaker_state", &[("service", SERVICE), ("state", &["open", "half_open"])], Zero),
        ("tidegate_breaker_transitions_total", &[("service", SERVICE), ("to", BREAKER)], Zero),
        ("tidegate_limiter_wait_seconds_count", &[("service", SERVICE)], Zero),
        ("tidegate_cache_requests_total", &[("tier", &["local", "redis"]), ("result", &["hit", "miss"])], Zero),
        ("tidegate_dependency_up", &[("dependency", &["broker", "state", "zendesk", "ai/primary"])], One),
        ("tidegate_node_status", &[("status", &["ready"])], One),
        ("tidegate_node_status", &[("status", &["degraded", "unready"])], Zero),
        ("tidegate_trace_spans_total", &[("outcome", &["sent", "dropped"])], Zero),
        ("tidegate_build_info", &[("version", &[env!("CARGO_PKG_VERSION")])], One),
        ("process_cpu_seconds_total", &[], Something),
        ("process_resident_memory_bytes", &[], Something),
        ("process_virtual_memory_bytes", &[], Something),
        ("process_open_fds", &[], Something),
        ("process_max_fds", &[], Something),
        ("process_start_time_seconds", &[], Something),
    ]
};

/// Every combination of the labels' values, as the beginning of a line.
fn series(name: &str, axes: Axes) -> Vec<String> {
    let mut all = vec![String::new()];
    for (label, values) in axes {
        let with = |before: &String| -> Vec<String> {
            values.iter().map(|value| format!("{before}{label}=\"{value}\",")).collect()
        };
        all = all.iter().flat_map(with).collect();
    }
    let labelled = |labels: String| match labels.strip_suffix(',') {
        Some(labels) => format!("{name}{{{labels}"),
        None => format!("{name} "),
    };
    all.into_iter().map(labelled).collect()
}

/// The series of a text: all that stands before the values.
fn names(metrics: &str) -> BTreeSet<String> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_is_there_from_the_start() {
    let scene = Scene::with("").await;
    let metrics = scene.daemon.metrics().await;
    for (name, axes, says) in FAMILIES {
        for begins in series(name, axes) {
            let line = metrics.lines().find(|line| line.starts_with(&begins)).unwrap_or_else(|| panic!("no {begins}"));
            let value: f64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
            let told = match says {
                Says::Zero => value == 0.0,
                Says::One => value == 1.0,
                Says::Something => value >= 0.0,
            };
            assert!(told, "{line}");
        }
    }
    let now = time::OffsetDateTime::now_utc().unix_timestamp() as f64;
    let started = scene.daemon.metric("process_start_time_seconds ").await;
    assert!((now - 120.0..=now + 2.0).contains(&started), "started at {started}, now it is {now}");
    let (open, max) = (scene.daemon.metric("process_open_fds ").await, scene.daemon.metric("process_max_fds ").await);
    assert!(3.0 < open && open < max, "{open} of {max} files");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_moves_the_series_that_were_there_and_makes_no_others() {
    let scene = Scene::with("").await;
    scene.say("warm", "hello").await;
    scene.settles().await;
    let before = names(&scene.daemon.metrics().await);
    scene.say("c", "hello").await;
    scene.settles().await;
    for path in ["/livez", "/readyz", "/v1/tasks/none", "/nowhere/at/all"] {
        reqwest::get(scene.daemon.url(path)).await.unwrap();
    }
    for path in ["/webhooks/sunshine", "/webhooks/zendesk"] {
        assert_eq!(post(&scene.daemon, path, &[], "{}").await.status, 401);
    }
    let metrics = scene.daemon.metrics().await;
    let new: Vec<String> = names(&metrics).difference(&before).cloned().collect();
    assert!(new.iter().all(|series| series.contains("endpoint=\"other\"")), "{new:?}");
    assert!(!metrics.contains("/nowhere"), "a raw path is no label");
    for kind in ["ingress", "consumer", "conversation", "conversations", "limiter", "link", "watchdog"] {
        let series = format!("tidegate_actor_handle_duration_seconds_count{{kind=\"{kind}\"}}");
        eventually(&series, SOON, async || scene.daemon.metric(&series).await > 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_counted_when_it_dies_and_not_again_when_it_is_parked() {
    let scene = Scene::with("[retry]\nmax_retries = 1\nbase = '10ms'\n").await;
    let dead = async |labels: &str| scene.daemon.metric(&format!("tidegate_dead_letters_total{{{labels}}}")).await;
    let parked = async |lane: &str| {
        scene.daemon.metric(&format!("tidegate_queue_messages{{lane=\"{lane}\",state=\"parked\"}}")).await
    };
    scene.ai.behave(ai::Behaviour { status: 422, ..ai::Behaviour::default() });
    scene.say("tried", "hello").await;
    eventually("it is parked after its last try", SOON, async || parked("chat").await == 1.0).await;
    assert_eq!(dead("lane=\"chat\",cause=\"rejected\"").await, 2.0, "once for each try");
    scene.ai.behave(ai::Behaviour { finish_reason: "content_filter".into(), ..ai::Behaviour::default() });
    scene.say("refused", "hello").await;
    eventually("it is parked at once", SOON, async || parked("chat").await == 2.0).await;
    assert_eq!(dead("lane=\"chat\",cause=\"content_refused\"").await, 1.0);
    let odd = delivery(&[event("odd", "conversation:message", &serde_json::json!({ "conversation": { "id": "c" } }))]);
    for counts in [[0, 0, 0, 1, 0]; 2] {
        assert_eq!(scene.deliver(odd.clone()).await.counts(), counts);
    }
    assert_eq!((parked("events").await, dead("lane=\"events\",cause=\"rejected\"").await), (1.0, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_read_is_down() {
    let scene = Scene::with("").await;
    let up = async || scene.daemon.metric("tidegate_dependency_up{dependency=\"state\"}").await;
    assert_eq!(up().await, 1.0);
    for file in ["state.db", "state.db-wal"] {
        std::fs::File::options().write(true).open(scene.daemon.data().join(file)).unwrap().set_len(0).unwrap();
    }
    eventually("it is seen", SOON, async || {
        scene.say("c", "hello").await;
        up().await == 0.0
    })
    .await;
    eventually("the report says so", SOON, async || {
        scene.say("c", "hello").await;
        let report = scene.daemon.admin("/readyz").await;
        report["dependencies"]["state"]["state"] == "down" && report["status"] == "degraded"
    })
    .await;
}

/// Named so that `scripts/test quick`, which installs no foreign clients, leaves it out.
#[tokio::test(flavor = "multi_thread")]
async fn an_official_client_reads_the_metrics_as_openmetrics() {
    let scene = Scene::with("").await;
    scene.say("c", "hello").await;
    scene.settles().await;
    let answer = reqwest::get(scene.daemon.admin_url("/metrics")).await.unwrap();
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let metrics = answer.text().await.unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/openmetrics.py");
    let mut reading = std::process::Command::new(python())
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    reading.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let read = reading.wait_with_output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let samples = String::from_utf8_lossy(&read.stdout).split_whitespace().nth(1).unwrap().parse::<usize>().unwrap();
    assert_eq!(samples, names(&metrics).len(), "every line was read");
}
