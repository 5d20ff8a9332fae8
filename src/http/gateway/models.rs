//! Which models there are, and which services answer for one.

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{Gateway, keys, refusal::Refusal};
use crate::{
    domain::completion::{Kind, Request},
    http::{ApiKey, Public, extract::Path},
};

/// A service that can be asked, and by what name it knows the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the chain of all services.
    pub service: usize,
    /// The model as it names it.
    pub model: String,
}

/// Who is asked for a model, in order: the services that offer it, then those that stand in with a model of their own.
/// Vectors of different models are not to be compared, so nobody stands in for embeddings.
pub(super) fn candidates(gateway: &Gateway, key: &ApiKey, request: &Request) -> Result<Vec<Candidate>, Refusal> {
    if !may_use(key, &request.model) {
        return Err(Refusal::unknown_model());
    }
    let services = || gateway.parts.ai.iter().enumerate();
    let offers = services()
        .filter_map(|(service, ai)| Some(Candidate { service, model: ai.offers(&request.model)?.to_owned() }));
    let mut candidates: Vec<Candidate> = offers.collect();
    if candidates.is_empty() {
        return Err(Refusal::unknown_model());
    }
    if gateway.config.stand_in && request.kind == Kind::Chat {
        let others = services().filter(|(_, ai)| ai.offers(&request.model).is_none() && !ai.model().is_empty());
        candidates.extend(others.map(|(service, ai)| Candidate { service, model: ai.model().to_owned() }));
    }
    let (mut able, mut refused) = (Vec::new(), None);
    for candidate in candidates {
        match gateway.parts.ai[candidate.service].accepts(request, &candidate.model) {
            Ok(()) => able.push(candidate),
            // What the first one says of it.
            Err(why) => drop(refused.get_or_insert(why)),
        }
    }
    match refused {
        Some(why) if able.is_empty() => Err(Refusal::of(&why.failure).saying(why.body)),
        _ => Ok(able),
    }
}

fn may_use(key: &ApiKey, model: &str) -> bool {
    key.models.is_empty() || key.models.iter().any(|allowed| allowed == model)
}

/// `GET /v1/models`
pub async fn models(State(public): State<Public>, headers: HeaderMap) -> Response {
    match listed(&public.gateway, &headers) {
        Ok(models) => Json(json!({ "object": "list", "data": models })).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// `GET /v1/models/{id}`
pub async fn model(State(public): State<Public>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    let found = listed(&public.gateway, &headers)
        .and_then(|models| models.into_iter().find(|model| model["id"] == *id).ok_or_else(Refusal::unknown_model));
    found.map_or_else(IntoResponse::into_response, |model| Json(model).into_response())
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
