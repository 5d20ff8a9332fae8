//! From the webhook to the reply at Zendesk.

use std::{collections::HashMap, net::SocketAddr, sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use crate::{
    Options, bare,
    client::{Plan, load},
    daemon::{Daemon, folder},
    ingest::verdict,
    median, percentile, stubs,
};

/// Messages a second at which latencies are measured: half of what is to be reached, so that nobody queues.
const PACE: f64 = 2_000.0;

/// What one road brought.
pub struct Run {
    pub per_second: f64,
    /// From the webhook to the post, in microseconds, sorted; at `PACE`.
    pub latencies: Vec<u32>,
}

/// A run of ours.
pub struct Road {
    pub run: Run,
    /// CPU seconds of the daemon per 1000 messages.
    pub cpu_per_1000: f64,
    /// Its memory in RAM, in MiB.
    pub mib: f64,
}

/// Runs the comparison and prints it.
pub async fn e2e(options: &Options) {
    let (mut ours, mut theirs, mut cpu, mut memory) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
    for _ in 0..options.rounds {
        let road = road(options, &[]).await;
        ours.push(road.run);
        cpu.push(road.cpu_per_1000);
        memory = road.mib;
        let (ai, zendesk, folder) = (stubs::ai(options.ai_latency).await, stubs::zendesk().await, folder());
        let bare = bare::road(folder.path(), ai.address, zendesk.address, options.concurrency).await;
        let per_second = at_full_speed(bare, &zendesk, options).await;
        theirs.push(Run { per_second, latencies: at_pace(bare, &zendesk, options).await });
    }
    println!(
        "webhook -> reply posted, AI latency {:?}, {} conversations, {} messages, {} at once, {} rounds, medians",
        options.ai_latency, options.conversations, options.messages, options.concurrency, options.rounds
    );
    println!("{:<26}{:>10}   at {PACE:.0}/s:{:>9}{:>9}{:>9}", "", "replies/s", "p50 ms", "p90", "p99");
    row("tidegate", &ours);
    row("bare loop, same steps", &theirs);
    let rate = |runs: &[Run]| median(runs.iter().map(|run| run.per_second).collect());
    let (ours, theirs, cpu) = (rate(&ours), rate(&theirs), median(cpu));
    traced(options, ours).await;
    println!("ratio {:.2}; CPU of the daemon per 1000 messages {cpu:.3} s; memory {memory:.1} MiB", ours / theirs);
    if options.ai_latency.is_zero() {
        println!("to reach: >= 4000/s {}", verdict(ours >= 4_000.0));
        println!("to reach: >= 0.70 of the bare loop {}", verdict(ours >= 0.7 * theirs));
        println!("to reach: <= 0.3 CPU-s per 1000 {}", verdict(cpu <= 0.3));
    } else {
        let possible = options.concurrency as f64 / options.ai_latency.as_secs_f64();
        println!("to reach: >= 0.90 of {possible:.0}/s {}", verdict(ours >= 0.9 * possible));
    }
}

fn row(name: &str, runs: &[Run]) {
    let part = |part| median(runs.iter().map(|run| percentile(&run.latencies, part)).collect());
    let rate = median(runs.iter().map(|run| run.per_second).collect());
    println!("{name:<26}{rate:>10.0}{:>22.2}{:>9.2}{:>9.2}", part(0.5), part(0.9), part(0.99));
}

/// Starts the daemon between these stubs, with more settings.
pub async fn between(
    ai: &stubs::Stub,
    zendesk: &stubs::Stub,
    options: &Options,
    more: &[(&'static str, String)],
) -> Daemon {
    let no_limit = || "0".to_owned();
    let mut settings = vec![
        ("AI__SERVICES__0__BASE_URL", format!("http://{}/v1", ai.address)),
        ("AI__SERVICES__0__MODEL", "stub".to_owned()),
        ("AI__SERVICES__0__CONCURRENCY", options.concurrency.to_string()),
        ("AI__SERVICES__0__LIMITS__BURST", no_limit()),
        ("AI__SERVICES__0__LIMITS__PER_MINUTE", no_limit()),
        ("AI__SERVICES__0__LIMITS__PER_HOUR", no_limit()),
        ("ZENDESK__API_URL", format!("http://{}", zendesk.address)),
        ("ZENDESK__APP_ID", "66f0a1b2c3d4e5f600000001".to_owned()),
        ("ZENDESK__KEY_ID", "app_bench".to_owned()),
        ("ZENDESK__KEY_SECRET", "bench".to_owned()),
        ("ZENDESK__INTEGRATION", "tidegate".to_owned()),
    ];
    settings.extend_from_slice(more);
    Daemon::start(None, &settings).await
}

/// The same with traces: a collector that hangs slows down nobody more than one that takes them.
async fn traced(options: &Options, without: f64) {
    let bind = || async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it listens");
        (listener, address)
    };
    // Of the one that hangs the system takes the connections, and nobody answers.
    let ((takes, taking), (_hangs, hanging)) = (bind().await, bind().await);
    let mut serving = tokio::task::JoinSet::new();
    let router = axum::Router::new().fallback(|| async {});
    serving.spawn(async move { axum::serve(takes, router).await });
    let mut rates = Vec::new();
    for (what, address) in [("takes them", taking), ("hangs", hanging)] {
        let told = [("TELEMETRY__OTLP_ENDPOINT", format!("http://{address}"))];
        let road = road(options, &told).await;
        let (rate, of) = (road.run.per_second, road.run.per_second / without);
        println!(
            "traced, the collector {what:<12}{rate:>8.0}/s, {of:.2} of the rate without; memory {:.1} MiB",
            road.mib
        );
        rates.push(rate);
    }
    println!("to reach: with one that hangs >= 0.95 of that {}", verdict(rates[1] >= 0.95 * rates[0]));
}

/// One run of ours, with more settings.
pub async fn road(options: &Options, more: &[(&'static str, String)]) -> Road {
    let (ai, zendesk) = (stubs::ai(options.ai_latency).await, stubs::zendesk().await);
    let daemon = between(&ai, &zendesk, options, more).await;
    let cpu = daemon.cpu_seconds();
    let per_second = at_full_speed(daemon.public, &zendesk, options).await;
    let used = daemon.cpu_seconds() - cpu;
    let latencies = at_pace(daemon.public, &zendesk, options).await;
    // A second copy would come right behind.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(zendesk.posts.load(Ordering::Relaxed), 2 * options.messages, "each message is answered once");
    let run = Run { per_second, latencies };
    Road { run, cpu_per_1000: used * 1e3 / options.messages as f64, mib: daemon.resident_mib() }
}

fn plan(options: &Options) -> Plan {
    Plan { connections: 64, total: options.messages, within: bare::LONG, ..options.plan() }
}

/// Sends as fast as is taken and waits until all are answered; messages a second.
async fn at_full_speed(to: SocketAddr, zendesk: &stubs::Stub, options: &Options) -> f64 {
    let began = Instant::now();
    load(to, plan(options)).await;
    all_posted(zendesk, options.messages, began).await;
    options.messages as f64 / began.elapsed().as_secs_f64()
}

/// Sends as many again at `PACE`; from each webhook to its post, in microseconds, sorted.
async fn at_pace(to: SocketAddr, zendesk: &stubs::Stub, options: &Options) -> Vec<u32> {
    let began = Instant::now();
    let paced = load(to, Plan { first: options.messages, pace: Some(PACE), ..plan(options) }).await;
    all_posted(zendesk, 2 * options.messages, began).await;
    let answered: HashMap<u64, Instant> =
        zendesk.answers.lock().expect("nobody panics with it").iter().copied().collect();
    let took = |(n, due): &(u64, Instant)| {
        let waited = answered.get(n).expect("it was answered").saturating_duration_since(*due);
        u32::try_from(waited.as_micros()).unwrap_or(u32::MAX)
    };
    let mut latencies: Vec<u32> = paced.sent.iter().map(took).collect();
    latencies.sort_unstable();
    latencies
}

async fn all_posted(zendesk: &stubs::Stub, messages: u64, began: Instant) {
    while zendesk.posts.load(Ordering::Relaxed) < messages {
        assert!(began.elapsed() < bare::LONG, "not everything was answered");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
