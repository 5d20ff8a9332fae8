//! The gateway in trouble: services that fail, hang and break off, clients that hurry, dawdle and vanish. Each
//! gets its status, and afterwards every slot is free.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use tidegate::simulate::{
    Ai,
    ai::{self, Behaviour},
};
use tokio::time::{Instant, timeout};

use crate::support::{
    ANYWHERE, SOON, Scene, eventually,
    gateway::{Gateway, all_slots_are_free, chat, rest_of, stream, taken},
};

/// A breaker that lets every call through.
const NEVER_OPENS: &str =
    "[[ai.services]]\n[ai.services.breaker]\nfailure_threshold = 1000\nfailure_rate = 1.0\nminimum_calls = 1000\n";

/// Long enough to be under way while something happens to it.
fn slowly() -> Behaviour {
    Behaviour { chunk_gap_ms: 20, reply_chars: 24 * 500, ..Behaviour::default() }
}

async fn state_of_breaker(scene: &Scene) -> String {
    scene.daemon.admin("/admin/breakers").await["primary"]["state"].as_str().expect("it has a state").to_owned()
}

/// A second service beside the scene's own.
async fn second() -> (Ai, String) {
    let ai = Ai::start(ANYWHERE, ai::Options::default()).await.expect("a port is free");
    let config = format!(
        "[[ai.services]]\ntimeout = '1s'\n[[ai.services]]\nname = 'second'\nbase_url = '{}/v1'\nmodel = 'other'\n",
        ai.url()
    );
    (ai, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_first_service_hangs_the_second_answers_and_the_first_is_only_probed() {
    let (second, config) = second().await;
    let scene = Scene::with(&config).await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(Behaviour { hang: true, ..Behaviour::default() });
    let began = Instant::now();
    let answer = gateway.post("/v1/chat/completions", &chat("simulated")).await;
    assert_eq!((answer.status, answer.header("x-tidegate-service")), (StatusCode::OK, "second"));
    assert!(began.elapsed() < Duration::from_secs(3), "within one timeout: {:?}", began.elapsed());
    assert_eq!(answer.json()["model"], "other", "it stands in with its own model");
    eventually("the breaker opens", SOON, async || {
        gateway.post("/v1/chat/completions", &chat("simulated")).await;
        state_of_breaker(&scene).await != "closed"
    })
    .await;
    let (touched, answered) = (scene.ai.stats().calls, second.stats().calls);
    for _ in 0..20 {
        assert_eq!(gateway.post("/v1/chat/completions", &stream("simulated")).await.status, StatusCode::OK);
    }
    assert_eq!(second.stats().calls - answered, 20);
    assert!(scene.ai.stats().calls - touched <= 3, "only probes: {}", scene.ai.stats().calls - touched);
    scene.ai.behave(Behaviour::default());
    eventually("the first answers again", SOON, async || {
        gateway.post("/v1/chat/completions", &chat("simulated")).await.header("x-tidegate-service") == "primary"
    })
    .await;
    all_slots_are_free(&scene).await;
}

/// As it is by default: a call may take as long as a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_service_that_hangs_leaves_the_second_enough_time() {
    let (second, config) = second().await;
    let scene = Scene::with(&format!("[http]\nrequest_timeout = '10s'\n{}", config.replace("'1s'", "'10s'"))).await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(Behaviour { hang: true, ..Behaviour::default() });
    for body in [chat("simulated"), stream("simulated")] {
        let answer = gateway.post("/v1/chat/completions", &body).await;
        let told = (answer.status, answer.header("x-tidegate-service"));
        assert_eq!(told, (StatusCode::OK, "second"), "{}", answer.text());
    }
    assert_eq!((scene.ai.stats().calls, second.stats().calls), (2, 2));
    all_slots_are_free(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_hangs_is_told_when_there_is_no_other() {
    let scene = Scene::with("[api]\nmax_retries = 0\n[[ai.services]]\ntimeout = '1s'\n").await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(Behaviour { hang: true, ..Behaviour::default() });
    for body in [chat("simulated"), stream("simulated")] {
        let answer = gateway.post("/v1/chat/completions", &body).await;
        let told = (answer.status, &answer.json()["error"]["code"]);
        assert_eq!(told, (StatusCode::GATEWAY_TIMEOUT, &json!("upstream_timeout")));
    }
    all_slots_are_free(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_tried_again_while_nothing_has_reached_the_client() {
    let scene = Scene::with("[api]\nbackoff_factor = 0.2\n").await;
    let gateway = Gateway::of(&scene);
    for body in [chat("simulated"), stream("simulated")] {
        scene.ai.behave(Behaviour { status: 503, ..Behaviour::default() });
        let before = scene.ai.stats().calls;
        let heal = async {
            eventually("it is asked", SOON, async || scene.ai.stats().calls > before).await;
            scene.ai.behave(Behaviour::default());
        };
        let (answer, ()) = tokio::join!(gateway.post("/v1/chat/completions", &body), heal);
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }
    let made = scene.daemon.metric("tidegate_api_retries_total{outcome=\"made\"}").await;
    assert!(made > 1.5, "{made}");
}

#[tokio::test(flavor = "multi_thread")]
async fn further_tries_do_not_multiply_an_outage() {
    let scene = Scene::with(&format!("[api]\nbackoff_factor = 0.001\n{NEVER_OPENS}")).await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(Behaviour { status: 500, ..Behaviour::default() });
    for _ in 0..100 {
        let failed = gateway.post("/v1/chat/completions", &chat("simulated")).await;
        assert_eq!(
            (failed.status, &failed.json()["error"]["code"]),
            (StatusCode::BAD_GATEWAY, &json!("upstream_error"))
        );
    }
    let calls = scene.ai.stats().calls;
    assert!((101..=121).contains(&calls), "100 requests, a tenth of them again and ten saved up: {calls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_call_allows_no_further_tries() {
    let keys = "keys = [{ name = 'a', key = 'k', cache = true }]\nbackoff_factor = 0.001\n";
    let scene = Scene::with(&format!("[api]\n{keys}{NEVER_OPENS}")).await;
    let gateway = Gateway::with_key(&scene, "k");
    let known = chat("simulated");
    assert_eq!(gateway.post("/v1/chat/completions", &known).await.status, StatusCode::OK);
    scene.ai.behave(Behaviour { status: 500, ..Behaviour::default() });
    let before = scene.ai.stats().calls;
    for seed in 0..40 {
        for _ in 0..10 {
            assert_eq!(gateway.post("/v1/chat/completions", &known).await.header("x-tidegate-cache"), "hit");
        }
        let mut other = chat("simulated");
        other["seed"] = json!(seed);
        assert_eq!(gateway.post("/v1/chat/completions", &other).await.status, StatusCode::BAD_GATEWAY);
    }
    let calls = scene.ai.stats().calls - before;
    assert!((41..=55).contains(&calls), "40 requests, a tenth of them again and ten saved up: {calls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_is_told_and_costs_no_call() {
    let breaker = "[[ai.services]]\n[ai.services.breaker]\nfailure_threshold = 3\nrecovery_timeout = '60s'\n";
    let scene = Scene::with(&format!("[api]\nmax_retries = 0\nwait = '100ms'\n{breaker}")).await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(Behaviour { down: true, ..Behaviour::default() });
    for _ in 0..3 {
        assert_eq!(gateway.post("/v1/chat/completions", &chat("simulated")).await.status, StatusCode::BAD_GATEWAY);
    }
    let calls = scene.ai.stats().calls;
    let refused = gateway.post("/v1/chat/completions", &chat("simulated")).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("breaker_open"))
    );
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 10, "{:?}", refused.headers);
    assert_eq!(scene.ai.stats().calls, calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_off_ends_with_an_error_and_counts_against_the_service() {
    let breaker = "[[ai.services]]\n[ai.services.breaker]\nfailure_threshold = 3\nrecovery_timeout = '60s'\n";
    let scene = Scene::with(breaker).await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(Behaviour { break_stream_after: 2, reply_chars: 500, ..Behaviour::default() });
    for _ in 0..3 {
        let answer = gateway.post("/v1/chat/completions", &stream("simulated")).await;
        assert_eq!(answer.status, StatusCode::OK);
        let events = answer.events();
        let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
        assert_eq!(last["error"]["code"], "upstream_unreachable", "{events:?}");
        assert_eq!(events.len(), 3, "no further try, whose parts would follow: {events:?}");
    }
    assert_eq!(scene.ai.stats().calls, 3);
    let failed = "tidegate_api_requests_total{key=\"test\",outcome=\"failed\"}";
    eventually("they are counted", SOON, async || scene.daemon.metric(failed).await == 3.0).await;
    assert_eq!(scene.daemon.log().matches("upstream_unreachable").count(), 3, "and written down");
    eventually("the breaker opens", SOON, async || state_of_breaker(&scene).await == "open").await;
    all_slots_are_free(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_takes_its_call_with_it() {
    let scene = Scene::with("").await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(slowly());
    let mut streaming = gateway.begin(&stream("simulated")).await;
    assert!(streaming.chunk().await.unwrap().is_some());
    assert_eq!(taken(&scene).await[0], 1);
    drop(streaming);
    eventually("the stream's call is cancelled", SOON, async || scene.ai.stats().aborted_by_client == 1).await;
    scene.ai.behave(Behaviour { hang: true, ..Behaviour::default() });
    for body in [chat("simulated"), stream("simulated")] {
        let before = scene.ai.stats().hung;
        let waiting = gateway.begin(&body);
        tokio::pin!(waiting);
        eventually("it is asked", SOON, async || {
            let _ = timeout(Duration::from_millis(1), &mut waiting).await;
            scene.ai.stats().hung > before
        })
        .await;
    }
    eventually("the others' too", SOON, async || scene.ai.stats().aborted_by_client == 3).await;
    let abandoned = "tidegate_api_requests_total{key=\"test\",outcome=\"abandoned\"}";
    eventually("all are counted", SOON, async || scene.daemon.metric(abandoned).await == 3.0).await;
    all_slots_are_free(&scene).await;
    assert_eq!(state_of_breaker(&scene).await, "closed", "none of it was the service's fault");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_a_hurry_is_told_in_time_and_proves_nothing_against_the_service() {
    let scene = Scene::with("").await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(Behaviour { hang: true, ..Behaviour::default() });
    for body in [chat("simulated"), stream("simulated")].iter().cycle().take(12) {
        let answer = gateway.send(crate::support::KEY, &body.to_string(), &[("x-request-timeout", "0.2")]).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (StatusCode::GATEWAY_TIMEOUT, &json!("timeout")));
    }
    assert_eq!(state_of_breaker(&scene).await, "closed");
    all_slots_are_free(&scene).await;
}

/// An answer of which its client reads nothing: more than the sockets between them take.
async fn unread(scene: &Scene, gateway: &Gateway) -> reqwest::Response {
    scene.ai.behave(Behaviour { reply_chars: 2_000_000, ..Behaviour::default() });
    let unread = gateway.begin(&stream("simulated")).await;
    scene.ai.behave(Behaviour { chunk_gap_ms: 1, reply_chars: 24 * 20, ..Behaviour::default() });
    unread
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_does_not_read_holds_up_nobody() {
    let scene = Scene::with("[[ai.services]]\nconcurrency = 201\n").await;
    let gateway = Gateway::of(&scene);
    let unread = unread(&scene, &gateway).await;
    let all = (0..200).map(|_| gateway.clone()).map(|gateway| async move {
        let answer = gateway.post("/v1/chat/completions", &stream("simulated")).await;
        answer.events().last() == Some(&"[DONE]")
    });
    let finished = futures_util::future::join_all(all).await;
    assert!(finished.iter().all(|finished| *finished));
    assert_eq!(taken(&scene).await, [1, 1, 0, 0], "the one who does not read holds his slot still");
    drop(unread);
    all_slots_are_free(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_does_not_read_is_given_up() {
    let scene = Scene::with("[http]\nrequest_timeout = '8s'\n").await;
    let unread = unread(&scene, &Gateway::of(&scene)).await;
    all_slots_are_free(&scene).await;
    eventually("with the call to the service", SOON, async || scene.ai.stats().aborted_by_client == 1).await;
    assert!(unread.bytes().await.is_err(), "what has no end does not look whole");
    let abandoned = "tidegate_api_requests_total{key=\"test\",outcome=\"abandoned\"}";
    eventually("it is counted", SOON, async || scene.daemon.metric(abandoned).await == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_limits_of_its_own_and_a_budget_for_the_month() {
    let keys = "{ name = 'few', key = 'few', limits = { windows = [{ requests = 2, per = '60s' }] } }, \
                { name = 'poor', key = 'poor', monthly_budget = 1 }, { name = 'free', key = 'free' }";
    let mut scene = Scene::with(&format!("[api]\nwait = '100ms'\nkeys = [{keys}]\n")).await;
    let gateway = Gateway::of(&scene);
    let body = chat("simulated").to_string();
    let mut statuses = Vec::new();
    for key in ["few", "few", "few", "poor", "poor", "free"] {
        let answer = gateway.send(key, &body, &[]).await;
        let code = answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned();
        statuses.push((answer.status.as_u16(), code));
    }
    let told: Vec<(u16, &str)> = statuses.iter().map(|(status, code)| (*status, code.as_str())).collect();
    let expected =
        [(200, ""), (200, ""), (429, "rate_limit_exceeded"), (200, ""), (429, "insufficient_quota"), (200, "")];
    assert_eq!(told, expected);
    scene.daemon.terminate();
    eventually("the node ends", SOON, async || scene.daemon.ended().is_some()).await;
    scene.daemon.restart("").await;
    // The first is refused: a second one would be, too, for what the first has used.
    let remembered = Gateway::of(&scene).send("poor", &body, &[]).await;
    assert_eq!(remembered.status, StatusCode::TOO_MANY_REQUESTS, "{}", remembered.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_ends_its_streams_with_a_word() {
    let mut scene = Scene::with("").await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(Behaviour { chunk_gap_ms: 200, reply_chars: 24 * 1000, ..Behaviour::default() });
    let mut streaming = gateway.begin(&stream("simulated")).await;
    assert!(streaming.chunk().await.unwrap().is_some());
    scene.daemon.terminate();
    let said = rest_of(streaming).await;
    assert!(said.contains("\"code\":\"stopping\""), "{}", &said[said.len().saturating_sub(300)..]);
    eventually("the node ends", SOON, async || scene.daemon.ended().is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_blocks_the_only_thread_of_the_actors_holds_up_no_call_that_needs_none() {
    let scene = Scene::with("[node]\nworker_threads = 1\n").await;
    assert_eq!(scene.daemon.crash("node/broker-link", r#"{"mode":"block","ms":20000}"#).await, 202);
    let blocks = async || {
        let shown = scene.daemon.admin("/admin/actors/node/broker-link").await;
        shown["in_hand"]["phase"] == "a failure on purpose"
    };
    eventually("it blocks", SOON, blocks).await;
    let gateway = Gateway::of(&scene);
    assert_eq!(gateway.post("/v1/chat/completions", &chat("simulated")).await.status, StatusCode::OK);
    assert!(blocks().await, "the answer came only after it");
}
