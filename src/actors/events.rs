//! Works off what belongs to no conversation's order: removed customers, delivery reports, Zendesk Support's events.
//!
//! Supervised by the node.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{Parts, patience::outwait, roster::Card, turn};
use crate::{
    broker::{Delivery, Queue},
    domain::{
        job::Kind,
        timeline::{Outcome, Stage, Timeline},
    },
    state::Record,
};

/// Events taken at once.
const AT_ONCE: usize = 64;

/// The consumer and worker of the events lane.
pub(super) struct Events {
    pub parts: Arc<Parts>,
    pub card: Arc<Card>,
}

/// What it is told.
pub(super) enum Message {
    /// Take what there is, or wait for it.
    Pull,
}

impl Actor for Events {
    type Msg = Message;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_start(&self, myself: ActorRef<Message>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        Ok(myself.cast(Message::Pull)?)
    }

    async fn handle(&self, myself: ActorRef<Message>, message: Message, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Pull => self.pull().await?,
        }
        if !self.parts.draining.is_cancelled() {
            myself.cast(Message::Pull)?;
        }
        Ok(())
    }
}

impl Events {
    async fn pull(&self) -> Result<(), ActorProcessingErr> {
        self.card.meet_fault().await?;
        if let Err(error) = self.take().await {
            // What was not settled comes back.
            outwait(&self.parts, &self.card, &error).await;
        }
        Ok(())
    }

    async fn take(&self) -> Result<(), ActorProcessingErr> {
        let deliveries = tokio::select! {
            () = self.parts.draining.cancelled() => return Ok(()),
            taken = self.parts.broker.take(Queue::Events, AT_ONCE) => taken?,
        };
        for delivery in deliveries {
            let _in_hand = self.card.begin("an event");
            self.card.handled(1);
            self.work_off(delivery).await?;
        }
        Ok(())
    }

    async fn work_off(&self, delivery: Delivery) -> Result<(), ActorProcessingErr> {
        let job = delivery.job.clone();
        match &job.kind {
            Kind::UserRemoved { user } => {
                for conversation in self.parts.state.forget_user(user).await? {
                    if let Some(cell) = self.parts.directory.find(&conversation) {
                        cell.lock().removed = true;
                    }
                }
            }
            Kind::DeliveryReport { failed, code } => {
                self.parts.metrics.delivery_reported(*failed);
                if *failed {
                    let code = code.as_deref().unwrap_or("unknown");
                    tracing::warn!(conversation.id = %job.conversation, code, "a reply did not reach its customer's channel");
                }
            }
            Kind::Support { event_type } => tracing::debug!(event_type, "an event of Zendesk Support"),
            Kind::Unusable { .. } => {
                self.parts.metrics.buried(delivery.lane, turn::UNREADABLE);
                return Ok(delivery.park(turn::UNREADABLE).await?);
            }
            // The other kinds travel in their conversation.
            _ => {}
        }
        self.conclude(delivery).await
    }

    async fn conclude(&self, delivery: Delivery) -> Result<(), ActorProcessingErr> {
        let job = &delivery.job;
        let now = self.parts.clock.now();
        let mut timeline = Timeline::default();
        timeline.note(job.first_seen, Stage::Accepted);
        timeline.note(now, Stage::Ended { outcome: Outcome::Applied.as_str().into() });
        let record = Record {
            id: job.id.clone(),
            message: job.message.clone(),
            conversation: job.conversation.clone(),
            outcome: Outcome::Applied,
            at: now,
            cause: None,
            timeline,
            reply: None,
            text: None,
        };
        self.parts.state.conclude(vec![record], None).await?;
        self.parts.metrics.ended(delivery.lane, Outcome::Applied, now.since(job.first_seen));
        Ok(delivery.ack().await?)
    }
}
