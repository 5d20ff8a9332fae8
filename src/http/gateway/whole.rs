//! An answer in one piece.

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use futures_util::FutureExt;

use super::{asking::Asking, refusal::Refusal, watch};
use crate::{
    domain::{
        answer::{Answer, Tokens},
        verdict::Failure,
    },
    guard::Source,
};

/// Answers a request in one piece.
pub(super) async fn answer(asking: &Asking) -> Result<Response, Refusal> {
    let (body, tokens, source) = asking.in_time(ask(asking)).await?;
    let mut headers = asking.watch.headers(source);
    let used = asking.used(tokens);
    asking.visit.ended(None);
    // What comes from the cache tells what it took once.
    let shown = if source == Source::Asked { used.tokens } else { tokens };
    watch::add_usage(&mut headers, shown, used.cost);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut response = Response::new(Body::from(body));
    *response.headers_mut() = headers;
    Ok(response)
}

async fn ask(asking: &Asking) -> Result<(Bytes, Tokens, Source), Refusal> {
    if asking.is_cached() {
        return recall(asking).boxed().await;
    }
    let stack = &asking.visit.gateway.parts.stack;
    let call = |service| asking.complete(service);
    let completion = asking.persist(|| stack.ask_anew(asking.question(), &asking.watch, call)).await?;
    Ok((completion.body, completion.tokens, Source::Asked))
}

async fn recall(asking: &Asking) -> Result<(Bytes, Tokens, Source), Refusal> {
    let stack = &asking.visit.gateway.parts.stack;
    let call = |service| to_keep(asking, service);
    let (answer, source) = asking.persist(|| stack.ask_or_recall(asking.question(), &asking.watch, call)).await?;
    Ok((answer.text.into(), answer.tokens, source))
}

/// The cache keeps texts; the whole answer is one.
async fn to_keep(asking: &Asking, service: usize) -> Result<Answer, Failure> {
    let completion = asking.complete(service).await?;
    let (tokens, limit_requests) = (completion.tokens, completion.limit_requests);
    let text = String::from_utf8(completion.body.into()).map_err(|_| Failure::Garbled)?;
    Ok(Answer { text, tokens, limit_requests, stands_in: asking.stands_in(service), ..Answer::default() })
}
