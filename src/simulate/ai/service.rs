//! The state behind a running AI simulator.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::http::HeaderMap;
use axum::response::Response;

use super::Options;
use super::behaviour::Behaviour;
use super::dialect::Dialect;
use super::ledger::Ledger;
use crate::simulate::dial::Dial;

/// Options, behaviour and counts.
pub struct Service {
    /// What it was started with.
    pub options: Options,
    /// What it does wrong on purpose.
    pub dial: Dial<Behaviour>,
    ledger: ArcSwap<Ledger>,
}

impl Service {
    /// A service that has seen nothing.
    pub fn new(options: Options) -> Arc<Self> {
        Arc::new(Self { options, dial: Dial::default(), ledger: ArcSwap::default() })
    }

    /// The counts; a call keeps the ones with which it began.
    pub fn ledger(&self) -> Arc<Ledger> {
        self.ledger.load_full()
    }

    /// Back to the start: no counts, a healthy behaviour. Calls under way are counted no more.
    pub fn reset(&self) {
        self.ledger.store(Arc::default());
        self.dial.set(Behaviour::default());
    }

    /// Checks the key, when one is set.
    ///
    /// # Errors
    /// The answer 401.
    // A response is large, and this one is made only for a misconfigured client.
    #[expect(clippy::result_large_err, reason = "the error is returned to the client at once")]
    pub fn authenticate(&self, dialect: &Dialect, headers: &HeaderMap) -> Result<(), Response> {
        let Some(key) = &self.options.key else { return Ok(()) };
        if dialect.key(headers) == Some(key) {
            return Ok(());
        }
        Err(dialect.error(401, "invalid_api_key", "incorrect API key provided"))
    }
}
