//! What both clients need: a TLS set-up, and bodies read within bounds.

use std::{
    env,
    sync::{Arc, Once},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::runtime::{Handle, Id};

/// The longest body read from a service, unless its reader says otherwise.
pub(super) const BODY_BYTES_MAX: usize = 8 << 20;

/// Idle connections kept to each host. A pool smaller than the calls at once opens a new connection for the surplus
/// of every call.
const IDLE_MAX: usize = 256;

/// What every call says of itself.
pub(super) const USER_AGENT: &str = concat!("tidegate/", env!("CARGO_PKG_VERSION"));

/// The variables that name a proxy, as `reqwest` reads them; in lower case, too.
const PROXIES: [&str; 3] = ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"];

/// Chooses `ring` for TLS; does nothing the second time. Called before the first client is made.
pub fn tls() {
    static ONCE: Once = Once::new();
    // An error means that somebody has chosen already, which is as good.
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// Makes a client whose calls end within `timeout`.
pub(super) fn client(timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    builder(timeout).timeout(timeout).build()
}

/// A client in each runtime that makes calls, so that a call's connection lives where its caller does: through another
/// runtime every part of it would be handed from thread to thread, and wait for that one.
pub(super) struct PerRuntime {
    connect_within: Duration,
    /// Made already, for whoever comes first.
    spare: Mutex<Option<reqwest::Client>>,
    known: ArcSwap<Vec<(Id, reqwest::Client)>>,
}

impl PerRuntime {
    /// Clients whose calls end when their caller says so; a connection is made within the time.
    pub fn new(connect_within: Duration) -> Result<Self, reqwest::Error> {
        let spare = Mutex::new(Some(builder(connect_within).build()?));
        Ok(Self { connect_within, spare, known: ArcSwap::default() })
    }

    /// The client of the runtime that this is called in.
    ///
    /// # Errors
    /// It is called there for the first time, and a client cannot be made.
    pub fn here(&self) -> Result<reqwest::Client, reqwest::Error> {
        let here = Handle::current().id();
        let find = || {
            let known = self.known.load();
            known.iter().find(|(runtime, _)| *runtime == here).map(|(_, client)| client.clone())
        };
        if let Some(client) = find() {
            return Ok(client);
        }
        // One at a time: a neighbour on another thread of the runtime may be making it.
        let mut spare = self.spare.lock();
        if let Some(client) = find() {
            return Ok(client);
        }
        let client = spare.take().map_or_else(|| builder(self.connect_within).build(), Ok)?;
        let known = self.known.load().iter().cloned().chain([(here, client.clone())]).collect();
        self.known.store(Arc::new(known));
        Ok(client)
    }
}

fn builder(timeout: Duration) -> reqwest::ClientBuilder {
    tls();
    let builder = reqwest::Client::builder()
        .connect_timeout(timeout.min(Duration::from_secs(5)))
        .pool_max_idle_per_host(IDLE_MAX)
        .tcp_nodelay(true)
        // A redirect would repeat a post elsewhere.
        .redirect(reqwest::redirect::Policy::none())
        // What is tried again, and when, is ours to say. Told `never` alone it still copies each request for a second try.
        .retry(reqwest::retry::never().max_retries_per_request(0))
        .user_agent(USER_AGENT);
    // Where there is none, it need not be looked for at each call.
    if has_proxy(|name| env::var_os(name).is_some()) { builder } else { builder.no_proxy() }
}

fn has_proxy(is_set: impl Fn(&str) -> bool) -> bool {
    PROXIES.iter().any(|name| is_set(name) || is_set(&name.to_ascii_lowercase()))
}

/// Why a body could not be read.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection broke or ran out of time.
    Network(reqwest::Error),
    /// It is longer than anything we ask for.
    TooLong,
}

/// Reads a body to its end.
pub(super) async fn body(response: reqwest::Response) -> Result<Bytes, Broken> {
    body_up_to(response, BODY_BYTES_MAX).await
}

/// Reads a body of at most so many bytes to its end.
pub(super) async fn body_up_to(mut response: reqwest::Response, bytes_max: usize) -> Result<Bytes, Broken> {
    let told = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let mut whole = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(Broken::Network)? {
        // Most come in one piece.
        if whole.is_empty() && told > 0 && chunk.len() == told && told <= bytes_max {
            return Ok(chunk);
        }
        if whole.len() + chunk.len() > bytes_max {
            return Err(Broken::TooLong);
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::{Router, routing::get, serve::ListenerExt};
    use tokio::{
        net::TcpListener,
        runtime::{Builder, Runtime},
    };

    use super::*;

    /// Calls twice from within a runtime; how many connections were made for it.
    fn connections_of(runtime: &Runtime, clients: &PerRuntime, (url, made): &(String, Arc<AtomicUsize>)) -> usize {
        let before = made.load(Ordering::SeqCst);
        runtime.block_on(async {
            for _ in 0..2 {
                let answer = clients.here().unwrap().get(url).send().await.unwrap();
                assert_eq!(answer.text().await.unwrap(), "well");
            }
        });
        made.load(Ordering::SeqCst) - before
    }

    #[test]
    fn a_connection_lives_in_the_runtime_that_calls() {
        let start = || Builder::new_current_thread().enable_all().build().unwrap();
        let serving = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let made = Arc::new(AtomicUsize::new(0));
        let listener = serving.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let service = (format!("http://{}", listener.local_addr().unwrap()), made.clone());
        let listener = listener.tap_io(move |_| {
            made.fetch_add(1, Ordering::SeqCst);
        });
        let router = Router::new().route("/", get(async || "well"));
        serving.spawn(async move { axum::serve(listener, router).await });
        let clients = PerRuntime::new(Duration::from_secs(5)).unwrap();
        let (one, other) = (start(), start());
        assert_eq!(connections_of(&one, &clients, &service), 1);
        assert_eq!(connections_of(&other, &clients, &service), 1, "its own, and kept");
        drop(one);
        assert_eq!(connections_of(&other, &clients, &service), 0, "still there");
        assert_eq!(connections_of(&start(), &clients, &service), 1);
        assert_eq!(clients.known.load().len(), 3);
    }

    #[test]
    fn a_proxy_is_named_by_any_of_the_usual_variables() {
        for name in ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
            assert!(has_proxy(|set| set == name), "{name}");
        }
        assert!(!has_proxy(|set| set == "NO_PROXY" || set == "PATH"));
    }
}
