//! The same steps without us: the measure beside which ours is set.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, routing::post};
use rusqlite::Connection;
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};

use crate::client::find;

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

/// One step that is written; those that somebody waits for are synced.
type Write = (Step, Option<oneshot::Sender<()>>);

/// What the road writes: the least a loop must keep to answer each message once, also after a crash.
enum Step {
    /// A message, under the two ids by which a second copy is known.
    Message { n: u64, body: Vec<u8> },
    /// What is to be posted.
    Intent { n: u64, text: Vec<u8> },
    /// It has been posted: the record, the words of the conversation, and the message goes.
    Outcome { n: u64, conversation: u64, words: Vec<u8> },
}

const TABLES: &str = "
    PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
    CREATE TABLE job (n INTEGER PRIMARY KEY, body BLOB);
    CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE record (id TEXT PRIMARY KEY, text BLOB, outcome TEXT) WITHOUT ROWID;
    CREATE TABLE conversation (id INTEGER PRIMARY KEY, words BLOB);";

impl Step {
    fn run(&self, connection: &Connection) -> rusqlite::Result<()> {
        let execute = |sql: &str, params: &[&dyn rusqlite::ToSql]| connection.prepare_cached(sql)?.execute(params);
        match self {
            Self::Message { n, body } => {
                for id in [format!("e:66f0a1b2c3d4e5{n:010x}"), format!("m:{MESSAGE}{n:010x}")] {
                    execute("INSERT OR IGNORE INTO seen VALUES (?1)", &[&id])?;
                }
                execute("INSERT OR IGNORE INTO job VALUES (?1, ?2)", &[&(*n as i64), body])?;
            }
            Self::Intent { n, text } => {
                execute("INSERT INTO record (id, text) VALUES (?1, ?2)", &[&format!("{MESSAGE}{n:010x}"), text])?;
            }
            Self::Outcome { n, conversation, words } => {
                let id = format!("{MESSAGE}{n:010x}");
                execute("UPDATE record SET outcome = 'replied' WHERE id = ?1", &[&id])?;
                execute("INSERT OR REPLACE INTO conversation VALUES (?1, ?2)", &[&(*conversation as i64), words])?;
                execute("DELETE FROM job WHERE n = ?1", &[&(*n as i64)])?;
            }
        }
        Ok(())
    }
}

/// A store with one writer and group commit, synced like ours.
fn store(folder: &Path) -> mpsc::Sender<Write> {
    let connection = Connection::open(folder.join("bare.db")).expect("a file can be made");
    connection.execute_batch(TABLES).expect("it is SQL");
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
            for (step, _) in &group {
                step.run(&connection).expect("there is room");
            }
            connection.execute_batch("COMMIT").expect("it is SQL");
            for done in group.into_iter().filter_map(|(_, done)| done) {
                let _ = done.send(());
            }
        }
    });
    sender
}

async fn write(store: &mpsc::Sender<Write>, step: Step) {
    let (done, written) = oneshot::channel();
    store.send((step, Some(done))).await.expect("the store runs");
    written.await.expect("the store runs");
}

/// How the ids of messages begin; their number follows in ten hexadecimal digits.
const MESSAGE: &str = "66f0a1b2c3d4e6";

/// The number of the message that a post answers, by the mark it carries.
pub fn number_in(post: &[u8]) -> Option<u64> {
    let at = find(post, b"tidegate_key")?;
    let id = at + find(&post[at..], MESSAGE.as_bytes())? + MESSAGE.len();
    u64::from_str_radix(std::str::from_utf8(post.get(id..id + 10)?).ok()?, 16).ok()
}

/// Numbers messages and conversations by what the load generator wrote into them.
fn numbers(event: &serde_json::Value) -> (u64, u64) {
    let number = |id: &serde_json::Value| u64::from_str_radix(&id.as_str().unwrap_or_default()[14..], 16).unwrap_or(0);
    let payload = &event["events"][0]["payload"];
    (number(&payload["message"]["id"]), number(&payload["conversation"]["id"]))
}

/// A handler that parses, stores durably and answers.
pub async fn storer(folder: &Path) -> SocketAddr {
    let handler = |State(store): State<mpsc::Sender<Write>>, body: Bytes| async move {
        let parsed = serde_json::from_slice::<serde_json::Value>(&body).expect("it is JSON");
        write(&store, Step::Message { n: numbers(&parsed).0, body: body.to_vec() }).await;
        "1"
    };
    serve(Router::new().route("/webhooks/sunshine", post(handler)).with_state(store(folder))).await
}

/// Takes webhooks, parses, stores, answers; asks, stores the intent, posts: the whole road with nothing around it.
pub async fn road(folder: &Path, ai: SocketAddr, zendesk: SocketAddr, concurrency: usize) -> SocketAddr {
    tidegate::cli::tls();
    let client = reqwest::Client::builder().pool_max_idle_per_host(concurrency).build().expect("a client can be made");
    let slots = Arc::new(Semaphore::new(concurrency));
    let road = Road { client, store: store(folder), slots, words: Arc::default(), ai, zendesk };
    let handler = |State(road): State<Road>, body: Bytes| async move {
        let parsed = serde_json::from_slice::<serde_json::Value>(&body).expect("it is JSON");
        let (n, conversation) = numbers(&parsed);
        write(&road.store, Step::Message { n, body: body.to_vec() }).await;
        let text = parsed["events"][0]["payload"]["message"]["content"]["text"].as_str().unwrap_or_default().to_owned();
        // Ends with the bench.
        tokio::spawn(road.answer(n, conversation, text));
        "1"
    };
    serve(Router::new().route("/webhooks/sunshine", post(handler)).with_state(road)).await
}

#[derive(Clone)]
struct Road {
    client: reqwest::Client,
    store: mpsc::Sender<Write>,
    slots: Arc<Semaphore>,
    /// The last words of each conversation, which go with every question.
    words: Arc<Mutex<HashMap<u64, VecDeque<String>>>>,
    ai: SocketAddr,
    zendesk: SocketAddr,
}

/// Words kept of a conversation.
const HISTORY: usize = 20;

impl Road {
    fn said(&self, conversation: u64, text: String) -> Vec<String> {
        let mut words = self.words.lock().expect("nobody panics with it");
        let words = words.entry(conversation).or_default();
        words.push_back(text);
        if words.len() > HISTORY {
            words.pop_front();
        }
        words.iter().cloned().collect()
    }

    async fn answer(self, n: u64, conversation: u64, text: String) {
        let _slot = self.slots.acquire().await.expect("it is open");
        let turns: Vec<_> =
            self.said(conversation, text).iter().map(|text| json!({"role": "user", "content": text})).collect();
        let question = json!({"model": "m", "messages": turns}).to_string();
        let asked = self.client.post(format!("http://{}/v1/chat/completions", self.ai)).body(question).send().await;
        let answer = asked.expect("it answers").bytes().await.expect("it answers");
        let answer: serde_json::Value = serde_json::from_slice(&answer).expect("it is JSON");
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
        write(&self.store, Step::Intent { n, text: text.clone().into_bytes() }).await;
        let reply = json!({"author": {"type": "business"}, "content": {"type": "text", "text": text}, "metadata": {"tidegate_key": format!("{MESSAGE}{n:010x}")}});
        let url = format!("http://{}/v2/conversations/{conversation}/messages", self.zendesk);
        let posted = self.client.post(url).body(reply.to_string()).send().await;
        posted.expect("it answers").bytes().await.expect("it answers");
        let words = serde_json::to_vec(&self.said(conversation, text)).expect("it is plain data");
        let _ = self.store.send((Step::Outcome { n, conversation, words }, None)).await;
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
