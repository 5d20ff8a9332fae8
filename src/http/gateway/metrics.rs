//! What the gateway counts: requests by key, and further tries. Tokens and money are counted by `actors::accounts`.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use axum::http::StatusCode;
use prometheus_client::{metrics::counter::Counter, registry::Registry};

use crate::telemetry::series::{Counters, label, zero};

const OUTCOMES: [&str; 5] = ["ok", "limited", "rejected", "failed", "abandoned"];

/// The gateway's metrics.
#[derive(Clone)]
pub struct Metrics {
    requests: Counters<2>,
    retries: Counters<1>,
    /// What the answers to each key are counted in; looked for once, for that takes longer than to count.
    answered: Arc<[Counter]>,
}

impl Metrics {
    /// Registers them, with every known series at zero.
    pub fn register<'a>(registry: &mut Registry, keys: impl Iterator<Item = &'a str> + Clone) -> Self {
        let (requests, retries) = (Counters::default(), Counters::default());
        registry.register("tidegate_api_requests", "Requests on /v1 by key", requests.clone());
        registry.register(
            "tidegate_api_retries",
            "Further tries of requests on /v1, made or denied by their budget",
            retries.clone(),
        );
        for key in keys.clone().map(label) {
            for outcome in OUTCOMES {
                zero(&requests, [("key", key), ("outcome", outcome)]);
            }
        }
        for outcome in ["made", "denied"] {
            zero(&retries, [("outcome", outcome)]);
        }
        let answered = |key| requests.get_or_create(&[("key", label(key)), ("outcome", "ok")]).clone();
        Self { answered: keys.map(answered).collect(), requests, retries }
    }

    /// `key`: its place in the configuration, and its name.
    fn count(&self, (place, key): (usize, &'static str), outcome: &'static str) {
        match self.answered.get(place).filter(|_| outcome == "ok") {
            Some(answered) => answered.inc(),
            None => self.requests.get_or_create(&[("key", key), ("outcome", outcome)]).inc(),
        };
    }

    pub(super) fn tried_again(&self, allowed: bool) {
        let outcome = if allowed { "made" } else { "denied" };
        self.retries.get_or_create(&[("outcome", outcome)]).inc();
    }
}

/// Counts one request by its outcome when nobody works on it any more: a stream at its end.
pub(super) struct Tally {
    metrics: Metrics,
    key: (usize, &'static str),
    /// 0 as long as it has not come to its end.
    status: AtomicU16,
}

impl Tally {
    /// Of a request with the key at that place and of that name.
    pub fn new(metrics: &Metrics, key: (usize, &'static str)) -> Self {
        Self { metrics: metrics.clone(), key, status: AtomicU16::new(0) }
    }

    /// It has come to its end.
    pub fn ended(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let outcome = match *self.status.get_mut() {
            0 => "abandoned",
            200..=299 => "ok",
            429 => "limited",
            400..=499 => "rejected",
            _ => "failed",
        };
        self.metrics.count(self.key, outcome);
    }
}
