//! How fast it is, as ratios measured in one run: `scripts/bench ingest`, `scripts/bench e2e` and others.
//!
//! The load generator, the stubs and the daemon share the machine; the bare programs beside it do too.

/// The bare programs allocate like the daemon, so that the ratio is of what they do.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod admin;
mod bare;
mod broker;
mod client;
mod daemon;
mod e2e;
mod gateway;
mod guards;
mod http;
mod ingest;
mod memory;
#[path = "../../tests/it/ports.rs"]
mod ports;
#[allow(dead_code, unused_imports, reason = "the integration tests use what this does not")]
#[path = "../../tests/it/support/rabbitmq.rs"]
mod rabbitmq;
#[allow(dead_code, unused_imports, reason = "the integration tests use what this does not")]
#[path = "../../tests/it/support/redis.rs"]
mod redis;
mod stubs;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

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
    /// Of the gateway: calls a second, how long a turn lasts, streams at once, whether other gateways are measured too,
    /// and what is measured in the daemon's place.
    rate: f64,
    segment: Duration,
    streams: usize,
    peers: bool,
    elsewhere: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let word = |name: &str| arguments.get(arguments.iter().position(|argument| argument == name)? + 1);
    let number = |name: &str, default: u64| word(name).and_then(|word| word.parse().ok()).unwrap_or(default);
    let smoke = arguments.iter().any(|argument| argument == "--smoke");
    let which = arguments.first().map(String::as_str);
    // Short turns, and many of them.
    let (seconds, rounds) = if which == Some("gateway") { (2, 7) } else { (5, 3) };
    let seconds = number("--seconds", if smoke { 1 } else { seconds });
    let options = Options {
        seconds,
        rounds: number("--rounds", if smoke { 1 } else { rounds }) as usize,
        connections: number("--connections", 64) as usize,
        messages: number("--messages", if smoke { 500 } else { 20_000 }),
        conversations: number("--conversations", 1_000),
        concurrency: number("--concurrency", 256) as usize,
        ai_latency: Duration::from_millis(number("--ai-latency-ms", 0)),
        rate: number("--rate", 1_000) as f64,
        segment: if smoke { Duration::from_millis(300) } else { Duration::from_secs(seconds) },
        streams: number("--streams", if smoke { 20 } else { 200 }) as usize,
        peers: !smoke && !arguments.iter().any(|argument| argument == "--no-peers"),
        elsewhere: word("--at").and_then(|address| address.parse().ok()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made");
    match which {
        Some("admin") => runtime.block_on(admin::admin(&options)),
        Some("ingest") => runtime.block_on(ingest::ingest(&options)),
        Some("e2e") => runtime.block_on(e2e::e2e(&options)),
        Some("broker") => runtime.block_on(broker::broker(&options)),
        Some("gateway") => {
            let reached = runtime.block_on(gateway::gateway(&options));
            // A run this short says nothing of speed.
            if !reached && !smoke {
                return ExitCode::FAILURE;
            }
        }
        Some("bare-gateway") => runtime.block_on(gateway::bare::serve(&arguments[1..])),
        Some("guards") => runtime.block_on(guards::guards(&options)),
        Some("memory") => runtime.block_on(memory::memory(&options)),
        // `cargo bench` and `cargo test --benches` call it without a name.
        _ => println!("say which: admin, ingest, e2e, broker, gateway, guards, memory"),
    }
    ExitCode::SUCCESS
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
