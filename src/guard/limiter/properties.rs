//! What holds under any policy, whatever holders do with their permits and whatever the clock does: of the machine in
//! here and of the quota that a fleet shares.

use proptest::prelude::*;

use super::{limits::Rules, shared_tests::Server, *};

/// What keeps a service's limits.
pub(super) trait Subject {
    fn reserve(&mut self, now: Duration, tokens: u64, max_wait: Duration) -> Reservation;
    /// What a request of so many tokens is booked with.
    fn booked(&self, tokens: u64) -> u64;
    fn void(&mut self, now: Duration, seq: u64);
    fn settle(&mut self, now: Duration, seq: u64, tokens: u64);
    fn is_valid(&self, epoch: u64) -> bool;
    /// Takes notice of the time.
    fn look(&mut self, now: Duration);
    fn pause(&mut self, now: Duration, until: Duration);
    fn throttled(&mut self, now: Duration, retry_after: Option<Duration>, unit_random: f64);
    fn succeeded(&mut self, now: Duration);
    fn limit_header(&mut self, now: Duration, requests_per_minute: u64);
}

impl Subject for Limiter {
    fn reserve(&mut self, now: Duration, tokens: u64, max_wait: Duration) -> Reservation {
        self.reserve(now, tokens, max_wait)
    }

    fn booked(&self, tokens: u64) -> u64 {
        self.log.rules.tokens.map_or(tokens, |rule| tokens.min(rule.limit))
    }

    fn void(&mut self, _: Duration, seq: u64) {
        self.void(seq);
    }

    fn settle(&mut self, _: Duration, seq: u64, tokens: u64) {
        self.settle(seq, tokens);
    }

    fn is_valid(&self, epoch: u64) -> bool {
        self.is_valid(epoch)
    }

    fn look(&mut self, now: Duration) {
        self.advance(now);
    }

    fn pause(&mut self, now: Duration, until: Duration) {
        self.pause(now, until);
    }

    fn throttled(&mut self, now: Duration, retry_after: Option<Duration>, unit_random: f64) {
        self.throttled(now, retry_after, unit_random);
    }

    fn succeeded(&mut self, now: Duration) {
        self.succeeded(now);
    }

    fn limit_header(&mut self, now: Duration, requests_per_minute: u64) {
        self.limit_header(now, requests_per_minute);
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Reserve { tokens: u64, max_wait_ms: u64, end: End },
    Pass { ms: u64 },
    ClockStepsBack { ms: u64 },
    Cancel { which: usize },
    Pause { ms: u64 },
    Throttled { retry_after_ms: Option<u64> },
    Succeeded,
    LimitHeader(u64),
}

/// What the holder of a permit does when it begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// Uses it after this many thousandths of its validity, and has really cost this share of the estimate in percent.
    Use { permille: u32, cost_percent: u64 },
    /// Wakes up too late and gives it back.
    Late,
}

#[derive(Clone, Copy, Debug)]
struct Permit {
    at: Duration,
    until: Duration,
    seq: u64,
    epoch: u64,
    tokens: u64,
    end: End,
}

/// A request as the service sees it.
#[derive(Clone, Copy, Debug)]
struct Use {
    at: Duration,
    tokens: u64,
}

struct World<S> {
    limiter: S,
    now: Duration,
    permits: Vec<Permit>,
    uses: Vec<Use>,
}

impl Permit {
    fn wakes_at(&self) -> Duration {
        match self.end {
            End::Use { permille, .. } => {
                self.at + Duration::from_micros((self.until - self.at).as_micros() as u64 * u64::from(permille) / 1000)
            }
            End::Late => self.until + Duration::from_micros(1),
        }
    }
}

impl<S: Subject> World<S> {
    fn new(limiter: S) -> Self {
        Self { limiter, now: Duration::ZERO, permits: Vec::new(), uses: Vec::new() }
    }

    fn take(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Reserve { tokens, max_wait_ms, end } => {
                self.reserve(now, tokens, Duration::from_millis(max_wait_ms), end)
            }
            Step::Pass { ms } => self.pass(Duration::from_millis(ms)),
            Step::ClockStepsBack { ms } => {
                self.limiter.look(now);
                let earlier = now.saturating_sub(Duration::from_millis(ms));
                self.reserve(earlier, 1, Duration::from_secs(5), End::Use { permille: 0, cost_percent: 100 });
            }
            Step::Cancel { which } => {
                if let Some(permit) =
                    (!self.permits.is_empty()).then(|| self.permits.swap_remove(which % self.permits.len()))
                {
                    self.limiter.void(now, permit.seq);
                }
            }
            Step::Pause { ms } => self.limiter.pause(now, now + Duration::from_millis(ms)),
            Step::Throttled { retry_after_ms } => {
                self.limiter.throttled(now, retry_after_ms.map(Duration::from_millis), 0.5)
            }
            Step::Succeeded => self.limiter.succeeded(now),
            Step::LimitHeader(requests) => self.limiter.limit_header(now, requests),
        }
    }

    fn reserve(&mut self, now: Duration, tokens: u64, max_wait: Duration, end: End) {
        match self.limiter.reserve(now, tokens, max_wait) {
            Reservation::Granted { at, until, seq, epoch } => {
                assert!(at >= self.now && at <= self.now + max_wait);
                assert!(self.limiter.is_valid(epoch));
                let valid = |permit: &&Permit| self.limiter.is_valid(permit.epoch);
                assert!(self.permits.iter().filter(valid).all(|earlier| earlier.at <= at), "overtaken");
                let tokens = self.limiter.booked(tokens);
                self.permits.push(Permit { at, until, seq, epoch, tokens, end });
            }
            Reservation::Refused { at } => assert!(at > self.now),
        }
    }

    /// Lets time go by; holders wake up on the way, in order.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some((index, permit)) = self
            .permits
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, permit)| permit.wakes_at() <= end)
            .min_by_key(|(_, permit)| permit.wakes_at())
        {
            self.permits.swap_remove(index);
            self.now = self.now.max(permit.wakes_at());
            match permit.end {
                End::Use { cost_percent, .. } if self.limiter.is_valid(permit.epoch) => {
                    let tokens = permit.tokens * cost_percent / 100;
                    self.limiter.settle(self.now, permit.seq, tokens);
                    self.uses.push(Use { at: self.now, tokens });
                }
                _ => self.limiter.void(self.now, permit.seq),
            }
        }
        self.now = end;
    }
}

/// The first rule that the service would see broken.
fn violation(uses: &[Use], limits: &Limits) -> Option<String> {
    let rules = Rules::of(limits, None, 1.0);
    for rule in &rules.windows {
        let limit = rule.limit as usize;
        let crowded = uses.windows(limit + 1).find(|few| few[limit].at - few[0].at < rule.span);
        if let Some(few) = crowded {
            return Some(format!("{} requests within {:?}", few.len(), few[limit].at - few[0].at));
        }
    }
    for (index, first) in uses.iter().enumerate() {
        let (mut requests, mut tokens) = (0u128, 0u64);
        for last in &uses[index..] {
            let span = last.at - first.at;
            (requests, tokens) = (requests + 1, tokens + last.tokens);
            if rules.tokens.is_some_and(|rule| span < rule.span && tokens > rule.limit) {
                return Some(format!("{tokens} tokens within {span:?}"));
            }
            let over = |bucket: limits::Bucket| {
                requests.saturating_sub(u128::from(bucket.capacity)) * bucket.interval.as_nanos() > span.as_nanos()
            };
            if rules.bucket.is_some_and(over) {
                return Some(format!("burst: {requests} requests within {span:?}"));
            }
        }
    }
    None
}

fn limits() -> impl Strategy<Value = Limits> {
    let window =
        (1..12u64, 20..3000u64).prop_map(|(requests, ms)| WindowLimit { requests, per: Duration::from_millis(ms) });
    let maybe = |range: std::ops::Range<u64>| prop_oneof![3 => Just(0), 1 => range];
    (0..6u32, maybe(20..200), maybe(100..400), maybe(50..500), prop::collection::vec(window, 0..3)).prop_map(
        |(burst, per_minute, per_hour, tokens_per_minute, windows)| Limits {
            burst,
            per_minute,
            per_hour,
            tokens_per_minute,
            windows,
            pace_hour: false,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        5 => (0..=1000u32, 0..=100u64).prop_map(|(permille, cost_percent)| End::Use { permille, cost_percent }),
        2 => Just(End::Use { permille: 1000, cost_percent: 100 }),
        2 => Just(End::Use { permille: 0, cost_percent: 100 }),
        1 => Just(End::Late),
    ];
    let wait = prop_oneof![Just(0), 0..3_000u64, Just(100_000)];
    prop_oneof![
        24 => (0..80u64, wait, end).prop_map(|(tokens, max_wait_ms, end)| Step::Reserve { tokens, max_wait_ms, end }),
        12 => prop_oneof![4 => 0..300u64, 1 => 0..20_000u64].prop_map(|ms| Step::Pass { ms }),
        1 => (0..5_000u64).prop_map(|ms| Step::ClockStepsBack { ms }),
        3 => any::<usize>().prop_map(|which| Step::Cancel { which }),
        1 => (0..2_000u64).prop_map(|ms| Step::Pause { ms }),
        1 => prop::option::of(0..2_000u64).prop_map(|retry_after_ms| Step::Throttled { retry_after_ms }),
        1 => Just(Step::Succeeded),
        1 => (0..300u64).prop_map(Step::LimitHeader),
    ]
}

/// Asks again and again, as soon as the last permit began; returns the number of permits up to `horizon`.
fn saturate(limiter: &mut impl Subject, horizon: Duration) -> u128 {
    let (mut now, mut granted) = (Duration::ZERO, 0);
    loop {
        match limiter.reserve(now, 0, Duration::MAX) {
            Reservation::Granted { at, .. } if at <= horizon => (now, granted) = (at, granted + 1),
            Reservation::Granted { .. } => return granted,
            Reservation::Refused { at } => panic!("refused until {at:?}"),
        }
    }
}

/// The shortest even pace that keeps every rule; nobody who keeps the rules is faster than a greedy limiter.
fn even_pace(limits: &Limits, validity: Duration) -> Duration {
    let rules = Rules::of(limits, None, 1.0);
    let window_pace = |rule: &limits::Rule| (rule.span + validity).as_nanos().div_ceil(u128::from(rule.limit));
    let windows = rules.windows.iter().map(window_pace).max().unwrap_or(0);
    let bucket = rules.bucket.map_or(0, |bucket| {
        let late = (bucket.interval + validity).as_nanos().div_ceil(u128::from(bucket.capacity));
        bucket.interval.as_nanos().max(late)
    });
    Duration::from_nanos(windows.max(bucket) as u64)
}

/// Lives through the steps; the first rule that the service saw broken.
fn live(subject: impl Subject, limits: &Limits, steps: Vec<Step>) -> Option<String> {
    let mut world = World::new(subject);
    for step in steps {
        world.take(step);
    }
    world.pass(Duration::from_secs(200));
    violation(&world.uses, limits)
}

/// Exactly as many permits as the best even pace has, or more; and at least 99 % of what is configured when V is at most
/// a hundredth of each window and the bucket tolerates V.
fn wastes_nothing(granted: u128, limits: &Limits, validity: Duration, horizon: Duration) -> bool {
    let pace = even_pace(limits, validity);
    let rules = Rules::of(limits, None, 1.0);
    let is_small = rules.windows.iter().all(|rule| validity * 100 <= rule.span)
        && rules.bucket.is_none_or(|bucket| validity <= bucket.interval * (bucket.capacity - 1));
    let ideal = even_pace(limits, Duration::ZERO);
    granted > horizon.as_nanos() / pace.as_nanos()
        && (!is_small || granted * 100 >= 99 * (horizon.as_nanos() / ideal.as_nanos()))
}

/// Limits on requests only, and at least one.
fn with_a_window(limits: Limits) -> Limits {
    let has_window = !limits.windows.is_empty() || limits.per_hour > 0;
    let per_minute = if has_window { limits.per_minute } else { limits.per_minute.max(20) };
    Limits { per_minute, tokens_per_minute: 0, ..limits }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_rule_is_ever_broken_at_the_service(
        limits in limits(),
        validity_ms in 0..40u64,
        steps in prop::collection::vec(step(), 0..400),
    ) {
        let limiter = Limiter::new(limits.clone(), Duration::from_millis(validity_ms));
        prop_assert_eq!(live(limiter, &limits, steps), None);
    }

    #[test]
    fn a_saturated_limiter_wastes_nothing(limits in limits(), validity_ms in 0..40u64) {
        let limits = with_a_window(limits);
        let (validity, horizon) = (Duration::from_millis(validity_ms), Duration::from_secs(300));
        let granted = saturate(&mut Limiter::new(limits.clone(), validity), horizon);
        prop_assert!(wastes_nothing(granted, &limits, validity, horizon));
    }
}

proptest! {
    // Each step is a call to a server of our own; these run for some ten seconds.
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_rule_is_ever_broken_at_the_service_by_the_fleet(
        limits in limits(),
        validity_ms in 0..40u64,
        steps in prop::collection::vec(step(), 0..400),
    ) {
        let validity = Duration::from_millis(validity_ms);
        prop_assert_eq!(live(Server::shared().quota(&limits, validity), &limits, steps), None);
    }

    #[test]
    fn a_saturated_quota_of_the_fleet_wastes_nothing(limits in limits(), validity_ms in 0..40u64) {
        let limits = with_a_window(limits);
        let (validity, horizon) = (Duration::from_millis(validity_ms), Duration::from_secs(60));
        let granted = saturate(&mut Server::shared().quota(&limits, validity), horizon);
        prop_assert!(wastes_nothing(granted, &limits, validity, horizon));
    }

    #[test]
    fn the_fleet_decides_as_the_machine_does(
        limits in limits(),
        validity_ms in 0..40u64,
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let validity = Duration::from_millis(validity_ms);
        let (machine, quota) = (Limiter::new(limits.clone(), validity), Server::shared().quota(&limits, validity));
        prop_assert_eq!(live(Both { machine, quota }, &limits, steps), None);
    }
}

/// The machine and the quota side by side; they must agree on everything.
struct Both<Q> {
    machine: Limiter,
    quota: Q,
}

impl<Q: Subject> Subject for Both<Q> {
    fn reserve(&mut self, now: Duration, tokens: u64, max_wait: Duration) -> Reservation {
        let decided = self.machine.reserve(now, tokens, max_wait);
        assert_eq!(Subject::reserve(&mut self.quota, now, tokens, max_wait), decided);
        decided
    }

    fn booked(&self, tokens: u64) -> u64 {
        let booked = self.machine.booked(tokens);
        assert_eq!(self.quota.booked(tokens), booked);
        booked
    }

    fn void(&mut self, now: Duration, seq: u64) {
        self.machine.void(seq);
        self.quota.void(now, seq);
    }

    fn settle(&mut self, now: Duration, seq: u64, tokens: u64) {
        self.machine.settle(seq, tokens);
        self.quota.settle(now, seq, tokens);
    }

    fn is_valid(&self, epoch: u64) -> bool {
        assert_eq!(self.quota.is_valid(epoch), self.machine.is_valid(epoch));
        self.machine.is_valid(epoch)
    }

    fn look(&mut self, now: Duration) {
        self.machine.look(now);
        self.quota.look(now);
    }

    fn pause(&mut self, now: Duration, until: Duration) {
        self.machine.pause(now, until);
        self.quota.pause(now, until);
    }

    fn throttled(&mut self, now: Duration, retry_after: Option<Duration>, unit_random: f64) {
        self.machine.throttled(now, retry_after, unit_random);
        self.quota.throttled(now, retry_after, unit_random);
    }

    fn succeeded(&mut self, now: Duration) {
        self.machine.succeeded(now);
        self.quota.succeeded(now);
    }

    fn limit_header(&mut self, now: Duration, requests_per_minute: u64) {
        self.machine.limit_header(now, requests_per_minute);
        self.quota.limit_header(now, requests_per_minute);
    }
}

/// Three at once each second, with each first permit used as late as it may be and the others as early.
fn worst_case(mutate: impl Fn(&mut Limiter)) -> Option<String> {
    let window = WindowLimit { requests: 3, per: Duration::from_secs(1) };
    let limits = Limits { windows: vec![window], ..Limits::NONE };
    let mut world = World::new(Limiter::new(limits.clone(), Duration::from_millis(20)));
    mutate(&mut world.limiter);
    for round in 0..60 {
        let permille = if round % 6 < 3 { 1000 } else { 0 };
        world.take(Step::Reserve { tokens: 0, max_wait_ms: 100_000, end: End::Use { permille, cost_percent: 100 } });
    }
    world.pass(Duration::from_secs(100));
    assert_eq!(world.uses.len(), 60);
    violation(&world.uses, &limits)
}

#[test]
fn the_check_finds_a_window_that_is_a_nanosecond_short() {
    assert_eq!(worst_case(|_| ()), None);
    assert!(worst_case(|limiter| limiter.log.rules.windows[0].span -= Duration::from_nanos(1)).is_some());
    assert!(worst_case(|limiter| limiter.log.rules.windows[0].limit += 1).is_some());
}

#[test]
fn the_check_finds_permits_that_outlive_their_validity() {
    let outlive = |world: &mut World<Limiter>| {
        world.permits.iter_mut().for_each(|permit| permit.until += Duration::from_micros(1))
    };
    let window = WindowLimit { requests: 1, per: Duration::from_secs(1) };
    let limits = Limits { windows: vec![window], ..Limits::NONE };
    let mut world = World::new(Limiter::new(limits.clone(), Duration::from_millis(20)));
    for permille in [1000, 0] {
        world.take(Step::Reserve { tokens: 0, max_wait_ms: 100_000, end: End::Use { permille, cost_percent: 100 } });
        outlive(&mut world);
    }
    world.pass(Duration::from_secs(10));
    assert!(violation(&world.uses, &limits).is_some());
}
