//! An answer in parts (WHATWG HTML, "Server-sent events"), each passed on as it comes.
//!
//! The call lives in a task of its own, which holds its slot and permit to the end and is the only one who knows how it
//! ended. It ends when the client goes: nobody reads what it sends. Until the first part nothing has reached the
//! client, and the answer may still be an error or another service's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::{Stream, stream};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout},
};

use super::{asking::Asking, refusal::Refusal};
use crate::{
    domain::{answer::Tokens, verdict::Failure},
    guard::{Brought, Source},
    telemetry::span,
};

/// Parts and bytes that a client may be behind; then the service waits for it. One part always fits.
const PARTS_AHEAD: usize = 16;
const BYTES_AHEAD: usize = 256 << 10;

/// The last event of every stream.
const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// What is passed on at once.
struct Part {
    bytes: Bytes,
    /// Whether the answer ends with it.
    is_last: bool,
}

/// A part on its way, with the room that it takes until it is passed on.
type Sent = (Part, OwnedSemaphorePermit);

/// The answer has no end: its client did not read for too long. It must not look whole.
#[derive(Debug, thiserror::Error)]
#[error("the stream was given up")]
struct GivenUp;

/// An answer in parts that has come to an end.
struct Streamed {
    tokens: Tokens,
    limit_requests: Option<u64>,
    began_after: Duration,
    broke_off: Option<Failure>,
}

/// Where the parts go.
struct Sink {
    parts: mpsc::Sender<Sent>,
    room: Arc<Semaphore>,
    /// Told the headers with the first part.
    begun: Mutex<Option<oneshot::Sender<HeaderMap>>>,
    /// Nobody reads any more.
    is_gone: AtomicBool,
    /// A client that was waited for so long in all is given up.
    patience: Mutex<Duration>,
}

/// Why nothing more can be sent.
struct Gone;

/// Answers a request in parts.
pub(super) async fn answer(asking: Arc<Asking>) -> Result<Response, Refusal> {
    let (parts, received) = mpsc::channel(PARTS_AHEAD);
    let (begun, beginning) = oneshot::channel();
    let (room, patience) = (Arc::new(Semaphore::new(BYTES_AHEAD)), Mutex::new(asking.visit.gateway.request_timeout));
    let sink = Sink { parts, room, begun: Mutex::new(Some(begun)), is_gone: AtomicBool::new(false), patience };
    let task = tokio::spawn(span::here().over(run(asking.clone(), sink)));
    let Ok(mut headers) = beginning.await else {
        return Err(task.await.ok().flatten().unwrap_or_else(Refusal::lost));
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // NGINX would collect parts otherwise (ngx_http_proxy_module, proxy_buffering).
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok((headers, Body::from_stream(up_to_the_last(received))).into_response())
}

/// The parts up to the last one; without that they end with an error, by which the connection is cut.
fn up_to_the_last(mut received: mpsc::Receiver<Sent>) -> impl Stream<Item = Result<Bytes, GivenUp>> {
    let mut is_over = false;
    stream::poll_fn(move |context| {
        received.poll_recv(context).map(|part| match part {
            Some((Part { bytes, is_last }, _)) => {
                is_over = is_last;
                Some(Ok(bytes))
            }
            None if is_over => None,
            None => {
                is_over = true;
                Some(Err(GivenUp))
            }
        })
    })
}

/// The whole life of a call; the refusal, if nothing was sent.
async fn run(asking: Arc<Asking>, sink: Sink) -> Option<Refusal> {
    let parts = &asking.visit.gateway.parts;
    let ended = tokio::select! {
        ended = pass_on(&asking, &sink) => ended,
        // The client is gone; with the call go its slot, its permit and the connection to the service.
        () = sink.parts.closed() => return None,
        () = parts.giving_up.cancelled() => Err(Refusal::stopping()),
    };
    if let Err(refusal) = &ended
        && sink.begun.lock().is_some()
    {
        return Some(refusal.clone());
    }
    if !sink.is_gone.load(Ordering::Relaxed) {
        asking.visit.ended(ended.as_ref().err());
    }
    let refusal = ended.err()?;
    let _ = sink.send(Part { bytes: refusal.event(), is_last: true }).await;
    None
}

async fn pass_on(asking: &Asking, sink: &Sink) -> Result<(), Refusal> {
    let stack = &asking.visit.gateway.parts.stack;
    let call = |service| call(asking, sink, service);
    let asked = asking.persist(|| stack.ask_anew(asking.question(), &asking.watch, call));
    let streamed = until_begun(asking, sink, asked).await?;
    asking.used(streamed.tokens);
    let broken = |failure| Refusal::of(&failure).by(asking.watch.service());
    streamed.broke_off.map_or(Ok(()), |failure| Err(broken(failure)))
}

/// The request's time is that until the first part.
async fn until_begun(
    asking: &Asking,
    sink: &Sink,
    asked: impl Future<Output = Result<Streamed, Refusal>>,
) -> Result<Streamed, Refusal> {
    tokio::pin!(asked);
    let late = asking.in_time(std::future::pending::<Result<(), Refusal>>());
    tokio::select! {
        streamed = &mut asked => return streamed,
        late = late => match late {
            Err(refusal) if sink.begun.lock().is_some() => return Err(refusal),
            _ => {}
        },
    }
    asked.await
}

/// One call, to its end. From the first part on it does not fail: an answer that breaks off is one.
async fn call(asking: &Asking, sink: &Sink, service: usize) -> Result<Streamed, Failure> {
    let clock = &asking.visit.gateway.parts.clock;
    let began = clock.monotonic();
    let mut stream = asking.stream(service).await?;
    let began_after = clock.monotonic().saturating_sub(began);
    let limit_requests = stream.limit_requests;
    let ended = |tokens, broke_off| Ok(Streamed { tokens, limit_requests, began_after, broke_off });
    sink.begin(asking.watch.headers(Source::Asked));
    asking.begins();
    let mut tokens = Tokens::default();
    loop {
        match stream.next().await {
            Ok(Some(chunk)) => {
                tokens = chunk.tokens.unwrap_or(tokens);
                asking.came(chunk.bytes.len());
                let is_for_us = chunk.usage_only && !asking.request.wants_usage;
                let part = Part { bytes: chunk.bytes, is_last: false };
                if !is_for_us && sink.send(part).await.is_err() {
                    return ended(tokens, None);
                }
            }
            Ok(None) => {
                let _ = sink.send(Part { bytes: DONE, is_last: true }).await;
                return ended(tokens, None);
            }
            Err(failure) => return ended(tokens, Some(failure)),
        }
    }
}

impl Sink {
    fn begin(&self, headers: HeaderMap) {
        if let Some(begun) = self.begun.lock().take() {
            // Nobody waits for it: the client is gone, which the parts will tell.
            let _ = begun.send(headers);
        }
    }

    async fn send(&self, part: Part) -> Result<(), Gone> {
        let patience = *self.patience.lock();
        let began = Instant::now();
        let sent = timeout(patience, self.pass(part)).await;
        *self.patience.lock() = patience.saturating_sub(began.elapsed());
        let sent = sent.unwrap_or(Err(Gone));
        self.is_gone.fetch_or(sent.is_err(), Ordering::Relaxed);
        sent
    }

    async fn pass(&self, part: Part) -> Result<(), Gone> {
        let bytes = part.bytes.len().min(BYTES_AHEAD) as u32;
        let room = self.room.clone().acquire_many_owned(bytes).await.map_err(|_| Gone)?;
        self.parts.send((part, room)).await.map_err(|_| Gone)
    }
}

impl Brought for Streamed {
    fn tokens(&self) -> Tokens {
        self.tokens
    }

    fn limit_requests(&self) -> Option<u64> {
        self.limit_requests
    }

    fn broke_off(&self) -> Option<&Failure> {
        self.broke_off.as_ref()
    }

    fn began_after(&self) -> Option<Duration> {
        Some(self.began_after)
    }
}
