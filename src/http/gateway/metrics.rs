//! What the gateway counts: requests, tokens and money, by key.

use std::sync::atomic::AtomicU64;

use axum::http::StatusCode;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::{
    domain::answer::Tokens,
    telemetry::series::{Counters, Labels, label, zero},
};

/// Sums of money, by labels.
type Sums<const N: usize> = Family<Labels<N>, Counter<f64, AtomicU64>>;

const OUTCOMES: [&str; 4] = ["ok", "limited", "rejected", "failed"];

/// The gateway's metrics.
#[derive(Clone)]
pub struct Metrics {
    requests: Counters<2>,
    tokens: Counters<3>,
    costs: Sums<2>,
    retries: Counters<1>,
}

impl Metrics {
    /// Registers them, with every known series at zero.
    pub fn register<'a>(
        registry: &mut Registry,
        keys: impl Iterator<Item = &'a str> + Clone,
        services: impl Iterator<Item = &'a str> + Clone,
    ) -> Self {
        let metrics = Self {
            requests: Counters::default(),
            tokens: Counters::default(),
            costs: Sums::default(),
            retries: Counters::default(),
        };
        registry.register("tidegate_api_requests", "Requests on /v1 by key", metrics.requests.clone());
        registry.register("tidegate_api_tokens", "Tokens used by key", metrics.tokens.clone());
        registry.register("tidegate_api_cost", "Cost by key, in the currency of the prices", metrics.costs.clone());
        registry.register(
            "tidegate_api_retries",
            "Further tries of requests on /v1, made or denied by their budget",
            metrics.retries.clone(),
        );
        for key in keys.map(label) {
            for outcome in OUTCOMES {
                zero(&metrics.requests, [("key", key), ("outcome", outcome)]);
            }
            for service in services.clone().map(label) {
                for kind in ["input", "output"] {
                    zero(&metrics.tokens, [("key", key), ("service", service), ("type", kind)]);
                }
                zero(&metrics.costs, [("key", key), ("service", service)]);
            }
        }
        for outcome in ["made", "denied"] {
            zero(&metrics.retries, [("outcome", outcome)]);
        }
        metrics
    }

    pub(super) fn answered(&self, key: &'static str, status: StatusCode) {
        let outcome = match status.as_u16() {
            200..=299 => "ok",
            429 => "limited",
            400..=499 => "rejected",
            _ => "failed",
        };
        self.requests.get_or_create(&[("key", key), ("outcome", outcome)]).inc();
    }

    pub(super) fn used(&self, key: &'static str, service: &'static str, tokens: Tokens, cost: f64) {
        for (kind, count) in [("input", tokens.input), ("output", tokens.output)] {
            self.tokens.get_or_create(&[("key", key), ("service", service), ("type", kind)]).inc_by(count);
        }
        self.costs.get_or_create(&[("key", key), ("service", service)]).inc_by(cost);
    }

    pub(super) fn tried_again(&self, allowed: bool) {
        let outcome = if allowed { "made" } else { "denied" };
        self.retries.get_or_create(&[("outcome", outcome)]).inc();
    }
}
