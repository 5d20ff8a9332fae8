//! How soon the admin listener answers while the node is busy and knows many conversations.

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use crate::{
    Options, bare,
    client::{Plan, load},
    e2e,
    ingest::verdict,
    percentile, stubs,
};

/// Whatever is asked is answered within.
const MS_MAX: f64 = 50.0;

/// How often each is asked.
const TIMES: usize = 40;

/// A conversation of the load generator's, and a part of some of their ids.
const ONE: &str = "66f0a1b2c3d4c00000000007";
const ROUTES: [&str; 9] = [
    "/admin/overview",
    "/admin/actors",
    "/admin/actors?q=00000000ff",
    "/admin/actors/node/conversations?limit=100",
    "/admin/conversations?limit=100",
    "/admin/conversations?q=0000000fff&limit=100",
    "/admin/conversations?sort=waiting",
    "/admin/queues",
    "/metrics",
];

/// Fills the node with conversations, and asks while more come than it can answer.
pub async fn admin(options: &Options) {
    let (ai, zendesk) = (stubs::ai(options.ai_latency).await, stubs::zendesk().await);
    let daemon = e2e::between(&ai, &zendesk, options, &[]).await;
    let all = options.conversations * 100;
    let plan = Plan { conversations: all, within: bare::LONG, ..options.plan() };
    let loading = tokio::spawn(load(daemon.public, plan));
    tidegate::cli::tls();
    let client = reqwest::Client::builder().no_proxy().build().expect("a client can be made");
    let known = alive(&client, daemon.admin, all).await;
    println!("{known} conversations on the node, webhooks as fast as they are taken; {TIMES} times each, ms");
    println!("{:<48}{:>9}{:>9}{:>9}", "", "p50", "p99", "most");
    let mut slowest: f64 = 0.0;
    let one = format!("/admin/conversations/{ONE}");
    for route in ROUTES.into_iter().chain([one.as_str()]) {
        let mut took = Vec::new();
        for _ in 0..TIMES {
            let began = Instant::now();
            let answer = client.get(format!("http://{}{route}", daemon.admin)).send().await.expect("it answers");
            let status = answer.status();
            let body = answer.bytes().await.expect("it is read");
            assert!(status.is_success() && !body.is_empty(), "{route}: {status}");
            took.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
        took.sort_unstable();
        let [p50, p99, most] = [0.5, 0.99, 1.0].map(|part| percentile(&took, part));
        println!("{route:<48}{p50:>9.2}{p99:>9.2}{most:>9.2}");
        slowest = slowest.max(p99);
    }
    loading.abort();
    println!("to reach: < {MS_MAX} ms at p99 {}", verdict(slowest < MS_MAX));
}

/// Waits until so many conversations are known; how many are.
async fn alive(client: &reqwest::Client, admin: SocketAddr, wanted: u64) -> u64 {
    let began = Instant::now();
    loop {
        let told = client.get(format!("http://{admin}/admin/conversations?limit=1")).send().await.expect("it answers");
        let told: serde_json::Value = told.json().await.expect("it is JSON");
        let total = told["total"].as_u64().unwrap_or(0);
        // Those in which nothing happens are put away after a while.
        if total >= wanted || began.elapsed() > Duration::from_secs(40) {
            return total;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
