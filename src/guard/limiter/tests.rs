//! The limiter's rules, one by one.

use super::*;

const VALIDITY: Duration = Duration::from_millis(300);
const NONE: Limits = Limits::NONE;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Reserves without a limit to the wait and returns when and under which number.
fn take(limiter: &mut Limiter, now: Duration, tokens: u64) -> (Duration, u64) {
    match limiter.reserve(now, tokens, Duration::MAX) {
        Reservation::Granted { at, seq, .. } => (at, seq),
        Reservation::Refused { at } => panic!("refused until {at:?}"),
    }
}

#[test]
fn a_burst_goes_at_once_and_the_rest_at_the_pace_of_the_minute() {
    let mut limiter = Limiter::new(Limits::default(), VALIDITY);
    let times: Vec<_> = (0..22).map(|_| take(&mut limiter, secs(1), 0).0).collect();
    assert!(times[..20].iter().all(|at| *at == secs(1)));
    assert_eq!(times[20..], [secs(1) + millis(900), secs(1) + millis(1500)], "an interval and V later");
}

#[test]
fn a_saturated_default_uses_more_than_99_percent_of_its_minutes_and_hours() {
    let mut limiter = Limiter::new(Limits::default(), VALIDITY);
    let (mut now, mut times) = (Duration::ZERO, Vec::new());
    while now < secs(2 * 3600) {
        now = take(&mut limiter, now, 0).0;
        times.push(now);
    }
    let until = |end: u64| times.iter().filter(|at| **at < secs(end)).count();
    assert!(until(45 * 60) >= 45 * 100 * 99 / 100, "{} in 45 minutes", until(45 * 60));
    assert_eq!(until(3600), 5000);
    assert!(until(7200) >= 2 * 5000 * 99 / 100, "{} in two hours", until(7200));
    assert!(times.windows(101).all(|few| few[100] - few[0] >= secs(60) + VALIDITY));
}

/// How many are let through in so many seconds by one who never stops asking.
fn through(limits: &Limits, within: Duration) -> usize {
    let (mut limiter, mut now) = (Limiter::new(limits.clone(), VALIDITY), Duration::ZERO);
    let times = std::iter::repeat_with(|| {
        now = take(&mut limiter, now, 0).0;
        now
    });
    times.take_while(|at| *at < within).count()
}

#[test]
fn a_burst_that_holds_calls_up_is_told_with_the_least_that_does_not() {
    let of = |per_minute, per_hour, windows: &[(u64, u64)], burst| {
        let windows = windows.iter().map(|(requests, per)| WindowLimit { requests: *requests, per: secs(*per) });
        Limits { per_minute, per_hour, windows: windows.collect(), burst, ..NONE }
    };
    for (limits, enough, told) in [
        (of(10_000, 0, &[], 20), 51, (3921.6, 10_000.0)),
        (of(10_000, 0, &[], 50), 51, (9803.9, 10_000.0)),
        (of(100, 0, &[], 1), 2, (66.7, 100.0)),
        (of(7, 0, &[], 1), 2, (6.8, 7.0)),
        (of(10_000, 5_000, &[], 20), 26, (3921.6, 5_000.0)),
        (of(0, 0, &[(100, 1)], 20), 24, (3871.0, 4615.4)),
    ] {
        let slow = limits.slow_burst(VALIDITY).unwrap();
        let rounded = |rate: f64| (rate * 10.0).round() / 10.0;
        assert_eq!((slow.enough, rounded(slow.per_minute), rounded(slow.others_per_minute)), (enough, told.0, told.1));
        let better = Limits { burst: enough, ..limits.clone() };
        assert_eq!(better.slow_burst(VALIDITY), None, "{better:?}");
        let counts = |limits: &Limits| [60, 300].map(|seconds| through(limits, secs(seconds)));
        assert!(counts(&limits) < counts(&better), "{limits:?}");
        let best = through(&Limits { burst: u32::MAX, ..limits }, secs(60));
        assert!(through(&better, secs(60)) * 100 >= best * 98, "{better:?}");
    }
}

#[test]
fn a_burst_that_holds_nothing_up_is_not_told_of() {
    let window = |requests, per| vec![WindowLimit { requests, per: secs(per) }];
    for limits in [
        Limits::default(),
        Limits { burst: 0, ..Limits::default() },
        Limits { per_minute: 1, burst: 1, ..NONE },
        Limits { per_hour: 30, burst: 1, ..NONE },
        Limits { windows: window(100, 1), burst: 25, ..NONE },
        Limits { per_minute: 600, windows: window(5, 1), burst: 3, ..NONE },
    ] {
        assert_eq!(limits.slow_burst(VALIDITY), None, "{limits:?}");
    }
}

#[test]
fn a_wait_that_is_too_long_reserves_nothing() {
    let mut limiter = Limiter::new(Limits { per_minute: 1, ..NONE }, VALIDITY);
    take(&mut limiter, secs(0), 0);
    let free_at = secs(60) + VALIDITY;
    for _ in 0..3 {
        assert_eq!(limiter.reserve(secs(1), 0, secs(59)), Reservation::Refused { at: free_at });
    }
    assert_eq!(take(&mut limiter, secs(60), 0).0, free_at, "the first may have been used as late as 0.3 s");
}

#[test]
fn a_voided_permit_is_as_if_it_had_never_been() {
    let mut limiter = Limiter::new(Limits { per_minute: 2, burst: 2, ..NONE }, VALIDITY);
    let fresh = format!("{:?}", limiter.used(secs(0)));
    let first = take(&mut limiter, secs(0), 0).1;
    let second = take(&mut limiter, secs(0), 0).1;
    let (far, third) = take(&mut limiter, secs(0), 0);
    assert_eq!(far, secs(60) + VALIDITY);
    for seq in [third, first, second, second] {
        limiter.void(seq);
    }
    assert_eq!(format!("{:?}", limiter.used(secs(0))), fresh);
    assert_eq!(take(&mut limiter, secs(0), 0).0, secs(0), "the place far ahead holds nobody up");
}

#[test]
fn permits_that_wake_late_are_exchanged_without_wasting_the_limit() {
    let limits = Limits { per_minute: 100, burst: 20, ..NONE };
    let mut limiter = Limiter::new(limits, VALIDITY);
    let (mut now, mut uses) = (Duration::ZERO, 0);
    for attempt in 0u64.. {
        let (at, seq) = take(&mut limiter, now, 0);
        if at > secs(600) {
            break;
        }
        let late = attempt % 4 != 0;
        now = if late { at + VALIDITY + millis(1) } else { at };
        uses += u32::from(!late);
        if late {
            limiter.void(seq);
        }
    }
    // One worker who is late three times of four spends 0.9 s for each use at least, beside the pace of the limit.
    assert!(uses >= 600 * 10 / 15, "{uses}");
}

#[test]
fn tokens_wait_for_room_and_a_settled_estimate_makes_it() {
    let mut limiter = Limiter::new(Limits { tokens_per_minute: 1000, ..NONE }, VALIDITY);
    let (_, first) = take(&mut limiter, secs(0), 600);
    let (_, second) = take(&mut limiter, secs(10), 400);
    let free = |limiter: &Limiter, tokens| take(&mut limiter.clone(), secs(20), tokens).0;
    assert_eq!(free(&limiter, 0), secs(20), "nothing needs no room");
    assert_eq!(free(&limiter, 600), secs(60) + VALIDITY);
    assert_eq!(free(&limiter, 601), secs(70) + VALIDITY);
    limiter.settle(first, 100);
    assert_eq!(free(&limiter, 500), secs(20));
    limiter.settle(second, 5000);
    assert_eq!(free(&limiter, 1), secs(70) + VALIDITY, "more than estimated");
    limiter.settle(999, 1);
}

#[test]
fn a_request_larger_than_the_token_window_takes_all_of_it() {
    let mut limiter = Limiter::new(Limits { tokens_per_minute: 1000, ..NONE }, VALIDITY);
    assert_eq!(take(&mut limiter, secs(0), u64::MAX).0, secs(0));
    assert_eq!(take(&mut limiter, secs(1), 1).0, secs(60) + VALIDITY);
}

#[test]
fn a_pause_makes_earlier_permits_invalid_and_frees_the_places_ahead() {
    let mut limiter = Limiter::new(Limits { per_minute: 1, ..NONE }, VALIDITY);
    take(&mut limiter, secs(0), 0);
    take(&mut limiter, secs(1), 0);
    let epoch = limiter.epoch();
    limiter.pause(secs(1), secs(90));
    assert!(!limiter.is_valid(epoch));
    limiter.pause(secs(2), secs(30));
    assert_eq!(limiter.epoch(), epoch + 1, "a shorter pause changes nothing");
    assert_eq!(limiter.paused_until(secs(2)), Some(secs(90)));
    assert_eq!(take(&mut limiter, secs(2), 0).0, secs(90));
    assert_eq!(limiter.paused_until(secs(90)), None);
}

#[test]
fn a_permit_that_may_be_in_use_survives_a_pause() {
    let mut limiter =
        Limiter::new(Limits { windows: vec![WindowLimit { requests: 1, per: secs(1) }], ..NONE }, VALIDITY);
    take(&mut limiter, secs(0), 0);
    let (at, _) = take(&mut limiter, secs(0), 0);
    limiter.pause(at, at + millis(1));
    assert_eq!(take(&mut limiter, at, 0).0, at + secs(1) + VALIDITY);
}

#[test]
fn a_429_pauses_for_the_time_it_names_up_to_ten_minutes() {
    let table = [(Some(20), secs(20)), (Some(3600), secs(600)), (None, millis(1100)), (Some(0), millis(1100))];
    for (retry_after, pause) in table {
        let mut limiter = Limiter::new(Limits::default(), VALIDITY);
        limiter.throttled(secs(5), retry_after.map(secs), 0.5);
        assert_eq!(limiter.paused_until(secs(5)), Some(secs(5) + pause), "{retry_after:?}");
        assert!(limiter.factor() < 1.0, "a limit that meets a 429 is too high, whatever time it names");
    }
}

#[test]
fn a_lowered_limit_does_not_take_a_busy_hour_for_a_debt() {
    let mut limiter =
        Limiter::new(Limits { per_hour: 0, windows: vec![hourly(100_000)], ..Limits::default() }, VALIDITY);
    let mut now = secs(0);
    while now < secs(3000) {
        now = take(&mut limiter, now, 0).0;
    }
    limiter.throttled(now, Some(secs(1)), 0.0);
    let next = take(&mut limiter, now, 0).0;
    assert!(next <= now + secs(60), "waits {:?}", next - now);
}

fn hourly(requests: u64) -> WindowLimit {
    WindowLimit { requests, per: secs(3600) }
}

#[test]
fn one_incident_lowers_the_limits_once_and_successes_raise_them_again() {
    let mut limiter = Limiter::new(Limits::default(), VALIDITY);
    for _ in 0..32 {
        limiter.throttled(secs(0), None, 0.0);
    }
    let limit = |limiter: &Limiter| limiter.used(secs(0))[0].limit;
    assert_eq!(limit(&limiter), 70);
    limiter.throttled(secs(1), None, 0.0);
    assert_eq!(limiter.paused_until(secs(1)), Some(secs(3)));
    assert_eq!(limit(&limiter), 49);
    for minute in 1..=11 {
        assert!(limit(&limiter) < 100);
        limiter.succeeded(secs(1 + minute * 60));
    }
    assert_eq!(limit(&limiter), 100);
}

#[test]
fn the_service_may_lower_the_limit_per_minute_but_not_raise_it() {
    let mut limiter = Limiter::new(Limits::default(), VALIDITY);
    let told = |limiter: &mut Limiter, requests| {
        limiter.limit_header(secs(0), requests);
        (limiter.used(secs(0))[0].limit, limiter.epoch())
    };
    assert_eq!(told(&mut limiter, 500), (100, 0));
    assert_eq!(told(&mut limiter, 0), (100, 0));
    assert_eq!(told(&mut limiter, 60), (60, 1));
    assert_eq!(told(&mut limiter, 60), (60, 1));
    assert_eq!(told(&mut limiter, 80), (80, 1));
}

#[test]
fn new_limits_hold_at_once_for_what_was_used_before() {
    let mut limiter = Limiter::new(Limits { per_minute: 10, ..NONE }, VALIDITY);
    for _ in 0..10 {
        take(&mut limiter, secs(0), 0);
    }
    limiter.set_limits(secs(1), Limits { per_minute: 12, ..NONE });
    assert_eq!([secs(1), secs(1), secs(60) + VALIDITY], [0; 3].map(|_| take(&mut limiter, secs(1), 0).0));
    assert!(!limiter.is_valid(0));
    limiter.set_limits(secs(2), Limits { per_minute: 1, ..NONE });
    assert_eq!(take(&mut limiter, secs(2), 0).0, secs(61) + VALIDITY);
    limiter.set_limits(secs(3), NONE);
    assert!(take(&mut limiter, secs(70), 0).0 == secs(70) && take(&mut limiter, secs(70), 0).0 == secs(70));
}

#[test]
fn without_limits_nothing_is_remembered_and_only_a_pause_holds() {
    let mut limiter = Limiter::new(Limits { burst: 20, ..NONE }, VALIDITY);
    for _ in 0..10_000 {
        assert_eq!(take(&mut limiter, secs(1), 1_000_000).0, secs(1));
    }
    assert_eq!(limiter.log.len(), 0);
    limiter.throttled(secs(1), Some(secs(7)), 0.0);
    assert_eq!(take(&mut limiter, secs(2), 0).0, secs(8));
}

#[test]
fn the_log_is_bounded_by_the_largest_limit_and_the_places_ahead() {
    let mut limiter = Limiter::new(Limits { per_minute: 50, ..NONE }, VALIDITY);
    let granted =
        (0..5000).filter(|_| matches!(limiter.reserve(secs(0), 0, Duration::MAX), Reservation::Granted { .. })).count();
    assert_eq!((granted, limiter.log.len()), (50 + 1024, 50 + 1024));
    let Reservation::Refused { at } = limiter.reserve(secs(0), 0, Duration::MAX) else { panic!("no bound") };
    assert!(at > secs(60));
    limiter.advance(secs(100_000));
    assert_eq!(limiter.log.len(), 0);
}

#[test]
fn the_clock_never_goes_back() {
    let mut limiter = Limiter::new(Limits { per_minute: 1, ..NONE }, VALIDITY);
    assert_eq!(take(&mut limiter, secs(100), 0).0, secs(100));
    assert_eq!(take(&mut limiter, secs(5), 0).0, secs(160) + VALIDITY);
}

#[test]
fn use_is_told_for_each_limit() {
    let mut limiter = Limiter::new(Limits { tokens_per_minute: 500, per_minute: 3, burst: 2, ..NONE }, VALIDITY);
    for _ in 0..4 {
        take(&mut limiter, secs(0), 100);
    }
    let uses = limiter.used(secs(0));
    let told: Vec<_> = uses.iter().map(|each| (each.kind, each.limit, each.used, each.reserved)).collect();
    assert_eq!(told, [("requests", 3, 2, 2), ("tokens", 500, 200, 200), ("burst", 2, 2, 0)]);
    assert_eq!(serde_json::to_value(&uses[0]).unwrap()["per_ms"], 60_000);
}
