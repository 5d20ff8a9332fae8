//! Threads that each serve a part of the connections, from the first byte to the last.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
    task::JoinSet,
};

/// The lanes; none: all is served where it is accepted.
#[derive(Clone, Default)]
pub struct Lanes {
    runtimes: Arc<Vec<Option<Runtime>>>,
    next: Arc<AtomicUsize>,
}

impl Lanes {
    /// Opens so many.
    pub fn open(count: usize) -> io::Result<Self> {
        let open = |_| Builder::new_multi_thread().worker_threads(1).thread_name("lane").enable_all().build().map(Some);
        let runtimes = (0..count).map(open).collect::<io::Result<_>>()?;
        Ok(Self { runtimes: Arc::new(runtimes), next: Arc::default() })
    }

    /// Serves a connection in one of them.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(
        &self,
        tasks: &mut JoinSet<()>,
        stream: TcpStream,
        attend: impl FnOnce(TcpStream) -> F + Send + 'static,
    ) {
        if self.runtimes.is_empty() {
            tasks.spawn(attend(stream));
            return;
        }
        let lane = self.next.fetch_add(1, Ordering::Relaxed) % self.runtimes.len();
        let Some(runtime) = &self.runtimes[lane] else { return };
        let Ok(stream) = stream.into_std() else { return };
        tasks.spawn_on(
            async move {
                if let Ok(stream) = TcpStream::from_std(stream) {
                    attend(stream).await;
                }
            },
            runtime.handle(),
        );
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        let Some(runtimes) = Arc::get_mut(&mut self.runtimes) else { return };
        for runtime in runtimes.iter_mut().filter_map(Option::take) {
            runtime.shutdown_background();
        }
    }
}
