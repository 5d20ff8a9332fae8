//! The process dies between any two steps, or in the middle of one: what is found then is what was confirmed.
//!
//! After each step of a random script the files are copied as the death of the process would leave them, and a queue is
//! opened on the copy. An acknowledgement is written but not synced; a copy sees it as the process's death would. A
//! second copy ends in the middle of what the step has written: there the step has not happened.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use proptest::prelude::*;

use super::place::{Place, open};
use crate::{
    broker::{
        Broker, Delivery, Publication, Published, Queue, Standing, Whose,
        contract::{Setup, tools::*},
    },
    domain::{
        ids::{ConversationId, EventId, UserId},
        time::Timestamp,
    },
    telemetry::Clock,
};

/// Nothing that was put off comes back while a script runs.
const PUT_OFF: Duration = Duration::from_secs(3_600);

#[derive(Debug, Clone)]
enum Step {
    /// So many new messages in one batch, and one that is known.
    Publish(Vec<u8>),
    Take(usize),
    TakeDead(usize),
    /// Settles one of those in hand.
    Settle(usize, How),
    /// Withholds what lies of a conversation in nobody's hand, and removes the first so many; the others are given back.
    Forget {
        conversation: u8,
        removed: usize,
    },
}

#[derive(Debug, Clone, Copy)]
enum How {
    Ack,
    Retry,
    Bury,
    Park,
    Drop,
}

/// A message as it must be found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    conversation: u8,
    standing: Standing,
    tries: u32,
    reason: Option<String>,
}

/// Messages by number, which is their order; and how many numbers were given.
#[derive(Debug, Clone, Default)]
struct Model {
    kept: BTreeMap<usize, Kept>,
    published: usize,
}

impl Model {
    fn standing(&self, standing: Standing) -> Vec<usize> {
        self.kept.iter().filter(|(_, kept)| kept.standing == standing).map(|(number, _)| *number).collect()
    }

    fn settle(&mut self, number: usize, how: How, why: &str) {
        let kept = self.kept.get_mut(&number).unwrap();
        match how {
            How::Ack => drop(self.kept.remove(&number)),
            How::Retry => kept.standing = Standing::Delayed,
            How::Bury => {
                let reason = Some(why.to_owned());
                *kept = Kept { standing: Standing::Dead, tries: kept.tries + 1, reason, ..kept.clone() };
            }
            How::Park => {
                *kept = Kept { standing: Standing::Parked, reason: Some(why.to_owned()), ..kept.clone() };
            }
            How::Drop => {}
        }
    }
}

/// The queue that runs, what must be found of it, and what is in hand.
struct World {
    place: Place,
    broker: std::sync::Arc<super::super::Embedded>,
    model: Model,
    held: Vec<Delivery>,
    steps: usize,
}

impl World {
    fn new() -> Self {
        let place = Place::new();
        let broker = place.embedded(Setup::default());
        Self { place, broker, model: Model::default(), held: Vec::new(), steps: 0 }
    }

    async fn run(&mut self, step: Step) {
        self.steps += 1;
        match step {
            Step::Publish(conversations) => self.publish(conversations).await,
            Step::Take(room) => self.take(CHAT, Standing::Ready, room).await,
            Step::TakeDead(room) => self.take(Queue::Dead, Standing::Dead, room).await,
            Step::Settle(which, how) if !self.held.is_empty() => {
                let delivery = self.held.remove(which % self.held.len());
                let why = format!("why {}", self.steps);
                self.model.settle(name(&delivery).parse().unwrap(), how, &why);
                match how {
                    How::Ack => delivery.ack().await.unwrap(),
                    How::Retry => delivery.retry(PUT_OFF).await.unwrap(),
                    How::Bury => delivery.bury(&why).await.unwrap(),
                    How::Park => delivery.park(&why).await.unwrap(),
                    How::Drop => drop(delivery),
                }
            }
            Step::Settle(..) => {}
            Step::Forget { conversation, removed } => self.forget(conversation, removed).await,
        }
        // What was handed to the writer before this is written when it returns.
        self.broker.publish(Vec::new()).await.unwrap();
    }

    async fn publish(&mut self, conversations: Vec<u8>) {
        let first = self.model.published;
        let mut batch = Vec::new();
        for (number, conversation) in (first..).zip(conversations) {
            batch.push(chat(number, &format!("c{conversation}")));
            let kept = Kept { conversation, standing: Standing::Ready, tries: 0, reason: None };
            self.model.kept.insert(number, kept);
            self.model.published += 1;
        }
        batch.push(chat(first.saturating_sub(1), "c0"));
        let outcomes = self.broker.publish(batch).await.unwrap();
        // One of the batch before; the very first batch repeats its own first.
        assert_eq!(outcomes.last(), Some(&Published::DuplicateEvent));
    }

    async fn take(&mut self, queue: Queue, standing: Standing, room: usize) {
        let in_hand = |number: &usize| self.held.iter().any(|held| name(held) == number.to_string());
        let free = self.model.standing(standing).into_iter().filter(|number| !in_hand(number)).count();
        if free > 0 {
            self.held.extend(take(&*self.broker, queue, room).await);
        }
    }

    async fn forget(&mut self, conversation: u8, removed: usize) {
        let conversations = vec![ConversationId::new(&format!("c{conversation}")).unwrap()];
        let whose = Whose { user: UserId::new("nobody").unwrap(), conversations };
        let theirs = self.broker.forget(&whose).await.unwrap().deliveries;
        let in_hand = |number: &usize| self.held.iter().any(|held| name(held) == number.to_string());
        let free = self.model.kept.iter().filter(|(_, kept)| kept.conversation == conversation);
        let free: Vec<usize> = free.map(|(number, _)| *number).filter(|number| !in_hand(number)).collect();
        assert_eq!(numbers(&theirs), free);
        for delivery in theirs.into_iter().take(removed) {
            self.model.kept.remove(&name(&delivery).parse().unwrap());
            delivery.ack().await.unwrap();
        }
    }

    fn log(&self) -> std::path::PathBuf {
        self.place.path().join("queue.db-wal")
    }

    fn log_bytes(&self) -> u64 {
        fs::metadata(self.log()).map_or(0, |log| log.len())
    }

    /// The files as they are now, the log only up to `log_bytes`.
    fn copy(&self, log_bytes: u64) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        fs::copy(self.place.path().join("queue.db"), copy.path().join("queue.db")).unwrap();
        let mut log = fs::read(self.log()).unwrap();
        log.truncate(usize::try_from(log_bytes).unwrap());
        fs::write(copy.path().join("queue.db-wal"), log).unwrap();
        copy
    }
}

/// Opens what the dead process has left and compares it with what must be there.
async fn is_found(folder: &Path, model: &Model) {
    let system = Clock::system();
    let before = open(folder, Setup::default(), system.clone());
    for number in 0..model.published {
        let found = before.find(&format!("m{number}")).await.unwrap();
        let found = found.map(|it| (it.job.conversation.to_string(), it.standing, it.tries, it.reason));
        let kept = model.kept.get(&number).cloned();
        let kept = kept.map(|it| (format!("c{}", it.conversation), it.standing, it.tries, it.reason));
        assert_eq!(found, kept, "message {number}");
    }
    let standings = [Standing::Ready, Standing::InHand, Standing::Delayed, Standing::Dead, Standing::Parked];
    assert_eq!(tally(&before), standings.map(|standing| model.standing(standing).len() as u64));
    let again: Vec<Publication> = (0..model.published).flat_map(|number| [chat(number, "x"), echo(number)]).collect();
    let known = before.publish(again).await.unwrap();
    let expected = [Published::DuplicateEvent, Published::DuplicateMessage].repeat(model.published);
    assert_eq!(known, expected);
    before.inner.database.close();
    // Everything that is to be delivered is delivered, also what was put off.
    let later = open(folder, Setup::default(), Clock::with_wall(move || Timestamp(system.now().after(PUT_OFF).0 + 1)));
    let ready = model.standing(Standing::Ready);
    let delayed = model.standing(Standing::Delayed);
    let taken = take_many(&later, CHAT, ready.len() + delayed.len()).await;
    let dead = take_many(&later, Queue::Dead, model.standing(Standing::Dead).len()).await;
    for delivery in taken.iter().chain(&dead) {
        let kept = &model.kept[&name(delivery).parse().unwrap()];
        assert_eq!((delivery.tries, &delivery.reason), (kept.tries, &kept.reason), "{}", name(delivery));
    }
    for conversation in 0..3 {
        let of = |number: &usize| model.kept[number].conversation == conversation && ready.contains(number);
        let order: Vec<usize> = numbers(&taken).into_iter().filter(of).collect();
        assert!(order.is_sorted(), "conversation {conversation} came as {order:?}");
    }
    let mut all = [numbers(&taken), numbers(&dead)].concat();
    all.sort_unstable();
    let mut expected = [ready, delayed, model.standing(Standing::Dead)].concat();
    expected.sort_unstable();
    assert_eq!(all, expected);
}

/// Another event about a known message.
fn echo(number: usize) -> Publication {
    let mut again = job(number, "x");
    again.id = EventId::new(&format!("echo{number}")).unwrap();
    Publication { job: std::sync::Arc::new(again), ..chat(number, "x") }
}

fn steps() -> impl Strategy<Value = Vec<(Step, u64)>> {
    let how = prop_oneof![Just(How::Ack), Just(How::Retry), Just(How::Bury), Just(How::Park), Just(How::Drop)];
    let step = prop_oneof![
        2 => prop::collection::vec(0_u8..3, 1..5).prop_map(Step::Publish),
        2 => (1_usize..4).prop_map(Step::Take),
        1 => (1_usize..3).prop_map(Step::TakeDead),
        1 => (0_u8..3, 0_usize..6).prop_map(|(conversation, removed)| Step::Forget { conversation, removed }),
        5 => (any::<usize>(), how).prop_map(|(which, how)| Step::Settle(which, how)),
    ];
    prop::collection::vec((step, any::<u64>()), 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn whatever_was_confirmed_is_found_after_a_crash_between_or_within_any_steps(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for (step, cut) in steps {
                let is_one_write = !matches!(step, Step::Forget { .. });
                let (before, log_before) = (world.model.clone(), world.log_bytes());
                world.run(step).await;
                let log_after = world.log_bytes();
                is_found(world.copy(log_after).path(), &world.model).await;
                // A step of several transactions has happened in part by then.
                if log_after > log_before && is_one_write {
                    let within = log_before + cut % (log_after - log_before);
                    is_found(world.copy(within).path(), &before).await;
                }
            }
        });
    }
}
