//! What a node holds of one queue, unacknowledged: the messages that came and wait, and those that are out.
//!
//! A message can come twice: its copy was confirmed, but its original not yet acknowledged when a connection broke. The
//! copies share one fate: the second is no further delivery, only a further tag to acknowledge with the first.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin::Acker;
use parking_lot::Mutex;

use super::envelope::Envelope;
use crate::domain::ids::{ConversationId, EventId};

/// One life of a message.
type Key = (EventId, u32);

/// One subscription; what came with it cannot be acknowledged any more when it has ended.
#[derive(Debug, Default)]
pub struct Epoch {
    withdrawn: AtomicBool,
    over: AtomicBool,
}

impl Epoch {
    /// From now on nothing is to be begun.
    pub fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Release);
    }

    /// It has ended.
    pub fn end(&self) {
        self.withdraw();
        self.over.store(true, Ordering::Release);
    }

    /// Whether nothing is to be begun any more.
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// What a message is acknowledged with: a tag, and one more for each copy.
#[derive(Debug, Default)]
pub struct Tags(Mutex<Vec<Acker>>);

/// A message that is held.
#[derive(Debug, Clone)]
pub struct Held {
    /// Its place in the order of arrival.
    pub number: u64,
    /// The message.
    pub envelope: Envelope,
    /// Whether somebody may have worked on it before.
    pub redelivered: bool,
    /// The subscription it came with.
    pub epoch: Arc<Epoch>,
    tags: Arc<Tags>,
}

/// What is held of one queue.
#[derive(Debug, Default)]
pub struct Window {
    epoch: Arc<Epoch>,
    next: u64,
    ready: BTreeMap<u64, Held>,
    /// By the time (monotonic) until which nobody is to have them.
    waiting: BTreeMap<(Duration, u64), Held>,
    known: HashMap<Key, Arc<Tags>>,
    of_conversation: HashMap<ConversationId, usize>,
    /// When each came (monotonic), by number.
    since: BTreeMap<u64, Duration>,
    out: usize,
}

impl Window {
    /// A subscription begins; all that was held before is somebody else's by now.
    pub fn begin(&mut self) -> Arc<Epoch> {
        self.end();
        self.epoch = Arc::default();
        self.epoch.clone()
    }

    /// The subscription has ended.
    pub fn end(&mut self) {
        self.epoch.end();
        let (epoch, next) = (self.epoch.clone(), self.next);
        *self = Self { epoch, next, ..Self::default() };
    }

    /// Nothing more is given out.
    pub fn withdraw(&mut self) {
        self.epoch.withdraw();
        for held in std::mem::take(&mut self.ready).into_values().chain(std::mem::take(&mut self.waiting).into_values())
        {
            self.forget(&held);
        }
    }

    /// Whether the message is a copy of one that is held; then the tag is kept with that one's.
    pub fn is_copy(&self, envelope: &Envelope, acker: &Acker) -> bool {
        let Some(tags) = self.known.get(&key(envelope)) else { return false };
        tags.0.lock().push(acker.clone());
        true
    }

    /// Takes a message that came `now` (monotonic) and is to be given out in `early_by`.
    pub fn put(&mut self, envelope: Envelope, redelivered: bool, acker: Acker, now: Duration, early_by: Duration) {
        let tags = Arc::new(Tags(Mutex::new(vec![acker])));
        self.known.insert(key(&envelope), tags.clone());
        *self.of_conversation.entry(envelope.job.conversation.clone()).or_default() += 1;
        let number = self.next;
        self.next += 1;
        self.since.insert(number, now);
        let held = Held { number, envelope, redelivered, epoch: self.epoch.clone(), tags };
        self.keep(held, now + early_by, early_by.is_zero());
    }

    /// Gives out what is ready by `now` (monotonic), at most `room`.
    pub fn pop(&mut self, room: usize, now: Duration) -> Vec<Held> {
        while let Some(first) = self.waiting.first_entry()
            && first.key().0 <= now
        {
            let held = first.remove();
            self.ready.insert(held.number, held);
        }
        let mut given = Vec::new();
        while given.len() < room
            && let Some((_, held)) = self.ready.pop_first()
        {
            given.push(held);
        }
        self.out += given.len();
        given
    }

    /// One that is out is on its way into another queue: what comes from there is the message itself from now on, also if
    /// it comes before this one is settled, and no copy to be acknowledged with it.
    pub fn leaves(&mut self, held: &Held) {
        if self.is_known(held) {
            self.known.remove(&key(&held.envelope));
        }
    }

    /// One that was out comes back, and is given out again in `after`.
    pub fn give_back(&mut self, held: Held, now: Duration, after: Duration) {
        if !self.is_ours(&held) {
            return;
        }
        self.out -= 1;
        if held.epoch.is_withdrawn() {
            return self.forget(&held);
        }
        match self.known.entry(key(&held.envelope)) {
            Entry::Occupied(known) if !Arc::ptr_eq(known.get(), &held.tags) => {
                // It was on its way, nobody knew whether it arrived, and it has come again: from now on that one is it.
                let tags = std::mem::take(&mut *held.tags.0.lock());
                known.get().0.lock().extend(tags);
                return self.forget(&held);
            }
            known => drop(known.or_insert_with(|| held.tags.clone())),
        }
        self.keep(Held { redelivered: true, ..held }, now + after, after.is_zero());
    }

    /// What there is (still) to acknowledge of one that is out; nothing: it is settled. `None`: it belongs to somebody
    /// else by now. One asks until there is nothing, for a copy can come meanwhile.
    pub fn settle(&mut self, held: &Held) -> Option<Vec<Acker>> {
        if !self.is_ours(held) {
            return None;
        }
        let tags = std::mem::take(&mut *held.tags.0.lock());
        if tags.is_empty() {
            self.out -= 1;
            self.forget(held);
        }
        Some(tags)
    }

    /// How many messages of a conversation are held.
    pub fn of_conversation(&self, conversation: &ConversationId) -> usize {
        self.of_conversation.get(conversation).copied().unwrap_or(0)
    }

    /// How many are out.
    pub fn out(&self) -> usize {
        self.out
    }

    /// How many have come, are not out, and could be had `now` (monotonic).
    pub fn ready(&self, now: Duration) -> usize {
        self.ready.len() + self.waiting.len() - self.delayed(now)
    }

    /// How many nobody is to have yet.
    pub fn delayed(&self, now: Duration) -> usize {
        self.waiting.range((now, u64::MAX)..).count()
    }

    /// When the oldest came (monotonic).
    pub fn oldest(&self) -> Option<Duration> {
        self.since.first_key_value().map(|(_, since)| *since)
    }

    /// When the next of those that are not to be had yet is (monotonic).
    pub fn next_due(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// All that wait, ready or not.
    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.ready.values().chain(self.waiting.values())
    }

    fn is_ours(&self, held: &Held) -> bool {
        Arc::ptr_eq(&held.epoch, &self.epoch) && !self.epoch.is_over()
    }

    fn keep(&mut self, held: Held, due: Duration, is_due: bool) {
        if is_due {
            self.ready.insert(held.number, held);
        } else {
            self.waiting.insert((due, held.number), held);
        }
    }

    fn is_known(&self, held: &Held) -> bool {
        self.known.get(&key(&held.envelope)).is_some_and(|tags| Arc::ptr_eq(tags, &held.tags))
    }

    fn forget(&mut self, held: &Held) {
        if self.is_known(held) {
            self.known.remove(&key(&held.envelope));
        }
        self.since.remove(&held.number);
        let conversation = &held.envelope.job.conversation;
        if let Some(count) = self.of_conversation.get_mut(conversation) {
            *count -= 1;
            if *count == 0 {
                self.of_conversation.remove(conversation);
            }
        }
    }
}

fn key(envelope: &Envelope) -> Key {
    (envelope.job.id.clone(), envelope.replay)
}

#[cfg(test)]
mod tests {
    use lapin::message::Delivery;

    use super::*;
    use crate::broker::{Lane, contract::tools::job};

    const NOW: Duration = Duration::ZERO;

    fn envelope() -> Envelope {
        Envelope::new(Arc::new(job("m", "c")), Lane::Chat)
    }

    fn acker(tag: u64) -> Acker {
        Delivery::mock(tag, "x".into(), "00".into(), false, Vec::new()).acker
    }

    /// A window with one message, which is out.
    fn with_one_out() -> (Window, Held) {
        let mut window = Window::default();
        window.put(envelope(), false, acker(1), NOW, Duration::ZERO);
        let held = window.pop(1, NOW).pop().unwrap();
        (window, held)
    }

    #[test]
    fn a_copy_of_what_is_held_is_acknowledged_with_it() {
        let (mut window, held) = with_one_out();
        assert!(window.is_copy(&envelope(), &acker(2)));
        assert_eq!(window.settle(&held).map(|tags| tags.len()), Some(2));
    }

    #[test]
    fn what_comes_back_before_its_original_is_settled_is_not_settled_with_it() {
        let (mut window, held) = with_one_out();
        window.leaves(&held);
        let back = envelope().buried("it failed".into());
        assert!(!window.is_copy(&back, &acker(2)));
        window.put(back, false, acker(2), NOW, Duration::ZERO);
        assert_eq!(window.settle(&held).map(|tags| tags.len()), Some(1), "its own tag");
        assert_eq!(window.settle(&held).map(|tags| tags.len()), Some(0), "it is settled");
        assert_eq!((window.out(), window.of_conversation(&envelope().job.conversation)), (0, 1));
        assert!(window.is_copy(&envelope(), &acker(3)), "the one that came back is known");
        assert_eq!(window.pop(1, NOW)[0].envelope.tries, 1);
    }

    #[test]
    fn what_could_not_leave_is_known_again() {
        let (mut window, held) = with_one_out();
        window.leaves(&held);
        window.give_back(held, NOW, Duration::ZERO);
        assert!(window.is_copy(&envelope(), &acker(2)));
        let held = window.pop(1, NOW).pop().unwrap();
        assert_eq!(window.settle(&held).map(|tags| tags.len()), Some(2));
    }

    #[test]
    fn what_has_left_although_nobody_confirmed_it_lives_on_once() {
        let (mut window, held) = with_one_out();
        window.leaves(&held);
        window.put(envelope().buried("it failed".into()), false, acker(2), NOW, Duration::ZERO);
        window.give_back(held, NOW, Duration::ZERO);
        let again = window.pop(2, NOW);
        assert_eq!(again.iter().map(|held| held.envelope.tries).collect::<Vec<_>>(), [1]);
        assert_eq!(window.settle(&again[0]).map(|tags| tags.len()), Some(2), "both are acknowledged");
    }
}
