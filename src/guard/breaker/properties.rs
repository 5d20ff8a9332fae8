//! What no sequence of calls, outcomes, crashes and clock steps may break.

use proptest::prelude::*;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);
const FAST: Outcome = Outcome::Success { took: Duration::from_millis(5) };
const DOWN: Outcome = Outcome::Failure { kind: FailureKind::ServerError };

#[derive(Clone, Debug)]
enum Step {
    Ask { conversation: u8, others_waiting: bool },
    End { which: usize, outcome: Outcome },
    Vanish { which: usize },
    Pass { ms: u64 },
    ClockGoesBack { ms: u64 },
    Force(Mode),
}

/// A call under way.
struct Call {
    conversation: String,
    generation: u64,
    lease: Option<u64>,
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        4 => Just(DOWN),
        3 => Just(FAST),
        1 => Just(Outcome::Success { took: Duration::from_secs(20) }),
        1 => Just(Outcome::Neutral),
        1 => Just(Outcome::Failure { kind: FailureKind::ClientError }),
    ];
    let mode = prop_oneof![2 => Just(Mode::Auto), 1 => Just(Mode::Open), 1 => Just(Mode::Closed)];
    prop_oneof![
        12 => (0..9u8, any::<bool>()).prop_map(|(conversation, others_waiting)| Step::Ask { conversation, others_waiting }),
        12 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::End { which, outcome }),
        1 => any::<usize>().prop_map(|which| Step::Vanish { which }),
        6 => (0..40_000u64).prop_map(|ms| Step::Pass { ms }),
        1 => (0..9_000u64).prop_map(|ms| Step::ClockGoesBack { ms }),
        1 => mode.prop_map(Step::Force),
    ]
}

fn config() -> impl Strategy<Value = Config> {
    (1..7u32, 1..4u32, 1..25u32, 1..100u64).prop_map(|(failure_threshold, probes, minimum_calls, seconds)| Config {
        failure_threshold,
        probes,
        minimum_calls,
        recovery_timeout: Duration::from_secs(seconds),
        ..Config::default()
    })
}

fn admission_is_lawful(before: &Breaker, now: Duration, conversation: &str, admission: Admission) {
    let now = now.max(before.seen);
    let mut leases = before.leases.iter().filter(|lease| lease.expires > now).count();
    match (admission, before.phase) {
        (Admission::Refuse { retry_at }, _) => assert!(retry_at > now, "asking again at once would spin"),
        (Admission::Pass { .. }, phase) => assert_eq!(phase, Phase::Closed),
        (Admission::Probe { .. }, Phase::Open { until, .. }) if now < until => {
            assert!(!before.suspects.contains(&hash(conversation)) && before.may_be_poison());
            assert_eq!(leases, 0);
        }
        (Admission::Probe { .. }, phase) => {
            assert_ne!(phase, Phase::Closed);
            assert_eq!(before.mode, Mode::Auto);
            leases += 1;
        }
    }
    assert!(leases <= before.config.probes as usize, "more leases than probes");
}

fn outcome_is_lawful(before: &Breaker, after: &Breaker, now: Duration, call: &Call, changed: Option<Transition>) {
    let now = now.max(before.seen);
    let lease_lives = |id| before.leases.iter().any(|lease| lease.id == id && lease.expires > now);
    let stale = call.generation != before.generation;
    let powerless = stale || (before.phase != Phase::Closed && !call.lease.is_some_and(lease_lives));
    if powerless {
        assert_eq!(changed, None);
        assert_eq!(after.snapshot(now).window, before.snapshot(now).window);
        assert_eq!(
            (after.phase, after.consecutive, &after.suspects),
            (before.phase, before.consecutive, &before.suspects)
        );
    }
    assert!(!call.lease.is_some_and(|id| after.leases.iter().any(|lease| lease.id == id)), "the lease is free");
}

struct World {
    breaker: Breaker,
    now: Duration,
    calls: Vec<Call>,
}

impl World {
    fn take(&mut self, step: Step) {
        let before = self.breaker.clone();
        match step {
            Step::Ask { conversation, others_waiting } => {
                let conversation = format!("c{conversation}");
                let caller = Caller { conversation: &conversation, message: &conversation };
                let admission = self.breaker.admit(self.now, caller, TIMEOUT, others_waiting);
                admission_is_lawful(&before, self.now, &conversation, admission);
                let (generation, lease) = match admission {
                    Admission::Pass { generation } => (generation, None),
                    Admission::Probe { generation, lease } => (generation, Some(lease)),
                    Admission::Refuse { .. } => return,
                };
                self.calls.push(Call { conversation, generation, lease });
            }
            Step::End { which, outcome } => {
                let Some(call) = self.any_call(which) else { return };
                let caller = Caller { conversation: &call.conversation, message: &call.conversation };
                let report = Report { caller, generation: call.generation, lease: call.lease, outcome };
                let changed = self.breaker.record(self.now, report, 0.5);
                outcome_is_lawful(&before, &self.breaker, self.now, &call, changed);
            }
            Step::Vanish { which } => drop(self.any_call(which)),
            Step::Pass { ms } => self.now += Duration::from_millis(ms),
            Step::ClockGoesBack { ms } => self.now = self.now.saturating_sub(Duration::from_millis(ms)),
            Step::Force(mode) => drop(self.breaker.force(self.now, mode)),
        }
        let (before, after) = (before.generation, self.breaker.generation);
        assert!(after >= before && after <= before + 2, "a half-opening and one more change at most");
        assert!(self.breaker.suspects.len() <= self.breaker.threshold());
        assert!(self.breaker.leases.len() <= self.breaker.config.probes as usize);
    }

    fn any_call(&mut self, which: usize) -> Option<Call> {
        let count = self.calls.len();
        (count > 0).then(|| self.calls.swap_remove(which % count))
    }

    /// The service is well again, but the first probers vanish.
    fn heals(&mut self, mut vanishing: usize) {
        self.breaker.force(self.now, Mode::Auto);
        for attempt in 0..1000 {
            let name = format!("m{attempt}");
            let caller = Caller { conversation: &name, message: &name };
            let (generation, lease) = match self.breaker.admit(self.now, caller, TIMEOUT, true) {
                Admission::Pass { .. } => return,
                Admission::Refuse { retry_at } => {
                    self.now = retry_at;
                    continue;
                }
                Admission::Probe { .. } if vanishing > 0 => {
                    vanishing -= 1;
                    continue;
                }
                Admission::Probe { generation, lease } => (generation, Some(lease)),
            };
            self.breaker.record(self.now, Report { caller, generation, lease, outcome: FAST }, 0.5);
        }
        panic!("wedged: {:?}", self.breaker);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_admission_and_outcome_is_lawful_and_the_breaker_never_wedges(
        config in config(),
        steps in prop::collection::vec(step(), 0..250),
        vanishing in 0..5usize,
    ) {
        let mut world = World { breaker: Breaker::new(config), now: Duration::ZERO, calls: Vec::new() };
        for step in steps {
            world.take(step);
        }
        world.heals(vanishing);
    }

    /// However often one conversation fails, a success in between each four failures keeps the breaker closed.
    #[test]
    fn one_conversation_among_successes_never_opens_it(
        bursts in prop::collection::vec((0..5u32, 1..4u32, 0..20_000u64), 1..200),
    ) {
        let mut breaker = Breaker::new(Config::default());
        let mut now = Duration::ZERO;
        for (failures, successes, pause_ms) in bursts {
            let calls = (0..failures).map(|_| ("poison", DOWN)).chain((0..successes).map(|_| ("healthy", FAST)));
            for (conversation, outcome) in calls {
                let caller = Caller { conversation, message: conversation };
                let Admission::Pass { generation } = breaker.admit(now, caller, TIMEOUT, false) else {
                    panic!("opened by one conversation");
                };
                breaker.record(now, Report { caller, generation, lease: None, outcome }, 0.5);
            }
            now += Duration::from_millis(pause_ms);
        }
        prop_assert_eq!(breaker.state(), State::Closed);
    }

    /// A dead service gets `failure_threshold` calls, one for each further suspect, then only due probes.
    #[test]
    fn a_dead_service_is_left_alone(callers in prop::collection::vec((0..30u8, 0..2_000u64), 1..400)) {
        let mut breaker = Breaker::new(Config::default());
        let (mut now, mut calls, mut due_probes) = (Duration::ZERO, 0, 0);
        for (conversation, pause_ms) in callers {
            let name = format!("c{conversation}");
            let caller = Caller { conversation: &name, message: &name };
            let (generation, lease) = match breaker.admit(now, caller, TIMEOUT, true) {
                Admission::Pass { generation } => (generation, None),
                Admission::Probe { generation, lease } => (generation, Some(lease)),
                Admission::Refuse { .. } => {
                    now += Duration::from_millis(pause_ms);
                    continue;
                }
            };
            calls += 1;
            due_probes += u32::from(breaker.state() == State::HalfOpen);
            breaker.record(now, Report { caller, generation, lease, outcome: DOWN }, 0.0);
        }
        prop_assert!(calls - due_probes < 2 * 5, "{calls} calls, {due_probes} of them due");
        prop_assert!(u64::from(due_probes) <= 1 + now.as_secs() / 60);
    }
}
