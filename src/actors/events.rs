//! Works off what belongs to no conversation's order: removed customers, delivery reports, Zendesk Support's events.
//!
//! Supervised by the node.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{Parts, patience::outwait, removal, roster::Card, settings::Pool, traced, turn};
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

/// The longest code of Zendesk's that is taken for one.
const ERROR_CODE_BYTES_MAX: usize = 64;

/// A removal comes again after so long while something of the customer's is in hand.
const REMOVE_AGAIN: Duration = Duration::from_secs(2);

/// A removal searches the whole queue, which may take a while.
const REMOVE_WITHIN: Duration = Duration::from_secs(600);

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
            biased;
            () = self.parts.draining.cancelled() => return Ok(()),
            () = self.parts.settings.held(Pool::Events) => return self.rest().await,
            taken = self.parts.broker.take(Queue::Events, AT_ONCE) => taken?,
        };
        for delivery in deliveries {
            let within = matches!(delivery.job.kind, Kind::UserRemoved { .. }).then_some(REMOVE_WITHIN);
            let _in_hand = self.card.stamp.begin("an event", within);
            self.card.handled(1);
            let span = traced::process(&self.parts, &delivery);
            span.over(self.work_off(delivery)).await.inspect_err(|_| span.fail("error"))?;
        }
        Ok(())
    }

    /// Waits as long as the pool is paused.
    async fn rest(&self) -> Result<(), ActorProcessingErr> {
        tokio::select! {
            () = self.parts.draining.cancelled() => {}
            () = self.parts.settings.free(Pool::Events) => {}
        }
        Ok(())
    }

    async fn work_off(&self, delivery: Delivery) -> Result<(), ActorProcessingErr> {
        let job = delivery.job.clone();
        let mut cause = None;
        match &job.kind {
            Kind::UserRemoved { user } => {
                let is_all_gone = removal::remove(&self.parts, job.app.as_deref().unwrap_or_default(), user).await?;
                if !is_all_gone {
                    return Ok(delivery.retry(REMOVE_AGAIN).await?);
                }
            }
            Kind::DeliveryReport { failed, code } => {
                self.parts.metrics.delivery_reported(*failed);
                if *failed {
                    let code = error_code(code.as_deref());
                    tracing::warn!(conversation.id = %job.conversation, code, "a reply did not reach its customer's channel");
                    cause = Some(code.to_owned());
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
        self.conclude(delivery, cause).await
    }

    async fn conclude(&self, delivery: Delivery, cause: Option<String>) -> Result<(), ActorProcessingErr> {
        let job = &delivery.job;
        let now = self.parts.clock.now();
        let mut timeline = Timeline::default();
        timeline.note(job.first_seen, Stage::accepted(job));
        timeline.note(now, Stage::Ended { outcome: Outcome::Applied.as_str().into() });
        let record = Record {
            id: job.id.clone(),
            message: job.message.clone(),
            conversation: job.conversation.clone(),
            replay: delivery.replay,
            outcome: Outcome::Applied,
            at: now,
            cause,
            timeline,
            reply: None,
            text: None,
        };
        self.parts.state.conclude(vec![record], None, None).await?;
        self.parts.metrics.ended(delivery.lane, Outcome::Applied, now.since(job.first_seen));
        Ok(delivery.ack().await?)
    }
}

/// Zendesk's code of a failed delivery, such as `uncategorized_error`. What is not shaped like one may be free text, which
/// can hold the customer's words or number, and is not kept.
fn error_code(code: Option<&str>) -> &str {
    let is_code = |code: &&str| {
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte);
        (1..=ERROR_CODE_BYTES_MAX).contains(&code.len()) && code.bytes().all(usual)
    };
    code.filter(is_code).unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_like_a_code_is_kept_of_a_failure() {
        for code in ["uncategorized_error", "bad_request", "131026", "whatsapp:470"] {
            assert_eq!(error_code(Some(code)), code);
        }
        let long = "x".repeat(ERROR_CODE_BYTES_MAX + 1);
        for other in [None, Some(""), Some("Message to +49 170 1234567 failed"), Some("größe"), Some(&*long)] {
            assert_eq!(error_code(other), "unknown", "{other:?}");
        }
    }
}
