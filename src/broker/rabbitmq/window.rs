//! What a node holds of one queue, unacknowledged: the messages that came and wait, and those that are out.
//!
//! A message can come twice: its copy was confirmed, but its original not yet acknowledged when a connection broke. The
//! second is no further delivery as long as the first is held.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin::Acker;

use super::envelope::Envelope;
use crate::domain::{
    ids::{ConversationId, EventId},
    job::Job,
};

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
    /// What it is acknowledged with.
    pub acker: Acker,
}

#[derive(Debug)]
struct Came {
    conversation: ConversationId,
    id: EventId,
    /// When (monotonic).
    at: Duration,
}

/// What is held of one queue.
#[derive(Debug, Default)]
pub struct Window {
    epoch: Arc<Epoch>,
    next: u64,
    ready: BTreeMap<u64, Held>,
    /// By the time (monotonic) until which nobody is to have them.
    waiting: BTreeMap<(Duration, u64), Held>,
    /// Which number a life of a message has.
    known: HashMap<Key, u64>,
    of_conversation: HashMap<ConversationId, usize>,
    /// Whatever came, by number, until it is settled.
    came: BTreeMap<u64, Came>,
    /// Those that are out, by number.
    out: HashMap<u64, Arc<Job>>,
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

    /// Whether the message is a copy of one that is held.
    pub fn is_copy(&self, envelope: &Envelope) -> bool {
        self.known.contains_key(&key(envelope))
    }

    /// Takes a message that came `now` (monotonic).
    pub fn put(&mut self, envelope: Envelope, redelivered: bool, acker: Acker, now: Duration) {
        *self.of_conversation.entry(envelope.job.conversation.clone()).or_default() += 1;
        let number = self.next;
        self.next += 1;
        self.known.insert(key(&envelope), number);
        let (conversation, id) = (envelope.job.conversation.clone(), envelope.job.id.clone());
        self.came.insert(number, Came { conversation, id, at: now });
        let rest = envelope.rest.unwrap_or_default();
        let held = Held { number, envelope, redelivered, epoch: self.epoch.clone(), acker };
        self.keep(held, now + rest, rest.is_zero());
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
        self.out.extend(given.iter().map(|held| (held.number, held.envelope.job.clone())));
        given
    }

    /// Gives out all of those that are meant, whenever their time is; and tells how many of them are out already.
    pub fn pop_all_of(&mut self, is_meant: impl Fn(&Job) -> bool + Copy) -> (Vec<Held>, usize) {
        let in_hand = self.out.values().filter(|job| is_meant(job)).count();
        let is_meant = |held: &Held| is_meant(&held.envelope.job);
        let mut given = split_off(&mut self.ready, is_meant);
        given.extend(split_off(&mut self.waiting, is_meant));
        self.out.extend(given.iter().map(|held| (held.number, held.envelope.job.clone())));
        (given, in_hand)
    }

    /// One that is out is on its way into another queue: what comes from there is the message itself from now on, also if
    /// it comes before this one is settled, and no copy of it.
    pub fn leaves(&mut self, held: &Held) {
        if self.is_known(held) {
            self.known.remove(&key(&held.envelope));
        }
    }

    /// One that was out comes back, and is given out again in `after`. `true`: it is to be acknowledged instead. It was on
    /// its way, nobody knew whether it arrived, and it has come again: from now on that one is it.
    #[must_use = "one that lives on elsewhere is to be acknowledged"]
    pub fn give_back(&mut self, held: Held, now: Duration, after: Duration) -> bool {
        if !self.owns(&held) {
            return false;
        }
        if self.known.contains_key(&key(&held.envelope)) && !self.is_known(&held) {
            return true;
        }
        self.out.remove(&held.number);
        if held.epoch.is_withdrawn() {
            self.forget(&held);
            return false;
        }
        self.known.insert(key(&held.envelope), held.number);
        self.keep(Held { redelivered: true, ..held }, now + after, after.is_zero());
        false
    }

    /// Whether one that is out can still be acknowledged.
    pub fn owns(&self, held: &Held) -> bool {
        Arc::ptr_eq(&held.epoch, &self.epoch) && !self.epoch.is_over()
    }

    /// One that was out has been acknowledged.
    pub fn settle(&mut self, held: &Held) {
        if self.owns(held) {
            self.out.remove(&held.number);
            self.forget(held);
        }
    }

    /// How many messages of a conversation are held.
    pub fn of_conversation(&self, conversation: &ConversationId) -> usize {
        self.of_conversation.get(conversation).copied().unwrap_or(0)
    }

    /// How many are out.
    pub fn out(&self) -> usize {
        self.out.len()
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
        self.came.first_key_value().map(|(_, came)| came.at)
    }

    /// When the next of those that are not to be had yet is (monotonic).
    pub fn next_due(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// All that is held, in the order in which it came.
    pub fn came(&self) -> impl DoubleEndedIterator<Item = (&ConversationId, &EventId)> {
        self.came.values().map(|came| (&came.conversation, &came.id))
    }

    /// All that wait, ready or not.
    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.ready.values().chain(self.waiting.values())
    }

    fn keep(&mut self, held: Held, due: Duration, is_due: bool) {
        if is_due {
            self.ready.insert(held.number, held);
        } else {
            self.waiting.insert((due, held.number), held);
        }
    }

    fn is_known(&self, held: &Held) -> bool {
        self.known.get(&key(&held.envelope)) == Some(&held.number)
    }

    fn forget(&mut self, held: &Held) {
        self.leaves(held);
        self.came.remove(&held.number);
        let conversation = &held.envelope.job.conversation;
        if let Some(count) = self.of_conversation.get_mut(conversation) {
            *count -= 1;
            if *count == 0 {
                self.of_conversation.remove(conversation);
            }
        }
    }
}

fn split_off<K: Ord>(from: &mut BTreeMap<K, Held>, is_meant: impl Fn(&Held) -> bool) -> Vec<Held> {
    let (meant, left): (BTreeMap<K, Held>, _) = std::mem::take(from).into_iter().partition(|(_, held)| is_meant(held));
    *from = left;
    meant.into_values().collect()
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
        window.put(envelope(), false, acker(1), NOW);
        let held = window.pop(1, NOW).pop().unwrap();
        (window, held)
    }

    fn tries(given: &[Held]) -> Vec<u32> {
        given.iter().map(|held| held.envelope.tries).collect()
    }

    #[test]
    fn a_copy_is_known_as_long_as_the_first_is_held() {
        let (mut window, held) = with_one_out();
        assert!(window.is_copy(&envelope()));
        window.settle(&held);
        assert!(!window.is_copy(&envelope()));
        assert_eq!((window.out(), window.of_conversation(&envelope().job.conversation)), (0, 0));
    }

    #[test]
    fn what_comes_back_before_its_original_is_settled_is_no_copy() {
        let (mut window, held) = with_one_out();
        window.leaves(&held);
        let back = envelope().buried("it failed".into(), None);
        assert!(!window.is_copy(&back));
        window.put(back, false, acker(2), NOW);
        window.settle(&held);
        assert_eq!((window.out(), window.of_conversation(&envelope().job.conversation)), (0, 1));
        assert!(window.is_copy(&envelope()), "the one that came back is known");
        assert_eq!(tries(&window.pop(1, NOW)), [1]);
    }

    #[test]
    fn what_could_not_leave_is_known_again() {
        let (mut window, held) = with_one_out();
        window.leaves(&held);
        assert!(!window.give_back(held, NOW, NOW));
        assert!(window.is_copy(&envelope()));
        assert_eq!(tries(&window.pop(2, NOW)), [0]);
    }

    #[test]
    fn what_has_left_although_nobody_confirmed_it_lives_on_once() {
        let (mut window, held) = with_one_out();
        window.leaves(&held);
        window.put(envelope().buried("it failed".into(), None), false, acker(2), NOW);
        assert!(window.give_back(held.clone(), NOW, NOW), "it is to be acknowledged");
        window.settle(&held);
        assert_eq!(tries(&window.pop(2, NOW)), [1]);
        assert!(window.is_copy(&envelope()) && window.out() == 1);
    }
}
