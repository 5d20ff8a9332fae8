//! The HTTP server under both simulators: its connections can be cut from a handler, and all end with their owner.
//!
//! `axum::serve` leaves connections running when it is aborted and always sends an answer. Here every connection has a
//! cancellation token that makes its reads and writes fail, so a handler can close without an answer ([`Wire::cut`])
//! and a stopped simulator leaves no hanging call behind.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Connections served at once; later ones wait in the listen queue.
const CONNECTIONS_MAX: usize = 8192;
/// The pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A running server and the tasks that belong to it; dropping it ends them all.
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

impl Server {
    /// Binds the address and serves the router; `companion` is a task that lives as long as the server.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(
        listen: SocketAddr,
        router: Router,
        companion: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Self> {
        let tcp = TcpListener::bind(listen).await?;
        let address = tcp.local_addr()?;
        let stop = CancellationToken::new();
        let listener = Listener { tcp, stop: stop.clone(), slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
        let mut tasks = JoinSet::new();
        tasks.spawn(companion);
        tasks.spawn(async move {
            let service = router.into_make_service_with_connect_info::<Wire>();
            // Serving ends only by abort: the accept loop retries every error.
            let _ = axum::serve(listener, service).await;
        });
        Ok(Self { address, stop, tasks: Mutex::new(tasks) })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection and waits until the tasks have ended.
    pub async fn stop(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The tasks are aborted by the drop of their set; connections are not in it.
        self.stop.cancel();
    }
}

/// One client's connection, as a handler sees it.
#[derive(Clone)]
pub struct Wire(CancellationToken);

impl Wire {
    /// Closes the connection; nothing the handler returns will reach the client.
    pub fn cut(&self) {
        self.0.cancel();
    }
}

impl Connected<IncomingStream<'_, Listener>> for Wire {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        Wire(stream.io().token.clone())
    }
}

/// Accepts connections that carry a token and a slot.
pub struct Listener {
    tcp: TcpListener,
    stop: CancellationToken,
    slots: Arc<Semaphore>,
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let slot = self.slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        loop {
            let Ok((stream, peer)) = self.tcp.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // Without this, small answers wait for the client's delayed acknowledgement; a failure only costs time.
            let _ = stream.set_nodelay(true);
            let token = self.stop.child_token();
            let cut = Box::pin(token.clone().cancelled_owned());
            return (Connection { stream, token, cut, _slot: slot }, peer);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// A TCP stream that fails as soon as its token is cancelled.
pub struct Connection {
    stream: TcpStream,
    token: CancellationToken,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    fn check(&self) -> io::Result<()> {
        if self.token.is_cancelled() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
