//! The judge must notice what it is there for: tables for each verdict, and a slow second opinion on random histories.

use proptest::prelude::*;

use super::*;

/// One thing that happens, in the order of the ticks; references are numbered by their place.
#[derive(Clone, Debug)]
enum Step {
    Write(u32),
    Accept(u32),
    GiveUp(u32),
    Post(Vec<u32>),
    Tell(u32),
    HandOver,
}
use Step::{Accept, GiveUp, HandOver, Post, Tell, Write};

fn id(number: u32) -> String {
    format!("m{number}")
}

fn play(judge: &mut Judge, steps: &[Step], first_tick: u64) {
    for (step, tick) in steps.iter().zip(first_tick..) {
        match step {
            Write(number) => {
                let place = Place { received_ms: u64::from(*number), position: 0 };
                let reference = Reference(*number);
                judge.wrote(&Written { reference, message_id: &id(*number), place, at_us: tick, human: false });
                judge.queued(&[reference]);
            }
            Accept(number) => judge.delivered(&[Reference(*number)], Some(tick)),
            GiveUp(number) => judge.delivered(&[Reference(*number)], None),
            Post(numbers) => {
                let references: Vec<_> = numbers.iter().copied().map(Reference).collect();
                judge.posted(&references, tick, tick);
            }
            Tell(number) => judge.told([id(*number)].iter()),
            HandOver => judge.handed_over(),
        }
    }
}

fn judged(steps: &[Step]) -> Tally {
    let mut judge = Judge::default();
    play(&mut judge, steps, 1);
    judge.tally()
}

/// `(lost, duplicates, out_of_order, handed_off)`.
fn verdict(steps: &[Step]) -> (u64, u64, u64, u64) {
    let tally = judged(steps);
    (tally.lost, tally.duplicates, tally.out_of_order, tally.handed_off)
}

#[test]
fn each_verdict_is_noticed_and_only_then() {
    let two = [Write(1), Accept(1), Write(2), Accept(2)];
    let after = |steps: &[Step]| [&two, steps].concat();
    let table = [
        ("both in order", after(&[Post(vec![1]), Post(vec![2])]), (0, 0, 0, 0)),
        ("both in one reply, ascending", after(&[Post(vec![1, 2])]), (0, 0, 0, 0)),
        ("both in one reply, descending", after(&[Post(vec![2, 1])]), (0, 0, 1, 0)),
        ("the later one first", after(&[Post(vec![2]), Post(vec![1])]), (0, 0, 1, 0)),
        ("one unanswered", after(&[Post(vec![1])]), (1, 0, 0, 0)),
        ("none answered", after(&[]), (2, 0, 0, 0)),
        ("one answered twice", after(&[Post(vec![1]), Post(vec![2]), Post(vec![1])]), (0, 1, 0, 0)),
        ("answered three times counts once", after(&[Post(vec![1, 2]), Post(vec![1]), Post(vec![1])]), (0, 1, 0, 0)),
        ("handed to a human", after(&[Post(vec![1]), HandOver]), (0, 0, 0, 1)),
        ("told of the failure", after(&[Tell(1), Post(vec![2])]), (0, 0, 0, 1)),
        ("a hand-over covers only what is before it", after(&[HandOver, Write(3), Accept(3)]), (1, 0, 0, 2)),
        ("handed over, then answered", after(&[HandOver, Post(vec![1, 2])]), (0, 0, 0, 0)),
        (
            "accepted only after its successor's reply",
            vec![Write(1), Write(2), Accept(2), Post(vec![2]), Accept(1), Post(vec![1])],
            (0, 0, 0, 0),
        ),
        (
            "overtaken by an early reply, then once more by a late one",
            vec![
                Write(1),
                Write(2),
                Write(3),
                Accept(3),
                Post(vec![3]),
                Accept(1),
                Accept(2),
                Post(vec![2]),
                Post(vec![1]),
            ],
            (0, 0, 1, 0),
        ),
        ("never accepted is not lost", vec![Write(1), GiveUp(1)], (0, 0, 0, 0)),
    ];
    for (name, steps, wanted) in table {
        assert_eq!(verdict(&steps), wanted, "{name}");
    }
}

#[test]
fn equal_places_have_no_order() {
    let mut judge = Judge::default();
    for number in [1, 2] {
        let place = Place { received_ms: 7, position: 0 };
        let (reference, message_id) = (Reference(number), "m");
        judge.wrote(&Written { reference, message_id, place, at_us: 0, human: false });
        judge.delivered(&[reference], Some(1));
    }
    judge.posted(&[Reference(2)], 2, 0);
    judge.posted(&[Reference(1)], 3, 0);
    assert_eq!(judge.tally().out_of_order, 0);
}

#[test]
fn the_position_in_the_delivery_orders_within_a_millisecond() {
    let mut judge = Judge::default();
    for number in [1, 2] {
        let place = Place { received_ms: 7, position: number };
        let (reference, message_id) = (Reference(number), "m");
        judge.wrote(&Written { reference, message_id, place, at_us: 0, human: false });
        judge.delivered(&[reference], Some(1));
    }
    judge.posted(&[Reference(2)], 2, 0);
    judge.posted(&[Reference(1)], 3, 0);
    assert_eq!(judge.tally().out_of_order, 1);
}

#[test]
fn a_webhook_on_its_way_is_undelivered_until_it_ends() {
    assert_eq!(judged(&[Write(1)]).undelivered, 1);
    assert_eq!(judged(&[Write(1), Accept(1)]).undelivered, 0);
    assert_eq!(judged(&[Write(1), GiveUp(1)]).undelivered, 0);
    assert_eq!(judged(&[Write(1), Post(vec![1])]).undelivered, 1, "answered before its webhook has ended");
}

#[test]
fn a_message_written_to_a_human_is_not_owed_an_answer() {
    let mut judge = Judge::default();
    let (reference, place) = (Reference(1), Place::default());
    judge.wrote(&Written { reference, message_id: "m", place, at_us: 0, human: true });
    judge.delivered(&[reference], Some(1));
    assert_eq!((judge.tally().lost, judge.tally().handed_off), (0, 1));
}

#[test]
fn a_token_in_the_wrong_conversation_is_misdirected() {
    assert_eq!(judged(&[Write(1), Post(vec![9])]).misdirected, 1);
}

#[test]
fn a_merged_conversation_keeps_its_debts_and_its_order() {
    let (mut surviving, mut discarded) = (Judge::default(), Judge::default());
    play(&mut surviving, &[Write(1), Accept(1), Write(5), Accept(5), Post(vec![5])], 1);
    play(&mut discarded, &[Write(2), Accept(2), Write(6), Accept(6), Post(vec![6])], 10);
    surviving.absorb(discarded);
    assert_eq!(surviving.tally().lost, 2);
    play(&mut surviving, &[Post(vec![1]), Post(vec![2])], 20);
    assert_eq!((surviving.tally().lost, surviving.tally().out_of_order), (0, 2));
}

#[test]
fn waits_are_told_for_first_answers_only() {
    let mut judge = Judge::default();
    play(&mut judge, &[Write(1), Accept(1)], 1);
    assert_eq!(judge.posted(&[Reference(1)], 3, 101), [100]);
    assert!(judge.posted(&[Reference(1)], 4, 200).is_empty());
}

/// The definition in its plainest form, quadratic.
fn plainly_out_of_order(steps: &[Step]) -> u64 {
    let tick_of = |wanted: &dyn Fn(&Step) -> bool| steps.iter().position(wanted);
    let answers: Vec<(usize, u32)> = steps
        .iter()
        .enumerate()
        .flat_map(
            |(tick, step)| if let Post(numbers) = step { numbers.iter().map(|n| (tick, *n)).collect() } else { vec![] },
        )
        .collect();
    let first = |number: u32| answers.iter().position(|(_, answered)| *answered == number);
    let disordered = |number: u32| {
        let (Some(mine), Some(accepted)) = (first(number), tick_of(&|step| matches!(step, Accept(n) if *n == number)))
        else {
            return false;
        };
        (number + 1..=8).any(|later| first(later).is_some_and(|theirs| theirs < mine && answers[theirs].0 > accepted))
    };
    (1..=8).filter(|number| disordered(*number)).count() as u64
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1_u32..=8).prop_map(Accept),
        proptest::collection::btree_set(1_u32..=8, 1..4).prop_map(|set| Post(set.into_iter().collect())),
        proptest::collection::vec(1_u32..=8, 1..2).prop_map(Post),
    ];
    proptest::collection::vec(step, 0..40).prop_map(|steps| (1..=8).map(Write).chain(steps).collect())
}

proptest! {
    #[test]
    fn the_fast_judge_agrees_with_the_plain_definition(steps in history()) {
        let tally = judged(&steps);
        let posts = |n: u32| steps.iter().filter(|step| matches!(step, Post(numbers) if numbers.contains(&n))).count();
        let accepted = |n: u32| steps.iter().any(|step| matches!(step, Accept(known) if *known == n));
        let count = |wanted: &dyn Fn(u32) -> bool| (1..=8).filter(|n| wanted(*n)).count() as u64;
        prop_assert_eq!(tally.out_of_order, plainly_out_of_order(&steps));
        prop_assert_eq!(tally.duplicates, count(&|n| posts(n) > 1));
        prop_assert_eq!(tally.answered, count(&|n| posts(n) > 0));
        prop_assert_eq!(tally.lost, count(&|n| accepted(n) && posts(n) == 0));
        prop_assert_eq!(tally.accepted, count(&accepted));
    }
}
