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
//! | `GET /`, `GET /assets/{name}` | `dashboard` |
//! | `/admin/…` | `admin` |

mod admin;
mod body;
mod config;
mod dashboard;
pub mod event_loops;
mod extract;
pub mod gateway;
mod guard;
pub mod health;
mod linger;
pub mod listener;
mod metrics;
mod openapi;
mod problem;
mod signature;
mod tasks;
mod timely;
mod webhook;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{Method, StatusCode, Uri},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use futures_util::future::{Either, FutureExt};
use hyper::body::Incoming;
use prometheus_client::registry::Registry;

use self::listener::Answers;
use crate::{
    actors::{Budget, Desk, Inspector, Parts},
    domain::secret::Secret,
};

pub use admin::overview::Watched;
pub use config::{AdminConfig, AdminRole, AdminToken, ApiConfig, ApiKey, Config, HASHED};
pub use gateway::Gateway;
pub use guard::Failures;
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

impl Public {
    /// Whether a route is open on this node.
    fn has(&self, route: &str) -> bool {
        match route {
            "/v1/tasks/{id}" => true,
            _ if route.starts_with("/webhooks/") => self.ingress,
            _ if route.starts_with("/v1/") => self.api,
            _ => true,
        }
    }
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
    /// What requests count.
    pub metrics: Metrics,
    /// The configuration in force, without its secrets.
    pub effective: Arc<str>,
    /// Wrong tokens.
    pub failures: Arc<Failures>,
    /// What those who watch share.
    pub watched: Arc<Watched>,
    /// `zendesk.app_id`, if it is set.
    pub app: Option<Arc<str>>,
    /// `telemetry.trace_url`, if it is set.
    pub trace_url: Option<Arc<str>>,
}

/// The public routes.
pub fn public(public: Public) -> impl Answers {
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
            .route(gateway::CHAT, post(gateway::chat))
            .route("/v1/embeddings", post(gateway::embeddings))
            .route("/v1/models", get(gateway::models))
            .route("/v1/models/{*id}", get(gateway::model));
    }
    let public = Arc::new(public);
    let router =
        router.method_not_allowed_fallback(method_not_allowed).fallback(no_such_route).with_state(public.clone());
    let routes = Routes { router, public: public.clone() };
    metrics::Measured { routes, public }
}

/// The public routes, of which the busiest is not looked for: that, and the boxes that axum puts around an answer, take a
/// twentieth of all that such a request takes.
#[derive(Clone)]
struct Routes {
    router: Router,
    public: Arc<Public>,
}

impl Answers for Routes {
    fn answer(self, request: Request<Incoming>) -> impl Future<Output = Result<Response, Infallible>> + Send {
        let Self { router, public } = self;
        let is_chat = request.method() == Method::POST && request.uri().path() == gateway::CHAT;
        if is_chat && public.api {
            Either::Left(gateway::chat(State(public), request.map(Body::new)).map(Ok))
        } else {
            Either::Right(router.answer(request))
        }
    }
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
    let open = Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready_admin))
        .route("/", get(dashboard::page))
        .route("/assets/{name}", get(dashboard::asset));
    let guarded = Router::new()
        .route("/metrics", get(metrics::metrics))
        .merge(views())
        .merge(controls())
        .merge(letters())
        .route_layer(middleware::from_fn_with_state(admin.clone(), guard::admit));
    open.merge(guarded)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .fallback(problem::no_such_route)
        .layer(DefaultBodyLimit::max(ADMIN_BODY_MAX))
        .layer(middleware::from_fn_with_state(ADMIN_WITHIN, timely::answer))
        .layer(middleware::from_fn(guard::seal))
        .with_state(admin)
}

fn views() -> Router<Admin> {
    use admin::{actors, audit, messages, overview, views};
    Router::new()
        .route("/admin/overview", get(overview::once))
        .route("/admin/events", get(overview::watch))
        .route("/admin/whoami", get(views::whoami))
        .route("/admin/actors", get(actors::tree))
        .route("/admin/actors/{*path}", get(actors::one).post(actors::act))
        .route("/admin/quarantine", get(views::quarantine))
        .route("/admin/messages/{id}", get(messages::message))
        .route("/admin/conversations", get(messages::conversations))
        .route("/admin/conversations/{id}", get(messages::conversation))
        .route("/admin/queues", get(views::queues))
        .route("/admin/breakers", get(views::breakers))
        .route("/admin/limiters", get(views::limiters))
        .route("/admin/nodes", get(views::nodes))
        .route("/admin/config", get(views::config))
        .route("/admin/openapi.json", get(openapi::document))
        .route("/admin/audit", get(audit::list))
}

fn controls() -> Router<Admin> {
    use admin::{controls, erase};
    Router::new()
        .route("/admin/settings", get(controls::list))
        .route("/admin/breakers/{service}", put(controls::breaker))
        .route("/admin/limiters/{name}", put(controls::limits).delete(controls::configured_limits))
        .route("/admin/pools/{pool}/{action}", post(controls::pool))
        .route("/admin/nodes/{id}/{action}", post(controls::node))
        .route("/admin/mutes", post(controls::mute))
        .route("/admin/erase", post(erase::erase))
}

fn letters() -> Router<Admin> {
    use admin::{bulk, export, import, letters};
    Router::new()
        .route("/admin/dead-letters", get(letters::list))
        .route("/admin/dead-letters/groups", get(letters::groups))
        .route("/admin/dead-letters/export", get(export::export))
        .route("/admin/dead-letters/import", post(import::import).layer(DefaultBodyLimit::max(import::PART_BYTES_MAX)))
        .route("/admin/dead-letters/{id}", get(letters::show).delete(letters::discard).post(bulk::many))
        .route("/admin/dead-letters/{id}/replay", post(letters::replay))
        .route("/admin/jobs", get(bulk::jobs))
        .route("/admin/jobs/{id}/{action}", post(bulk::job))
        .route("/admin/mutes/end", post(bulk::unmute))
}
