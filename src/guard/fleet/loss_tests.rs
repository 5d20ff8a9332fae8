//! What nodes make of a Redis that forgets, is lost or is slow.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    tests::{Node, all_listen, window},
    *,
};
use crate::state::{
    Error,
    quota::{Ask, Heard, Told},
    redis::private::Redis,
};

const STATE: [&str; 2] = ["tidegate:{s}:quota:v1", "tidegate:{s}:quota:v1:log"];

/// What Redis remembers of the quota is put aside.
fn save(redis: &Redis) {
    STATE.iter().for_each(|key| assert_eq!(redis.command(&["COPY", key, &format!("{key}:saved")]), "1"));
}

/// It remembers that again, as a replica or a snapshot of then would.
fn go_back(redis: &Redis) {
    STATE.iter().for_each(|key| assert_eq!(redis.command(&["COPY", &format!("{key}:saved"), key, "REPLACE"]), "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_has_forgotten_the_last_calls_is_told_them_again() {
    let redis = Redis::start();
    let limits = window(10, 60_000);
    let node = Node::start(&redis, &limits, OnLoss::LocalShare).await;
    assert_eq!(node.calls(2, 2_000).await, 2);
    save(&redis);
    assert_eq!(node.calls(4, 2_000).await, 4);
    go_back(&redis);
    assert_eq!(node.calls(20, 5_000).await, 4, "six of ten were made, whatever Redis remembers");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_has_forgotten_a_pause_is_reminded_and_gives_again() {
    let redis = Redis::start();
    let limits = window(100, 1_000);
    let node = Node::start(&redis, &limits, OnLoss::LocalShare).await;
    assert!(node.calls_within(2_000).await);
    save(&redis);
    let began = Instant::now();
    node.permits.throttled(Some(Duration::from_secs(2)));
    node.until("the pause is known", |node| node.permits.fleet.as_ref().unwrap().inner.lock().epoch == 1).await;
    go_back(&redis);
    assert!(node.calls_within(10_000).await, "nothing is given any more");
    assert!(began.elapsed() >= Duration::from_secs(2), "the pause holds all the same: {:?}", began.elapsed());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_another_life_of_the_quota_is_not_believed() {
    let redis = Redis::start();
    let node = Node::start(&redis, &window(100, 1_000), OnLoss::LocalShare).await;
    let birth = redis.command(&["HGET", STATE[0], "birth"]);
    all_listen(&node.link, 1).await;
    redis.command(&["PUBLISH", &node.link.channel("quota"), "s 1700000000000000 7"]);
    redis.command(&["PUBLISH", &node.link.channel("quota"), &format!("s {birth} 0")]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.permits.fleet.as_ref().unwrap().inner.lock().epoch, 0);
    assert!(node.calls_within(2_000).await);
    assert_eq!(redis.command(&["HGET", STATE[0], "birth"]), birth, "nor does the quota forget for it");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlasts_the_loss_of_redis() {
    let mut redis = Redis::start();
    let node = Node::start(&redis, &window(100, 1_000), OnLoss::LocalShare).await;
    redis.kill();
    let began = Instant::now();
    node.permits.throttled(Some(Duration::from_secs(3)));
    node.until("it goes on alone", |node| node.standing() == Standing::Alone).await;
    assert!(node.calls_within(8_000).await && began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    node.stop().await;
}

/// Nobody is asked: a test takes turns by hand.
struct Nobody;

#[async_trait::async_trait]
impl Quotas for Nobody {
    async fn turn(&self, _: &str, _: &Policy, _: &Ask) -> Result<Told, Error> {
        Err(Error::Away(String::new()))
    }

    async fn hear(&self, _: &str, _: Heard) -> Error {
        Error::Away(String::new())
    }
}

fn fleet(limits: &Limits) -> Fleet {
    let sharing = Sharing { quotas: Arc::new(Nobody), on_loss: OnLoss::LocalShare, live_nodes: Arc::new(|| 2) };
    Fleet::new("s", limits, Duration::from_millis(300), sharing, Past::new(), Duration::ZERO)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn away() -> Result<Told, Error> {
    Err(Error::Away("it hangs".into()))
}

fn told(limit: u64, used: u64) -> Told {
    let uses = Use { kind: "requests".into(), per_ms: 60_000, configured: limit, limit, used, reserved: 0 };
    Told { birth: "1".into(), uses: vec![uses], ..Told::default() }
}

/// A turn after which the quota is looked at as it has told.
fn takes(fleet: &Fleet, at: u64, told: Result<Told, Error>) -> Vec<Note> {
    fleet.inner.lock().urgent = true;
    let turn = fleet.turn(ms(at), None).expect("it is urgent");
    let notes = turn.ask.notes.clone();
    fleet.take_in(ms(at), turn, told);
    notes
}

#[test]
fn a_429_is_told_with_what_is_left_of_it_until_it_is_known_or_over() {
    let fleet = fleet(&window(20, 60_000));
    takes(&fleet, 1_000, Ok(told(20, 0)));
    fleet.throttled(ms(1_000), Some(ms(5_000)), None);
    assert!(matches!(takes(&fleet, 1_000, away())[..], [Note::Throttled(5_000_000, _)]));
    takes(&fleet, 3_000, Ok(told(20, 0)));
    let notes = takes(&fleet, 3_000, Ok(told(20, 0)));
    assert!(matches!(notes[..], [Note::Made { .. }, Note::Throttled(3_000_000, _)]), "{notes:?}");
    assert_eq!(takes(&fleet, 3_500, Ok(told(20, 0))), []);
    // A quota without memory is told of it again.
    takes(&fleet, 4_000, Ok(Told { lost: true, birth: "2".into(), ..Told::default() }));
    assert_eq!(takes(&fleet, 4_000, away()), [Note::Pause(2_000_000)]);
    takes(&fleet, 4_500, Ok(Told { birth: "2".into(), ..Told::default() }));
    let notes = takes(&fleet, 5_000, away());
    assert!(notes.contains(&Note::Pause(1_000_000)), "also after an answer was lost: {notes:?}");
    takes(&fleet, 6_000, Ok(Told { birth: "2".into(), ..Told::default() }));
    let notes = takes(&fleet, 6_000, Ok(Told { birth: "2".into(), ..Told::default() }));
    assert!(matches!(notes[..], [Note::Made { .. }]), "it is over: {notes:?}");
}

#[test]
fn what_a_turn_tells_is_told_again_when_nobody_takes_in_the_answer() {
    let fleet = fleet(&window(20, 60_000));
    takes(&fleet, 0, Ok(told(20, 0)));
    fleet.succeeded();
    fleet.hear_limit(70);
    fleet.throttled(ms(0), Some(ms(5_000)), None);
    let killed = fleet.turn(ms(0), None).expect("it is urgent").ask.notes;
    let notes = takes(&fleet, 0, Ok(told(20, 0)));
    assert!(notes.contains(&Note::LimitHeader(70)) && notes[..2] == killed[..2], "{notes:?} after {killed:?}");
    assert_eq!(takes(&fleet, 0, Ok(told(20, 0))), []);
}

#[test]
fn a_share_does_not_grow_with_each_loss() {
    let limits = window(20, 60_000);
    let fleet = fleet(&limits);
    takes(&fleet, 0, Ok(told(20, 10)));
    for at in 1..6 {
        takes(&fleet, at, away());
        let mut share = fleet.share(ms(at), &limits).expect("something is left");
        assert_eq!(share.limits().windows[0].requests, 5, "half of the ten that were left");
        while let super::super::limiter::Reservation::Granted { .. } = share.reserve(ms(at), 1, Duration::ZERO) {
            fleet.called(ms(at), 1, false);
        }
        // It is back for a moment, and is gone before it is looked at.
        let turn = fleet.turn(ms(at + 500 * at), None).unwrap_or_else(|| panic!("it is due"));
        fleet.take_in(ms(at), turn, Ok(Told { birth: "1".into(), ..Told::default() }));
    }
    assert_eq!(fleet.inner.lock().own.len(), 5);
}

#[test]
fn many_calls_are_told_in_parts_and_nothing_is_asked_for_before_all_are() {
    let fleet = fleet(&window(20, 60_000));
    (0..2_500).for_each(|_| fleet.called(ms(1), 1, false));
    let mut parts = Vec::new();
    for _ in 0..3 {
        fleet.inner.lock().urgent = true;
        let turn = fleet.turn(ms(2), Some((1, 1))).unwrap();
        let [Note::Made { calls, .. }] = &turn.ask.notes[..] else { panic!("{:?}", turn.ask.notes) };
        parts.push((calls.len(), calls[0].2, turn.ask.want));
        fleet.take_in(ms(2), turn, Ok(told(20, 0)));
    }
    assert_eq!(parts, [(1_000, 0, 0), (1_000, 1_000, 0), (500, 2_000, 1)]);
}

#[test]
fn a_quota_whose_permits_come_too_late_is_as_good_as_away() {
    let fleet = fleet(&window(20, 60_000));
    let slow = |at: u64| {
        let turn = fleet.turn(ms(at), Some((1, 1))).expect("somebody waits");
        let grants = vec![(0, at)];
        fleet.take_in(ms(at + 250), turn, Ok(Told { grants, ..told(20, 0) }));
        fleet.standing()
    };
    let standings = [1_000, 2_000, 3_000, 4_000].map(slow);
    assert_eq!(standings, [Standing::Shared, Standing::Shared, Standing::Waits, Standing::Waits]);
    let turn = fleet.turn(ms(5_000), None).unwrap();
    fleet.take_in(ms(5_010), turn, Ok(told(20, 0)));
    assert_eq!(fleet.standing(), Standing::Shared, "it answers in time");
}
