//! The parked letters as this node saw them last, so that a list or a filter need not go through the queue each time:
//! RabbitMQ has no other way to look into a queue than to take all of it in hand, which takes seconds with 100,000.
//!
//! ```text
//! list --> as many lie there as are known, and seen not long ago? --yes--> what is known
//!                                                                 --no---> a pass, remembered without what was written
//! ```
//! What this node parks and removes is entered at once; what others do shows in the number of letters. Nothing of it is
//! kept beyond the process: whatever is lost, the queue knows it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Inner, tally::Lying};
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

/// What is known of the parked letters.
#[derive(Default)]
pub(super) struct Index {
    known: Mutex<Option<Known>>,
    /// One who looks at a time.
    looks: tokio::sync::Mutex<()>,
}

struct Known {
    /// In the order in which they lie there.
    letters: Vec<Letter>,
    /// When the pass that saw them ended, and how long it took.
    seen_at: Instant,
    took: Duration,
    asked_at: Instant,
}

impl Known {
    /// Whether it will do for the moment.
    fn holds(&self, lying: Lying, others_hold: bool) -> bool {
        let is_all = self.letters.len() == lying.ready || self.is_full() && lying.ready > INDEXED_MAX;
        // What somebody has in hand is not counted, and not seen by a pass either.
        let age = self.seen_at.elapsed();
        others_hold || age < self.took * REST || is_all && age < SEEN_WITHIN
    }

    fn is_full(&self) -> bool {
        self.letters.len() >= INDEXED_MAX
    }
}

impl Index {
    /// What is known; `select` chooses from it, and hears whether more lie there than are known.
    pub async fn look<T>(&self, inner: &Inner, select: impl FnOnce(&[Letter], bool) -> T) -> Result<T, Error> {
        let _look = self.looks.lock().await;
        let lying = inner.tally.parked(inner).await?;
        let others_hold = lying.consumers > 0 || inner.passes.turn_now().is_none();
        let holds = self.known.lock().as_ref().is_some_and(|known| known.holds(lying, others_hold));
        if !holds {
            let began = Instant::now();
            let letters = inner.parked(INDEXED_MAX, without_words).await?;
            let (seen_at, took) = (Instant::now(), began.elapsed());
            *self.known.lock() = Some(Known { letters, seen_at, took, asked_at: seen_at });
        }
        let mut known = self.known.lock();
        let Some(known) = &mut *known else { return Ok(select(&[], false)) };
        known.asked_at = Instant::now();
        Ok(select(&known.letters, known.is_full()))
    }

    /// This node has parked a letter.
    pub fn add(&self, letter: impl FnOnce() -> Letter) {
        if let Some(known) = self.known.lock().as_mut().filter(|known| !known.is_full()) {
            known.letters.push(without_words(letter()));
        }
    }

    /// This node has removed a letter.
    pub fn remove(&self, id: &str) {
        if let Some(known) = &mut *self.known.lock()
            && let Some(place) = known.letters.iter().position(|letter| letter.id == id)
        {
            known.letters.remove(place);
        }
    }

    /// Forgets what nobody has asked for in a while.
    pub fn tidy(&self) {
        let mut known = self.known.lock();
        if known.as_ref().is_some_and(|known| known.asked_at.elapsed() > FORGOTTEN_AFTER) {
            *known = None;
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
            letters::{Page, Which},
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

    async fn listed(broker: &Rabbitmq, which: &Which, whole: bool) -> Vec<Letter> {
        broker.list(which, &Page { after: None, limit: 100, whole }).await.unwrap().letters
    }

    async fn ids(broker: &Rabbitmq) -> Vec<String> {
        listed(broker, &Which::default(), false).await.into_iter().map(|letter| letter.id).collect()
    }

    fn seen_at(broker: &Rabbitmq) -> Instant {
        broker.inner.index.known.lock().as_ref().expect("it was asked for").seen_at
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
        assert_eq!(broker.inner.index.look(&broker.inner, |all, _| all.len()).await.unwrap(), 4);
        drop(turn);
        let of_d = listed(&broker, &d, false).await;
        assert_eq!(of_d.iter().map(|letter| letter.id.as_str()).collect::<Vec<_>>(), ["e3"]);
        let panics = Which { cause: Some("panic".into()), ..Which::default() };
        assert_eq!(listed(&broker, &panics, false).await.len(), 4);
        let words = |letters: &[Letter]| letters[0].job().and_then(|job| job.kind.text().map(str::to_owned)).unwrap();
        assert_eq!((words(&of_d), words(&listed(&broker, &d, true).await)), (String::new(), "text of 3".into()));
    }

    fn parked() -> Option<crate::broker::Standing> {
        Some(crate::broker::Standing::Parked)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_will_do_as_long_as_it_is_likely_to_be_all() {
        let letters = (0..3).map(|n| {
            let job = Arc::new(job(&n.to_string(), "c"));
            Envelope::new(job, crate::broker::Lane::Chat).parked("why".into(), Timestamp(n)).letter(parked().unwrap())
        });
        let now = Instant::now();
        let (took, letters) = (Duration::from_secs(2), letters.collect());
        let known = Known { letters, seen_at: now, took, asked_at: now };
        let holds = |ready, others_hold| known.holds(Lying { ready, consumers: 0 }, others_hold);
        assert!(holds(3, false) && holds(7, false), "a pass that took 2 s is not made again at once");
        tokio::time::advance(took * REST).await;
        assert!(holds(3, false) && !holds(4, false) && !holds(2, false) && holds(2, true));
        tokio::time::advance(SEEN_WITHIN).await;
        assert!(!holds(3, false) && holds(3, true));
    }
}
