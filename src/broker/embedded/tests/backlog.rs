//! Backlogs many times longer than what is kept in memory. That they are also read quickly, say the plans.

use super::{
    super::{WINDOW, shelf::READY_MAX},
    place::Place,
};
use crate::broker::{
    Broker, Publication, Queue, Standing,
    contract::{Setup, tools::*},
};

const LONG: usize = 20_000;

/// Most messages lie in the chat lane, every 50th in the other.
fn publication(number: usize) -> Publication {
    if number % 50 == 49 { event(number) } else { chat(number, &format!("c{}", number % 97)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_backlog_is_delivered_completely_and_in_order_also_after_a_restart() {
    const { assert!(LONG > 4 * READY_MAX && LONG > 4 * WINDOW) };
    let place = Place::new();
    let mut broker = place.embedded(Setup::default());
    for first in (0..LONG).step_by(1_000) {
        publish_all(&*broker, (first..first + 1_000).map(publication).collect()).await;
    }
    let mut got: Vec<usize> = Vec::new();
    let mut aside = 0;
    for restarted in [false, true] {
        let until = if restarted { LONG - LONG / 50 } else { LONG / 2 };
        while got.len() < until {
            for delivery in take(&*broker, CHAT, WINDOW.min(until - got.len())).await {
                got.push(name(&delivery).parse().unwrap());
                // What is set aside lies in between and is stepped over.
                if got.len().is_multiple_of(3) {
                    aside += 1;
                    delivery.park("why").await.unwrap();
                } else {
                    delivery.ack().await.unwrap();
                }
            }
        }
        if !restarted {
            broker = place.embedded(Setup::default());
        }
    }
    let (chats, events): (Vec<usize>, Vec<usize>) = (0..LONG).partition(|number| number % 50 != 49);
    assert_eq!(got, chats);
    assert_eq!(numbers(&take_many(&*broker, Queue::Events, events.len()).await), events);
    assert_eq!([Standing::Ready, Standing::Parked].map(|standing| count(&*broker, standing)), [0, aside]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_of_a_backlog_is_known_wherever_it_lies() {
    let aged = |number: usize| {
        let mut job = job(number, "c");
        job.first_seen = crate::domain::time::Timestamp(1_000 + number as i64);
        Publication { job: std::sync::Arc::new(job), ..chat(number, "c") }
    };
    let place = Place::new();
    let mut broker = place.embedded(Setup::default());
    let oldest = |broker: &dyn Broker| {
        let ready = broker.counts().into_iter().find(|it| it.lane == crate::broker::Lane::Chat);
        ready.and_then(|count| count.oldest).map(|at| at.0 - 1_000)
    };
    assert_eq!(oldest(&*broker), None);
    publish_all(&*broker, (0..10).map(aged).collect()).await;
    assert_eq!(oldest(&*broker), Some(0), "waiting");
    let mut held = take_many(&*broker, CHAT, 4).await;
    held.remove(0).ack().await.unwrap();
    assert_eq!(oldest(&*broker), Some(1), "in hand");
    drop(held);
    assert_eq!(oldest(&*broker), Some(1), "given back");
    broker = place.embedded(Setup::default());
    assert_eq!(oldest(&*broker), Some(1), "on the disk alone");
    for delivery in take_many(&*broker, CHAT, 9).await {
        delivery.ack().await.unwrap();
    }
    assert_eq!(oldest(&*broker), None);
}
