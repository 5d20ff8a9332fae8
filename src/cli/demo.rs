//! `tidegate demo`: the whole system on one machine. A real node on its embedded queue, a simulated Zendesk and a
//! simulated rate-limited AI service over real HTTP, customers who write, a storm of 429 and an outage.
//!
//! What was lost, doubled or disordered is counted by the simulators.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context;
use serde::Serialize;
use tokio::time::Instant;

use super::{failed, runtime};
use crate::{
    config::Config,
    domain::secret::Secret,
    guard::limiter::{Limits, WindowLimit},
    node::Node,
    simulate::{
        Ai, Customers, Zendesk, ai, customers, quota,
        zendesk::{self, Stats},
    },
    telemetry,
};

/// Messages the customers write in a second.
const PER_SECOND: f64 = 18.0;
const CONVERSATIONS: usize = 40;

/// The AI service allows this many calls in the window; the node is told a higher number and has to learn.
const QUOTA: u32 = 140;
const CONFIGURED: u64 = 200;
const QUOTA_WINDOW: Duration = Duration::from_secs(4);

/// In the storm it allows this many only.
const STORM_QUOTA: u32 = 12;

/// Parts of the time in which customers write at which the storm of 429 and the outage begin and end.
const STORM: (f64, f64) = (0.15, 0.3);
const OUTAGE: (f64, f64) = (0.5, 0.65);

/// The customers stop after this part of the time; the rest is for the answers.
const WRITING: f64 = 0.75;

/// How long the last answers may take beyond the time given.
const SETTLE_WITHIN: Duration = Duration::from_secs(60);

/// Options of `tidegate demo`.
#[derive(clap::Args)]
pub(super) struct Options {
    /// How long it runs.
    #[arg(long = "for", value_name = "SPAN", default_value = "30s", value_parser = humantime::parse_duration)]
    span: Duration,
    /// The port of the admin listener, with metrics and the live tree; 0: any.
    #[arg(long, value_name = "N", default_value_t = 0)]
    port: u16,
    /// Prints one JSON object in the end and nothing else on standard output.
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    accepted: u64,
    answered: u64,
    merged: u64,
    ignored: u64,
    handed_off: u64,
    parked: u64,
    lost: u64,
    duplicates: u64,
    out_of_order: u64,
    ai_calls: u64,
    ai_429: u64,
    /// Calls that failed in the outage.
    ai_errors: u64,
    /// How often the node stopped asking a service that fails.
    breaker_openings: u64,
    p50_ms: f64,
    p99_ms: f64,
}

pub(super) fn demo(options: &Options) -> ExitCode {
    let outcome = runtime(0).map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(play(options)));
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return failed(&error),
    };
    if options.json {
        println!("{}", serde_json::to_string(&outcome).expect("the outcome is plain data"));
    } else {
        print(&outcome);
    }
    let sound = outcome.lost == 0 && outcome.duplicates == 0 && outcome.out_of_order == 0;
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn play(options: &Options) -> anyhow::Result<Outcome> {
    let folder = Folder::new()?;
    let zendesk = Zendesk::start(SocketAddr::from(([127, 0, 0, 1], 0)), zendesk::Options::default()).await?;
    let ai = Ai::start(SocketAddr::from(([127, 0, 0, 1], 0)), ai::Options::default()).await?;
    let config = configuration(options, &folder, &zendesk, &ai);
    let _traces = if options.json { None } else { telemetry::init(&config.telemetry)? };
    let node = Node::start(&config).await?;
    let public = node.public_address().context("the demo takes webhooks")?;
    zendesk.aim(Some(&format!("http://{public}/webhooks/sunshine")))?;
    say(options, &format!("simulated Zendesk   {}", zendesk.url()));
    say(options, &format!("simulated AI        {}/v1   (at most {QUOTA} calls in {QUOTA_WINDOW:?})", ai.url()));
    say(options, &format!("webhooks            http://{public}/webhooks/sunshine"));
    say(
        options,
        &format!("dashboard           http://{0}/\nmetrics             http://{0}/metrics\n", node.admin_address()),
    );
    let finished = perform(options, &zendesk, &ai).await;
    let parked = counted(&node, "parked").await?;
    let outcome = Outcome { parked, ..outcome(&node, &zendesk.stats(), &ai.stats()).await? };
    node.stop().await;
    if !finished {
        say(options, "not everything was answered in time");
    }
    Ok(outcome)
}

fn configuration(options: &Options, folder: &Folder, zendesk: &Zendesk, ai: &Ai) -> Config {
    let mut config = Config::default();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    config.http.listen = any;
    config.admin.listen = SocketAddr::from(([127, 0, 0, 1], options.port));
    config.broker.embedded.path = folder.0.display().to_string();
    let simulated = zendesk.options();
    config.zendesk.app_id = simulated.app_id.clone();
    config.zendesk.webhook_secrets = vec![Secret::new(&simulated.webhook_secret)];
    config.zendesk.api_url = zendesk.url();
    config.zendesk.key_id = simulated.key_id.clone();
    config.zendesk.key_secret = Secret::new(&simulated.key_secret);
    // Times are shortened, so that a storm and an outage fit into half a minute.
    config.chat.merge_quiet = Duration::from_millis(300);
    config.chat.merge_cap = Duration::from_secs(1);
    config.retry.base = Duration::from_millis(100);
    config.telemetry.log_level = "error".into();
    let service = &mut config.ai.services[0];
    service.base_url = format!("{}/v1", ai.url());
    service.model = "simulated".into();
    service.timeout = Duration::from_secs(5);
    service.limits = Limits { windows: vec![WindowLimit { requests: CONFIGURED, per: QUOTA_WINDOW }], ..Limits::NONE };
    service.breaker.recovery_timeout = Duration::from_secs(1);
    config
}

/// Plays the script; `false` when not everything was answered in time.
async fn perform(options: &Options, zendesk: &Zendesk, ai: &Ai) -> bool {
    let began = Instant::now();
    let writing = options.span.mul_f64(WRITING);
    let total = (PER_SECOND * writing.as_secs_f64()) as u64;
    let plan = customers::Plan {
        conversations: CONVERSATIONS,
        per_second: PER_SECOND,
        total: Some(total.max(1)),
        burst_rate: 0.2,
        ..customers::Plan::default()
    };
    let customers = Customers::start(zendesk, plan);
    let mut weather = Weather::Fair;
    ai.behave(weather.behaviour());
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    for tick in 0_u64.. {
        ticks.tick().await;
        let now = began.elapsed();
        let next = Weather::at(now.as_secs_f64() / writing.as_secs_f64());
        if next != weather {
            weather = next;
            ai.behave(weather.behaviour());
            say(options, weather.announcement());
        }
        if tick % 4 == 0 {
            let (stats, asked) = (zendesk.stats(), ai.stats());
            let of = &stats.judged;
            let line = format!(
                "{:>4}s  written {:>5}  accepted {:>5}  answered {:>5}  AI calls {:>5}  429 {:>3}  errors {:>3}",
                now.as_secs(),
                of.customers_messages,
                of.accepted,
                of.answered,
                asked.calls,
                asked.status_429,
                asked.errors
            );
            say(options, &line);
        }
        if now >= writing && customers.finished(Duration::ZERO).await {
            break;
        }
    }
    let left = options.span.saturating_sub(began.elapsed());
    let settled = customers.settled(left + SETTLE_WITHIN).await;
    tokio::time::sleep(options.span.saturating_sub(began.elapsed())).await;
    settled
}

/// What the AI service is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fair,
    Storm,
    Outage,
}

impl Weather {
    /// By the script; `part` of the time in which customers write.
    fn at(part: f64) -> Self {
        if (STORM.0..STORM.1).contains(&part) {
            Self::Storm
        } else if (OUTAGE.0..OUTAGE.1).contains(&part) {
            Self::Outage
        } else {
            Self::Fair
        }
    }

    fn behaviour(self) -> ai::Behaviour {
        let requests = if self == Self::Storm { STORM_QUOTA } else { QUOTA };
        ai::Behaviour {
            latency_ms: 150,
            latency_jitter_ms: 100,
            status: if self == Self::Outage { 503 } else { 0 },
            quota: vec![quota::Quota { requests, per_ms: QUOTA_WINDOW.as_millis() as u64 }],
            ..ai::Behaviour::default()
        }
    }

    fn announcement(self) -> &'static str {
        match self {
            Self::Fair => "-- the AI service works as usual",
            Self::Storm => "-- a storm: the AI service refuses most calls with 429",
            Self::Outage => "-- an outage: the AI service fails",
        }
    }
}

async fn outcome(node: &Node, zendesk: &Stats, ai: &ai::Stats) -> anyhow::Result<Outcome> {
    let judged = &zendesk.judged;
    Ok(Outcome {
        accepted: judged.accepted,
        answered: judged.answered,
        merged: counted(node, "merged").await?,
        ignored: counted(node, "ignored").await?,
        handed_off: judged.handed_off,
        parked: 0,
        lost: judged.lost,
        duplicates: judged.duplicates,
        out_of_order: judged.out_of_order,
        ai_calls: ai.calls,
        ai_429: ai.status_429,
        ai_errors: ai.errors,
        breaker_openings: series(node, "tidegate_breaker_transitions_total{service=\"primary\",to=\"open\"} ").await?,
        p50_ms: zendesk.p50_ms,
        p99_ms: zendesk.p99_ms,
    })
}

/// How many messages the node counted with an outcome.
async fn counted(node: &Node, outcome: &str) -> anyhow::Result<u64> {
    series(node, &format!("tidegate_messages_total{{lane=\"chat\",outcome=\"{outcome}\"}} ")).await
}

/// What one series of the node says.
async fn series(node: &Node, series: &str) -> anyhow::Result<u64> {
    let metrics = reqwest::get(format!("http://{}/metrics", node.admin_address())).await?.text().await?;
    let value =
        metrics.lines().find_map(|line| line.strip_prefix(series)).context("the series is there from the start")?;
    Ok(value.trim().parse()?)
}

fn say(options: &Options, line: &str) {
    if options.json {
        eprintln!("{line}");
    } else {
        println!("{line}");
    }
}

fn print(outcome: &Outcome) {
    println!("\nas counted by the simulators (merged, ignored, parked, breaker_openings: by the node)");
    let rows = serde_json::to_value(outcome).expect("the outcome is plain data");
    for (name, value) in rows.as_object().into_iter().flatten() {
        println!("  {name:<18}{value:>10}");
    }
}

/// A folder for the demo's queue, removed in the end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let path =
            std::env::temp_dir().join(format!("tidegate-demo-{}-{:x}", std::process::id(), rand::random::<u32>()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed now, the system's cleaning of temporary files removes.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
