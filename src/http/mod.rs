//! The two listeners. All routes stand here.
//!
//! | public (`http.listen`) | |
//! |---|---|
//! | `POST /webhooks/sunshine` | `webhook` |
//! | `POST /webhooks/zendesk` | `webhook`, `signature` |
//! | `POST /v1/chat/completions`, `POST /v1/embeddings`, `GET /v1/models`, `GET /v1/models/{id}` | `gateway` |
//! | `GET /v1/tasks/{id}` | `tasks` |
//! | `GET /livez`, `GET /readyz` | `health`, on both |
//!
//! | admin (`admin.listen`) | |
//! |---|---|
//! | `GET /metrics` | `metrics` |
//! | `GET /admin/actors`, `GET /admin/actors/{path}`, `POST /admin/actors/{path}/crash` | `admin` |
//! | `GET /admin/dead-letters`, `GET`, `DELETE /admin/dead-letters/{id}`, `POST /admin/dead-letters/{id}/replay` | `letters` |
//! | `GET /admin/messages/{id}`, `GET /admin/queues`, `GET /admin/breakers`, `GET /admin/limiters`, `GET /admin/nodes` | `admin` |

mod admin;
mod body;
mod config;
mod extract;
pub mod gateway;
mod guard;
pub mod health;
mod letters;
mod linger;
pub mod listener;
mod metrics;
mod problem;
mod signature;
mod tasks;
mod timely;
mod webhook;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{Method, StatusCode, Uri},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use prometheus_client::registry::Registry;

use crate::{
    actors::{Budget, Desk, Inspector, Parts},
    domain::secret::Secret,
};

pub use config::{AdminConfig, AdminRole, AdminToken, ApiConfig, ApiKey, Config};
pub use gateway::Gateway;
pub use health::Health;
pub use metrics::Metrics;

/// The largest body on the admin listener: orders are short.
const ADMIN_BODY_MAX: usize = 64 << 10;

/// Time in which the admin listener answers.
const ADMIN_WITHIN: Duration = Duration::from_secs(10);

/// What the public routes work with.
pub struct Public {
    /// What the actors share.
    pub parts: Arc<Parts>,
    /// Where deliveries are stored; webhooks take turns.
    pub desks: Arc<[Arc<Desk>]>,
    /// What the bytes of webhooks under way share.
    pub budget: Budget,
    /// Whether webhooks are taken at all.
    pub ingress: bool,
    /// `zendesk.webhook_secrets`.
    pub webhook_secrets: Arc<[Secret]>,
    /// `zendesk.support_webhook_secrets`.
    pub support_secrets: Arc<[Secret]>,
    /// The listener's limits.
    pub config: Config,
    /// The synchronous road.
    pub gateway: Arc<Gateway>,
    /// Whether it is open on this node.
    pub api: bool,
    /// The node's health.
    pub health: Arc<Health>,
    /// Looks at messages.
    pub inspector: Inspector,
    /// What requests count.
    pub metrics: Metrics,
}

/// What the admin routes work with.
#[derive(Clone)]
pub struct Admin {
    /// What the actors share.
    pub parts: Arc<Parts>,
    /// Looks at actors and messages.
    pub inspector: Inspector,
    /// Who may look and act.
    pub config: AdminConfig,
    /// The node's health.
    pub health: Arc<Health>,
    /// Everything that is counted.
    pub registry: Arc<Registry>,
}

/// The public routes.
pub fn public(public: Public) -> Router {
    let mut router = Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready_public))
        .route("/v1/tasks/{id}", get(tasks::task))
        .route_layer(middleware::from_fn_with_state(public.config.request_timeout, timely::answer));
    if public.ingress {
        // Bounded by themselves: what is late differs between the body and the store.
        router = router
            .route("/webhooks/sunshine", post(webhook::sunshine))
            .route("/webhooks/zendesk", post(webhook::support));
    }
    if public.api {
        // Bounded by themselves, too: a stream takes as long as it takes.
        router = router
            .route("/v1/chat/completions", post(gateway::chat))
            .route("/v1/embeddings", post(gateway::embeddings))
            .route("/v1/models", get(gateway::models))
            .route("/v1/models/{*id}", get(gateway::model));
    }
    let public = Arc::new(public);
    router
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(no_such_route)
        .layer(middleware::from_fn_with_state(public.clone(), metrics::measure))
        .with_state(public)
}

async fn no_such_route(State(public): State<Arc<Public>>, uri: Uri) -> Response {
    if public.api && gateway::owns(uri.path()) {
        return gateway::unknown_url(StatusCode::NOT_FOUND);
    }
    problem::no_such_route(uri).await.into_response()
}

async fn method_not_allowed(State(public): State<Arc<Public>>, uri: Uri, method: Method) -> Response {
    if public.api && gateway::owns(uri.path()) {
        return gateway::unknown_url(StatusCode::METHOD_NOT_ALLOWED);
    }
    problem::method_not_allowed(method).await.into_response()
}

/// The admin routes.
pub fn admin(admin: Admin) -> Router {
    let health = Router::new().route("/livez", get(health::live)).route("/readyz", get(health::ready_admin));
    let guarded = Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/admin/actors", get(admin::actors))
        .route("/admin/actors/{*path}", get(admin::actor).post(admin::act))
        .route("/admin/messages/{id}", get(admin::message))
        .route("/admin/queues", get(admin::queues))
        .route("/admin/breakers", get(admin::breakers))
        .route("/admin/limiters", get(admin::limiters))
        .route("/admin/nodes", get(admin::nodes))
        .route("/admin/dead-letters", get(letters::list))
        .route("/admin/dead-letters/{id}", get(letters::show).delete(letters::discard))
        .route("/admin/dead-letters/{id}/replay", post(letters::replay))
        .route_layer(middleware::from_fn_with_state(admin.clone(), guard::admit));
    health
        .merge(guarded)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .fallback(problem::no_such_route)
        .layer(DefaultBodyLimit::max(ADMIN_BODY_MAX))
        .layer(middleware::from_fn_with_state(ADMIN_WITHIN, timely::answer))
        .with_state(admin)
}
