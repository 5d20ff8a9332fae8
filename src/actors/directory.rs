//! The conversations that are alive, by id. Owns their inboxes, so that these outlive the actors.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use ractor::ActorRef;
use tokio::sync::Notify;

use super::{conversation, hand::Item, inbox::Cell};
use crate::{
    broker::Delivery,
    domain::ids::{ConversationId, UserId},
    telemetry::Clock,
};

/// How many messages are held.
#[derive(Default)]
struct Holding {
    count: AtomicUsize,
    freed: Notify,
}

/// Counts a message as held as long as it lives, however it ends.
pub struct Held(Arc<Holding>);

impl Held {
    fn new(holding: &Arc<Holding>) -> Self {
        holding.count.fetch_add(1, Ordering::Relaxed);
        Self(holding.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_waiters();
    }
}

/// All conversations that are alive.
pub struct Directory {
    cells: DashMap<ConversationId, Arc<Cell>>,
    held: Arc<Holding>,
    clock: Clock,
}

impl Directory {
    /// Begins empty.
    pub fn new(clock: Clock) -> Self {
        Self { cells: DashMap::new(), held: Arc::default(), clock }
    }

    /// Puts a delivery into its conversation's inbox, at its place; returns the cell if it needs an actor.
    /// `alone`: it must not be merged with others.
    pub fn deliver(&self, delivery: Delivery, alone: bool) -> Option<Arc<Cell>> {
        let id = delivery.job.conversation.clone();
        let mut item = Item::new(delivery, self.clock.now());
        item.alone |= alone;
        item.held = Some(Held::new(&self.held));
        let entry = self.cells.entry(id.clone()).or_insert_with(|| Arc::new(Cell::new(id)));
        let cell = entry.value().clone();
        let mut inner = cell.lock();
        // The entry is held until the item is inside, so that the cell is not taken for idle meanwhile.
        drop(entry);
        let item = inner.renew_in_hand(item)?;
        let known = inner.inbox.iter().position(|waiting| waiting.delivery.job.id == item.delivery.job.id);
        match known {
            // Delivered again: the newer tag is the one that can be settled.
            Some(place) => inner.inbox[place].delivery = item.delivery,
            None => inner.put_back([item]),
        }
        inner.active(self.clock.monotonic());
        let needs_actor = inner.ask_for_actor();
        inner.ring();
        drop(inner);
        cell.arrived.notify_one();
        needs_actor.then_some(cell)
    }

    /// How many messages are held, waiting or in hand.
    pub fn held(&self) -> usize {
        self.held.count.load(Ordering::Relaxed)
    }

    /// Waits until fewer messages than `window` are held; how many more may be.
    pub async fn room(&self, window: usize) -> usize {
        loop {
            let mut freed = std::pin::pin!(self.held.freed.notified());
            // Heard of from now on, so that none is missed between the look and the wait.
            freed.as_mut().enable();
            match window.checked_sub(self.held()) {
                Some(room) if room > 0 => return room,
                _ => freed.await,
            }
        }
    }

    /// The cell of a conversation, if it is alive.
    pub fn find(&self, id: &ConversationId) -> Option<Arc<Cell>> {
        self.cells.get(id).map(|entry| entry.value().clone())
    }

    /// Lets go of what waits and has become another node's.
    pub fn let_go(&self) {
        self.all().iter().for_each(|cell| cell.lock().let_go());
    }

    /// Tells a conversation that it was removed; also one that is not alive, so that what is given to it from now on
    /// finds that out.
    pub fn remove(&self, id: &ConversationId) {
        let entry = self.cells.entry(id.clone()).or_insert_with(|| Arc::new(Cell::new(id.clone())));
        let cell = entry.value().clone();
        let mut inner = cell.lock();
        drop(entry);
        inner.removed = true;
        // The head it waits for may never come back.
        inner.away = None;
        inner.active(self.clock.monotonic());
        inner.ring();
        drop(inner);
        cell.arrived.notify_one();
    }

    /// Whether a conversation was removed.
    pub fn is_removed(&self, id: &ConversationId) -> bool {
        self.find(id).is_some_and(|cell| cell.lock().removed)
    }

    /// The conversations in which a customer's message waits or is in hand.
    pub fn of_user(&self, user: &UserId) -> Vec<ConversationId> {
        let all = self.all().into_iter();
        let theirs = all.filter(|cell| cell.lock().holds_message_of(user));
        theirs.map(|cell| cell.id.clone()).collect()
    }

    /// All cells.
    pub fn all(&self) -> Vec<Arc<Cell>> {
        self.cells.iter().map(|entry| entry.value().clone()).collect()
    }

    /// The first `limit` cells by id of those behind `after` whose id contains `part`, and how many contain it. Each of all
    /// cells is shown to `each`. Goes over a hundred thousand without taking hold of any but the few.
    pub fn page(
        &self,
        after: Option<&str>,
        part: Option<&str>,
        limit: usize,
        mut each: impl FnMut(&Cell),
    ) -> (Vec<Arc<Cell>>, usize) {
        let mut total = 0;
        let mut first: BTreeMap<ConversationId, Arc<Cell>> = BTreeMap::new();
        for entry in &self.cells {
            let (id, cell) = entry.pair();
            each(cell);
            if part.is_some_and(|part| !id.as_str().contains(part)) {
                continue;
            }
            total += 1;
            let is_behind = after.is_none_or(|after| id.as_str() > after);
            let fits = first.len() < limit || first.last_key_value().is_some_and(|(last, _)| id < last);
            if is_behind && fits {
                first.insert(id.clone(), cell.clone());
                if first.len() > limit {
                    first.pop_last();
                }
            }
        }
        (first.into_values().collect(), total)
    }

    /// A conversation was merged into another; those merged into it before go along.
    pub fn follow(&self, discarded: &ConversationId, surviving: &ConversationId) {
        for cell in self.all() {
            let mut inner = cell.lock();
            if cell.id == *discarded || inner.alias.as_ref() == Some(discarded) {
                inner.alias = Some(surviving.clone());
            }
        }
    }

    /// How many conversations are alive.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether none is alive.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Ends conversations that have been idle since `before` (monotonic); returns their actors, to be stopped.
    pub fn passivate(&self, before: Duration) -> Vec<ActorRef<conversation::Message>> {
        let mut ended = Vec::new();
        self.cells.retain(|_, cell| {
            let mut inner = cell.lock();
            let idle = inner.is_idle(before);
            if idle {
                ended.extend(inner.actor.take());
            }
            !idle
        });
        ended
    }

    /// Drops what waits and is not in hand, which gives it back to the broker: this node takes nothing more in hand.
    pub fn give_back_waiting(&self) {
        for entry in &self.cells {
            let waiting = std::mem::take(&mut entry.value().lock().inbox);
            drop(waiting);
        }
    }

    /// Drops everything that waits or is in hand, which gives it back to the broker; for the end of the process.
    pub fn give_back(&self) -> usize {
        let mut given_back = 0;
        for cell in self.all() {
            let mut inner = cell.lock();
            let waiting = std::mem::take(&mut inner.inbox);
            let hand = inner.hand.take();
            drop(inner);
            given_back += waiting.len() + hand.map_or(0, |hand| hand.items.len());
        }
        given_back
    }
}
