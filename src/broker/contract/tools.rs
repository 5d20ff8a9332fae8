//! Short words for the contract's tests.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    broker::{Broker, Delivery, Error, Lane, Publication, Published, Queue, Standing},
    domain::{
        ids::{ConversationId, EventId, MessageId},
        job::{Job, Kind},
        time::Timestamp,
    },
};

/// Patience with a noisy machine; nothing waits this long when all is well.
pub(in crate::broker) const PATIENCE: Duration = Duration::from_secs(20);

pub(in crate::broker) const CHAT: Queue = Queue::Chat(0);

/// A customer's message: event `e<name>`, message `m<name>`.
pub(in crate::broker) fn job(name: impl std::fmt::Display, conversation: &str) -> Job {
    Job::new(
        EventId::new(&format!("e{name}")).unwrap(),
        MessageId::new(&format!("m{name}")).unwrap(),
        ConversationId::new(conversation).unwrap(),
        Kind::Message { text: format!("text of {name}"), user: None, image: None },
        Timestamp(1_000),
    )
}

pub(in crate::broker) fn chat(name: impl std::fmt::Display, conversation: &str) -> Publication {
    Publication { lane: Lane::Chat, job: Arc::new(job(name, conversation)), parked: None }
}

pub(in crate::broker) fn event(name: impl std::fmt::Display) -> Publication {
    Publication { lane: Lane::Events, ..chat(name, "u") }
}

/// The name a message was made with.
pub(in crate::broker) fn name(delivery: &Delivery) -> String {
    delivery.job.id.as_str()[1..].to_owned()
}

pub(in crate::broker) fn names(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(name).collect()
}

pub(in crate::broker) fn numbers(deliveries: &[Delivery]) -> Vec<usize> {
    deliveries.iter().map(|delivery| name(delivery).parse().unwrap()).collect()
}

/// Publishes messages of the chat lane, all of which are new.
pub(in crate::broker) async fn publish<N: std::fmt::Display>(
    broker: &dyn Broker,
    messages: impl IntoIterator<Item = (N, &str)>,
) {
    publish_all(broker, messages.into_iter().map(|(name, conversation)| chat(name, conversation)).collect()).await;
}

pub(in crate::broker) async fn publish_all(broker: &dyn Broker, messages: Vec<Publication>) {
    let outcomes = broker.publish(messages).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Published::Stored), "{outcomes:?}");
}

/// Takes whatever comes first.
pub(in crate::broker) async fn take(broker: &dyn Broker, queue: Queue, room: usize) -> Vec<Delivery> {
    timeout(PATIENCE, broker.take(queue, room)).await.expect("something was to come").unwrap()
}

/// Takes until there are `count`.
pub(in crate::broker) async fn take_many(broker: &dyn Broker, queue: Queue, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let room = count - taken.len();
        let more = timeout(PATIENCE, broker.take(queue, room)).await;
        let more = more.unwrap_or_else(|_| panic!("{count} were to come, not {:?}", names(&taken))).unwrap();
        assert!(!more.is_empty() && more.len() <= room, "{} for a room of {room}", more.len());
        taken.extend(more);
    }
    taken
}

pub(in crate::broker) async fn take_one(broker: &dyn Broker, queue: Queue) -> Delivery {
    take_many(broker, queue, 1).await.remove(0)
}

/// Says that nothing is left to take from a lane: a new message is the very next.
pub(in crate::broker) async fn is_empty(broker: &dyn Broker, lane: Lane, sentinel: &str) {
    let queue = if lane == Lane::Chat { CHAT } else { Queue::Events };
    publish_all(broker, vec![Publication { lane, ..chat(sentinel, sentinel) }]).await;
    let mut taken = Vec::new();
    while !names(&taken).contains(&sentinel.to_owned()) {
        taken.extend(take(broker, queue, 16).await);
    }
    assert_eq!(names(&taken), [sentinel], "the queue was not empty");
    taken.remove(0).ack().await.unwrap();
}

/// Says that there are no dead letters to be judged: a new one is the very next. The chat lane is empty.
pub(in crate::broker) async fn no_letter_is_dead(broker: &dyn Broker) {
    publish(broker, [("dead-sentinel", "dead-sentinel")]).await;
    let sentinel = take_one(broker, CHAT).await;
    assert_eq!(name(&sentinel), "dead-sentinel", "the queue was not empty");
    sentinel.bury("sentinel").await.unwrap();
    let letters = take(broker, Queue::Dead, 16).await;
    assert_eq!(names(&letters), ["dead-sentinel"], "there were dead letters");
    for letter in letters {
        letter.ack().await.unwrap();
    }
}

/// How many messages of the chat lane stand so.
pub(in crate::broker) fn count(broker: &dyn Broker, standing: Standing) -> u64 {
    let here = |count: &&crate::broker::Count| count.lane == Lane::Chat && count.standing == standing;
    broker.counts().iter().filter(here).map(|count| count.messages).sum()
}

/// The chat lane's counts: ready, in hand, delayed, dead, parked.
pub(in crate::broker) fn tally(broker: &dyn Broker) -> [u64; 5] {
    [Standing::Ready, Standing::InHand, Standing::Delayed, Standing::Dead, Standing::Parked]
        .map(|standing| count(broker, standing))
}

/// Says that the chat lane's counts become these.
pub(in crate::broker) async fn assert_tally(broker: &dyn Broker, expected: [u64; 5]) {
    let becomes = async {
        while tally(broker) != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(PATIENCE, becomes).await.is_err() {
        assert_eq!(tally(broker), expected);
    }
}

pub(in crate::broker) async fn standing(broker: &dyn Broker, id: &str) -> Option<Standing> {
    broker.find(id).await.unwrap().map(|found| found.standing)
}

/// Says that each of `0..count` is there once.
pub(in crate::broker) fn assert_each_once(mut got: Vec<usize>, count: usize) {
    got.sort_unstable();
    let missing: Vec<usize> = (0..count).filter(|n| got.binary_search(n).is_err()).collect();
    let doubled: Vec<usize> = got.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    assert!(missing.is_empty() && doubled.is_empty() && got.len() == count, "missing {missing:?}, doubled {doubled:?}");
}

pub(in crate::broker) fn is_full(outcome: &Result<Vec<Published>, Error>) -> bool {
    matches!(outcome, Err(Error::Full(_)))
}
