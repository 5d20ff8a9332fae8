//! The one who hands out a service's permits on this node, in the order in which they were asked for.
//!
//! Sleeps until the next one is due; nobody polls. Supervised by `guards`.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::roster::Card;
use crate::{guard::Permits, telemetry::Clock};

/// The actor of one limiter.
pub(super) struct LimiterActor {
    pub permits: Arc<Permits>,
    pub card: Arc<Card>,
    pub clock: Clock,
}

/// What it is told.
pub(super) enum Message {
    /// Somebody asks, or has given a permit back.
    Bell,
    /// The time that was slept for has come.
    Due,
}

impl Actor for LimiterActor {
    type Msg = Message;
    /// When (monotonic) it will look again.
    type State = Option<Duration>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        Ok(None)
    }

    async fn post_start(&self, myself: ActorRef<Message>, _: &mut Self::State) -> Result<(), ActorProcessingErr> {
        for bell in [&self.permits.bell, &self.card.bell] {
            let myself = myself.clone();
            bell.connect(move || drop(myself.cast(Message::Bell)));
        }
        Ok(myself.cast(Message::Bell)?)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Bell => {}
            Message::Due => *state = None,
        }
        self.card.meet_fault().await?;
        let _in_hand = self.card.begin("handing out permits");
        self.card.handled(1);
        self.card.waiting(self.permits.waiting());
        if let Some(due) = self.permits.serve() {
            let asleep_longer = state.is_none_or(|wakes| due < wakes);
            if asleep_longer {
                *state = Some(due);
                myself.send_after(due.saturating_sub(self.clock.monotonic()), || Message::Due);
            }
        }
        self.card.stamp.wakes_at(*state);
        Ok(())
    }
}
