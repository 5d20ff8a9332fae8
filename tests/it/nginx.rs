//! A real NGINX, as `deploy/nginx` sets it up, in front of real daemons.

use std::time::Duration;

use axum::http::StatusCode;
use futures_util::future::join_all;
use serde_json::Value;
use tidegate::simulate::{Customers, ai, customers::Plan};
use tokio::time::Instant;

use crate::support::{
    Daemon, SOON, Scene,
    gateway::{Gateway, chat, stream},
    nginx::Nginx,
};

/// A scene whose webhooks come through NGINX.
async fn scene() -> (Scene, Nginx) {
    let scene = Scene::with("").await;
    let nginx = Nginx::before(&[&scene.daemon]).await;
    scene.zendesk.aim(Some(&nginx.url("/webhooks/sunshine"))).expect("the address is sound");
    (scene, nginx)
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client can be made")
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_answers_and_streams_pass_and_nothing_else_does() {
    let (scene, nginx) = scene().await;
    scene.say("c1", "where is my parcel?").await;
    scene.settles().await;
    scene.assert_sound();
    let gateway = Gateway::at(&scene, &nginx.url(""));
    let whole = gateway.post("/v1/chat/completions", &chat("simulated")).await;
    assert_eq!(whole.status, StatusCode::OK, "{:?}\n{}", whole.body, nginx.complaints());
    let gap = Duration::from_millis(400);
    scene.ai.behave(ai::Behaviour { chunk_gap_ms: gap.as_millis() as u64, ..ai::Behaviour::default() });
    let mut answer = gateway.begin(&stream("simulated")).await;
    let began = Instant::now();
    let first = answer.chunk().await.expect("it comes").expect("there is one");
    assert!(first.starts_with(b"data: "), "{first:?}");
    let first_after = began.elapsed();
    while answer.chunk().await.expect("it comes").is_some() {}
    assert!(first_after + gap <= began.elapsed(), "the first part waited for the last one: {first_after:?}");
    for path in ["/", "/metrics", "/admin/actors", "/readyz", "/assets/app.js"] {
        let status = client().get(nginx.url(path)).send().await.expect("it answers").status();
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_much_or_sends_too_much_is_told_so() {
    let (scene, nginx) = scene().await;
    let gateway = Gateway::at(&scene, &nginx.url(""));
    let huge = vec![b' '; (10 << 20) + 1];
    for (path, kind) in
        [("/v1/chat/completions", "application/json"), ("/webhooks/sunshine", "application/problem+json")]
    {
        let refused = client().post(nginx.url(path)).body(huge.clone()).send().await.expect("it answers");
        let told = refused.headers()["content-type"].to_str().map(str::to_owned).expect("it is text");
        assert_eq!((refused.status(), told.as_str()), (StatusCode::PAYLOAD_TOO_LARGE, kind), "{path}");
        let body: Value = refused.json().await.expect("it is JSON");
        assert!(body["error"]["code"] == "request_too_large" || body["status"] == 413, "{body}");
    }
    let question = chat("simulated");
    let asked = join_all((0..120).map(|_| gateway.post("/v1/chat/completions", &question))).await;
    let (limited, let_in): (Vec<_>, Vec<_>) =
        asked.iter().partition(|answer| answer.status == StatusCode::TOO_MANY_REQUESTS);
    assert!(let_in.len() >= 40 && let_in.iter().all(|answer| answer.status == StatusCode::OK), "{}", let_in.len());
    assert!(limited.len() >= 40, "{} of 120 were refused", limited.len());
    let told: Value = serde_json::from_slice(&limited[0].body).expect("it is JSON");
    assert_eq!(
        (&told["error"]["type"], &limited[0].headers["retry-after"]),
        (&Value::from("rate_limit_error"), &"1".parse().unwrap())
    );
    // Webhooks of all customers come from few addresses, and have a limit of their own.
    let customers = Customers::start(&scene.zendesk, Plan { per_second: 200.0, total: Some(200), ..Plan::default() });
    assert!(customers.finished(SOON).await, "not all was written");
    scene.settles().await;
    assert_eq!(scene.zendesk.stats().webhook_failed_attempts, 0, "{:?}", scene.zendesk.stats());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_started_again_behind_it_loses_nothing() {
    let (mut scene, nginx) = scene().await;
    scene.ai.behave(ai::Behaviour { latency_ms: 50, ..ai::Behaviour::default() });
    let customers = Customers::start(&scene.zendesk, Plan { conversations: 20, per_second: 60.0, ..Plan::default() });
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        starts_again(&mut scene.daemon).await;
    }
    customers.stop().await;
    scene.settles().await;
    scene.assert_sound();
    let stats = scene.zendesk.stats();
    assert!(stats.judged.answered > 30 && stats.webhook_failures_final == 0, "{stats:?}\n{}", nginx.complaints());
}

/// Ends a daemon as a service manager does, and starts it again.
pub async fn starts_again(daemon: &mut Daemon) {
    daemon.terminate();
    daemon.ends().await;
    daemon.restart("").await;
}
