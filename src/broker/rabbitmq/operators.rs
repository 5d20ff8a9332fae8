//! The letters as operators see them. A pass goes through `<p>.dead` and `<p>.parked`, or as far as it has to; what lies
//! in `<p>.parked` is remembered without its words (`index`).
//!
//! A letter is replayed by a copy with a new life, and acknowledged when the copy is confirmed. A crash between the two
//! leaves both: the new life is worked off, and the letter still lies there. Replayed once more it makes a second copy of
//! the same life, which the ledger knows as ended.

use std::{collections::HashSet, ops::ControlFlow, sync::Arc, time::Duration};

use async_trait::async_trait;
use lapin::{Acker, message::Delivery as Message};
use tokio::{sync::Mutex, time::Instant};

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
        letters::{Handful, Held, Hold, Letter, Listing, Look, Page, Which},
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
        let (mut meant, mut beyond) = (Vec::new(), false);
        for (standing, queue) in KINDS {
            if !which.stands(standing) || after.as_ref().is_some_and(|after| after.is_behind(standing)) {
                continue;
            }
            let mut select = |letters: &[Letter], is_cut: bool| {
                let first = after.as_ref().map_or(0, |after| after.first_behind(standing, letters));
                let behind = letters[first..].iter().filter(|letter| which.means(letter));
                // One more than asked for tells that there is a next page.
                meant.extend(behind.take(page.limit() + 1 - meant.len()).cloned());
                beyond |= is_cut;
            };
            if standing == Standing::Parked && page.look != Look::Whole {
                self.inner.index.look(&self.inner, page.look == Look::Fresh, &mut select).await?;
            } else if page.look == Look::Whole || self.inner.tally.lying(&self.inner, queue).await?.ready > 0 {
                let reach = (LOOKED_AT_MAX, LOOKED_AT_BYTES_MAX);
                let seen = self.inner.lying(standing, queue, reach, |letter| letter).await?;
                select(&seen.letters, seen.is_cut);
            }
            if meant.len() > page.limit() {
                break;
            }
        }
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

impl Inner {
    /// What lies in a queue of letters, each as `keep` leaves it, up to so many messages and bytes.
    async fn lying(
        &self,
        standing: Standing,
        queue: &'static str,
        (messages_max, bytes_max): (usize, usize),
        keep: fn(Letter) -> Letter,
    ) -> Result<Sighted, Error> {
        let (mut letters, mut worn, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut pass = Pass::begin(self).await?;
        let began = Instant::now();
        let each = |message: Message| {
            bytes += message.data.len();
            let letter = keep(envelope::letter(&message.properties, &message.data, standing));
            if envelope::deliveries(&message.properties) > DELIVERIES_MAX {
                worn.push((letter, message));
            } else {
                letters.push(letter);
            }
            if bytes > bytes_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let shared = pass.look(&self.topology.name(queue), messages_max, each).await?;
        let is_cut = letters.len() + worn.len() == messages_max || bytes > bytes_max;
        // They lie behind the others then.
        let (behind, worn) = worn.into_iter().unzip();
        renew(self, &mut pass, queue, worn).await?;
        pass.end().await;
        letters.extend::<Vec<Letter>>(behind);
        Ok(Sighted { letters, is_cut, shared, took: began.elapsed() })
    }

    /// The parked letters, at most `most`.
    pub(super) async fn parked(&self, most: usize, keep: fn(Letter) -> Letter) -> Result<Sighted, Error> {
        self.lying(Standing::Parked, "parked", (most, usize::MAX), keep).await
    }
}

/// What a pass has seen.
pub(super) struct Sighted {
    pub letters: Vec<Letter>,
    /// More lie there.
    pub is_cut: bool,
    /// Somebody else had some in hand, which were not seen.
    pub shared: bool,
    /// How long it took, once it was its turn.
    pub took: Duration,
}

impl Rabbitmq {
    fn held(&self, pass: &Arc<Mutex<Pass>>, found: Found) -> Held {
        let Found { letter, envelope, acker } = found;
        let (inner, id) = (self.inner.clone(), letter.id.clone());
        Held::new(letter, Box::new(InHand { inner, pass: pass.clone(), acker, id, envelope }))
    }
}

/// Begins anew with letters that were looked at so often that the server would soon throw them away.
async fn renew(inner: &Inner, pass: &mut Pass, queue: &str, worn: Vec<Message>) -> Result<(), Error> {
    for message in worn {
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
    id: String,
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
            match self.pass.lock().await.acknowledge(&self.acker).await {
                Ok(()) => self.inner.index.remove(&self.id),
                Err(_) => {
                    tracing::warn!(job.id = %reborn.job.id, "a message is replayed, and its letter is still there");
                }
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
            self.inner.index.remove(&self.id);
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

    /// Which of the letters that stand so is the first behind it. If its own has gone, that is told by when they were
    /// parked, as each node's clock had it.
    fn first_behind(&self, standing: Standing, letters: &[Letter]) -> usize {
        if standing != self.standing {
            return 0;
        }
        let own = letters.iter().position(|letter| letter.id == self.id);
        let later = || letters.iter().position(|letter| letter.parked_at > Some(self.parked_at));
        own.map(|own| own + 1).or_else(later).unwrap_or(letters.len())
    }
}
