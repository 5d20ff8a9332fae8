//! What lies where, how much may lie there, and for how long.

use std::time::Duration;

use super::{DiskFactory, Factory, Setup, tools::*};
use crate::broker::{Broker, Error, Lane, Publication, Published, Queue, Standing};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

pub(in crate::broker) async fn a_message_is_found_in_each_standing(factory: &dyn DiskFactory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, ["hand", "delayed", "dead", "parked", "acked", "ready"].map(|name| (name, "c"))).await;
    let mut taken = take_many(&*broker, CHAT, 5).await.into_iter();
    let _hand = taken.next().unwrap();
    taken.next().unwrap().retry(HOUR).await.unwrap();
    taken.next().unwrap().bury("why").await.unwrap();
    taken.next().unwrap().park("why").await.unwrap();
    taken.next().unwrap().ack().await.unwrap();
    let expected = [
        ("ready", Some(Standing::Ready)),
        ("delayed", Some(Standing::Delayed)),
        ("dead", Some(Standing::Dead)),
        ("parked", Some(Standing::Parked)),
        ("unheard of", None),
        ("hand", Some(Standing::InHand)),
    ];
    for (name, expected) in expected {
        for id in [format!("e{name}"), format!("m{name}")] {
            assert_eq!(standing(&*broker, &id).await, expected, "{id}");
        }
    }
    // What is acknowledged is gone as soon as that is written.
    while standing(&*broker, "eacked").await.is_some() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let letter = take_one(&*broker, Queue::Dead).await;
    assert_eq!(standing(&*broker, "edead").await, Some(Standing::Dead), "looked at, but not worked on");
    drop(letter);
}

pub(in crate::broker) async fn the_counts_are_true_in_each_standing(factory: &dyn DiskFactory) {
    let broker = factory.open(Setup::default()).await;
    assert_eq!(tally(&*broker), [0; 5]);
    publish(&*broker, (0..10).map(|n| (n, ["a", "b"][n % 2]))).await;
    let events = vec![event("x"), event("y"), Publication { parked: Some("bad".into()), ..event("z") }];
    publish_all(&*broker, events).await;
    assert_eq!(tally(&*broker), [10, 0, 0, 0, 0]);
    let mut taken = take_many(&*broker, CHAT, 8).await.into_iter();
    let mut next = || taken.next().unwrap();
    assert_eq!(tally(&*broker), [2, 8, 0, 0, 0]);
    next().ack().await.unwrap();
    next().retry(HOUR).await.unwrap();
    next().bury("why").await.unwrap();
    next().bury("why").await.unwrap();
    next().park("why").await.unwrap();
    drop(next());
    assert_eq!(tally(&*broker), [3, 2, 1, 2, 1]);
    let mut dead = take_many(&*broker, Queue::Dead, 2).await;
    assert_eq!(tally(&*broker), [3, 2, 1, 2, 1], "a dead letter in hand is a dead letter");
    dead.pop().unwrap().retry(HOUR).await.unwrap();
    assert_eq!(tally(&*broker), [3, 2, 2, 1, 1]);
    drop(dead);
    assert_eq!(tally(&*broker), [3, 2, 2, 1, 1]);
    take_one(&*broker, Queue::Dead).await.park("why").await.unwrap();
    assert_eq!(tally(&*broker), [3, 2, 2, 0, 2]);
    let of_events = |standing| {
        let counts = broker.counts();
        counts.iter().find(|count| count.lane == Lane::Events && count.standing == standing).unwrap().messages
    };
    assert_eq!([Standing::Ready, Standing::Parked].map(of_events), [2, 1]);
    factory.pass(HOUR);
    let woken = take_many(&*broker, CHAT, 5).await;
    assert_eq!(tally(&*broker), [0, 7, 0, 0, 2]);
    drop(woken);
    let before = tally(&*broker);
    drop((taken, broker));
    let broker = factory.open(Setup::default()).await;
    assert_eq!(tally(&*broker), [before[0] + before[1], 0, 0, 0, 2], "counted again at the start");
    let oldest = broker.counts().iter().find(|count| count.standing == Standing::Ready).unwrap().oldest;
    assert_eq!(oldest, Some(job(0, "a").first_seen));
}

pub(in crate::broker) async fn the_counts_become_true_in_each_standing(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    assert_tally(&*broker, [0; 5]).await;
    publish(&*broker, (0..10).map(|n| (n, ["a", "b"][n % 2]))).await;
    publish_all(&*broker, vec![event("x"), event("y")]).await;
    assert_tally(&*broker, [10, 0, 0, 0, 0]).await;
    let mut taken = take_many(&*broker, CHAT, 8).await.into_iter();
    let mut next = || taken.next().unwrap();
    assert_tally(&*broker, [2, 8, 0, 0, 0]).await;
    next().ack().await.unwrap();
    next().retry(HOUR).await.unwrap();
    next().bury("why").await.unwrap();
    next().bury("why").await.unwrap();
    next().park("why").await.unwrap();
    drop(next());
    assert_tally(&*broker, [3, 2, 1, 2, 1]).await;
    let mut dead = take_many(&*broker, Queue::Dead, 2).await;
    assert_tally(&*broker, [3, 2, 1, 2, 1]).await;
    dead.pop().unwrap().retry(HOUR).await.unwrap();
    assert_tally(&*broker, [3, 2, 2, 1, 1]).await;
    drop(dead);
    take_one(&*broker, Queue::Dead).await.park("why").await.unwrap();
    assert_tally(&*broker, [3, 2, 2, 0, 2]).await;
    for lane in [Lane::Chat, Lane::Events] {
        for standing in [Standing::Ready, Standing::InHand, Standing::Delayed, Standing::Dead, Standing::Parked] {
            let of = broker.counts().iter().filter(|it| (it.lane, it.standing) == (lane, standing)).count();
            assert_eq!(of, 1, "{lane:?} {standing:?}");
        }
    }
    drop((taken, broker));
    let broker = factory.open(Setup::default()).await;
    assert_tally(&*broker, [5, 0, 2, 0, 2]).await;
    let of_events = || {
        let counts = broker.counts();
        counts.iter().find(|it| (it.lane, it.standing) == (Lane::Events, Standing::Ready)).unwrap().messages
    };
    assert_eq!(of_events(), 2, "counted in the same round");
}

async fn refuses(broker: &dyn Broker, name: &str) {
    let outcome = broker.publish(vec![chat(name, "c")]).await;
    assert!(is_full(&outcome), "{outcome:?}");
    assert_eq!(broker.publish(Vec::new()).await.unwrap(), [], "nothing always fits");
}

pub(in crate::broker) async fn a_full_queue_refuses_messages_and_recovers(factory: &dyn DiskFactory) {
    let setup = Setup { max_messages: 5, parked_for: DAY, ..Setup::default() };
    let broker = factory.open(setup).await;
    publish(&*broker, (0..3).map(|n| (n, "c"))).await;
    let too_many = broker.publish((3..6).map(|n| chat(n, "c")).collect()).await;
    assert!(matches!(&too_many, Err(Error::Full(limit)) if limit.contains("max_messages")), "{too_many:?}");
    assert!(broker.find("e3").await.unwrap().is_none(), "a batch is stored whole or not at all");
    publish(&*broker, [(3, "c"), (4, "c")]).await;
    refuses(&*broker, "5").await;
    let mut taken = take_many(&*broker, CHAT, 5).await;
    refuses(&*broker, "5").await;
    taken.pop().unwrap().park("why").await.unwrap();
    refuses(&*broker, "5").await;
    taken.pop().unwrap().ack().await.unwrap();
    publish(&*broker, [(5, "c")]).await;
    refuses(&*broker, "6").await;
    drop((taken, broker));
    let broker = factory.open(setup).await;
    refuses(&*broker, "6").await;
    factory.pass(2 * DAY);
    broker.tidy().await.unwrap();
    publish(&*broker, [(6, "c")]).await;
    refuses(&*broker, "7").await;
}

pub(in crate::broker) async fn a_queue_full_of_bytes_refuses_and_recovers(factory: &dyn DiskFactory) {
    let large = |n: usize| {
        let mut job = job(n, "c");
        job.kind = crate::domain::job::Kind::Unusable { raw: "x".repeat(10_000) };
        Publication { lane: Lane::Chat, job: std::sync::Arc::new(job), parked: None }
    };
    let setup = Setup { max_bytes: 35_000, ..Setup::default() };
    let broker = factory.open(setup).await;
    publish_all(&*broker, (0..3).map(large).collect()).await;
    let refused = broker.publish(vec![large(3)]).await;
    assert!(matches!(&refused, Err(Error::Full(limit)) if limit.contains("max_bytes")), "{refused:?}");
    publish(&*broker, [("small", "c")]).await;
    drop(broker);
    let broker = factory.open(setup).await;
    assert!(is_full(&broker.publish(vec![large(3)]).await), "counted again at the start");
    for round in 3..20 {
        take_one(&*broker, CHAT).await.ack().await.unwrap();
        // The small one went once and left no room for a large one.
        let _ = broker.publish(vec![large(round)]).await.map_err(|error| assert!(matches!(error, Error::Full(_))));
    }
    let mut left = Vec::new();
    while count(&*broker, Standing::Ready) > 0 {
        left.extend(take(&*broker, CHAT, 16).await);
    }
    assert_eq!(left.len(), 3, "as many as fit, after twenty more have gone through");
}

pub(in crate::broker) async fn tidy_forgets_parked_messages_by_their_age(factory: &dyn DiskFactory) {
    let setup = Setup { parked_for: 2 * DAY, ..Setup::default() };
    let broker = factory.open(setup).await;
    publish(&*broker, ["old", "young", "delayed", "dead", "ready"].map(|name| (name, "c"))).await;
    let mut taken = take_many(&*broker, CHAT, 4).await.into_iter();
    taken.next().unwrap().park("why").await.unwrap();
    factory.pass(DAY);
    taken.next().unwrap().park("why").await.unwrap();
    taken.next().unwrap().retry(100 * DAY).await.unwrap();
    taken.next().unwrap().bury("why").await.unwrap();
    broker.tidy().await.unwrap();
    assert_eq!(tally(&*broker), [1, 0, 1, 1, 2], "too early");
    factory.pass(DAY + HOUR);
    broker.tidy().await.unwrap();
    assert_eq!(tally(&*broker), [1, 0, 1, 1, 1]);
    assert_eq!(standing(&*broker, "eold").await, None);
    assert_eq!(standing(&*broker, "eyoung").await, Some(Standing::Parked));
    factory.pass(30 * DAY);
    broker.tidy().await.unwrap();
    assert_eq!(tally(&*broker), [1, 0, 1, 1, 0], "nothing but what is parked is ever thrown away");
}

pub(in crate::broker) async fn what_is_kept_is_found_however_old_it_is(factory: &dyn DiskFactory) {
    let broker = factory.open(Setup { parked_for: 30 * DAY, ..Setup::default() }).await;
    publish(&*broker, ["parked", "delayed", "ready"].map(|name| (name, "c"))).await;
    let mut taken = take_many(&*broker, CHAT, 2).await.into_iter();
    taken.next().unwrap().park("why").await.unwrap();
    taken.next().unwrap().retry(100 * DAY).await.unwrap();
    for _ in 0..20 {
        broker.tidy().await.unwrap();
        factory.pass(DAY);
    }
    for (name, expected) in [("parked", Standing::Parked), ("delayed", Standing::Delayed), ("ready", Standing::Ready)] {
        assert_eq!(standing(&*broker, &format!("e{name}")).await, Some(expected), "{name}, after 20 days");
        let again = broker.publish(vec![chat(name, "c")]).await.unwrap();
        assert_eq!(again, [Published::DuplicateEvent], "{name} lies there still");
    }
}

/// Zendesk repeats a delivery for 15 minutes; operators replay for up to three days.
pub(in crate::broker) async fn ids_are_remembered_longer_than_zendesk_repeats_itself(factory: &dyn DiskFactory) {
    let broker = factory.open(Setup::default()).await;
    broker.tidy().await.unwrap();
    for hour in 0..80 {
        publish(&*broker, [(hour, "c")]).await;
        take_one(&*broker, CHAT).await.ack().await.unwrap();
        factory.pass(HOUR);
        broker.tidy().await.unwrap();
        let oldest = u64::saturating_sub(hour, 70);
        let again = broker.publish(vec![chat(oldest, "c"), chat(hour, "c")]).await.unwrap();
        assert_eq!(again, [Published::DuplicateEvent; 2], "hour {hour}");
    }
    factory.pass(200 * HOUR);
    broker.tidy().await.unwrap();
    factory.pass(200 * HOUR);
    broker.tidy().await.unwrap();
    let again = broker.publish(vec![chat(0, "c")]).await.unwrap();
    assert_eq!(again, [Published::Stored], "forgotten in the end, or the ids would fill the disk");
}
