//! Finds actors whose work does not end: cancels a slow AI call, kills an actor that hangs, replaces one that blocks its
//! thread (design rule 12). A conversation's limits run in its timed phases; every other actor has one for whatever it
//! has in hand (`stamp.rs`).
//!
//! Runs on a runtime of its own, so that a blocked worker thread cannot blind it. Supervised by the node.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{
    Parts,
    chat::ConversationRef,
    inbox::{Cell, Phase},
    roster::Card,
    stamp::{KILL_GRACE, WAKE_SLACK},
};

/// The longest time between two looks.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);

/// A look that comes this late says that the process stood still, and with it everybody it would be blamed on.
const STANDSTILL: Duration = Duration::from_secs(5);

/// The watchdog.
pub(super) struct Watchdog {
    pub parts: Arc<Parts>,
    pub card: Arc<Card>,
}

/// What it is told.
pub(super) enum Message {
    /// Look.
    Look,
    /// Look whether a failure was ordered.
    Bell,
}

/// What it knows.
pub(super) struct State {
    looked: Duration,
    /// After a standstill everybody gets time to do what was due meanwhile.
    blind_until: Duration,
}

impl State {
    /// Whether what is seen at this time means anything.
    fn sees(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.looked) > STANDSTILL {
            tracing::warn!("the process stood still for a while");
            self.blind_until = now + STANDSTILL;
        }
        self.looked = now;
        now >= self.blind_until
    }
}

/// What is wrong with a conversation.
enum Finding {
    Kill(ConversationRef, String),
    Replace(u64, String),
}

impl Actor for Watchdog {
    type Msg = Message;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<State, ActorProcessingErr> {
        let now = self.parts.clock.monotonic();
        Ok(State { looked: now, blind_until: now })
    }

    async fn post_start(&self, myself: ActorRef<Message>, _: &mut State) -> Result<(), ActorProcessingErr> {
        let bell = myself.clone();
        self.card.bell.connect(move || drop(bell.cast(Message::Bell)));
        let shortest = self.parts.chat.soft_time_limit.min(self.parts.actor_time_limit);
        let every = (shortest / 10).clamp(Duration::from_millis(10), LOOK_EVERY_MAX);
        myself.send_interval(every, || Message::Look);
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Look => {
                if state.sees(self.parts.clock.monotonic()) {
                    self.look();
                    self.look_at_cards();
                }
            }
            Message::Bell => self.card.meet_fault().await?,
        }
        Ok(())
    }
}

impl Watchdog {
    fn look(&self) {
        let now = self.parts.clock.monotonic();
        for cell in self.parts.directory.all() {
            match self.examine(&cell, now) {
                Some(Finding::Kill(actor, cause)) => {
                    tracing::warn!(conversation.id = %cell.id, cause, "a conversation's actor is killed");
                    self.card.handled(1);
                    actor.kill();
                }
                Some(Finding::Replace(generation, cause)) => {
                    self.card.handled(1);
                    self.parts.conversations.replace(cell, generation, cause);
                }
                None => {}
            }
        }
    }

    /// The actors that are no conversations; their supervisors end them.
    fn look_at_cards(&self) {
        for card in self.parts.roster.all() {
            if let Some((keeper, order)) = card.stamp.examine(self.parts.actor_time_limit) {
                tracing::warn!(actor.path = card.path, ?order, "an actor is stuck");
                self.card.handled(1);
                keeper(order);
            }
        }
    }

    fn examine(&self, cell: &Cell, now: Duration) -> Option<Finding> {
        let mut inner = cell.lock();
        let generation = inner.generation;
        let actor = inner.actor.clone();
        let hand = inner.hand.as_mut()?;
        if let Some(killed_at) = hand.killed_at {
            let blocked = now.saturating_sub(killed_at) > KILL_GRACE;
            if blocked {
                // Told once; the next look is a grace away.
                hand.killed_at = Some(now);
                return Some(Finding::Replace(generation, "time limit: it blocked its thread and was replaced".into()));
            }
            return None;
        }
        let age = now.saturating_sub(hand.since);
        let limits = &self.parts.chat;
        let cause = match hand.phase {
            Phase::Waiting(_, Some(until)) if now > until + WAKE_SLACK => {
                format!("time limit: {} missed its wake-up", hand.phase.name())
            }
            phase if phase.is_timed() && age > limits.time_limit => {
                format!("time limit: {} took more than {}", phase.name(), humantime::format_duration(limits.time_limit))
            }
            Phase::Ai if age > limits.soft_time_limit && !hand.soft_limit.is_cancelled() => {
                tracing::warn!(conversation.id = %cell.id, "an AI call takes too long and is cancelled");
                hand.soft_limit.cancel();
                return None;
            }
            _ => return None,
        };
        hand.killed_at = Some(now);
        inner.killed_for = Some(cause.clone());
        actor.map(|actor| Finding::Kill(actor, cause))
    }
}
