//! `GET /admin/openapi.json`: the routes of both listeners as an OpenAPI document, made from the handlers and their types.

use axum::Json;
use utoipa::{
    Modify, OpenApi, ToSchema,
    openapi::{
        Content, Ref, ResponseBuilder,
        path::Operation,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::{admin, gateway, health, metrics, tasks, webhook};

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(title = "Tidegate", description = "Webhooks and `/v1` on the public listener, `/admin` and `/metrics` on the admin listener."),
    security(("token" = [])),
    modifiers(&Additions),
    components(schemas(Problem)),
    paths(
        admin::overview::once, admin::overview::watch,
        admin::actors::tree, admin::actors::one, admin::actors::act,
        admin::messages::message, admin::messages::conversations, admin::messages::conversation,
        admin::views::queues, admin::views::breakers, admin::views::limiters, admin::views::nodes,
        admin::views::quarantine, admin::views::config, admin::views::whoami,
        admin::letters::list, admin::letters::groups, admin::letters::show, admin::letters::replay, admin::letters::discard,
        admin::export::export,
        admin::import::import,
        admin::bulk::many, admin::bulk::jobs, admin::bulk::job, admin::bulk::unmute,
        admin::controls::list, admin::controls::breaker, admin::controls::limits, admin::controls::configured_limits,
        admin::controls::pool, admin::controls::node, admin::controls::mute, admin::erase::erase, admin::audit::list,
        metrics::metrics, health::live, health::ready_admin,
        webhook::sunshine, webhook::support, tasks::task,
        gateway::chat, gateway::embeddings, gateway::models::models, gateway::models::model,
    )
)]
struct Document;

/// An error (RFC 9457).
#[derive(ToSchema)]
#[allow(dead_code, reason = "only describes what `problem` writes")]
struct Problem {
    /// Stable.
    r#type: String,
    title: String,
    status: u16,
    /// For people.
    detail: String,
}

/// What is the same everywhere: how errors look, and who is let in.
struct Additions;

impl Modify for Additions {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        let token = bearer.description(Some("admin.tokens at the admin listener, api.keys at /v1")).build();
        components.add_security_scheme("token", SecurityScheme::Http(token));
        let secret = ApiKey::Header(ApiKeyValue::new("x-api-key"));
        components.add_security_scheme("webhook_secret", SecurityScheme::ApiKey(secret));
        for (path, item) in &mut document.paths.paths {
            let all = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
            all.into_iter().flatten().for_each(|operation| refuses(operation, path));
        }
    }
}

/// Every route refuses in the same shape; those of OpenAI's API in theirs.
fn refuses(operation: &mut Operation, path: &str) {
    let is_openais = path.starts_with("/v1/") && !path.starts_with("/v1/tasks");
    let (kind, content) = if is_openais {
        ("application/json", Content::default())
    } else {
        ("application/problem+json", Content::new(Some(Ref::from_schema_name("Problem"))))
    };
    let refusal = ResponseBuilder::new().description("A refusal, with what to change").content(kind, content).build();
    operation.responses.responses.insert("default".into(), refusal.into());
}

/// `GET /admin/openapi.json`
pub async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
