//! Bounds the calls to one service at a time, so that a slow service takes no more than its share.
//!
//! Who waits is served in the order of coming, each class by its share (`fair`). After an outage the service is
//! not met with everything at once: the limit starts at 1 and doubles with each success, and meanwhile, within its class,
//! the message received last goes first, because its customer is the one still there.
//! A waiter may be dropped at any moment. Its place is a `Waiter`, which gives back whatever it holds by then: the
//! place in the queue, or a slot that it was handed and has not taken up.

#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::fair::{Class, PerClass, Shares, Turns};

/// Hands out the slots of one service; clones share them.
#[derive(Clone, Debug)]
pub struct Bulkhead {
    shared: Arc<Mutex<Queue>>,
}

/// Occupies one place at the service until dropped.
#[derive(Debug)]
#[must_use = "the slot is free again as soon as this is dropped"]
pub struct Slot {
    shared: Arc<Mutex<Queue>>,
}

/// Shows a bulkhead to operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Slots taken.
    pub in_use: usize,
    /// Callers that wait for one.
    pub waiting: usize,
    /// Slots there are.
    pub limit: usize,
    /// Slots at present, fewer while the service recovers.
    pub effective: usize,
}

/// A caller in the queue, or one that was handed a slot and has not taken it up.
struct Waiter {
    shared: Arc<Mutex<Queue>>,
    class: Class,
    ticket: u64,
    received_ms: i64,
    taken_up: bool,
}

#[derive(Debug)]
struct Queue {
    configured: usize,
    limit: usize,
    /// The reduced limit while the service recovers.
    ramp: Option<usize>,
    in_use: usize,
    next_ticket: u64,
    lines: PerClass<Line>,
    turns: Turns,
}

/// Those of one class who wait.
#[derive(Debug, Default)]
struct Line {
    /// By ticket, so the first is who came first.
    bells: BTreeMap<u64, (i64, oneshot::Sender<()>)>,
    /// The same callers by freshness; among equals the first to come is last, and so the first served.
    by_freshness: BTreeSet<(i64, Reverse<u64>)>,
}

impl Bulkhead {
    /// A bulkhead of `limit` slots, at least one.
    pub fn new(limit: usize) -> Self {
        let (lines, turns) = (PerClass::default(), Turns::default());
        let limit = limit.max(1);
        let queue = Queue { configured: limit, limit, ramp: None, in_use: 0, next_ticket: 0, lines, turns };
        Self { shared: Arc::new(Mutex::new(queue)) }
    }

    /// Waits for a slot; `received_ms` is when the message was received, in Unix time.
    ///
    /// Dropping the future leaves no trace. Callers are bounded by whoever lets them in.
    pub async fn enter(&self, received_ms: i64, class: Class) -> Slot {
        let (waiter, bell) = {
            let mut queue = self.shared.lock();
            if queue.has_room() {
                queue.in_use += 1;
                return Slot { shared: Arc::clone(&self.shared) };
            }
            let (ticket, bell) = queue.line_up(received_ms, class);
            (Waiter { shared: Arc::clone(&self.shared), class, ticket, received_ms, taken_up: false }, bell)
        };
        // The sender lies in the queue until it is rung, so the bell cannot end unrung while the waiter lives.
        bell.await.expect("a waiter in the queue has its bell there");
        waiter.take_up()
    }

    /// Starts a recovery: one call at a time, then two, four and so on.
    pub fn ramp(&self) {
        self.shared.lock().ramp = Some(1);
    }

    /// Takes in a success, which doubles the calls at a time while recovering.
    pub fn succeeded(&self) {
        let mut queue = self.shared.lock();
        queue.ramp = queue.ramp.map(|ramp| ramp.saturating_mul(2)).filter(|ramp| *ramp < queue.limit);
        queue.serve();
    }

    /// Takes in a failure, which starts a recovery over; at other times it changes nothing.
    pub fn failed(&self) {
        let mut queue = self.shared.lock();
        queue.ramp = queue.ramp.map(|_| 1);
    }

    /// Changes the number of slots, to at least one; slots taken beyond it are not called back.
    pub fn set_limit(&self, limit: usize) {
        let mut queue = self.shared.lock();
        queue.limit = limit.max(1);
        queue.serve();
    }

    /// The number of slots as configured.
    pub fn configured(&self) -> usize {
        self.shared.lock().configured
    }

    /// From now on the classes share so, when both wait; in the beginning evenly.
    pub fn set_shares(&self, shares: Shares) {
        self.shared.lock().turns = Turns::new(shares);
    }

    /// How many are inside and how many wait.
    pub fn usage(&self) -> Usage {
        let queue = self.shared.lock();
        let waiting = queue.lines.iter().map(|line| line.bells.len()).sum();
        Usage { in_use: queue.in_use, waiting, limit: queue.limit, effective: queue.effective() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.lock().leave();
    }
}

impl Waiter {
    /// Turns the place into the slot it was handed.
    fn take_up(mut self) -> Slot {
        self.taken_up = true;
        Slot { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.taken_up {
            return;
        }
        let mut queue = self.shared.lock();
        let was_served = queue.lines[self.class].leave(self.ticket, self.received_ms).is_none();
        if was_served {
            queue.leave();
        }
    }
}

impl Queue {
    fn effective(&self) -> usize {
        self.ramp.map_or(self.limit, |ramp| ramp.min(self.limit))
    }

    fn has_room(&self) -> bool {
        self.in_use < self.effective()
    }

    fn line_up(&mut self, received_ms: i64, class: Class) -> (u64, oneshot::Receiver<()>) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let (ring, bell) = oneshot::channel();
        let line = &mut self.lines[class];
        line.bells.insert(ticket, (received_ms, ring));
        line.by_freshness.insert((received_ms, Reverse(ticket)));
        (ticket, bell)
    }

    fn leave(&mut self) {
        self.in_use -= 1;
        self.serve();
    }

    /// Hands out what is free; who is served owns a slot from here on, whether he hears the bell or not.
    fn serve(&mut self) {
        let recovers = self.ramp.is_some();
        while self.has_room() {
            let Some(class) = self.turns.next(|class| !self.lines[class].bells.is_empty()) else { return };
            let Some(ring) = self.lines[class].serve(recovers) else { return };
            self.turns.granted(class);
            self.in_use += 1;
            let _ = ring.send(());
        }
    }
}

impl Line {
    /// Who is next: the first to come, or the freshest.
    fn serve(&mut self, freshest: bool) -> Option<oneshot::Sender<()>> {
        let (received_ms, ticket) = if freshest {
            self.by_freshness.last().map(|(received_ms, Reverse(ticket))| (*received_ms, *ticket))?
        } else {
            self.bells.first_key_value().map(|(ticket, (received_ms, _))| (*received_ms, *ticket))?
        };
        self.leave(ticket, received_ms)
    }

    /// One leaves; its bell, if it was still waiting.
    fn leave(&mut self, ticket: u64, received_ms: i64) -> Option<oneshot::Sender<()>> {
        self.by_freshness.remove(&(received_ms, Reverse(ticket)));
        self.bells.remove(&ticket).map(|(_, ring)| ring)
    }
}
