//! The tables, and what is to be reached.

use super::{Main, load::Timed, streams::Beside, target::Target};
use crate::{ingest::verdict, median, percentile};

/// What is to be reached: the share of the bare proxy's p50 that ours may add, the p99 in milliseconds it may add, the
/// share of the bare proxy's throughput, how much longer a stream may take beside a slow reader, the memory in MiB.
const P50_SHARE: f64 = 1.3;
const P99_MS: f64 = 1.0;
const THROUGHPUT_SHARE: f64 = 0.8;
const BESIDE_SLOW: f64 = 1.2;
const MIB: f64 = 60.0;

/// One turn in figures: milliseconds, and CPU seconds per 1000 questions.
#[derive(Clone, Copy)]
pub struct Seen {
    p50: f64,
    p99: f64,
    first_p50: f64,
    first_p99: f64,
    pub per_second: f64,
    cpu: f64,
    failed: u64,
}

impl Seen {
    /// Puts a turn into figures.
    pub fn of(timed: &Timed, cpu_seconds: f64) -> Self {
        Self {
            p50: percentile(&timed.whole, 0.5),
            p99: percentile(&timed.whole, 0.99),
            first_p50: percentile(&timed.first, 0.5),
            first_p99: percentile(&timed.first, 0.99),
            per_second: timed.per_second,
            cpu: cpu_seconds * 1e3 / timed.asked.max(1) as f64,
            failed: timed.failed,
        }
    }
}

type Figure = fn(&Seen) -> f64;

/// The median over the rounds.
fn of(rounds: &[Seen], figure: Figure) -> f64 {
    median(rounds.iter().map(figure).collect())
}

/// How much more than the direct way, round by round.
fn added(rounds: &[Seen], direct: &[Seen], figure: Figure) -> f64 {
    median(rounds.iter().zip(direct).map(|(ours, direct)| figure(ours) - figure(direct)).collect())
}

/// Latencies to the whole answer.
pub fn latencies(title: &str, all: &[&Target], seen: &[Vec<Seen>]) {
    spans(title, all, seen, |seen| seen.p50, |seen| seen.p99);
}

/// Latencies to the first part.
pub fn first_parts(title: &str, all: &[&Target], seen: &[Vec<Seen>]) {
    spans(title, all, seen, |seen| seen.first_p50, |seen| seen.first_p99);
}

fn spans(title: &str, all: &[&Target], seen: &[Vec<Seen>], p50: Figure, p99: Figure) {
    println!("\n{title:<36}{:>9}{:>9}{:>9}{:>9}", "p50 ms", "adds", "p99", "adds");
    for (target, rounds) in all.iter().zip(seen) {
        let (p50s, p99s) = (of(rounds, p50), of(rounds, p99));
        let (more_p50, more_p99) = (added(rounds, &seen[0], p50), added(rounds, &seen[0], p99));
        println!("  {:<34}{p50s:>9.3}{more_p50:>9.3}{p99s:>9.3}{more_p99:>9.3}", target.name);
    }
}

/// Throughput beside the bare proxy's.
pub fn by_ratio(title: &str, all: &[&Target], seen: &[Vec<Seen>]) {
    println!("\n{title:<36}{:>9}{:>9}{:>9}{:>9}  CPU-s per 1000", "1/s", "of bare", "p50 ms", "p99");
    for (target, rounds) in all.iter().zip(seen) {
        let share = ratio(rounds, &seen[1]);
        println!(
            "  {:<34}{:>9.0}{share:>9.2}{:>9.2}{:>9.2}{:>9.3}",
            target.name,
            of(rounds, |seen| seen.per_second),
            of(rounds, |seen| seen.p50),
            of(rounds, |seen| seen.p99),
            of(rounds, |seen| seen.cpu)
        );
    }
}

/// The median of the rounds' own ratios, so that what slows a round slows both.
fn ratio(ours: &[Seen], bare: &[Seen]) -> f64 {
    median(ours.iter().zip(bare).map(|(ours, bare)| ours.per_second / bare.per_second).collect())
}

/// All rounds of many streams of one target.
#[derive(Default)]
pub struct Streams(Vec<Beside>);

impl Streams {
    /// One more round.
    pub fn push(&mut self, round: Beside) {
        self.0.push(round);
    }

    /// How much longer 99 of 100 take to their end beside a slow reader than alone.
    fn beside_slow(&self) -> f64 {
        let p99 =
            |of: fn(&Beside) -> &Timed| median(self.0.iter().map(|round| percentile(&of(round).whole, 0.99)).collect());
        p99(|round| &round.beside) / p99(|round| &round.alone).max(f64::MIN_POSITIVE)
    }

    fn print(&self, name: &str, of: fn(&Beside) -> (&Timed, f64)) {
        let part = |figure: &dyn Fn(&Timed) -> f64| median(self.0.iter().map(|round| figure(of(round).0)).collect());
        let mib = self.0.iter().map(|round| of(round).1).fold(0.0, f64::max);
        println!(
            "  {name:<34}{:>9.1}{:>9.1}{:>9.1}{:>9.1}{:>9.0}{mib:>9.1}",
            part(&|timed| percentile(&timed.first, 0.5)),
            part(&|timed| percentile(&timed.first, 0.99)),
            part(&|timed| percentile(&timed.whole, 0.5)),
            part(&|timed| percentile(&timed.whole, 0.99)),
            part(&|timed| timed.per_second),
        );
    }
}

/// What many streams see, alone and beside a slow reader.
pub fn many_streams(title: &str, all: &[&Target], many: &[Streams]) {
    let head = ["first p50", "p99", "whole p50", "p99", "1/s", "MiB"];
    println!("\n{title:<36}{:>9}{:>9}{:>11}{:>7}{:>9}{:>9}", head[0], head[1], head[2], head[3], head[4], head[5]);
    for (target, streams) in all.iter().zip(many) {
        streams.print(&target.name, |round| (&round.alone, round.alone_mib));
        streams.print("  beside a slow reader", |round| (&round.beside, round.beside_mib));
        if !streams.0.iter().all(|round| round.is_served) {
            println!("    the slow reader was cut off");
        }
    }
}

/// Prints what is to be reached, and whether all of it is.
pub fn goals(main: &Main, mib: f64) -> bool {
    let [direct, bare, ours] = &main.at_rate[..] else { return false };
    let p50 = added(ours, direct, |seen| seen.p50) / added(bare, direct, |seen| seen.p50).max(f64::MIN_POSITIVE);
    let p99 = added(ours, direct, |seen| seen.p99);
    let throughput = ratio(&main.full[2], &main.full[1]);
    let beside_slow = main.many[2].beside_slow();
    println!();
    let goals = [
        (format!("adds p50 <= {P50_SHARE:.2} x what the bare proxy adds ({p50:.2})"), p50 <= P50_SHARE),
        (format!("adds p99 <= {P99_MS} ms ({p99:.3})"), p99 <= P99_MS),
        (
            format!("throughput >= {THROUGHPUT_SHARE:.2} x the bare proxy's ({throughput:.2})"),
            throughput >= THROUGHPUT_SHARE,
        ),
        (
            format!("streams' p99 beside a slow reader <= {BESIDE_SLOW:.2} x alone ({beside_slow:.2})"),
            beside_slow <= BESIDE_SLOW,
        ),
        (format!("memory after all of it < {MIB} MiB ({mib:.1})"), mib < MIB),
    ];
    for (goal, is_reached) in &goals {
        println!("to reach: {goal} {}", verdict(*is_reached));
    }
    goals.iter().all(|(_, is_reached)| *is_reached)
}

/// The others beside ours: the direct way first, then ours, then the rest.
pub fn by_peers(title: &str, all: &[&Target], at_rate: &[Vec<Seen>], first: &[Vec<Seen>], full: &[Vec<Seen>]) {
    let head = ["p50 ms", "adds", "p99", "first adds", "full 1/s", "CPU/1000", "MiB", "failed"];
    print!("\n{title:<32}");
    head.iter().for_each(|head| print!("{head:>11}"));
    println!();
    let adds = |index: usize| added(&at_rate[index], &at_rate[0], |seen: &Seen| seen.p50);
    let first_adds = |index: usize| match &first[index][..] {
        [] => "-".to_owned(),
        rounds => format!("{:.3}", added(rounds, &first[0], |seen| seen.first_p50)),
    };
    let speed = |index: usize| of(&full[index], |seen| seen.per_second);
    for (index, target) in all.iter().enumerate() {
        let turns = || [at_rate, first, full].into_iter().flat_map(move |turns| &turns[index]);
        println!(
            "  {:<30}{:>11.3}{:>11.3}{:>11.3}{:>11}{:>11.0}{:>11.3}{:>11.1}{:>11}",
            target.name,
            of(&at_rate[index], |seen| seen.p50),
            adds(index),
            of(&at_rate[index], |seen| seen.p99),
            first_adds(index),
            speed(index),
            of(&full[index], |seen| seen.cpu),
            target.usage().mib,
            turns().map(|seen| seen.failed).sum::<u64>()
        );
    }
    println!();
    for (index, target) in all.iter().enumerate().skip(2) {
        println!(
            "{} adds {:.0} x what we add, answers 1/{:.0} as many, in {:.1} x our memory",
            target.name,
            adds(index) / adds(1).max(0.001),
            speed(1) / speed(index).max(0.001),
            target.usage().mib / all[1].usage().mib.max(0.001)
        );
    }
}
