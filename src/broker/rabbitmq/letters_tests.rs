//! What is RabbitMQ's own about letters: messages that are none of ours, a replay cut in two, letters that have become
//! too old, and what could not be routed.

use std::{sync::Arc, time::Duration};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use tokio::time::{sleep, timeout};

use super::{
    Rabbitmq,
    contract_tests::Place,
    envelope::Envelope,
    publisher::Outgoing,
    removal,
    spool::{self, Item, Spool},
};
use crate::{
    broker::{
        Broker, Error, Lane, Letters, Queue, SpoolConfig, Standing, Whose,
        contract::{Setup, assert_none_is_lost, tools::*},
        letters::{Content, FOREIGN, Look, Page, Which},
    },
    domain::{ids::UserId, job::Kind, time::Timestamp},
    telemetry::Clock,
};

async fn ids(letters: &Rabbitmq) -> Vec<String> {
    let page = Page { after: None, limit: 100, look: Look::Remembered };
    let listing = letters.list(&Which::default(), &page).await.unwrap();
    listing.letters.into_iter().map(|letter| letter.id).collect()
}

/// Puts bytes somewhere as another program would.
async fn put(broker: &Rabbitmq, exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) {
    let exchange = broker.inner.topology.name(exchange);
    let outgoing = Outgoing { exchange, key: key.into(), properties, body: body.to_vec() };
    broker.inner.publisher.publish(outgoing).await.unwrap();
}

async fn park(broker: &Rabbitmq, message: &str) {
    publish(broker, [(message, "c")]).await;
    take_one(broker, CHAT).await.park("why").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_message_survives_every_look_and_goes_only_when_it_is_discarded() {
    let place = Place::new();
    let broker = place.rabbitmq(Setup::default()).await;
    let named = || BasicProperties::default().with_message_id("theirs/1".into());
    put(&broker, "chat", "00", named(), b"{\"task\": \"old\"}").await;
    put(&broker, "dlx", "parked", BasicProperties::default(), b"\xff\xfe").await;
    park(&broker, "ours").await;
    let seen = ids(&broker).await;
    let nameless = seen.iter().find(|id| id.starts_with("foreign-")).expect("a name is made up").clone();
    assert_eq!(
        (seen.len(), seen.contains(&"theirs/1".to_owned()), seen.contains(&"eours".to_owned())),
        (3, true, true)
    );
    for _ in 0..3 {
        assert_eq!(ids(&broker).await, seen, "as often as one looks");
    }
    let letter = broker.letter("theirs/1").await.unwrap().unwrap();
    assert_eq!((letter.reason(), letter.cause(), letter.lane), (FOREIGN, "foreign", None));
    assert!(matches!(&letter.content, Content::Foreign(bytes) if bytes == b"{\"task\": \"old\"}"));
    let by_cause = Which { cause: Some(FOREIGN.to_owned()), ..Which::default() };
    let page = Page { after: None, limit: 100, look: Look::Remembered };
    assert_eq!(broker.list(&by_cause, &page).await.unwrap().letters.len(), 2);
    for id in ["theirs/1", &nameless] {
        let held = broker.hold(id).await.unwrap().unwrap();
        assert!(matches!(held.replay().await, Err(Error::Unreplayable)), "{id}");
    }
    assert_eq!(ids(&broker).await, seen);
    drop(broker);
    let broker = place.rabbitmq(Setup::default()).await;
    broker.hold(&nameless).await.unwrap().unwrap().discard().await.unwrap();
    let mut left = ids(&broker).await;
    left.sort_unstable();
    assert_eq!(left, ["eours", "theirs/1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_a_newer_version_comes_again_until_that_takes_it() {
    let place = Place::new();
    let broker = place.rabbitmq(Setup::default()).await;
    let body = b"{\"v\":2,\"id\":\"e1\",\"kind\":{\"kind\":\"of later\"}}";
    let first_seen = |ago: Duration| {
        let at = Clock::system().now().before(ago);
        let mut headers = FieldTable::default();
        headers.insert("x-first-seen".into(), AMQPValue::LongLongInt(at.0));
        headers.insert("x-lane".into(), AMQPValue::LongString("chat".into()));
        headers.insert("x-conversation".into(), AMQPValue::LongString("c".into()));
        BasicProperties::default().with_headers(headers)
    };
    put(&broker, "chat", "00", first_seen(Duration::ZERO), body).await;
    let away =
        async || broker.inner.tally.lying(&broker.inner, "retry.chat.4s").await.is_ok_and(|lying| lying.ready == 1);
    let mut taking = tokio::task::JoinSet::new();
    let taker = broker.clone();
    taking.spawn(async move { while taker.take(CHAT, 16).await.is_ok_and(|taken| taken.is_empty()) {} });
    let becomes = async |is_away: bool| while away().await != is_away {};
    for round in 0..2 {
        timeout(PATIENCE, becomes(true)).await.unwrap_or_else(|_| panic!("round {round}: it does not go away"));
        timeout(PATIENCE, becomes(false)).await.unwrap_or_else(|_| panic!("round {round}: it does not come again"));
    }
    timeout(PATIENCE, becomes(true)).await.expect("it goes away again");
    assert_eq!(ids(&broker).await, Vec::<String>::new(), "it is no letter");
    // One that failed there comes again in its lane, too.
    timeout(PATIENCE, becomes(false)).await.expect("it comes again");
    let taker = broker.clone();
    taking.spawn(async move { while taker.take(Queue::Dead, 16).await.is_ok_and(|taken| taken.is_empty()) {} });
    put(&broker, "dlx", "dead", first_seen(Duration::ZERO), body).await;
    let both = async || {
        while broker.inner.tally.lying(&broker.inner, "retry.chat.4s").await.is_ok_and(|lying| lying.ready < 2) {}
    };
    timeout(PATIENCE, both()).await.expect("both are away");
    put(&broker, "chat", "00", first_seen(Duration::from_secs(25 * 3600)), body).await;
    let parked = async || while ids(&broker).await.is_empty() {};
    timeout(PATIENCE, parked()).await.expect("nobody came for it in a day");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_cut_off_before_its_acknowledgement_leaves_the_letter_and_one_life_in_two_copies() {
    let place = Place::new();
    let broker = place.rabbitmq(Setup::default()).await;
    park(&broker, "twice").await;
    // As a node that dies when its copy is confirmed.
    let letter = broker.letter("etwice").await.unwrap().unwrap();
    let envelope = Envelope::new(letter.job().unwrap().clone(), Lane::Chat);
    let copy = envelope.reborn(Timestamp(5));
    broker.inner.publisher.publish(broker.inner.to_work(&copy)).await.unwrap();
    drop(broker);
    let broker = place.rabbitmq(Setup::default()).await;
    assert_eq!(ids(&broker).await, ["etwice"], "it still lies there");
    broker.hold("etwice").await.unwrap().unwrap().replay().await.unwrap();
    let only = take_one(&*broker, CHAT).await;
    assert_eq!((only.replay, name(&only).as_str()), (1, "twice"), "one life: the ledger knows the second copy by it");
    only.ack().await.unwrap();
    is_drained(&broker).await;
    assert!(ids(&broker).await.is_empty());
}

/// Whatever is left in the chat lane is the same life once more, or nothing.
async fn is_drained(broker: &Rabbitmq) {
    publish(broker, [("last", "c")]).await;
    loop {
        for delivery in take(broker, CHAT, 16).await {
            let is_last = name(&delivery) == "last";
            assert!(is_last || (delivery.replay, name(&delivery).as_str()) == (1, "twice"));
            delivery.ack().await.unwrap();
            if is_last {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_letters_go_when_they_have_outlived_their_time() {
    let place = Place::new();
    let broker = place.rabbitmq(Setup::default()).await;
    for message in ["old 1", "old 2"] {
        park(&broker, message).await;
    }
    broker.tidy().await.unwrap();
    assert_eq!(ids(&broker).await, ["eold 1", "eold 2"], "they are young");
    let later = Clock::system().now().after(Duration::from_secs(3_600));
    let young = Envelope::new(Arc::new(job("young", "c")), Lane::Chat).parked("why".into(), later);
    broker.inner.publisher.publish(broker.inner.to_letters("parked", &young)).await.unwrap();
    put(&broker, "dlx", "parked", BasicProperties::default().with_message_id("undated".into()), b"x").await;
    drop(broker);
    let broker = place.rabbitmq(Setup { parked_for: Duration::ZERO, ..Setup::default() }).await;
    sleep(Duration::from_millis(2)).await;
    broker.tidy().await.unwrap();
    assert_eq!(ids(&broker).await, ["eyoung", "undated"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_routed_is_brought_home() {
    let place = Place::new();
    let broker = place.rabbitmq(Setup::default()).await;
    let envelope = |name: &str| Envelope::new(Arc::new(job(name, "c")), Lane::Chat);
    let mut lost = broker.inner.to_work(&envelope("lost"));
    lost.key = "77".into();
    broker.inner.publisher.publish(lost).await.unwrap();
    let parked = envelope("parked").parked("why".into(), Timestamp(7));
    put(&broker, "unrouted", "", parked.properties(), &parked.body()).await;
    put(&broker, "unrouted", "", BasicProperties::default().with_message_id("theirs".into()), b"x").await;
    assert_eq!(name(&take_one(&*broker, CHAT).await), "lost");
    let both = async {
        while ids(&broker).await.len() < 2 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, both).await.expect("the others are parked");
    let mut found = ids(&broker).await;
    found.sort_unstable();
    assert_eq!(found, ["eparked", "theirs"]);
    let letter = broker.letter("eparked").await.unwrap().unwrap();
    assert_eq!((letter.standing, letter.parked_at, letter.reason()), (Standing::Parked, Some(Timestamp(7)), "why"));
    // Nothing goes round and round.
    let pass = super::pass::Pass::begin(&broker.inner).await.unwrap();
    assert_eq!(pass.ready(&broker.inner.topology.name("unrouted")).await.unwrap(), 0);
    pass.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_is_removed_from_the_spool() {
    let folder = tempfile::tempdir().unwrap();
    let config = SpoolConfig { path: folder.path().display().to_string(), ..SpoolConfig::default() };
    let spool = Arc::new(Spool::open(&config).unwrap());
    let item = |name: usize| {
        let mut job = job(name, "c");
        let user = Some(UserId::new(if name.is_multiple_of(3) { "gone" } else { "stays" }).unwrap());
        job.kind = Kind::Message { text: "text".into(), user, image: None };
        Item { place: spool::Place(0), lane: Lane::Chat, job: Arc::new(job), parked: None }
    };
    spool.append((0..2_500).map(item).collect()).await.unwrap();
    let whose = Whose { user: UserId::new("gone").unwrap(), conversations: Vec::new() };
    drop(removal::in_spool(&spool, &whose).await.unwrap());
    assert_eq!(spool.messages(), 2_500, "given back");
    let theirs = removal::in_spool(&spool, &whose).await.unwrap();
    assert_eq!(theirs.len(), 834);
    for delivery in theirs {
        delivery.ack().await.unwrap();
    }
    assert_eq!(spool.messages(), 2_500 - 834);
    assert!(removal::in_spool(&spool, &whose).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_was_looked_at_too_often_begins_anew() {
    let place = Place::new();
    let broker = place.rabbitmq(Setup::default()).await;
    let letter = Envelope::new(Arc::new(job("worn", "c")), Lane::Chat).parked("why".into(), Timestamp(7));
    let properties = letter.properties();
    let mut headers = properties.headers().clone().unwrap();
    // The server says nothing itself with the first delivery.
    headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(500_001));
    put(&broker, "dlx", "parked", properties.with_headers(headers), &letter.body()).await;
    park(&broker, "fresh").await;
    let whole = Page { after: None, limit: 100, look: Look::Whole };
    for _ in 0..3 {
        assert_eq!(ids(&broker).await, ["efresh", "eworn"]);
        let listing = broker.list(&Which::default(), &whole).await.unwrap();
        assert_eq!(listing.letters[1].id, "eworn", "once");
    }
    let letter = broker.letter("eworn").await.unwrap().unwrap();
    assert_eq!((letter.parked_at, letter.reason()), (Some(Timestamp(7)), "why"));
}

/// As a node that dies: nothing it has begun comes to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_during_replays_lose_nothing() {
    const MANY: usize = 9;
    let place = Place::new();
    let mut broker = place.rabbitmq(Setup::default()).await;
    for n in 0..MANY {
        park(&broker, &n.to_string()).await;
    }
    broker.hold("e0").await.unwrap().unwrap().replay().await.unwrap();
    for n in 1..MANY {
        let held = broker.hold(&format!("e{n}")).await.unwrap().expect("it lies there");
        let replaying = tokio::spawn(held.replay());
        for _ in 0..n * 8 {
            tokio::task::yield_now().await;
        }
        broker.inner.link.close().await;
        // Whatever it says, the letter is somewhere.
        let _ = replaying.await;
        drop(broker);
        broker = place.rabbitmq(Setup::default()).await;
    }
    assert_none_is_lost(&place, MANY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_waits_for_the_look_of_another() {
    let place = Place::new();
    let (broker, beside) = (place.rabbitmq(Setup::default()).await, place.beside());
    let other = beside.rabbitmq(Setup::default()).await;
    for message in ["1", "2", "3"] {
        park(&broker, message).await;
    }
    let held = broker.hold("e1").await.unwrap().unwrap();
    let looking = tokio::spawn(async move { ids(&other).await });
    held.discard().await.unwrap();
    assert_eq!(looking.await.unwrap(), ["e2", "e3"], "all that is left, not what was left over");
}

/// A quorum queue gives a consumer that names no limit 2,000 messages and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_very_many_letters_is_found() {
    let place = Place::new();
    let broker = place.rabbitmq(Setup::default()).await;
    let letter = |n: i64| Envelope::new(Arc::new(job(n, "c")), Lane::Chat).parked("why".into(), Timestamp(n));
    let letters = (0..2_500).map(|n| broker.inner.to_letters("parked", &letter(n))).collect();
    for confirm in broker.inner.publisher.send(letters).await {
        confirm.await.unwrap().unwrap();
    }
    let last = broker.hold("e2499").await.unwrap().expect("it lies there");
    last.discard().await.unwrap();
    let whose = Whose { user: UserId::new("nobody").unwrap(), conversations: vec![job(0, "c").conversation] };
    assert_eq!(broker.forget(&whose).await.unwrap().deliveries.len(), 2_499, "all of them");
}

/// Two who look at once see the same: one waits for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_look_at_once_wait_for_each_other() {
    let place = Place::new();
    let broker = place.rabbitmq(Setup::default()).await;
    for n in 0..700 {
        let letter = Envelope::new(Arc::new(job(n, "c")), Lane::Chat).parked("why".into(), Timestamp(n));
        broker.inner.publisher.publish(broker.inner.to_letters("parked", &letter)).await.unwrap();
    }
    let looks = (0..4).map(|_| async {
        broker.list(&Which::default(), &Page { after: None, limit: 1_000, look: Look::Remembered }).await
    });
    for seen in futures_util::future::join_all(looks).await {
        let seen: Vec<String> = seen.unwrap().letters.into_iter().map(|letter| letter.id).collect();
        assert_eq!(seen, (0..700).map(|n| format!("e{n}")).collect::<Vec<_>>(), "all of it, in order, again and again");
    }
    assert!(timeout(Duration::from_millis(50), broker.take(Queue::Dead, 1)).await.is_err(), "none is dead");
}
