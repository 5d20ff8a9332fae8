//! Spans on their way to a collector (OTLP over HTTP): sampled by ratio, with errors always kept, and never waited for.
//!
//! ```text
//! span ends -> sampled, or of a part of a trace that failed (unsampled.rs)? -> buffer -> a thread of its own -> collector
//! ```
//! A buffer that is full, and a collector that does not take them, cost spans, which are counted, and nothing else.

use std::{
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc as blocking,
    },
    thread,
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceId, TracerProvider},
};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        Sampler, SamplingDecision, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample, Span, SpanData,
        SpanExporter, SpanLimits, SpanProcessor,
    },
};
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
    registry::Registry,
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    Config, Error,
    unsampled::{Ended, Unsampled},
};

/// Spans that wait to be sent: some seconds at full speed; about 8 MiB, and with all links three times as much.
const BUFFER_MAX: usize = 8_192;

/// Spans sent at once (OpenTelemetry SDK specification, "Batching processor").
const BATCH_MAX: usize = 512;

/// Spans are gathered for so long.
const GATHERED_FOR: Duration = Duration::from_secs(1);

/// A collector that takes longer is taken for gone.
const SENT_WITHIN: Duration = Duration::from_secs(10);

/// What is in the buffer at the end of the process is sent within.
const FLUSHED_WITHIN: Duration = Duration::from_secs(3);

/// Links of a span at the most: those of a burst's messages.
const LINKS_MAX: u32 = 32;

static SENT: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// The way of the spans, until it is dropped.
pub struct Traces {
    provider: SdkTracerProvider,
    ended: blocking::Receiver<()>,
}

impl Traces {
    /// Opens it.
    ///
    /// # Errors
    /// The address is none, or the thread cannot be started.
    pub(super) fn open(config: &Config) -> Result<Self, Error> {
        let unusable = |error: &dyn std::fmt::Display| Error::Traces(error.to_string());
        let exporter = exporter(config).map_err(|error| unusable(&error))?;
        let (buffer, spans) = mpsc::channel(BUFFER_MAX);
        let (ending, ended) = blocking::sync_channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| unusable(&error))?;
        let sending = move || {
            runtime.block_on(send_all(spans, exporter));
            // Nobody may wait for it any more.
            let _ = ending.send(());
        };
        thread::Builder::new().name("traces".into()).spawn(sending).map_err(|error| unusable(&error))?;
        let outbox = Outbox { buffer: Mutex::new(Some(buffer)), unsampled: Mutex::default() };
        let limits = SpanLimits { max_links_per_span: LINKS_MAX, ..SpanLimits::default() };
        let provider = SdkTracerProvider::builder()
            .with_sampler(Recording(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_rate)))))
            .with_span_limits(limits)
            .with_resource(resource(config))
            .with_span_processor(outbox)
            .build();
        Ok(Self { provider, ended })
    }

    /// Makes spans.
    pub(super) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("tidegate")
    }
}

impl Drop for Traces {
    /// Sends what there is, as far as the time goes.
    fn drop(&mut self) {
        // Closes the buffer.
        let _ = self.provider.shutdown();
        let _ = self.ended.recv_timeout(FLUSHED_WITHIN);
    }
}

fn exporter(config: &Config) -> Result<opentelemetry_otlp::SpanExporter, Box<dyn std::error::Error>> {
    let client = reqwest::Client::builder().timeout(SENT_WITHIN).build()?;
    let endpoint = format!("{}/v1/traces", config.otlp_endpoint.trim_end_matches('/'));
    let mut exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(endpoint)
        .with_timeout(SENT_WITHIN)
        .build()?;
    exporter.set_resource(&resource(config));
    Ok(exporter)
}

/// Who the spans are from (semantic conventions, "Service", "Deployment").
fn resource(config: &Config) -> Resource {
    let mut told = vec![KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    if !config.environment.is_empty() {
        told.push(KeyValue::new("deployment.environment.name", config.environment.clone()));
    }
    Resource::builder_empty().with_service_name(config.service_name.clone()).with_attributes(told).build()
}

/// Sends what comes, until nobody is left who might send something.
async fn send_all(mut spans: mpsc::Receiver<SpanData>, exporter: impl SpanExporter) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut works = true;
    while spans.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let gathering = async { while batch.len() < BATCH_MAX && spans.recv_many(&mut batch, BATCH_MAX).await > 0 {} };
        let _ = timeout(GATHERED_FOR, gathering).await;
        for batch in in_batches(std::mem::take(&mut batch)) {
            let count = batch.len() as u64;
            let sent = timeout(SENT_WITHIN, exporter.export(batch)).await;
            let taken = matches!(sent, Ok(Ok(())));
            (if taken { &SENT } else { &DROPPED }).fetch_add(count, Ordering::Relaxed);
            if works && !taken {
                tracing::warn!(
                    "the collector of traces does not take them (telemetry.otlp_endpoint); they are dropped"
                );
            }
            works = taken;
        }
    }
}

fn in_batches(mut spans: Vec<SpanData>) -> impl Iterator<Item = Vec<SpanData>> {
    std::iter::from_fn(move || {
        let rest = spans.split_off(spans.len().min(BATCH_MAX));
        let batch = std::mem::replace(&mut spans, rest);
        (!batch.is_empty()).then_some(batch)
    })
}

/// Takes spans that have ended.
#[derive(Debug)]
struct Outbox {
    /// Closed in the end.
    buffer: Mutex<Option<mpsc::Sender<SpanData>>>,
    unsampled: Mutex<Unsampled>,
}

impl Outbox {
    fn put(&self, span: SpanData) {
        let fits = self.buffer.lock().as_ref().is_some_and(|buffer| buffer.try_send(span).is_ok());
        if !fits {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl SpanProcessor for Outbox {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            return self.put(span);
        }
        let ended = self.unsampled.lock().ended(span);
        match ended {
            Ended::Kept => {}
            Ended::Forgotten => drop(DROPPED.fetch_add(1, Ordering::Relaxed)),
            Ended::Over(failed) => failed.into_iter().for_each(|span| self.put(span)),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.buffer.lock().take();
        Ok(())
    }
}

/// Records also what is not sampled, for it may fail yet.
#[derive(Debug, Clone)]
struct Recording(Sampler);

impl ShouldSample for Recording {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut sampled = self.0.should_sample(parent, trace, name, kind, attributes, links);
        if sampled.decision == SamplingDecision::Drop {
            sampled.decision = SamplingDecision::RecordOnly;
        }
        sampled
    }
}

#[derive(Debug)]
struct Spans;

/// Registers what became of the process's spans.
pub fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Spans));
}

impl Collector for Spans {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Spans of traces by what became of them";
        let mut family = encoder.encode_descriptor("tidegate_trace_spans", help, None, MetricType::Counter)?;
        for (outcome, count) in [("sent", &SENT), ("dropped", &DROPPED)] {
            let labels = [("outcome", outcome)];
            ConstCounter::new(count.load(Ordering::Relaxed)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
