//! Those who go their rounds (`link.rs`): the links to queue, state and Redis, and whoever looks at something from time
//! to time.

use std::{sync::Arc, time::Duration};

use super::{Grower, child};
use crate::{
    actors::{
        Parts,
        ingress::Desk,
        link::{Round, Rounds},
        pulse, reconcile, settings,
        supervisor::Child,
    },
    broker::Peer,
    domain::ids::ConversationId,
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
const BEAT_OF_PULSE: Duration = Duration::from_secs(1);
const SETTINGS_EVERY: Duration = Duration::from_secs(1);
const SPREAD_EVERY: Duration = Duration::from_secs(1);

/// A round may take this long: after a long absence a thousand conversations are read from Zendesk.
const ROUND_WITHIN: Duration = Duration::from_secs(30 * 60);

/// One look at a connection, with a new one and the rest after it, takes 6 s at the most.
const LOOK_WITHIN: Duration = Duration::from_secs(15);

impl Grower<'_> {
    /// Goes a round `every` so often, or one after the other; each takes no longer than `within`.
    fn rounds(&self, path: &str, every: Option<Duration>, within: Duration, round: Round) -> Child {
        let card = self.card(path, "link");
        let clock = self.parts.clock.clone();
        child(card.clone(), move || {
            let (card, clock, round) = (card.clone(), clock.clone(), round.clone());
            Rounds { card, every, within, clock, round }
        })
    }

    pub(super) fn broker_link(&self) -> Child {
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

    pub(super) fn state_link(&self) -> Child {
        let parts = self.parts.clone();
        let round: Round = Arc::new(move || {
            let parts = parts.clone();
            Box::pin(async move { Ok(parts.state.tidy(parts.clock.now()).await?) })
        });
        self.rounds("node/state-link", Some(STATE_EVERY), ROUND_WITHIN, round)
    }

    /// The connections to Redis, if there are some; one that fails harms no other.
    pub(super) fn redis(&self) -> Option<Child> {
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

    pub(super) fn heartbeat(&self) -> Child {
        let parts = self.parts.clone();
        let round: Round = Arc::new(move || {
            let parts = parts.clone();
            Box::pin(async move {
                // A node that drains leaves its partitions to the others while it finishes what is in hand.
                let leaves = parts.draining.is_cancelled() || parts.settings.is_drained();
                let consumes = parts.upkeep.consumes() && !leaves;
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

    pub(super) fn settings(&self) -> Child {
        let parts = self.parts.clone();
        let round: Round = Arc::new(move || {
            let parts = parts.clone();
            Box::pin(async move { Ok(settings::refresh(&parts).await?) })
        });
        self.rounds("node/settings", Some(SETTINGS_EVERY), ROUND_WITHIN, round)
    }

    pub(super) fn pulse(&self) -> Child {
        let parts = self.parts.clone();
        let round: Round = Arc::new(move || {
            pulse::beat(&parts);
            Box::pin(std::future::ready(Ok(())))
        });
        self.rounds("node/pulse", Some(BEAT_OF_PULSE), ROUND_WITHIN, round)
    }

    pub(super) fn reconciler(&self, desks: &[Arc<Desk>]) -> Child {
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
    pub(super) fn handoffs(&self) -> Child {
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

    /// Tells the queue which nodes answer conversations, and lets go of what has become another's.
    pub(super) fn partitions(&self) -> Child {
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
                if parts.draining.is_cancelled() || parts.settings.is_drained() {
                    peers.clear();
                }
                parts.upkeep.spread(parts.nodes.id(), &peers);
                parts.directory.let_go();
            }
            Box::pin(std::future::ready(Ok(())))
        });
        self.rounds("node/partitions", Some(SPREAD_EVERY), ROUND_WITHIN, round)
    }

    /// Looks after the watchdog, which looks after everybody else.
    pub(super) fn deputy(&self) -> Child {
        let (watchdog, limit) = (self.card("node/watchdog", "watchdog"), self.parts.actor_time_limit);
        let round: Round = Arc::new(move || {
            if let Some((keeper, order)) = watchdog.stamp.examine(limit) {
                keeper(order);
            }
            Box::pin(std::future::ready(Ok(())))
        });
        self.rounds("node/deputy", Some(DEPUTY_EVERY), ROUND_WITHIN, round)
    }
}

/// Whether somebody else holds a conversation: the event that says so may have come to another node.
async fn is_passed(parts: &Parts, conversation: &ConversationId) -> bool {
    let active = parts.sunshine.active(None, conversation).await;
    active.is_ok_and(|active| !parts.ours.holder(active.as_ref()).lets_us_answer())
}
