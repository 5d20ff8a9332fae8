//! A folder in which one embedded queue after the other is opened.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::super::Embedded;
use crate::{
    broker::{
        Broker, Config, EmbeddedConfig, Letters,
        contract::{DiskFactory, Factory, Setup},
    },
    domain::time::Timestamp,
    telemetry::Clock,
};

/// The folder, and a wall clock that can be set.
pub(super) struct Place {
    folder: tempfile::TempDir,
    ahead_ms: Arc<AtomicI64>,
    open: Mutex<Option<Arc<Embedded>>>,
}

impl Place {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), ahead_ms: Arc::new(AtomicI64::new(0)), open: Mutex::new(None) }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn clock(&self) -> Clock {
        let (system, ahead_ms) = (Clock::system(), self.ahead_ms.clone());
        Clock::with_wall(move || Timestamp(system.now().0 + ahead_ms.load(Ordering::Relaxed)))
    }

    /// Opens a queue of which more is known than that it is one. The one before ends.
    pub fn embedded(&self, setup: Setup) -> Arc<Embedded> {
        if let Some(before) = self.open.lock().take() {
            before.inner.database.close();
        }
        let embedded = Arc::new(open(self.path(), setup, self.clock()));
        *self.open.lock() = Some(embedded.clone());
        embedded
    }
}

/// Opens a queue in any folder.
pub(super) fn open(folder: &Path, setup: Setup, clock: Clock) -> Embedded {
    let embedded =
        EmbeddedConfig { max_messages: setup.max_messages, max_bytes: setup.max_bytes, ..EmbeddedConfig::default() };
    let config = Config { embedded, ..Config::default() };
    Embedded::open(folder, &config, setup.parked_for, clock).unwrap()
}

#[async_trait]
impl Factory for Place {
    async fn open(&self, setup: Setup) -> Arc<dyn Broker> {
        self.embedded(setup)
    }

    fn letters(&self) -> Arc<dyn Letters> {
        self.open.lock().clone().expect("one is open")
    }
}

impl DiskFactory for Place {
    fn pass(&self, span: Duration) {
        self.ahead_ms.fetch_add(i64::try_from(span.as_millis()).unwrap(), Ordering::Relaxed);
    }
}
