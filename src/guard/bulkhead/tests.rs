//! The bulkhead, with callers polled by hand.

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

fn caller(bulkhead: &Bulkhead, name: u32, received_ms: i64, class: Class) -> Caller {
    let bulkhead = bulkhead.clone();
    Caller { name, entering: Box::pin(async move { bulkhead.enter(received_ms, class).await }) }
}

/// Who comes in one after the other, each leaving when the next one is looked for.
fn order(bulkhead: &Bulkhead, comes: &[(Class, i64)], before: impl FnOnce()) -> Vec<u32> {
    let mut inside = vec![caller(bulkhead, 99, 0, Class::Chat)];
    let mut slots = poll_all(&mut inside);
    let named = comes.iter().enumerate();
    let mut waiting: Vec<_> =
        named.map(|(name, (class, received_ms))| caller(bulkhead, name as u32, *received_ms, *class)).collect();
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
    let bulkhead = Bulkhead::new(1);
    for class in Class::ALL {
        let comes = [30, 10, 40, 20, 40].map(|received_ms| (class, received_ms));
        assert_eq!(order(&bulkhead, &comes, || ()), [0, 1, 2, 3, 4]);
        assert_eq!(order(&bulkhead, &comes, || bulkhead.ramp()), [2, 4, 0, 3, 1]);
        bulkhead.succeeded();
    }
}

#[test]
fn classes_that_both_wait_share_the_slots_and_keep_their_own_order() {
    use Class::{Api, Chat};
    let bulkhead = Bulkhead::new(1);
    bulkhead.set_shares(Shares { chat: 1, api: 2 });
    let comes = [(Chat, 5), (Chat, 9), (Chat, 7), (Chat, 8), (Api, 1), (Api, 3), (Api, 2)];
    assert_eq!(order(&bulkhead, &comes, || ()), [0, 4, 5, 1, 6, 2, 3], "alone at last, chat gets every slot");
    bulkhead.set_shares(Shares { chat: 1, api: 2 });
    assert_eq!(order(&bulkhead, &comes, || bulkhead.ramp()), [1, 5, 6, 3, 4, 2, 0], "the freshest of each");
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
    let mut callers: Vec<_> = (0..3).map(|name| caller(&bulkhead, name, 0, Class::Chat)).collect();
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
    Come(Class, i64),
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
        4 => (0..9i64).prop_map(|received_ms| Step::Come(Class::Chat, received_ms)),
        3 => (0..9i64).prop_map(|received_ms| Step::Come(Class::Api, received_ms)),
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
                Step::Come(class, received_ms) => callers.push(caller(&bulkhead, name as u32, received_ms, class)),
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
    for n in 0..4000 {
        let (bulkhead, inside) = (bulkhead.clone(), Arc::clone(&inside));
        let task = tasks.spawn(async move {
            let slot = bulkhead.enter(0, Class::ALL[n % 2]).await;
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
