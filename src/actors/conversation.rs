//! One live conversation: takes what waits in its inbox, burst by burst, and works it off in order (`turn.rs`).
//!
//! Owns nothing but what can be looked up again: the inbox and what is in hand lie in its cell. Supervised by
//! `chat.rs`, which takes what it leaves in hand when it dies.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{Parts, inbox::Cell, lease::Lease, turn};
use crate::domain::{
    ids::{ConversationId, UserId},
    prompt::History,
};

/// What the actor is told.
pub enum Message {
    /// Look into the inbox.
    Bell,
}

/// The actor.
pub struct Conversation {
    /// What it works with.
    pub parts: Arc<Parts>,
}

/// What it remembers between bursts.
pub struct State {
    /// Its inbox.
    pub cell: Arc<Cell>,
    /// Its incarnation; what an outlived one does is not taken.
    pub generation: u64,
    /// What was said, once it has been looked up.
    pub history: Option<History>,
    /// Whether what is in hand begins the conversation; not known until that has been looked up.
    pub begins: Option<bool>,
    /// Whether the state has been asked what it remembers.
    pub recalled: bool,
    /// The conversation this one was merged into.
    pub alias: Option<ConversationId>,
    /// Its customer, once noted.
    pub user: Option<UserId>,
    /// The claim on the conversation, while there is something in hand.
    pub lease: Lease,
}

impl Actor for Conversation {
    type Msg = Message;
    type State = State;
    type Arguments = (Arc<Cell>, u64);

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        (cell, generation): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let lease = Lease::default();
        Ok(State { cell, generation, history: None, begins: None, recalled: false, alias: None, user: None, lease })
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            // Told apart from a panic, whose text stands alone.
            Message::Bell => self.work_off(state).await.map_err(|error| format!("error: {error}").into()),
        }
    }
}

impl Conversation {
    /// Works until the inbox is empty, the node drains, or this incarnation has been replaced.
    async fn work_off(&self, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.cell.lock().heard();
        let durations = self.parts.roster.durations.of("conversation");
        while !self.parts.draining.is_cancelled() {
            let began = self.parts.clock.monotonic();
            let more = turn::turn(&self.parts, state).await;
            durations.observe(self.parts.clock.monotonic().saturating_sub(began).as_secs_f64());
            if !more? {
                break;
            }
        }
        Ok(())
    }
}
