//! Serves a listener: so many connections at once, each with a time in which a request's head must have come.
//!
//! ```text
//! accept --> slot free? --> hyper, HTTP/1 --> the routes
//!              no --> 503 + Retry-After, then closed
//! ```
//! `axum::serve` has neither limit. Who holds his connection without asking anything keeps its slot only for
//! `head_within`, which also ends a connection that is kept alive and not used.

use std::{
    convert::Infallible,
    future::Future,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::{event_loops::Spread, linger::Lingering, problem::Problem};

/// The largest head of a request; beyond it 431.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// What is read ahead of a connection's requests; times the connections, it bounds their buffers.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Connections beyond the limit that are told so at the same time; further ones wait to be accepted.
const TURNED_AWAY_AT_ONCE: usize = 64;

/// How long somebody who is turned away may take to ask and to hear it.
const TURN_AWAY_WITHIN: Duration = Duration::from_secs(1);

/// When those who are turned away may try again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A connection on which nothing has been asked yet is closed so long after all ends.
const SILENT_MAX: Duration = Duration::from_secs(1);

/// When all ends, one who has connected already is there within.
const LAST_WITHIN: Duration = Duration::from_millis(5);

/// The pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// What a listener bears.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections open at once.
    pub connections: usize,
    /// Time in which the head of a request must have come; of a connection's first, its first byte, and then the rest.
    pub head_within: Duration,
    /// Whether requests are told where they come from ([`Peer`]).
    pub tells_peer: bool,
}

/// Answers the requests of a listener; clones share what they work with.
pub trait Answers: Clone + Send + 'static {
    /// Answers one.
    fn answer(self, request: Request<Incoming>) -> impl Future<Output = Result<Response, Infallible>> + Send;
}

impl Answers for Router {
    fn answer(mut self, request: Request<Incoming>) -> impl Future<Output = Result<Response, Infallible>> + Send {
        self.call(request)
    }
}

/// Serves until told to stop; then nothing new is accepted and what has been asked is answered. Dropping the future
/// cuts all connections.
pub(super) async fn serve(
    listener: TcpListener,
    answers: impl Answers,
    limits: Limits,
    loops: Arc<Spread>,
    until: CancellationToken,
) {
    let ending = until.clone();
    let attend = move |connections: &mut JoinSet<()>, stream, slot| {
        let (answers, until) = (answers.clone(), ending.clone());
        let attend = move |stream| attend(stream, answers, limits, until, slot);
        connections.spawn(loops.clone().attend(stream, limits.head_within, ending.clone(), attend));
    };
    let slots = Arc::new(Semaphore::new(limits.connections));
    let doors = Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE));
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = until.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        match slots.clone().try_acquire_owned() {
            Ok(slot) => attend(&mut connections, stream, slot),
            Err(_) => {
                let Ok(door) = doors.clone().acquire_owned().await else { break };
                connections.spawn(turn_away(stream, door));
            }
        }
    }
    // Who has connected already believes that he is heard; closed now, the listener would cut him off.
    for _ in 0..limits.connections {
        match timeout(LAST_WITHIN, listener.accept()).await {
            Ok(Ok((stream, _))) => match (slots.clone().try_acquire_owned(), doors.clone().try_acquire_owned()) {
                (Ok(slot), _) => attend(&mut connections, stream, slot),
                (_, Ok(door)) => drop(connections.spawn(turn_away(stream, door))),
                _ => {}
            },
            // He went away again; others may be behind him.
            Ok(Err(_)) => {}
            Err(_) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn attend(
    stream: TcpStream,
    answers: impl Answers,
    limits: Limits,
    until: CancellationToken,
    _slot: OwnedSemaphorePermit,
) {
    // Answers are small; waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let asked = Arc::new(AtomicBool::new(false));
    let is_asked = asked.clone();
    let peer = stream.peer_addr().ok().filter(|_| limits.tells_peer);
    let peer = peer.map(|address| Peer(address.ip().to_canonical()));
    let answer = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        is_asked.store(true, Ordering::Relaxed);
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        answers.clone().answer(request)
    });
    let mut connection =
        std::pin::pin!(http(limits.head_within).serve_connection(TokioIo::new(Lingering::new(stream)), answer));
    let outcome = tokio::select! {
        // In this order at each poll: to draw one by lot takes longer.
        biased;
        outcome = connection.as_mut() => outcome,
        () = until.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // hyper goes on waiting for the first request of a connection.
            let silent = async {
                tokio::time::sleep(SILENT_MAX).await;
                if asked.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                outcome = connection => outcome,
                () = silent => Ok(()),
            }
        }
    };
    if let Err(error) = outcome {
        // The other side went away, was too slow, or speaks no HTTP.
        tracing::debug!(%error, "a connection broke off");
    }
}

/// Answers the first request of a connection that has no slot, and closes it.
async fn turn_away(stream: TcpStream, _door: OwnedSemaphorePermit) {
    let mut http = http(TURN_AWAY_WITHIN);
    let answer = hyper::service::service_fn(|_: Request<Incoming>| busy());
    let connection = http.keep_alive(false).serve_connection(TokioIo::new(Lingering::new(stream)), answer);
    // Who is too slow even for that finds the connection closed.
    let _ = tokio::time::timeout(TURN_AWAY_WITHIN, connection).await;
}

fn busy() -> impl Future<Output = Result<Response, Infallible>> {
    let detail = "too many connections are open; try again";
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-connections", detail);
    std::future::ready(Ok(problem.retry_after(RETRY_AFTER).into_response()))
}

fn http(head_within: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head_within);
    builder.max_header_size(HEAD_BYTES_MAX).max_buf_size(BUFFER_BYTES_MAX);
    builder
}
