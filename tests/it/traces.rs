//! Traces, as a collector gets them: one tree from the webhook to the reply, over the queue and over tries.

use std::{collections::BTreeSet, time::Duration};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tidegate::simulate::ai;

use crate::support::{
    Daemon, KEY, SOON, Scene,
    collector::{Collected, Collector},
    eventually,
    gateway::{Gateway, stream},
    in_rabbitmq,
    webhooks::{delivery, message, post},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SENDER: &str = "00f067aa0ba902b7";
const POST: &str = "POST /v2/apps/{appId}/conversations/{conversationId}/messages";

/// A message comes in a trace of its sender's, fails once, is tried again and answered.
async fn one_message_that_fails_once(scene: &Scene) {
    // Zendesk knows the conversation by then.
    scene.say("c1", "hello").await;
    eventually("it is answered", SOON, async || scene.replies("c1").len() == 1).await;
    scene.ai.behave(ai::Behaviour { empty: true, ..ai::Behaviour::default() });
    let told = format!("00-{TRACE}-{SENDER}-01");
    let body = delivery(&[message("e1", "m1", "c1", "where is my parcel?")]);
    let secret = scene.zendesk.options().webhook_secret.clone();
    let headers = [("x-api-key", secret.as_str()), ("traceparent", told.as_str())];
    assert_eq!(post(&scene.daemon, "/webhooks/sunshine", &headers, body).await.status, 200);
    eventually("the AI was asked", SOON, async || scene.ai.stats().calls == 2).await;
    scene.ai.behave(ai::Behaviour::default());
    eventually("it is answered", SOON, async || scene.replies("c1").len() == 2).await;
}

/// The only one of a name.
fn only(collector: &Collector, name: &str) -> Collected {
    let mut named = collector.named(name);
    assert_eq!(named.len(), 1, "{name}: {:?}", collector.spans());
    named.remove(0)
}

fn told(span: &Collected, key: &str) -> String {
    span.attributes.get(key).cloned().unwrap_or_else(|| panic!("{} tells no {key}: {span:?}", span.name))
}

fn assert_one_tree(collector: &Collector, system: &str) {
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:?}");
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    let tops: Vec<&Collected> = spans.iter().filter(|span| !ids.contains(span.parent.as_str())).collect();
    assert_eq!(tops.len(), 1, "{tops:?}");
    assert_eq!((tops[0].name.as_str(), tops[0].parent.as_str()), ("POST /webhooks/sunshine", SENDER));
    assert_eq!((tops[0].kind, told(tops[0], "http.response.status_code").as_str()), (SpanKind::Server, "200"));

    let sent = only(collector, "send chat");
    assert_eq!((sent.kind, &sent.parent), (SpanKind::Producer, &tops[0].id));
    let mut attempts = collector.named("process chat");
    attempts.sort_by_key(|span| told(span, "tidegate.tries"));
    let [first, second] = attempts.as_slice() else { panic!("{attempts:?}") };
    for attempt in [first, second] {
        assert_eq!((attempt.kind, &attempt.parent), (SpanKind::Consumer, &sent.id));
        let tells =
            ["messaging.system", "messaging.destination.name", "messaging.message.id"].map(|key| told(attempt, key));
        assert_eq!(tells, [system, "chat", "m1"]);
    }
    assert!(first.failed && first.links.is_empty(), "{first:?}");
    assert!(!second.failed, "{second:?}");
    assert_eq!(second.links, std::slice::from_ref(&first.id), "a retry links to the first attempt");

    let calls: Vec<Collected> = spans.iter().filter(|span| span.name.starts_with("chat ")).cloned().collect();
    let below: BTreeSet<&str> = calls.iter().map(|call| call.parent.as_str()).collect();
    assert_eq!(below, BTreeSet::from([first.id.as_str(), second.id.as_str()]));
    for call in &calls {
        assert_eq!((call.kind, told(call, "gen_ai.operation.name").as_str()), (SpanKind::Client, "chat"));
        assert_eq!(call.failed, call.parent == first.id, "{call:?}");
    }
    let posts: Vec<Collected> =
        collector.named(POST).into_iter().filter(|span| told(span, "http.request.method") == "POST").collect();
    assert_eq!(posts.len(), 1, "{posts:?}");
    assert_eq!((&posts[0].parent, told(&posts[0], "http.response.status_code").as_str()), (&second.id, "201"));
    assert!(spans.iter().all(|span| span.resource["service.name"] == "tidegate"));
    let everything = format!("{spans:?}");
    assert!(!everything.contains("parcel"), "what a customer wrote is in no trace");
}

async fn a_message_is_one_tree(broker: &str, system: &str) {
    let collector = Collector::start().await;
    // Nothing is sampled but what the sender asks for.
    let config = format!("[retry]\nbase = '100ms'\n{}{broker}", collector.config(0.0));
    let scene = Scene::with(&config).await;
    one_message_that_fails_once(&scene).await;
    eventually("the last span has come", SOON, async || {
        collector.named("process chat").len() == 2 && collector.named("send chat").len() == 1
    })
    .await;
    assert_one_tree(&collector, system);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_a_retry_is_one_tree() {
    a_message_is_one_tree("", "tidegate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_a_retry_is_one_tree_through_rabbitmq() {
    a_message_is_one_tree(&in_rabbitmq(), "rabbitmq").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sampled_is_kept_when_it_fails() {
    let collector = Collector::start().await;
    let scene = Scene::with(&format!("[retry]\nbase = '100ms'\n{}", collector.config(0.0))).await;
    scene.say("good", "hello").await;
    eventually("it is answered", SOON, async || !scene.replies("good").is_empty()).await;
    scene.ai.behave(ai::Behaviour { empty: true, ..ai::Behaviour::default() });
    scene.say("bad", "hello").await;
    eventually("the failed attempt has come", SOON, async || !collector.named("process chat").is_empty()).await;
    scene.ai.behave(ai::Behaviour::default());
    eventually("it is answered", SOON, async || !scene.replies("bad").is_empty()).await;
    // What has ended before was sent before, if at all.
    let failed = collector.named("process chat");
    assert!(failed.iter().all(|span| span.failed && told(span, "messaging.message.conversation_id") == "bad"));
    eventually("they have come with their calls", SOON, async || {
        failed.iter().all(|attempt| collector.spans().iter().any(|call| call.parent == attempt.id))
    })
    .await;
}

/// The traces that the buckets of a histogram name.
fn exemplars(metrics: &str, histogram: &str) -> BTreeSet<String> {
    let buckets = metrics.lines().filter(|line| line.starts_with(histogram));
    let named = buckets.filter_map(|line| line.split_once("# {trace_id=\"")?.1.split_once('"'));
    named.map(|(trace, _)| trace.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exemplar_names_a_trace_that_was_sent() {
    let collector = Collector::start().await;
    let scene = Scene::with(&collector.config(1.0)).await;
    scene.say("c1", "hello").await;
    eventually("it is answered", SOON, async || !scene.replies("c1").is_empty()).await;
    let attempt = "process chat";
    eventually("its trace has come", SOON, async || !collector.named(attempt).is_empty()).await;
    let metrics = scene.daemon.metrics().await;
    let trace = only(&collector, attempt).trace;
    for histogram in ["tidegate_message_duration_seconds", "tidegate_ai_request_duration_seconds"] {
        assert_eq!(exemplars(&metrics, histogram), BTreeSet::from([trace.clone()]), "{histogram}");
    }
    // A bucket names who came last, and Zendesk tells of the new conversation and of the reply as well.
    let requests = exemplars(&metrics, "http_request_duration_seconds");
    assert!(!requests.is_empty(), "no request is named");
    eventually("the traces of the requests have come", SOON, async || {
        let sent = collector.named("POST /webhooks/sunshine");
        requests.iter().all(|trace| sent.iter().any(|span| span.trace == *trace))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_or_is_gone_costs_spans_and_nothing_else() {
    let hanging = Collector::hanging().await;
    let gone = "[telemetry]\notlp_endpoint = 'http://127.0.0.1:9'\nsample_rate = 1.0\n".to_owned();
    for config in [hanging.config(1.0), gone] {
        let scene = Scene::with(&format!("[chat]\nmerge_quiet = '0s'\n{config}")).await;
        for n in 0..100 {
            scene.say(&format!("c{}", n % 20), "hello").await;
        }
        scene.settles().await;
        scene.assert_sound();
        let dropped =
            |metrics: &str| crate::support::metric(metrics, "tidegate_trace_spans_total{outcome=\"dropped\"}");
        eventually("spans are given up", SOON, async || dropped(&scene.daemon.metrics().await) > 0.0).await;
        ends_in_time(scene.daemon).await;
    }
}

/// Whoever waits for a collector in the end does not wait for long.
async fn ends_in_time(mut daemon: Daemon) {
    daemon.terminate();
    eventually("the daemon ends", Duration::from_secs(20), async || daemon.ended().is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_name_their_trace() {
    let collector = Collector::start().await;
    let scene = Scene::with(&format!("[retry]\nbase = '100ms'\n{}", collector.config(1.0))).await;
    scene.ai.behave(ai::Behaviour { status: 401, ..ai::Behaviour::default() });
    scene.say("c1", "hello").await;
    let line = "an AI service cannot be used as it is set up";
    eventually("it is logged", SOON, async || scene.daemon.log().contains(line)).await;
    let logged: serde_json::Value = {
        let log = scene.daemon.log();
        let line = log.lines().find(|logged| logged.contains(line)).expect("it was logged");
        serde_json::from_str(line).expect("a line is JSON")
    };
    scene.ai.behave(ai::Behaviour::default());
    eventually("the attempt is over", SOON, async || !collector.named("process chat").is_empty()).await;
    assert_eq!(logged["trace_id"], only(&collector, "process chat").trace.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_call_lasts_as_long_as_its_stream_and_nothing_begins_a_trace_of_its_own() {
    let collector = Collector::start().await;
    let scene = Scene::with(&format!("[chat]\ntyping_after = '50ms'\n{}", collector.config(1.0))).await;
    scene.ai.behave(ai::Behaviour { chunk_gap_ms: 300, latency_ms: 300, ..ai::Behaviour::default() });
    let gateway = Gateway::of(&scene);
    let mut answer = gateway.begin(&stream("simulated")).await;
    while answer.chunk().await.expect("it comes").is_some() {}
    scene.say("c1", "where is my parcel?").await;
    eventually("it is answered", SOON, async || !scene.replies("c1").is_empty()).await;
    let typing = "POST /v2/apps/{appId}/conversations/{conversationId}/activity";
    eventually("all have come", SOON, async || {
        !collector.named(typing).is_empty() && !collector.named("process chat").is_empty()
    })
    .await;
    let spans = collector.spans();
    let server = only(&collector, "POST /v1/chat/completions");
    let call = spans.iter().find(|span| span.parent == server.id).expect("the call hangs below the request");
    assert!(call.took >= Duration::from_millis(600), "the call of a stream ended with its beginning: {call:?}");
    let tops = spans.iter().filter(|span| span.parent.is_empty());
    assert!(tops.clone().all(|top| top.kind == SpanKind::Server), "{:?}", tops.collect::<Vec<_>>());
    let everything = format!("{spans:?}");
    for secret in ["parcel", KEY, &scene.zendesk.options().webhook_secret, &scene.zendesk.options().key_secret] {
        assert!(!everything.contains(secret), "{secret} is in a trace");
    }
}
