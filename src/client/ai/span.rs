//! A call to an AI service as part of a trace (OpenTelemetry's semantic conventions for generative AI, whose names moved
//! to `semantic-conventions-genai` and stand here for themselves). What is asked and answered is not in it.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::endpoint::Endpoint;
use crate::{
    client::Provider,
    domain::{answer::Tokens, completion::Kind, trace::TraceContext, verdict::Failure},
    telemetry::span::{self, Parent, Span},
};

impl Endpoint {
    /// Begins the span of a call.
    pub(super) fn span(&self, kind: Kind, model: &str) -> Span {
        let operation = match kind {
            Kind::Chat => "chat",
            Kind::Embeddings => "embeddings",
        };
        let span = Span::begin(span::Kind::Client, Parent::Current, || format!("{operation} {model}").into());
        if span.is_some() {
            let provider = match self.provider {
                Provider::Openai => "openai",
                Provider::Azure => "azure.ai.openai",
                Provider::Anthropic => "anthropic",
            };
            span.set("gen_ai.operation.name", operation);
            span.set("gen_ai.provider.name", provider);
            span.set("gen_ai.request.model", model.to_owned());
            if let Some(host) = self.host() {
                span.set("server.address", host.to_owned());
            }
        }
        span
    }
}

/// Says how a call ended.
pub(super) fn ended(span: &Span, outcome: Result<Tokens, &Failure>) {
    match outcome {
        Ok(tokens) => used(span, tokens),
        Err(failure) => span.fail(failure.kind()),
    }
}

/// Says what a call has used.
pub(super) fn used(span: &Span, tokens: Tokens) {
    let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    if tokens.total() > 0 {
        span.set("gen_ai.usage.input_tokens", count(tokens.input));
        span.set("gen_ai.usage.output_tokens", count(tokens.output));
    }
}

/// Tells the service in which span it is asked.
pub(super) fn tell(headers: &mut HeaderMap) {
    let Some(context) = span::current() else { return };
    if let Ok(value) = HeaderValue::from_str(&context.to_string()) {
        headers.insert(HeaderName::from_static(TraceContext::HEADER), value);
    }
}
