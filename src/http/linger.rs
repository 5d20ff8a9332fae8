//! A connection that is closed so that its last answer arrives.
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

/// The connection.
pub struct Lingering {
    stream: TcpStream,
    said_all: bool,
    thrown_away: usize,
    /// Runs once all is said.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Lingering {
    /// Wraps a stream.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, said_all: false, thrown_away: 0, patience: None }
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
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
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
