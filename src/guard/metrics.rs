//! What the guards show of themselves.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, histogram::Histogram},
    registry::Registry,
};

use super::cache::Source;
use crate::{
    domain::{answer::Tokens, verdict::Failure},
    telemetry::series::{Counters, Gauges, Histograms, Traced, TracedBy, calls, observe, seconds, zero},
};

/// The guards' metrics.
#[derive(Clone)]
pub struct Metrics {
    requests: Counters<2>,
    durations: TracedBy<1>,
    errors: Counters<2>,
    tokens: Counters<2>,
    limiter_waits: Histograms<1>,
    cache: Counters<2>,
    state: Gauges<2>,
    transitions: Counters<2>,
    often: Arc<[Often]>,
}

/// What each call to a service is counted in; looked for once, for that takes longer than to count.
struct Often {
    service: &'static str,
    answered: Counter,
    duration: Traced,
    input: Counter,
    output: Counter,
    limiter_wait: Histogram,
}

impl Metrics {
    /// Registers them, with every known series at zero.
    pub fn register(registry: &mut Registry, services: &[&'static str]) -> Self {
        let metrics = Self {
            requests: Counters::default(),
            durations: calls(),
            errors: Counters::default(),
            tokens: Counters::default(),
            limiter_waits: seconds(),
            cache: Counters::default(),
            state: Gauges::default(),
            transitions: Counters::default(),
            often: Arc::default(),
        };
        registry.register("ai_service_errors", "Failed calls by kind", metrics.errors.clone());
        registry.register("tidegate_ai_requests", "Calls to AI services", metrics.requests.clone());
        registry.register(
            "tidegate_ai_request_duration_seconds",
            "Duration of calls to AI services",
            metrics.durations.clone(),
        );
        registry.register("tidegate_ai_tokens", "Tokens used", metrics.tokens.clone());
        registry.register(
            "tidegate_limiter_wait_seconds",
            "Waits for a permit of the limiter",
            metrics.limiter_waits.clone(),
        );
        registry.register(
            "tidegate_cache_requests",
            "Questions that may be answered from the cache",
            metrics.cache.clone(),
        );
        registry.register("tidegate_breaker_state", "1 for the breaker's present state", metrics.state.clone());
        registry.register("tidegate_breaker_transitions", "Transitions of the breaker", metrics.transitions.clone());
        metrics.begin(services);
        let often = services.iter().map(|service| metrics.often(service)).collect();
        Self { often, ..metrics }
    }

    fn often(&self, service: &'static str) -> Often {
        let tokens = |kind| self.tokens.get_or_create(&[("service", service), ("type", kind)]).clone();
        Often {
            service,
            answered: self.requests.get_or_create(&[("service", service), ("outcome", "ok")]).clone(),
            duration: self.durations.get_or_create(&[("service", service)]).clone(),
            input: tokens("input"),
            output: tokens("output"),
            limiter_wait: self.limiter_waits.get_or_create(&[("service", service)]).clone(),
        }
    }

    fn begin(&self, services: &[&'static str]) {
        for service in services {
            for kind in Failure::KINDS {
                zero(&self.errors, [("error_type", kind), ("service", service)]);
                zero(&self.requests, [("service", service), ("outcome", kind)]);
            }
            zero(&self.requests, [("service", service), ("outcome", "ok")]);
            zero(&self.durations, [("service", service)]);
            zero(&self.limiter_waits, [("service", service)]);
            for state in ["closed", "open", "half_open"] {
                self.state.get_or_create(&[("service", service), ("state", state)]).set(i64::from(state == "closed"));
                zero(&self.transitions, [("service", service), ("to", state)]);
            }
            for kind in ["input", "output"] {
                zero(&self.tokens, [("service", service), ("type", kind)]);
            }
        }
        for tier in ["local", "redis"] {
            for result in ["hit", "miss"] {
                zero(&self.cache, [("tier", tier), ("result", result)]);
            }
        }
    }

    pub(super) fn asked(&self, service: &'static str, took: Duration, outcome: Result<(), &Failure>, tokens: Tokens) {
        let Some(often) = self.of(service) else { return };
        observe(&often.duration, took);
        often.input.inc_by(tokens.input);
        often.output.inc_by(tokens.output);
        match outcome.map_err(Failure::kind) {
            Ok(()) => drop(often.answered.inc()),
            Err(kind) => {
                self.requests.get_or_create(&[("service", service), ("outcome", kind)]).inc();
                self.errors.get_or_create(&[("error_type", kind), ("service", service)]).inc();
            }
        }
    }

    pub(super) fn limiter_waited(&self, service: &'static str, waited: Duration) {
        if let Some(often) = self.of(service) {
            often.limiter_wait.observe(waited.as_secs_f64());
        }
    }

    /// Every service is known from the start.
    fn of(&self, service: &str) -> Option<&Often> {
        self.often.iter().find(|often| often.service == service)
    }

    /// `fleet`: there is a tier that all nodes share.
    pub(super) fn cache(&self, source: Source, fleet: bool) {
        let count = |tier, hit| {
            let result = if hit { "hit" } else { "miss" };
            self.cache.get_or_create(&[("tier", tier), ("result", result)]).inc();
        };
        let in_process = matches!(source, Source::Process | Source::Coalesced);
        count("local", in_process);
        if fleet && !in_process {
            count("redis", source == Source::Fleet);
        }
    }

    /// The breaker of a service has changed; for its actor.
    pub fn breaker_changed(&self, service: &'static str, to: &'static str) {
        self.transitions.get_or_create(&[("service", service), ("to", to)]).inc();
        for state in ["closed", "open", "half_open"] {
            self.state.get_or_create(&[("service", service), ("state", state)]).set(i64::from(state == to));
        }
    }
}
