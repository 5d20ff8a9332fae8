//! Spans: what a message's way is made of, for whoever collects traces. Where nobody does, they cost next to nothing.
//!
//! Names and attributes follow OpenTelemetry's semantic conventions for HTTP, messaging and generative AI. None holds
//! what a customer wrote, a key or a token.

use std::{
    borrow::Cow,
    sync::atomic::{AtomicBool, Ordering},
};

use opentelemetry::{
    Context, SpanId, TraceFlags, TraceId, Value,
    trace::{FutureExt, SpanContext, Status, TraceContextExt, TraceState},
};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::domain::trace::TraceContext;

/// Tells spans of traces from what is logged.
pub(super) const TARGET: &str = "tidegate::span";

/// Whether anybody collects them.
static COLLECTED: AtomicBool = AtomicBool::new(false);

/// On which side of a call, or of a queue, a span is (OpenTelemetry's `SpanKind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Answers a request.
    Server,
    /// Calls somebody.
    Client,
    /// Puts a message into a queue.
    Producer,
    /// Works on a message from a queue.
    Consumer,
}

/// Where a span hangs.
#[derive(Debug, Clone, Copy)]
pub enum Parent {
    /// Below the span that is being worked in, if there is one.
    Current,
    /// Below a span of whatever node; without one a trace begins.
    Told(Option<TraceContext>),
}

/// A span that is under way. It is sent when its last copy is dropped, and has lasted until it was worked in last, or until
/// then if nobody has worked in it.
#[derive(Debug, Clone)]
pub struct Span(tracing::Span);

impl Default for Span {
    fn default() -> Self {
        Self(tracing::Span::none())
    }
}

/// Whether spans are collected: whoever has to work for an attribute asks first.
pub fn is_collected() -> bool {
    COLLECTED.load(Ordering::Relaxed)
}

pub(super) fn collect() {
    COLLECTED.store(true, Ordering::Relaxed);
}

impl Span {
    /// Begins one. The name is asked for only if it is collected.
    pub fn begin(kind: Kind, parent: Parent, name: impl FnOnce() -> Cow<'static, str>) -> Self {
        if !is_collected() {
            return Self::default();
        }
        let (name, kind) = (name(), kind.as_str());
        match parent {
            Parent::Current => {
                Self(tracing::info_span!(target: TARGET, "span", otel.name = name.as_ref(), otel.kind = kind))
            }
            Parent::Told(told) => {
                let span = tracing::info_span!(target: TARGET, parent: None, "span", otel.name = name.as_ref(), otel.kind = kind);
                let above =
                    told.map_or_else(Context::new, |told| Context::new().with_remote_span_context(remote(told)));
                // Fails only once the span has begun.
                let _ = span.set_parent(above);
                Self(span)
            }
        }
    }

    /// Whether it is collected.
    pub fn is_some(&self) -> bool {
        !self.0.is_none()
    }

    /// Says something of it.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        if self.is_some() {
            self.0.set_attribute(key, value);
        }
    }

    /// It has failed: with this it is kept whatever the sampling says. `kind`: a word from a known set.
    pub fn fail(&self, kind: &'static str) {
        if self.is_some() {
            self.0.set_attribute("error.type", kind);
            self.0.set_status(Status::error(kind));
        }
    }

    /// Names another span that it has to do with.
    pub fn link(&self, to: TraceContext) {
        if self.is_some() {
            self.0.add_link(remote(to));
        }
    }

    /// It has lasted until now, although nobody works in it.
    pub fn touch(&self) {
        self.0.in_scope(|| ());
    }

    /// Where it stands.
    pub fn context(&self) -> Option<TraceContext> {
        if self.is_some() { told(self.0.context().span().span_context()) } else { None }
    }

    /// Does something within it: whatever begins there hangs below.
    pub fn over<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        work.instrument(self.0.clone())
    }
}

/// Does something elsewhere, below a span that need not wait for it: a part of the trace of its own.
pub fn below<F: Future>(above: Option<TraceContext>, work: F) -> impl Future<Output = F::Output> + use<F> {
    let context = above.map_or_else(Context::new, |above| Context::new().with_remote_span_context(remote(above)));
    work.with_context(context)
}

/// The span that is being worked in, for what goes on elsewhere.
pub fn here() -> Span {
    if is_collected() { Span(tracing::Span::current()) } else { Span::default() }
}

/// The span that is being worked in.
pub fn current() -> Option<TraceContext> {
    if is_collected() { Context::map_current(|context| told(context.span().span_context())) } else { None }
}

/// The trace that is being worked in, if it is recorded for good: what an exemplar names.
pub fn sampled_trace() -> Option<String> {
    current().filter(|context| context.sampled).map(|context| context.trace_id())
}

fn remote(context: TraceContext) -> SpanContext {
    let flags = if context.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let (trace, span) = (TraceId::from_bytes(context.trace), SpanId::from_bytes(context.span));
    SpanContext::new(trace, span, flags, true, TraceState::NONE)
}

fn told(context: &SpanContext) -> Option<TraceContext> {
    context.is_valid().then(|| TraceContext {
        trace: context.trace_id().to_bytes(),
        span: context.span_id().to_bytes(),
        sampled: context.is_sampled(),
    })
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }
}
