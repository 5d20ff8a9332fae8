//! From the webhook to the reply at Zendesk.

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use crate::{
    Options, bare,
    client::load,
    daemon::{Daemon, folder},
    ingest::verdict,
    median, stubs,
};

/// Runs the comparison and prints it.
pub async fn e2e(options: &Options) {
    let (mut ours, mut theirs, mut cpu, mut memory) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
    for _ in 0..options.rounds {
        let (rate, cpu_per_1000, mib) = road(options).await;
        ours.push(rate);
        cpu.push(cpu_per_1000);
        memory = mib;
        let (ai, zendesk, folder) = (stubs::ai(options.ai_latency).await, stubs::zendesk().await, folder());
        let bare = bare::road(folder.path(), ai.address, zendesk.address, options.concurrency).await;
        theirs.push(all_posted(bare, &zendesk, options).await);
    }
    let (ours, theirs, cpu) = (median(ours), median(theirs), median(cpu));
    println!(
        "webhook -> reply posted, AI latency {:?}, {} conversations, {} messages, {} at once, {} rounds, medians",
        options.ai_latency, options.conversations, options.messages, options.concurrency, options.rounds
    );
    println!(
        "tidegate               {ours:>8.0}/s   CPU of the daemon per 1000 messages {cpu:.3} s   memory {memory:.1} MiB"
    );
    println!("bare loop, same steps  {theirs:>8.0}/s   ratio {:.2}", ours / theirs);
    if options.ai_latency.is_zero() {
        println!("to reach: >= 4000/s {}", verdict(ours >= 4_000.0));
        println!("to reach: >= 0.70 of the bare loop {}", verdict(ours >= 0.7 * theirs));
        println!("to reach: <= 0.3 CPU-s per 1000 {}", verdict(cpu <= 0.3));
    } else {
        let possible = options.concurrency as f64 / options.ai_latency.as_secs_f64();
        println!("to reach: >= 0.90 of {possible:.0}/s {}", verdict(ours >= 0.9 * possible));
    }
}

/// One run of ours: messages a second, CPU seconds per 1000, MiB.
async fn road(options: &Options) -> (f64, f64, f64) {
    let (ai, zendesk) = (stubs::ai(options.ai_latency).await, stubs::zendesk().await);
    let no_limit = || "0".to_owned();
    let settings = [
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
    let daemon = Daemon::start(None, &settings).await;
    let (cpu, messages) = (daemon.cpu_seconds(), options.messages);
    let rate = all_posted(daemon.public, &zendesk, options).await;
    let used = daemon.cpu_seconds() - cpu;
    // A second copy would come right behind.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(zendesk.posts.load(Ordering::Relaxed), messages, "each message is answered once");
    (rate, used * 1e3 / messages as f64, daemon.resident_mib())
}

/// Sends all messages and waits until as many replies are posted; messages a second.
async fn all_posted(to: SocketAddr, zendesk: &stubs::Stub, options: &Options) -> f64 {
    let began = Instant::now();
    load(to, 64, options.conversations, 0, options.messages, bare::LONG).await;
    while zendesk.posts.load(Ordering::Relaxed) < options.messages {
        assert!(began.elapsed() < bare::LONG, "not everything was answered");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    options.messages as f64 / began.elapsed().as_secs_f64()
}
