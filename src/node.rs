//! A node: everything put together, started in order and ended in order.

mod build;
mod fleet;
mod served;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use self::{
    build::Stores,
    served::{Served, bind},
};
use crate::{
    actors::{Branches, Desk, Inspector, Parts, Tree, grow},
    config::{Config, Role},
    http::{
        self, Gateway, Health,
        event_loops::EventLoops,
        health::{Shown, Stage},
    },
    telemetry::Clock,
};

/// Actors that store deliveries. While one waits for its sync, the other gathers the next batch.
const DESKS: usize = 2;

/// AI calls without an intent are given up this long before the grace is over (design rule 17).
const GIVE_UP_BEFORE: Duration = Duration::from_secs(5);

/// Connections may take this long to end also when the grace is over.
const LISTENER_WITHIN: Duration = Duration::from_millis(100);

/// Saying goodbye to the other nodes may take this long.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// How often the end of the work in hand is looked for while draining.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// A running node.
pub struct Node {
    parts: Arc<Parts>,
    stores: Stores,
    tree: Option<Tree>,
    health: Arc<Health>,
    listening: CancellationToken,
    public: Option<(SocketAddr, JoinHandle<()>)>,
    admin: SocketAddr,
    gateway: Arc<Gateway>,
    grace: Duration,
    /// Of the public listener.
    _loops: Option<EventLoops>,
    /// Of the watchdog and the admin listener.
    _apart: EventLoops,
}

/// Why a node ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("the supervisor above all gave up; too many actors failed (the log names them)")]
pub struct GaveUp;

impl Node {
    /// Starts a node. Nothing is served before everything runs.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let mut registry = Registry::default();
        let has = |role| config.node.does(role);
        let (parts, stores, guards) = build::build(config, &clock, &mut registry)?;
        let desks: Arc<[Arc<Desk>]> = (0..DESKS).map(|_| Arc::new(Desk::new(clock.clone()))).collect();
        let public_listener = if has(Role::Ingress) || has(Role::Api) {
            Some(bind(config.http.listen, "http.listen").await?)
        } else {
            None
        };
        let admin_listener = bind(config.admin.listen, "admin.listen").await?;
        let listeners = public_listener.iter().chain([&admin_listener]);
        let addresses = listeners.filter_map(|listener| Some(listener.local_addr().ok()?.to_string()));
        parts.nodes.introduce(build::introduction(config, &clock, addresses));
        // A runtime of its own for the watchdog and the admin listener: a blocked thread elsewhere cannot blind them.
        let apart = EventLoops::start(1, "apart", None)?;
        let home = Handle::current();
        // As many as the actors have; where nobody asks for `/v1`, one accepts what others serve.
        let count = if has(Role::Api) { home.metrics().num_workers() } else { 1 };
        let loops = public_listener.as_ref().map(|_| EventLoops::start(count, "http", Some(home))).transpose()?;
        let health = Arc::new(Health::new(parts.clone(), desks.clone()));
        Shown::register(&mut registry, &health);
        let branches = Branches {
            ingress: has(Role::Ingress),
            chat: has(Role::Chat),
            events: has(Role::Events),
            retry: has(Role::Retry),
        };
        let metrics = http::Metrics::register(&mut registry, clock.clone());
        let gateway = gateway(config, &parts, &mut registry);
        let tree = grow(&parts, &desks, branches, &guards, apart.handle(), &mut registry).await?;
        let inspector = Inspector::new(parts.clone());
        let served = Served { config, parts: &parts, health: &health, inspector: &inspector, metrics: &metrics };
        let listening = CancellationToken::new();
        let public = match (public_listener, &loops) {
            (Some(listener), Some(loops)) => {
                let answers = served.public(desks, gateway.clone());
                Some(loops.serve(listener, answers, served.public_limits(), listening.clone())?)
            }
            _ => None,
        };
        let answers = served.admin(registry);
        // Ends with its thread.
        let (admin, _) = apart.serve(admin_listener, answers, served.admin_limits(), CancellationToken::new())?;
        health.enter(Stage::Running);
        Ok(Self {
            grace: config.node.shutdown_grace,
            tree: Some(tree),
            _loops: loops,
            _apart: apart,
            parts,
            stores,
            health,
            listening,
            public,
            admin,
            gateway,
        })
    }

    /// Where the public listener listens, if the node has one.
    pub fn public_address(&self) -> Option<SocketAddr> {
        self.public.as_ref().map(|(address, _)| *address)
    }

    /// Where the admin listener listens.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Waits until the node ends by itself, which it does only when it gives up.
    pub async fn given_up(&mut self) -> GaveUp {
        match &mut self.tree {
            Some(tree) => drop((&mut tree.ended).await),
            None => std::future::pending().await,
        }
        self.tree = None;
        GaveUp
    }

    /// Ends the node within its grace: takes nothing new, finishes what is in hand, hands the rest back unspent (G8).
    pub async fn stop(mut self) {
        let deadline = self.parts.clock.monotonic() + self.grace;
        self.health.enter(Stage::Draining);
        // Deliveries under way are still stored while the conversations finish; the next start answers them.
        self.listening.cancel();
        self.parts.draining.cancel();
        self.drain(deadline.saturating_sub(GIVE_UP_BEFORE)).await;
        self.parts.giving_up.cancel();
        self.drain(deadline).await;
        if let Some((_, mut serving)) = self.public.take() {
            let left = deadline.saturating_sub(self.parts.clock.monotonic()).max(LISTENER_WITHIN);
            if tokio::time::timeout(left, &mut serving).await.is_err() {
                serving.abort();
            }
        }
        if let Some(tree) = self.tree.take() {
            tree.stop();
            // Those who do not stop in time are ended with the process.
            let _ = tokio::time::timeout(Duration::from_secs(5), tree.ended).await;
        }
        let given_back = self.parts.directory.give_back();
        if tokio::time::timeout(LEAVE_WITHIN, self.parts.nodes.leave()).await.is_err() {
            tracing::debug!("the other nodes were not told; they find out by themselves");
        }
        self.stores.close().await;
        tracing::info!(given_back, "the node has stopped");
    }

    /// Waits until nothing is in hand, or until the deadline (monotonic).
    async fn drain(&self, deadline: Duration) {
        let has_hand = || self.parts.directory.all().iter().any(|cell| cell.lock().hand.is_some());
        let busy = || has_hand() || self.gateway.is_busy();
        while busy() && self.parts.clock.monotonic() < deadline {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    }
}

/// The synchronous road.
fn gateway(config: &Config, parts: &Arc<Parts>, registry: &mut Registry) -> Arc<Gateway> {
    let keys = config.api.keys.iter().map(|key| key.name.as_str());
    let metrics = http::gateway::Metrics::register(registry, keys);
    Arc::new(Gateway::new(parts.clone(), &config.http, config.api.clone(), metrics))
}
