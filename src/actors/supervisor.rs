//! Keeps a fixed set of actors running. Owns their restarts; is itself supervised by the one above.
//!
//! Written on ractor's links, because ractor's own default stops the parent when a child ends and nothing else
//! (`docs/adr/001-supervision.md`). Children are matched by actor id, so the late news of an old incarnation is not
//! taken for the new one's. Past its intensity a supervisor fails, and the one above decides.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};

use super::{
    metrics::Metrics,
    roster::{Card, Roster},
    stamp::Order,
};
use crate::domain::restart::{Backoff, Decision, Intensity, Restart, Restarts, Strategy};

/// How long a child may take to stop before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// The intensity and backoff of supervisors whose children are few and should not fail.
pub const INTENSITY: Intensity = Intensity { max_restarts: 10, within: Duration::from_secs(10) };
/// The first restart is at once; a loop is slowed to ten a second.
pub const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(100), jitter: 0.2 };

/// Starts one incarnation of a child, linked to the supervisor given.
pub type Start = Arc<dyn Fn(ActorCell) -> BoxFuture<'static, Result<ActorCell, SpawnErr>> + Send + Sync>;

/// A child to be kept running.
#[derive(Clone)]
pub struct Child {
    /// Its card.
    pub card: Arc<Card>,
    /// Whether it is started again.
    pub restart: Restart,
    /// How it is started.
    pub start: Start,
}

/// What a supervisor keeps running, and how.
#[derive(Clone)]
pub struct Plan {
    /// Its own card.
    pub card: Arc<Card>,
    /// Which children go with one that ends.
    pub strategy: Strategy,
    /// How many restarts are too many.
    pub intensity: Intensity,
    /// The pauses before restarts.
    pub backoff: Backoff,
    /// The children, in the order of their start.
    pub children: Vec<Child>,
}

/// The supervisor.
pub struct Supervisor {
    roster: Arc<Roster>,
    metrics: Metrics,
}

/// What a supervisor is told.
pub enum Message {
    /// The pause before a restart is over.
    Start(Vec<Ordered>),
    /// The watchdog has found a child stuck.
    Stuck(ActorId, Order),
    /// Look whether a failure was ordered.
    Bell,
}

/// An incarnation to be started; another has been ordered since if it is not the child's latest.
#[derive(Clone, Copy)]
pub struct Ordered {
    index: usize,
    generation: u64,
}

/// What a supervisor knows.
pub struct State {
    plan: Plan,
    running: Vec<Running>,
    restarts: Restarts,
}

#[derive(Default)]
struct Running {
    actor: Option<ActorCell>,
    generation: u64,
    /// Why the watchdog had it killed.
    killed_for: Option<String>,
}

impl State {
    /// The child whose present incarnation that is.
    fn position(&self, id: ActorId) -> Option<usize> {
        self.running.iter().position(|child| child.actor.as_ref().is_some_and(|actor| actor.get_id() == id))
    }
}

impl Supervisor {
    /// A child that is a supervisor itself.
    pub fn child(roster: &Arc<Roster>, metrics: &Metrics, plan: Plan) -> Child {
        let (roster, metrics, card) = (roster.clone(), metrics.clone(), plan.card.clone());
        let start: Start = Arc::new(move |above| {
            let supervisor = Self { roster: roster.clone(), metrics: metrics.clone() };
            let plan = plan.clone();
            Box::pin(async move { Ok(Actor::spawn_linked(None, supervisor, plan, above).await?.0.get_cell()) })
        });
        Child { card, restart: Restart::Permanent, start }
    }

    /// Starts the supervisor above all; its handle ends when it stops or gives up.
    pub async fn root(
        roster: &Arc<Roster>,
        metrics: &Metrics,
        plan: Plan,
    ) -> Result<(ActorRef<Message>, tokio::task::JoinHandle<()>), SpawnErr> {
        let supervisor = Self { roster: roster.clone(), metrics: metrics.clone() };
        let card = plan.card.clone();
        let (root, ended) = Actor::spawn(None, supervisor, plan).await?;
        let stuck = root.get_cell();
        // Nobody is above it to start it again: the process ends.
        card.stamp.kept_by(move |_| stuck.kill());
        Ok((root, ended))
    }

    async fn start(
        &self,
        state: &mut State,
        myself: &ActorRef<Message>,
        index: usize,
    ) -> Result<(), ActorProcessingErr> {
        let child = &state.plan.children[index];
        state.running[index].generation += 1;
        state.running[index].killed_for = None;
        match (child.start)(myself.get_cell()).await {
            Ok(actor) => {
                child.card.started(self.roster.clock.now());
                let (above, id) = (myself.clone(), actor.get_id());
                child.card.stamp.kept_by(move |order| drop(above.cast(Message::Stuck(id, order))));
                state.running[index].actor = Some(actor);
                Ok(())
            }
            Err(error) => self.ended(state, myself, index, true, &error.to_string()).await,
        }
    }

    /// A child has ended: start it and those that go with it again, or give up.
    async fn ended(
        &self,
        state: &mut State,
        myself: &ActorRef<Message>,
        index: usize,
        abnormal: bool,
        reason: &str,
    ) -> Result<(), ActorProcessingErr> {
        let child = &state.plan.children[index];
        state.running[index].actor = None;
        if !child.restart.after(abnormal) {
            child.card.stopped();
            return Ok(());
        }
        let now = self.roster.clock.now();
        child.card.failed(now, reason);
        self.metrics.restarted(child.card.kind, cause(reason));
        tracing::warn!(actor.path = child.card.path, reason, "an actor failed and is started again");
        let Decision::Again(pause) = state.restarts.ended(index, self.roster.clock.monotonic(), rand::random()) else {
            tracing::error!(actor.path = state.plan.card.path, "too many restarts; the supervisor above decides");
            return Err(format!(
                "{}: too many restarts, the last of {}: {reason}",
                state.plan.card.path, child.card.path
            )
            .into());
        };
        let affected = state.plan.strategy.affected(index, state.plan.children.len());
        for other in affected.clone().rev().filter(|other| *other != index) {
            stop(state.running[other].actor.take()).await;
        }
        let mut ordered = Vec::new();
        for other in affected {
            state.running[other].generation += 1;
            let child = &state.plan.children[other];
            if child.restart == Restart::Temporary {
                child.card.stopped();
                continue;
            }
            ordered.push(Ordered { index: other, generation: state.running[other].generation });
        }
        myself.send_after(pause, move || Message::Start(ordered));
        Ok(())
    }

    /// Starts what was ordered, in order, unless it has been ordered anew since.
    async fn start_ordered(
        &self,
        state: &mut State,
        myself: &ActorRef<Message>,
        ordered: Vec<Ordered>,
    ) -> Result<(), ActorProcessingErr> {
        for Ordered { index, generation } in ordered {
            if state.running[index].generation == generation {
                self.start(state, myself, index).await?;
            }
        }
        Ok(())
    }

    /// A child is stuck: it is killed, or given up and replaced if that does not end it.
    async fn stuck(
        &self,
        state: &mut State,
        myself: &ActorRef<Message>,
        id: ActorId,
        order: Order,
    ) -> Result<(), ActorProcessingErr> {
        // One that has ended meanwhile is not stuck any more.
        let Some(index) = state.position(id) else { return Ok(()) };
        let child = &mut state.running[index];
        match order {
            Order::Kill(cause) => {
                tracing::warn!(actor.path = state.plan.children[index].card.path, cause, "a stuck actor is killed");
                child.killed_for = Some(cause);
                child.actor.iter().for_each(ActorCell::kill);
                Ok(())
            }
            Order::Replace(cause) => {
                // The old one may end some day; nobody waits for that. Those below it would work beside their successors.
                let below = child.actor.iter().flat_map(ActorCell::get_children);
                below.for_each(|actor| actor.kill());
                self.metrics.zombie();
                state.plan.children[index].card.outlived();
                self.ended(state, myself, index, true, &cause).await
            }
        }
    }
}

/// The kind of a failure as label value.
fn cause(reason: &str) -> &'static str {
    if reason.contains("time limit") {
        "time_limit"
    } else if reason.contains("killed") {
        "killed"
    } else if reason.contains("panic") {
        "panic"
    } else {
        "error"
    }
}

async fn stop(actor: Option<ActorCell>) {
    let Some(actor) = actor else { return };
    if actor.stop_and_wait(Some("stopped by its supervisor".into()), Some(STOP_WITHIN)).await.is_err() {
        actor.kill();
    }
}

impl Actor for Supervisor {
    type Msg = Message;
    type State = State;
    type Arguments = Plan;

    async fn pre_start(&self, _: ActorRef<Message>, plan: Plan) -> Result<State, ActorProcessingErr> {
        let running = plan.children.iter().map(|_| Running::default()).collect();
        let restarts = Restarts::new(plan.intensity, plan.backoff);
        Ok(State { plan, running, restarts })
    }

    async fn post_start(&self, myself: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.plan.card.started(self.roster.clock.now());
        let bell = myself.clone();
        state.plan.card.bell.connect(move || drop(bell.cast(Message::Bell)));
        // A failure may have been ordered before there was anybody to hear it.
        myself.cast(Message::Bell)?;
        for index in 0..state.plan.children.len() {
            self.start(state, &myself, index).await?;
        }
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let card = state.plan.card.clone();
        let _in_hand = card.begin("supervising");
        match message {
            Message::Start(ordered) => self.start_ordered(state, &myself, ordered).await,
            Message::Stuck(id, order) => self.stuck(state, &myself, id, order).await,
            Message::Bell => Ok(state.plan.card.meet_fault().await?),
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Some((id, abnormal, reason)) = end_of(&event) else { return Ok(()) };
        // Else it is an incarnation that we have stopped or replaced ourselves.
        let Some(index) = state.position(id) else { return Ok(()) };
        let reason = state.running[index].killed_for.take().unwrap_or(reason);
        let card = state.plan.card.clone();
        let _in_hand = card.begin("supervising");
        self.ended(state, &myself, index, abnormal, &reason).await
    }

    /// A supervisor that stops would kill its children; so they are stopped before, the last started first.
    async fn post_stop(&self, _: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        for index in (0..state.running.len()).rev() {
            stop(state.running[index].actor.take()).await;
            state.plan.children[index].card.stopped();
        }
        state.plan.card.stopped();
        Ok(())
    }
}

/// Who ended, whether abnormally, and why; `None` for other events. Being killed is abnormal.
pub fn end_of(event: &SupervisionEvent) -> Option<(ActorId, bool, String)> {
    match event {
        SupervisionEvent::ActorFailed(actor, error) => Some((actor.get_id(), true, format!("panic or error: {error}"))),
        SupervisionEvent::ActorTerminated(actor, _, reason) => {
            let reason = reason.clone().unwrap_or_default();
            let abnormal = reason == "killed" || reason == "actor_task_cancelled";
            Some((actor.get_id(), abnormal, reason))
        }
        _ => None,
    }
}
