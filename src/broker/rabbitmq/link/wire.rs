//! A connection and the socket under it.
//!
//! lapin leaves a thread and a socket behind for each connection whose server does not answer any more: it goes on waiting
//! for an answer, and its heartbeats end with the first attempt to close. So the socket is cut from here.

use std::{
    net::{Shutdown, TcpStream},
    ops::Deref,
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use lapin::Connection;
use parking_lot::Mutex;
use tokio::time::timeout;

/// How long a server is waited for to say goodbye.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// A second handle of a socket that somebody else reads and writes.
#[derive(Clone, Default)]
pub(super) struct Socket(Arc<Mutex<Option<TcpStream>>>);

impl Socket {
    /// Keeps a handle of this one.
    pub fn keep(&self, of: &impl AsFd) -> std::io::Result<()> {
        *self.0.lock() = Some(of.as_fd().try_clone_to_owned()?.into());
        Ok(())
    }

    /// Ends it, whoever waits for it.
    pub fn cut(&self) {
        if let Some(socket) = self.0.lock().take() {
            // One that has ended already need not be cut.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// A connection.
pub struct Wire {
    connection: Connection,
    socket: Socket,
}

impl Wire {
    pub(super) fn new(connection: Connection, socket: Socket) -> Self {
        Self { connection, socket }
    }

    /// Closes it and waits a while for the answer.
    pub async fn goodbye(&self) {
        // One that does not answer is cut.
        let _ = timeout(CLOSE_WITHIN, self.connection.close(200, "goodbye".into())).await;
        self.socket.cut();
    }
}

impl Deref for Wire {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.socket.cut();
    }
}
