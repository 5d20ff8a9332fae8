//! How fast it is, as ratios measured in one run: `scripts/bench ingest`, `scripts/bench e2e` and others.
//!
//! The load generator, the stubs and the daemon share the machine; the bare programs beside it do too.

/// The bare programs allocate like the daemon, so that the ratio is of what they do.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod bare;
mod broker;
mod client;
mod daemon;
mod e2e;
mod guards;
mod ingest;
mod memory;
#[allow(dead_code, unused_imports, reason = "the integration tests use what this does not")]
#[path = "../../tests/it/support/rabbitmq.rs"]
mod rabbitmq;
#[allow(dead_code, unused_imports, reason = "the integration tests use what this does not")]
#[path = "../../tests/it/support/redis.rs"]
mod redis;
mod stubs;

use std::time::Duration;

/// What is asked for on the command line.
#[derive(Clone)]
struct Options {
    seconds: u64,
    rounds: usize,
    connections: usize,
    messages: u64,
    conversations: u64,
    concurrency: usize,
    ai_latency: Duration,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let smoke = arguments.iter().any(|argument| argument == "--smoke");
    let options = Options {
        seconds: number("--seconds", if smoke { 1 } else { 5 }),
        rounds: number("--rounds", if smoke { 1 } else { 3 }) as usize,
        connections: number("--connections", 64) as usize,
        messages: number("--messages", if smoke { 500 } else { 20_000 }),
        conversations: number("--conversations", 1_000),
        concurrency: number("--concurrency", 256) as usize,
        ai_latency: Duration::from_millis(number("--ai-latency-ms", 0)),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made");
    match arguments.first().map(String::as_str) {
        Some("ingest") => runtime.block_on(ingest::ingest(&options)),
        Some("e2e") => runtime.block_on(e2e::e2e(&options)),
        Some("broker") => runtime.block_on(broker::broker(&options)),
        Some("guards") => runtime.block_on(guards::guards(&options)),
        Some("memory") => runtime.block_on(memory::memory(&options)),
        // `cargo bench` and `cargo test --benches` call it without a name.
        _ => println!("say which: ingest, e2e, broker, guards, memory"),
    }
}

impl Options {
    /// Webhooks without end, as fast as they are answered.
    fn plan(&self) -> client::Plan {
        client::Plan {
            connections: self.connections,
            conversations: self.conversations,
            first: 0,
            total: u64::MAX,
            within: Duration::from_secs(self.seconds),
            pace: None,
        }
    }
}

/// A percentile of sorted microseconds, in milliseconds.
fn percentile(sorted: &[u32], part: f64) -> f64 {
    let index = ((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(0.0, |micros| f64::from(*micros) / 1e3)
}

/// The middle of some figures.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}
