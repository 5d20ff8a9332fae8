//! `tidegate check`: validates the configuration and asks every dependency.

mod ai;
mod rabbitmq;
mod redis;

use std::{process::ExitCode, time::Duration};

use super::{Source, failed, runtime};
use crate::{
    broker,
    client::{self, Sunshine},
    config::{Config, Loaded, Origin, Role, Warning},
    domain::ids::ConversationId,
    store::{self, FolderLock},
    telemetry::Clock,
};

/// How long a dependency may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Options of `tidegate check`.
#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    source: Source,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// What was found out about one thing.
#[derive(serde::Serialize)]
struct Finding {
    what: String,
    /// Nothing keeps it from working.
    ok: bool,
    /// It works, but not as well as it could.
    warning: bool,
    detail: String,
    remedy: String,
}

impl Finding {
    fn good(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { what: what.into(), ok: true, warning: false, detail: detail.into(), remedy: String::new() }
    }

    fn warn(what: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { ok: true, warning: true, ..Self::bad(what, detail, remedy) }
    }

    /// Nothing is wrong with it; somebody should know it.
    fn note(what: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { ok: true, ..Self::bad(what, detail, remedy) }
    }

    fn bad(what: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), ok: false, warning: false, detail: detail.into(), remedy: remedy.into() }
    }
}

pub(super) fn check(options: &Options) -> ExitCode {
    let loaded = match options.source.load(toml::Table::new()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let findings = match runtime(0) {
        Ok(runtime) => runtime.block_on(findings(&loaded)),
        Err(error) => return failed(&error.into()),
    };
    let all_good = findings.iter().all(|finding| finding.ok);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&findings).expect("findings are plain data"));
    } else {
        print(&loaded, &findings);
    }
    if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(loaded: &Loaded, findings: &[Finding]) {
    for finding in findings {
        let word = match (finding.ok, finding.warning) {
            (false, _) => "FAIL",
            (true, true) => "WARN",
            (true, false) if finding.remedy.is_empty() => "ok",
            (true, false) => "note",
        };
        println!("{word:<4} {:<24} {}", finding.what, finding.detail);
        for (index, line) in finding.remedy.lines().enumerate() {
            println!("     {:<24} {} {line}", "", if index == 0 { "->" } else { "  " });
        }
    }
    let set: Vec<_> = loaded.origins.iter().filter(|(_, origin)| **origin != Origin::Default).collect();
    if !set.is_empty() {
        println!("\nset by you:");
        set.iter().for_each(|(key, origin)| println!("  {key} ({origin})"));
    }
    loaded.notices.iter().for_each(|notice| println!("note: {notice}"));
}

async fn findings(loaded: &Loaded) -> Vec<Finding> {
    let config = &loaded.config;
    let mut findings: Vec<Finding> = loaded.warnings.iter().map(warned).collect();
    findings.push(folder(config));
    findings.extend(rabbitmq::findings(config).await);
    findings.extend(redis::findings(config).await);
    let does = |roles: &[Role]| roles.iter().any(|role| config.node.does(*role));
    if does(&[Role::Chat, Role::Events, Role::Retry]) {
        findings.push(zendesk(config).await);
    }
    if does(&[Role::Chat, Role::Api]) {
        for service in config.ai.services.iter().filter(|service| !service.base_url.is_empty()) {
            findings.push(ai::finding(service).await);
        }
    }
    findings
}

/// What is missing keeps the node from its work; whatever else is set may be set on purpose.
fn warned(warning: &Warning) -> Finding {
    let Warning { text, remedy, hinders } = warning;
    if *hinders { Finding::bad("configuration", text, *remedy) } else { Finding::warn("configuration", text, *remedy) }
}

/// The ledger and the journals are there also when RabbitMQ is the queue.
fn folder(config: &Config) -> Finding {
    let what = match config.broker.kind {
        broker::Kind::Embedded => "queue folder",
        broker::Kind::Rabbitmq => "state folder",
    };
    let path = &config.broker.embedded.path;
    match FolderLock::take(std::path::Path::new(path)) {
        Ok(_) => Finding::good(what, path),
        Err(store::Error::InUse(_)) => {
            let detail = format!("{path} is in use by a node that runs");
            Finding::warn(what, detail, "if that is not this node, give each a folder of its own")
        }
        Err(error) => Finding::bad(what, error.to_string(), "check broker.embedded.path and its permissions"),
    }
}

async fn zendesk(config: &Config) -> Finding {
    const WHAT: &str = "zendesk";
    let client = match Sunshine::new(&config.zendesk, Clock::system()) {
        Ok(client) => client,
        Err(error) => return Finding::bad(WHAT, error.to_string(), "check zendesk.api_url"),
    };
    let nobody = ConversationId::new("000000000000000000000000").expect("the id is sound");
    match tokio::time::timeout(ANSWER_WITHIN, client.active(None, &nobody)).await {
        Ok(Ok(_) | Err(client::Error::Refused(404))) => Finding::good(WHAT, &config.zendesk.api_url),
        Ok(Err(client::Error::Unauthorized)) => {
            Finding::bad(WHAT, "the key is not accepted", "check zendesk.key_id, zendesk.key_secret and zendesk.app_id")
        }
        Ok(Err(error)) => Finding::bad(WHAT, error.to_string(), "check zendesk.api_url and the way there"),
        Err(_) => Finding::bad(WHAT, "no answer in 5 s", "check zendesk.api_url and the way there"),
    }
}
