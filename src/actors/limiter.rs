//! The one who hands out a service's permits on this node, in the order in which they were asked for.
//!
//! Sleeps until the next one is due; nobody polls. Where nodes share a quota, it is the only one of its node who asks the
//! quota, and has one question under way at most. Supervised by `guards`.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::JoinHandle;

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

/// Between two attempts to listen to other nodes.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// What it holds.
pub(super) struct State {
    /// When (monotonic) it will look again.
    wakes: Option<Duration>,
    /// Listens to what other nodes announce.
    _listening: Listening,
}

/// A task that ends with its owner.
struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Actor for LimiterActor {
    type Msg = Message;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        let permits = self.permits.clone();
        let listening = tokio::spawn(async move {
            loop {
                permits.listen().await;
                tokio::time::sleep(LISTEN_AGAIN).await;
            }
        });
        Ok(State { wakes: None, _listening: Listening(listening) })
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
            Message::Due => state.wakes = None,
        }
        self.card.meet_fault().await?;
        let _in_hand = self.card.begin("handing out permits");
        self.card.handled(1);
        self.card.waiting(self.permits.waiting());
        if let Some(due) = self.permits.attend().await {
            let asleep_longer = state.wakes.is_none_or(|wakes| due < wakes);
            if asleep_longer {
                state.wakes = Some(due);
                myself.send_after(due.saturating_sub(self.clock.monotonic()), || Message::Due);
            }
        }
        self.card.stamp.wakes_at(state.wakes);
        Ok(())
    }
}
