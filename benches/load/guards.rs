//! What the guards cost: the closed breaker, a permit of the limiter in this process, and one that Redis decides on.

use std::{hint::black_box, time::Duration};

use tidegate::{
    guard::{
        Gate,
        breaker::{self, Caller, Outcome},
        limiter::{Limiter, Limits, Reservation},
    },
    telemetry::Clock,
};

use crate::{Options, median};

/// Calls of one measurement in this process.
const CALLS: u32 = 1_000_000;

/// Measures the guards.
pub async fn guards(options: &Options) {
    let rounds = options.rounds;
    println!("closed breaker, look, admit and report: {:.0} ns", repeated(rounds, closed_breaker));
    println!("limiter in this process, one permit:    {:.0} ns", repeated(rounds, local_limiter));
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
