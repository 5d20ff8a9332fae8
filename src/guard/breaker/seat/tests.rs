//! A seat whose caller, and whose owner, act while a turn is under way.

use super::*;

const TIMEOUT: Duration = Duration::from_secs(30);

const NAME: Caller<'static> = Caller { conversation: "c", message: "m" };

/// Some time after the origin, so that nothing is recent by accident.
const fn at(seconds: u64) -> Duration {
    Duration::from_secs(1_000 + seconds)
}

fn begin(seat: &mut Seat, now: Duration) -> Option<Turn> {
    seat.begin(now, Counts::default(), &mut || 0.5)
}

/// Tells the board everything; nobody else does.
fn tell(seat: &mut Seat, now: Duration) {
    if let Some(turn) = begin(seat, now) {
        let version = turn.expected + 1;
        seat.commit(turn, version);
    }
}

/// A seat at a breaker that has opened and may be probed.
fn open() -> Seat {
    let mut seat = Seat::new(7, Config::default(), TIMEOUT);
    for name in ["a", "b", "c", "d", "e"] {
        let given = seat.pass();
        let down = Outcome::Failure { kind: super::super::FailureKind::ServerError };
        seat.note(given, Caller { conversation: name, message: name }, down);
    }
    tell(&mut seat, at(0));
    assert_eq!(seat.state(), State::Open);
    seat
}

#[test]
fn a_lease_that_is_taken_during_a_turn_is_not_given_back_as_if_it_waited() {
    for is_away in [false, true] {
        let mut seat = open();
        seat.wish(NAME);
        tell(&mut seat, at(100));
        seat.order(Mode::Auto);
        seat.note(Given { generation: 0, lease: Some(1) }, NAME, Outcome::Neutral);
        seat.is_behind = true;
        let turn = begin(&mut seat, at(101)).expect("the board is to be told");
        let given = seat.take(at(101), NAME).expect("the lease waits");
        match is_away {
            true => seat.alone(turn),
            false => seat.commit(turn, 99),
        }
        tell(&mut seat, at(110));
        assert_eq!(seat.known.probes(at(110)), 1, "the probe is still under way");
        assert!(seat.take(at(110), NAME).is_none(), "one lease is one probe");
        seat.note(given, NAME, Outcome::Success { took: Duration::from_millis(5) });
        tell(&mut seat, at(111));
        assert_eq!(seat.state(), State::Closed, "its success counts");
    }
}

#[test]
fn an_order_and_a_probes_outcome_survive_a_turn_that_ends_without_a_word() {
    let mut seat = open();
    seat.wish(NAME);
    tell(&mut seat, at(100));
    let given = seat.take(at(100), NAME).expect("the lease waits");
    seat.note(given, NAME, Outcome::Success { took: Duration::from_millis(5) });
    drop(begin(&mut seat, at(101)).expect("the outcome is to be told"));
    assert!(seat.is_urgent(at(101)), "it is still to be told");
    tell(&mut seat, at(101));
    assert_eq!(seat.state(), State::Closed);
    assert!(!seat.is_urgent(at(101)), "once it is told, it is told");

    seat.order(Mode::Open);
    drop(begin(&mut seat, at(102)).expect("the order is to be told"));
    tell(&mut seat, at(103));
    assert_eq!(seat.mode(), Mode::Open);
    seat.order(Mode::Closed);
    drop(begin(&mut seat, at(104)).expect("the order is to be told"));
    seat.order(Mode::Auto);
    tell(&mut seat, at(105));
    assert_eq!(seat.mode(), Mode::Auto, "the later order counts");
}

#[test]
fn an_order_that_changes_nothing_here_changes_what_others_ordered_meanwhile() {
    let mut other = Seat::new(7, Config::default(), TIMEOUT);
    other.order(Mode::Open);
    tell(&mut other, at(0));
    let mut seat = Seat::new(8, Config::default(), TIMEOUT);
    seat.order(Mode::Auto);
    let turn = begin(&mut seat, at(1)).expect("it is to be told");
    let again = seat.redo(turn, 1, Some(other.known.clone()), at(1), &mut || 0.5);
    seat.commit(again.expect("the board says otherwise"), 2);
    assert_eq!((other.mode(), seat.mode()), (Mode::Open, Mode::Auto));
    assert!(begin(&mut seat, at(2)).is_none(), "told once");
}
