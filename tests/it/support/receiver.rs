//! A stand-in for the daemon: takes webhooks, keeps them, and answers as the test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// One webhook as it came.
#[derive(Clone, Debug)]
pub struct Hook {
    pub key: String,
    pub body: Value,
    pub at: Instant,
}

impl Hook {
    pub fn text(&self, pointer: &str) -> String {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    pub fn kind(&self) -> String {
        self.text("/events/0/type")
    }

    pub fn event_id(&self) -> String {
        self.text("/events/0/id")
    }

    pub fn said(&self) -> String {
        self.text("/events/0/payload/message/content/text")
    }

    pub fn conversation(&self) -> String {
        self.text("/events/0/payload/conversation/id")
    }
}

type Handler = dyn Fn(Hook) -> BoxFuture<'static, u16> + Send + Sync;

#[derive(Clone)]
struct Shared {
    hooks: Arc<Mutex<Vec<Hook>>>,
    handler: Arc<Handler>,
}

/// Receives webhooks until it is dropped.
pub struct Receiver {
    shared: Shared,
    address: SocketAddr,
    _server: JoinSet<()>,
}

impl Receiver {
    /// Answers every webhook with the status that the function returns.
    pub async fn answering(status: impl Fn(&Hook) -> u16 + Send + Sync + 'static) -> Self {
        Self::handling(move |hook| {
            let status = status(&hook);
            Box::pin(async move { status })
        })
        .await
    }

    /// Answers when the future is ready.
    pub async fn handling(handler: impl Fn(Hook) -> BoxFuture<'static, u16> + Send + Sync + 'static) -> Self {
        let shared = Shared { hooks: Arc::default(), handler: Arc::new(handler) };
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let router = Router::new().fallback(take).with_state(shared.clone());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(tcp, router).await.unwrap() });
        Self { shared, address, _server: server }
    }

    pub fn url(&self) -> String {
        format!("http://{}/webhooks/sunshine", self.address)
    }

    pub fn hooks(&self) -> Vec<Hook> {
        self.shared.hooks.lock().clone()
    }

    /// The webhooks of one type.
    pub fn of(&self, kind: &str) -> Vec<Hook> {
        self.hooks().into_iter().filter(|hook| hook.kind() == kind).collect()
    }

    /// Waits until so many webhooks of a type have come.
    pub async fn wait_for(&self, kind: &str, count: usize) -> Vec<Hook> {
        eventually(&format!("{count} webhooks {kind}"), || self.of(kind).len() >= count).await;
        self.of(kind)
    }
}

async fn take(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let key = headers.get("x-api-key").and_then(|key| key.to_str().ok()).unwrap_or_default().to_owned();
    let hook = Hook { key, body: serde_json::from_slice(&body).unwrap(), at: Instant::now() };
    shared.hooks.lock().push(hook.clone());
    StatusCode::from_u16((shared.handler)(hook).await).unwrap()
}

/// Waits for a condition, at most ten seconds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// A client that does not follow the environment's proxy.
pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap()
}
