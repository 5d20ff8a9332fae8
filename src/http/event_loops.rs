//! Threads that serve connections, each connection from its first byte to its last by the same one.
//!
//! ```text
//! accept, first bytes --> /v1: the loop with the fewest connections --> hyper, the routes, the call to an AI service
//!   (the first loop)  '-> else: at home, among the actors that store what comes
//! ```
//! Where threads take work from each other, a request's tasks and memory go from core to core, and for most of its steps
//! somebody who sleeps is woken: together a seventh of all that a request on `/v1` takes. A webhook is stored by an actor,
//! and would be handed from thread to thread only because of the loops. And while an actor blocks its thread, calls that
//! need no actor, as long as permits are there at once, go on.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use super::listener::{self, Answers, Limits};

/// Of a connection's first bytes so many are looked at: a method, a space, and how the path begins.
const LOOKED_AT: usize = 16;

/// The threads; end with what runs on them when dropped.
pub struct EventLoops {
    runtimes: Vec<Runtime>,
    spread: Spread,
}

/// Says where a connection is served.
#[derive(Clone)]
pub(super) struct Spread {
    loops: Vec<(Handle, TaskTracker)>,
    home: Option<Handle>,
}

impl EventLoops {
    /// Starts so many, at least one. `home`: the runtime of the actors, if there are connections that belong there.
    ///
    /// # Errors
    /// No file descriptor is left for it.
    pub fn start(count: usize, name: &str, home: Option<Handle>) -> io::Result<Self> {
        let mut started = Self { runtimes: Vec::new(), spread: Spread { loops: Vec::new(), home } };
        for _ in 0..count.max(1) {
            let runtime = Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build()?;
            started.spread.loops.push((runtime.handle().clone(), TaskTracker::new()));
            started.runtimes.push(runtime);
        }
        Ok(started)
    }

    /// The first of them.
    pub fn handle(&self) -> &Handle {
        self.runtimes[0].handle()
    }

    /// Serves a listener that was bound elsewhere until told to stop; then what has been asked is still answered.
    ///
    /// # Errors
    /// The listener cannot be moved here.
    pub fn serve(
        &self,
        listener: TcpListener,
        answers: impl Answers,
        limits: Limits,
        until: CancellationToken,
    ) -> io::Result<(SocketAddr, JoinHandle<()>)> {
        let address = listener.local_addr()?;
        let listener = listener.into_std()?;
        let listener = {
            let _here = self.handle().enter();
            TcpListener::from_std(listener)?
        };
        let serving = listener::serve(listener, answers, limits, Arc::new(self.spread.clone()), until);
        Ok((address, self.handle().spawn(serving)))
    }
}

impl Drop for EventLoops {
    fn drop(&mut self) {
        // Dropped from within another runtime, where nobody may block.
        self.runtimes.drain(..).for_each(Runtime::shutdown_background);
    }
}

impl Spread {
    /// Has a connection attended to where its first request belongs, for which it has so much time unless all ends. The
    /// others that come over the same connection are served there, too; any place can serve them all.
    pub async fn attend<F: Future<Output = ()> + Send + 'static>(
        self: Arc<Self>,
        stream: TcpStream,
        first_within: Duration,
        until: CancellationToken,
        attend: impl FnOnce(TcpStream) -> F,
    ) {
        let mut head = [0; LOOKED_AT];
        let seen = match &self.home {
            // All belong to the loops.
            None => 0,
            Some(_) => tokio::select! {
                seen = timeout(first_within, stream.peek(&mut head)) => match seen {
                    Ok(Ok(seen)) if seen > 0 => seen,
                    // It has ended, or says nothing for so long that it is not waited for.
                    _ => return,
                },
                () = until.cancelled() => 0,
            },
        };
        let (place, _counted) = self.place(&head[..seen]);
        if place.id() == Handle::current().id() {
            return attend(stream).await;
        }
        let Ok(stream) = stream.into_std() else { return };
        let moved = {
            let _there = place.enter();
            TcpStream::from_std(stream)
        };
        if let Ok(stream) = moved {
            // A panic is told where it happens.
            let _ = AbortOnDropHandle::new(place.spawn(attend(stream))).await;
        }
    }

    /// Where a connection belongs that begins so, and what counts it there.
    fn place(&self, head: &[u8]) -> (&Handle, Option<impl Sized + use<>>) {
        match &self.home {
            Some(home) if !asks_api(head) => (home, None),
            _ => {
                let (handle, connections) =
                    self.loops.iter().min_by_key(|(_, connections)| connections.len()).expect("there is at least one");
                (handle, Some(connections.token()))
            }
        }
    }
}

/// Whether a request begins like one of the synchronous road.
fn asks_api(head: &[u8]) -> bool {
    let path = head.iter().position(|byte| *byte == b' ').map(|space| &head[space + 1..]);
    path.is_some_and(|path| path.starts_with(b"/v1/"))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        time::Duration,
    };

    use axum::{Router, routing::get};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A connection to somebody who answers with the name of his runtime.
    struct Asker {
        connection: TcpStream,
        is_served_by: String,
    }

    impl Asker {
        async fn connect(address: SocketAddr, path: &str) -> Self {
            let connection = TcpStream::connect(address).await.unwrap();
            let mut asker = Self { connection, is_served_by: String::new() };
            asker.is_served_by = asker.ask(path).await;
            asker
        }

        async fn ask(&mut self, path: &str) -> String {
            let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n");
            self.connection.write_all(request.as_bytes()).await.unwrap();
            let mut answer = [0; 1024];
            let read = self.connection.read(&mut answer).await.unwrap();
            String::from_utf8_lossy(&answer[..read]).rsplit("\r\n\r\n").next().unwrap().to_owned()
        }
    }

    const API: &str = "/v1/models";

    /// Time for what is there in milliseconds.
    const SOON: Duration = Duration::from_secs(30);

    fn loops(count: usize, head_within: Duration) -> (EventLoops, SocketAddr, JoinHandle<()>, CancellationToken) {
        let loops = EventLoops::start(count, "test", Some(Handle::current())).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let router = Router::new().fallback(get(async || Handle::current().id().to_string()));
        let limits = Limits { connections: 64, head_within, tells_peer: false };
        let until = CancellationToken::new();
        let listener = TcpListener::from_std(listener).unwrap();
        let (address, serving) = loops.serve(listener, router, limits, until.clone()).unwrap();
        (loops, address, serving, until)
    }

    fn by_loop(askers: &[Asker]) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for asker in askers {
            *counts.entry(asker.is_served_by.clone()).or_default() += 1;
        }
        counts
    }

    #[tokio::test]
    async fn the_loop_with_the_fewest_connections_gets_the_next_and_keeps_it() {
        let (loops, address, serving, until) = loops(3, SOON);
        let mut askers = Vec::new();
        for _ in 0..9 {
            askers.push(Asker::connect(address, API).await);
        }
        assert_eq!(by_loop(&askers).into_values().collect::<Vec<_>>(), [3, 3, 3]);
        for asker in &mut askers {
            assert_eq!(asker.ask(API).await, asker.is_served_by);
        }
        // All of one loop go away.
        let left = askers[0].is_served_by.clone();
        askers.retain(|asker| asker.is_served_by != left);
        let is_empty = |spread: &Spread| spread.loops.iter().any(|(_, connections)| connections.is_empty());
        let leaving = async {
            while !is_empty(&loops.spread) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, leaving).await.expect("they are counted no more");
        let mut next = BTreeSet::new();
        for _ in 0..3 {
            let asker = Asker::connect(address, API).await;
            next.insert(asker.is_served_by.clone());
            askers.push(asker);
        }
        assert_eq!(next, BTreeSet::from([left]));
        until.cancel();
        drop(askers);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn all_that_was_served_ends_with_the_loops() {
        let (loops, address, serving, _) = loops(2, SOON);
        let mut askers = Vec::new();
        for path in [API, API, "/"] {
            askers.push(Asker::connect(address, path).await);
        }
        drop(loops);
        assert!(serving.await.unwrap_err().is_cancelled());
        for mut asker in askers {
            let read = timeout(SOON, asker.connection.read(&mut [0])).await.expect("it is closed");
            assert_eq!(read.unwrap_or(0), 0, "{}", asker.is_served_by);
        }
    }

    #[tokio::test]
    async fn whoever_asks_for_something_else_first_is_served_at_home() {
        let (_loops, address, ..) = loops(2, SOON);
        let home = Handle::current().id().to_string();
        for path in ["/webhooks/sunshine", "/v10", "/", "/v"] {
            let mut asker = Asker::connect(address, path).await;
            assert_eq!(asker.is_served_by, home, "{path}");
            assert_eq!(asker.ask(API).await, home);
        }
        let mut asker = Asker::connect(address, API).await;
        assert_ne!(asker.is_served_by, home);
        assert_eq!(asker.ask("/webhooks/sunshine").await, asker.is_served_by);
    }

    #[tokio::test]
    async fn whoever_says_nothing_is_not_waited_for() {
        let (_loops, address, ..) = loops(2, Duration::from_millis(50));
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(timeout(SOON, silent.read(&mut [0])).await.expect("it is closed").unwrap(), 0);
        let (_loops, address, serving, until) = loops(2, SOON * 2);
        let _silent = TcpStream::connect(address).await.unwrap();
        // Of this one it is known that the one before was accepted.
        Asker::connect(address, API).await;
        until.cancel();
        timeout(SOON, serving).await.expect("at the end nobody is waited for").unwrap();
    }

    #[test]
    fn a_request_of_the_api_is_known_by_how_it_begins() {
        for head in ["POST /v1/chat/co", "GET /v1/models H", "DELETE /v1/x HTT", "GET /v1/"] {
            assert!(asks_api(head.as_bytes()), "{head}");
        }
        for head in ["", "POST", "POST ", "POST /v1", "POST /webhooks/s", "/v1/ /v2/", "GET //v1/", "\u{16}\u{3}\u{1}"]
        {
            assert!(!asks_api(head.as_bytes()), "{head}");
        }
    }
}
