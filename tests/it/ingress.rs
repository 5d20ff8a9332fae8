//! The public door: who is let in, what is refused, and how the node says how it is.

use std::{pin::pin, time::Duration};

use serde_json::Value;
use tidegate::simulate::{ai, zendesk};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::support::{
    SOON, Scene, eventually,
    webhooks::{delivery, message, post},
};

/// Sends raw bytes to the public listener and reads the status line of the answer.
async fn raw(scene: &Scene, bytes: &[u8]) -> String {
    let address = scene.daemon.url("");
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(SOON, stream.read(&mut answer)).await.expect("an answer comes").unwrap();
    String::from_utf8_lossy(&answer[..read]).lines().next().unwrap_or_default().to_owned()
}

fn body(n: usize) -> String {
    delivery(&[message(&format!("e{n}"), &format!("m{n}"), &format!("c{n}"), "hello")])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_before_anything_of_the_body_is_read() {
    let scene = Scene::with("").await;
    // The body is announced and never sent: who waits for it does not answer.
    for key in ["", "X-API-Key: wrong\r\n", "X-API-Key:\r\n"] {
        let head = format!("POST /webhooks/sunshine HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 1000000\r\n\r\n");
        let status = raw(&scene, head.as_bytes()).await;
        assert!(status.contains(" 401 "), "{key:?}: {status}");
    }
    for body in ["not json".to_owned(), "x".repeat(3 << 20), body(1)] {
        let answer = post(&scene.daemon, "/webhooks/sunshine", &[("x-api-key", "wrong")], body).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert_eq!(answer.body["type"], "urn:tidegate:problem:unauthorized");
    }
    assert_eq!(scene.deliver(body(1)).await.counts(), [1, 0, 0, 0, 0], "nothing of it was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_hears_the_refusal_however_much_he_sends() {
    let scene = Scene::with("").await;
    let long = bytes::Bytes::from(vec![b'x'; 8 << 20]);
    for _ in 0..5 {
        let strangers = (0..10).map(|_| post(&scene.daemon, "/webhooks/sunshine", &[], long.clone()));
        for answer in futures_util::future::join_all(strangers).await {
            assert_eq!(answer.status, 401, "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_secret_everybody_is_refused() {
    let scene = Scene::with("[zendesk]\nwebhook_secrets = []\n").await;
    for headers in [vec![], vec![("x-api-key", "")], vec![("x-api-key", "simulated-webhook-secret")]] {
        assert_eq!(post(&scene.daemon, "/webhooks/sunshine", &headers, body(1)).await.status, 401, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_and_one_at_the_limit_taken() {
    let limit = 4096;
    let scene = Scene::with("[http]\nwebhook_body_limit = '4KiB'\n").await;
    let padded = |n: usize, length: usize| {
        let body = body(n);
        body.clone() + &" ".repeat(length - body.len())
    };
    assert_eq!(scene.deliver(padded(1, limit)).await.counts(), [1, 0, 0, 0, 0]);
    for length in [limit + 1, 100 * limit] {
        let answer = scene.deliver(padded(2, length)).await;
        assert_eq!((answer.status, answer.body["status"].as_u64()), (413, Some(413)), "{length}: {answer:?}");
    }
    let secret = &scene.zendesk.options().webhook_secret;
    let head = format!(
        "POST /webhooks/sunshine HTTP/1.1\r\nHost: x\r\nX-API-Key: {secret}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let chunk = "x".repeat(0x2000);
    let status = raw(&scene, format!("{head}2000\r\n{chunk}\r\n0\r\n\r\n").as_bytes()).await;
    assert!(status.contains(" 413 "), "a body of unknown length: {status}");
    assert_eq!(scene.deliver(body(2)).await.counts(), [1, 0, 0, 0, 0], "nothing of it was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edges_of_http_are_answered_as_http_says() {
    let scene = Scene::with("").await;
    let key = format!("X-API-Key: {}\r\n", scene.zendesk.options().webhook_secret);
    let to = |query: &str, headers: &str| format!("POST /webhooks/sunshine{query} HTTP/1.1\r\nHost: x\r\n{headers}");
    let whole = |n: usize| {
        let body = body(n);
        format!("Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let chunk = body(3);
    let long = format!("X-Long: {}\r\n", "x".repeat(100_000));
    let cases = [
        ("HEAD", "HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 200),
        ("HTTP/1.0", "GET /livez HTTP/1.0\r\n\r\n".to_owned(), 200),
        ("no HTTP", "hello\r\n\r\n".to_owned(), 400),
        ("a head that is too long", format!("GET /livez HTTP/1.1\r\n{long}\r\n"), 431),
        ("no type of content", to("", &key) + &whole(1), 200),
        ("another type, and a query", to("?a=b", &key) + "Content-Type: text/plain\r\n" + &whole(2), 200),
        (
            "in chunks",
            to("", &key) + &format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{chunk}\r\n0\r\n\r\n", chunk.len()),
            200,
        ),
        ("the key twice", to("", &key) + &key + &whole(4), 401),
        ("a name in capitals", to("", &key.replace("X-API-Key", "x-api-KEY")) + &whole(4), 200),
        ("a body that is asked for first", to("", &key) + "Expect: 100-continue\r\nContent-Length: 9\r\n\r\n", 100),
        ("one that nobody wants", to("", "") + "Expect: 100-continue\r\nContent-Length: 9\r\n\r\n", 401),
        ("a length that is no number", to("", &key) + "Content-Length: many\r\n\r\n", 400),
        ("two lengths", to("", &key) + "Content-Length: 1\r\n" + &whole(5), 400),
    ];
    for (what, request, status) in cases {
        let answered = raw(&scene, request.as_bytes()).await;
        assert!(answered.starts_with("HTTP/1.") && answered.contains(&format!(" {status}")), "{what}: {answered}");
    }
    let accepted = scene.daemon.metric("tidegate_webhooks_total{outcome=\"accepted\"}").await;
    assert_eq!(accepted, 4.0, "those that were answered 200");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_given_up_and_delays_nobody() {
    let scene = Scene::with("[http]\nrequest_timeout = '4s'\n[broker.spool]\nconfirm_within = '2s'\n").await;
    let secret = &scene.zendesk.options().webhook_secret;
    let head =
        format!("POST /webhooks/sunshine HTTP/1.1\r\nHost: x\r\nX-API-Key: {secret}\r\nContent-Length: 100\r\n\r\n{{");
    let mut slow = pin!(raw(&scene, head.as_bytes()));
    tokio::select! {
        status = &mut slow => panic!("a neighbour waited for it: {status}"),
        neighbour = scene.deliver(body(1)) => assert_eq!(neighbour.status, 200),
    }
    let status = slow.await;
    assert!(status.contains(" 408 "), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_try_again_and_takes_again_once_it_has_drained() {
    let config = "[broker.embedded]\nmax_messages = 20\n[zendesk]\nsupport_webhook_secrets = ['s']\n";
    let options = zendesk::Options {
        webhook_retry_base: Duration::from_millis(50),
        webhook_attempts_max: 12,
        ..Default::default()
    };
    let scene = Scene::set(config, options).await;
    scene.ai.behave(ai::Behaviour { hang: true, ..ai::Behaviour::default() });
    for n in 0..20 {
        scene.say(&format!("c{n}"), "hello").await;
    }
    eventually("the queue is full", SOON, async || scene.zendesk.tally().accepted == 20).await;
    let refused = scene.deliver(body(1)).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.retry_after.is_some_and(|seconds| (1..60).contains(&seconds)), "{refused:?}");
    let (timestamp, signature) = crate::signatures::signed("s", b"{}");
    let headers = [
        ("x-zendesk-webhook-signature", signature.as_str()),
        ("x-zendesk-webhook-signature-timestamp", timestamp.as_str()),
    ];
    let refused = post(&scene.daemon, "/webhooks/zendesk", &headers, "{}").await;
    // Zendesk Support tries again only when it is told a time below 60 s.
    assert!(
        refused.status == 503 && refused.retry_after.is_some_and(|seconds| (1..60).contains(&seconds)),
        "{refused:?}"
    );
    let known = scene.daemon.admin("/readyz").await;
    assert_eq!(known["status"], "unready", "{known}");
    for n in 0..5 {
        scene.say(&format!("late{n}"), "me too").await;
    }
    eventually("the late ones are refused at first", SOON, async || scene.zendesk.stats().webhook_failed_attempts >= 5)
        .await;
    scene.ai.behave(ai::Behaviour::default());
    scene.settles().await;
    scene.assert_sound();
    assert_eq!(scene.zendesk.tally().answered, 25, "{:?}", scene.zendesk.stats());
    eventually("there is room again", SOON, async || scene.deliver(body(1)).await.status == 200).await;
    eventually("it says so", SOON, async || scene.daemon.admin("/readyz").await["status"] != "unready").await;
}

async fn readiness(url: &str) -> (u16, Value) {
    let answer = reqwest::get(url).await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_ready_and_stays_so_while_a_service_is_away() {
    let scene = Scene::with("").await;
    for url in [scene.daemon.url("/readyz"), scene.daemon.admin_url("/readyz")] {
        let (status, report) = readiness(&url).await;
        assert_eq!((status, report["status"].as_str()), (200, Some("ready")), "{report}");
        for dependency in ["broker", "state", "zendesk", "ai/primary"] {
            assert_eq!(report["dependencies"][dependency]["state"], "up", "{report}");
        }
        assert!(report["dependencies"]["broker"]["latency_ms"].is_number(), "{report}");
    }
    for url in [scene.daemon.url("/livez"), scene.daemon.admin_url("/livez")] {
        assert_eq!(reqwest::get(url).await.unwrap().status(), 200);
    }
    scene.zendesk.behave(zendesk::Behaviour { down: true, ..zendesk::Behaviour::default() });
    scene.say("c", "hello").await;
    let report = async || readiness(&scene.daemon.url("/readyz")).await;
    eventually("Zendesk's absence is noticed", SOON, async || report().await.1["status"] == "degraded").await;
    let (status, shown) = report().await;
    assert_eq!((status, shown["dependencies"]["zendesk"]["state"].as_str()), (200, Some("down")), "{shown}");
    scene.zendesk.behave(zendesk::Behaviour::default());
    scene.settles().await;
    eventually("its return too", SOON, async || report().await.1["status"] == "ready").await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_closes_the_door_finishes_what_is_in_hand_and_ends_with_0() {
    // Of the grace the last 5 s are for handing back.
    let mut scene = Scene::with("[node]\nshutdown_grace = '30s'\n").await;
    scene.ai.behave(ai::Behaviour { latency_ms: 2_000, ..ai::Behaviour::default() });
    scene.say("c", "a slow one").await;
    eventually("it is in the AI's hands", SOON, async || scene.ai.stats().in_flight == 1).await;
    // One who says nothing holds up nobody.
    let door = scene.daemon.url("").trim_start_matches("http://").trim_end_matches('/').to_owned();
    let _silent = TcpStream::connect(door).await.expect("it listens");
    let began = Instant::now();
    scene.daemon.terminate();
    let (status, report) = async {
        let url = scene.daemon.admin_url("/readyz");
        eventually("it says that it drains", SOON, async || readiness(&url).await.0 == 503).await;
        readiness(&url).await
    }
    .await;
    assert_eq!((status, report["reason"].as_str()), (503, Some("draining")), "{report}");
    let public = scene.daemon.url("/livez");
    eventually("nobody is let in any more", SOON, async || reqwest::get(&public).await.is_err()).await;
    eventually("it ends", SOON, async || scene.daemon.ended().is_some()).await;
    assert_eq!(scene.daemon.ended().and_then(|status| status.code()), Some(0), "{}", scene.daemon.log_tail());
    assert!(began.elapsed() < Duration::from_secs(20), "it waited for its whole grace");
    assert_eq!(scene.replies("c").len(), 1, "what was in hand was finished");
}
