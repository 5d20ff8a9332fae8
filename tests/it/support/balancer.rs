//! Stands before a daemon as a balancer does, and notes how each webhook was answered.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinSet, time::Instant};

/// How a webhook was answered.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    /// When it was sent to the daemon.
    pub at: Instant,
    /// How long the daemon took.
    pub took: Duration,
    /// The status; `None`: the daemon was not there, or broke off.
    pub status: Option<u16>,
}

#[derive(Clone)]
struct Shared {
    client: reqwest::Client,
    target: String,
    answered: Arc<Mutex<Vec<Answered>>>,
}

/// The balancer; passes webhooks on until it is dropped.
pub struct Balancer {
    shared: Shared,
    address: SocketAddr,
    _server: JoinSet<()>,
}

impl Balancer {
    /// Before this address of a daemon.
    pub async fn before(target: String) -> Self {
        let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().expect("a client can be made");
        let shared = Shared { client, target, answered: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let router = Router::new().fallback(pass).with_state(shared.clone());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { shared, address, _server: server }
    }

    /// Where it takes webhooks.
    pub fn url(&self) -> String {
        format!("http://{}/webhooks/sunshine", self.address)
    }

    /// All webhooks that were sent between these two moments.
    pub fn between(&self, from: Instant, until: Instant) -> Vec<Answered> {
        let answered = self.shared.answered.lock();
        answered.iter().filter(|one| one.at >= from && one.at < until).copied().collect()
    }
}

async fn pass(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut request = shared.client.post(&shared.target).body(body);
    for name in ["x-api-key", "content-type"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let at = Instant::now();
    let answer = request.send().await;
    let (took, status) = (at.elapsed(), answer.ok().map(|answer| answer.status().as_u16()));
    shared.answered.lock().push(Answered { at, took, status });
    status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::BAD_GATEWAY)
}

/// The time within which 99 % were answered.
pub fn p99(all: &[Answered]) -> Duration {
    let mut took: Vec<Duration> = all.iter().map(|one| one.took).collect();
    took.sort_unstable();
    took.get(took.len() * 99 / 100).copied().unwrap_or_default()
}
