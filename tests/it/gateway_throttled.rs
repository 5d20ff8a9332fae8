//! The gateway before a service that throttles: nobody asks too early, whoever is refused is told when to come again, and
//! nothing is leaked.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;
use tidegate::simulate::ai::{Behaviour, Quota};
use tokio::time::{Instant, timeout};

use crate::support::{
    SOON, Scene, eventually,
    gateway::{Gateway, all_slots_are_free, chat, stream},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_reached_is_told_with_the_exact_wait_and_the_service_sees_no_call_too_many() {
    let limits = "[api]\nwait = '100ms'\n[ai.services.limits]\nwindows = [{ requests = 3, per = '20s' }]\n";
    let scene = Scene::with(&limits.replace("[ai.services.limits]", "[[ai.services]]\n[ai.services.limits]")).await;
    let window = Quota { requests: 3, per_ms: 20_000 };
    scene.ai.behave(Behaviour { quota: vec![window], ..Behaviour::default() });
    let gateway = Gateway::of(&scene);
    for _ in 0..3 {
        assert_eq!(gateway.post("/v1/chat/completions", &chat("simulated")).await.status, StatusCode::OK);
    }
    let asked = Instant::now();
    let refused = gateway.post("/v1/chat/completions", &chat("simulated")).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["code"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("rate_limit_exceeded"))
    );
    let wait = Duration::from_millis(refused.header("retry-after-ms").parse().unwrap());
    assert!((Duration::from_secs(15)..Duration::from_millis(20_500)).contains(&wait), "{wait:?}");
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert_eq!(u128::from(seconds), wait.as_millis().div_ceil(1000));
    tokio::time::sleep_until(asked + wait).await;
    assert_eq!(gateway.post("/v1/chat/completions", &chat("simulated")).await.status, StatusCode::OK, "as it was told");
    assert_eq!(scene.ai.stats().status_429, 0);
    all_slots_are_free(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_429_nobody_asks_before_its_time() {
    let scene = Scene::with("[api]\nwait = '100ms'\n").await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(Behaviour { status: 429, retry_after: Some(30), ..Behaviour::default() });
    for _ in 0..5 {
        let refused = gateway.post("/v1/chat/completions", &chat("simulated")).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert!((1..=40).contains(&refused.header("retry-after").parse::<u64>().unwrap()), "{:?}", refused.headers);
    }
    assert_eq!(scene.ai.stats().calls, 1);
    all_slots_are_free(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_429_leaks_nothing_and_ends() {
    let service = "[[ai.services]]\nconcurrency = 256\n\
        limits = { per_minute = 0, per_hour = 0, burst = 0, windows = [{ requests = 1000, per = '1s' }] }\n";
    let scene = Scene::with(&format!("[api]\nwait = '300ms'\nbackoff_factor = 0.01\n{service}")).await;
    let gateway = Gateway::of(&scene);
    assert_eq!(gateway.post("/v1/chat/completions", &chat("simulated")).await.status, StatusCode::OK);
    all_slots_are_free(&scene).await;
    let quota = vec![Quota { requests: 20, per_ms: 1_000 }];
    scene.ai.behave(Behaviour { quota, latency_ms: 50, ..Behaviour::default() });
    let asked = (0..200u64).map(|n| {
        let gateway = gateway.clone();
        async move {
            let body = if n % 2 == 0 { chat("simulated") } else { stream("simulated") };
            let asking = gateway.post("/v1/chat/completions", &body);
            let patience = if n % 5 == 0 { Duration::from_millis(n) } else { SOON };
            timeout(patience, asking).await.ok().map(|answer| answer.status.as_u16())
        }
    });
    let seen = futures_util::future::join_all(asked).await;
    let count = |status| seen.iter().filter(|seen| **seen == status).count();
    let (answered, refused, left) = (count(Some(200)), count(Some(429)), count(None));
    assert_eq!(answered + refused + left, 200, "{seen:?}");
    assert!(answered >= 5 && refused >= 50 && left >= 1, "{answered} answered, {refused} refused, {left} left");
    assert!(scene.ai.stats().status_429 >= 1);
    all_slots_are_free(&scene).await;
    scene.ai.behave(Behaviour::default());
    let passes = async || gateway.post("/v1/chat/completions", &chat("simulated")).await.status == StatusCode::OK;
    eventually("calls pass again", SOON, passes).await;
    all_slots_are_free(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_that_does_not_say_when_to_come_again_is_passed_on_with_the_time_of_the_pause() {
    let scene = Scene::with("[api]\nmax_retries = 0\nwait = '100ms'\n").await;
    let gateway = Gateway::of(&scene);
    for retry_after in [None, Some(0)] {
        scene.ai.behave(Behaviour { status: 429, retry_after, ..Behaviour::default() });
        let refused = gateway.post("/v1/chat/completions", &chat("simulated")).await;
        let asked_until = Instant::now();
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        scene.ai.behave(Behaviour::default());
        let told = Duration::from_millis(refused.header("retry-after-ms").parse().unwrap());
        assert!(told >= Duration::from_millis(900), "{told:?}");
        let early = gateway.post("/v1/chat/completions", &chat("simulated")).await;
        assert_eq!(early.status, StatusCode::TOO_MANY_REQUESTS);
        tokio::time::sleep_until(asked_until + told).await;
        assert_eq!(gateway.post("/v1/chat/completions", &chat("simulated")).await.status, StatusCode::OK, "as told");
    }
}

/// Whoever asks again after a 429 finds the limiter in his way, and calls nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_further_try_that_calls_nobody_is_not_paid_for() {
    let scene = Scene::with("[api]\nwait = '100ms'\nbackoff_factor = 0.001\n").await;
    let gateway = Gateway::of(&scene);
    // More often than tries are saved up.
    for n in 1..=12 {
        scene.ai.behave(Behaviour { status: 429, retry_after: Some(1), ..Behaviour::default() });
        eventually("it is asked", SOON, async || {
            let refused = gateway.post("/v1/chat/completions", &chat("simulated")).await;
            assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
            scene.ai.stats().calls == n
        })
        .await;
    }
    let tried = async |outcome: &str| {
        scene.daemon.metric(&format!("tidegate_api_retries_total{{outcome=\"{outcome}\"}}")).await
    };
    assert_eq!((tried("made").await, tried("denied").await), (0.0, 0.0));
}
