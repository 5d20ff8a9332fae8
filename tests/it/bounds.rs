//! What one node lets the outside have of it: time, connections, memory.

use std::time::Duration;

use rusqlite::Connection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::support::{
    SOON, Scene, eventually,
    webhooks::{Answer, delivery, message, post},
};

/// A node that gives requests a second.
const HURRIED: &str = "[http]\nrequest_timeout = '1s'\n[broker.spool]\nconfirm_within = '500ms'\n";

fn body(n: usize) -> String {
    delivery(&[message(&format!("e{n}"), &format!("m{n}"), &format!("c{n}"), "hello")])
}

/// Keeps the node from storing anything until it is dropped; after 5 s storing fails instead of waiting.
fn hold_the_store(scene: &Scene) -> Connection {
    let queue = Connection::open(scene.daemon.data().join("queue.db")).unwrap();
    queue.busy_timeout(Duration::from_secs(5)).unwrap();
    queue.execute_batch("BEGIN IMMEDIATE").unwrap();
    queue
}

async fn connect(scene: &Scene, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(scene.daemon.url("").trim_start_matches("http://")).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

/// A connection that has a place; whoever had it before may not be gone yet.
async fn let_in(scene: &Scene) -> TcpStream {
    let mut place = None;
    eventually("there is a place", SOON, async || {
        let mut stream = connect(scene, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut status = [0; "HTTP/1.1 200".len()];
        let answered = stream.read_exact(&mut status).await.is_ok() && status.ends_with(b" 200");
        place = answered.then_some(stream);
        answered
    })
    .await;
    place.unwrap()
}

/// All that comes until the other side closes.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    // A reset is an end as well.
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut said)).await.expect("the connection is closed");
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_not_stored_in_time_is_refused_and_known_when_it_comes_again() {
    let scene = Scene::with(HURRIED).await;
    let held = hold_the_store(&scene);
    let began = Instant::now();
    let refused = scene.deliver(body(1)).await;
    assert_eq!((refused.status, refused.retry_after), (503, Some(5)), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(4), "answered after {:?}", began.elapsed());
    assert_eq!(reqwest::get(scene.daemon.url("/readyz")).await.unwrap().status(), 503);
    drop(held);
    let mut again = Answer { status: 0, retry_after: None, body: serde_json::Value::Null };
    eventually("the store works again", SOON, async || {
        again = scene.deliver(body(1)).await;
        again.status == 200
    })
    .await;
    assert_eq!(again.counts(), [0, 1, 0, 0, 0], "it was stored late, and once");
    let ready = scene.daemon.url("/readyz");
    eventually("it is ready again", SOON, async || reqwest::get(&ready).await.unwrap().status() == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_asks_nothing_in_time_is_closed() {
    let scene = Scene::with(HURRIED).await;
    for (what, begun) in [("silent", ""), ("half a head", "GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ")] {
        let mut stream = connect(&scene, begun).await;
        assert_eq!(until_closed(&mut stream).await, "", "{what}");
    }
    // A letter now and then does not help.
    let mut dribbling = connect(&scene, "GET /livez HTTP/1.1\r\nX-Slow: ").await;
    let began = Instant::now();
    while dribbling.write_all(b"x").await.is_ok() {
        assert!(began.elapsed() < SOON, "it is never closed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // One that was answered and asks nothing more is closed too.
    let mut idle = connect(&scene, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(until_closed(&mut idle).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_beyond_the_connections_is_told_so_and_let_in_once_one_has_gone() {
    let scene = Scene::with("[http]\nconnections = 2\n").await;
    let first = let_in(&scene).await;
    let _second = let_in(&scene).await;
    let refused = reqwest::get(scene.daemon.url("/livez")).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "5");
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let problem: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(problem["type"], "urn:tidegate:problem:too-many-connections");
    // With a body too, which nobody reads.
    let delivery = scene.deliver(body(1)).await;
    assert_eq!((delivery.status, delivery.retry_after), (503, Some(5)), "{delivery:?}");
    drop(first);
    let_in(&scene).await;
}

/// 32 MiB of webhooks may wait (`WEBHOOK_BYTES_MAX`); of forty that are a megabyte long, 33 fit.
#[tokio::test(flavor = "multi_thread")]
async fn webhooks_that_wait_are_bounded_by_their_bytes() {
    let scene = Scene::with("").await;
    let held = hold_the_store(&scene);
    let long = |n: usize| body(n) + &" ".repeat(1_000_000);
    let secret = scene.zendesk.options().webhook_secret.clone();
    let waiting = metric_of_refused(&scene, 7);
    let deliveries = futures_util::future::join_all((0..40).map(|n| {
        let headers = [("x-api-key", secret.clone())];
        let daemon = &scene.daemon;
        async move {
            let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
            post(daemon, "/webhooks/sunshine", &headers, long(n)).await
        }
    }));
    let release = async {
        waiting.await;
        drop(held);
    };
    let (answers, ()) = tokio::join!(deliveries, release);
    let refused: Vec<usize> = (0..40).filter(|n| answers[*n].status == 503).collect();
    assert!((7..20).contains(&refused.len()), "{} were refused", refused.len());
    for n in &refused {
        assert_eq!(answers[*n].retry_after, Some(5), "{:?}", answers[*n]);
        assert_eq!(answers[*n].body["type"], "urn:tidegate:problem:too-much-waits");
    }
    for n in refused {
        assert_eq!(scene.deliver(long(n)).await.counts(), [1, 0, 0, 0, 0], "there is room again");
    }
    assert_eq!(scene.daemon.metric("tidegate_webhooks_total{outcome=\"accepted\"}").await, 40.0);
}

async fn metric_of_refused(scene: &Scene, count: u32) {
    let refused = async || scene.daemon.metric("tidegate_webhooks_total{outcome=\"unavailable\"}").await;
    eventually("some are refused", SOON, async || refused().await >= f64::from(count)).await;
}
