//! The chain of services behind the gateway: who answers when the first one cannot, and whose failure is told.

use std::time::Duration;

use axum::http::StatusCode;
use reqwest::Method;
use serde_json::{Value, json};
use tidegate::simulate::{
    Ai,
    ai::{self, Behaviour},
};
use tokio::time::Instant;

use crate::support::{
    ANYWHERE, KEY, Scene,
    gateway::{Gateway, all_slots_are_free, chat, stream},
};

/// The scene's own service, and a second one beside it that stands in with another model.
async fn two(more: &str) -> (Scene, Ai) {
    let second = Ai::start(ANYWHERE, ai::Options::default()).await.expect("a port is free");
    let services = format!(
        "[[ai.services]]\n[[ai.services]]\nname = 'second'\nbase_url = '{}/v1'\nmodel = 'other'\n",
        second.url()
    );
    (Scene::with(&format!("{more}{services}")).await, second)
}

fn status(status: u16) -> Behaviour {
    Behaviour { status, ..Behaviour::default() }
}

/// With all times as they are by default.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_a_hurry_is_answered_by_the_second_while_the_first_hangs() {
    let (scene, second) = two("").await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(Behaviour { hang: true, ..Behaviour::default() });
    for body in [chat("simulated"), stream("simulated")] {
        let began = Instant::now();
        let answer = gateway.send(KEY, &body.to_string(), &[("x-request-timeout", "10")]).await;
        let told = (answer.status, answer.header("x-tidegate-service"));
        assert_eq!(told, (StatusCode::OK, "second"), "{}", answer.text());
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    assert_eq!((scene.ai.stats().calls, second.stats().calls), (2, 2));
    let breaker = scene.daemon.admin("/admin/breakers").await["primary"].take();
    let seen = (&breaker["state"], &breaker["window"]["calls"], &breaker["window"]["failures"]);
    assert_eq!(seen, (&json!("closed"), &json!(0), &json!(0)), "so short a time proves nothing: {breaker}");
    all_slots_are_free(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_is_asked_of_the_next_service() {
    let (scene, second) = two("[api]\nmax_retries = 0\n").await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(Behaviour { malformed: true, ..Behaviour::default() });
    for body in [chat("simulated"), stream("simulated")] {
        let answer = gateway.post("/v1/chat/completions", &body).await;
        let told = (answer.status, answer.header("x-tidegate-service"));
        assert_eq!(told, (StatusCode::OK, "second"), "{}", answer.text());
    }
    second.behave(Behaviour { malformed: true, ..Behaviour::default() });
    for body in [chat("simulated"), stream("simulated")] {
        let refused = gateway.post("/v1/chat/completions", &body).await;
        let told = (refused.status, refused.json()["error"]["code"].clone());
        assert_eq!(told, (StatusCode::BAD_GATEWAY, json!("upstream_unusable")));
    }
    all_slots_are_free(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stand_in_refuses_is_no_verdict_on_the_request() {
    let (scene, second) = two("[api]\nmax_retries = 0\n").await;
    let gateway = Gateway::of(&scene);
    for refusal in [400, 401, 404, 413, 422] {
        scene.ai.behave(status(503));
        second.behave(status(refusal));
        let refused = gateway.post("/v1/chat/completions", &chat("simulated")).await;
        let told = (refused.status, refused.json()["error"]["code"].clone());
        assert_eq!(told, (StatusCode::BAD_GATEWAY, json!("upstream_error")), "{refusal}: {}", refused.text());
        scene.ai.behave(Behaviour::default());
        assert_eq!(gateway.post("/v1/chat/completions", &chat("simulated")).await.status, StatusCode::OK);
    }
    let opened = scene.daemon.order(Method::PUT, "/admin/breakers/primary", json!({ "mode": "open" })).await;
    assert_eq!(opened.0, 200, "{}", opened.1);
    second.behave(status(400));
    let refused = gateway.post("/v1/chat/completions", &chat("simulated")).await;
    let told = (refused.status, refused.json()["error"]["code"].clone());
    assert_eq!(told, (StatusCode::SERVICE_UNAVAILABLE, json!("breaker_open")), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_tells_which_request_it_was_and_how_far_it_came() {
    let (scene, second) = two("[api]\nmax_retries = 0\n").await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(status(500));
    second.behave(status(500));
    for body in [chat("simulated"), stream("simulated")] {
        let refused = gateway.post("/v1/chat/completions", &body).await;
        assert_eq!((refused.status, refused.header("x-tidegate-service")), (StatusCode::BAD_GATEWAY, "primary"));
        assert!(!refused.header("x-tidegate-wait-ms").is_empty());
        let id = refused.header("x-request-id").to_owned();
        let log = scene.daemon.log();
        let line = log.lines().find(|line| line.contains(&id) && !id.is_empty()).expect("it is in the log");
        let line: Value = serde_json::from_str(line).unwrap();
        let told = (&line["api_key"], &line["status"], &line["code"], &line["ai.service"]);
        assert_eq!(told, (&json!("test"), &json!(502), &json!("upstream_error"), &json!("primary")), "{line}");
    }
    for path in ["/v1/nothing", "/v1/models/unknown"] {
        assert!(gateway.get(path).await.header("x-request-id").starts_with("req_"), "{path}");
    }
    for (key, body, expected) in [(KEY, "{", 400), ("wrong", "{}", 401), (KEY, r#"{"model":"m"}"#, 400)] {
        let refused = gateway.send(key, body, &[]).await;
        assert_eq!(refused.status.as_u16(), expected);
        assert!(refused.header("x-request-id").starts_with("req_"), "{:?}", refused.headers);
    }
}
