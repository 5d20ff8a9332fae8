//! How things stand, noun by noun.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Admin, Who};
use crate::{
    actors::{Parts, accounts::Account, limiter_of},
    broker::Standing,
    domain::{
        answer::Tokens,
        time::{Timestamp, millis},
    },
    guard::{BudgetUse, Permits, breaker, bulkhead::Usage, limiter::WindowUse},
    http::AdminRole,
    state::nodes::Node,
    telemetry::Clock,
};

/// `GET /admin/queues`
#[utoipa::path(get, path = "/admin/queues", tag = "views", responses((status = 200, body = BTreeMap<String, LaneView>)))]
pub async fn queues(State(admin): State<Admin>) -> Json<Named<LaneView>> {
    Json(of_queues(&admin))
}

/// `GET /admin/breakers`
#[utoipa::path(get, path = "/admin/breakers", tag = "views", responses((status = 200, body = BTreeMap<String, BreakerView>)))]
pub async fn breakers(State(admin): State<Admin>) -> Json<Named<BreakerView>> {
    Json(of_breakers(&admin))
}

/// `GET /admin/limiters`
#[utoipa::path(get, path = "/admin/limiters", tag = "views", responses((status = 200, body = BTreeMap<String, LimiterView>)))]
pub async fn limiters(State(admin): State<Admin>) -> Json<Named<LimiterView>> {
    Json(with_use(&admin))
}

/// What is told by name.
pub type Named<T> = BTreeMap<String, T>;

/// The messages of a lane.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct LaneView {
    ready: u64,
    in_hand: u64,
    delayed: u64,
    dead: u64,
    parked: u64,
    /// What is in the spool counts as ready, too; a queue that needs none says `null`.
    spool: Option<u64>,
    /// For how long the oldest ready message has been waiting, in milliseconds.
    oldest_age_ms: u64,
}

pub(super) fn of_queues(admin: &Admin) -> Named<LaneView> {
    let now = admin.parts.clock.now();
    let mut lanes: Named<LaneView> = BTreeMap::new();
    for count in admin.parts.broker.counts() {
        let lane = lanes.entry(count.lane.as_str().to_owned()).or_default();
        match count.standing {
            Standing::Ready => {
                lane.ready = count.messages;
                lane.spool = admin.parts.upkeep.spooled_of(count.lane);
                lane.oldest_age_ms = count.oldest.map_or(0, |oldest| millis(now.since(oldest)));
            }
            Standing::InHand => lane.in_hand = count.messages,
            Standing::Delayed => lane.delayed = count.messages,
            Standing::Dead => lane.dead = count.messages,
            Standing::Parked => lane.parked = count.messages,
        }
    }
    lanes
}

/// A breaker with its times as the wall clock shows them.
#[derive(Debug, Serialize, ToSchema)]
pub struct BreakerView {
    state: breaker::State,
    /// Who decides.
    mode: breaker::Mode,
    /// The number of the last change.
    generation: u64,
    /// Failures since the last success.
    consecutive_failures: u32,
    /// Distinct conversations behind the evidence, counted up to the failure threshold.
    conversations: usize,
    /// Open, but a conversation outside of the evidence may probe at once.
    open_to_others: bool,
    /// Openings since the breaker was last closed.
    trips: u32,
    opened_at: Option<String>,
    /// When it half-opens, while it is open by itself.
    until: Option<String>,
    probes_in_flight: usize,
    /// The last minute.
    window: breaker::Counts,
    /// Whose state it is.
    scope: breaker::Scope,
}

pub(super) fn of_breakers(admin: &Admin) -> Named<BreakerView> {
    let services = admin.parts.stack.services().iter();
    services.map(|of| (of.name.to_owned(), breaker(of.gate.snapshot(), &admin.parts.clock))).collect()
}

fn breaker(of: breaker::Snapshot, clock: &Clock) -> BreakerView {
    let (now, monotonic) = (clock.now(), clock.monotonic());
    let dated = |at_ms: Option<u64>| {
        let at = Duration::from_millis(at_ms?);
        let ahead = at.saturating_sub(monotonic);
        let ago = i64::try_from(monotonic.saturating_sub(at).as_millis()).unwrap_or(i64::MAX);
        Some(Timestamp(now.after(ahead).0.saturating_sub(ago)).to_rfc3339())
    };
    BreakerView {
        state: of.state,
        mode: of.mode,
        generation: of.generation,
        consecutive_failures: of.consecutive_failures,
        conversations: of.conversations,
        open_to_others: of.open_to_others,
        trips: of.trips,
        opened_at: dated(of.opened_at_ms),
        until: dated(of.until_ms),
        probes_in_flight: of.probes_in_flight,
        window: of.window,
        scope: of.scope,
    }
}

/// A limiter, and what went through it.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct LimiterView {
    /// How full each window is.
    used: Vec<WindowUse>,
    /// How many wait for a permit.
    waiting: usize,
    /// Permits that are given and calls that are under way on this node.
    in_use: u32,
    /// Of a service: its slots.
    #[serde(skip_serializing_if = "Option::is_none")]
    slots: Option<Usage>,
    /// Of an API key with a monthly budget: how much of it is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<BudgetView>,
    /// What was used on this node since it began: of a service by whom, of an API key of which service.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    accounts: Vec<AccountView>,
}

/// A monthly budget.
#[derive(Debug, Serialize, ToSchema)]
pub struct BudgetView {
    /// Tokens that may be used in a month.
    tokens: u64,
    /// Those used in this one, on all nodes, as far as this one knows.
    used: u64,
    /// When the next month begins.
    until: String,
}

/// What was used of a model.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AccountView {
    service: &'static str,
    /// By the provider's name.
    model: &'static str,
    /// The API key that asked; the conversations have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'static str>,
    /// Tokens of questions.
    input_tokens: u64,
    /// Tokens of answers.
    output_tokens: u64,
    /// What they cost, in the currency of the prices.
    cost: f64,
}

/// Of the services, of the posts, and of the API keys that are limited.
pub(super) fn of_limiters(admin: &Admin) -> Named<LimiterView> {
    let limiter = |permits: &Permits, slots| {
        let (used, waiting, in_use) = (permits.used(), permits.waiting(), permits.in_use());
        LimiterView { used, waiting, in_use, slots, ..LimiterView::default() }
    };
    let services = admin.parts.stack.services().iter();
    let mut all: Named<LimiterView> =
        services.map(|of| (of.name.to_owned(), limiter(&of.permits, Some(of.bulkhead.usage())))).collect();
    all.insert("zendesk".into(), limiter(&admin.parts.posts, None));
    let keys = admin.parts.key_limits.iter();
    all.extend(keys.map(|(name, permits)| ((*name).to_owned(), limiter(permits, None))));
    all
}

/// The same, and of every API key, with what was used.
fn with_use(admin: &Admin) -> Named<LimiterView> {
    let mut all = of_limiters(admin);
    let Parts { accounts, allowances, .. } = &*admin.parts;
    for (key, _) in accounts.keys() {
        let allowance = allowances.iter().find(|allowance| allowance.name() == key);
        let of_key = all.entry(limiter_of(key)).or_default();
        of_key.budget = allowance.map(|allowance| BudgetView::of(allowance.standing()));
    }
    let chat = accounts.chat().iter().map(|account| (None, account));
    let keys = accounts.keys().flat_map(|(key, accounts)| accounts.iter().map(move |account| (Some(key), account)));
    for (key, account) in chat.chain(keys).filter(|(_, account)| account.tokens().total() > 0) {
        let view = AccountView::of(key, account);
        if let Some(of_key) = key.and_then(|key| all.get_mut(&limiter_of(key))) {
            of_key.accounts.push(view.clone());
        }
        if let Some(of_service) = all.get_mut(account.service) {
            of_service.accounts.push(view);
        }
    }
    all
}

impl BudgetView {
    fn of(BudgetUse { until, budget, used }: BudgetUse) -> Self {
        Self { tokens: budget, used, until: until.to_rfc3339() }
    }
}

impl AccountView {
    fn of(key: Option<&'static str>, account: &Account) -> Self {
        let &Account { service, model, .. } = account;
        let Tokens { input, output, .. } = account.tokens();
        Self { service, model, key, input_tokens: input, output_tokens: output, cost: account.cost() }
    }
}

/// A message that was in hand when the process died.
#[derive(Debug, Serialize, ToSchema)]
pub struct Suspect {
    message_id: String,
    /// How often.
    crashes: u32,
}

/// `GET /admin/quarantine`: messages that were in hand when the process died; from two deaths on they run alone, at four
/// they are parked.
#[utoipa::path(get, path = "/admin/quarantine", tag = "views", responses((status = 200, body = Vec<Suspect>)))]
pub async fn quarantine(State(admin): State<Admin>) -> Json<Vec<Suspect>> {
    let suspects = admin.parts.in_hand.suspects().into_iter();
    Json(suspects.map(|(message_id, crashes)| Suspect { message_id, crashes }).collect())
}

/// `GET /admin/config`: the configuration in force, secrets as `***`.
#[utoipa::path(get, path = "/admin/config", tag = "views", responses((status = 200, content_type = "text/plain", body = String)))]
pub async fn config(State(admin): State<Admin>) -> String {
    admin.effective.to_string()
}

/// Who asks, and what he may do.
#[derive(Debug, Serialize, ToSchema)]
pub struct Asker {
    name: String,
    role: AdminRole,
    /// Whether failures may be ordered.
    fault_injection: bool,
    /// Where traces are looked at, with `{trace_id}` in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    trace_url: Option<Arc<str>>,
}

/// `GET /admin/whoami`
#[utoipa::path(get, path = "/admin/whoami", tag = "views", responses((status = 200, body = Asker)))]
pub async fn whoami(State(admin): State<Admin>, Extension(who): Extension<Who>) -> Json<Asker> {
    let (fault_injection, trace_url) = (admin.config.fault_injection, admin.trace_url);
    Json(Asker { name: who.name, role: who.role, fault_injection, trace_url })
}

/// `GET /admin/nodes`: those who live, as far as this one knows.
#[utoipa::path(get, path = "/admin/nodes", tag = "views", responses((status = 200, body = Vec<Node>)))]
pub async fn nodes(State(admin): State<Admin>) -> Json<Vec<Node>> {
    let mut nodes = admin.parts.nodes.all();
    let own = nodes.iter_mut().find(|node| node.id == admin.parts.nodes.id());
    if let Some(own) = own {
        own.in_hand = admin.parts.directory.all().iter().filter(|cell| cell.lock().hand.is_some()).count();
    }
    Json(nodes)
}
