//! Operators look at letters, replay and discard them; whatever happens meanwhile, none is lost.

use std::{collections::HashSet, future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use futures_util::TryStreamExt;

use super::{Factory, Setup, tools::*};
use crate::{
    broker::{
        Broker, Delivery, Error, Lane, Letter, Letters, Publication, Queue, Standing,
        letters::{Handful, Look, Page, Which, pages},
    },
    domain::{ids::ConversationId, job::Kind, time::Timestamp},
};

const HOUR: Duration = Duration::from_secs(3_600);

/// All letters that are meant, page by page.
async fn listed(letters: Arc<dyn Letters>, which: &Which, limit: usize) -> Vec<Letter> {
    let (mut all, mut pages) = (Vec::new(), pin!(pages(letters, which.clone(), limit, Look::Remembered)));
    while let Some(page) = pages.try_next().await.unwrap() {
        assert!(page.letters.len() <= limit && !page.beyond, "{}", page.letters.len());
        all.extend(page.letters);
    }
    all
}

fn named(letters: &[Letter]) -> Vec<&str> {
    letters.iter().map(|letter| &letter.id[1..]).collect()
}

async fn park(broker: &dyn Broker, message: &str, conversation: &str, cause: &str) {
    publish(broker, [(message, conversation)]).await;
    take_one(broker, CHAT).await.park(cause).await.unwrap();
}

/// Two dead letters and three parked ones, one of them of the events lane.
async fn some_of_each(broker: &dyn Broker) {
    publish(broker, [("dead 1", "c"), ("dead 2", "d")]).await;
    for (delivery, cause) in take_many(broker, CHAT, 2).await.into_iter().zip(["panic: one", "time limit"]) {
        delivery.bury(cause).await.unwrap();
    }
    park(broker, "parked 1", "c", "panic: two; tried 4 times").await;
    park(broker, "parked 2", "d", "content refused").await;
    publish_all(broker, vec![event("parked 3")]).await;
    take_one(broker, Queue::Events).await.park("content refused").await.unwrap();
    // What is no letter is not seen among them.
    publish(broker, [("delayed", "c"), ("ready", "c")]).await;
    take_one(broker, CHAT).await.retry(HOUR).await.unwrap();
}

pub(in crate::broker) async fn letters_are_listed_by_standing_cause_lane_and_conversation(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    let letters = factory.letters();
    assert!(listed(letters.clone(), &Which::default(), 10).await.is_empty());
    some_of_each(&*broker).await;
    let all = ["dead 1", "dead 2", "parked 1", "parked 2", "parked 3"];
    let any = Which::default;
    let cause = |cause: &str| Some(cause.to_owned());
    let cases = [
        (any(), &[0, 1, 2, 3, 4][..]),
        (Which { standing: Some(Standing::Dead), ..any() }, &[0, 1]),
        (Which { standing: Some(Standing::Parked), ..any() }, &[2, 3, 4]),
        (Which { cause: cause("panic"), ..any() }, &[0, 2]),
        (Which { cause: cause("content refused"), ..any() }, &[3, 4]),
        (Which { cause: cause("nothing of that kind"), ..any() }, &[]),
        (Which { lane: Some(Lane::Events), ..any() }, &[4]),
        (Which { lane: Some(Lane::Chat), cause: cause("content_refused"), ..any() }, &[3]),
        (Which { conversation: Some(ConversationId::new("c").unwrap()), ..any() }, &[0, 2]),
    ];
    for (which, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|n| all[*n]).collect();
        for limit in [1, 2, 100] {
            assert_eq!(named(&listed(letters.clone(), &which, limit).await), expected, "{which:?} by {limit}");
        }
    }
    for nonsense in ["", "x", "parked", "9.1.1.1", "parked.x.y"] {
        let page = Page { after: Some(nonsense.into()), limit: 1, look: Look::Remembered };
        assert!(matches!(letters.list(&any(), &page).await, Err(Error::NoSuchPlace)), "{nonsense:?}");
    }
}

pub(in crate::broker) async fn a_list_goes_on_although_its_letters_go(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    let letters = factory.letters();
    for n in 0..6 {
        park(&*broker, &n.to_string(), "c", "why").await;
        // Parked at different times, as far as a clock tells.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let first = letters.list(&Which::default(), &Page { after: None, limit: 3, look: Look::Remembered }).await.unwrap();
    assert_eq!(named(&first.letters), ["0", "1", "2"]);
    for gone in ["e0", "e2"] {
        letters.hold(gone).await.unwrap().unwrap().discard().await.unwrap();
    }
    let next =
        letters.list(&Which::default(), &Page { after: first.next, limit: 10, look: Look::Remembered }).await.unwrap();
    assert_eq!((named(&next.letters), next.next), (vec!["3", "4", "5"], None));
}

pub(in crate::broker) async fn a_letter_is_shown_by_either_id_with_all_that_is_known(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    publish(&*broker, [("1", "c"), ("2", "c")]).await;
    drop(take_many(&*broker, CHAT, 2).await);
    take_one(&*broker, CHAT).await.bury("panic: at first").await.unwrap();
    take_one(&*broker, Queue::Dead).await.park("panic: at last").await.unwrap();
    for restarted in [false, true] {
        if restarted {
            factory.open(Setup::default()).await;
        }
        let letters = factory.letters();
        for id in ["e1", "m1"] {
            let letter = letters.letter(id).await.unwrap().expect("it lies there");
            assert_eq!(**letter.job().unwrap(), job("1", "c"));
            assert_eq!((letter.id.as_str(), letter.tries, letter.replay), ("e1", 1, 0));
            assert_eq!((letter.standing, letter.lane), (Standing::Parked, Some(Lane::Chat)));
            assert_eq!((letter.reason(), letter.cause()), ("panic: at last", "panic"));
            assert!(letter.parked_at.is_some_and(|at| at.0 > 0) && letter.can_be_replayed());
        }
        for no_letter in ["e2", "m2", "e3", ""] {
            assert!(letters.letter(no_letter).await.unwrap().is_none(), "{no_letter:?}");
            assert!(letters.hold(no_letter).await.unwrap().is_none(), "{no_letter:?}");
        }
    }
}

pub(in crate::broker) async fn who_looks_leaves_all_where_it_lay(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    let letters = factory.letters();
    some_of_each(&*broker).await;
    for id in ["edead 2", "eparked 2"] {
        letters.letter(id).await.unwrap().unwrap();
        drop(letters.hold(id).await.unwrap().unwrap());
    }
    listed(letters.clone(), &Which::default(), 2).await;
    assert_tally(&*broker, [1, 0, 1, 2, 2 + events_parked(&*broker)]).await;
    let dead = take_many(&*broker, Queue::Dead, 2).await;
    assert_eq!(names(&dead), ["dead 1", "dead 2"]);
    assert!(dead.iter().all(|letter| letter.tries == 1));
}

/// RabbitMQ counts the parked letters of both lanes under one.
fn events_parked(broker: &dyn Broker) -> u64 {
    let of_events = |count: &&crate::broker::Count| count.lane == Lane::Events && count.standing == Standing::Parked;
    1 - broker.counts().iter().filter(of_events).map(|count| count.messages).sum::<u64>()
}

fn life(delivery: &Delivery) -> (String, u32, u32, Option<&str>, bool) {
    (name(delivery), delivery.replay, delivery.tries, delivery.reason.as_deref(), delivery.job.replayed.is_some())
}

pub(in crate::broker) async fn what_is_replayed_begins_a_new_life(factory: &dyn Factory) {
    let mut broker = factory.open(Setup::default()).await;
    some_of_each(&*broker).await;
    take_one(&*broker, CHAT).await.ack().await.unwrap();
    for id in ["edead 1", "mparked 1"] {
        factory.letters().hold(id).await.unwrap().unwrap().replay().await.unwrap();
        assert!(factory.letters().letter(id).await.unwrap().is_none());
    }
    for restarted in [false, true] {
        if restarted {
            broker = factory.open(Setup::default()).await;
        }
        let again = take_many(&*broker, CHAT, 2).await;
        let mut lives: Vec<_> = again.iter().map(life).collect();
        lives.sort_unstable();
        assert_eq!(lives, ["dead 1", "parked 1"].map(|name| (name.to_owned(), 1, 0, None, true)));
        assert!(again.iter().all(|delivery| delivery.redelivered), "the ledger is asked");
    }
    // It can fail again, and live once more.
    let again = take_many(&*broker, CHAT, 2).await.pop().unwrap();
    let id = again.job.id.to_string();
    again.park("once more").await.unwrap();
    let letter = factory.letters().letter(&id).await.unwrap().unwrap();
    assert_eq!((letter.replay, letter.tries, letter.reason()), (1, 0, "once more"));
    factory.letters().hold(&id).await.unwrap().unwrap().replay().await.unwrap();
    let lives: Vec<_> = take_many(&*broker, CHAT, 2).await.iter().map(|delivery| delivery.replay).collect();
    assert!(lives.contains(&2), "{lives:?}");
    factory.letters().hold("eparked 3").await.unwrap().unwrap().replay().await.unwrap();
    assert_eq!(life(&take_one(&*broker, Queue::Events).await).0, "parked 3", "into its own lane");
}

pub(in crate::broker) async fn what_is_discarded_is_gone(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    some_of_each(&*broker).await;
    for id in ["edead 1", "eparked 2"] {
        factory.letters().hold(id).await.unwrap().unwrap().discard().await.unwrap();
    }
    for restarted in [false, true] {
        if restarted {
            factory.open(Setup::default()).await;
        }
        let left = listed(factory.letters(), &Which::default(), 10).await;
        assert_eq!(named(&left), ["dead 2", "parked 1", "parked 3"]);
    }
}

pub(in crate::broker) async fn what_could_not_be_understood_is_not_replayed(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    let mut raw = job("raw", "c");
    raw.kind = Kind::Unusable { raw: "{}".into() };
    publish_all(&*broker, vec![Publication { lane: Lane::Chat, job: Arc::new(raw), parked: Some("malformed".into()) }])
        .await;
    let letters = factory.letters();
    let held = letters.hold("eraw").await.unwrap().unwrap();
    assert!(matches!(held.replay().await, Err(Error::Unreplayable)));
    assert_eq!(letters.letter("eraw").await.unwrap().unwrap().cause(), "rejected", "it stays");
    letters.hold("eraw").await.unwrap().unwrap().discard().await.unwrap();
    assert!(letters.letter("eraw").await.unwrap().is_none());
}

/// The numbers of those that are in hand.
fn in_hand(handful: &Handful) -> Vec<&str> {
    handful.held.iter().map(|held| &held.letter.id[1..]).collect()
}

pub(in crate::broker) async fn many_letters_are_taken_in_hand_and_each_goes_its_own_way(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    let letters = factory.letters();
    for n in 0..6 {
        park(&*broker, &n.to_string(), "c", if n == 2 { "panic: one" } else { "content refused" }).await;
    }
    let (all, none) = (Which { standing: Some(Standing::Parked), ..Which::default() }, HashSet::new());
    let some = letters.hold_some(&all, &none, 0, 3).await.unwrap();
    assert_eq!((in_hand(&some), some.beyond), (vec!["0", "1", "2"], false));
    let mut held = some.held.into_iter();
    held.next().unwrap().replay().await.unwrap();
    held.next().unwrap().discard().await.unwrap();
    // One that is let go of lies where it lay.
    drop(held);
    let refused = Which { cause: Some("content_refused".into()), ..all.clone() };
    let except = HashSet::from(["e3".to_owned()]);
    let found = async |which: &Which, except: &HashSet<String>| loop {
        let some = letters.hold_some(which, except, except.len(), 100).await.unwrap();
        // What was let go of comes back in its own time.
        if !some.elsewhere {
            break in_hand(&some).into_iter().map(str::to_owned).collect::<Vec<_>>();
        }
    };
    assert_eq!(found(&refused, &except).await, ["4", "5"]);
    assert_eq!(found(&all, &none).await, ["2", "3", "4", "5"]);
    let before = Which { until: Some(Timestamp(0)), ..all };
    assert!(found(&before, &none).await.is_empty(), "parked later");
    let reborn = take_one(&*broker, CHAT).await;
    assert_eq!((name(&reborn), reborn.replay), ("0".to_owned(), 1));
    reborn.ack().await.unwrap();
}

/// Polls so often, and gives up then.
async fn give_up_after<T>(polls: usize, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut polled) = (std::pin::pin!(work), 0);
    poll_fn(|context| {
        if polled == polls {
            return Poll::Ready(None);
        }
        polled += 1;
        work.as_mut().poll(context).map(Some)
    })
    .await
}

/// Says that each of these is parked as it was, or ready in its next life.
pub(in crate::broker) async fn assert_none_is_lost(factory: &dyn Factory, many: usize) {
    let broker = factory.open(Setup::default()).await;
    let parked = listed(factory.letters(), &Which::default(), 100).await;
    assert!(parked.iter().all(|letter| letter.replay == 0 && letter.reason() == "why"));
    publish(&*broker, [("sentinel", "sentinel")]).await;
    let mut replayed = Vec::new();
    while !names(&replayed).contains(&"sentinel".to_owned()) {
        replayed.extend(take(&*broker, CHAT, 64).await);
    }
    assert!(replayed.iter().all(|delivery| delivery.replay == 1 || name(delivery) == "sentinel"));
    let replayed = names(&replayed);
    let is_safe = |n: &String| replayed.contains(n) || named(&parked).contains(&n.as_str());
    let lost: Vec<String> = (0..many).map(|n| n.to_string()).filter(|n| !is_safe(n)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}; parked {}, replayed {}", parked.len(), replayed.len());
    assert!(parked.len() < many, "none was replayed");
}

pub(in crate::broker) async fn a_replay_that_is_given_up_loses_nothing(factory: &dyn Factory) {
    const POLLS: usize = 24;
    let broker = factory.open(Setup::default()).await;
    let letters = factory.letters();
    for n in 0..POLLS {
        park(&*broker, &n.to_string(), "c", "why").await;
    }
    for n in 0..POLLS {
        // The last ones come to their end.
        let replay = async { letters.hold(&format!("e{n}")).await?.unwrap().replay().await };
        give_up_after(if n + 2 < POLLS { n } else { usize::MAX }, replay).await;
    }
    assert_none_is_lost(factory, POLLS).await;
}

pub(in crate::broker) async fn a_list_that_is_given_up_loses_nothing(factory: &dyn Factory) {
    const MANY: usize = 10;
    let broker = factory.open(Setup::default()).await;
    let letters = factory.letters();
    for n in 0..MANY {
        park(&*broker, &n.to_string(), "c", "why").await;
    }
    for polls in 0..30 {
        let page = Page { after: None, limit: 100, look: Look::Remembered };
        if let Some(all) = give_up_after(polls, letters.list(&Which::default(), &page)).await {
            assert_eq!(all.unwrap().letters.len(), MANY, "all are back before the next one looks");
        }
        drop(give_up_after(polls, letters.hold("e7")).await);
    }
    let all = listed(letters.clone(), &Which::default(), 100).await;
    assert_eq!(named(&all), (0..MANY).map(|n| n.to_string()).collect::<Vec<_>>(), "in their order");
}

pub(in crate::broker) async fn a_node_that_ends_during_replays_loses_nothing(factory: &dyn Factory) {
    const MANY: usize = 12;
    let broker = factory.open(Setup::default()).await;
    for n in 0..MANY {
        park(&*broker, &n.to_string(), "c", "why").await;
    }
    letters_end(factory, 0, 0).await;
    for n in 1..MANY {
        letters_end(factory, n, n).await;
    }
    assert_none_is_lost(factory, MANY).await;
}

/// Begins to replay one, and ends the broker under it when something of it has been done; the first is left alone.
async fn letters_end(factory: &dyn Factory, n: usize, yields: usize) {
    let held = factory.letters().hold(&format!("e{n}")).await.unwrap().expect("it lies there");
    let replaying = tokio::spawn(held.replay());
    if n == 0 {
        return replaying.await.unwrap().unwrap();
    }
    for _ in 0..yields * yields {
        tokio::task::yield_now().await;
    }
    factory.open(Setup::default()).await;
    // Whatever it says, the letter is somewhere.
    let _ = replaying.await;
}

pub(in crate::broker) async fn an_imported_letter_lies_here_as_it_lay_elsewhere(factory: &dyn Factory) {
    let broker = factory.open(Setup::default()).await;
    let letters = factory.letters();
    let import = || {
        let parked = Some("panic: elsewhere".into());
        let job = crate::domain::job::Job { imported: Some(3), ..job("far", "c") };
        vec![Publication { lane: Lane::Chat, job: Arc::new(job), parked }]
    };
    publish(&*broker, [("far", "c")]).await;
    take_one(&*broker, CHAT).await.ack().await.unwrap();
    publish_all(&*broker, import()).await;
    let far = letters.letter("efar").await.unwrap().expect("although it was here before");
    assert_eq!(
        (far.reason(), far.cause(), far.replay, far.standing),
        ("panic: elsewhere", "panic", 3, Standing::Parked)
    );
    let age = crate::telemetry::Clock::system().now().since(far.parked_at.expect("it is told"));
    assert!(age < HOUR, "parked here, not there: {age:?}");
    letters.hold("efar").await.unwrap().unwrap().replay().await.unwrap();
    let delivery = take_one(&*broker, CHAT).await;
    assert_eq!(delivery.replay, 4, "its lives are counted on");
    delivery.ack().await.unwrap();
    // Once it has gone, it can be brought back again.
    publish_all(&*broker, import()).await;
    letters.hold("efar").await.unwrap().unwrap().discard().await.unwrap();
}
