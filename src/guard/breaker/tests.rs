//! The breaker's rules, one by one.

use super::*;

const TIMEOUT: Duration = Duration::from_secs(30);
const FAST: Outcome = Outcome::Success { took: Duration::from_millis(200) };
const SLOW: Outcome = Outcome::Success { took: Duration::from_secs(10) };
const DOWN: Outcome = Outcome::Failure { kind: FailureKind::Connect };

/// A breaker with a clock of whole seconds; the message of a conversation bears its name unless told otherwise.
struct Service {
    breaker: Breaker,
    now: u64,
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn who(conversation: &str) -> Caller<'_> {
    Caller { conversation, message: conversation }
}

impl Service {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        Self { breaker: Breaker::new(config), now: 0 }
    }

    fn asks(&mut self, conversation: &str) -> Admission {
        self.breaker.admit(at(self.now), who(conversation), TIMEOUT, true)
    }

    fn ends(&mut self, conversation: &str, admission: Admission, outcome: Outcome) -> Option<Transition> {
        let (generation, lease) = match admission {
            Admission::Pass { generation } => (generation, None),
            Admission::Probe { generation, lease } => (generation, Some(lease)),
            Admission::Refuse { retry_at } => panic!("refused until {retry_at:?}"),
        };
        let report = Report { caller: who(conversation), generation, lease, outcome };
        self.breaker.record(at(self.now), report, 0.0)
    }

    fn calls(&mut self, conversation: &str, outcome: Outcome) -> Option<Transition> {
        let admission = self.asks(conversation);
        self.ends(conversation, admission, outcome)
    }

    /// Each conversation fails every five seconds for a minute, each time beside a success of a healthy one.
    fn alternates(&mut self, conversations: &[&str]) -> Option<Transition> {
        let rounds = (0..12).flat_map(|round| conversations.iter().map(move |conversation| (round * 5, conversation)));
        rounds.into_iter().find_map(|(second, conversation)| {
            self.now = second;
            self.calls(conversation, DOWN).or_else(|| self.calls("healthy", FAST))
        })
    }

    fn opened_by_an_outage() -> Self {
        let mut service = Self::new();
        for conversation in ["a", "b", "c", "d", "e"] {
            service.calls(conversation, DOWN);
        }
        assert_eq!(service.breaker.state(), State::Open);
        service
    }

    fn opened_by_poison() -> Self {
        let mut service = Self::new();
        for _ in 0..5 {
            service.calls("poison", DOWN);
        }
        assert_eq!(service.breaker.state(), State::Open);
        service
    }
}

fn refused_until(seconds: u64) -> Admission {
    Admission::Refuse { retry_at: at(seconds) }
}

#[test]
fn five_failures_in_a_row_open_it_and_a_success_starts_over() {
    let mut service = Service::new();
    for outcome in [DOWN, DOWN, DOWN, DOWN, FAST, DOWN, DOWN, DOWN, DOWN] {
        assert_eq!(service.calls("a", outcome), None);
    }
    let transition = service.calls("b", DOWN).unwrap();
    assert_eq!((transition.from, transition.to, transition.cause), (State::Closed, State::Open, Cause::Failures));
    assert_eq!(transition.generation, 1);
    assert_eq!(service.asks("a"), refused_until(60));
}

#[test]
fn an_outage_seen_by_many_conversations_lets_nobody_through() {
    let mut service = Service::opened_by_an_outage();
    service.now = 59;
    assert_eq!(service.asks("f"), refused_until(60));
    assert!(!service.breaker.snapshot(at(59)).open_to_others);
}

#[test]
fn a_poisonous_message_in_a_quiet_hour_does_not_hold_up_others() {
    let mut service = Service::opened_by_poison();
    assert!(service.breaker.snapshot(at(0)).open_to_others);
    assert_eq!(service.asks("poison"), refused_until(60));
    let probe = service.asks("other");
    assert_eq!(probe, Admission::Probe { generation: 1, lease: 0 });
    assert_eq!(service.asks("third"), refused_until(1), "one lease at a time");
    let transition = service.ends("other", probe, FAST).unwrap();
    assert_eq!((transition.to, transition.cause), (State::Closed, Cause::ProbeSucceeded));
    assert_eq!(service.asks("third"), Admission::Pass { generation: 2 });
}

#[test]
fn an_outage_in_a_quiet_hour_costs_one_probe_for_each_further_conversation() {
    let mut service = Service::opened_by_poison();
    for conversation in ["b", "c", "d", "e"] {
        service.now += 1;
        assert_eq!(service.calls(conversation, DOWN), None, "the opening stays as it was");
        assert_eq!(service.asks(conversation), refused_until(60), "now under suspicion");
    }
    assert_eq!(service.asks("f"), refused_until(60));
    assert_eq!(service.breaker.snapshot(at(4)).conversations, 5);
}

#[test]
fn half_open_lends_one_probe_and_its_success_closes() {
    let mut service = Service::opened_by_an_outage();
    service.now = 60;
    assert_eq!(service.breaker.poll(at(60)).unwrap().to, State::HalfOpen);
    let probe = service.asks("f");
    assert_eq!(probe, Admission::Probe { generation: 2, lease: 0 });
    assert_eq!(service.asks("g"), refused_until(61), "asks again soon, the lease lasts until 95 s");
    service.now = 70;
    assert_eq!(service.ends("f", probe, FAST).unwrap().to, State::Closed);
    let snapshot = service.breaker.snapshot(at(70));
    assert_eq!((snapshot.trips, snapshot.generation, snapshot.window), (0, 3, Counts::default()));
}

#[test]
fn a_failed_probe_doubles_the_opening_and_closing_forgets_it() {
    let mut service = Service::opened_by_an_outage();
    service.now = 60;
    assert_eq!(service.calls("f", DOWN).unwrap().cause, Cause::ProbeFailed);
    assert_eq!(service.asks("f"), refused_until(180));
    service.now = 180;
    assert_eq!(service.calls("g", FAST).unwrap().to, State::Closed);
    for conversation in ["a", "b", "c", "d", "e"] {
        service.calls(conversation, DOWN);
    }
    assert_eq!(service.asks("f"), refused_until(240));
}

#[test]
fn a_vanished_prober_loses_its_lease_after_the_call_timeout_and_five_seconds() {
    let mut service = Service::opened_by_an_outage();
    service.now = 60;
    let vanished = service.asks("f");
    service.now = 94;
    assert_eq!(service.asks("g"), refused_until(95));
    service.now = 95;
    let next = service.asks("g");
    assert_eq!(next, Admission::Probe { generation: 2, lease: 1 });
    assert_eq!(service.ends("f", vanished, FAST), None, "an expired lease has no say");
    assert_eq!(service.ends("g", next, FAST).unwrap().to, State::Closed);
}

#[test]
fn a_message_whose_probe_failed_is_not_the_next_probe_while_others_wait() {
    let mut service = Service::opened_by_an_outage();
    service.now = 60;
    service.calls("f", DOWN);
    service.now = 180;
    assert_eq!(service.asks("f"), refused_until(182));
    let lonely = service.breaker.clone().admit(at(181), who("f"), TIMEOUT, false);
    assert!(matches!(lonely, Admission::Probe { .. }), "nobody else could probe");
    let other = service.breaker.clone().admit(at(181), who("g"), TIMEOUT, true);
    assert!(matches!(other, Admission::Probe { .. }));
    service.now = 182;
    assert!(matches!(service.asks("f"), Admission::Probe { .. }), "the others had their chance");
}

#[test]
fn several_probes_close_it_together() {
    let mut service = Service::with(Config { probes: 2, failure_threshold: 1, ..Config::default() });
    service.calls("a", DOWN);
    service.now = 60;
    let (first, second) = (service.asks("b"), service.asks("c"));
    assert_eq!(service.asks("d"), refused_until(61));
    assert_eq!(service.ends("b", first, FAST), None);
    assert_eq!(service.asks("d"), refused_until(61), "leases and successes together are at most two");
    assert_eq!(service.ends("c", second, FAST).unwrap().to, State::Closed);
}

#[test]
fn outcomes_of_another_generation_do_nothing_but_free_their_lease() {
    let mut service = Service::new();
    let slow_to_fail: Vec<_> = (0..10).map(|_| service.asks("z")).collect();
    for conversation in ["a", "b", "c", "d", "e"] {
        service.calls(conversation, DOWN);
    }
    service.now = 60;
    let probe = service.asks("f");
    for admission in slow_to_fail {
        assert_eq!(service.ends("z", admission, FAST), None);
    }
    assert_eq!(service.breaker.state(), State::HalfOpen);
    service.breaker.force(at(60), Mode::Closed);
    assert_eq!(service.breaker.snapshot(at(60)).probes_in_flight, 1);
    assert_eq!(service.ends("f", probe, DOWN), None);
    let snapshot = service.breaker.snapshot(at(60));
    assert_eq!((snapshot.probes_in_flight, snapshot.consecutive_failures), (0, 0));
}

#[test]
fn neutral_outcomes_give_the_probe_back_and_count_nothing() {
    let mut service = Service::opened_by_an_outage();
    service.now = 60;
    assert_eq!(service.calls("f", Outcome::Neutral), None);
    assert!(matches!(service.asks("g"), Admission::Probe { lease: 1, .. }));

    let mut closed = Service::new();
    for outcome in [DOWN, DOWN, Outcome::Neutral, DOWN, DOWN] {
        closed.calls("a", outcome);
    }
    assert_eq!(closed.breaker.snapshot(at(0)).consecutive_failures, 4);
}

#[test]
fn only_configured_failures_count() {
    let mut service = Service::new();
    for outcome in [DOWN, DOWN, DOWN, DOWN, Outcome::Failure { kind: FailureKind::ClientError }, DOWN] {
        assert_eq!(service.calls("a", outcome), None, "a 4xx proves that the service answers");
    }
    assert_eq!(service.breaker.snapshot(at(0)).consecutive_failures, 1);
}

#[test]
fn half_of_the_calls_failing_opens_it_when_three_conversations_say_so() {
    let rounds = |conversations: &[&str]| {
        let mut service = Service::new();
        let transition = service.alternates(conversations)?;
        Some((transition.cause, service.breaker.snapshot(at(service.now)).window.calls))
    };
    assert_eq!(rounds(&["a", "b", "c"]), Some((Cause::FailureRate, 20)));
    assert_eq!(rounds(&["a", "b"]), None);
}

#[test]
fn a_failure_rate_of_few_conversations_leaves_the_way_open_for_others() {
    let mut service = Service::new();
    assert_eq!(service.alternates(&["a", "b", "c"]).unwrap().cause, Cause::FailureRate);
    for suspect in ["a", "b", "c"] {
        assert!(matches!(service.asks(suspect), Admission::Refuse { .. }));
    }
    assert!(matches!(service.asks("d"), Admission::Probe { .. }));
}

#[test]
fn four_fifths_of_the_calls_being_slow_opens_it_for_everybody() {
    let mut service = Service::new();
    for _ in 0..4 {
        service.calls("a", FAST);
    }
    let transitions: Vec<_> = (0..16).filter_map(|_| service.calls("a", SLOW)).collect();
    assert_eq!(transitions.len(), 1);
    assert_eq!(transitions[0].cause, Cause::SlowRate);
    assert_eq!(service.asks("b"), refused_until(60), "slowness is no conversation's fault");
}

#[test]
fn an_operator_has_the_last_word() {
    let mut service = Service::new();
    let forced = service.breaker.force(at(0), Mode::Open).unwrap();
    assert_eq!((forced.to, forced.cause, forced.mode), (State::Open, Cause::Forced, Mode::Open));
    assert_eq!(service.breaker.force(at(0), Mode::Open), None);
    service.now = 10_000;
    assert_eq!(service.asks("a"), refused_until(10_001));

    service.breaker.force(at(10_000), Mode::Closed);
    for _ in 0..50 {
        assert_eq!(service.calls("a", DOWN), None);
    }
    service.breaker.force(at(10_000), Mode::Auto);
    assert_eq!(service.calls("a", DOWN), None, "starts without evidence");

    service.breaker.force(at(10_000), Mode::Open);
    service.breaker.force(at(10_000), Mode::Auto);
    assert!(matches!(service.asks("a"), Admission::Probe { .. }), "half-open at once");
}

#[test]
fn the_clock_never_goes_back() {
    let mut service = Service::opened_by_an_outage();
    service.now = 60;
    let probe = service.asks("f");
    service.now = 3;
    assert_eq!(service.asks("g"), refused_until(61));
    assert_eq!(service.ends("f", probe, DOWN).unwrap().to, State::Open);
    assert_eq!(service.asks("g"), refused_until(180));
}

#[test]
fn a_snapshot_is_flat_json() {
    let snapshot = Service::opened_by_an_outage().breaker.snapshot(at(1));
    let json = serde_json::to_value(&snapshot).unwrap();
    assert_eq!(json["state"], "open");
    assert_eq!(json["mode"], "auto");
    assert_eq!(json["until_ms"], 60_000);
    assert_eq!(json["window"]["failures"], 5);
    for state in State::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
}
