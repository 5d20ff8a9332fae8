//! Whether an AI service is there, takes our key, and has the model.

use super::{ANSWER_WITHIN, Finding};
use crate::{
    actors::Service,
    client::{Ai, Listing, Provider},
};

pub(super) async fn finding(service: &Service) -> Finding {
    let (what, base_url) = (format!("ai/{}", service.name), &service.base_url);
    let Ok(ai) = Ai::new(service, "") else {
        return Finding::bad(what, "no client can be made for it", "check base_url of this service");
    };
    match ai.list(ANSWER_WITHIN).await {
        Ok(Listing::Models(models)) => listed(what, service, &ai, &models),
        Ok(Listing::Answers(status)) => answered(what, service.provider, &ai.lists_at(), status),
        Err(_) => Finding::bad(what, format!("no answer from `{base_url}`"), "check base_url of this service"),
    }
}

fn listed(what: String, service: &Service, ai: &Ai, models: &[String]) -> Finding {
    let base_url = &service.base_url;
    // Azure lists models, and is asked for deployments.
    if service.provider == Provider::Azure {
        return Finding::good(what, format!("{base_url} takes the key"));
    }
    let missing: Vec<&str> =
        ai.own_models().filter(|own| !own.is_empty() && models.iter().all(|model| model != own)).collect();
    if missing.is_empty() {
        return Finding::good(what, format!("{base_url} has the model"));
    }
    let detail = format!("{base_url} lists no model {}", missing.join(", "));
    let listed = some(models);
    let remedy =
        format!("it lists {listed}; check model and models of this service, unless it knows others by another name");
    Finding::warn(what, detail, remedy)
}

/// Enough of them to recognise what was meant.
fn some(models: &[String]) -> String {
    let shown: Vec<&str> = models.iter().take(8).map(String::as_str).collect();
    let more = if models.len() > shown.len() { ", ..." } else { "" };
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") + more }
}

fn answered(what: String, provider: Provider, asked: &str, status: u16) -> Finding {
    let detail = format!("{asked} answers {status}");
    match status {
        401 | 407 => Finding::bad(what, detail, "check api_key of this service"),
        403 => Finding::warn(what, detail, "check api_key of this service; one that may not list models may be well"),
        404 | 405 => {
            let address = match provider {
                Provider::Openai => "up to and without /chat/completions, mostly with /v1",
                Provider::Azure => "up to and without /openai, like https://NAME.openai.azure.com",
                Provider::Anthropic => "up to and without /messages, like https://api.anthropic.com",
            };
            let remedy =
                format!("check base_url of this service: {address}; a service that lists no models may be well");
            Finding::warn(what, detail, remedy)
        }
        300..=399 => Finding::bad(what, detail, "check base_url of this service: it leads elsewhere"),
        500.. => Finding::warn(what, detail, "the service fails at the moment; look at its own status"),
        _ => Finding::warn(what, detail, "whether it answers questions the first one tells"),
    }
}
