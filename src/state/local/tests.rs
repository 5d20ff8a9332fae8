//! The local state under the contract of all shared states.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::Local;
use crate::{
    domain::time::Timestamp,
    state::{
        RetentionConfig, Shared,
        contract::{Factory, RETENTION, contract},
    },
};

/// A folder in which one state after the other is opened.
struct Place(Mutex<(tempfile::TempDir, Option<Arc<Local>>)>);

impl Place {
    fn new() -> Self {
        Self(Mutex::new((tempfile::tempdir().unwrap(), None)))
    }
}

#[async_trait]
impl Factory for Place {
    async fn open(&self, retention: RetentionConfig, now: Timestamp) -> Shared {
        let mut place = self.0.lock();
        if let Some(before) = place.1.take() {
            before.close();
        }
        let state = Arc::new(Local::open(place.0.path(), retention, now).unwrap());
        place.1 = Some(state.clone());
        state
    }

    async fn fresh(&self) -> Shared {
        *self.0.lock() = (tempfile::tempdir().unwrap(), None);
        self.open(RETENTION, Timestamp(1)).await
    }
}

contract!(Place::new());
