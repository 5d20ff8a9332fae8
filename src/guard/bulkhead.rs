//! Bounds the calls to one service at a time, so that a slow service takes no more than its share.
//!
//! Who waits is served in the order of coming. After an outage the service is not met with everything at once: the
//! limit starts at 1 and doubles with each success, and meanwhile the message received last goes first, because its
//! customer is the one still there.
//! A waiter may be dropped at any moment. Its place is a `Waiter`, which gives back whatever it holds by then: the
//! place in the queue, or a slot that it was handed and has not taken up.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::oneshot;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Slots taken.
    pub in_use: usize,
    /// Callers that wait for one.
    pub waiting: usize,
    /// Slots as configured.
    pub limit: usize,
    /// Slots at present, fewer while the service recovers.
    pub effective: usize,
}

/// A caller in the queue, or one that was handed a slot and has not taken it up.
struct Waiter {
    shared: Arc<Mutex<Queue>>,
    ticket: u64,
    received_ms: i64,
    taken_up: bool,
}

#[derive(Debug)]
struct Queue {
    limit: usize,
    /// The reduced limit while the service recovers.
    ramp: Option<usize>,
    in_use: usize,
    next_ticket: u64,
    /// By ticket, so the first is who came first.
    bells: BTreeMap<u64, (i64, oneshot::Sender<()>)>,
    /// The same callers by freshness; among equals the first to come is last, and so the first served.
    by_freshness: BTreeSet<(i64, Reverse<u64>)>,
}

impl Bulkhead {
    /// A bulkhead of `limit` slots, at least one.
    pub fn new(limit: usize) -> Self {
        let (bells, by_freshness) = (BTreeMap::new(), BTreeSet::new());
        let queue = Queue { limit: limit.max(1), ramp: None, in_use: 0, next_ticket: 0, bells, by_freshness };
        Self { shared: Arc::new(Mutex::new(queue)) }
    }

    /// Waits for a slot; `received_ms` is when the message was received, in Unix time.
    ///
    /// Dropping the future leaves no trace. Callers are bounded by whoever lets them in.
    pub async fn enter(&self, received_ms: i64) -> Slot {
        let (waiter, bell) = {
            let mut queue = self.shared.lock();
            if queue.has_room() {
                queue.in_use += 1;
                return Slot { shared: Arc::clone(&self.shared) };
            }
            let (ticket, bell) = queue.line_up(received_ms);
            (Waiter { shared: Arc::clone(&self.shared), ticket, received_ms, taken_up: false }, bell)
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

    /// How many are inside and how many wait.
    pub fn usage(&self) -> Usage {
        let queue = self.shared.lock();
        Usage { in_use: queue.in_use, waiting: queue.bells.len(), limit: queue.limit, effective: queue.effective() }
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
        queue.by_freshness.remove(&(self.received_ms, Reverse(self.ticket)));
        let was_served = queue.bells.remove(&self.ticket).is_none();
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

    fn line_up(&mut self, received_ms: i64) -> (u64, oneshot::Receiver<()>) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let (ring, bell) = oneshot::channel();
        self.bells.insert(ticket, (received_ms, ring));
        self.by_freshness.insert((received_ms, Reverse(ticket)));
        (ticket, bell)
    }

    fn leave(&mut self) {
        self.in_use -= 1;
        self.serve();
    }

    /// Hands out what is free; who is served owns a slot from here on, whether he hears the bell or not.
    fn serve(&mut self) {
        while self.has_room() {
            let next = match self.ramp {
                Some(_) => self.by_freshness.last().map(|(_, Reverse(ticket))| *ticket),
                None => self.bells.keys().next().copied(),
            };
            let Some(ticket) = next else { return };
            let Some((received_ms, ring)) = self.bells.remove(&ticket) else { return };
            self.by_freshness.remove(&(received_ms, Reverse(ticket)));
            self.in_use += 1;
            let _ = ring.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::Pin,
        sync::atomic::{AtomicUsize, Ordering},
        task::{Context, Poll, Waker},
    };

    use proptest::prelude::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use tokio::task::JoinSet;

    use super::*;

    /// A caller that is polled by hand.
    struct Caller {
        name: u32,
        entering: Pin<Box<dyn Future<Output = Slot>>>,
    }

    /// Polls everybody once; returns who came in, in the order of the callers.
    fn poll_all(callers: &mut Vec<Caller>) -> Vec<(u32, Slot)> {
        let mut context = Context::from_waker(Waker::noop());
        let mut came_in = Vec::new();
        callers.retain_mut(|caller| match caller.entering.as_mut().poll(&mut context) {
            Poll::Ready(slot) => {
                came_in.push((caller.name, slot));
                false
            }
            Poll::Pending => true,
        });
        came_in
    }

    fn caller(bulkhead: &Bulkhead, name: u32, received_ms: i64) -> Caller {
        let bulkhead = bulkhead.clone();
        Caller { name, entering: Box::pin(async move { bulkhead.enter(received_ms).await }) }
    }

    /// Who comes in one after the other, each leaving when the next one is looked for.
    fn order(bulkhead: &Bulkhead, received_ms: &[i64], before: impl FnOnce()) -> Vec<u32> {
        let mut inside = vec![caller(bulkhead, 99, 0)];
        let mut slots = poll_all(&mut inside);
        let mut waiting: Vec<_> = received_ms
            .iter()
            .enumerate()
            .map(|(name, received_ms)| caller(bulkhead, name as u32, *received_ms))
            .collect();
        assert!(poll_all(&mut waiting).is_empty());
        before();
        let mut names = Vec::new();
        while !waiting.is_empty() {
            slots.clear();
            slots = poll_all(&mut waiting);
            names.extend(slots.iter().map(|(name, _)| *name));
        }
        names
    }

    #[test]
    fn waiters_come_in_by_order_of_coming_and_the_freshest_first_while_recovering() {
        let received_ms = [30, 10, 40, 20, 40];
        let bulkhead = Bulkhead::new(1);
        assert_eq!(order(&bulkhead, &received_ms, || ()), [0, 1, 2, 3, 4]);
        assert_eq!(order(&bulkhead, &received_ms, || bulkhead.ramp()), [2, 4, 0, 3, 1]);
    }

    #[test]
    fn recovery_doubles_with_each_success_and_starts_over_with_a_failure() {
        let bulkhead = Bulkhead::new(10);
        let effective = |act: fn(&Bulkhead)| {
            act(&bulkhead);
            bulkhead.usage().effective
        };
        assert_eq!(effective(Bulkhead::failed), 10, "no recovery, no change");
        assert_eq!(effective(Bulkhead::ramp), 1);
        let doubling = [0; 3].map(|_| effective(Bulkhead::succeeded));
        assert_eq!(doubling, [2, 4, 8]);
        assert_eq!(effective(Bulkhead::failed), 1);
        let doubling = [0; 4].map(|_| effective(Bulkhead::succeeded));
        assert_eq!(doubling, [2, 4, 8, 10]);
        assert_eq!(effective(Bulkhead::failed), 10, "recovered");
    }

    #[test]
    fn a_slot_that_nobody_took_up_goes_to_the_next() {
        let bulkhead = Bulkhead::new(1);
        let mut callers: Vec<_> = (0..3).map(|name| caller(&bulkhead, name, 0)).collect();
        let first = poll_all(&mut callers);
        drop(first);
        assert_eq!((bulkhead.usage().in_use, bulkhead.usage().waiting), (1, 1), "handed over, not yet taken up");
        callers.remove(0);
        assert_eq!(bulkhead.usage().waiting, 0);
        assert_eq!(poll_all(&mut callers)[0].0, 2);
    }

    #[test]
    fn a_limit_of_nothing_is_one() {
        let bulkhead = Bulkhead::new(0);
        bulkhead.set_limit(0);
        let usage = bulkhead.usage();
        assert_eq!(
            serde_json::to_value(usage).unwrap(),
            serde_json::json!({"in_use": 0, "waiting": 0, "limit": 1, "effective": 1})
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        Come(i64),
        PollAll,
        GiveUp(usize),
        Leave(usize),
        SetLimit(usize),
        Ramp,
        Succeeded,
        Failed,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..9i64).prop_map(Step::Come),
            6 => Just(Step::PollAll),
            4 => any::<usize>().prop_map(Step::GiveUp),
            5 => any::<usize>().prop_map(Step::Leave),
            1 => (0..5usize).prop_map(Step::SetLimit),
            1 => Just(Step::Ramp),
            2 => Just(Step::Succeeded),
            1 => Just(Step::Failed),
        ]
    }

    proptest! {
        #[test]
        fn no_slot_is_lost_or_given_twice(steps in prop::collection::vec(step(), 0..300)) {
            let bulkhead = Bulkhead::new(3);
            let (mut callers, mut slots) = (Vec::new(), Vec::new());
            for (name, step) in steps.into_iter().enumerate() {
                let before = bulkhead.usage();
                match step {
                    Step::Come(received_ms) => callers.push(caller(&bulkhead, name as u32, received_ms)),
                    Step::PollAll => slots.append(&mut poll_all(&mut callers)),
                    Step::GiveUp(which) if !callers.is_empty() => drop(callers.remove(which % callers.len())),
                    Step::Leave(which) if !slots.is_empty() => drop(slots.remove(which % slots.len())),
                    Step::SetLimit(limit) => bulkhead.set_limit(limit),
                    Step::Ramp => bulkhead.ramp(),
                    Step::Succeeded => bulkhead.succeeded(),
                    Step::Failed => bulkhead.failed(),
                    Step::GiveUp(_) | Step::Leave(_) => {}
                }
                let usage = bulkhead.usage();
                prop_assert!(usage.in_use >= slots.len());
                prop_assert!(usage.in_use <= before.in_use.max(usage.effective), "a slot given twice");
                prop_assert!(usage.waiting == 0 || usage.in_use >= usage.effective, "a free slot while somebody waits");
                prop_assert!(usage.waiting + usage.in_use <= callers.len() + slots.len(), "somebody left a trace");
            }
            drop((callers, slots));
            let usage = bulkhead.usage();
            prop_assert_eq!((usage.in_use, usage.waiting), (0, 0));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_cancellations_on_many_threads_lose_no_slot() {
        let bulkhead = Bulkhead::new(4);
        let inside = Arc::new(AtomicUsize::new(0));
        let mut random = StdRng::seed_from_u64(7);
        let mut tasks = JoinSet::new();
        for _ in 0..4000 {
            let (bulkhead, inside) = (bulkhead.clone(), Arc::clone(&inside));
            let task = tasks.spawn(async move {
                let slot = bulkhead.enter(0).await;
                assert!(inside.fetch_add(1, Ordering::SeqCst) < 4);
                inside.fetch_sub(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                drop(slot);
            });
            if random.random_bool(0.5) {
                task.abort();
            }
            if random.random_bool(0.1) {
                tokio::task::yield_now().await;
            }
        }
        while let Some(ended) = tasks.join_next().await {
            assert!(ended.is_ok() || ended.is_err_and(|error| error.is_cancelled()));
        }
        let usage = bulkhead.usage();
        assert_eq!((usage.in_use, usage.waiting), (0, 0));
    }
}
