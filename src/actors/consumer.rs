//! Takes deliveries of one partition from the broker and puts them into their conversations' inboxes.
//!
//! Bounded at the source: it takes only what fits into the window. Supervised by `chat`.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{Parts, patience::outwait, roster::Card, settings::Pool};
use crate::broker::Queue;

/// The consumer of one partition.
pub(super) struct Consumer {
    pub parts: Arc<Parts>,
    pub card: Arc<Card>,
    pub partition: u32,
}

/// What it is told.
pub(super) enum Message {
    /// Take what there is, or wait for it.
    Pull,
}

impl Actor for Consumer {
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

impl Consumer {
    async fn pull(&self) -> Result<(), ActorProcessingErr> {
        self.card.meet_fault().await?;
        self.card.waiting(self.parts.directory.held());
        let window = self.parts.upkeep.shape().window;
        let may_take = async {
            self.parts.settings.free(Pool::Chat).await;
            self.parts.directory.room(window).await
        };
        let room = tokio::select! {
            () = self.parts.draining.cancelled() => return Ok(()),
            room = may_take => room,
        };
        let taking = self.parts.broker.take(Queue::Chat(self.partition), room);
        let deliveries = tokio::select! {
            () = self.parts.draining.cancelled() => return Ok(()),
            () = self.parts.settings.held(Pool::Chat) => return Ok(()),
            taken = taking => taken,
        };
        let deliveries = match deliveries {
            Ok(deliveries) => deliveries,
            Err(error) => {
                outwait(&self.parts, &self.card, &error).await;
                return Ok(());
            }
        };
        let _in_hand = self.card.begin("delivering");
        self.card.handled(deliveries.len() as u64);
        for delivery in deliveries {
            self.parts.reconciler.heard_of(delivery.job.app.as_deref());
            // One that was in hand when the process died is not merged: the next death would blame the others too.
            let suspect = self.parts.in_hand.crashes(delivery.job.message.as_str()) > 0;
            if let Some(cell) = self.parts.directory.deliver(delivery, suspect) {
                self.parts.conversations.start(cell);
            }
        }
        Ok(())
    }
}
