//! The local state under the contract of all shared states.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::Local;
use crate::{
    domain::time::Timestamp,
    state::{
        Budgets, Keeping, RetentionConfig, Settings, Shared,
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

#[tokio::test]
async fn what_was_used_is_forgotten_after_thirteen_months() {
    let folder = tempfile::tempdir().unwrap();
    let state = Local::open(folder.path(), RETENTION, Timestamp(1)).unwrap();
    for month in ["2025-09", "2025-10", "2026-11"] {
        state.spend("shop", month, 7).await.unwrap();
    }
    state.tidy(Timestamp::parse("2026-11-30T23:59:59Z").unwrap()).await.unwrap();
    let mut used = Vec::new();
    for month in ["2025-09", "2025-10", "2026-11"] {
        used.push(state.spend("shop", month, 0).await.unwrap());
    }
    assert_eq!(used, [0, 7, 7]);
}

#[tokio::test]
async fn a_file_of_the_first_format_goes_on_with_budgets_and_settings() {
    let folder = tempfile::tempdir().unwrap();
    Local::open(folder.path(), RETENTION, Timestamp(1)).unwrap().close();
    let file = rusqlite::Connection::open(folder.path().join("state.db")).unwrap();
    file.execute_batch("DROP TABLE budget; DROP TABLE setting; DROP TABLE audit; PRAGMA user_version = 1;").unwrap();
    drop(file);
    let state = Local::open(folder.path(), RETENTION, Timestamp(2)).unwrap();
    assert_eq!(state.born, Timestamp(1), "with all that it holds");
    assert_eq!(state.spend("shop", "2026-11", 7).await.unwrap(), 7);
    assert_eq!(state.settings(Some(0)).await.unwrap(), None);
}
