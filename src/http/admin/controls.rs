//! What operators set while the nodes run. Seen on all nodes within a second, on this one at once.

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{Admin, Problem, Who, came_of, not_done, noted, read};
use crate::{
    actors::{
        KEY_LIMITERS,
        settings::{self, Mute, Order, OtherLimits, Pool},
    },
    guard::{Permits, Service, breaker::Mode},
    http::extract::{Body, Path},
    state::settings::Setting,
};

/// Stands for the id of the node that is asked.
const SELF: &str = "self";

/// `PUT /admin/breakers/{service}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BreakerOrder {
    mode: Mode,
    /// Whether it outlives this process.
    #[serde(default)]
    keep: bool,
}

/// `PUT /admin/limiters/{name}`
#[derive(Debug, Deserialize)]
struct LimitsOrder {
    #[serde(default)]
    keep: bool,
    #[serde(flatten)]
    limits: serde_json::Map<String, Value>,
}

/// What is written to set other limits.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only describes the body")]
struct LimitsBody {
    #[schema(inline)]
    #[schema(value_type = bool)]
    keep: Option<bool>,
    #[schema(minimum = 0)]
    burst: Option<u32>,
    #[schema(minimum = 0)]
    per_minute: Option<u64>,
    #[schema(minimum = 0)]
    per_hour: Option<u64>,
    #[schema(minimum = 0)]
    tokens_per_minute: Option<u64>,
    #[schema(minimum = 1)]
    concurrency: Option<usize>,
}

/// `POST /admin/mutes`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MuteOrder {
    mute: Mute,
}

/// What has been set.
#[derive(Debug, Serialize, ToSchema)]
pub struct Done {
    /// Whether anything has changed.
    changed: bool,
}

/// `GET /admin/settings`: what operators have set, by name.
#[utoipa::path(get, path = "/admin/settings", tag = "controls", responses((status = 200, body = Vec<Setting>)))]
pub async fn list(State(admin): State<Admin>) -> Json<Vec<Setting>> {
    Json(admin.parts.settings.all())
}

/// `PUT /admin/breakers/{service}`
#[utoipa::path(put, path = "/admin/breakers/{service}", tag = "controls", params(("service" = String, Path)), request_body = BreakerOrder, responses((status = 200, body = Done)))]
pub async fn breaker(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    Body(body): Body,
) -> Result<Json<Done>, Problem> {
    service(&admin, &name)?;
    let BreakerOrder { mode, keep } = read(&body, r#"{"mode":"auto|open|closed","keep":false}"#)?;
    let action = match mode {
        Mode::Auto => "breaker.auto",
        Mode::Open => "breaker.open",
        Mode::Closed => "breaker.close",
    };
    noted(&admin, &who, action, &name, json!({ "keep": keep })).await?;
    let order = Order::Breaker(name, mode);
    if mode == Mode::Auto { unset(&admin, &order, &who).await.map(done) } else { set(&admin, &order, &who, keep).await }
}

/// `PUT /admin/limiters/{name}`: of a service, or of an API key (`key:` and its name).
#[utoipa::path(put, path = "/admin/limiters/{name}", tag = "controls", params(("name" = String, Path)), request_body = LimitsBody, responses((status = 200, body = Done)))]
pub async fn limits(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    Body(body): Body,
) -> Result<Json<Done>, Problem> {
    let Limited { permits, has_slots } = limited(&admin, &name)?;
    let shape =
        r#"{"burst":n,"per_minute":n,"per_hour":n,"tokens_per_minute":n,"concurrency":n,"keep":false}, or some of it"#;
    let LimitsOrder { keep, limits } = read(&body, shape)?;
    let text = Value::Object(limits).to_string();
    let limits: OtherLimits = read(text.as_bytes(), shape)?;
    let refuse = |detail: &str| Err(Problem::new(StatusCode::BAD_REQUEST, "unusable-limits", detail));
    if limits == OtherLimits::default() {
        return refuse("name at least one limit");
    }
    if limits.concurrency.is_some() && !has_slots {
        return refuse("concurrency is a service's; an API key has none");
    }
    if limits.concurrency == Some(0) {
        return refuse("concurrency is at least 1; to stop calling a service, hold its breaker open");
    }
    if limits.forgets(permits.configured()) {
        return refuse("0 would forget what was used so far; set a number, if need be a high one");
    }
    if limits.outlasts(permits.configured()) {
        return refuse(
            "a window longer than all that are configured would be empty after a restart; configure one of that length",
        );
    }
    // What is not limited is not counted over the nodes, and cannot be from one moment to the next.
    let is_new_kind = !permits.configured().limits_anything() && limits.limits_requests();
    if is_new_kind && admin.parts.nodes.is_fleet() {
        return refuse("this service has no limits in the configuration; set some there first");
    }
    noted(&admin, &who, "limits.set", &name, json!({ "limits": limits, "keep": keep })).await?;
    set(&admin, &Order::Limits(name, limits), &who, keep).await
}

/// `DELETE /admin/limiters/{name}`: those that are configured hold again.
#[utoipa::path(delete, path = "/admin/limiters/{name}", tag = "controls", params(("name" = String, Path)), responses((status = 200, body = Done)))]
pub async fn configured_limits(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Result<Json<Done>, Problem> {
    let order = Order::Limits(name.clone(), OtherLimits::default());
    // Also of those who are gone from the configuration.
    let is_set = admin.parts.settings.all().iter().any(|setting| setting.name == order.name());
    if !is_set {
        limited(&admin, &name)?;
    }
    noted(&admin, &who, "limits.reset", &name, Value::Null).await?;
    unset(&admin, &order, &who).await.map(done)
}

/// `POST /admin/pools/{pool}/pause` and `/resume`: on all nodes, until it is resumed.
#[utoipa::path(post, path = "/admin/pools/{pool}/{action}", tag = "controls", params(("pool" = String, Path), ("action" = String, Path)), responses((status = 200, body = Done)))]
pub async fn pool(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path((pool, action)): Path<(String, String)>,
) -> Result<Json<Done>, Problem> {
    let Some(found) = Pool::ALL.into_iter().find(|known| known.as_str() == pool) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "no-such-pool", "the pools are chat, events and retry"));
    };
    let action = Toggle::read(&action, "pause")?;
    noted(&admin, &who, &format!("pool.{}", action.name("pause")), &pool, Value::Null).await?;
    action.order(&admin, &Order::Pause(found), &who).await
}

/// `POST /admin/nodes/{id}/drain` and `/resume`: the node takes nothing more from the queue, until it is resumed or ends.
#[utoipa::path(post, path = "/admin/nodes/{id}/{action}", tag = "controls", params(("id" = String, Path), ("action" = String, Path)), responses((status = 200, body = Done)))]
pub async fn node(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path((id, action)): Path<(String, String)>,
) -> Result<Json<Done>, Problem> {
    let id = if id == SELF { admin.parts.nodes.id().to_owned() } else { id };
    if !admin.parts.nodes.all().iter().any(|node| node.id == id) {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "no-such-node",
            "no node that lives has this id (GET /admin/nodes, `tidegate nodes`)",
        ));
    }
    let action = Toggle::read(&action, "drain")?;
    noted(&admin, &who, &format!("node.{}", action.name("drain")), &id, Value::Null).await?;
    action.order(&admin, &Order::Drain(id), &who).await
}

/// `POST /admin/mutes`
#[utoipa::path(post, path = "/admin/mutes", tag = "controls", request_body = MuteOrder, responses((status = 200, body = Done)))]
pub async fn mute(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Body(body): Body,
) -> Result<Json<Done>, Problem> {
    let MuteOrder { mute } = read(&body, r#"{"mute":"all"}, {"mute":{"brand":"…"}} or {"mute":{"conversation":"…"}}"#)?;
    noted(&admin, &who, "mute.begin", &mute.to_string(), Value::Null).await?;
    set(&admin, &Order::Mute(mute), &who, true).await
}

/// Done or undone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Toggle {
    Do,
    Undo,
}

impl Toggle {
    fn read(word: &str, to_do: &str) -> Result<Self, Problem> {
        match word {
            _ if word == to_do => Ok(Self::Do),
            "resume" => Ok(Self::Undo),
            _ => {
                let detail = format!("the actions are /{to_do} and /resume");
                Err(Problem::new(StatusCode::NOT_FOUND, "no-such-action", detail))
            }
        }
    }

    fn name(self, to_do: &str) -> &str {
        if self == Self::Do { to_do } else { "resume" }
    }

    async fn order(self, admin: &Admin, order: &Order, who: &Who) -> Result<Json<Done>, Problem> {
        if self == Self::Do { set(admin, order, who, true).await } else { unset(admin, order, who).await.map(done) }
    }
}

fn done(changed: bool) -> Json<Done> {
    Json(Done { changed })
}

async fn set(admin: &Admin, order: &Order, who: &Who, keep: bool) -> Result<Json<Done>, Problem> {
    let set = settings::set(&admin.parts, order, &who.name, keep).await.map_err(not_done);
    came_of(admin, who, ("setting", &order.name()), set).await?;
    Ok(done(true))
}

/// Takes something back; whether that changed anything.
pub(super) async fn unset(admin: &Admin, order: &Order, who: &Who) -> Result<bool, Problem> {
    let unset = settings::unset(&admin.parts, order).await.map_err(not_done);
    came_of(admin, who, ("setting", &order.name()), unset).await
}

fn service<'a>(admin: &'a Admin, name: &str) -> Result<&'a Service, Problem> {
    let found = admin.parts.stack.services().iter().find(|service| service.name == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = admin.parts.stack.services().iter().map(|service| service.name).collect();
        let detail = format!("no service of this name; there are: {}", names.join(", "));
        Problem::new(StatusCode::NOT_FOUND, "no-such-service", detail)
    })
}

/// Whose limits can be set.
struct Limited<'a> {
    permits: &'a Permits,
    has_slots: bool,
}

fn limited<'a>(admin: &'a Admin, name: &str) -> Result<Limited<'a>, Problem> {
    let mut keys = admin.parts.key_limits.iter();
    if let Some((_, permits)) = keys.find(|(limiter, _)| *limiter == name) {
        return Ok(Limited { permits, has_slots: false });
    }
    if name.starts_with(KEY_LIMITERS) {
        let detail =
            "this node knows no API key of this name that has limits: ask one with the role api, or configure some";
        return Err(Problem::new(StatusCode::NOT_FOUND, "no-such-key", detail));
    }
    service(admin, name).map(|service| Limited { permits: &service.permits, has_slots: true })
}
