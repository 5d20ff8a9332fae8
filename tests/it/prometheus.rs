//! A real Prometheus scrapes a real daemon in trouble: whatever the shipped dashboards, rules and alerts ask has an answer.

use std::{fs, path::Path, time::Duration};

use serde_json::Value;
use tidegate::simulate::{Customers, ai, customers::Plan};

use crate::support::{
    SOON, Scene,
    collector::Collector,
    eventually,
    gateway::{Gateway, chat, stream},
    prometheus::Prometheus,
};

/// The comparisons with which an alert ends.
const COMPARISONS: [&str; 6] = [" >= ", " <= ", " == ", " != ", " > ", " < "];

/// The key of all requests has a budget.
const KEYS: &str = "[api]\nkeys = [{ name = 'test', key = 'test-api-key', monthly_budget = 1000000 }]\n";

/// All queries in the panels of the shipped dashboards, with their variables filled in.
fn panels() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grafana/dashboards");
    let mut queries = Vec::new();
    for file in fs::read_dir(folder).expect("there are dashboards") {
        let text = fs::read_to_string(file.expect("it can be read").path()).expect("it can be read");
        let dashboard: Value = serde_json::from_str(&text).expect("a dashboard is JSON");
        let before = queries.len();
        collect(&dashboard["panels"], &mut queries);
        assert!(queries.len() > before + 5, "{} has hardly any panel", dashboard["title"]);
    }
    queries
}

fn collect(panels: &Value, queries: &mut Vec<String>) {
    for panel in panels.as_array().into_iter().flatten() {
        let targets = panel["targets"].as_array().into_iter().flatten();
        queries.extend(targets.filter_map(|target| Some(filled_in(target["expr"].as_str()?))));
        collect(&panel["panels"], queries);
    }
}

/// A query as Grafana asks it when everything is chosen.
fn filled_in(query: &str) -> String {
    let mut filled = query.to_owned();
    for (variable, value) in [("$__rate_interval", "30s"), ("$__interval", "5s"), ("$__range", "5m")] {
        filled = filled.replace(variable, value);
    }
    while let Some(at) = filled.find('$') {
        let name = filled[at + 1..].trim_start_matches('{');
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
        let braced = usize::from(filled[at + 1..].starts_with('{'));
        filled.replace_range(at..at + 1 + braced + end + braced, ".*");
    }
    filled
}

/// An alert's expression without its threshold: without the last comparison with a number.
fn without_threshold(query: &str) -> &str {
    let ends = COMPARISONS.iter().filter_map(|comparison| {
        let at = query.rfind(comparison)?;
        query[at + comparison.len()..].trim().parse::<f64>().ok().map(|_| at)
    });
    &query[..ends.max().unwrap_or_else(|| panic!("no threshold: {query}"))]
}

#[test]
fn queries_are_filled_in_and_thresholds_cut_off() {
    let query = "sum by (service) (rate(x_total{service=~\"$service\",job=\"${job}\"}[$__rate_interval]))";
    assert_eq!(filled_in(query), "sum by (service) (rate(x_total{service=~\".*\",job=\".*\"}[30s]))");
    assert_eq!(without_threshold("max by (lane) (a > b) > 120"), "max by (lane) (a > b)");
    assert_eq!(without_threshold("up{job=\"x\"} == 0"), "up{job=\"x\"}");
}

/// What happens to a daemon on a bad day.
async fn trouble(scene: &Scene) {
    let customers = Customers::start(&scene.zendesk, Plan { per_second: 40.0, ..Plan::default() });
    let gateway = Gateway::of(scene);
    gateway.post("/v1/chat/completions", &chat("simulated")).await;
    gateway.begin(&stream("simulated")).await;
    for behaviour in [
        ai::Behaviour { status: 429, retry_after: Some(1), ..ai::Behaviour::default() },
        ai::Behaviour { down: true, ..ai::Behaviour::default() },
        ai::Behaviour { empty: true, ..ai::Behaviour::default() },
        ai::Behaviour::default(),
    ] {
        scene.ai.behave(behaviour);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    gateway.post("/v1/chat/completions", &chat("simulated")).await;
    customers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dashboards_and_alerts_ask_has_an_answer() {
    let collector = Collector::start().await;
    let scene = Scene::with(&(collector.config(1.0) + KEYS)).await;
    let prometheus = Prometheus::scraping(&scene.daemon).await;
    let rules = prometheus.api("rules", &[]).await;
    let groups = rules["groups"].as_array().cloned().unwrap_or_default();
    let rules: Vec<Value> =
        groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect();
    let of = |kind: &str| rules.iter().filter(|rule| rule["type"] == kind).cloned().collect::<Vec<_>>();
    let query = |rule: &Value| rule["query"].as_str().expect("a rule has a query").to_owned();
    let mut queries = panels();
    let (alerts, records) = (of("alerting"), of("recording"));
    assert!(alerts.len() >= 15 && records.len() >= 10, "{} alerts, {} records", alerts.len(), records.len());
    queries.extend(alerts.iter().map(|rule| without_threshold(&query(rule)).to_owned()));
    queries.extend(records.iter().map(|rule| rule["name"].as_str().expect("it has a name").to_owned()));
    trouble(&scene).await;
    let mut silent = queries.clone();
    // Some ask for what grows within a time, which takes two scrapes.
    eventually("every query has an answer", SOON, async || {
        let mut still = Vec::new();
        for query in silent.drain(..) {
            if !prometheus.has(&query).await {
                still.push(query);
            }
        }
        if still.len() < 5 {
            println!("{} of {} have none yet: {still:?}", still.len(), queries.len());
        }
        silent = still;
        silent.is_empty()
    })
    .await;
    assert!(prometheus.has("celery_queue_length{queue=\"chat_workflow\"}").await);
    let range = [("query", "tidegate_message_duration_seconds_bucket"), ("start", "0"), ("end", "9999999999")];
    eventually("an exemplar leads from a histogram to its trace", SOON, async || {
        let series = prometheus.api("query_exemplars", &range).await;
        let named = series[0]["exemplars"][0]["labels"]["trace_id"].as_str().map(str::to_owned);
        named.is_some_and(|trace| collector.spans().iter().any(|span| span.trace == trace))
    })
    .await;
    scene.settles().await;
}
