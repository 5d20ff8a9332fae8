//! The same steps without us: the measure beside which ours is set.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::{Router, body::Bytes, extract::State, routing::post};
use rusqlite::Connection;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};

/// A handler that parses and answers.
pub async fn parser() -> SocketAddr {
    let parse = |body: Bytes| async move {
        let events = serde_json::from_slice::<serde_json::Value>(&body).ok();
        format!("{}", events.and_then(|value| value["events"].as_array().map(Vec::len)).unwrap_or(0))
    };
    serve(Router::new().route("/webhooks/sunshine", post(parse))).await
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it listens");
    // Ends with the bench.
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

type Write = (Vec<u8>, Option<oneshot::Sender<()>>);

/// A store with one writer and group commit, synced like ours.
fn store(folder: &Path) -> mpsc::Sender<Write> {
    let connection = Connection::open(folder.join("bare.db")).expect("a file can be made");
    let set_up =
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t (n INTEGER PRIMARY KEY, body BLOB);";
    connection.execute_batch(set_up).expect("it is SQL");
    let (sender, mut waiting) = mpsc::channel::<Write>(8_192);
    std::thread::spawn(move || {
        while let Some(first) = waiting.blocking_recv() {
            let mut group = vec![first];
            while group.len() < 1_024 {
                match waiting.try_recv() {
                    Ok(next) => group.push(next),
                    Err(_) => break,
                }
            }
            connection.execute_batch("BEGIN").expect("it is SQL");
            for (body, _) in &group {
                let mut insert = connection.prepare_cached("INSERT INTO t (body) VALUES (?1)").expect("it is SQL");
                insert.execute([body]).expect("there is room");
            }
            connection.execute_batch("COMMIT").expect("it is SQL");
            for done in group.into_iter().filter_map(|(_, done)| done) {
                let _ = done.send(());
            }
        }
    });
    sender
}

async fn write(store: &mpsc::Sender<Write>, body: Vec<u8>) {
    let (done, written) = oneshot::channel();
    store.send((body, Some(done))).await.expect("the store runs");
    written.await.expect("the store runs");
}

/// A handler that parses, stores durably and answers.
pub async fn storer(folder: &Path) -> SocketAddr {
    let handler = |State(store): State<mpsc::Sender<Write>>, body: Bytes| async move {
        let parsed = serde_json::from_slice::<serde_json::Value>(&body).is_ok();
        write(&store, body.to_vec()).await;
        if parsed { "1" } else { "0" }
    };
    serve(Router::new().route("/webhooks/sunshine", post(handler)).with_state(store(folder))).await
}

/// Takes webhooks, parses, stores, answers; asks, stores the intent, posts: the whole road with nothing around it.
pub async fn road(folder: &Path, ai: SocketAddr, zendesk: SocketAddr, concurrency: usize) -> SocketAddr {
    tidegate::cli::tls();
    let client = reqwest::Client::builder().pool_max_idle_per_host(concurrency).build().expect("a client can be made");
    let road = Road { client, store: store(folder), slots: Arc::new(Semaphore::new(concurrency)), ai, zendesk };
    let handler = |State(road): State<Road>, body: Bytes| async move {
        let parsed = serde_json::from_slice::<serde_json::Value>(&body).is_ok();
        write(&road.store, body.to_vec()).await;
        // Ends with the bench.
        tokio::spawn(road.answer(body));
        if parsed { "1" } else { "0" }
    };
    serve(Router::new().route("/webhooks/sunshine", post(handler)).with_state(road)).await
}

#[derive(Clone)]
struct Road {
    client: reqwest::Client,
    store: mpsc::Sender<Write>,
    slots: Arc<Semaphore>,
    ai: SocketAddr,
    zendesk: SocketAddr,
}

impl Road {
    async fn answer(self, body: Bytes) {
        let _slot = self.slots.acquire().await.expect("it is open");
        let question =
            format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{}\"}}]}}", body.len());
        let asked = self.client.post(format!("http://{}/v1/chat/completions", self.ai)).body(question).send().await;
        let answer = asked.expect("it answers").bytes().await.expect("it answers");
        write(&self.store, answer.to_vec()).await;
        let posted = self.client.post(format!("http://{}/v2/messages", self.zendesk)).body(answer).send().await;
        posted.expect("it answers").bytes().await.expect("it answers");
        // The outcome, and the row that goes.
        for _ in 0..2 {
            let _ = self.store.send((Vec::new(), None)).await;
        }
    }
}

/// How long the disk takes to sync 4 KiB appended: p50 and p99 in milliseconds.
pub fn sync_times(folder: &Path, count: usize) -> (f64, f64) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(folder.join("sync")).expect("a file can be made");
    let mut times: Vec<u32> = (0..count)
        .map(|_| {
            let began = Instant::now();
            file.write_all(&[7; 4_096]).expect("there is room");
            file.sync_data().expect("it can be synced");
            u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX)
        })
        .collect();
    times.sort_unstable();
    (crate::percentile(&times, 0.5), crate::percentile(&times, 0.99))
}

/// Long enough for anything here.
pub const LONG: Duration = Duration::from_secs(600);
