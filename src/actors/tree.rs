//! Grows the tree: which actors there are, in which order they start, who is above whom.

use std::{sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use ractor::{Actor, SpawnErr};
use tokio::{runtime::Handle, task::JoinHandle};

use super::{
    Parts,
    allowance::{self, AllowanceActor},
    breaker::BreakerActor,
    chat::Chat,
    consumer::Consumer,
    events::Events,
    ingress::{Desk, Ingress},
    limiter::LimiterActor,
    link::{Round, Rounds},
    metrics::Census,
    reconcile,
    retry::RetryActor,
    roster::Card,
    supervisor::{BACKOFF, Child, INTENSITY, Message, Plan, Start, Supervisor},
    watchdog::Watchdog,
};
use crate::{
    broker::Peer,
    domain::{
        ids::ConversationId,
        restart::{Restart, Strategy},
    },
    guard,
    state::{
        self,
        nodes::{BEAT_EVERY, EXPIRES_AFTER, Node},
    },
};

const TIDY_EVERY: Duration = Duration::from_secs(600);
/// When nothing was heard of the other nodes for so long, each takes whatever it can get.
const UNHEARD_MAX: Duration = Duration::from_secs(30);
const STATE_EVERY: Duration = Duration::from_secs(30);
/// Also the pause before a conversation that could not be reconciled is read again.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
const CONFIRM_EVERY: Duration = Duration::from_secs(5);
const DEPUTY_EVERY: Duration = Duration::from_secs(5);
const SPREAD_EVERY: Duration = Duration::from_secs(1);

/// A blocked runtime of the watchdog's must not block the supervisor that starts it.
const START_WITHIN: Duration = Duration::from_secs(5);

/// A round may take this long: after a long absence a thousand conversations are read from Zendesk.
const ROUND_WITHIN: Duration = Duration::from_secs(30 * 60);

/// One look at a connection, with a new one and the rest after it, takes 6 s at the most.
const LOOK_WITHIN: Duration = Duration::from_secs(15);

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
    let grower = Grower { parts };
    // Before anybody works: what is known of holders may be out of date.
    if let Err(error) = reconcile::note_alive(parts, desks).await {
        tracing::warn!(%error, "that this node is alive could not be noted");
    }
    let links = [grower.broker_link(), grower.state_link(), grower.reconciler(desks)];
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
    children.extend([grower.watchdog(apart.clone()), grower.deputy()]);
    let plan = grower.plan("node", "node", children);
    let (root, ended) = Supervisor::root(&parts.roster, &parts.metrics, plan).await?;
    allowance::learn(&parts.state, &parts.allowances).await;
    Ok(Tree { root, ended })
}

struct Grower<'a> {
    parts: &'a Arc<Parts>,
}

/// Whether somebody else holds a conversation: the event that says so may have come to another node.
async fn is_passed(parts: &Parts, conversation: &ConversationId) -> bool {
    let active = parts.sunshine.active(None, conversation).await;
    active.is_ok_and(|active| !parts.ours.holder(active.as_ref()).lets_us_answer())
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

    /// Goes a round `every` so often, or one after the other; each takes no longer than `within`.
    fn rounds(&self, path: &str, every: Option<Duration>, within: Duration, round: Round) -> Child {
        let card = self.card(path, "link");
        let clock = self.parts.clock.clone();
        child(card.clone(), move || {
            let (card, clock, round) = (card.clone(), clock.clone(), round.clone());
            Rounds { card, every, within, clock, round }
        })
    }

    fn broker_link(&self) -> Child {
        let parts = self.parts.clone();
        let round: Round = Arc::new(move || {
            let parts = parts.clone();
            Box::pin(async move { Ok(parts.broker.tidy().await?) })
        });
        let of_broker = self.parts.upkeep.rounds();
        if of_broker.is_empty() {
            return self.rounds("node/broker-link", Some(TIDY_EVERY), ROUND_WITHIN, round);
        }
        let tidying = self.rounds("node/broker-link/tidy", Some(TIDY_EVERY), ROUND_WITHIN, round);
        let others = of_broker.into_iter().map(|of_broker| {
            let path = format!("node/broker-link/{}", of_broker.name);
            let go = of_broker.go;
            let round: Round = Arc::new(move || {
                let going = go();
                Box::pin(async move { Ok(going.await?) })
            });
            self.rounds(&path, of_broker.every, of_broker.within, round)
        });
        self.supervisor("node/broker-link", others.chain([tidying]).collect())
    }

    fn state_link(&self) -> Child {
        let parts = self.parts.clone();
        let round: Round = Arc::new(move || {
            let parts = parts.clone();
            Box::pin(async move { Ok(parts.state.tidy(parts.clock.now()).await?) })
        });
        self.rounds("node/state-link", Some(STATE_EVERY), ROUND_WITHIN, round)
    }

    /// The connections to Redis, if there are some; one that fails harms no other.
    fn redis(&self) -> Option<Child> {
        let lines = self.parts.redis.as_ref()?.lines();
        let keepers = lines.into_iter().map(|line| {
            let path = format!("node/redis/{}", line.name());
            let round: Round = Arc::new(move || {
                let line = line.clone();
                Box::pin(async move {
                    line.look().await;
                    Ok(())
                })
            });
            self.rounds(&path, None, LOOK_WITHIN, round)
        });
        Some(self.supervisor("node/redis", keepers.chain([self.heartbeat()]).collect()))
    }

    fn heartbeat(&self) -> Child {
        let parts = self.parts.clone();
        let round: Round = Arc::new(move || {
            let parts = parts.clone();
            Box::pin(async move {
                // A node that drains leaves its partitions to the others while it finishes what is in hand.
                let consumes = parts.upkeep.consumes() && !parts.draining.is_cancelled();
                let in_hand = parts.directory.all().iter().filter(|cell| cell.lock().hand.is_some()).count();
                match parts.nodes.beat(in_hand, consumes).await {
                    // The keeper of the connection has said so.
                    Ok(()) | Err(state::Error::Away(_)) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            })
        });
        self.rounds("node/redis/heartbeat", Some(BEAT_EVERY), ROUND_WITHIN, round)
    }

    fn reconciler(&self, desks: &[Arc<Desk>]) -> Child {
        let (parts, desks) = (self.parts.clone(), desks.to_vec());
        let round: Round = Arc::new(move || {
            let (parts, desks) = (parts.clone(), desks.clone());
            Box::pin(async move {
                reconcile::note_alive(&parts, &desks).await?;
                Ok(reconcile::reconcile(&parts).await?)
            })
        });
        self.rounds("node/reconciler", Some(ALIVE_EVERY), ROUND_WITHIN, round)
    }

    /// Alarms about hand-offs that Zendesk does not confirm.
    fn handoffs(&self) -> Child {
        let parts = self.parts.clone();
        let round: Round = Arc::new(move || {
            let parts = parts.clone();
            Box::pin(async move {
                for conversation in parts.handoffs.overdue(parts.clock.now()) {
                    if parts.nodes.is_fleet() && is_passed(&parts, &conversation).await {
                        continue;
                    }
                    parts.metrics.handed_off("unconfirmed");
                    tracing::error!(conversation.id = %conversation, "a hand-off was not confirmed; a customer may be waiting");
                }
                Ok(())
            })
        });
        self.rounds("node/handoffs", Some(CONFIRM_EVERY), ROUND_WITHIN, round)
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
        for (key, permits) in &self.parts.key_limits {
            children.push(self.limiter(&format!("key:{key}"), permits.clone()));
        }
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

    /// Tells the queue which nodes answer conversations, and lets go of what has become another's.
    fn partitions(&self) -> Child {
        let parts = self.parts.clone();
        let began = parts.clock.monotonic();
        let round: Round = Arc::new(move || {
            let is_known = parts.nodes.live() > 0 || parts.clock.monotonic() - began > EXPIRES_AFTER;
            if is_known {
                let answers = |node: &Node| node.roles.iter().any(|role| role == "chat");
                let peer = |node: Node| Peer { id: node.id, consumes: node.consumes };
                let mut peers: Vec<Peer> = parts.nodes.all().into_iter().filter(answers).map(peer).collect();
                if parts.nodes.unheard_for() > UNHEARD_MAX {
                    // Another may have died meanwhile. Who has a partition keeps it; the others stand by.
                    peers.retain(|peer| peer.id == parts.nodes.id());
                }
                if parts.draining.is_cancelled() {
                    peers.clear();
                }
                parts.upkeep.spread(parts.nodes.id(), &peers);
                parts.directory.let_go();
            }
            Box::pin(std::future::ready(Ok(())))
        });
        self.rounds("node/partitions", Some(SPREAD_EVERY), ROUND_WITHIN, round)
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

    /// Looks after the watchdog, which looks after everybody else.
    fn deputy(&self) -> Child {
        let (watchdog, limit) = (self.card("node/watchdog", "watchdog"), self.parts.actor_time_limit);
        let round: Round = Arc::new(move || {
            if let Some((keeper, order)) = watchdog.stamp.examine(limit) {
                keeper(order);
            }
            Box::pin(std::future::ready(Ok(())))
        });
        self.rounds("node/deputy", Some(DEPUTY_EVERY), ROUND_WITHIN, round)
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
