//! Builds what the actors work with out of the configuration.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio_util::sync::CancellationToken;

use super::fleet::Fleet;
use crate::{
    actors::{
        self, Accounts, Bulks, Courtesies, Deeds, Directory, Faults, Handoffs, Parts, Pulse, Reconciler, Roster,
        Settings,
    },
    broker::{self, Broker, Embedded, Letters, Rabbitmq, Upkeep},
    client::{Ai, Sunshine},
    config::{Config, Role},
    domain::control::Ours,
    guard::{self, Allowance, Cache, Gate, Permits, Service, Stack, bulkhead::Bulkhead, limiter::Limits},
    http::ApiKey,
    state::{Local, board::Boards, nodes, redis::Link},
    store::{
        FolderLock,
        calls::{Calls, Past},
        in_hand::InHand,
    },
    telemetry::{Clock, series::label},
};

/// What has to be closed in the end, and the lock on the folder.
pub(super) struct Stores {
    upkeep: Arc<dyn Upkeep>,
    state: Arc<Local>,
    redis: Option<Arc<Link>>,
    _lock: FolderLock,
}

impl Stores {
    /// Ends the connections and writes what is outstanding.
    pub async fn close(&self) {
        if let Some(link) = &self.redis {
            link.close().await;
        }
        self.upkeep.close().await;
        self.state.close();
    }
}

pub(super) fn build(
    config: &Config,
    clock: &Clock,
    registry: &mut Registry,
) -> anyhow::Result<(Arc<Parts>, Stores, guard::Metrics)> {
    let Opened { lock, broker, upkeep, letters, state, in_hand, calls, past } = open(config, clock)?;
    let fleet = Fleet::new(config, clock, &state)?;
    let redis = fleet.redis.clone();
    let guards = register(config, clock, registry, (&broker, &upkeep));
    let limits = fleet.limits.clone();
    let permits = |name, of| Permits::among(name, of, clock.clone(), calls.clone(), &past, limits.clone());
    let cache = Cache::new(&config.cache, fleet.answers);
    let ai = ai(config)?;
    let services = services(config, clock, &permits, fleet.boards.as_ref());
    let parts = Parts {
        broker,
        upkeep: upkeep.clone(),
        letters,
        state: fleet.state,
        nodes: fleet.nodes,
        redis: redis.clone(),
        stack: Stack::new(services, cache, clock.clone(), guards.clone()),
        accounts: accounts(config, &ai, registry),
        ai,
        sunshine: Sunshine::new(&config.zendesk, clock.clone()).context("the client of Zendesk")?,
        zendesk_up: true.into(),
        zendesk_refuses: false.into(),
        posts: permits("zendesk", post_limits(config)),
        posting: Bulkhead::new(concurrency(config)),
        key_limits: key_limits(config, &permits),
        allowances: allowances(config, clock),
        ours: Ours { integration: config.zendesk.integration.clone() },
        handoff_to: config.zendesk.handoff_to.clone(),
        post_timeout: config.zendesk.timeout,
        typing: config.zendesk.typing,
        chat: config.chat.clone(),
        retry: config.retry.clone(),
        directory: Directory::new(clock.clone()),
        conversations: actors::ConversationStarter::default(),
        reconciler: Reconciler::default(),
        handoffs: Handoffs::default(),
        in_hand,
        suspects: tokio::sync::Semaphore::new(1),
        settings: Settings::default(),
        deeds: Deeds::default(),
        bulks: Bulks::default(),
        pulse: Pulse::default(),
        courtesies: Courtesies::default(),
        faults: Faults::new(config.faults.clone()),
        actor_time_limit: config.node.actor_time_limit,
        roster: Arc::new(Roster::new(clock.clone())),
        clock: clock.clone(),
        metrics: actors::Metrics::register(registry),
        draining: CancellationToken::new(),
        giving_up: CancellationToken::new(),
    };
    Ok((Arc::new(parts), Stores { upkeep, state, redis, _lock: lock }, guards))
}

/// What lies on the disk, or in RabbitMQ.
struct Opened {
    lock: FolderLock,
    broker: Arc<dyn Broker>,
    upkeep: Arc<dyn Upkeep>,
    letters: Arc<dyn Letters>,
    state: Arc<Local>,
    in_hand: InHand,
    calls: Arc<Calls>,
    past: Past,
}

fn open(config: &Config, clock: &Clock) -> anyhow::Result<Opened> {
    let folder = Path::new(&config.broker.embedded.path);
    let lock = FolderLock::take(folder)?;
    let (broker, upkeep, letters) = open_broker(config, clock)?;
    let state = Local::open(folder, config.retention.clone(), clock.now())?;
    let copies = config.broker.kind == broker::Kind::Rabbitmq;
    let state = Arc::new(if copies { state.expect_copies() } else { state });
    let in_hand = InHand::open(&folder.join("in-hand"))?;
    let (calls, past) = Calls::open(&folder.join("calls"), longest_window(config), clock.now())?;
    Ok(Opened { lock, broker, upkeep, letters, state, in_hand, calls: Arc::new(calls), past })
}

/// One broker in its three parts.
type Parted = (Arc<dyn Broker>, Arc<dyn Upkeep>, Arc<dyn Letters>);

fn open_broker(config: &Config, clock: &Clock) -> anyhow::Result<Parted> {
    let parked_for = config.retention.parked;
    Ok(match config.broker.kind {
        broker::Kind::Embedded => {
            let folder = Path::new(&config.broker.embedded.path);
            let embedded = Arc::new(Embedded::open(folder, &config.broker, parked_for, clock.clone())?);
            (embedded.clone(), embedded.clone(), embedded)
        }
        broker::Kind::Rabbitmq => {
            let rabbitmq = Arc::new(Rabbitmq::open(&config.broker, parked_for, clock.clone())?);
            (rabbitmq.clone(), rabbitmq.clone(), rabbitmq)
        }
    })
}

/// Registers what belongs to no actor; returns the guards' metrics, which others write as well.
fn register(
    config: &Config,
    clock: &Clock,
    registry: &mut Registry,
    (broker, upkeep): (&Arc<dyn Broker>, &Arc<dyn Upkeep>),
) -> guard::Metrics {
    broker::Metrics::register(registry, broker.clone(), upkeep.clone(), clock.clone());
    build_info(registry);
    crate::telemetry::process::register(registry);
    crate::telemetry::traces::register(registry);
    let names: Vec<&'static str> = config.ai.services.iter().map(|service| label(&service.name)).collect();
    guard::Metrics::register(registry, &names)
}

/// As many conversations as can be asked at once can be posted at once.
fn concurrency(config: &Config) -> usize {
    config.ai.services.iter().map(|service| service.concurrency).sum()
}

fn services(
    config: &Config,
    clock: &Clock,
    permits: &dyn Fn(&'static str, Limits) -> Arc<Permits>,
    boards: Option<&Arc<dyn Boards>>,
) -> Vec<Service> {
    let service = |service: &actors::Service| {
        let permits = permits(label(&service.name), service.limits.clone());
        let bulkhead = Bulkhead::new(service.concurrency);
        permits.set_shares(config.ai.shares);
        bulkhead.set_shares(config.ai.shares);
        Service { name: label(&service.name), gate: gate(service, clock, boards), permits, bulkhead }
    };
    config.ai.services.iter().map(service).collect()
}

fn gate(service: &actors::Service, clock: &Clock, boards: Option<&Arc<dyn Boards>>) -> Gate {
    let (breaker, timeout, clock) = (service.breaker.clone(), service.timeout, clock.clone());
    match boards {
        Some(boards) => Gate::shared(breaker, timeout, clock, label(&service.name), boards.clone()),
        None => Gate::new(breaker, timeout, clock),
    }
}

fn ai(config: &Config) -> anyhow::Result<Vec<Ai>> {
    let services = config.ai.services.iter();
    services.map(|service| Ai::new(service, &config.chat.handoff_tool).context("the client of an AI service")).collect()
}

/// The API keys, on a node that serves them.
fn api_keys(config: &Config) -> impl Iterator<Item = &ApiKey> {
    let serves = config.node.does(Role::Api);
    config.api.keys.iter().filter(move |_| serves)
}

fn key_limits(
    config: &Config,
    permits: &dyn Fn(&'static str, Limits) -> Arc<Permits>,
) -> Vec<(&'static str, Arc<Permits>)> {
    let limited = api_keys(config).filter(|key| key.limits.limits_anything());
    let named = limited.map(|key| (label(&actors::limiter_of(&key.name)), key.limits.clone()));
    named.map(|(name, limits)| (name, permits(name, limits))).collect()
}

fn allowances(config: &Config, clock: &Clock) -> Vec<Arc<Allowance>> {
    let with_budget = api_keys(config).filter(|key| key.monthly_budget > 0);
    with_budget.map(|key| Arc::new(Allowance::new(key.name.clone(), key.monthly_budget, clock.clone()))).collect()
}

fn accounts(config: &Config, ai: &[Ai], registry: &mut Registry) -> Accounts {
    let names = config.ai.services.iter().map(|service| service.name.as_str());
    let services: Vec<(&str, &Ai)> = names.zip(ai).collect();
    let keys: Vec<&str> = api_keys(config).map(|key| key.name.as_str()).collect();
    Accounts::register(registry, &services, &keys)
}

/// As long as this a call counts.
fn longest_window(config: &Config) -> Duration {
    let of_services = config.ai.services.iter().map(|service| &service.limits);
    let of_keys = config.api.keys.iter().map(|key| &key.limits);
    let windows = of_services.chain(of_keys).flat_map(|limits| &limits.windows).map(|window| window.per);
    windows.max().unwrap_or_default().max(Duration::from_secs(3600))
}

/// Posts per second, and as many at once; 0 means no limit of ours.
fn post_limits(config: &Config) -> Limits {
    let per_second = config.zendesk.posts_per_second;
    let windows = (per_second > 0)
        .then(|| guard::limiter::WindowLimit { requests: u64::from(per_second), per: Duration::from_secs(1) });
    Limits { windows: windows.into_iter().collect(), ..Limits::NONE }
}

/// What this node tells the others; without a name of its own it is called as its host.
pub(super) fn introduction(config: &Config, clock: &Clock, addresses: impl Iterator<Item = String>) -> nodes::Node {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let role = |role: &crate::config::Role| format!("{role:?}").to_lowercase();
    nodes::Node {
        id: String::new(),
        name: Some(config.node.name.clone()).filter(|name| !name.is_empty()).unwrap_or_else(host),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        roles: config.node.roles.iter().map(role).collect(),
        started_at: clock.now(),
        addresses: addresses.collect(),
        in_hand: 0,
        consumes: true,
        clock_skew_ms: None,
    }
}

fn build_info(registry: &mut Registry) {
    let info: Family<[(&'static str, &'static str); 2], Gauge> = Family::default();
    let revision = option_env!("TIDEGATE_REVISION").unwrap_or("unknown");
    info.get_or_create(&[("version", env!("CARGO_PKG_VERSION")), ("revision", revision)]).set(1);
    registry.register("tidegate_build_info", "The version that runs", info);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::limiter::WindowLimit;

    fn hours(hours: u64) -> Vec<WindowLimit> {
        vec![WindowLimit { requests: 1, per: Duration::from_secs(hours * 3_600) }]
    }

    #[test]
    fn calls_are_remembered_for_the_longest_window_of_any_service_or_key() {
        let mut config = Config::default();
        assert_eq!(longest_window(&config), Duration::from_secs(3_600));
        config.ai.services[0].limits.windows = hours(2);
        assert_eq!(longest_window(&config), Duration::from_secs(2 * 3_600));
        config.api.keys = vec![ApiKey { limits: Limits { windows: hours(24), ..Limits::NONE }, ..ApiKey::default() }];
        assert_eq!(longest_window(&config), Duration::from_secs(24 * 3_600));
    }

    #[test]
    fn a_key_has_a_budget_if_it_says_so_and_its_node_serves_it() {
        let mut config = Config::default();
        let key = |name: &str, monthly_budget| ApiKey { name: name.into(), monthly_budget, ..ApiKey::default() };
        config.api.keys = vec![key("shop", 7), key("free", 0)];
        let names = |config: &Config| {
            let all = allowances(config, &Clock::system());
            all.iter().map(|allowance| allowance.name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&config), ["shop"]);
        config.node.roles = vec![Role::Chat];
        assert!(names(&config).is_empty());
    }
}
