//! The rules of the fleet's breaker, by example.

use super::{
    fleet::{Digest, Ended},
    report::hash,
    *,
};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Some time after the origin, so that nothing is recent by accident.
const fn at(seconds: u64) -> Duration {
    Duration::from_secs(1_000 + seconds)
}

fn who(name: &str) -> Fingerprint {
    Caller { conversation: name, message: name }.into()
}

/// What a node reports: `+` is a success, anything else names the conversation that failed.
fn digest(fleet: &Fleet, outcomes: &[&str]) -> Digest {
    let mut digest = Digest::of(fleet.generation());
    for outcome in outcomes {
        match *outcome {
            "+" => digest.succeed(false),
            conversation => digest.fail(hash(conversation)),
        }
    }
    digest.own = Counts { calls: outcomes.len() as u32, ..Counts::default() };
    digest
}

fn told(fleet: &mut Fleet, seconds: u64, node: u64, outcomes: &[&str]) -> State {
    let digest = digest(fleet, outcomes);
    fleet.learn(at(seconds), node, &digest, 0.0);
    fleet.state()
}

fn opened() -> Fleet {
    let mut fleet = Fleet::new(Config::default());
    assert_eq!(told(&mut fleet, 0, 1, &["a", "b", "c"]), State::Closed);
    assert_eq!(told(&mut fleet, 0, 2, &["d", "e"]), State::Open, "the nodes' evidence adds up");
    fleet
}

fn ended(fleet: &Fleet, lease: u64, name: &str, failed: bool) -> Ended {
    Ended { generation: fleet.generation(), lease, who: who(name), failed: Some(failed) }
}

#[test]
fn another_nodes_success_is_a_veto_for_ten_seconds_and_silence_is_none() {
    let mut fleet = Fleet::new(Config::default());
    told(&mut fleet, 0, 2, &["+"]);
    assert_eq!(told(&mut fleet, 1, 1, &["a", "b", "c", "d", "e", "f"]), State::Closed);
    assert_eq!(told(&mut fleet, 9, 1, &["g"]), State::Closed);
    assert_eq!(told(&mut fleet, 10, 3, &["h"]), State::Open, "with the next failure, whosever it is");
    let silent = &mut Fleet::new(Config::default());
    assert_eq!(told(silent, 1, 1, &["a", "b", "c", "d", "e"]), State::Open);
}

#[test]
fn a_node_that_fails_for_two_conversations_has_no_veto_any_more() {
    let mut fleet = Fleet::new(Config::default());
    told(&mut fleet, 0, 2, &["+"]);
    told(&mut fleet, 0, 1, &["a", "b", "c", "d", "e"]);
    assert_eq!(told(&mut fleet, 1, 2, &["x", "x"]), State::Closed, "it may be one poisonous message");
    assert_eq!(told(&mut fleet, 1, 2, &["y"]), State::Open);
}

#[test]
fn a_success_after_the_failures_renews_the_veto() {
    let mut fleet = Fleet::new(Config::default());
    told(&mut fleet, 0, 2, &["x", "y", "+"]);
    assert_eq!(told(&mut fleet, 1, 1, &["a", "b", "c", "d", "e"]), State::Closed);
    assert_eq!(told(&mut fleet, 2, 2, &["+"]), State::Closed);
    assert_eq!(told(&mut fleet, 3, 1, &["a", "b", "c", "d"]), State::Closed, "counted from the last success on");
}

#[test]
fn one_poisonous_conversation_does_not_open_it_where_others_were_just_answered() {
    let mut fleet = Fleet::new(Config::default());
    told(&mut fleet, 0, 1, &["+"]);
    assert_eq!(told(&mut fleet, 0, 1, &["p", "p", "p", "p", "p", "p"]), State::Closed);
}

#[test]
fn a_failure_rate_opens_it_unless_a_node_does_well() {
    let mixed = ["a", "+", "b", "+", "c", "+", "d", "+", "e", "+"];
    let bad = |fleet: &mut Fleet, seconds, node| {
        let mut digest = digest(fleet, &mixed);
        digest.own = Counts { calls: 10, failures: 5, slow: 0 };
        fleet.learn(at(seconds), node, &digest, 0.0);
        fleet.state()
    };
    let mut fleet = Fleet::new(Config::default());
    assert_eq!(bad(&mut fleet, 0, 1), State::Closed, "10 calls are too few");
    assert_eq!(bad(&mut fleet, 5, 2), State::Open);
    let mut fleet = Fleet::new(Config { failure_rate: 0.4, ..Config::default() });
    bad(&mut fleet, 0, 1);
    told(&mut fleet, 0, 3, &["+", "+"]);
    assert_eq!(bad(&mut fleet, 5, 2), State::Closed);
    assert_eq!(bad(&mut fleet, 8, 1), State::Closed, "15 of 32 fail, but node 3 does well");
    assert_eq!(bad(&mut fleet, 11, 2), State::Open, "node 3 has said nothing for long enough");
}

#[test]
fn slowness_everywhere_opens_it_and_slowness_on_one_node_does_not() {
    let slow = |fleet: &mut Fleet, node, slow: u32| {
        let mut digest = Digest::of(fleet.generation());
        (0..20).for_each(|n| digest.succeed(n < slow));
        digest.own = Counts { calls: 20, failures: 0, slow };
        fleet.learn(at(0), node, &digest, 0.0);
        fleet.state()
    };
    let mut fleet = Fleet::new(Config::default());
    assert_eq!(slow(&mut fleet, 1, 20), State::Open);
    let mut fleet = Fleet::new(Config::default());
    slow(&mut fleet, 2, 0);
    for _ in 0..9 {
        assert_eq!(slow(&mut fleet, 1, 20), State::Closed);
    }
}

#[test]
fn one_probe_is_out_and_a_vanished_one_comes_back() {
    let mut fleet = opened();
    assert!(!fleet.acquire(at(59), who("f"), TIMEOUT, 7));
    assert!(fleet.acquire(at(60), who("f"), TIMEOUT, 7));
    assert_eq!(fleet.state(), State::HalfOpen);
    assert!(!fleet.acquire(at(94), who("g"), TIMEOUT, 8));
    assert!(fleet.acquire(at(95), who("g"), TIMEOUT, 8), "30 s for the call and 5 s more");
    let late = ended(&fleet, 7, "f", false);
    fleet.end(at(96), &late, 0.0);
    assert_eq!(fleet.state(), State::HalfOpen, "a lease that is over has no say");
    let end = ended(&fleet, 8, "g", false);
    fleet.end(at(97), &end, 0.0);
    assert_eq!(fleet.state(), State::Closed);
}

#[test]
fn a_message_whose_probe_failed_leaves_the_next_one_to_others_and_is_not_shut_out() {
    let mut fleet = opened();
    assert!(fleet.acquire(at(60), who("f"), TIMEOUT, 7));
    let end = ended(&fleet, 7, "f", true);
    fleet.end(at(60), &end, 0.0);
    assert_eq!(fleet.state(), State::Open);
    assert_eq!(fleet.refused_until(at(180), who("f")), Some(at(182)), "opened for twice as long");
    assert_eq!(fleet.refused_until(at(180), who("g")), None);
    assert!(!fleet.acquire(at(181), who("f"), TIMEOUT, 8));
    assert!(fleet.acquire(at(182), who("f"), TIMEOUT, 8), "nobody else came");
}

#[test]
fn what_is_of_another_generation_changes_nothing() {
    let mut fleet = Fleet::new(Config::default());
    let old = digest(&fleet, &["a", "b", "c", "d", "e"]);
    fleet.force(at(0), Mode::Closed);
    fleet.force(at(0), Mode::Auto);
    fleet.learn(at(0), 1, &old, 0.0);
    assert!(!fleet.is_in_doubt() && fleet.state() == State::Closed);
    let mut fleet = opened();
    assert!(fleet.acquire(at(60), who("f"), TIMEOUT, 7));
    let stale = Ended { generation: fleet.generation() - 1, ..ended(&fleet, 7, "f", false) };
    fleet.end(at(61), &stale, 0.0);
    assert_eq!(fleet.state(), State::HalfOpen);
    assert!(fleet.acquire(at(61), who("g"), TIMEOUT, 8), "but its lease is free");
}

#[test]
fn an_operator_has_the_last_word() {
    let mut fleet = Fleet::new(Config::default());
    fleet.force(at(0), Mode::Open);
    assert!(!fleet.acquire(at(9_000), who("a"), TIMEOUT, 1));
    fleet.force(at(9_000), Mode::Closed);
    assert_eq!(told(&mut fleet, 9_000, 1, &["a", "b", "c", "d", "e", "f"]), State::Closed);
    fleet.force(at(9_001), Mode::Open);
    fleet.force(at(9_001), Mode::Auto);
    assert!(fleet.acquire(at(9_001), who("a"), TIMEOUT, 1));
}

#[test]
fn the_document_stays_small_and_reads_back_as_it_was() {
    let mut fleet = Fleet::new(Config::default());
    for (second, node) in (0..60).flat_map(|second| (0..20_u64).map(move |node| (second, node))) {
        let [first, second_one] = [1, 2].map(|n| format!("{node} {second} {n}"));
        assert_eq!(told(&mut fleet, second, node, &[&first, "+", &second_one]), State::Closed);
    }
    let body = fleet.write();
    println!("the document of 20 busy nodes has {} bytes", body.len());
    assert!(body.len() < 8_192);
    let again = Fleet::read(&body, &Config::default()).unwrap();
    assert_eq!(again.write().len(), body.len());
    assert_eq!(again.snapshot(at(60)), fleet.snapshot(at(60)));
    assert_eq!((again.state(), again.generation()), (fleet.state(), fleet.generation()));
}
