//! What the gateway counts: requests, tokens and money, by key.

use std::sync::{Arc, atomic::AtomicU64};

use axum::http::StatusCode;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::{
    domain::answer::Tokens,
    telemetry::series::{Counters, Labels, label, zero},
};

/// A sum of money.
type Sum = Counter<f64, AtomicU64>;

/// The same by labels.
type Sums<const N: usize> = Family<Labels<N>, Sum>;

const OUTCOMES: [&str; 4] = ["ok", "limited", "rejected", "failed"];

/// The gateway's metrics.
#[derive(Clone)]
pub struct Metrics {
    requests: Counters<2>,
    tokens: Counters<3>,
    costs: Sums<2>,
    retries: Counters<1>,
    often: Arc<[Often]>,
}

/// What the answers to a key are counted in; looked for once, for that takes longer than to count.
struct Often {
    answered: Counter,
    by_service: Vec<Used>,
}

/// What a service has used for a key.
struct Used {
    service: &'static str,
    input: Counter,
    output: Counter,
    cost: Sum,
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
            often: Arc::default(),
        };
        registry.register("tidegate_api_requests", "Requests on /v1 by key", metrics.requests.clone());
        registry.register("tidegate_api_tokens", "Tokens used by key", metrics.tokens.clone());
        registry.register("tidegate_api_cost", "Cost by key, in the currency of the prices", metrics.costs.clone());
        registry.register(
            "tidegate_api_retries",
            "Further tries of requests on /v1, made or denied by their budget",
            metrics.retries.clone(),
        );
        for key in keys.clone().map(label) {
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
        let often = keys.map(label).map(|key| metrics.often(key, services.clone().map(label))).collect();
        Self { often, ..metrics }
    }

    fn often(&self, key: &'static str, services: impl Iterator<Item = &'static str>) -> Often {
        let used = |service| {
            let tokens =
                |kind| self.tokens.get_or_create(&[("key", key), ("service", service), ("type", kind)]).clone();
            let cost = self.costs.get_or_create(&[("key", key), ("service", service)]).clone();
            Used { service, input: tokens("input"), output: tokens("output"), cost }
        };
        let answered = self.requests.get_or_create(&[("key", key), ("outcome", "ok")]).clone();
        Often { answered, by_service: services.map(used).collect() }
    }

    /// `key`: its place in the configuration, and its name.
    pub(super) fn answered(&self, (place, key): (usize, &'static str), status: StatusCode) {
        let outcome = match status.as_u16() {
            200..=299 => "ok",
            429 => "limited",
            400..=499 => "rejected",
            _ => "failed",
        };
        match self.often.get(place).filter(|_| outcome == "ok") {
            Some(often) => often.answered.inc(),
            None => self.requests.get_or_create(&[("key", key), ("outcome", outcome)]).inc(),
        };
    }

    /// `key`: its place in the configuration. Every service is known from the start.
    pub(super) fn used(&self, key: usize, service: &'static str, tokens: Tokens, cost: f64) {
        let of_key = self.often.get(key).map_or(&[][..], |often| &often.by_service);
        let Some(used) = of_key.iter().find(|used| used.service == service) else { return };
        used.input.inc_by(tokens.input);
        used.output.inc_by(tokens.output);
        used.cost.inc_by(cost);
    }

    pub(super) fn tried_again(&self, allowed: bool) {
        let outcome = if allowed { "made" } else { "denied" };
        self.retries.get_or_create(&[("outcome", outcome)]).inc();
    }
}
