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
    /// How often; without it one round follows the other, and each rests by itself.
    pub every: Option<Duration>,
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
        if let Some(every) = self.every {
            myself.send_interval(every, || Message::Round);
        }
        Ok(myself.cast(Message::Round)?)
    }

    async fn handle(&self, myself: ActorRef<Message>, message: Message, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.card.meet_fault().await?;
        if let Message::Round = message {
            let _in_hand = self.card.stamp.begin("a round", Some(self.within));
            self.card.handled(1);
            // The rounds come at fixed times; one that took long may be followed by the next at once.
            if let Some(every) = self.every {
                self.card.stamp.wakes_at(Some(self.clock.monotonic() + every));
            }
            if let Err(error) = (self.round)().await {
                tracing::warn!(actor.path = self.card.path, %error, "a round could not be finished; the next one tries again");
            }
            if self.every.is_none() {
                myself.cast(Message::Round)?;
            }
        }
        Ok(())
    }
}
