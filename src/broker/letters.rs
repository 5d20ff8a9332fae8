//! Dead and parked letters, as operators see them: listed, shown, given a new life, or discarded.
//!
//! A letter is taken in hand before anything is done with it, so that its end can be recorded first (G1). One that is
//! dropped lies where it lay. A replay is a new life (design rule 14): its number is one higher, no try is spent, and
//! its deadline begins anew.

use std::{collections::HashSet, fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::{Stream, stream};

use super::{Error, Lane, Standing};
use crate::domain::{
    ids::ConversationId,
    job::{Job, Kind},
    reason,
    time::Timestamp,
};

/// The most letters that are listed at once.
pub const LISTED_MAX: usize = 10_000;

/// The cause of a message that lies among the parked letters and is none of ours.
pub const FOREIGN: &str = "not a message of Tidegate's";

/// Which letters; what is left open does not matter.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// Dead or parked.
    pub standing: Option<Standing>,
    /// Why they failed: the label of the cause (`dead_letters_total`), or the reason word for word.
    pub cause: Option<String>,
    /// Their lane.
    pub lane: Option<Lane>,
    /// Their conversation.
    pub conversation: Option<ConversationId>,
    /// What their causes have in common ([`reason::fingerprint`]).
    pub fingerprint: Option<String>,
    /// Parked no later than this; of the dead all.
    pub until: Option<Timestamp>,
    /// One letter: its event id or message id.
    pub id: Option<String>,
}

impl Which {
    /// Whether letters that stand so are meant.
    pub fn stands(&self, standing: Standing) -> bool {
        self.standing.is_none_or(|wanted| wanted == standing)
    }

    /// Whether all letters that stand so are meant; when they were parked does not matter for that.
    pub fn means_all(&self) -> bool {
        let texts = [&self.cause, &self.fingerprint, &self.id];
        texts.into_iter().all(Option::is_none) && self.lane.is_none() && self.conversation.is_none()
    }

    /// Whether a letter is meant.
    pub fn means(&self, letter: &Letter) -> bool {
        self.stands(letter.standing)
            && self.lane.is_none_or(|lane| letter.lane == Some(lane))
            && self.conversation.as_ref().is_none_or(|of| letter.job().is_some_and(|job| job.conversation == *of))
            && self.cause.as_ref().is_none_or(|cause| letter.reason() == cause || letter.cause() == cause)
            && self.fingerprint.as_ref().is_none_or(|of| reason::fingerprint(letter.reason()) == *of)
            && self.until.is_none_or(|until| letter.parked_at.is_none_or(|at| at <= until))
            && self.id.as_ref().is_none_or(|id| letter.is(id))
    }
}

/// Which part of the list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Where the page before ended ([`Listing::next`]).
    pub after: Option<String>,
    /// The most letters; never more than [`LISTED_MAX`].
    pub limit: usize,
    /// How closely it is looked.
    pub look: Look,
}

/// How closely a broker looks that has to go through a queue for a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Look {
    /// What is remembered will do, without what customers wrote.
    #[default]
    Remembered,
    /// What lies there now, without what customers wrote; an error while somebody has some of it in hand.
    Fresh,
    /// With what customers wrote.
    Whole,
}

impl Page {
    /// The most letters.
    pub fn limit(&self) -> usize {
        self.limit.clamp(1, LISTED_MAX)
    }
}

/// Part of the list: dead letters first, then parked ones, each kind oldest first.
#[derive(Debug, Default)]
pub struct Listing {
    /// The letters.
    pub letters: Vec<Letter>,
    /// Where the next page begins. There may be one behind a page that is not full: a page looks at so many letters only.
    pub next: Option<String>,
    /// More lie there than one look reaches; the rest is seen when some of these have gone.
    pub beyond: bool,
}

/// What a letter holds.
#[derive(Debug, Clone)]
pub enum Content {
    /// A message.
    Message(Arc<Job>),
    /// Bytes that are no message of ours.
    Foreign(Vec<u8>),
}

/// A dead or a parked letter.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The event's id; of a foreign message its own, or one made of its bytes.
    pub id: String,
    /// What it holds.
    pub content: Content,
    /// Its lane; a foreign message has none.
    pub lane: Option<Lane>,
    /// Dead or parked.
    pub standing: Standing,
    /// Tries spent in this life.
    pub tries: u32,
    /// Which life it lives.
    pub replay: u32,
    /// Why it failed last.
    pub reason: Option<String>,
    /// When it was parked, if it is and that is known.
    pub parked_at: Option<Timestamp>,
}

impl Letter {
    /// The message; `None`: it is none of ours.
    pub fn job(&self) -> Option<&Arc<Job>> {
        match &self.content {
            Content::Message(job) => Some(job),
            Content::Foreign(_) => None,
        }
    }

    /// Whether this is the letter of that event id or message id.
    pub fn is(&self, id: &str) -> bool {
        self.id == id || self.job().is_some_and(|job| job.message.as_str() == id)
    }

    /// Why it failed last, as the text says.
    pub fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }

    /// Why it failed last, as a label.
    pub fn cause(&self) -> &'static str {
        match self.job().map(|job| &job.kind) {
            None => "foreign",
            Some(Kind::Unusable { .. }) => "rejected",
            Some(_) => reason::cause(self.reason()),
        }
    }

    /// Whether a new life could lead to another end: what could not be understood is not understood the second time.
    pub fn can_be_replayed(&self) -> bool {
        self.job().is_some_and(|job| !matches!(job.kind, Kind::Unusable { .. }))
    }
}

/// What a broker does with a letter in hand.
#[async_trait]
pub trait Hold: Send {
    /// Publishes it with a new life to its work queue, and removes it from the letters.
    async fn replay(self: Box<Self>) -> Result<(), Error>;

    /// Removes it.
    async fn discard(self: Box<Self>) -> Result<(), Error>;
}

/// A letter in an operator's hand. One that is dropped lies where it lay.
#[must_use = "a letter that is neither replayed nor discarded stays"]
pub struct Held {
    /// The letter.
    pub letter: Letter,
    hold: Box<dyn Hold>,
}

impl Held {
    /// Puts one together; for brokers.
    pub fn new(letter: Letter, hold: Box<dyn Hold>) -> Self {
        Self { letter, hold }
    }

    /// Gives it a new life. [`Error::Unreplayable`]: there is none for it, and it stays.
    pub async fn replay(self) -> Result<(), Error> {
        if !self.letter.can_be_replayed() {
            return Err(Error::Unreplayable);
        }
        self.hold.replay().await
    }

    /// Removes it for good. Its end has been recorded before.
    pub async fn discard(self) -> Result<(), Error> {
        self.hold.discard().await
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("id", &self.letter.id).finish_non_exhaustive()
    }
}

/// Letters in an operator's hand.
#[derive(Debug, Default)]
pub struct Handful {
    /// The letters.
    pub held: Vec<Held>,
    /// Somebody else had some in hand: those are seen later.
    pub elsewhere: bool,
    /// More lie there than one look reaches; the rest is seen when some of these have gone.
    pub beyond: bool,
}

/// The dead and the parked letters. Two implementations pass one contract, as those of [`super::Broker`].
#[async_trait]
pub trait Letters: Send + Sync {
    /// Lists letters. [`Error::NoSuchPlace`]: `after` was not told by a list.
    async fn list(&self, which: &Which, page: &Page) -> Result<Listing, Error>;

    /// One letter, by event id or message id.
    async fn letter(&self, id: &str) -> Result<Option<Letter>, Error>;

    /// Takes one letter in hand. [`Error::Lost`]: somebody else has it.
    async fn hold(&self, id: &str) -> Result<Option<Held>, Error>;

    /// Takes the first letters in hand that are meant and whose id is not among `except`, at most `most`. About `lying` of
    /// those are thought to lie there still: who can look at so many only looks that much further.
    async fn hold_some(
        &self,
        which: &Which,
        except: &HashSet<String>,
        lying: usize,
        most: usize,
    ) -> Result<Handful, Error>;
}

/// Page after page of the letters that are meant, to the last, or to one that cannot be had. `beyond` of the last page
/// tells of all.
pub fn pages(
    letters: Arc<dyn Letters>,
    which: Which,
    limit: usize,
    look: Look,
) -> impl Stream<Item = Result<Listing, Error>> + Send {
    stream::try_unfold(Some(None), move |place: Option<Option<String>>| {
        let (letters, which) = (letters.clone(), which.clone());
        async move {
            let Some(after) = place else { return Ok(None) };
            let listing = letters.list(&which, &Page { after, limit, look }).await?;
            let next = listing.next.clone().map(Some);
            Ok(Some((listing, next)))
        }
    })
}
