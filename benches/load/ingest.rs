//! From the webhook to durable storage and 200.

use std::time::Duration;

use crate::{
    Options, bare,
    client::{Load, Plan, load},
    daemon::{Daemon, folder},
    median, percentile,
};

/// The rate to reach; latencies are judged at it, as beyond it they tell of the queue before the door.
const RATE: f64 = 12_000.0;

/// Runs the comparison and prints it.
pub async fn ingest(options: &Options) {
    let daemon = Daemon::start(Some("ingress"), &[]).await;
    let (bare_folder, within, plan) = (folder(), Duration::from_secs(options.seconds), options.plan());
    let (parser, storer) = (bare::parser().await, bare::storer(bare_folder.path()).await);
    let (sync_p50, sync_p99) = bare::sync_times(bare_folder.path(), 200);
    let (mut ours, mut paced, mut parsing, mut storing) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut cpu, mut first) = (0.0, 0);
    for _ in 0..options.rounds {
        let before = daemon.cpu_seconds();
        ours.push(load(daemon.public, Plan { first, ..plan }).await);
        cpu += daemon.cpu_seconds() - before;
        first += 10_000_000;
        paced.push(load(daemon.public, Plan { first, pace: Some(RATE), ..plan }).await);
        first += 10_000_000;
        parsing.push(load(parser, plan).await);
        storing.push(load(storer, plan).await);
    }
    let taken: usize = ours.iter().map(|load| load.latencies.len()).sum();
    println!(
        "webhook -> durable -> 200, {} connections, {} rounds of {within:?}, medians",
        options.connections, options.rounds
    );
    println!("{:<26}{:>10}{:>9}{:>9}{:>9}{:>9}", "", "req/s", "p50 ms", "p90", "p99", "p99.9");
    row("tidegate", &ours);
    row("tidegate, at 12000/s", &paced);
    row("bare handler, parses", &parsing);
    row("bare handler, stores", &storing);
    let rate = |loads: &[Load]| median(loads.iter().map(|load| load.per_second).collect());
    let p99 = median(paced.iter().map(|load| percentile(&load.latencies, 0.99)).collect());
    println!(
        "ratio to the one that parses {:.2}, to the one that stores {:.2}",
        rate(&ours) / rate(&parsing),
        rate(&ours) / rate(&storing)
    );
    println!("fdatasync of 4 KiB: p50 {sync_p50:.2} ms, p99 {sync_p99:.2} ms");
    println!(
        "CPU of the daemon per 1000 messages: {:.3} s; memory {:.1} MiB",
        cpu * 1e3 / taken as f64,
        daemon.resident_mib()
    );
    println!("to reach: >= 12000/s {}", verdict(rate(&ours) >= RATE));
    println!("to reach: at that rate p99 <= {:.1} ms {}", 5.0 + 2.0 * sync_p99, verdict(p99 <= 5.0 + 2.0 * sync_p99));
    let failed: u64 = ours.iter().chain(&paced).map(|load| load.failed).sum();
    assert_eq!(failed, 0, "every webhook is answered 200");
}

fn row(name: &str, loads: &[Load]) {
    let part = |part| median(loads.iter().map(|load| percentile(&load.latencies, part)).collect());
    let rate = median(loads.iter().map(|load| load.per_second).collect());
    println!("{name:<26}{rate:>10.0}{:>9.2}{:>9.2}{:>9.2}{:>9.2}", part(0.5), part(0.9), part(0.99), part(0.999));
}

/// In a word.
pub fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "NOT REACHED" }
}
