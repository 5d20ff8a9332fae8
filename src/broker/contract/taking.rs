//! Taking: in order, within the room, fair between conversations, and given up without harm.

use std::{
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use super::{Factory, Setup, tools::*};
use crate::broker::{Broker, Delivery, Error, Lane, Queue};

pub(in crate::broker) async fn a_conversation_comes_in_the_order_of_publication(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    for n in 0..20 {
        publish(&*broker, (0..10).map(|m| (n * 10 + m, ["a", "b", "c"][m % 3]))).await;
    }
    let taken = take_many(&*broker, CHAT, 200).await;
    assert_eq!(numbers(&taken), (0..200).collect::<Vec<_>>());
    assert!(taken.iter().all(|delivery| !delivery.redelivered && delivery.tries == 0 && delivery.replay == 0));
    let first = &taken[0];
    assert_eq!((*first.job).clone(), job(0, "a"), "as it was published");
}

pub(in crate::broker) async fn take_gives_no_more_than_there_is_room_for(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, (0..100).map(|n| (n, "c"))).await;
    let mut held = Vec::new();
    for room in [1, 2, 3, 10] {
        let more = take(&*broker, CHAT, room).await;
        assert!((1..=room).contains(&more.len()));
        held.extend(more);
    }
    drop(held);
    let broker = factory.open(Setup::default()).await;
    let more = take(&*broker, CHAT, 7).await.len();
    assert!((1..=7).contains(&more), "{more}, also of what was stored before");
}

pub(in crate::broker) async fn lanes_are_taken_from_apart(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish_all(&*broker, vec![chat(1, "c"), event(2), chat(3, "c"), event(4)]).await;
    let events = take_many(&*broker, Queue::Events, 2).await;
    assert_eq!(names(&events), ["2", "4"]);
    assert!(events.iter().all(|event| event.lane == Lane::Events));
    assert_eq!(names(&take_many(&*broker, CHAT, 2).await), ["1", "3"]);
    for event in events {
        event.bury("why").await.unwrap();
    }
    let dead = take_many(&*broker, Queue::Dead, 2).await;
    assert!(dead.iter().all(|letter| letter.lane == Lane::Events));
    for letter in dead {
        letter.retry(Duration::ZERO).await.unwrap();
    }
    assert_eq!(names(&take_many(&*broker, Queue::Events, 2).await), ["2", "4"], "back to the lane they came from");
}

/// More than a queue keeps in memory.
fn more_than(window: usize) -> usize {
    window * 5 / 2
}

async fn publish_hot(broker: &dyn Broker, first: usize, many: usize) {
    for batch in (first..first + many).collect::<Vec<_>>().chunks(1_000) {
        publish(broker, batch.iter().map(|n| (n, "hot"))).await;
    }
}

pub(in crate::broker) async fn a_hot_conversation_leaves_room_for_its_neighbours(factory: &dyn Factory) {
    let window = factory.window_min();
    let broker = factory.open(Setup { window, ..Setup::default() }).await;
    publish_hot(&*broker, 0, more_than(window)).await;
    publish(&*broker, [("cool", "cool")]).await;
    let mut held = Vec::new();
    // Nothing is settled meanwhile: the window is all there is.
    while !names(&held).contains(&"cool".to_owned()) {
        assert!(held.len() < window, "the hot conversation has filled the window");
        held.extend(take(&*broker, CHAT, window - held.len()).await);
    }
    publish(&*broker, [("late", "cool")]).await;
    assert_eq!(name(&take_one(&*broker, CHAT).await), "late", "and nobody waits who comes later");
}

pub(in crate::broker) async fn a_hot_conversation_is_delivered_completely_and_in_order(factory: &dyn Factory) {
    let window = factory.window_min();
    let (setup, many) = (Setup { window, ..Setup::default() }, more_than(window));
    for (seed, restart) in [(1_usize, false), (2, true)] {
        let mut broker = factory.open(setup).await;
        let name = |n: usize| seed * 1_000_000 + n;
        publish_hot(&*broker, name(0), many).await;
        if restart {
            broker = factory.open(setup).await;
        }
        let mut held: Vec<Delivery> = Vec::new();
        let mut got = Vec::new();
        while got.len() < many {
            let more = take(&*broker, CHAT, window - held.len()).await;
            got.extend(numbers(&more));
            held.extend(more);
            // Some more come while others are worked off, and not all of those in hand are settled at once.
            for delivery in held.drain(..(held.len() * 2 / 3).max(1)) {
                delivery.ack().await.unwrap();
            }
        }
        assert_eq!(got, (0..many).map(name).collect::<Vec<_>>());
        for delivery in held {
            delivery.ack().await.unwrap();
        }
        is_empty(&*broker, Lane::Chat, &format!("sentinel{seed}")).await;
    }
}

/// Begins to take, polls `polls` times and gives up. What was taken by then is returned.
async fn take_and_give_up(broker: &dyn Broker, queue: Queue, polls: usize) -> Vec<Delivery> {
    let mut taking: std::pin::Pin<Box<dyn Future<Output = Result<Vec<Delivery>, Error>> + Send + '_>> =
        broker.take(queue, 4);
    for _ in 0..polls {
        let polled = poll_fn(|context| Poll::Ready(taking.as_mut().poll(context))).await;
        if let Poll::Ready(taken) = polled {
            return taken.unwrap();
        }
        tokio::task::yield_now().await;
    }
    Vec::new()
}

pub(in crate::broker) async fn a_take_that_is_given_up_loses_nothing(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, (0..600).map(|n| (n, ["a", "b"][n % 2]))).await;
    let broker = {
        drop(broker);
        factory.open(Setup::default()).await
    };
    let mut got = Vec::new();
    let mut published = 600;
    for round in 0..200 {
        if round % 10 == 0 {
            publish(&*broker, (published..published + 5).map(|n| (n, "c"))).await;
            published += 5;
        }
        for delivery in take_and_give_up(&*broker, CHAT, 1 + round % 3).await {
            got.push(name(&delivery).parse().unwrap());
            delivery.ack().await.unwrap();
        }
    }
    let rest = take_many(&*broker, CHAT, published - got.len()).await;
    got.extend(numbers(&rest));
    assert_each_once(got, published);
    drop(rest);
}

pub(in crate::broker) async fn a_take_of_dead_letters_that_is_given_up_loses_nothing(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, (0..20).map(|n| (n, "c"))).await;
    for delivery in take_many(&*broker, CHAT, 20).await {
        delivery.bury("why").await.unwrap();
    }
    drop(broker);
    let broker = factory.open(Setup::default()).await;
    // Given up at the first wait, as a rule: whatever was being read is read again, and what was taken comes back.
    for _ in 0..5 {
        drop(take_and_give_up(&*broker, Queue::Dead, 1).await);
    }
    let rest = take_many(&*broker, Queue::Dead, 20).await;
    assert_each_once(numbers(&rest), 20);
}

pub(in crate::broker) async fn a_take_that_is_given_up_while_delayed_ones_wake_loses_nothing(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    for round in 0..20 {
        publish(&*broker, (0..3).map(|n| (round * 3 + n, "c"))).await;
        for delivery in take_many(&*broker, CHAT, 3).await {
            delivery.retry(Duration::from_millis(3)).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut taken = take_and_give_up(&*broker, CHAT, 1 + round % 2).await;
        taken.extend(take_many(&*broker, CHAT, 3 - taken.len()).await);
        assert_each_once(numbers(&taken).iter().map(|n| n - round * 3).collect(), 3);
        for delivery in taken {
            delivery.ack().await.unwrap();
        }
    }
}

pub(in crate::broker) async fn nothing_is_lost_or_doubled_between_many_publishers_and_a_consumer(
    factory: &dyn Factory,
) {
    const PUBLISHERS: usize = 8;
    const EACH: usize = 400;
    let broker = factory.open(Setup::default()).await;
    let conversations: Vec<String> = (0..7).map(|n| format!("c{n}")).collect();
    let failed = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let (broker, conversations, failed) = (broker.clone(), conversations.clone(), failed.clone());
            tokio::spawn(async move {
                for n in 0..EACH / 4 {
                    let first = publisher * EACH + n * 4;
                    let batch = (first..first + 4).map(|n| chat(n, &conversations[publisher % 7]));
                    failed.fetch_or(broker.publish(batch.collect()).await.is_err(), Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut got: Vec<usize> = Vec::new();
    let mut step = 0;
    while got.len() < PUBLISHERS * EACH {
        for delivery in take(&*broker, CHAT, 64).await {
            step += 1;
            match step % 11 {
                3 => drop(delivery),
                7 => delivery.retry(Duration::from_millis(2)).await.unwrap(),
                _ => {
                    got.push(name(&delivery).parse().unwrap());
                    delivery.ack().await.unwrap();
                }
            }
        }
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    assert!(!failed.load(Ordering::Relaxed));
    assert_each_once(got, PUBLISHERS * EACH);
    assert_tally(&*broker, [0; 5]).await;
    is_empty(&*broker, Lane::Chat, "sentinel").await;
}
