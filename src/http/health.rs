//! `/livez` and `/readyz`. A node stays ready while its dependencies are away, and says *degraded* (G7): it is unready
//! only while it can store nothing, starts or drains.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Admin, Public};
use crate::{
    actors::{Desk, Parts},
    guard::breaker,
    telemetry::series::{Labels, label},
};

/// A dependency that does not answer in this time is taken for down.
const PROBE_WITHIN: Duration = Duration::from_secs(1);

/// Why an AI service is down that answers, and refuses us.
const MISCONFIGURED: &str = "it refuses this node as it is set up; see the log";

/// After a refusal a node is unready at least this long: as long as those refused were asked to wait.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ready,
    Degraded,
    Unready,
}

impl Status {
    const ALL: [Self; 3] = [Self::Ready, Self::Degraded, Self::Unready];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Unready => "unready",
        }
    }
}

/// The stage of a node's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Not everything runs yet.
    Starting,
    /// Runs.
    Running,
    /// Takes nothing new any more.
    Draining,
}

/// The health of a node.
pub struct Health {
    parts: Arc<Parts>,
    desks: Arc<[Arc<Desk>]>,
    stage: AtomicU8,
    /// As the last report found them.
    status: AtomicU8,
    broker_up: AtomicBool,
    state_up: AtomicBool,
}

/// One dependency.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Dependency {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
    /// Why it is down, where that is known; on the public listener without the addresses it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The whole report.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Health)]
pub struct Report {
    status: &'static str,
    reason: Option<&'static str>,
    dependencies: BTreeMap<String, Dependency>,
}

impl Report {
    /// Why the node is unready, if it is.
    pub fn reason(&self) -> Option<&'static str> {
        self.reason
    }

    /// The dependencies that are down; an AI service without a reason of its own is told by its breaker.
    pub fn down(&self) -> impl Iterator<Item = &str> {
        let down = self.dependencies.iter().filter(|(_, one)| one.state == "down");
        down.filter(|(name, one)| !name.starts_with("ai/") || one.reason.is_some()).map(|(name, _)| name.as_str())
    }
}

impl Health {
    /// Begins as starting.
    pub fn new(parts: Arc<Parts>, desks: Arc<[Arc<Desk>]>) -> Self {
        let stage = AtomicU8::new(Stage::Starting as u8);
        let (broker_up, state_up) = (AtomicBool::new(true), AtomicBool::new(true));
        Self { parts, desks, stage, status: AtomicU8::new(Status::Unready as u8), broker_up, state_up }
    }

    /// The node enters a stage.
    pub fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Asks all dependencies.
    pub async fn report(&self) -> Report {
        let mut dependencies = BTreeMap::new();
        let (broker, state, can_store) = tokio::join!(
            self.probe(async { self.parts.broker.find("readyz").await.is_ok() }),
            self.probe(async { self.parts.state.record("readyz").await.is_ok() }),
            self.can_store(),
        );
        let trouble = self.parts.upkeep.trouble();
        let broker = match &trouble {
            Some(trouble) => Dependency { state: "down", reason: Some(trouble.reason.clone()), ..broker },
            None => broker,
        };
        self.broker_up.store(can_store && broker.state == "up", Ordering::Relaxed);
        let state = self.with_redis(state);
        self.state_up.store(state.state == "up", Ordering::Relaxed);
        dependencies
            .insert("broker".to_owned(), if can_store { broker } else { Dependency { state: "down", ..broker } });
        dependencies.insert("state".to_owned(), state);
        for (name, up, reason) in self.outside() {
            let reason = reason.map(str::to_owned);
            dependencies.insert(name.to_owned(), Dependency { state: word(up), latency_ms: None, reason });
        }
        let reason = match self.stage.load(Ordering::Relaxed) {
            stage if stage == Stage::Starting as u8 => Some("starting"),
            stage if stage == Stage::Draining as u8 => Some("draining"),
            _ if self.parts.settings.is_drained() => Some("drained by an operator"),
            _ if trouble.is_some_and(|trouble| trouble.lasting) => Some("the broker cannot be used as it is"),
            _ if !can_store => Some("nothing can be stored"),
            _ => None,
        };
        let all_up = dependencies.values().all(|dependency| dependency.state == "up");
        let status = match (reason, all_up) {
            (Some(_), _) => Status::Unready,
            (None, true) => Status::Ready,
            (None, false) => Status::Degraded,
        };
        self.status.store(status as u8, Ordering::Relaxed);
        Report { status: status.as_str(), reason, dependencies }
    }

    async fn probe(&self, works: impl Future<Output = bool>) -> Dependency {
        let began = self.parts.clock.monotonic();
        let up = tokio::time::timeout(PROBE_WITHIN, works).await.unwrap_or(false);
        let took = self.parts.clock.monotonic().saturating_sub(began);
        Dependency { state: word(up), latency_ms: Some(took.as_secs_f64() * 1e3), reason: None }
    }

    /// The state is up only while its Redis is, if it has one.
    fn with_redis(&self, state: Dependency) -> Dependency {
        let Some(line) = self.parts.redis.as_ref().map(|link| link.state()) else { return state };
        let latency_ms = line.latency().map(|took| took.as_secs_f64() * 1e3);
        let up = state.state == "up" && line.is_up();
        Dependency { state: word(up), latency_ms, reason: line.trouble() }
    }

    /// Whether deliveries can be stored, as far as the last one tells.
    async fn can_store(&self) -> bool {
        let last = self.desks.iter().filter_map(|desk| desk.tried_last()).max();
        let Some((at, false)) = last else { return true };
        if self.parts.clock.monotonic().saturating_sub(at) < REFUSED_FOR {
            return false;
        }
        // Nobody has come since, and to a node that says it is unready nobody will: so it tries by itself.
        let tried = tokio::time::timeout(PROBE_WITHIN, self.parts.broker.can_store()).await;
        let stored = tried.is_ok_and(|stored| stored.is_ok());
        if stored {
            self.desks.iter().for_each(|desk| desk.note(true));
        }
        stored
    }

    /// The services outside: whether each is up, as far as our own calls and looks tell, and why not where that is known.
    fn outside(&self) -> Vec<(&'static str, bool, Option<&'static str>)> {
        let services = self.parts.stack.services().iter().map(|service| {
            let closed = service.gate.snapshot().state == breaker::State::Closed;
            let refuses = service.gate.is_misconfigured().then_some(MISCONFIGURED);
            (label(&format!("ai/{}", service.name)), closed && refuses.is_none(), refuses)
        });
        let cache = self.parts.redis.iter().map(|link| ("cache", link.cache().is_up(), None));
        services.chain([("zendesk", self.parts.zendesk_up.load(Ordering::Relaxed), None)]).chain(cache).collect()
    }
}

/// `GET /livez`: the process answers.
#[utoipa::path(get, path = "/livez", tag = "public", security(()), responses((status = 200, content_type = "text/plain", body = String)))]
pub async fn live() -> &'static str {
    "alive\n"
}

/// `GET /readyz` on the public listener.
pub async fn ready_public(State(public): State<Arc<Public>>) -> Response {
    let mut report = public.health.report().await;
    for dependency in report.dependencies.values_mut() {
        dependency.reason = dependency.reason.as_deref().map(without_addresses);
    }
    ready(report)
}

/// A text in which no word is an address (`host:port`).
fn without_addresses(text: &str) -> String {
    let is_address = |word: &str| {
        let word = word.trim_matches(|char: char| !char.is_ascii_alphanumeric());
        word.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    };
    let words = text.split(' ').map(|word| if is_address(word) { "a server" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// `GET /readyz` on the admin listener.
#[utoipa::path(get, path = "/readyz", tag = "public", security(()), responses((status = 200, body = Report), (status = 503, body = Report)))]
pub async fn ready_admin(State(admin): State<Admin>) -> Response {
    ready(admin.health.report().await)
}

fn word(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

fn ready(report: Report) -> Response {
    let status = if report.reason.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(report)).into_response()
}

/// `tidegate_dependency_up{dependency}` and `tidegate_node_status{status}`, as the last report found them; a scrape asks for
/// one first.
pub struct Shown(Arc<Health>);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("http::health::Shown")
    }
}

impl Shown {
    /// Registers it.
    pub fn register(registry: &mut Registry, health: &Arc<Health>) {
        registry.register_collector(Box::new(Self(health.clone())));
    }
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut family =
            encoder.encode_descriptor("tidegate_dependency_up", "1 if a dependency works", None, MetricType::Gauge)?;
        let Self(health) = self;
        let inside = [("broker", &health.broker_up), ("state", &health.state_up)];
        let inside = inside.map(|(dependency, up)| (dependency, up.load(Ordering::Relaxed)));
        let outside = health.outside().into_iter().map(|(dependency, up, _)| (dependency, up));
        for (dependency, up) in outside.chain(inside) {
            let labels: Labels<1> = [("dependency", dependency)];
            ConstGauge::new(i64::from(up)).encode(family.encode_family(&labels)?)?;
        }
        let help = "1 for what the node says of itself";
        let mut family = encoder.encode_descriptor("tidegate_node_status", help, None, MetricType::Gauge)?;
        let said = health.status.load(Ordering::Relaxed);
        for status in Status::ALL {
            let labels: Labels<1> = [("status", status.as_str())];
            let is_so = said == status as u8;
            ConstGauge::new(i64::from(is_so)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::without_addresses;

    #[test]
    fn a_reason_for_strangers_names_no_address() {
        let table = [
            ("10.0.0.7:6379 does not accept this user or password", "a server does not accept this user or password"),
            ("no connection to redis-1.internal:6379: refused", "no connection to a server refused"),
            (
                "state.redis.mode is single, but [::1]:6379 is a Cluster",
                "state.redis.mode is single, but a server is a Cluster",
            ),
            ("the TLS certificate of redis:6379, for another name", "the TLS certificate of a server for another name"),
        ];
        for (reason, told) in table {
            assert_eq!(without_addresses(reason), told);
        }
    }
}
