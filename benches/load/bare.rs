//! The same steps without us: the measure beside which ours is set.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

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

/// Parses, stores, asks, stores the intent, posts: the whole road with nothing around it. How many a second.
pub async fn road(folder: &Path, ai: SocketAddr, zendesk: SocketAddr, concurrency: usize, messages: u64) -> f64 {
    tidegate::cli::tls();
    let client = reqwest::Client::builder().pool_max_idle_per_host(concurrency).build().expect("a client can be made");
    let (store, slots) = (store(folder), Arc::new(Semaphore::new(concurrency)));
    let done = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..messages {
        let slot = slots.clone().acquire_owned().await.expect("it is open");
        let (client, store, done) = (client.clone(), store.clone(), done.clone());
        tasks.spawn(async move {
            let body = crate::client::webhook(n, 1_000);
            write(&store, body).await;
            let question = format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{n}\"}}]}}");
            let answer = client.post(format!("http://{ai}/v1/chat/completions")).body(question).send().await;
            let answer = answer.expect("it answers").bytes().await.expect("it answers");
            write(&store, answer.to_vec()).await;
            let post = client.post(format!("http://{zendesk}/v2/messages")).body(answer).send().await;
            post.expect("it answers").bytes().await.expect("it answers");
            let _ = store.send((Vec::new(), None)).await;
            done.fetch_add(1, Ordering::Relaxed);
            drop(slot);
        });
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
    done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
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
