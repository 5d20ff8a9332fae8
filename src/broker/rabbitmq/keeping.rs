//! Keeps the letters in bounds, and brings home what RabbitMQ had no queue for.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use lapin::{Acker, message::Delivery as Message};

use super::{
    Inner,
    envelope::{self, Envelope},
    pass::{PREFETCH_MAX, Pass},
    publisher::Outgoing,
};
use crate::broker::{Error, Lane, letters};

/// A message that only a newer version can read comes again so often.
const NEWER_PAUSE: Duration = Duration::from_secs(4);

/// Letters thrown away with one pass; the next one goes on.
const TIDIED_MAX: usize = 10_000;

/// How often it is looked whether there is something to bring home. As a rule there is nothing.
pub const EVERY: Duration = Duration::from_secs(30);

/// How long a round may take: everything declared once more, and some thousand messages published.
pub const WITHIN: Duration = Duration::from_secs(300);

/// Messages and bytes brought home in one round.
const BROUGHT_MAX: usize = 5_000;
const BROUGHT_BYTES_MAX: usize = 32 << 20;

impl Inner {
    /// Throws away parked letters that have outlived their retention. How they ended was recorded when they were parked.
    pub(super) async fn tidy(&self) -> Result<(), Error> {
        let mut gone = 0;
        // Mostly the first is young already, and the others need not come.
        for most in [1, TIDIED_MAX] {
            // Nobody to ask.
            if self.link.consume().live().is_none() {
                break;
            }
            let (old, is_behind_them_all) = self.tidy_some(most).await?;
            gone += old;
            if is_behind_them_all {
                break;
            }
        }
        if gone > 0 {
            tracing::info!(letters = gone, "parked letters have outlived retention.parked and are gone");
        }
        Ok(())
    }

    /// How many of the first ones have gone, and whether one was seen that is to stay.
    async fn tidy_some(&self, most: usize) -> Result<(usize, bool), Error> {
        let before = self.clock.now().before(self.parked_for);
        let (mut pass, queue) = (Pass::begin(self).await?, self.topology.name("parked"));
        // More than one consumer can hold come back in blocks: among those all are looked at.
        let is_mixed = pass.ready(&queue).await? > PREFETCH_MAX;
        let most = if is_mixed { usize::MAX } else { most };
        let (mut old, mut young) = (Vec::new(), is_mixed);
        let each = |message: Message| match envelope::parked_at(&message.properties) {
            Some(at) if at < before => {
                old.push(message.acker);
                ControlFlow::Continue(())
            }
            // They lie there in the order in which they were parked.
            Some(_) if !is_mixed => {
                young = true;
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        };
        pass.look(&queue, most, each).await?;
        for acker in &old {
            pass.acknowledge(acker).await?;
        }
        if !old.is_empty() {
            self.index.forget();
        }
        pass.end().await;
        Ok((old.len(), young))
    }

    /// Publishes what lies among the unrouted messages to where it belongs.
    pub(super) async fn bring_home(self: &Arc<Self>) -> Result<(), Error> {
        let queue = self.topology.name("unrouted");
        // Nobody to ask.
        if self.link.consume().live().is_none() {
            return Ok(());
        }
        let mut pass = Pass::begin(self).await?;
        if pass.ready(&queue).await? == 0 {
            pass.end().await;
            return Ok(());
        }
        // Whatever was missing then is there now; else all of it would only come back.
        let declared = self.topology.declare(&pass.live().connection).await;
        declared.map_err(|error| Error::Store(format!("what RabbitMQ needs cannot be declared: {error}")))?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        let each = |message: Message| {
            bytes += message.data.len();
            found.push(message);
            if bytes < BROUGHT_BYTES_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        pass.look(&queue, BROUGHT_MAX, each).await?;
        tracing::warn!(messages = found.len(), "RabbitMQ had no queue for messages; they are published again");
        let (ackers, homeward): (Vec<Acker>, Vec<Outgoing>) =
            found.into_iter().map(|message| (message.acker.clone(), self.home(message))).unzip();
        for (acker, confirm) in ackers.iter().zip(self.publisher.send(homeward).await) {
            // What is not confirmed stays, and is tried again with the next round.
            if confirm.await.is_ok_and(|outcome| outcome.is_ok()) {
                pass.acknowledge(acker).await?;
            }
        }
        pass.end().await;
        Ok(())
    }

    /// Where a message belongs that lay among the unrouted ones, by the exchange it was published to.
    fn home(&self, message: Message) -> Outgoing {
        let Some(envelope) = Envelope::read(&message.properties, &message.data, None) else {
            return self.unreadable(&message, None).0;
        };
        let exchange = message.exchange.as_str();
        let tier = self.topology.tiers().iter().find(|tier| self.topology.tier(envelope.lane, **tier) == exchange);
        if let Some(tier) = tier {
            return self.to_tier(&envelope, *tier);
        }
        let is_letter = exchange == self.topology.name("dlx");
        match message.routing_key.as_str() {
            "dead" if is_letter => self.to_letters("dead", &envelope),
            _ if envelope.parked_at.is_some() => self.to_letters("parked", &envelope),
            _ => self.to_work(&envelope),
        }
    }

    /// A message that cannot be read is not eaten. One that a newer version wrote comes again in its lane, until a node of
    /// that version takes it; any other is none of ours and goes to the parked letters as it is. `lane`: that of its
    /// queue. Says whether it is a newer one.
    pub(super) fn unreadable(&self, message: &Message, lane: Option<Lane>) -> (Outgoing, bool) {
        let properties = &message.properties;
        let newer = envelope::newer(properties, &message.data, self.clock.now());
        let lane = lane.or(newer.as_ref().and_then(|newer| newer.lane));
        if let (Some(newer), Some(lane), Some(tier)) = (newer, lane, self.topology.tier_for(NEWER_PAUSE)) {
            let outgoing = Outgoing {
                exchange: self.topology.tier(lane, tier),
                key: self.topology.key(lane, &newer.conversation),
                properties: envelope::as_it_lies(properties),
                body: message.data.clone(),
            };
            return (outgoing, true);
        }
        (self.as_it_is(properties.clone(), message.data.clone(), letters::FOREIGN), false)
    }
}
