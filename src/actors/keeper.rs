//! Keeps one connection to Redis up: looks at it, has it made anew, for ever.
//!
//! Owns nothing: the connection outlives it, so that calls go on while it is started again. Supervised by `node/redis`.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::roster::Card;
use crate::state::redis::Line;

/// One look, with a new connection and the rest after it, takes 6 s at the most.
const LOOK_WITHIN: Duration = Duration::from_secs(15);

/// The keeper.
pub(super) struct Keeper {
    pub line: Arc<Line>,
    pub card: Arc<Card>,
}

/// What it is told.
pub(super) enum Message {
    /// Look at the connection.
    Look,
    /// Look whether a failure was ordered.
    Bell,
}

impl Actor for Keeper {
    type Msg = Message;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_start(&self, myself: ActorRef<Message>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let bell = myself.clone();
        self.card.bell.connect(move || drop(bell.cast(Message::Bell)));
        Ok(myself.cast(Message::Look)?)
    }

    async fn handle(&self, myself: ActorRef<Message>, message: Message, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.card.meet_fault().await?;
        if let Message::Look = message {
            {
                let _in_hand = self.card.stamp.begin("a look", Some(LOOK_WITHIN));
                self.card.handled(1);
                self.line.look().await;
            }
            myself.cast(Message::Look)?;
        }
        Ok(())
    }
}
