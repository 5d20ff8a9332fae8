//! The gateway (`POST /v1/chat/completions`) beside a bare proxy and other gateways, before one simulated AI service.
//!
//! The service, the bare proxy and each gateway are processes of their own; the load generator is this one. All are
//! measured in turns of a few seconds, so that noise hits all alike, and *adds* is always beside the direct way in the
//! same round.

pub mod bare;
mod load;
mod peers;
mod process;
mod report;
mod simulator;
mod streams;
mod target;

use std::{net::SocketAddr, process::Command, time::Duration};

use self::{
    load::{Timed, closed, paced},
    process::Process,
    report::{Seen, Streams, by_peers, by_ratio, goals},
    simulator::Simulator,
    streams::beside_slow,
    target::{KEY, MODEL, Target},
};
use crate::{Options, daemon::Daemon, ports::free_address};

/// Characters of an answer: three sentences.
const REPLY_CHARS: usize = 400;

/// Streams a second at which the time to the first part is measured.
const STREAMS_RATE: f64 = 200.0;

/// Rounds of many streams at once; they last longer.
const STREAMS_ROUNDS_MAX: usize = 3;

/// Questions a second put to the others and to ours beside them, unless one of them cannot carry so many; streams, which
/// are more work, as a share of that.
const PEERS_RATE: f64 = 50.0;
const PEERS_LOAD: f64 = 0.5;
const PEERS_STREAMS: f64 = 0.4;
const PEERS_ROUNDS_MAX: usize = 3;

/// A gateway of our own starts within this.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// Runs the comparison and prints it; whether every goal is reached.
pub async fn gateway(options: &Options) -> bool {
    let simulator = Simulator::start(REPLY_CHARS).await;
    let mut all = [
        Target::at("direct", simulator.address),
        bare_proxy(&simulator.url()),
        ours(&simulator.url(), options.elsewhere).await,
    ];
    for target in &mut all {
        let name = target.name.clone();
        target.ready(STARTS_WITHIN).await.unwrap_or_else(|why| panic!("{name}: {why}"));
        target.tried(true).await.unwrap_or_else(|why| panic!("{name}, as a stream: {why}"));
    }
    let all = all.each_ref();
    let mut bench = Bench { options, tally: Tally::default(), calls_before: simulator.calls().await };
    let main = bench.main(&all, &simulator).await;
    bench.each_was_one_call(&simulator).await;
    let reached = goals(&main, all[2].usage().mib);
    if options.peers {
        bench.peers(&all, &main, &simulator).await;
    }
    println!("{}", if reached { "all is reached" } else { "NOT all is reached" });
    reached
}

/// Everything measured of the direct way, the bare proxy and ours, in this order.
pub struct Main {
    pub at_rate: Vec<Vec<Seen>>,
    pub full: Vec<Vec<Seen>>,
    pub many: Vec<Streams>,
}

/// What was sent, and what came of it.
#[derive(Default)]
struct Tally {
    asked: u64,
    failed: u64,
}

struct Bench<'a> {
    options: &'a Options,
    tally: Tally,
    calls_before: u64,
}

impl Bench<'_> {
    async fn main(&mut self, all: &[&Target], simulator: &Simulator) -> Main {
        let &Options { rounds, connections, rate, segment, streams, .. } = self.options;
        println!(
            "POST /v1/chat/completions before one simulated service, all on this machine; {rounds} rounds of {segment:?} in turns, medians"
        );
        let at_rate = self.in_turns(all, rounds, async |target| paced(target, rate, segment, false)).await;
        report::latencies(&format!("at {rate}/s, from when each was due"), all, &at_rate);
        let full = self
            .in_turns(all, rounds, async |target| closed(target, connections, segment, Duration::ZERO, false).await)
            .await;
        by_ratio(&format!("{connections} connections, each at once again"), all, &full);
        let first = self.in_turns(all, rounds, async |target| paced(target, STREAMS_RATE, segment, true)).await;
        report::first_parts(&format!("streams at {STREAMS_RATE}/s, to the first part"), all, &first);
        let mut many: Vec<Streams> = all.iter().map(|_| Streams::default()).collect();
        for _ in 0..rounds.min(STREAMS_ROUNDS_MAX) {
            for (target, many) in all.iter().zip(&mut many) {
                let seen = beside_slow(target, simulator, streams, segment).await;
                self.tally.count(&seen.alone);
                self.tally.count(&seen.beside);
                // The slow one.
                self.tally.asked += 1;
                many.push(seen);
            }
        }
        report::many_streams(&format!("{streams} streams at once"), all, &many);
        Main { at_rate, full, many }
    }

    /// The others, at what they can carry, and ours at the same.
    async fn peers(&mut self, all: &[&Target], main: &Main, simulator: &Simulator) {
        let peers = peers::start(&simulator.url()).await;
        if peers.targets.is_empty() {
            return;
        }
        let &[direct, _, ours] = all else { return };
        let everybody: Vec<&Target> = [direct, ours].into_iter().chain(&peers.targets).collect();
        let (rounds, within) = (self.options.rounds.min(PEERS_ROUNDS_MAX), self.options.segment * 2);
        let connections = self.options.connections;
        let only: Vec<&Target> = peers.targets.iter().collect();
        let measure = async |target: &Target| closed(target, connections, within, Duration::ZERO, false).await;
        let theirs = self.in_turns(&only, 1, measure).await;
        let slowest = theirs.iter().flatten().map(|seen| seen.per_second).fold(f64::MAX, f64::min);
        let rate = (slowest * PEERS_LOAD).clamp(1.0, PEERS_RATE).floor();
        let mut full = vec![main.full[0].clone(), main.full[2].clone()];
        full.extend(theirs);
        let at_rate = self.in_turns(&everybody, rounds, async |target| paced(target, rate, within, false)).await;
        let (mut first, mut streaming) = (vec![Vec::new(); everybody.len()], Vec::new());
        for (place, target) in everybody.iter().enumerate() {
            match target.tried(true).await {
                Ok(()) => streaming.push(place),
                Err(why) => println!("{} is not asked for streams: {why}", target.name),
            }
        }
        let asked: Vec<&Target> = streaming.iter().map(|place| everybody[*place]).collect();
        let seen =
            self.in_turns(&asked, rounds, async |target| paced(target, rate * PEERS_STREAMS, within, true)).await;
        for (place, rounds) in streaming.into_iter().zip(seen) {
            first[place] = rounds;
        }
        by_peers(&format!("at {rate}/s"), &everybody, &at_rate, &first, &full);
    }

    /// Measures all in turns, forwards and backwards; by target, then by round.
    async fn in_turns(
        &mut self,
        targets: &[&Target],
        rounds: usize,
        measure: impl AsyncFn(&Target) -> Timed,
    ) -> Vec<Vec<Seen>> {
        let mut seen = vec![Vec::new(); targets.len()];
        for round in 0..rounds {
            let mut order: Vec<usize> = (0..targets.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let target = targets[index];
                let before = target.usage().cpu_seconds;
                let timed = measure(target).await;
                self.tally.count(&timed);
                seen[index].push(Seen::of(&timed, target.usage().cpu_seconds - before));
            }
        }
        seen
    }

    /// None was asked twice, and none was answered by another's answer.
    async fn each_was_one_call(&self, simulator: &Simulator) {
        let calls = simulator.calls().await - self.calls_before;
        let Tally { asked, failed } = self.tally;
        println!("{asked} questions were {calls} calls of the service; {failed} failed");
        assert_eq!(failed, 0, "every question is answered");
        assert_eq!(calls, asked, "each question is one call");
    }
}

impl Tally {
    fn count(&mut self, timed: &Timed) {
        self.asked += timed.asked;
        self.failed += timed.failed;
    }
}

fn bare_proxy(service: &str) -> Target {
    let address = free_address();
    let mut command = Command::new(std::env::current_exe().expect("this program lies somewhere"));
    command.args(["bare-gateway", &address.to_string(), service]);
    let process = Process::start(command).expect("this program can be started");
    Target::process("bare proxy", address, "", process)
}

/// The daemon with limits that let all of it through, or whatever listens `elsewhere`.
async fn ours(service: &str, elsewhere: Option<SocketAddr>) -> Target {
    if let Some(address) = elsewhere {
        return Target::at(&format!("whatever is at {address}"), address);
    }
    let nowhere = "http://127.0.0.1:1";
    let settings = [
        ("API__KEYS__0__NAME", "bench".to_owned()),
        ("API__KEYS__0__KEY", KEY.to_owned()),
        ("AI__SERVICES__0__BASE_URL", service.to_owned()),
        ("AI__SERVICES__0__MODEL", MODEL.to_owned()),
        ("AI__SERVICES__0__CONCURRENCY", "1024".to_owned()),
        // Counted like any other, and never reached: 300,000/s and, as a permit is good for 0.3 s, 76,000/s.
        ("AI__SERVICES__0__LIMITS__BURST", "100000".to_owned()),
        ("AI__SERVICES__0__LIMITS__WINDOWS__0__REQUESTS", "100000".to_owned()),
        ("AI__SERVICES__0__LIMITS__WINDOWS__0__PER", "1s".to_owned()),
        ("AI__SERVICES__0__LIMITS__PER_MINUTE", "0".to_owned()),
        ("AI__SERVICES__0__LIMITS__PER_HOUR", "0".to_owned()),
        ("CACHE__ENABLED", "false".to_owned()),
        ("ZENDESK__API_URL", nowhere.to_owned()),
        ("ZENDESK__INTEGRATION", "tidegate".to_owned()),
    ];
    Target::daemon("tidegate", Daemon::start(None, &settings).await)
}
