//! A customer is forgotten: what lies here of theirs is taken in hand, wherever it stands, and nothing else is touched.

use std::{sync::Arc, time::Duration};

use super::{DiskFactory, Factory, Setup, tools::*};
use crate::{
    broker::{Broker, Delivery, Lane, Publication, Published, Queue, Standing, Whose},
    domain::{
        ids::{ConversationId, UserId},
        job::Kind,
    },
};

const HOUR: Duration = Duration::from_secs(3_600);

/// The removed customer, with the conversations known to be theirs.
fn whose(conversations: &[&str]) -> Whose {
    let conversations = conversations.iter().map(|id| ConversationId::new(id).unwrap()).collect();
    Whose { user: UserId::new("gone").unwrap(), conversations }
}

/// A message that names who wrote it.
fn by(user: &str, name: &str, conversation: &str) -> Publication {
    let mut job = job(name, conversation);
    let user = Some(UserId::new(user).unwrap());
    job.kind = Kind::Message { text: format!("text of {name}"), user, image: None };
    Publication { lane: Lane::Chat, job: Arc::new(job), parked: None }
}

fn sorted(deliveries: &[Delivery]) -> Vec<String> {
    let mut names = names(deliveries);
    names.sort_unstable();
    names
}

/// Publishes messages of one conversation and leaves one in each standing: `<prefix>-ready`, `-hand` and so on. What
/// is in hand is returned.
async fn in_each_standing(broker: &dyn Broker, prefix: &str, conversation: &str) -> Delivery {
    let names = ["delayed", "dead", "parked", "hand", "ready"].map(|name| format!("{prefix}-{name}"));
    publish(broker, names.iter().map(|name| (name.as_str(), conversation))).await;
    let mut taken = take_many(broker, CHAT, 4).await.into_iter();
    let mut next = || taken.next().unwrap();
    next().retry(HOUR).await.unwrap();
    next().bury("why").await.unwrap();
    next().park("why").await.unwrap();
    next()
}

/// As it holds for a broker that finds things only by and by.
pub(in crate::broker) async fn what_lies_here_of_a_customer_is_removed_and_stays_if_it_is_given_back(
    factory: &dyn Factory,
) {
    let broker = factory.open(Setup::default()).await;
    let in_hand = in_each_standing(&*broker, "gone", "c").await;
    let neighbour = in_each_standing_but_ready(&*broker, "stays", "d").await;
    assert_tally(&*broker, [1, 2, 2, 2, 2]).await;
    let theirs = ["dead", "delayed", "parked", "ready"].map(|name| format!("gone-{name}"));
    for _ in 0..2 {
        let found = broker.forget(&whose(&["c"])).await.unwrap();
        assert_eq!(
            (sorted(&found.deliveries), found.in_hand),
            (theirs.to_vec(), 1),
            "given back, they are found again"
        );
        let reason = |of: &str| found.deliveries.iter().find(|it| name(it) == of).and_then(|it| it.reason.clone());
        assert_eq!((reason("gone-parked").as_deref(), reason("gone-ready")), (Some("why"), None));
    }
    for delivery in broker.forget(&whose(&["c"])).await.unwrap().deliveries {
        delivery.ack().await.unwrap();
    }
    assert_tally(&*broker, [0, 2, 1, 1, 1]).await;
    drop((in_hand, neighbour));
    let broker = factory.open(Setup::default()).await;
    assert_tally(&*broker, [2, 0, 1, 1, 1]).await;
    assert_eq!(sorted(&take_many(&*broker, CHAT, 2).await), ["gone-hand", "stays-hand"]);
    assert_eq!(names(&take(&*broker, Queue::Dead, 16).await), ["stays-dead"]);
}

/// The same without one that waits.
async fn in_each_standing_but_ready(broker: &dyn Broker, prefix: &str, conversation: &str) -> Delivery {
    let names = ["delayed", "dead", "parked", "hand"].map(|name| format!("{prefix}-{name}"));
    publish(broker, names.iter().map(|name| (name.as_str(), conversation))).await;
    let mut taken = take_many(broker, CHAT, 5).await.into_iter();
    let ready = taken.next().unwrap();
    let mut next = || taken.next().unwrap();
    next().retry(HOUR).await.unwrap();
    next().bury("why").await.unwrap();
    next().park("why").await.unwrap();
    drop(ready);
    next()
}

pub(in crate::broker) async fn what_lies_of_a_conversation_is_removed_in_each_standing(factory: &dyn DiskFactory) {
    let broker = factory.open(Setup::default()).await;
    // Of the neighbour everything but one is still to be taken when the other is removed.
    let in_hand = in_each_standing(&*broker, "gone", "c").await;
    drop(take_one(&*broker, CHAT).await);
    let ready = take_one(&*broker, CHAT).await;
    let neighbour = in_each_standing(&*broker, "stays", "d").await;
    drop(ready);
    let removed = broker.forget(&whose(&["c"])).await.unwrap().deliveries;
    assert_eq!(sorted(&removed), ["dead", "delayed", "parked", "ready"].map(|name| format!("gone-{name}")));
    let reasons = |of: &str| removed.iter().find(|it| name(it) == of).and_then(|it| it.reason.clone());
    assert_eq!((reasons("gone-parked").as_deref(), reasons("gone-ready")), (Some("why"), None));
    for delivery in removed {
        delivery.ack().await.unwrap();
    }
    assert_eq!(tally(&*broker), [1, 2, 1, 1, 1], "its neighbour's, and what is in hand");
    in_hand.ack().await.unwrap();
    neighbour.ack().await.unwrap();
    // What is acknowledged is gone as soon as that is written.
    while standing(&*broker, "estays-hand").await.is_some() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for restarted in [false, true] {
        let broker = if restarted { factory.open(Setup::default()).await } else { broker.clone() };
        // Written behind the acknowledgements, which nobody waits for.
        assert_eq!(broker.publish(vec![chat("gone-parked", "c")]).await.unwrap(), [Published::DuplicateEvent]);
        for name in ["ready", "hand", "delayed", "dead", "parked"] {
            assert_eq!(standing(&*broker, &format!("egone-{name}")).await, None, "{name}");
        }
        assert_eq!(tally(&*broker), [1, 0, 1, 1, 1]);
    }
    let broker = factory.open(Setup::default()).await;
    factory.pass(HOUR);
    assert_eq!(sorted(&take_many(&*broker, CHAT, 2).await), ["stays-delayed", "stays-ready"]);
    assert_eq!(names(&take(&*broker, Queue::Dead, 16).await), ["stays-dead"]);
}

pub(in crate::broker) async fn what_a_customer_wrote_is_removed_from_conversations_not_known_as_theirs(
    factory: &dyn DiskFactory,
) {
    let broker = factory.open(Setup::default()).await;
    let raw = |user: &str| format!("{{\"user\":{{\"id\":\"{user}\"}}, \"text\":\"unheard of\"}}");
    let unusable = |name: &str, user: &str| {
        let mut job = job(name, &format!("unusable:{name}"));
        job.kind = Kind::Unusable { raw: raw(user) };
        Publication { lane: Lane::Events, job: Arc::new(job), parked: Some("malformed".into()) }
    };
    let batch = vec![
        by("gone", "1", "c"),
        by("stays", "2", "c"),
        by("gone too", "3", "d"),
        by("gone", "4", "e"),
        unusable("5", "gone"),
        unusable("6", "gone too"),
    ];
    publish_all(&*broker, batch).await;
    let removed = broker.forget(&whose(&[])).await.unwrap().deliveries;
    assert_eq!(sorted(&removed), ["1", "4", "5"]);
    for delivery in removed {
        delivery.ack().await.unwrap();
    }
    assert_eq!(names(&take_many(&*broker, CHAT, 2).await), ["2", "3"]);
    assert!(broker.forget(&whose(&[])).await.unwrap().deliveries.is_empty());
    assert_eq!(standing(&*broker, "e6").await, Some(Standing::Parked));
}

pub(in crate::broker) async fn what_was_to_be_removed_and_is_given_back_stands_where_it_stood(
    factory: &dyn DiskFactory,
) {
    let broker = factory.open(Setup::default()).await;
    let in_hand = in_each_standing(&*broker, "m", "c").await;
    let before = tally(&*broker);
    let removed = broker.forget(&whose(&["c"])).await.unwrap().deliveries;
    assert_eq!(removed.len(), 4);
    let again = broker.forget(&whose(&["c"])).await.unwrap();
    assert!(again.deliveries.is_empty() && again.in_hand > 0, "somebody has them in hand");
    publish(&*broker, [("next", "c")]).await;
    let next = take(&*broker, CHAT, 16).await;
    assert_eq!(names(&next), ["next"], "nobody is given what is withheld");
    // The time of the delayed one comes while it is withheld.
    factory.pass(HOUR);
    for queue in [CHAT, Queue::Dead] {
        let taken = tokio::time::timeout(Duration::from_millis(100), broker.take(queue, 16)).await;
        assert!(taken.is_err(), "{taken:?}");
    }
    drop((removed, next));
    assert_eq!(tally(&*broker)[3..], before[3..]);
    assert_eq!(names(&take_many(&*broker, CHAT, 3).await), ["m-delayed", "m-ready", "next"]);
    assert_eq!(names(&take(&*broker, Queue::Dead, 16).await), ["m-dead"]);
    assert_eq!(standing(&*broker, "em-parked").await, Some(Standing::Parked));
    in_hand.ack().await.unwrap();
    drop(broker);
    let broker = factory.open(Setup::default()).await;
    drop(broker.forget(&whose(&["c"])).await.unwrap().deliveries);
    drop(broker);
    let broker = factory.open(Setup::default()).await;
    assert_eq!(
        broker.forget(&whose(&["c"])).await.unwrap().deliveries.len(),
        5,
        "nothing has gone that was not acknowledged"
    );
}

/// Rows that are not in memory, while others come and go.
pub(in crate::broker) async fn a_customer_is_removed_from_a_long_backlog_that_is_worked_off_meanwhile(
    factory: &dyn DiskFactory,
) {
    const MANY: usize = 5_000;
    let broker = factory.open(Setup::default()).await;
    for first in (0..MANY).step_by(1_000) {
        publish(&*broker, (first..first + 1_000).map(|n| (n, ["a", "b", "c"][n % 3]))).await;
    }
    let (mut worked, mut removed) = (Vec::new(), Vec::new());
    for round in 0.. {
        if round % 3 == 1 {
            for delivery in broker.forget(&whose(&["c"])).await.unwrap().deliveries {
                removed.push(name(&delivery).parse().unwrap());
                delivery.ack().await.unwrap();
            }
        }
        let left: u64 = tally(&*broker)[0];
        if left == 0 {
            break;
        }
        for delivery in take(&*broker, CHAT, 64).await {
            worked.push(name(&delivery).parse().unwrap());
            delivery.ack().await.unwrap();
        }
    }
    assert!(removed.len() > 1_000 && removed.iter().all(|n: &usize| n % 3 == 2), "{} removed", removed.len());
    let others: Vec<usize> = worked.iter().copied().filter(|n| n % 3 != 2).collect();
    assert!(others.is_sorted());
    assert_each_once([worked, removed].concat(), MANY);
    assert_eq!(tally(&*broker), [0; 5]);
    is_empty(&*broker, Lane::Chat, "sentinel").await;
}
