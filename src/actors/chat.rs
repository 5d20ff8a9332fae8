//! Keeps the conversations' actors running: starts them on demand, ends those that are idle, takes what a failed one
//! had in hand to the dead letters and starts it again.
//!
//! What waits survives both a conversation's actor and this one, because it lies in the directory.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::task::JoinSet;

use super::{
    Parts,
    conversation::{self, Conversation},
    hand::{Hand, Item, Phase},
    inbox::Cell,
    roster::Card,
    supervisor::end_of,
    turn,
};
use crate::domain::restart::{Backoff, Decision, Intensity, Restarts};

/// A conversation in which nothing has happened for this long is put away.
const IDLE_AFTER: Duration = Duration::from_secs(30);

/// How often idle ones are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Above this something is wrong with more than single messages.
const INTENSITY: Intensity = Intensity { max_restarts: 2_000, within: Duration::from_secs(10) };

/// The pause before a conversation's actor is started again, growing while it fails in a row.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_secs(5), jitter: 0.2 };

/// The supervisor of conversations.
pub(super) struct Chat {
    pub parts: Arc<Parts>,
    pub card: Arc<Card>,
}

/// What it is told.
pub(super) enum Message {
    /// A conversation needs an actor.
    Start(Arc<Cell>),
    /// A conversation's actor does not end although it was killed.
    Replace(Arc<Cell>, u64, String),
    /// Look for idle ones.
    Sweep,
    /// Look whether a failure was ordered.
    Bell,
}

/// What it knows.
pub(super) struct State {
    running: HashMap<ActorId, (Arc<Cell>, u64)>,
    restarts: Restarts,
    /// Burials under way.
    burials: JoinSet<()>,
}

/// Reaches the supervisor of conversations, whichever incarnation runs.
#[derive(Default)]
pub struct Sender(Mutex<Option<ActorRef<Message>>>);

impl Sender {
    /// Asks for an actor. If nobody hears it now, the next incarnation finds the work in the directory.
    pub(super) fn start(&self, cell: Arc<Cell>) {
        self.send(Message::Start(cell));
    }

    /// Asks for another actor in place of one that does not end.
    pub(super) fn replace(&self, cell: Arc<Cell>, generation: u64, cause: String) {
        self.send(Message::Replace(cell, generation, cause));
    }

    fn send(&self, message: Message) {
        if let Some(actor) = self.0.lock().as_ref() {
            // A dead one's successor adopts what is in the directory.
            let _ = actor.cast(message);
        }
    }
}

impl Actor for Chat {
    type Msg = Message;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<State, ActorProcessingErr> {
        Ok(State { running: HashMap::new(), restarts: Restarts::new(INTENSITY, BACKOFF), burials: JoinSet::new() })
    }

    async fn post_start(&self, myself: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        *self.parts.conversations.0.lock() = Some(myself.clone());
        let bell = myself.clone();
        self.card.bell.connect(move || drop(bell.cast(Message::Bell)));
        // A failure may have been ordered before there was anybody to hear it.
        myself.cast(Message::Bell)?;
        myself.send_interval(SWEEP_EVERY, || Message::Sweep);
        for cell in self.parts.directory.all() {
            let needed = cell.lock().adopt();
            if needed {
                self.start(&myself, state, cell).await?;
            }
        }
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let _in_hand = self.card.begin("a conversation's actor");
        match message {
            Message::Start(cell) => self.start(&myself, state, cell).await,
            Message::Replace(cell, generation, cause) => self.replace(&myself, state, &cell, generation, cause),
            Message::Sweep => {
                self.sweep(state);
                Ok(())
            }
            Message::Bell => Ok(self.card.meet_fault().await?),
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Some((id, abnormal, _)) = end_of(&event) else { return Ok(()) };
        let _in_hand = self.card.begin("a conversation's end");
        let Some((cell, generation)) = state.running.remove(&id) else { return Ok(()) };
        if !abnormal {
            return Ok(());
        }
        let cause = match event {
            SupervisionEvent::ActorFailed(_, error) => {
                let text = error.to_string();
                if text.starts_with("error: ") { text } else { format!("panic: {text}") }
            }
            _ => cell.lock().killed_for.take().unwrap_or_else(|| "killed".into()),
        };
        self.bereaved(&myself, state, &cell, generation, cause)
    }
}

impl Chat {
    async fn start(
        &self,
        myself: &ActorRef<Message>,
        state: &mut State,
        cell: Arc<Cell>,
    ) -> Result<(), ActorProcessingErr> {
        let generation = {
            let mut inner = cell.lock();
            if inner.actor.is_some() {
                return Ok(());
            }
            inner.begin_incarnation(self.parts.clock.now())
        };
        let conversation = Conversation { parts: self.parts.clone() };
        let (actor, _) = Actor::spawn_linked(None, conversation, (cell.clone(), generation), myself.get_cell()).await?;
        state.running.insert(actor.get_id(), (cell.clone(), generation));
        self.card.waiting(0);
        self.card.handled(1);
        let mut inner = cell.lock();
        inner.actor = Some(actor);
        drop(inner);
        cell.ring();
        Ok(())
    }

    /// An actor has failed: its message takes the road of failures, the conversation goes on.
    fn bereaved(
        &self,
        myself: &ActorRef<Message>,
        state: &mut State,
        cell: &Arc<Cell>,
        generation: u64,
        cause: String,
    ) -> Result<(), ActorProcessingErr> {
        let (hand, in_a_row) = {
            let mut inner = cell.lock();
            if !inner.is_current(generation) {
                return Ok(());
            }
            (inner.bereave(), inner.crashes_in_a_row)
        };
        let reason = cause.split_once(':').map_or("error", |(kind, _)| match kind {
            "panic" => "panic",
            "time limit" => "time_limit",
            _ => "error",
        });
        self.parts.metrics.restarted("conversation", reason);
        tracing::warn!(conversation.id = %cell.id, cause, "a conversation's actor failed and is started again");
        if state.restarts.ended(0, self.parts.clock.monotonic(), 0.0) == Decision::Escalate {
            return Err(format!("too many conversations fail, the last one: {cause}").into());
        }
        while state.burials.try_join_next().is_some() {}
        let (parts, cell, myself) = (self.parts.clone(), cell.clone(), myself.clone());
        state.burials.spawn(async move {
            let pause = BACKOFF.pause(in_a_row, rand::random());
            if let Some(hand) = hand {
                bury(&parts, &cell, hand, &cause).await;
            }
            tokio::time::sleep(pause).await;
            // If this supervisor has died, the next one finds the cell.
            let _ = myself.cast(Message::Start(cell));
        });
        Ok(())
    }

    fn replace(
        &self,
        myself: &ActorRef<Message>,
        state: &mut State,
        cell: &Arc<Cell>,
        generation: u64,
        cause: String,
    ) -> Result<(), ActorProcessingErr> {
        // The old one may end some day; nobody waits for that.
        state.running.retain(|_, (running, of)| !(Arc::ptr_eq(running, cell) && *of == generation));
        self.parts.metrics.zombie();
        cell.lock().zombies += 1;
        self.bereaved(myself, state, cell, generation, cause)
    }

    fn sweep(&self, state: &mut State) {
        while state.burials.try_join_next().is_some() {}
        let before = self.parts.clock.monotonic().saturating_sub(IDLE_AFTER);
        for idle in self.parts.directory.passivate(before) {
            idle.stop(Some("passivated".into()));
        }
    }
}

/// The head of what was in hand is to blame; the others run by themselves from now on.
async fn bury(parts: &Parts, cell: &Cell, mut hand: Hand, cause: &str) {
    // Whatever it waited for ends here.
    hand.enter(Phase::Preparing, parts.clock.monotonic(), parts.clock.now());
    hand.fail(cause);
    if let Err(error) = parts.state.release(&cell.id, None).await {
        tracing::warn!(%error, conversation.id = %cell.id, "a claim could not be released");
    }
    let mut items = hand.items.into_iter();
    let head = items.next();
    cell.lock().put_back(items.map(|item| Item { alone: true, ..item.touched() }));
    let Some(head) = head else { return };
    if let Err(error) = turn::bury(parts, head, cause).await {
        // It was not settled, so it comes back.
        tracing::error!(%error, conversation.id = %cell.id, "a failed message could not be buried");
    }
}

/// An actor's reference, for the watchdog.
pub(super) type ConversationRef = ActorRef<conversation::Message>;
