//! Settling: each of the four ways, the fifth that is to do nothing, and all of them over a restart.

use std::time::Duration;

use tokio::time::Instant;

use super::{DiskFactory, Factory, Setup, tools::*};
use crate::{
    broker::{Lane, Queue, Standing},
    domain::trace::TraceContext,
};

const HOUR: Duration = Duration::from_secs(3_600);

pub(in crate::broker) async fn what_is_acknowledged_is_gone_for_good(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, [(1, "c"), (2, "c"), (3, "d")]).await;
    for delivery in take_many(&*broker, CHAT, 3).await {
        delivery.ack().await.unwrap();
    }
    assert_tally(&*broker, [0; 5]).await;
    drop(broker);
    let broker = factory.open(Setup::default()).await;
    assert_tally(&*broker, [0; 5]).await;
    assert!(broker.find("e1").await.unwrap().is_none());
    is_empty(&*broker, Lane::Chat, "sentinel").await;
}

pub(in crate::broker) async fn what_is_to_be_retried_comes_at_its_time_and_not_before(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, [("slow", "c"), ("quick", "c"), ("at once", "c"), ("never", "c")]).await;
    let begun = Instant::now();
    let pauses = [600, 200, 0, 3_600_000].map(Duration::from_millis);
    for (delivery, pause) in take_many(&*broker, CHAT, 4).await.into_iter().zip(pauses) {
        delivery.retry(pause).await.unwrap();
    }
    for (expected, pause) in [("at once", pauses[2]), ("quick", pauses[1]), ("slow", pauses[0])] {
        let delivery = take_one(&*broker, CHAT).await;
        assert_eq!(name(&delivery), expected);
        // The wall clock counts whole milliseconds.
        assert!(begun.elapsed() + Duration::from_millis(2) >= pause, "{expected}: after {:?}", begun.elapsed());
        assert_eq!((delivery.tries, delivery.redelivered, delivery.reason.as_deref()), (0, true, None));
        delivery.ack().await.unwrap();
    }
    assert_tally(&*broker, [0, 0, 1, 0, 0]).await;
}

pub(in crate::broker) async fn what_is_buried_comes_as_a_dead_letter_with_one_more_try(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, [(1, "c")]).await;
    for (tries, why) in [(1, "panic: first"), (2, "panic: second")] {
        take_one(&*broker, CHAT).await.bury(why).await.unwrap();
        assert_tally(&*broker, [0, 0, 0, 1, 0]).await;
        let letter = take_one(&*broker, Queue::Dead).await;
        assert_eq!((letter.tries, letter.reason.as_deref(), letter.redelivered), (tries, Some(why), true));
        letter.retry(Duration::ZERO).await.unwrap();
    }
    take_one(&*broker, CHAT).await.ack().await.unwrap();
    no_letter_is_dead(&*broker).await;
}

pub(in crate::broker) async fn a_dead_letter_that_is_retried_keeps_its_tries_and_its_reason(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, [(1, "c")]).await;
    take_one(&*broker, CHAT).await.bury("time limit").await.unwrap();
    take_one(&*broker, Queue::Dead).await.retry(Duration::from_millis(30)).await.unwrap();
    let again = take_one(&*broker, CHAT).await;
    assert_eq!((again.tries, again.reason.as_deref()), (1, Some("time limit")));
    // Waiting for a service costs no try.
    again.retry(Duration::ZERO).await.unwrap();
    let again = take_one(&*broker, CHAT).await;
    assert_eq!((again.tries, again.reason.as_deref()), (1, Some("time limit")));
}

/// One parked from hand, one from the dead letters.
async fn parked(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, [("from hand", "c"), ("from dead", "c")]).await;
    let mut taken = take_many(&*broker, CHAT, 2).await;
    taken.pop().unwrap().bury("why").await.unwrap();
    taken.pop().unwrap().park("content refused").await.unwrap();
    take_one(&*broker, Queue::Dead).await.park("no tries left").await.unwrap();
}

pub(in crate::broker) async fn what_is_parked_is_never_delivered(factory: &dyn Factory) {
    parked(factory).await;
    for _ in 0..2 {
        let broker = factory.open(Setup::default()).await;
        assert_tally(&*broker, [0, 0, 0, 0, 2]).await;
    }
    let broker = factory.open(Setup::default()).await;
    is_empty(&*broker, Lane::Chat, "sentinel").await;
    no_letter_is_dead(&*broker).await;
}

pub(in crate::broker) async fn what_is_parked_is_found(factory: &dyn DiskFactory) {
    parked(factory).await;
    for _ in 0..2 {
        let broker = factory.open(Setup::default()).await;
        for (id, tries, reason) in [("from hand", 0, "content refused"), ("from dead", 1, "no tries left")] {
            let found = broker.find(&format!("e{id}")).await.unwrap().expect("parked, not gone");
            assert_eq!((found.standing, found.tries, found.reason.as_deref()), (Standing::Parked, tries, Some(reason)));
            assert_eq!(*found.job, job(id, "c"));
        }
    }
}

pub(in crate::broker) async fn what_is_dropped_comes_back_first_and_unspent(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, (0..6).map(|n| (n, "c"))).await;
    drop(take_many(&*broker, CHAT, 4).await);
    let taken = take_many(&*broker, CHAT, 6).await;
    assert_eq!(numbers(&taken), [0, 1, 2, 3, 4, 5]);
    let redelivered: Vec<_> = taken.iter().map(|delivery| delivery.redelivered).collect();
    assert_eq!(redelivered, [true, true, true, true, false, false]);
    assert!(taken.iter().all(|delivery| delivery.tries == 0));
    // Whoever gives back in whatever order: the conversation's order is kept.
    taken.into_iter().rev().for_each(drop);
    assert_eq!(numbers(&take_many(&*broker, CHAT, 6).await), [0, 1, 2, 3, 4, 5]);
    for delivery in take_many(&*broker, CHAT, 6).await {
        delivery.bury("why").await.unwrap();
    }
    drop(take_many(&*broker, Queue::Dead, 6).await);
    let letters = take_many(&*broker, Queue::Dead, 6).await;
    assert_each_once(numbers(&letters), 6);
    assert!(letters.iter().all(|letter| letter.tries == 1 && letter.reason.as_deref() == Some("why")));
}

pub(in crate::broker) async fn what_was_settled_stays_settled_over_a_restart(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, ["acked", "delayed", "dead", "parked", "ready"].map(|name| (name, "c"))).await;
    let mut taken = take_many(&*broker, CHAT, 4).await.into_iter();
    let mut next = || taken.next().unwrap();
    next().ack().await.unwrap();
    next().retry(HOUR).await.unwrap();
    next().bury("why dead").await.unwrap();
    next().park("why parked").await.unwrap();
    drop(broker);
    let broker = factory.open(Setup::default()).await;
    assert_tally(&*broker, [1, 0, 1, 1, 1]).await;
    let letter = take_one(&*broker, Queue::Dead).await;
    assert_eq!((name(&letter).as_str(), letter.tries, letter.reason.as_deref()), ("dead", 1, Some("why dead")));
    assert_eq!(names(&take(&*broker, CHAT, 16).await), ["ready"]);
}

pub(in crate::broker) async fn the_first_attempt_that_failed_is_remembered(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, [("traced", "c")]).await;
    let attempts = ["1", "2"].map(|n| TraceContext::parse(&format!("00-{:032x}-{n:0>16}-01", 7)).unwrap());
    let mut delivery = take_one(&*broker, CHAT).await;
    delivery.attempt = Some(attempts[0]);
    delivery.bury("why").await.unwrap();
    drop(broker);
    let broker = factory.open(Setup::default()).await;
    take_one(&*broker, Queue::Dead).await.retry(Duration::ZERO).await.unwrap();
    let mut again = take_one(&*broker, CHAT).await;
    assert_eq!(again.job.first_attempt, Some(attempts[0]));
    again.attempt = Some(attempts[1]);
    again.bury("why").await.unwrap();
    let dead = take_one(&*broker, Queue::Dead).await;
    assert_eq!((dead.job.first_attempt, dead.tries), (Some(attempts[0]), 2), "the first, not the last");
}

pub(in crate::broker) async fn what_was_delayed_is_delivered_once_after_a_restart(factory: &dyn DiskFactory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, (0..10).map(|n| (n, "c"))).await;
    let mut taken = take_many(&*broker, CHAT, 3).await.into_iter();
    taken.next().unwrap().retry(HOUR).await.unwrap();
    taken.next().unwrap().bury("why").await.unwrap();
    drop((taken, broker));
    let broker = factory.open(Setup::default()).await;
    factory.pass(HOUR);
    take_one(&*broker, Queue::Dead).await.retry(Duration::ZERO).await.unwrap();
    let taken = take_many(&*broker, CHAT, 10).await;
    assert_each_once(numbers(&taken), 10);
    publish(&*broker, [(10, "c")]).await;
    let more = take(&*broker, CHAT, 16).await;
    assert_eq!(numbers(&more), [10], "none of those in hand a second time");
    assert_eq!(tally(&*broker), [0, 11, 0, 0, 0]);
}

pub(in crate::broker) async fn what_was_delayed_for_an_hour_comes_behind_what_was_ready(factory: &dyn DiskFactory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, ["delayed", "ready"].map(|name| (name, "c"))).await;
    take_one(&*broker, CHAT).await.retry(HOUR).await.unwrap();
    drop(broker);
    let broker = factory.open(Setup::default()).await;
    assert_eq!(names(&take(&*broker, CHAT, 16).await), ["ready"]);
    factory.pass(HOUR);
    assert_eq!(names(&take_many(&*broker, CHAT, 2).await), ["ready", "delayed"].map(str::to_owned));
}

pub(in crate::broker) async fn what_was_in_hand_is_ready_after_a_restart(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, (0..4).map(|n| (n, "c"))).await;
    let mut held = take_many(&*broker, CHAT, 3).await;
    held.pop().unwrap().bury("why").await.unwrap();
    let letter = take_one(&*broker, Queue::Dead).await;
    drop(broker);
    let broker = factory.open(Setup::default()).await;
    assert_tally(&*broker, [3, 0, 0, 1, 0]).await;
    let again = take_many(&*broker, CHAT, 3).await;
    assert_eq!(numbers(&again), [0, 1, 3]);
    assert!(again[..2].iter().all(|delivery| delivery.redelivered), "somebody may have worked on them");
    assert_eq!(numbers(&take(&*broker, Queue::Dead, 16).await), [2]);
    drop((held, letter));
}

pub(in crate::broker) async fn a_long_reason_is_cut_between_characters(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, [(1, "c")]).await;
    take_one(&*broker, CHAT).await.bury(&format!("x{}", "é".repeat(10_000))).await.unwrap();
    let reason = take_one(&*broker, Queue::Dead).await.reason.clone().unwrap();
    assert!(reason.starts_with("xé") && (100..=1_024).contains(&reason.len()), "{} bytes", reason.len());
}

pub(in crate::broker) async fn what_is_found_has_its_reason_as_it_was_cut(factory: &dyn DiskFactory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, [(1, "c")]).await;
    take_one(&*broker, CHAT).await.bury(&format!("x{}", "é".repeat(10_000))).await.unwrap();
    let reason = take_one(&*broker, Queue::Dead).await.reason.clone();
    assert_eq!(broker.find("e1").await.unwrap().unwrap().reason, reason);
}
