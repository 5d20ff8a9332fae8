//! Publishing: durable, answered in order, known a second time.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
};

use super::{DiskFactory, Factory, Setup, tools::*};
use crate::{
    broker::{Lane, Publication, Published, Standing},
    domain::ids::{EventId, MessageId},
};

/// Another event about the same message.
fn echo(name: &str, of: &str) -> Publication {
    let mut again = job(name, "c");
    again.message = MessageId::new(&format!("m{of}")).unwrap();
    Publication { lane: Lane::Chat, job: Arc::new(again), parked: None }
}

pub(in crate::broker) async fn publications_are_answered_in_order(factory: &dyn DiskFactory) {
    let broker = factory.open(Setup::default()).await;
    let batch = vec![chat(1, "c"), chat(1, "c"), echo("2", "1"), chat(3, "d"), chat(1, "c"), chat(4, "c")];
    use Published::{DuplicateEvent, DuplicateMessage, Stored};
    let expected = [Stored, DuplicateEvent, DuplicateMessage, Stored, DuplicateEvent, Stored];
    assert_eq!(broker.publish(batch).await.unwrap(), expected);
    assert_eq!(broker.publish(Vec::new()).await.unwrap(), []);
    assert_eq!(names(&take_many(&*broker, CHAT, 3).await), ["1", "3", "4"]);
}

pub(in crate::broker) async fn a_duplicate_is_known_across_batches_lanes_and_restarts(factory: &dyn DiskFactory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, [("waits", "c"), ("done", "d")]).await;
    publish_all(&*broker, vec![Publication { parked: Some("bad".into()), ..event("bad") }]).await;
    let done = take_many(&*broker, CHAT, 2).await.pop().unwrap();
    assert_eq!(name(&done), "done");
    done.ack().await.unwrap();
    let again = || vec![chat("waits", "c"), chat("done", "d"), event("done"), echo("other", "done"), event("bad")];
    use Published::{DuplicateEvent, DuplicateMessage};
    let known = [DuplicateEvent, DuplicateEvent, DuplicateEvent, DuplicateMessage, DuplicateEvent];
    assert_eq!(broker.publish(again()).await.unwrap(), known, "whatever became of the first");
    drop(broker);
    for _ in 0..2 {
        let broker = factory.open(Setup::default()).await;
        assert_eq!(broker.publish(again()).await.unwrap(), known, "after a restart");
    }
}

pub(in crate::broker) async fn event_ids_and_message_ids_are_told_apart(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    let mut first = job("1", "c");
    let mut second = job("2", "c");
    (first.id, first.message) = (EventId::new("x").unwrap(), MessageId::new("y").unwrap());
    (second.id, second.message) = (EventId::new("y").unwrap(), MessageId::new("x").unwrap());
    let batch = [first, second].map(|job| Publication { lane: Lane::Chat, job: Arc::new(job), parked: None });
    assert_eq!(broker.publish(batch.to_vec()).await.unwrap(), [Published::Stored; 2]);
    assert_eq!(take_many(&*broker, CHAT, 2).await.len(), 2);
}

/// A webhook whose sender hangs up has been published all the same, or not at all; Zendesk will ask again.
pub(in crate::broker) async fn a_batch_is_stored_whole_although_its_publisher_gives_up(factory: &dyn DiskFactory) {
    let broker = factory.open(Setup::default()).await;
    for n in 0..50 {
        let batch = vec![chat(2 * n, "c"), chat(2 * n + 1, "c")];
        let mut publishing = Box::pin(broker.publish(batch.clone()));
        poll_fn(|context| {
            let _ = publishing.as_mut().poll(context);
            Poll::Ready(())
        })
        .await;
        drop(publishing);
        let outcomes = broker.publish(batch).await.unwrap();
        assert!(outcomes[0] == outcomes[1], "half a batch: {outcomes:?}");
    }
    let taken = take_many(&*broker, CHAT, 100).await;
    assert_eq!(numbers(&taken), (0..100).collect::<Vec<_>>());
}

pub(in crate::broker) async fn an_unusable_event_goes_straight_to_the_parked_letters(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish_all(
        &*broker,
        vec![Publication { parked: Some("malformed".into()), ..chat("bad", "c") }, chat("good", "c")],
    )
    .await;
    assert_tally(&*broker, [1, 0, 0, 0, 1]).await;
    let good = take(&*broker, CHAT, 16).await;
    assert_eq!(names(&good), ["good"]);
    no_letter_is_dead(&*broker).await;
}

pub(in crate::broker) async fn an_unusable_event_is_found_with_its_reason(factory: &dyn DiskFactory) {
    let broker = factory.open(Setup::default()).await;
    publish_all(&*broker, vec![Publication { parked: Some("malformed".into()), ..chat("bad", "c") }]).await;
    let found = broker.find("ebad").await.unwrap().expect("kept");
    assert_eq!((found.standing, found.reason.as_deref(), found.tries), (Standing::Parked, Some("malformed"), 0));
}
