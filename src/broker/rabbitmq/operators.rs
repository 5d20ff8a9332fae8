//! The letters as operators see them. There is no index of them: a pass goes through `<p>.dead` and `<p>.parked`, or as
//! far as it has to.
//!
//! A letter is replayed by a copy with a new life, and acknowledged when the copy is confirmed. A crash between the two
//! leaves both: the new life is worked off, and the letter still lies there. Replayed once more it makes a second copy of
//! the same life, which the ledger knows as ended.

use std::{collections::HashSet, ops::ControlFlow, sync::Arc};

use async_trait::async_trait;
use lapin::{Acker, message::Delivery as Message};
use tokio::sync::Mutex;

use super::{
    Inner, Rabbitmq,
    envelope::{self, Envelope},
    pass::Pass,
    publisher::Outgoing,
    topology::DELIVERY_LIMIT,
};
use crate::{
    broker::{
        Error, Letters, Standing,
        letters::{Handful, Held, Hold, Letter, Listing, Page, Which},
    },
    domain::time::Timestamp,
};

/// Messages and bytes of a queue that a list looks at; what lies behind them is seen when some of them have gone.
const LOOKED_AT_MAX: usize = 10_000;
const LOOKED_AT_BYTES_MAX: usize = 32 << 20;

/// A letter that was delivered so often is published anew: a list that is shown every few seconds for weeks must not
/// bring it to the limit.
const DELIVERIES_MAX: i64 = DELIVERY_LIMIT / 2;

/// The queues of letters, in the order of lists.
const KINDS: [(Standing, &str); 2] = [(Standing::Dead, "dead"), (Standing::Parked, "parked")];

#[async_trait]
impl Letters for Rabbitmq {
    async fn list(&self, which: &Which, page: &Page) -> Result<Listing, Error> {
        let after = page.after.as_deref().map(|after| Place::parse(after).ok_or(Error::NoSuchPlace)).transpose()?;
        let (mut letters, mut worn, mut beyond) = (Vec::new(), Vec::new(), false);
        let mut pass = Pass::begin(&self.inner).await?;
        for (standing, queue) in KINDS {
            if !which.stands(standing) || after.as_ref().is_some_and(|after| after.is_behind(standing)) {
                continue;
            }
            let (mut messages, mut bytes) = (0, 0);
            let each = |message: Message| {
                (messages, bytes) = (messages + 1, bytes + message.data.len());
                letters.push(envelope::letter(&message.properties, &message.data, standing));
                if envelope::deliveries(&message.properties) > DELIVERIES_MAX {
                    worn.push((queue, message));
                }
                beyond |= messages == LOOKED_AT_MAX || bytes > LOOKED_AT_BYTES_MAX;
                if bytes > LOOKED_AT_BYTES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            pass.look(&self.inner.topology.name(queue), LOOKED_AT_MAX, each).await?;
        }
        renew(&self.inner, &mut pass, worn).await?;
        pass.end().await;
        let first = after.map_or(0, |after| after.first_behind(&letters));
        let mut meant: Vec<Letter> = letters.into_iter().skip(first).filter(|letter| which.means(letter)).collect();
        let is_full = meant.len() > page.limit();
        meant.truncate(page.limit());
        let next = meant.last().filter(|_| is_full).map(|last| Place::of(last).to_text());
        Ok(Listing { letters: meant, next, beyond })
    }

    async fn letter(&self, id: &str) -> Result<Option<Letter>, Error> {
        let Some((pass, found)) = find(&self.inner, id).await? else { return Ok(None) };
        pass.end().await;
        Ok(Some(found.letter))
    }

    async fn hold(&self, id: &str) -> Result<Option<Held>, Error> {
        let Some((pass, found)) = find(&self.inner, id).await? else { return Ok(None) };
        Ok(Some(self.held(&Arc::new(Mutex::new(pass)), found)))
    }

    async fn hold_some(
        &self,
        which: &Which,
        except: &HashSet<String>,
        lying: usize,
        most: usize,
    ) -> Result<Handful, Error> {
        let mut pass = Pass::begin(&self.inner).await?;
        let (mut found, mut handful) = (Vec::new(), Handful::default());
        // Whoever means all need not be sent more than he takes.
        let reach = if which.means_all() { most + lying } else { LOOKED_AT_MAX }.min(LOOKED_AT_MAX);
        for (standing, queue) in KINDS.into_iter().filter(|(standing, _)| which.stands(*standing)) {
            let (mut messages, mut bytes) = (0, 0);
            let each = |message: Message| {
                (messages, bytes) = (messages + 1, bytes + message.data.len());
                let letter = envelope::letter(&message.properties, &message.data, standing);
                if which.means(&letter) && !except.contains(&letter.id) {
                    let envelope = Envelope::read(&message.properties, &message.data, None);
                    found.push(Found { letter, envelope, acker: message.acker });
                }
                let is_enough = found.len() == most;
                handful.beyond |= !is_enough && (messages == reach || bytes > LOOKED_AT_BYTES_MAX);
                if is_enough || bytes > LOOKED_AT_BYTES_MAX {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            handful.elsewhere |= pass.look(&self.inner.topology.name(queue), reach, each).await?;
            if found.len() == most {
                break;
            }
        }
        if found.is_empty() {
            pass.end().await;
            return Ok(handful);
        }
        let pass = Arc::new(Mutex::new(pass));
        handful.held = found.into_iter().map(|found| self.held(&pass, found)).collect();
        Ok(handful)
    }
}

impl Rabbitmq {
    fn held(&self, pass: &Arc<Mutex<Pass>>, found: Found) -> Held {
        let Found { letter, envelope, acker } = found;
        Held::new(letter, Box::new(InHand { inner: self.inner.clone(), pass: pass.clone(), acker, envelope }))
    }
}

/// Begins anew with letters that were looked at so often that the server would soon throw them away.
async fn renew(inner: &Inner, pass: &mut Pass, worn: Vec<(&'static str, Message)>) -> Result<(), Error> {
    for (queue, message) in worn {
        let properties = envelope::as_it_lies(&message.properties);
        let (exchange, key) = (inner.topology.name("dlx"), queue.to_owned());
        inner.publisher.publish(Outgoing { exchange, key, properties, body: message.data }).await?;
        pass.acknowledge(&message.acker).await?;
    }
    Ok(())
}

struct Found {
    letter: Letter,
    /// Of a foreign message there is none.
    envelope: Option<Envelope>,
    acker: Acker,
}

/// Looks for a letter; the pass that has found it holds it.
async fn find(inner: &Inner, id: &str) -> Result<Option<(Pass, Found)>, Error> {
    let mut pass = Pass::begin(inner).await?;
    let mut found = None;
    // What is dead is judged within moments; what is parked is what people mean.
    for (standing, queue) in KINDS.into_iter().rev() {
        let each = |message: Message| {
            let letter = envelope::letter(&message.properties, &message.data, standing);
            if !letter.is(id) {
                return ControlFlow::Continue(());
            }
            let envelope = Envelope::read(&message.properties, &message.data, None);
            found = Some(Found { letter, envelope, acker: message.acker });
            ControlFlow::Break(())
        };
        pass.look(&inner.topology.name(queue), usize::MAX, each).await?;
        if let Some(found) = found {
            return Ok(Some((pass, found)));
        }
    }
    pass.end().await;
    Ok(None)
}

/// A letter in hand; what the pass has seen beside those in hand comes back when the last of them is done with.
struct InHand {
    inner: Arc<Inner>,
    pass: Arc<Mutex<Pass>>,
    acker: Acker,
    envelope: Option<Envelope>,
}

/// Both run to their end although whoever asked may be gone.
#[async_trait]
impl Hold for InHand {
    async fn replay(self: Box<Self>) -> Result<(), Error> {
        let inner = self.inner.clone();
        let replay = async move {
            let envelope = self.envelope.as_ref().ok_or(Error::Unreplayable)?;
            let reborn = envelope.reborn(self.inner.clock.now());
            self.inner.publisher.publish(self.inner.to_work(&reborn)).await?;
            if self.pass.lock().await.acknowledge(&self.acker).await.is_err() {
                tracing::warn!(job.id = %reborn.job.id, "a message is replayed, and its letter is still there");
            }
            end(self.pass).await;
            Ok(())
        };
        inner.publishing.whole(replay).await
    }

    async fn discard(self: Box<Self>) -> Result<(), Error> {
        let inner = self.inner.clone();
        let discard = async move {
            self.pass.lock().await.acknowledge(&self.acker).await?;
            end(self.pass).await;
            Ok(())
        };
        inner.publishing.whole(discard).await
    }
}

/// Ends a pass with the last letter that it holds.
async fn end(pass: Arc<Mutex<Pass>>) {
    if let Some(pass) = Arc::into_inner(pass) {
        pass.into_inner().end().await;
    }
}

/// Where a page ended: the letter's kind, when it was parked, and its id.
struct Place {
    standing: Standing,
    parked_at: Timestamp,
    id: String,
}

impl Place {
    fn of(letter: &Letter) -> Self {
        Self { standing: letter.standing, parked_at: letter.parked_at.unwrap_or_default(), id: letter.id.clone() }
    }

    fn to_text(&self) -> String {
        format!("{}.{}.{}", self.standing.as_str(), self.parked_at.0, self.id)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.splitn(3, '.');
        let standing = fields.next()?;
        let (standing, _) = KINDS.into_iter().find(|(kind, _)| kind.as_str() == standing)?;
        Some(Self { standing, parked_at: Timestamp(fields.next()?.parse().ok()?), id: fields.next()?.to_owned() })
    }

    /// Whether it lies behind all letters that stand so.
    fn is_behind(&self, standing: Standing) -> bool {
        self.standing == Standing::Parked && standing == Standing::Dead
    }

    /// Which letter is the first behind it. If its own has gone, that is told by when they were parked, as each node's
    /// clock had it.
    fn first_behind(&self, letters: &[Letter]) -> usize {
        let same_kind = |letter: &Letter| letter.standing == self.standing;
        let own = letters.iter().position(|letter| same_kind(letter) && letter.id == self.id);
        let is_later = |letter: &Letter| same_kind(letter) && letter.parked_at > Some(self.parked_at);
        let is_of_later_kind = |letter: &Letter| !same_kind(letter) && letter.standing == Standing::Parked;
        own.map(|own| own + 1)
            .or_else(|| letters.iter().position(|letter| is_later(letter) || is_of_later_kind(letter)))
            .unwrap_or(letters.len())
    }
}
