//! A connection that is closed so that its last answer arrives, and not held by one who reads nothing.
//!
//! Closed with something unread, the system resets it, and the other side may lose the answer: a stranger who sends
//! three megabytes would not hear his 401.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

/// What is read and thrown away at the most.
const THROWN_AWAY_MAX: usize = 16 << 20;

/// How long the other side may take to stop sending: a body may still be on its way when its head is answered. Who
/// has heard everything closes by himself.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whoever takes nothing of an answer for so long has gone away, whatever his system says (as NGINX has it,
/// ngx_http_core_module, `send_timeout`).
const STALLED_MAX: Duration = Duration::from_secs(60);

/// The connection.
pub struct Lingering {
    stream: TcpStream,
    said_all: bool,
    thrown_away: usize,
    /// Runs once all is said.
    patience: Option<Pin<Box<Sleep>>>,
    /// Runs while nothing can be written.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Lingering {
    /// Wraps a stream.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, said_all: false, thrown_away: 0, patience: None, stalled: None }
    }

    /// What came of writing, unless it has been stalled for too long.
    fn unless_stalled<T>(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.stalled = None;
            return wrote;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALLED_MAX)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_throw_away(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut space = [0; 16 << 10];
        while self.thrown_away < THROWN_AWAY_MAX {
            let mut unread = ReadBuf::new(&mut space);
            match Pin::new(&mut self.stream).poll_read(cx, &mut unread) {
                Poll::Ready(Ok(())) if !unread.filled().is_empty() => self.thrown_away += unread.filled().len(),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
                    return patience.as_mut().poll(cx);
                }
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Lingering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_stalled(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.unless_stalled(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.said_all {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.said_all = true;
        }
        self.poll_throw_away(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::{Instant, timeout},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_who_reads_slowly_is_waited_for_and_one_who_reads_nothing_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut reader = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut connection = Lingering::new(listener.accept().await.unwrap().0);
        let (piece, mut space) = (vec![0; 1 << 20], vec![0; 64 << 20]);
        // Until the system takes no more.
        while timeout(STALLED_MAX / 2, connection.write_all(&piece)).await.is_ok() {}
        for _ in 0..4 {
            tokio::select! {
                _ = async { while reader.read(&mut space).await.unwrap() > 0 {} } => panic!("nothing was closed"),
                writable = connection.stream.writable() => writable.unwrap(),
            }
            while let Ok(wrote) = timeout(STALLED_MAX / 2, connection.write(&piece)).await {
                wrote.expect("something was read meanwhile");
            }
        }
        let began = Instant::now();
        let error = loop {
            if let Err(error) = connection.write(&piece).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() <= STALLED_MAX * 2, "{:?}", began.elapsed());
    }
}
