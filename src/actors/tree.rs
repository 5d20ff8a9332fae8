//! Grows the tree: which actors there are, in which order they start, who is above whom.

mod links;

use std::{sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use ractor::{Actor, SpawnErr};
use tokio::{runtime::Handle, task::JoinHandle};

use super::{
    Parts,
    allowance::{self, AllowanceActor},
    breaker::BreakerActor,
    bulk::BulkActor,
    chat::Chat,
    consumer::Consumer,
    events::Events,
    ingress::{Desk, Ingress},
    limiter::LimiterActor,
    metrics::Census,
    reconcile,
    retry::RetryActor,
    roster::Card,
    settings,
    supervisor::{BACKOFF, Child, INTENSITY, Message, Plan, Start, Supervisor},
    watchdog::Watchdog,
};
use crate::{
    domain::restart::{Restart, Strategy},
    guard,
};

/// A blocked runtime of the watchdog's must not block the supervisor that starts it.
const START_WITHIN: Duration = Duration::from_secs(5);

/// What grows depends on the roles of the node.
#[derive(Debug, Clone, Copy)]
pub struct Branches {
    /// Takes webhooks.
    pub ingress: bool,
    /// Answers conversations.
    pub chat: bool,
    /// Works off the events lane.
    pub events: bool,
    /// Judges the dead letters.
    pub retry: bool,
}

/// A running tree.
pub struct Tree {
    root: ractor::ActorRef<Message>,
    /// Ends when the tree has stopped or has given up.
    pub ended: JoinHandle<()>,
}

impl Tree {
    /// Stops all actors, the last started first.
    pub fn stop(&self) {
        self.root.stop(Some("the node stops".into()));
    }
}

/// Grows the tree. `desks`: where webhooks wait; one actor each. `apart`: the runtime of the watchdog.
pub async fn grow(
    parts: &Arc<Parts>,
    desks: &[Arc<Desk>],
    branches: Branches,
    guards: &guard::Metrics,
    apart: &Handle,
    registry: &mut Registry,
) -> Result<Tree, SpawnErr> {
    Census::register(registry, parts);
    allowance::register(registry, &parts.allowances);
    let grower = Grower { parts };
    // Before anybody works: what is known of holders may be out of date.
    if let Err(error) = reconcile::note_alive(parts, desks).await {
        tracing::warn!(%error, "that this node is alive could not be noted");
    }
    // And before anybody takes anything: what is paused or muted stays so.
    if let Err(error) = settings::refresh(parts).await {
        tracing::warn!(%error, "what operators have set could not be read");
    }
    let links =
        [grower.broker_link(), grower.state_link(), grower.settings(), grower.pulse(), grower.reconciler(desks)];
    let mut children: Vec<Child> = links.into_iter().chain(grower.redis()).chain([grower.guards(guards)]).collect();
    if branches.ingress {
        children.push(grower.ingress(desks));
    }
    if branches.chat {
        children.extend([grower.conversations(), grower.consumers(), grower.partitions(), grower.handoffs()]);
    }
    if branches.events {
        children.push(grower.events());
    }
    if branches.retry {
        children.push(grower.retry());
    }
    children.extend([grower.bulk(), grower.watchdog(apart.clone()), grower.deputy()]);
    let plan = grower.plan("node", "node", children);
    let (root, ended) = Supervisor::root(&parts.roster, &parts.metrics, plan).await?;
    allowance::learn(&parts.state, &parts.allowances).await;
    Ok(Tree { root, ended })
}

struct Grower<'a> {
    parts: &'a Arc<Parts>,
}

/// A child that is no supervisor: `make` builds the actor for each incarnation.
fn child<A>(card: Arc<Card>, make: impl Fn() -> A + Send + Sync + 'static) -> Child
where
    A: Actor<Arguments = ()>,
{
    let start: Start = Arc::new(move |above| {
        let actor = make();
        Box::pin(async move { Ok(Actor::spawn_linked(None, actor, (), above).await?.0.get_cell()) })
    });
    Child { card, restart: Restart::Permanent, start }
}

impl Grower<'_> {
    fn card(&self, path: &str, kind: &'static str) -> Arc<Card> {
        self.parts.roster.card(path, kind)
    }

    fn plan(&self, path: &str, kind: &'static str, children: Vec<Child>) -> Plan {
        let card = self.card(path, kind);
        Plan { card, strategy: Strategy::OneForOne, intensity: INTENSITY, backoff: BACKOFF, children }
    }

    fn supervisor(&self, path: &str, children: Vec<Child>) -> Child {
        Supervisor::child(&self.parts.roster, &self.parts.metrics, self.plan(path, "supervisor", children))
    }

    fn guards(&self, metrics: &guard::Metrics) -> Child {
        let mut children = Vec::new();
        for (index, service) in self.parts.stack.services().iter().enumerate() {
            let card = self.card(&format!("node/guards/breaker/{}", service.name), "breaker");
            let (parts, metrics) = (self.parts.clone(), metrics.clone());
            children.push(child(card.clone(), move || BreakerActor {
                parts: parts.clone(),
                card: card.clone(),
                metrics: metrics.clone(),
                service: index,
            }));
            children.push(self.limiter(service.name, service.permits.clone()));
        }
        children.push(self.limiter("zendesk", self.parts.posts.clone()));
        children.extend(self.parts.key_limits.iter().map(|(name, permits)| self.limiter(name, permits.clone())));
        children.extend(self.parts.allowances.iter().map(|allowance| self.allowance(allowance)));
        self.supervisor("node/guards", children)
    }

    fn limiter(&self, name: &str, permits: Arc<guard::Permits>) -> Child {
        let card = self.card(&format!("node/guards/limiter/{name}"), "limiter");
        let clock = self.parts.clock.clone();
        child(card.clone(), move || LimiterActor { permits: permits.clone(), card: card.clone(), clock: clock.clone() })
    }

    fn allowance(&self, allowance: &Arc<guard::Allowance>) -> Child {
        let card = self.card(&format!("node/guards/allowance/{}", allowance.name()), "allowance");
        let (state, clock, allowance) = (self.parts.state.clone(), self.parts.clock.clone(), allowance.clone());
        child(card.clone(), move || AllowanceActor {
            state: state.clone(),
            card: card.clone(),
            clock: clock.clone(),
            allowance: allowance.clone(),
        })
    }

    fn ingress(&self, desks: &[Arc<Desk>]) -> Child {
        let children = desks.iter().enumerate().map(|(n, desk)| {
            let card = self.card(&format!("node/ingress/{n}"), "ingress");
            let (parts, desk) = (self.parts.clone(), desk.clone());
            child(card.clone(), move || Ingress { parts: parts.clone(), card: card.clone(), desk: desk.clone() })
        });
        self.supervisor("node/ingress", children.collect())
    }

    fn conversations(&self) -> Child {
        let card = self.card("node/conversations", "conversations");
        let parts = self.parts.clone();
        child(card.clone(), move || Chat { parts: parts.clone(), card: card.clone() })
    }

    fn consumers(&self) -> Child {
        let children = (0..self.parts.upkeep.shape().partitions).map(|partition| {
            let card = self.card(&format!("node/chat/{partition}"), "consumer");
            let parts = self.parts.clone();
            child(card.clone(), move || Consumer { parts: parts.clone(), card: card.clone(), partition })
        });
        self.supervisor("node/chat", children.collect())
    }

    fn events(&self) -> Child {
        let card = self.card("node/events", "events");
        let parts = self.parts.clone();
        child(card.clone(), move || Events { parts: parts.clone(), card: card.clone() })
    }

    fn retry(&self) -> Child {
        let card = self.card("node/retry", "retry");
        let parts = self.parts.clone();
        child(card.clone(), move || RetryActor { parts: parts.clone(), card: card.clone() })
    }

    fn bulk(&self) -> Child {
        let card = self.card("node/bulk", "bulk");
        let parts = self.parts.clone();
        child(card.clone(), move || BulkActor { parts: parts.clone(), card: card.clone() })
    }

    fn watchdog(&self, apart: Handle) -> Child {
        let card = self.card("node/watchdog", "watchdog");
        let (parts, on_card) = (self.parts.clone(), card.clone());
        let start: Start = Arc::new(move |above| {
            let watchdog = Watchdog { parts: parts.clone(), card: on_card.clone() };
            let mut spawned = apart.spawn(async move { Actor::spawn_linked(None, watchdog, (), above).await });
            Box::pin(async move {
                let Ok(started) = tokio::time::timeout(START_WITHIN, &mut spawned).await else {
                    spawned.abort();
                    return Err(SpawnErr::StartupFailed("its runtime is blocked".into()));
                };
                Ok(started.map_err(|error| SpawnErr::StartupFailed(error.into()))??.0.get_cell())
            })
        });
        Child { card, restart: Restart::Permanent, start }
    }
}
