//! Finds conversations whose work does not end: cancels a slow AI call, kills an actor that hangs, replaces one that
//! blocks its thread (design rule 12).
//!
//! Runs on a runtime of its own, so that a blocked worker thread cannot blind it. Supervised by the node.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{
    Parts,
    chat::ConversationRef,
    inbox::{Cell, Phase},
    roster::Card,
};

/// A wait is stuck this long after its registered wake-up.
const WAKE_SLACK: Duration = Duration::from_secs(5);

/// An actor that was killed and has not ended after this long blocks its thread.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// The longest time between two looks.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);

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

/// What is wrong with a conversation.
enum Finding {
    Kill(ConversationRef, String),
    Replace(u64, String),
}

impl Actor for Watchdog {
    type Msg = Message;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_start(&self, myself: ActorRef<Message>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let bell = myself.clone();
        self.card.bell.connect(move || drop(bell.cast(Message::Bell)));
        let every = (self.parts.chat.soft_time_limit / 10).clamp(Duration::from_millis(10), LOOK_EVERY_MAX);
        myself.send_interval(every, || Message::Look);
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Message>, message: Message, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Look => self.look(),
            Message::Bell => self.card.meet_fault().await?,
        }
        Ok(())
    }
}

impl Watchdog {
    fn look(&self) {
        let _busy = self.card.busy();
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
