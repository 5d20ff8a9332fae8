//! Owns the transitions of one service's breaker: lets its recovery come due, records and announces what happens.
//!
//! In a fleet it also takes turns with the board, one at a time, and listens to what is announced there.
//!
//! Callers do not pass through its mailbox; they meet the gate (`guard/gate.rs`). Supervised by `guards`.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, MessagingErr};
use tokio::task::JoinHandle;

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

/// What it has under way.
#[derive(Default)]
pub(super) struct Tasks {
    /// Listens to the board.
    ear: Option<JoinHandle<()>>,
    /// Wakes it.
    alarm: Option<JoinHandle<Result<(), MessagingErr<Message>>>>,
}

impl Tasks {
    /// Listens, unless that is under way.
    fn keep_an_ear(&mut self, listen: impl FnOnce() -> Option<JoinHandle<()>>) {
        if self.ear.as_ref().is_none_or(JoinHandle::is_finished) {
            self.ear = listen();
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        if let Some(ear) = &self.ear {
            ear.abort();
        }
        if let Some(alarm) = &self.alarm {
            alarm.abort();
        }
    }
}

impl Actor for BreakerActor {
    type Msg = Message;
    type State = Tasks;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<Tasks, ActorProcessingErr> {
        Ok(Tasks::default())
    }

    async fn post_start(&self, myself: ActorRef<Message>, _: &mut Tasks) -> Result<(), ActorProcessingErr> {
        for bell in [&self.service().gate.bell, &self.card.bell] {
            let myself = myself.clone();
            bell.connect(move || drop(myself.cast(Message::Bell)));
        }
        Ok(myself.cast(Message::Bell)?)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        tasks: &mut Tasks,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Bell => {
                // In a fleet it looks every second at least.
                tasks.keep_an_ear(|| self.listen());
                self.look(&myself, tasks).await
            }
        }
    }
}

impl BreakerActor {
    fn service(&self) -> &Service {
        &self.parts.stack.services()[self.service]
    }

    /// Applies at once what is announced; the gate rings when that changes anything.
    fn listen(&self) -> Option<JoinHandle<()>> {
        let mut news = self.service().gate.news()?;
        let (parts, service) = (self.parts.clone(), self.service);
        Some(tokio::spawn(async move {
            while let Some(heard) = news.next().await {
                parts.stack.services()[service].gate.hear(heard);
            }
        }))
    }

    async fn look(&self, myself: &ActorRef<Message>, tasks: &mut Tasks) -> Result<(), ActorProcessingErr> {
        self.card.meet_fault().await?;
        let _in_hand = self.card.begin("a look at the gate");
        let service = self.service();
        service.gate.looked();
        if service.gate.turn_due().is_some_and(|due| due <= self.parts.clock.monotonic()) {
            service.gate.turn().await;
        }
        service.gate.poll();
        for transition in service.gate.transitions() {
            self.card.handled(1);
            self.metrics.breaker_changed(service.name, transition.to.as_str());
            tracing::warn!(
                ai.service = service.name,
                scope = transition.scope().as_str(),
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
        let due = [service.gate.recovery_due(), service.gate.turn_due()].into_iter().flatten().min();
        self.card.stamp.wakes_at(due.map(|due| due.max(self.parts.clock.monotonic() + LOOK_AGAIN_MIN)));
        if let Some(alarm) = tasks.alarm.take() {
            alarm.abort();
        }
        if let Some(due) = due {
            let pause = due.saturating_sub(self.parts.clock.monotonic()).max(LOOK_AGAIN_MIN);
            tasks.alarm = Some(myself.send_after(pause, || Message::Bell));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_ear_that_has_ended_is_made_anew_and_one_that_listens_is_not() {
        let mut tasks = Tasks::default();
        tasks.keep_an_ear(|| Some(tokio::spawn(std::future::ready(()))));
        while !tasks.ear.as_ref().unwrap().is_finished() {
            tokio::task::yield_now().await;
        }
        tasks.keep_an_ear(|| Some(tokio::spawn(std::future::pending())));
        tasks.keep_an_ear(|| unreachable!("it listens"));
        assert!(!tasks.ear.as_ref().unwrap().is_finished());
    }
}
