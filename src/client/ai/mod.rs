//! Asks an AI service: whole answers and answers in parts, in OpenAI's shape whatever the provider speaks.
//!
//! ```text
//! Ai::ask       a conversation's question --> chat --.
//! Ai::complete  a client's request ------------------+--> endpoint --> provider, one call, no second try
//! Ai::stream    a client's request, in parts --------'
//! ```
//! A call ends with its future: dropped, its connection is closed.

mod anthropic;
mod chat;
mod endpoint;
mod listing;
mod openai;
mod refusal;
mod span;
mod sse;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use reqwest::{
    Method, Response,
    header::{CONTENT_TYPE, HeaderMap},
};
use tokio::time::{Instant, timeout, timeout_at};

use self::endpoint::Endpoint;
pub use self::{
    listing::Listing,
    refusal::Refusal,
    stream::{Chunk, Stream},
};
use super::{AiService, ModelPrice, Price, Provider, http};
use crate::domain::{
    answer::{Answer, Tokens},
    completion::{Kind, Request},
    prompt::Prompt,
    retry_after::{self, Advice},
    time::Timestamp,
    verdict::Failure,
};

/// The longest embeddings: 1000 texts with 3072 dimensions each in base64 are 16 MiB.
const EMBEDDINGS_BYTES_MAX: usize = 32 << 20;

/// A client of one AI service.
pub struct Ai {
    endpoint: Endpoint,
    model: String,
    models: BTreeMap<String, String>,
    images: bool,
    handoff_tool: String,
    timeout: Duration,
    price: Price,
    prices: Vec<ModelPrice>,
    client: http::PerRuntime,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// The answer in OpenAI's shape; of providers that speak it, byte for byte as it came.
    pub body: Bytes,
    /// Tokens of the question and the answer, as the provider counts them; 0 when it does not.
    pub tokens: Tokens,
    /// The provider's own limit of requests a minute, if its headers tell it.
    pub limit_requests: Option<u64>,
}

impl Ai {
    /// Makes a client; `handoff_tool` names the tool by which the model asks for a human, empty for none.
    pub fn new<L, B>(service: &AiService<L, B>, handoff_tool: &str) -> Result<Self, reqwest::Error> {
        Ok(Self {
            endpoint: Endpoint::new(service),
            model: service.model.clone(),
            models: service.models.clone(),
            images: service.images,
            handoff_tool: handoff_tool.to_owned(),
            timeout: service.timeout,
            price: service.price,
            prices: service.prices.clone(),
            client: http::PerRuntime::new(service.timeout)?,
        })
    }

    /// The provider's name for the model a client asks for; `None`: it is not offered here.
    pub fn offers(&self, asked: &str) -> Option<&str> {
        let ours = (!self.model.is_empty() && asked == self.model).then_some(&self.model);
        self.models.get(asked).or(ours).map(String::as_str)
    }

    /// The model asked for when nobody says which; may be empty.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Time one call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether it can be asked this at all. `model`: by the provider's name.
    ///
    /// # Errors
    /// What the provider does not know, as it would say it.
    pub fn accepts(&self, request: &Request, model: &str) -> Result<(), Refusal> {
        match self.endpoint.provider {
            _ if !self.endpoint.has_address() => Err(Refusal::of(Failure::Unusable(0))),
            Provider::Openai | Provider::Azure => Ok(()),
            Provider::Anthropic => self.endpoint.body(request, model).map(drop),
        }
    }

    /// What tokens of a model cost, by the provider's name; `None`: nobody has said it.
    pub fn price(&self, model: &str) -> Option<Price> {
        let own = self.prices.iter().find(|priced| priced.model == model).map(ModelPrice::price);
        own.or_else(|| Some(self.price).filter(|price| !price.is_none()))
    }

    /// The provider's names of all models that may be asked for, each once.
    pub fn own_models(&self) -> impl Iterator<Item = &str> {
        let all: BTreeSet<&str> = self.models.values().chain([&self.model]).map(String::as_str).collect();
        all.into_iter()
    }

    /// The names clients may ask for, each once.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        let ours = Some(self.model.as_str()).filter(|model| !model.is_empty() && !self.models.contains_key(*model));
        ours.into_iter().chain(self.models.keys().map(String::as_str))
    }

    /// Asks one question of a conversation; with the tokens that it used, also when what came is no answer for a
    /// customer. `now`: the wall clock, for a `Retry-After` that is a date.
    pub async fn ask(&self, prompt: &Prompt, now: Timestamp) -> (Tokens, Result<Answer, Failure>) {
        let span = self.endpoint.span(Kind::Chat, &self.model);
        let (tokens, answer) = match span.over(self.put(prompt, now)).await {
            Ok((body, advice)) => {
                let (tokens, answer) = chat::answer(&body, &self.handoff_tool);
                (tokens, answer.map(|answer| Answer { limit_requests: advice.limit_requests, ..answer }))
            }
            Err(failure) => (Tokens::default(), Err(failure)),
        };
        span::ended(&span, answer.as_ref().map(|_| tokens));
        (tokens, answer)
    }

    /// What comes to a question, in OpenAI's shape.
    async fn put(&self, prompt: &Prompt, now: Timestamp) -> Result<(Bytes, Advice), Failure> {
        let question = chat::question(prompt, &self.model, self.images, &self.handoff_tool);
        let body = match self.endpoint.provider {
            Provider::Openai | Provider::Azure => question,
            Provider::Anthropic => {
                // Only a model without a name makes this no request.
                let request = Request::parse(Kind::Chat, &question).map_err(|_| Failure::Unusable(0))?;
                self.endpoint.body(&request, &self.model).map_err(|refusal| refusal.failure)?
            }
        };
        let told = self.whole(Kind::Chat, &self.model, body, self.timeout, now).await;
        let (body, advice) = told.map_err(|refusal| refusal.failure)?;
        let body = match self.endpoint.provider {
            Provider::Openai | Provider::Azure => body,
            Provider::Anthropic => anthropic::answer::translate(&body, now).map_err(|refusal| refusal.failure)?.0,
        };
        Ok((body, advice))
    }

    /// Gets one whole answer to a client's request, which must not ask for a stream. `model`: by the provider's name.
    /// `within`: time for all of it.
    ///
    /// An answer in which the model refuses, or that a filter cut off, is an answer: its fields tell the client. The
    /// same said by a status (Azure OpenAI's 400 `content_filter`) is a refusal, [`Failure::ContentRefused`].
    pub async fn complete(
        &self,
        request: &Request,
        model: &str,
        within: Duration,
        now: Timestamp,
    ) -> Result<Completion, Refusal> {
        let span = self.endpoint.span(request.kind, model);
        let brought = span.over(self.bring(request, model, within, now)).await;
        span::ended(&span, brought.as_ref().map(|whole| whole.tokens).map_err(|refusal| &refusal.failure));
        brought
    }

    async fn bring(
        &self,
        request: &Request,
        model: &str,
        within: Duration,
        now: Timestamp,
    ) -> Result<Completion, Refusal> {
        let body = self.endpoint.body(request, model)?;
        let (body, advice) = self.whole(request.kind, model, body, within, now).await?;
        let (body, tokens) = match self.endpoint.provider {
            Provider::Openai | Provider::Azure => {
                let tokens = openai::tokens(request.kind, &body)?;
                (body, tokens)
            }
            Provider::Anthropic => anthropic::answer::translate(&body, now)?,
        };
        Ok(Completion { body, tokens, limit_requests: advice.limit_requests })
    }

    /// Gets an answer in parts to a client's request, which must ask for a stream; returns when the first one is there.
    /// `model`: by the provider's name. `first_within`: time until then; after it at most `service.timeout` between two
    /// events.
    pub async fn stream(
        &self,
        request: &Request,
        model: &str,
        first_within: Duration,
        now: Timestamp,
    ) -> Result<Stream, Refusal> {
        let until = Instant::now() + first_within;
        let span = self.endpoint.span(request.kind, model);
        let stream = span.over(timeout_at(until, self.open(request, model, now))).await;
        let stream = stream.unwrap_or_else(|_| Err(Refusal::of(Failure::Timeout)));
        match stream {
            Ok(stream) => Ok(stream.within(span)),
            Err(refusal) => {
                span::ended(&span, Err(&refusal.failure));
                Err(refusal)
            }
        }
    }

    async fn open(&self, request: &Request, model: &str, now: Timestamp) -> Result<Stream, Refusal> {
        let body = self.endpoint.body(request, model)?;
        let (response, advice) = self.send(request.kind, model, body, now).await?;
        if !is_stream(response.headers()) {
            return Err(Refusal::of(Failure::Garbled));
        }
        let mut stream = Stream::new(response, self.endpoint.reader(now), advice.limit_requests, self.timeout);
        stream.begin().await?;
        Ok(stream)
    }

    /// The provider's own body of a successful answer.
    async fn whole(
        &self,
        kind: Kind,
        model: &str,
        body: Vec<u8>,
        within: Duration,
        now: Timestamp,
    ) -> Result<(Bytes, Advice), Refusal> {
        let bytes_max = match kind {
            Kind::Chat => http::BODY_BYTES_MAX,
            Kind::Embeddings => EMBEDDINGS_BYTES_MAX,
        };
        let whole = async {
            let (response, advice) = self.send(kind, model, body, now).await?;
            Ok((read(response, bytes_max).await.map_err(Refusal::of)?, advice))
        };
        timeout(within, whole).await.unwrap_or_else(|_| Err(Refusal::of(Failure::Timeout)))
    }

    /// Sends a request; anything but a success is read to its end and told apart.
    async fn send(
        &self,
        kind: Kind,
        model: &str,
        body: Vec<u8>,
        now: Timestamp,
    ) -> Result<(Response, Advice), Refusal> {
        let Some(url) = self.endpoint.url(kind, model) else { return Err(Refusal::of(Failure::Unusable(0))) };
        let mut call = reqwest::Request::new(Method::POST, url);
        *call.headers_mut() = self.endpoint.headers.clone();
        span::tell(call.headers_mut());
        *call.body_mut() = Some(body.into());
        let broken = |error| Refusal::of(failure(&error));
        let response = self.client.here().map_err(broken)?.execute(call).await.map_err(broken)?;
        let status = response.status().as_u16();
        let advice = advice(response.headers(), now);
        let Some(failure) = Failure::of_status(status, advice.retry_after) else { return Ok((response, advice)) };
        let body = read(response, http::BODY_BYTES_MAX).await.map_err(Refusal::of)?;
        let shaped = match self.endpoint.provider {
            Provider::Openai | Provider::Azure => refusal::openai_shape(&body, status),
            Provider::Anthropic => anthropic::answer::error(&body),
        };
        let retry_after = advice.retry_after;
        Err(Refusal { retry_after, ..Refusal::answered(failure, status, &body, shaped) })
    }
}

fn advice(headers: &HeaderMap, now: Timestamp) -> Advice {
    if !headers.keys().any(|name| retry_after::may_advise(name.as_str())) {
        return Advice::default();
    }
    retry_after::parse(|name| headers.get(name).and_then(|value| value.to_str().ok()), now.0)
}

/// Reads a body to its end.
async fn read(response: Response, bytes_max: usize) -> Result<Bytes, Failure> {
    http::body_up_to(response, bytes_max).await.map_err(|broken| match broken {
        http::Broken::Network(error) => failure(&error),
        http::Broken::TooLong => Failure::Garbled,
    })
}

/// Whether the body is a stream of events; one that does not say what it is may be one.
fn is_stream(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE) else { return true };
    kind.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream")
}

fn failure(error: &reqwest::Error) -> Failure {
    // The client's own time limit counts as a timeout also while the body is read.
    if error.is_timeout() { Failure::Timeout } else { Failure::Connect }
}
