//! `GET /metrics`, and what the listeners count themselves.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::future::BoxFuture;
use prometheus_client::{encoding::text::encode, metrics::counter::Counter, registry::Registry};
use tower_layer::Layer;
use tower_service::Service;

use super::{Admin, Public, guard, webhook::Counts};
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
    ("POST", "/v1/chat/completions"),
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

/// Measures each request by its route, never by its raw path. A service of its own: axum's `from_fn` costs each request
/// several times as much.
#[derive(Clone)]
pub struct Measure(pub Arc<Public>);

/// What is measured.
#[derive(Clone)]
pub struct Measured<S> {
    inner: S,
    public: Arc<Public>,
}

impl<S> Layer<S> for Measure {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured { inner, public: self.0.clone() }
    }
}

impl<S> Service<Request> for Measured<S>
where
    S: Service<Request, Response = Response, Future: Send + 'static>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let began = self.public.metrics.clock.monotonic();
        let method = method_label(request.method());
        let path = request.extensions().get::<MatchedPath>();
        let endpoint = path.map_or(ELSEWHERE, |path| endpoint_label(path.as_str()));
        let span = span(method, endpoint, request.headers());
        let (answered, public) = (span.over(self.inner.call(request)), self.public.clone());
        Box::pin(async move {
            let response = answered.await?;
            let (metrics, status) = (&public.metrics, response.status());
            let took = metrics.clock.monotonic().saturating_sub(began);
            metrics.request((method, endpoint), status, took, answered_in(&span, status));
            Ok(response)
        })
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

fn endpoint_label(path: &str) -> &'static str {
    ENDPOINTS.iter().find(|(_, known)| *known == path).map_or(ELSEWHERE, |(_, known)| known)
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
