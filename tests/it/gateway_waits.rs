//! The gateway's waits: those a service asks for, those in vain, those of others in more of a hurry, and that of a node
//! which is to stop.

use std::{sync::LazyLock, time::Duration};

use axum::http::StatusCode;
use serde_json::{Value, json};
use tidegate::simulate::{
    Ai,
    ai::{self, Behaviour},
};
use tokio::time::Instant;

use crate::support::{
    ANYWHERE, KEY, SOON, Scene, eventually,
    gateway::{Answered, Gateway, chat, rest_of, stream, taken},
};

static CHAT: LazyLock<Value> = LazyLock::new(|| chat("simulated"));

fn code(answer: &Answered) -> Value {
    answer.json()["error"]["code"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_is_asked_again_when_it_wants_to_be() {
    let scene = Scene::with("[api]\nbackoff_factor = 0.001\n").await;
    let gateway = Gateway::of(&scene);
    for body in [chat("simulated"), stream("simulated")] {
        scene.ai.behave(Behaviour { status: 503, retry_after: Some(2), ..Behaviour::default() });
        let (before, began) = (scene.ai.stats().calls, Instant::now());
        let heal = async {
            eventually("it is asked", SOON, async || scene.ai.stats().calls > before).await;
            scene.ai.behave(Behaviour::default());
        };
        let (answer, ()) = tokio::join!(gateway.post("/v1/chat/completions", &body), heal);
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    }
    scene.ai.behave(Behaviour { status: 503, retry_after: Some(300), ..Behaviour::default() });
    let before = scene.ai.stats().calls;
    let refused = gateway.post("/v1/chat/completions", &chat("simulated")).await;
    assert_eq!((refused.status, refused.header("retry-after")), (StatusCode::BAD_GATEWAY, "300"));
    assert_eq!(scene.ai.stats().calls, before + 1, "there is no time for another try");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_for_the_keys_own_limit_is_told_and_is_a_part_of_the_whole_wait() {
    let key = "{ name = 'a', key = 'k', limits = { windows = [{ requests = 1, per = '3s' }] } }";
    let service = "[[ai.services]]\nconcurrency = 1\n";
    let scene =
        Scene::with(&format!("[api]\nwait = '4s'\nkeys = [{key}, {{ name = 'b', key = 'other' }}]\n{service}")).await;
    let (limited, other) = (Gateway::with_key(&scene, "k"), Gateway::with_key(&scene, "other"));
    assert_eq!(limited.post("/v1/chat/completions", &CHAT).await.status, StatusCode::OK);
    let second = limited.post("/v1/chat/completions", &CHAT).await;
    let waited: u64 = second.header("x-tidegate-wait-ms").parse().unwrap();
    assert!(second.status == StatusCode::OK && waited >= 1_500, "{waited} ms");
    scene.ai.behave(Behaviour { latency_ms: 20_000, ..Behaviour::default() });
    let holds_the_slot = tokio::spawn(async move { other.post("/v1/chat/completions", &CHAT).await.status });
    eventually("the slot is taken", SOON, async || taken(&scene).await[0] == 1).await;
    let began = Instant::now();
    let refused = limited.post("/v1/chat/completions", &CHAT).await;
    assert_eq!((refused.status, code(&refused)), (StatusCode::SERVICE_UNAVAILABLE, json!("overloaded")));
    // Three for the key and four for the slot, if each had its own wait.
    assert!(began.elapsed() < Duration::from_millis(6_500), "{:?}", began.elapsed());
    holds_the_slot.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_call_in_vain_is_no_wait_for_the_next_service() {
    let second = Ai::start(ANYWHERE, ai::Options::default()).await.unwrap();
    let config = format!(
        "[api]\nwait = '2s'\nmax_retries = 0\n[[ai.services]]\ntimeout = '3s'\n[[ai.services]]\nname = 'second'\n\
         base_url = '{}/v1'\nmodel = 'other'\nconcurrency = 1\n",
        second.url()
    );
    let scene = Scene::with(&config).await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(Behaviour { hang: true, ..Behaviour::default() });
    // The second is busy when the first is given up, and for a second more.
    second.behave(Behaviour { latency_ms: 4_000, ..Behaviour::default() });
    let other = chat("other");
    let asks = async {
        eventually("the second is busy", SOON, async || second.stats().calls == 1).await;
        gateway.post("/v1/chat/completions", &CHAT).await
    };
    let (_, answer) = tokio::join!(gateway.post("/v1/chat/completions", &other), asks);
    let told = (answer.status, answer.header("x-tidegate-service"));
    assert_eq!(told, (StatusCode::OK, "second"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waited_in_vain_for_what_others_got_is_not_told_to_come_at_once() {
    let scene = Scene::with("[api]\nwait = '300ms'\n[[ai.services]]\nconcurrency = 1\n").await;
    scene.ai.behave(Behaviour { latency_ms: 2_000, ..Behaviour::default() });
    let gateway = Gateway::of(&scene);
    let asked = (0..3).map(|_| gateway.post("/v1/chat/completions", &CHAT));
    let answers = futures_util::future::join_all(asked).await;
    let (refused, answered): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| !answer.status.is_success());
    assert_eq!((refused.len(), answered.len()), (2, 1));
    for refused in refused {
        assert_eq!((refused.status, code(refused)), (StatusCode::SERVICE_UNAVAILABLE, json!("overloaded")));
        assert!(refused.header("retry-after-ms").parse::<u64>().unwrap() > 500, "{:?}", refused.headers);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shares_the_call_of_one_in_a_hurry_has_his_own_time() {
    let keys = format!("keys = [{{ name = 'test', key = '{KEY}', cache = true }}]");
    let scene = Scene::with(&format!("[api]\nwait = '20s'\n{keys}\n[[ai.services]]\nconcurrency = 1\n")).await;
    scene.ai.behave(Behaviour { latency_ms: 4_500, ..Behaviour::default() });
    let gateway = Gateway::of(&scene);
    let slots = async || scene.daemon.admin("/admin/limiters").await["primary"]["slots"].clone();
    let other = json!({ "model": "simulated", "messages": [{ "role": "user", "content": "another one" }] });
    let other = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.post("/v1/chat/completions", &other).await.status }
    });
    eventually("the only slot is taken", SOON, async || slots().await["in_use"] == 1).await;
    let body = CHAT.to_string();
    let hurried = [("x-request-timeout", "3")];
    let hurried = gateway.send(KEY, &body, &hurried);
    let patient = async {
        eventually("the hurried one waits", SOON, async || slots().await["waiting"] == 1).await;
        gateway.send(KEY, &body, &[]).await
    };
    let (hurried, patient) = tokio::join!(hurried, patient);
    assert!(!hurried.status.is_success(), "{}", hurried.status);
    assert_eq!(patient.status, StatusCode::OK, "{}", patient.text());
    assert_eq!(other.await.unwrap(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stand_in_answers_only_those_who_may_use_its_model_and_only_for_now() {
    let second = Ai::start(ANYWHERE, ai::Options::default()).await.expect("a port is free");
    let keys = format!(
        "keys = [{{ name = 'test', key = '{KEY}', cache = true }}, \
         {{ name = 'one', key = 'one', models = ['simulated'] }}]"
    );
    let services = format!(
        "[[ai.services]]\n[[ai.services]]\nname = 'second'\nbase_url = '{}/v1'\nmodel = 'other'\n",
        second.url()
    );
    let scene = Scene::with(&format!("[api]\nmax_retries = 0\n{keys}\n{services}")).await;
    scene.ai.behave(Behaviour { status: 503, ..Behaviour::default() });
    let gateway = Gateway::of(&scene);
    let body = CHAT.to_string();
    for _ in 0..2 {
        let answer = gateway.send(KEY, &body, &[]).await;
        assert_eq!((answer.header("x-tidegate-service"), answer.header("x-tidegate-cache")), ("second", "miss"));
    }
    assert_eq!(gateway.send("one", &body, &[]).await.status, StatusCode::BAD_GATEWAY);
    scene.ai.behave(Behaviour::default());
    eventually("the first answers again", SOON, async || {
        gateway.send(KEY, &body, &[]).await.header("x-tidegate-service") == "primary"
    })
    .await;
    assert_eq!(gateway.send(KEY, &body, &[]).await.header("x-tidegate-cache"), "hit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_to_stop_lets_its_answers_come_to_their_end() {
    let mut scene = Scene::with("[node]\nshutdown_grace = '60s'\n").await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(Behaviour { chunk_gap_ms: 100, latency_ms: 1_500, reply_chars: 24 * 20, ..Behaviour::default() });
    let mut streaming = gateway.begin(&stream("simulated")).await;
    assert!(streaming.chunk().await.unwrap().is_some());
    let whole = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.post("/v1/chat/completions", &CHAT).await.status }
    });
    eventually("both are asked", SOON, async || scene.ai.stats().calls == 2).await;
    scene.daemon.terminate();
    let said = rest_of(streaming).await;
    assert!(said.ends_with("data: [DONE]\n\n"), "{}", &said[said.len().saturating_sub(300)..]);
    assert_eq!(whole.await.unwrap(), StatusCode::OK);
    eventually("the node ends long before its grace is over", SOON, async || scene.daemon.ended().is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_path_is_told_in_openais_shape() {
    let scene = Scene::with("").await;
    let gateway = Gateway::of(&scene);
    for (path, status) in [("/v1/completions", 404), ("/v1/chat", 404), ("/v1/models", 405)] {
        let answer = gateway.post(path, &CHAT).await;
        assert_eq!((answer.status.as_u16(), code(&answer)), (status, json!("unknown_url")), "{path}");
    }
}
