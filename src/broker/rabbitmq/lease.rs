//! A message in somebody's hand.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lapin::{Acker, options::BasicAckOptions};
use tokio::time::{error::Elapsed, timeout};

use super::{
    Inner,
    envelope::Envelope,
    publisher::{Outgoing, Unconfirmed},
    source::Source,
    window::{Epoch, Held},
};
use crate::broker::{Delivery, Error, Settle, Settlement, Standing};

/// While nothing can be published a message that is to wait for longer waits here for so long, and then tries again.
const WAITS_HERE: Duration = Duration::from_secs(5);

/// As long an acknowledgement may take to be written; of one that meets the end of its connection lapin may never tell.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);

/// The pause before a message comes again that could not be sent to the dead letters.
const COMES_AGAIN: Duration = Duration::from_secs(1);

/// Settled once; one that is dropped comes back.
pub(super) struct Lease {
    inner: Arc<Inner>,
    source: Arc<Source>,
    held: Option<Held>,
}

impl Lease {
    pub fn deliver(inner: &Arc<Inner>, source: &Arc<Source>, held: Held) -> Delivery {
        let envelope = held.envelope.clone();
        let redelivered = held.redelivered || envelope.tries > 0 || envelope.replay > 0 || envelope.rest.is_some();
        let lease = Self { inner: inner.clone(), source: source.clone(), held: Some(held) };
        let mut delivery = Delivery::new(envelope.job, envelope.lane, Box::new(lease));
        delivery.tries = envelope.tries;
        delivery.replay = envelope.replay;
        delivery.redelivered = redelivered;
        delivery.reason = envelope.reason;
        delivery
    }

    /// Runs to its end although whoever settles may be gone: what is half acknowledged would be held by nobody.
    async fn ack(mut self) -> Result<(), Error> {
        let Some(held) = self.held.take() else { return Err(Error::Lost) };
        let source = self.source.clone();
        let acknowledged = self.source.steps().spawn(async move { acknowledge(&source, &held).await });
        acknowledged.await.unwrap_or(Err(Error::Lost))
    }

    /// Sends the message into another queue. It may be back from there before the confirm is.
    async fn publish(&self, outgoing: Outgoing) -> Result<(), Unconfirmed> {
        if let Some(held) = &self.held {
            self.source.window().leaves(held);
        }
        self.inner.publisher.publish(outgoing).await
    }

    fn give_back_in(&mut self, after: Duration) {
        let Some(held) = self.held.take() else { return };
        if self.source.window().give_back(held.clone(), self.inner.clock.monotonic(), after) {
            let source = self.source.clone();
            // One that cannot be acknowledged comes again.
            self.source.steps().spawn(async move { acknowledge(&source, &held).await });
        }
        self.source.ring();
    }

    fn envelope(&self) -> &Envelope {
        &self.held.as_ref().expect("it is held until it is settled").envelope
    }

    /// Lets it come again: from here, if the pause is shorter than the shortest tier, else from there.
    async fn retry(mut self, after: Duration) -> Result<(), Error> {
        let is_letter = self.source.lane.is_none();
        let tier = self.inner.topology.tier_for(after);
        if tier.is_none() && !is_letter {
            self.give_back_in(after);
            return Ok(());
        }
        let rest = after.saturating_sub(tier.map_or(Duration::ZERO, |tier| tier.pause));
        let envelope = self.envelope().delayed(rest);
        let outgoing = match tier {
            Some(tier) => self.inner.to_tier(&envelope, tier),
            None => self.inner.to_work(&envelope),
        };
        match self.publish(outgoing).await {
            Ok(()) => self.ack().await,
            // It is safe where it lies.
            Err(_) => {
                self.give_back_in(after.min(WAITS_HERE));
                Ok(())
            }
        }
    }

    async fn move_to(mut self, outgoing: Outgoing) -> Result<(), Error> {
        match self.publish(outgoing).await {
            Ok(()) => self.ack().await,
            Err(error) => {
                self.give_back_in(COMES_AGAIN);
                Err(error.into())
            }
        }
    }
}

/// Counts as in hand until the server was told.
async fn acknowledge(source: &Source, held: &Held) -> Result<(), Error> {
    let is_ours = source.window().owns(held);
    let acknowledged = is_ours && ack(&held.acker, &held.epoch).await;
    if acknowledged {
        source.window().settle(held);
    }
    source.ring();
    if acknowledged { Ok(()) } else { Err(Error::Lost) }
}

/// Tells the server that a message is done with. What cannot be told comes again.
pub(super) async fn ack(acker: &Acker, epoch: &Epoch) -> bool {
    tell(acker).await.unwrap_or_else(|_| {
        // All that is held comes again, with another channel.
        epoch.end();
        false
    })
}

/// Whether the server was told; an error: it is not known, and may never be.
pub(super) async fn tell(acker: &Acker) -> Result<bool, Elapsed> {
    let told = timeout(WRITTEN_WITHIN, acker.ack(BasicAckOptions::default())).await?;
    // A channel that was closed meanwhile says `false`, not an error.
    Ok(matches!(told, Ok(true)))
}

impl From<Unconfirmed> for Error {
    fn from(error: Unconfirmed) -> Self {
        Self::Store(error.to_string())
    }
}

#[async_trait]
impl Settle for Lease {
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), Error> {
        if self.is_withdrawn() && self.held.as_ref().is_none_or(|held| held.epoch.is_over()) {
            return Err(Error::Lost);
        }
        match how {
            Settlement::Ack => self.ack().await,
            Settlement::Retry(after) => self.retry(after).await,
            Settlement::Bury { why, attempt } => {
                let outgoing = self.inner.to_letters("dead", &self.envelope().buried(why, attempt));
                self.move_to(outgoing).await
            }
            Settlement::Park(reason) => {
                let parked = self.envelope().parked(reason, self.inner.clock.now());
                let (inner, outgoing) = (self.inner.clone(), self.inner.to_letters("parked", &parked));
                self.move_to(outgoing).await?;
                inner.index.add(|| Some(parked.letter(Standing::Parked)));
                Ok(())
            }
        }
    }

    fn give_back(self: Box<Self>) {
        drop(self);
    }

    fn is_withdrawn(&self) -> bool {
        self.held.as_ref().is_none_or(|held| held.epoch.is_withdrawn())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back_in(Duration::ZERO);
    }
}
