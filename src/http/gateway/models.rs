//! Which models there are, and which services answer for one.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{Gateway, keys, refusal::Refusal, watch};
use crate::{
    client::Ai,
    domain::completion::{Kind, Request},
    http::{ApiKey, Public},
};

/// The model that a service is asked for: the one it offers under that name, or its own.
pub(super) fn model_at<'a>(ai: &'a Ai, request: &Request) -> &'a str {
    ai.offers(&request.model).unwrap_or_else(|| ai.model())
}

/// Who is asked for a model, in order, by their place among all services: the services that offer it, then those that
/// stand in with a model of their own, if the key may use that. Vectors of different models are not to be compared, so
/// nobody stands in for embeddings.
pub(super) fn chain(gateway: &Gateway, key: &ApiKey, request: &Request) -> Result<Vec<usize>, Refusal> {
    if !may_use(key, &request.model) {
        return Err(Refusal::unknown_model());
    }
    let ai = &gateway.parts.ai;
    let offers = |service: &usize| ai[*service].offers(&request.model).is_some();
    let mut chain: Vec<usize> = (0..ai.len()).filter(offers).collect();
    if chain.is_empty() {
        return Err(Refusal::unknown_model());
    }
    if gateway.config.stand_in && request.kind == Kind::Chat {
        let may_stand_in = |service: &usize| {
            let model = ai[*service].model();
            !offers(service) && !model.is_empty() && may_use(key, model)
        };
        chain.extend((0..ai.len()).filter(may_stand_in));
    }
    let mut refused = None;
    chain.retain(|service| match ai[*service].accepts(request, model_at(&ai[*service], request)) {
        Ok(()) => true,
        // What the first one says of it.
        Err(why) => {
            refused.get_or_insert(why);
            false
        }
    });
    match refused {
        Some(why) if chain.is_empty() => Err(Refusal::of(&why.failure).saying(why.body)),
        _ => Ok(chain),
    }
}

fn may_use(key: &ApiKey, model: &str) -> bool {
    key.models.is_empty() || key.models.iter().any(|allowed| allowed == model)
}

/// `GET /v1/models`
#[utoipa::path(get, path = "/v1/models", tag = "public", responses((status = 200, body = Object)))]
pub async fn models(State(public): State<Arc<Public>>, headers: HeaderMap) -> Response {
    let listed = listed(&public.gateway, &headers);
    answer(listed.map(|models| json!({ "object": "list", "data": models })))
}

/// `GET /v1/models/{id}`
#[utoipa::path(get, path = "/v1/models/{id}", tag = "public", params(("id" = String, Path)), responses((status = 200, body = Object)))]
pub async fn model(
    State(public): State<Arc<Public>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let found = listed(&public.gateway, &headers).and_then(|models| {
        // What is no text is no name of a model.
        let Path(id) = id.map_err(|_| Refusal::unknown_model())?;
        models.into_iter().find(|model| model["id"] == *id).ok_or_else(Refusal::unknown_model)
    });
    answer(found)
}

fn answer(said: Result<Value, Refusal>) -> Response {
    let response = said.map_or_else(IntoResponse::into_response, |said| Json(said).into_response());
    watch::named(response, &watch::new_id())
}

/// What the bearer of a key may ask for, each model once, with the service that is asked first.
fn listed(gateway: &Gateway, headers: &HeaderMap) -> Result<Vec<Value>, Refusal> {
    let key = keys::find(&gateway.config.keys, headers).ok_or_else(Refusal::unknown_key)?;
    let key = &gateway.config.keys[key];
    let mut models: Vec<(&str, &str)> = Vec::new();
    for (ai, service) in gateway.parts.ai.iter().zip(gateway.parts.stack.services()) {
        for model in ai.models() {
            if may_use(key, model) && models.iter().all(|(known, _)| *known != model) {
                models.push((model, service.name));
            }
        }
    }
    let shown = |(id, owner)| json!({ "id": id, "object": "model", "created": 0, "owned_by": owner });
    Ok(models.into_iter().map(shown).collect())
}
