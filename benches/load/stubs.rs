//! The services outside, as small as they can be: they answer at once and count.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use crate::{bare, client::find};

const AI_ANSWER: &str = r#"{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"It arrives tomorrow."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":5}}"#;
const POSTED: &str = r#"{"messages":[{"id":"66f0a1b2c3d4e5f60000aaaa"}]}"#;
const NO_MESSAGES: &str = r#"{"messages":[],"meta":{"hasMore":false}}"#;

/// A running stub.
pub struct Stub {
    pub address: SocketAddr,
    /// Calls of `POST`.
    pub posts: Arc<AtomicU64>,
    /// When the answer to each message came, by the message's number.
    pub answers: Answers,
    _serving: tokio::task::JoinSet<()>,
}

/// When answers came.
pub type Answers = Arc<Mutex<Vec<(u64, Instant)>>>;

/// The AI service.
pub async fn ai(latency: Duration) -> Stub {
    serve(latency, |_| AI_ANSWER).await
}

/// Zendesk: no history, every post is taken.
pub async fn zendesk() -> Stub {
    serve(Duration::ZERO, |is_post| if is_post { POSTED } else { NO_MESSAGES }).await
}

async fn serve(latency: Duration, body: fn(bool) -> &'static str) -> Stub {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it listens");
    let (posts, answers) = (Arc::new(AtomicU64::new(0)), Answers::default());
    let counted = Counted { posts: posts.clone(), answers: answers.clone() };
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((connection, _)) = listener.accept().await {
            connections.spawn(converse(connection, latency, body, counted.clone()));
        }
    });
    Stub { address, posts, answers, _serving: serving }
}

#[derive(Clone)]
struct Counted {
    posts: Arc<AtomicU64>,
    answers: Answers,
}

impl Counted {
    fn count(&self, body: &[u8]) {
        self.posts.fetch_add(1, Ordering::Relaxed);
        if let Some(n) = bare::number_in(body) {
            self.answers.lock().expect("nobody panics with it").push((n, Instant::now()));
        }
    }
}

async fn converse(mut connection: TcpStream, latency: Duration, body: fn(bool) -> &'static str, counted: Counted) {
    // A connection that breaks is its client's business.
    let _ = connection.set_nodelay(true);
    let (mut buffer, mut filled) = (vec![0; 256 * 1024], 0);
    loop {
        let Ok(read) = connection.read(&mut buffer[filled..]).await else { return };
        if read == 0 {
            return;
        }
        filled += read;
        let Some(end) = find(&buffer[..filled], b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok())
            .unwrap_or(0);
        if filled < end + 4 + length {
            continue;
        }
        let is_post = head.starts_with("post");
        if is_post && !head.contains("/activity") {
            counted.count(&buffer[end + 4..filled]);
        }
        filled = 0;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let body = body(is_post);
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        if connection.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
