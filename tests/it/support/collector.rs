//! A collector of traces: takes what comes over OTLP/HTTP, as protobuf, and keeps it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode as Status},
};
use parking_lot::Mutex;
use prost::Message;
use tokio::{net::TcpListener, task::JoinSet};

/// A span as it came.
#[derive(Debug, Clone)]
pub struct Collected {
    pub name: String,
    pub kind: SpanKind,
    pub trace: String,
    pub id: String,
    /// Empty: none.
    pub parent: String,
    /// The spans it links to.
    pub links: Vec<String>,
    pub attributes: BTreeMap<String, String>,
    pub failed: bool,
    pub took: Duration,
    /// Whom it is from.
    pub resource: BTreeMap<String, String>,
}

type Kept = Arc<Mutex<Vec<Collected>>>;

/// Takes spans until it is dropped.
pub struct Collector {
    url: String,
    spans: Kept,
    _server: JoinSet<()>,
}

impl Collector {
    /// Begins to take them.
    pub async fn start() -> Self {
        let spans = Kept::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(spans.clone());
        Self::serve(router, spans).await
    }

    /// One that takes requests and never answers.
    pub async fn hanging() -> Self {
        Self::serve(Router::new().fallback(std::future::pending::<()>), Kept::default()).await
    }

    async fn serve(router: Router, spans: Kept) -> Self {
        let listener = TcpListener::bind(super::ANYWHERE).await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it listens"));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { url, spans, _server: server }
    }

    /// A daemon's configuration that sends its traces here, all of them or a part.
    pub fn config(&self, sample_rate: f64) -> String {
        format!("[telemetry]\notlp_endpoint = '{}'\nsample_rate = {sample_rate:.1}\n", self.url)
    }

    /// What has come so far.
    pub fn spans(&self) -> Vec<Collected> {
        self.spans.lock().clone()
    }

    /// Those of one name.
    pub fn named(&self, name: &str) -> Vec<Collected> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }
}

async fn take(State(kept): State<Kept>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    let mut kept = kept.lock();
    for from in request.resource_spans {
        let resource = from.resource.map(|resource| pairs(&resource.attributes)).unwrap_or_default();
        let spans = from.scope_spans.into_iter().flat_map(|scope| scope.spans);
        kept.extend(spans.map(|span| collected(span, &resource)));
    }
    StatusCode::OK
}

fn collected(span: Span, resource: &BTreeMap<String, String>) -> Collected {
    Collected {
        kind: span.kind(),
        failed: span.status.as_ref().is_some_and(|status| status.code() == Status::Error),
        attributes: pairs(&span.attributes),
        took: Duration::from_nanos(span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano)),
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
        name: span.name,
        resource: resource.clone(),
    }
}

fn pairs(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    };
    attributes.iter().filter_map(|pair| Some((pair.key.clone(), text(pair)?))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
