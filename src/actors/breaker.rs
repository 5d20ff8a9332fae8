//! Owns the transitions of one service's breaker: lets its recovery come due, records and announces what happens.
//!
//! Callers do not pass through its mailbox; they meet the gate (`guard/gate.rs`). Supervised by `guards`.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{Parts, roster::Card};
use crate::guard::{Metrics, Service, breaker::State as Breaker};

/// A recovery that is due is looked at again after no less than this.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(5);

/// The actor of one breaker.
pub(super) struct BreakerActor {
    pub parts: Arc<Parts>,
    pub card: Arc<Card>,
    pub metrics: Metrics,
    /// The service, by position in the chain.
    pub service: usize,
}

/// What it is told.
pub(super) enum Message {
    /// Look at the gate.
    Bell,
}

impl Actor for BreakerActor {
    type Msg = Message;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_start(&self, myself: ActorRef<Message>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        for bell in [&self.service().gate.bell, &self.card.bell] {
            let myself = myself.clone();
            bell.connect(move || drop(myself.cast(Message::Bell)));
        }
        Ok(myself.cast(Message::Bell)?)
    }

    async fn handle(&self, myself: ActorRef<Message>, message: Message, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Bell => self.look(&myself).await,
        }
    }
}

impl BreakerActor {
    fn service(&self) -> &Service {
        &self.parts.stack.services()[self.service]
    }

    async fn look(&self, myself: &ActorRef<Message>) -> Result<(), ActorProcessingErr> {
        self.card.meet_fault().await?;
        let _in_hand = self.card.begin("a look at the gate");
        let service = self.service();
        service.gate.poll();
        for transition in service.gate.transitions() {
            self.card.handled(1);
            self.metrics.breaker_changed(service.name, transition.to.as_str());
            tracing::warn!(
                ai.service = service.name,
                from = transition.from.as_str(),
                to = transition.to.as_str(),
                generation = transition.generation,
                "the breaker of an AI service changed"
            );
            let recovered = transition.to == Breaker::Closed && transition.from != Breaker::Closed;
            if recovered {
                service.bulkhead.ramp();
            }
        }
        let due = service.gate.recovery_due();
        self.card.stamp.wakes_at(due.map(|due| due.max(self.parts.clock.monotonic() + LOOK_AGAIN_MIN)));
        if let Some(due) = due {
            let pause = due.saturating_sub(self.parts.clock.monotonic()).max(LOOK_AGAIN_MIN);
            myself.send_after(pause, || Message::Bell);
        }
        Ok(())
    }
}
