//! What becomes of a message that has come: it is held; or it makes a detour through a delay tier, for its conversation has
//! its share already; or it goes to the parked letters, for it is none of ours.
//!
//! What cannot go where it should is set aside, unacknowledged, and tried again: it is lost by nobody and holds up nobody.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery as Message;

use super::{
    Inner,
    envelope::Envelope,
    lease::ack,
    publisher::Outgoing,
    source::{Source, Subscribed, TRY_AGAIN},
    window::Epoch,
};
use crate::broker::Lane;

/// The longest detour; who is further behind makes another one.
const DETOUR_MAX: Duration = Duration::from_secs(30);

/// One that was set aside.
pub(super) struct Aside {
    /// `None`: it cannot be read.
    envelope: Option<Envelope>,
    message: Message,
    /// When it came (monotonic).
    pub came: Duration,
}

impl Source {
    /// What a subscription says: a message, or its own end.
    pub(super) fn heard(&self, inner: &Inner, epoch: &Epoch, said: Option<lapin::Result<Message>>) -> Option<Message> {
        match said {
            Some(Ok(message)) => return Some(message),
            Some(Err(error)) => {
                inner.learn(&error);
                tracing::warn!(queue = self.queue, %error, "a subscription has failed");
            }
            // The queue was deleted, its server has gone, or a message was held too long for it.
            None => tracing::warn!(queue = self.queue, "a subscription has ended"),
        }
        // It is said once.
        epoch.end();
        None
    }

    /// Takes what came, and all that has come with it.
    pub(super) async fn arrived(
        self: Arc<Self>,
        inner: Arc<Inner>,
        mut subscribed: Subscribed,
        first: Message,
    ) -> Subscribed {
        let Some(subscription) = &mut *subscribed else { return subscribed };
        let mut next = Some(first);
        while let Some(message) = next {
            subscription.aside.extend(self.put(&inner, message, &subscription.epoch).await);
            let said = subscription.consumer.next().now_or_never();
            next = said.and_then(|said| self.heard(&inner, &subscription.epoch, said));
        }
        self.move_aside(inner, subscribed).await
    }

    /// Holds a message if its turn has come, or gives it back.
    async fn put(&self, inner: &Inner, message: Message, epoch: &Epoch) -> Option<Aside> {
        let came = inner.clock.monotonic();
        let Some(envelope) = Envelope::read(&message.properties, &message.data, self.lane) else {
            return Some(Aside { envelope: None, message, came });
        };
        if self.window().is_copy(&envelope) {
            // The one that is held keeps the message.
            ack(&message.acker, epoch).await;
            return None;
        }
        if !self.admits(&envelope) {
            // From now on nobody overtakes it, though room may be made any moment.
            let job = &envelope.job;
            self.overflow().away(&job.conversation, &job.id, came + TRY_AGAIN);
            return Some(Aside { envelope: Some(envelope), message, came });
        }
        self.window().put(envelope, message.redelivered, message.acker, came);
        None
    }

    /// Whether a message may be held now. One that was tried before is waited for by its followers: it makes no detour.
    fn admits(&self, envelope: &Envelope) -> bool {
        let job = &envelope.job;
        let has_room = self.window().of_conversation(&job.conversation) < self.share;
        let goes_first = self.lane != Some(Lane::Chat) || envelope.tries > 0;
        self.overflow().admits(&job.conversation, &job.id, has_room || goes_first) || goes_first
    }

    /// Sends on, in order, what was set aside; what cannot be sent now stays, unless its turn has come meanwhile.
    pub(super) async fn move_aside(self: Arc<Self>, inner: Arc<Inner>, mut subscribed: Subscribed) -> Subscribed {
        let Some(subscription) = &mut *subscribed else { return subscribed };
        let mut outgoing = Vec::new();
        let mut leaving = Vec::new();
        for aside in std::mem::take(&mut subscription.aside) {
            match &aside.envelope {
                Some(envelope) if self.admits(envelope) => {
                    self.window().put(envelope.clone(), aside.message.redelivered, aside.message.acker, aside.came);
                    continue;
                }
                Some(envelope) => outgoing.push(self.detour(&inner, envelope)),
                None => {
                    let (away, newer) = inner.unreadable(&aside.message, self.lane);
                    outgoing.push(away);
                    leaving.push((aside, Some(newer)));
                    continue;
                }
            }
            leaving.push((aside, None));
        }
        let (mut newer, mut foreign) = (0_u32, 0_u32);
        let confirms = inner.publisher.send(outgoing).await;
        for (confirm, (aside, is_newer)) in confirms.into_iter().zip(leaving) {
            if confirm.await.is_ok_and(|outcome| outcome.is_ok()) {
                ack(&aside.message.acker, &subscription.epoch).await;
                newer += u32::from(is_newer == Some(true));
                foreign += u32::from(is_newer == Some(false));
            } else {
                subscription.aside.push(aside);
            }
        }
        let queue = &self.queue;
        if foreign > 0 {
            tracing::error!(queue, foreign, "messages that are none of Tidegate's were moved to the parked letters");
        }
        if newer > 0 {
            tracing::warn!(queue, newer, "a newer version wrote messages; they come again until it takes them");
        }
        subscription.aside_until = inner.clock.monotonic() + TRY_AGAIN;
        subscribed
    }

    /// Marks a message as away, and says through which tier it goes.
    fn detour(&self, inner: &Inner, envelope: &Envelope) -> Outgoing {
        let job = &envelope.job;
        let mut overflow = self.overflow();
        // One share's worth is worked off in about the shortest time, so who is far behind comes back later.
        let before = overflow.before(&job.conversation, &job.id) / self.share;
        let pause = Duration::from_secs(u64::try_from(before).unwrap_or(u64::MAX).max(1)).min(DETOUR_MAX);
        let tier = inner.topology.tier_for(pause).unwrap_or(inner.topology.tiers()[0]);
        overflow.away(&job.conversation, &job.id, inner.clock.monotonic() + tier.pause);
        inner.to_tier(envelope, tier)
    }
}
