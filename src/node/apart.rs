//! A small runtime of its own for the watchdog and the admin listener: a blocked worker thread cannot blind them.

use std::net::SocketAddr;

use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle, Runtime},
};

use tokio_util::sync::CancellationToken;

use crate::http::listener::{Answers, Limits, serve};

/// The runtime; ends with what runs on it when dropped.
pub(super) struct Apart(Option<Runtime>);

impl Apart {
    pub fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("apart").enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    pub fn handle(&self) -> &Handle {
        self.0.as_ref().expect("the runtime is there until the drop").handle()
    }

    /// Serves a listener that was bound elsewhere.
    pub fn serve(&self, listener: TcpListener, answers: impl Answers, limits: Limits) -> std::io::Result<SocketAddr> {
        let address = listener.local_addr()?;
        let listener = listener.into_std()?;
        // Ends with the runtime, which owns it.
        self.handle().spawn(async move {
            let listener = TcpListener::from_std(listener)?;
            serve(listener, answers, limits, CancellationToken::new()).await;
            std::io::Result::Ok(())
        });
        Ok(address)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Dropped from within another runtime, where nobody may block.
            runtime.shutdown_background();
        }
    }
}
