//! Actors that go their rounds: what has to be done from time to time, each kept running by the supervisor above.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::roster::Card;
use crate::telemetry::Clock;

/// What is done on a round.
pub(super) type Round = Arc<dyn Fn() -> BoxFuture<'static, Result<(), ActorProcessingErr>> + Send + Sync>;

/// One who goes rounds.
pub(super) struct Rounds {
    pub card: Arc<Card>,
    pub every: Duration,
    /// The longest time a round may take.
    pub within: Duration,
    pub clock: Clock,
    pub round: Round,
}

/// What it is told.
pub(super) enum Message {
    /// Go.
    Round,
    /// Look whether a failure was ordered.
    Bell,
}

impl Actor for Rounds {
    type Msg = Message;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_start(&self, myself: ActorRef<Message>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let bell = myself.clone();
        self.card.bell.connect(move || drop(bell.cast(Message::Bell)));
        myself.send_interval(self.every, || Message::Round);
        Ok(myself.cast(Message::Round)?)
    }

    async fn handle(&self, _: ActorRef<Message>, message: Message, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.card.meet_fault().await?;
        if let Message::Round = message {
            let _in_hand = self.card.stamp.begin("a round", Some(self.within));
            self.card.handled(1);
            // The rounds come at fixed times; one that took long may be followed by the next at once.
            self.card.stamp.wakes_at(Some(self.clock.monotonic() + self.every));
            if let Err(error) = (self.round)().await {
                tracing::warn!(actor.path = self.card.path, %error, "a round could not be finished; the next one tries again");
            }
        }
        Ok(())
    }
}
