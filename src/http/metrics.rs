//! `GET /metrics`, and what the listeners count themselves.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::body::Incoming;
use prometheus_client::{encoding::text::encode, metrics::counter::Counter, registry::Registry};

use super::{Admin, Public, gateway, guard, listener::Answers, webhook::Counts};
use crate::{
    domain::{
        reason::{Ignore, Reject},
        trace::TraceContext,
    },
    telemetry::{
        Clock,
        series::{Counters, Traced, TracedBy, calls, label, observe_in, zero},
        span::{Kind, Parent, Span, is_collected},
    },
};

/// The listeners' metrics.
#[derive(Clone)]
pub struct Metrics {
    clock: Clock,
    requests: Counters<3>,
    durations: TracedBy<2>,
    webhooks: Counters<1>,
    ignored: Counters<1>,
    rejected: Counters<1>,
    admin_refusals: Counters<1>,
    often: Arc<[Often]>,
}

/// What a request that went well is counted in; looked for once, for that takes longer than to count.
struct Often {
    route: (&'static str, &'static str),
    answered: Counter,
    duration: Traced,
}

/// The public routes.
const ENDPOINTS: [(&str, &str); 9] = [
    ("POST", "/webhooks/sunshine"),
    ("POST", "/webhooks/zendesk"),
    ("POST", gateway::CHAT),
    ("POST", "/v1/embeddings"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{*id}"),
    ("GET", "/v1/tasks/{id}"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
];

/// Stands for every path that is none of ours.
const ELSEWHERE: &str = "other";

const OUTCOMES: [&str; 9] =
    ["accepted", "duplicate", "ignored", "rejected", "control", "unauthorized", "unusable", "too_large", "unavailable"];

impl Metrics {
    /// Registers them, with every known series at zero.
    pub fn register(registry: &mut Registry, clock: Clock) -> Self {
        let metrics = Self {
            clock,
            requests: Counters::default(),
            durations: calls(),
            webhooks: Counters::default(),
            ignored: Counters::default(),
            rejected: Counters::default(),
            admin_refusals: Counters::default(),
            often: Arc::default(),
        };
        registry.register("http_requests", "Requests", metrics.requests.clone());
        registry.register("http_request_duration_seconds", "Duration of requests", metrics.durations.clone());
        registry.register("tidegate_webhooks", "Events and deliveries of webhooks", metrics.webhooks.clone());
        registry.register("tidegate_events_ignored", "Events left alone", metrics.ignored.clone());
        registry.register("tidegate_events_rejected", "Events that could not be understood", metrics.rejected.clone());
        registry.register(
            "tidegate_admin_refusals",
            "Requests the admin listener refused",
            metrics.admin_refusals.clone(),
        );
        metrics.begin();
        let often = ENDPOINTS.into_iter().map(|route| metrics.often(route)).collect();
        Self { often, ..metrics }
    }

    fn often(&self, route: (&'static str, &'static str)) -> Often {
        let (method, endpoint) = route;
        let answered = [("method", method), ("endpoint", endpoint), ("status", "200")];
        Often {
            route,
            answered: self.requests.get_or_create(&answered).clone(),
            duration: self.durations.get_or_create(&[("method", method), ("endpoint", endpoint)]).clone(),
        }
    }

    fn begin(&self) {
        for (method, endpoint) in ENDPOINTS {
            for status in ["200", "400", "401", "404", "405", "408", "413", "429", "502", "503", "504"] {
                zero(&self.requests, [("method", method), ("endpoint", endpoint), ("status", status)]);
            }
            zero(&self.durations, [("method", method), ("endpoint", endpoint)]);
        }
        for outcome in OUTCOMES {
            zero(&self.webhooks, [("outcome", outcome)]);
        }
        for reason in guard::REFUSALS {
            zero(&self.admin_refusals, [("reason", reason)]);
        }
        use Ignore as I;
        for reason in [
            I::Activity,
            I::BusinessAuthor,
            I::Deleted,
            I::Delivery,
            I::EmptyText,
            I::Lifecycle,
            I::NotInControl,
            I::UnknownType,
            I::UnsupportedContent,
        ] {
            zero(&self.ignored, [("reason", reason.as_str())]);
        }
        use Reject as R;
        for reason in [
            R::Malformed,
            R::MissingAuthor,
            R::MissingContent,
            R::MissingConversation,
            R::MissingMessage,
            R::MissingPayload,
            R::MissingType,
            R::NoIdentity,
            R::WrongType,
        ] {
            zero(&self.rejected, [("reason", reason.as_str())]);
        }
    }

    pub(super) fn admin_refused(&self, reason: &'static str) {
        self.admin_refusals.get_or_create(&[("reason", reason)]).inc();
    }

    pub(super) fn webhook(&self, outcome: &'static str, count: u64) {
        self.webhooks.get_or_create(&[("outcome", outcome)]).inc_by(count);
    }

    pub(super) fn webhook_counts(&self, counts: &Counts) {
        let outcomes = [counts.accepted, counts.duplicate, counts.ignored, counts.rejected, counts.control];
        for (outcome, count) in OUTCOMES.into_iter().zip(outcomes) {
            if count > 0 {
                self.webhook(outcome, count);
            }
        }
    }

    pub(super) fn ignored(&self, reason: &'static str) {
        self.ignored.get_or_create(&[("reason", reason)]).inc();
    }

    pub(super) fn rejected(&self, reason: &'static str) {
        self.rejected.get_or_create(&[("reason", reason)]).inc();
    }

    fn request(
        &self,
        (method, endpoint): (&'static str, &'static str),
        status: StatusCode,
        took: Duration,
        trace: Option<String>,
    ) {
        let often = self.often.iter().find(|often| often.route == (method, endpoint));
        if let Some(often) = often.filter(|_| status == StatusCode::OK) {
            often.answered.inc();
            return observe_in(&often.duration, took, trace);
        }
        let labels = [("method", method), ("endpoint", endpoint), ("status", status_label(status))];
        self.requests.get_or_create(&labels).inc();
        observe_in(&self.durations.get_or_create(&[("method", method), ("endpoint", endpoint)]), took, trace);
    }
}

/// Measures each request by its route, never by its raw path. Around the routes: within them, axum puts each request
/// and its answer into boxes of their own, which costs several times as much.
#[derive(Clone)]
pub struct Measured<A> {
    pub(super) routes: A,
    pub(super) public: Arc<Public>,
}

impl<A: Answers> Answers for Measured<A> {
    fn answer(self, request: Request<Incoming>) -> impl Future<Output = Result<Response, Infallible>> + Send {
        let Self { routes, public } = self;
        let began = public.metrics.clock.monotonic();
        let method = method_label(request.method());
        let endpoint = Some(endpoint_label(request.uri().path())).filter(|endpoint| public.has(endpoint));
        let endpoint = endpoint.unwrap_or(ELSEWHERE);
        let span = span(method, endpoint, request.headers());
        let answered = span.over(routes.answer(request));
        async move {
            let response = answered.await?;
            let (metrics, status) = (&public.metrics, response.status());
            let took = metrics.clock.monotonic().saturating_sub(began);
            metrics.request((method, endpoint), status, took, answered_in(&span, status));
            Ok(response)
        }
    }
}

/// Begins the span of a request: below its sender's, if it names one.
fn span(method: &'static str, endpoint: &'static str, headers: &HeaderMap) -> Span {
    let is_traced = is_collected() && (endpoint.starts_with("/webhooks/") || endpoint.starts_with("/v1/"));
    if !is_traced {
        return Span::default();
    }
    let told = headers.get(TraceContext::HEADER).and_then(|value| TraceContext::parse(value.to_str().ok()?));
    let span = Span::begin(Kind::Server, Parent::Told(told), || format!("{method} {endpoint}").into());
    span.set("http.request.method", method);
    span.set("http.route", endpoint);
    span
}

/// Says how a request was answered; the trace, if it is recorded for good.
fn answered_in(span: &Span, status: StatusCode) -> Option<String> {
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail(status_label(status));
    }
    span.context().filter(|context| context.sampled).map(|context| context.trace_id())
}

/// The route that a path belongs to: at its end `{id}` stands for one step of a path, `{*id}` for any number.
fn endpoint_label(path: &str) -> &'static str {
    let is_within = |route: &str| {
        let Some((before, end)) = route.split_once('{') else { return false };
        let rest = path.strip_prefix(before).unwrap_or_default();
        !rest.is_empty() && (end.starts_with('*') || !rest.contains('/'))
    };
    let exactly = ENDPOINTS.iter().find(|(_, route)| path == *route);
    exactly.or_else(|| ENDPOINTS.iter().find(|(_, route)| is_within(route))).map_or(ELSEWHERE, |(_, route)| route)
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        _ => "OTHER",
    }
}

fn status_label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "200",
        400 => "400",
        401 => "401",
        404 => "404",
        405 => "405",
        408 => "408",
        413 => "413",
        503 => "503",
        // Statuses are three digits, so there are at most a few hundred.
        _ => label(status.as_str()),
    }
}

/// `GET /metrics`: OpenMetrics text.
#[utoipa::path(get, path = "/metrics", tag = "views", responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
pub async fn metrics(State(admin): State<Admin>) -> Response {
    // The registry cannot wait for a dependency to answer.
    admin.health.report().await;
    let mut text = String::new();
    if encode(&mut text, &admin.registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::endpoint_label;

    #[test]
    fn a_path_is_named_by_its_route_and_a_foreign_one_by_none() {
        for (path, label) in [
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("/v1/models", "/v1/models"),
            ("/v1/models/gpt", "/v1/models/{*id}"),
            ("/v1/models/a/b", "/v1/models/{*id}"),
            ("/v1/tasks/1", "/v1/tasks/{id}"),
            ("/v1/tasks/1/2", "other"),
            ("/v1/tasks//", "other"),
            ("/v1/tasks/", "other"),
            ("/v1/models/", "other"),
            ("/v1/chat/completions/", "other"),
            ("/v1/chat", "other"),
            ("/", "other"),
            ("", "other"),
        ] {
            assert_eq!(endpoint_label(path), label, "{path}");
        }
    }
}
