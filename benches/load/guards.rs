//! What the guards cost: the closed breaker, a permit of the limiter in this process, and one that Redis decides on.

use std::{hint::black_box, sync::LazyLock, time::Duration};

use fred::types::scripts::Script;
use tidegate::{
    guard::{
        Gate,
        breaker::{self, Caller, Outcome},
        limiter::{Limiter, Limits, Reservation},
    },
    state::{
        RedisConfig,
        quota::{Ask, Policy, Quotas},
        redis::{Link, RedisQuotas},
    },
    telemetry::Clock,
};

use crate::{Options, median, percentile, redis::Redis};

/// Calls of one measurement in this process.
const CALLS: u32 = 1_000_000;

/// Measures the guards.
pub async fn guards(options: &Options) {
    let rounds = options.rounds;
    println!("closed breaker, look, admit and report: {:.0} ns", repeated(rounds, closed_breaker));
    println!("limiter in this process, one permit:    {:.0} ns", repeated(rounds, local_limiter));
    over_redis(options).await;
}

/// A permit that Redis decides on, beside a bare round trip and what the script takes on the server.
async fn over_redis(options: &Options) {
    let server = Redis::start();
    let config = RedisConfig { nodes: vec![server.address()], ..RedisConfig::default() };
    let link = Link::open(&config).expect("the address is sound");
    link.connections().wait_for(|count| *count > 0).await.expect("it connects");
    let quotas = RedisQuotas::new(link.clone());
    let each = u32::try_from(options.messages).unwrap_or(u32::MAX).max(100);
    let mut ratios = Vec::new();
    for round in 0..options.rounds {
        // A quota gives nothing in the second in which it is born.
        granted(&quotas, &format!("one{round}"), 0).await;
        granted(&quotas, &format!("many{round}"), 0).await;
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        let bare =
            timed(each, async || link.run::<i64, _>(&NOTHING, vec![link.key("bench", "none")], "").await.is_ok()).await;
        for name in ["one", "many"] {
            // A quota that begins is held until all nodes have told what they did before.
            while granted(&quotas, &format!("{name}{round}"), 1).await == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        server.command(&["CONFIG", "RESETSTAT"]);
        let permit = timed(each, async || granted(&quotas, &format!("one{round}"), 1).await == 1).await;
        let script = script_micros(&server);
        let leases = timed(each / 10, async || granted(&quotas, &format!("many{round}"), LEASE).await > 0).await;
        let per_second = f64::from(LEASE) / leases.mean.as_secs_f64();
        let ratio = permit.p50_ms / (bare.p50_ms + script / 1e3);
        println!(
            "over Redis: bare {:.3} ms, permit {:.3} ms (p99 {:.2}), script {script:.0} us, ratio {ratio:.2}; leases of {LEASE}: {per_second:.0} permits/s",
            bare.p50_ms, permit.p50_ms, permit.p99_ms,
        );
        ratios.push(ratio);
    }
    println!(
        "a permit takes {:.2} x (a bare call + the script's time), the median of {}",
        median(ratios),
        options.rounds
    );
    link.close().await;
}

/// Permits asked for at once by a service of high volume.
const LEASE: u32 = 100;

static NOTHING: LazyLock<Script> = LazyLock::new(|| Script::from_lua("return 1"));

struct Timed {
    p50_ms: f64,
    p99_ms: f64,
    mean: Duration,
}

/// One after the other.
async fn timed(count: u32, call: impl AsyncFn() -> bool) -> Timed {
    let clock = Clock::system();
    let mut micros = Vec::with_capacity(count as usize);
    let began = clock.monotonic();
    for _ in 0..count {
        let before = clock.monotonic();
        assert!(call().await, "a call failed");
        micros.push(u32::try_from(clock.monotonic().saturating_sub(before).as_micros()).unwrap_or(u32::MAX));
    }
    let mean = clock.monotonic().saturating_sub(began) / count;
    micros.sort_unstable();
    Timed { p50_ms: percentile(&micros, 0.5), p99_ms: percentile(&micros, 0.99), mean }
}

/// Asks for permits of a service that allows so many that none is refused, in a window so short that few are remembered.
async fn granted(quotas: &RedisQuotas, name: &str, want: u32) -> usize {
    let policy = Policy {
        minute: 0,
        hour: 0,
        windows: vec![(200_000, 100_000)],
        tokens: 0,
        burst: 0,
        pace_hour: false,
        validity: 20_000,
        entries: 262_144,
    };
    let told = quotas.turn(name, &policy, &Ask { want, ..Ask::default() }).await.expect("Redis answers");
    told.grants.len()
}

/// What the server itself spends on a script, in microseconds.
fn script_micros(server: &Redis) -> f64 {
    let stats = server.command(&["INFO", "commandstats"]);
    let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap_or_default();
    let field = line.split(',').find_map(|field| field.strip_prefix("usec_per_call="));
    field.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The median of some measurements, in nanoseconds a call.
fn repeated(rounds: usize, measure: impl Fn() -> Duration) -> f64 {
    median((0..rounds).map(|_| measure().as_nanos() as f64 / f64::from(CALLS)).collect())
}

fn closed_breaker() -> Duration {
    let clock = Clock::system();
    let gate = Gate::new(breaker::Config::default(), Duration::from_secs(30), clock.clone());
    let caller = Caller { conversation: "a conversation", message: "a message" };
    let began = clock.monotonic();
    for _ in 0..CALLS {
        black_box(gate.look(black_box(caller))).expect("it is closed");
        let pass = gate.admit(caller).unwrap_or_else(|_| unreachable!("it is closed"));
        pass.report(Outcome::Success { took: Duration::from_millis(1) });
    }
    clock.monotonic().saturating_sub(began)
}

fn local_limiter() -> Duration {
    let clock = Clock::system();
    let mut limiter =
        Limiter::new(Limits { burst: 0, per_minute: 0, per_hour: 900_000, ..Limits::default() }, Duration::ZERO);
    let began = clock.monotonic();
    for n in 0..CALLS {
        // A second passes with each hundred calls, so that the log has its usual length.
        let now = Duration::from_millis(u64::from(n) * 10);
        match black_box(limiter.reserve(now, 0, Duration::ZERO)) {
            Reservation::Granted { seq, .. } => drop(black_box(seq)),
            Reservation::Refused { .. } => {}
        }
    }
    clock.monotonic().saturating_sub(began)
}
