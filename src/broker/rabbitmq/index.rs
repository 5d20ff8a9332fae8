//! The parked letters as this node saw them last, so that a list or a filter need not go through the queue each time:
//! RabbitMQ has no other way to look into a queue than to take all of it in hand, which takes seconds with 100,000.
//!
//! ```text
//! list --> as many lie there as are known, and seen not long ago? --yes--> what is known
//!                                                                 --no---> a pass, remembered without what was written
//! ```
//! What this node parks and removes is entered at once; what others do shows in the number of letters. Nothing of it is
//! kept beyond the process: whatever is lost, the queue knows it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Inner, operators::Sighted, pass::PREFETCH_MAX, tally::Lying};
use crate::{
    broker::{
        Error,
        letters::{Content, Letter},
    },
    domain::job::Job,
};

/// Letters remembered at the most: some 700 bytes each. What lies behind them is seen when some of them have gone.
pub(super) const INDEXED_MAX: usize = 200_000;

/// What was seen longer ago is looked at again: others may have parked as many as they removed.
const SEEN_WITHIN: Duration = Duration::from_secs(300);

/// Where others go on parking, a pass takes no more than this part of the time.
const REST: u32 = 4;

/// What nobody asks for is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// A list is out of date for no longer than this after a pass, however long that took.
const REST_MAX: Duration = Duration::from_secs(30);

/// What is known of the parked letters.
#[derive(Default)]
pub(super) struct Index {
    memory: Mutex<Memory>,
    /// One who looks at a time.
    looks: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Memory {
    known: Option<Known>,
    /// What happens while a pass is under way, which may have seen it or not.
    meanwhile: Option<Vec<Change>>,
}

struct Known {
    /// In the order in which they lie there; they go from the front.
    letters: VecDeque<Letter>,
    /// More lie behind these.
    is_cut: bool,
    /// When the pass that saw them ended, and how long it took.
    seen_at: Instant,
    took: Duration,
    asked_at: Instant,
}

#[derive(Clone)]
enum Change {
    Added(Box<Letter>),
    Removed(String),
}

impl Known {
    fn new(seen: Sighted) -> Self {
        let now = Instant::now();
        let Sighted { letters, is_cut, took, .. } = seen;
        Self { letters: letters.into(), is_cut, took, seen_at: now, asked_at: now }
    }

    /// Whether it will do for the moment.
    fn holds(&self, lying: Lying, others_hold: bool) -> bool {
        // What somebody has in hand is not counted, and not seen by a pass either.
        let age = self.seen_at.elapsed();
        age < (self.took * REST).min(REST_MAX) || age < SEEN_WITHIN && (others_hold || self.is_as_many(lying))
    }

    /// Whether it is what lies there now, as far as that can be told.
    fn is_fresh(&self, lying: Lying) -> bool {
        self.seen_at.elapsed() < REST_MAX && self.is_as_many(lying)
    }

    fn is_as_many(&self, lying: Lying) -> bool {
        self.letters.len() == lying.ready || self.is_cut && lying.ready > self.letters.len()
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Added(letter) => {
                // Behind those that are not known it would stand in the wrong place.
                if !self.is_cut && self.letters.len() < INDEXED_MAX {
                    self.letters.push_back(*letter);
                } else {
                    self.is_cut = true;
                }
            }
            Change::Removed(id) => {
                if let Some(place) = self.letters.iter().position(|letter| letter.id == id) {
                    self.letters.remove(place);
                }
            }
        }
    }
}

impl Index {
    /// What is known; `select` chooses from it, and hears whether more lie there. `fresh`: what lies there now; an error
    /// while another node has some of it in hand.
    pub async fn look<T>(
        &self,
        inner: &Arc<Inner>,
        fresh: bool,
        select: impl FnOnce(&[Letter], bool) -> T,
    ) -> Result<T, Error> {
        let turn = self.looks.clone().lock_owned().await;
        let lying = inner.tally.lying(inner, "parked").await?;
        let others_hold = lying.consumers > 0 || inner.passes.turn_now().is_none();
        let will_do = |known: &Known| match fresh {
            true => !others_hold && known.is_fresh(lying),
            false => known.holds(lying, others_hold),
        };
        let is_known = self.memory.lock().known.as_ref().is_some_and(will_do);
        if !is_known {
            let learner = inner.clone();
            let learn = async move {
                let _turn = turn;
                learner.index.learn(&learner).await
            };
            // To its end: whoever asks may not wait so long, and the next one would begin again.
            inner.publishing.whole(learn).await?;
        }
        if !is_known && fresh {
            let lying = inner.tally.lying(inner, "parked").await?;
            if !self.memory.lock().known.as_ref().is_some_and(|known| known.is_fresh(lying)) {
                return Err(not_seen());
            }
        }
        let memory = &mut *self.memory.lock();
        let known = memory.known.as_mut().ok_or_else(not_seen)?;
        known.asked_at = Instant::now();
        Ok(select(known.letters.make_contiguous(), known.is_cut))
    }

    async fn learn(&self, inner: &Inner) -> Result<(), Error> {
        self.memory.lock().meanwhile = Some(Vec::new());
        let seen = inner.parked(INDEXED_MAX, without_words).await;
        let mut memory = self.memory.lock();
        let meanwhile = memory.meanwhile.take().unwrap_or_default();
        let mut seen = seen?;
        if seen.shared {
            // What was known before is nearer to the truth.
            return if memory.known.is_some() { Ok(()) } else { Err(not_seen()) };
        }
        if seen.letters.len() > PREFETCH_MAX {
            // They come back in blocks from the second pass on.
            seen.letters.sort_by_key(|letter| letter.parked_at);
        }
        let mut known = Known::new(seen);
        known.catch_up(meanwhile);
        memory.known = Some(known);
        Ok(())
    }

    /// This node has parked a letter.
    pub fn add(&self, letter: impl FnOnce() -> Option<Letter>) {
        let is_of_use = {
            let memory = self.memory.lock();
            memory.known.is_some() || memory.meanwhile.is_some()
        };
        if let Some(letter) = is_of_use.then(letter).flatten() {
            self.changed(Change::Added(Box::new(without_words(letter))));
        }
    }

    /// This node has removed a letter.
    pub fn remove(&self, id: &str) {
        self.changed(Change::Removed(id.to_owned()));
    }

    fn changed(&self, change: Change) {
        let memory = &mut *self.memory.lock();
        if let Some(meanwhile) = &mut memory.meanwhile {
            meanwhile.push(change.clone());
        }
        if let Some(known) = &mut memory.known {
            known.apply(change);
        }
    }

    /// This node has removed some.
    pub fn forget(&self) {
        self.memory.lock().known = None;
    }

    /// Forgets what nobody has asked for in a while.
    pub fn tidy(&self) {
        let mut memory = self.memory.lock();
        if memory.known.as_ref().is_some_and(|known| known.asked_at.elapsed() > FORGOTTEN_AFTER) {
            memory.known = None;
        }
    }
}

fn not_seen() -> Error {
    Error::Store("another node looks at the letters; try again".into())
}

impl Known {
    /// Applies what happened during the pass, as far as it has not seen it.
    fn catch_up(&mut self, meanwhile: Vec<Change>) {
        for change in meanwhile {
            let is_seen = match &change {
                Change::Added(letter) => self.letters.iter().rev().any(|seen| seen.id == letter.id),
                Change::Removed(_) => false,
            };
            if !is_seen {
                self.apply(change);
            }
        }
    }
}

fn without_words(letter: Letter) -> Letter {
    let content = match letter.content {
        Content::Message(job) => {
            let job = Arc::unwrap_or_clone(job);
            Content::Message(Arc::new(Job { kind: job.kind.without_words(), ..job }))
        }
        Content::Foreign(_) => Content::Foreign(Vec::new()),
    };
    Letter { content, ..letter }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::{
            Letters,
            contract::{Setup, tools::*},
            letters::{Look, Page, Which},
            rabbitmq::{Rabbitmq, contract_tests::Place, envelope::Envelope},
        },
        domain::{ids::ConversationId, time::Timestamp},
    };

    async fn park(broker: &Rabbitmq, message: &str, conversation: &str, cause: &str) {
        publish(broker, [(message, conversation)]).await;
        take_one(broker, CHAT).await.park(cause).await.unwrap();
    }

    /// As another node does.
    async fn park_unseen(broker: &Rabbitmq, message: &str) {
        let job = Arc::new(job(message, "c"));
        let letter = Envelope::new(job, crate::broker::Lane::Chat).parked("panic: there".into(), Timestamp(9));
        broker.inner.publisher.publish(broker.inner.to_letters("parked", &letter)).await.unwrap();
    }

    async fn listed(broker: &Rabbitmq, which: &Which, look: Look) -> Vec<Letter> {
        broker.list(which, &Page { after: None, limit: 100, look }).await.unwrap().letters
    }

    async fn ids(broker: &Rabbitmq) -> Vec<String> {
        listed(broker, &Which::default(), Look::Remembered).await.into_iter().map(|letter| letter.id).collect()
    }

    fn seen_at(broker: &Rabbitmq) -> Instant {
        broker.inner.index.memory.lock().known.as_ref().expect("it was asked for").seen_at
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_known_is_told_without_a_pass_and_is_what_lies_there() {
        let place = Place::new();
        let broker = place.rabbitmq(Setup::default()).await;
        park(&broker, "1", "c", "panic: here").await;
        park(&broker, "2", "d", "content refused").await;
        assert_eq!(ids(&broker).await, ["e1", "e2"]);
        let seen = seen_at(&broker);
        // What this node does is known at once.
        park(&broker, "3", "d", "panic: here").await;
        assert_eq!(ids(&broker).await, ["e1", "e2", "e3"]);
        broker.hold("e1").await.unwrap().unwrap().discard().await.unwrap();
        broker.hold("e2").await.unwrap().unwrap().replay().await.unwrap();
        assert_eq!(ids(&broker).await, ["e3"]);
        assert_eq!(seen_at(&broker), seen, "nobody had to look");
        // What another does shows in the number.
        for n in 4..7 {
            park_unseen(&broker, &n.to_string()).await;
        }
        while ids(&broker).await.len() < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(ids(&broker).await, ["e3", "e4", "e5", "e6"]);
        assert!(seen_at(&broker) > seen);
        // While somebody has all of it in hand, it is told from memory.
        let turn = broker.inner.passes.turn_now().expect("nobody looks");
        let d = Which { conversation: Some(ConversationId::new("d").unwrap()), standing: parked(), ..Which::default() };
        assert_eq!(broker.inner.index.look(&broker.inner, false, |all, _| all.len()).await.unwrap(), 4);
        drop(turn);
        let of_d = listed(&broker, &d, Look::Remembered).await;
        assert_eq!(of_d.iter().map(|letter| letter.id.as_str()).collect::<Vec<_>>(), ["e3"]);
        let panics = Which { cause: Some("panic".into()), ..Which::default() };
        assert_eq!(listed(&broker, &panics, Look::Remembered).await.len(), 4);
        let words = |letters: &[Letter]| letters[0].job().and_then(|job| job.kind.text().map(str::to_owned)).unwrap();
        assert_eq!((words(&of_d), words(&listed(&broker, &d, Look::Whole).await)), (String::new(), "text of 3".into()));
    }

    fn parked() -> Option<crate::broker::Standing> {
        Some(crate::broker::Standing::Parked)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_will_do_as_long_as_it_is_likely_to_be_all() {
        let letters = (0..3).map(|n| {
            let job = Arc::new(job(n.to_string(), "c"));
            Envelope::new(job, crate::broker::Lane::Chat).parked("why".into(), Timestamp(n)).letter(parked().unwrap())
        });
        let took = Duration::from_secs(2);
        let mut known = Known::new(Sighted { letters: letters.collect(), is_cut: false, shared: false, took });
        let holds = |ready, others_hold| known.holds(Lying { ready, consumers: 0 }, others_hold);
        assert!(holds(3, false) && holds(7, false), "a pass that took 2 s is not made again at once");
        tokio::time::advance(took * REST).await;
        assert!(holds(3, false) && !holds(4, false) && !holds(2, false) && holds(2, true));
        tokio::time::advance(SEEN_WITHIN).await;
        assert!(!holds(3, false) && !holds(3, true), "it may be another's, and gone");
        known.is_cut = true;
        assert!(
            known.is_as_many(Lying { ready: 7, consumers: 0 }) && !known.is_as_many(Lying { ready: 2, consumers: 0 })
        );
    }

    #[tokio::test]
    async fn what_happens_during_a_pass_is_known_after_it_once() {
        let letter = |n: i64| {
            let job = Arc::new(job(n, "c"));
            let parked = Envelope::new(job, crate::broker::Lane::Chat).parked("why".into(), Timestamp(n));
            parked.letter(crate::broker::Standing::Parked)
        };
        let seen = Sighted {
            letters: vec![letter(1), letter(2), letter(3)],
            is_cut: false,
            shared: false,
            took: Duration::ZERO,
        };
        let mut known = Known::new(seen);
        let added = |n| Change::Added(Box::new(letter(n)));
        known.catch_up(vec![
            added(3),
            added(4),
            Change::Removed("e1".into()),
            Change::Removed("e9".into()),
            added(5),
            Change::Removed("e5".into()),
        ]);
        let ids: Vec<&str> = known.letters.iter().map(|letter| letter.id.as_str()).collect();
        assert_eq!(ids, ["e2", "e3", "e4"]);
        // Where more lie there than are known, a new one lies behind those.
        known.is_cut = true;
        known.apply(added(6));
        assert_eq!((known.letters.len(), known.is_cut), (3, true));
    }
}
