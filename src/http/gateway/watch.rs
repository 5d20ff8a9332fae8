//! Watches a request on its way through the guards, for the headers of its answer.

use std::time::Duration;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue},
    response::Response,
};
use parking_lot::Mutex;

use crate::{
    domain::{answer::Tokens, hex::hex_after, timeline::Wait},
    guard::{Progress, Source},
    telemetry::Clock,
};

const SERVICE: HeaderName = HeaderName::from_static("x-tidegate-service");
const CACHE: HeaderName = HeaderName::from_static("x-tidegate-cache");
const WAITED: HeaderName = HeaderName::from_static("x-tidegate-wait-ms");
const INPUT: HeaderName = HeaderName::from_static("x-tidegate-tokens-input");
const OUTPUT: HeaderName = HeaderName::from_static("x-tidegate-tokens-output");
const COST: HeaderName = HeaderName::from_static("x-tidegate-cost");
const REQUEST: HeaderName = HeaderName::from_static("x-request-id");

/// What is seen of one request.
pub struct Watch {
    clock: Clock,
    seen: Mutex<Seen>,
}

struct Seen {
    service: Option<&'static str>,
    /// When it began to wait (monotonic), while it does.
    waits_since: Option<Duration>,
    waited: Duration,
}

impl Watch {
    /// Begins when a request is let in: until a service is asked it waits.
    pub fn new(clock: Clock) -> Self {
        let seen = Seen { service: None, waits_since: Some(clock.monotonic()), waited: Duration::ZERO };
        Self { clock, seen: Mutex::new(seen) }
    }

    /// A call has failed, its own or one that it shared, which was no wait for somebody to ask.
    pub fn failed(&self) {
        self.seen.lock().waits_since = None;
    }

    /// How long it has waited so far.
    pub fn waited(&self) -> Duration {
        let seen = self.seen.lock();
        let present = seen.waits_since.map(|since| self.clock.monotonic().saturating_sub(since));
        seen.waited + present.unwrap_or_default()
    }

    /// The service asked last.
    pub fn service(&self) -> Option<&'static str> {
        self.seen.lock().service
    }

    /// The headers that tell how far a request came that was not answered, and who is to blame.
    pub fn so_far(&self, service: Option<&'static str>) -> HeaderMap {
        let waited = self.waited();
        let mut headers = HeaderMap::with_capacity(4);
        add_service(&mut headers, service);
        headers.insert(WAITED, HeaderValue::from(waited.as_millis() as u64));
        headers
    }

    /// The headers that tell how the request fared.
    pub fn headers(&self, source: Source) -> HeaderMap {
        let seen = self.seen.lock();
        let mut headers = HeaderMap::with_capacity(8);
        add_service(&mut headers, seen.service.filter(|_| source == Source::Asked));
        let cache = match source {
            Source::Asked => "miss",
            Source::Coalesced => "coalesced",
            Source::Process | Source::Fleet => "hit",
        };
        headers.insert(CACHE, HeaderValue::from_static(cache));
        headers.insert(WAITED, HeaderValue::from(seen.waited.as_millis() as u64));
        headers
    }
}

fn add_service(headers: &mut HeaderMap, name: Option<&'static str>) {
    if let Some(service) = name.and_then(|name| HeaderValue::from_str(name).ok()) {
        headers.insert(SERVICE, service);
    }
}

/// A name for a request. Not by `format!`, which would take as long as a guard does.
pub fn new_id() -> String {
    hex_after("req_", &rand::random::<[u8; 16]>())
}

/// Names the request in its answer.
pub fn named(mut response: Response, id: &str) -> Response {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST, id);
    }
    response
}

/// Adds what a whole answer used.
pub fn add_usage(headers: &mut HeaderMap, tokens: Tokens, cost: Option<f64>) {
    headers.insert(INPUT, HeaderValue::from(tokens.input));
    headers.insert(OUTPUT, HeaderValue::from(tokens.output));
    if let Some(cost) = cost.and_then(|cost| HeaderValue::from_str(&shown(cost)).ok()) {
        headers.insert(COST, cost);
    }
}

/// Six decimals, and three more where they say something: a token of the cheapest models costs some 0.00000001.
fn shown(cost: f64) -> String {
    let exact = format!("{cost:.9}");
    exact.strip_suffix("000").unwrap_or(&exact).to_owned()
}

impl Progress for Watch {
    fn waiting(&self, _: Wait, _: Option<Duration>) {
        self.seen.lock().waits_since.get_or_insert_with(|| self.clock.monotonic());
    }

    fn asking(&self, service: &'static str, now: Duration) {
        let mut seen = self.seen.lock();
        if let Some(since) = seen.waits_since.take() {
            seen.waited += now.saturating_sub(since);
        }
        seen.service = Some(service);
    }

    fn answered(&self, _: &'static str, _: Duration, _: &'static str) {}
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn small_costs_are_shown_too() {
        for (cost, expected) in [(14.0, "14.000000"), (0.000_002_7, "0.000002700"), (0.000_000_02, "0.000000020")] {
            assert_eq!(shown(cost), expected);
        }
    }
}
