//! `tidegate run`: the daemon.

use std::process::ExitCode;

use tokio::signal::unix::SignalKind;

use super::{EXIT_GAVE_UP, EXIT_USAGE, Source, asked_to_stop, failed, manager, runtime};
use crate::{client, config::Loaded, node::Node, telemetry};

/// Options of `tidegate run`.
#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    source: Source,
    /// What this node does: ingress, api, chat, events, retry; all if not told.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// Prints the effective configuration, secrets as ***, and ends.
    #[arg(long)]
    print_config: bool,
}

pub(super) fn run(options: &Options) -> ExitCode {
    let loaded = match options.source.load(flags(&options.roles)) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if options.print_config {
        print!("{}", loaded.config.effective());
        return ExitCode::SUCCESS;
    }
    client::tls();
    // Sends what is left of the traces when it is dropped, after everything else.
    let _traces = match telemetry::init(&loaded.config.telemetry) {
        Ok(traces) => traces,
        Err(error) => {
            eprintln!("tidegate: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match runtime(loaded.config.node.worker_threads) {
        Ok(runtime) => runtime.block_on(serve(&loaded)),
        Err(error) => failed(&error.into()),
    }
}

fn flags(roles: &[String]) -> toml::Table {
    let mut flags = toml::Table::new();
    if !roles.is_empty() {
        let mut node = toml::Table::new();
        node.insert("roles".into(), roles.iter().cloned().map(toml::Value::String).collect::<Vec<_>>().into());
        flags.insert("node".into(), node.into());
    }
    flags
}

async fn serve(loaded: &Loaded) -> ExitCode {
    if let Err(error) = outlive_file_limits() {
        return failed(&error.into());
    }
    loaded.notices.iter().for_each(|notice| tracing::warn!("{notice}"));
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let mut node = match Node::start(&loaded.config).await {
        Ok(node) => node,
        Err(error) => return failed(&error),
    };
    let public = node.public_address().map(|address| address.to_string()).unwrap_or_default();
    tracing::info!(public, admin = %node.admin_address(), "the node runs");
    let _alive = manager::ready(&public, &node.admin_address().to_string());
    tokio::select! {
        asked = asked_to_stop() => {
            if let Err(error) = asked {
                tracing::error!(%error, "signals cannot be waited for; stopping");
            }
            tracing::info!("the node is asked to stop");
            manager::stopping();
            node.stop().await;
            ExitCode::SUCCESS
        }
        gave_up = node.given_up() => {
            tracing::error!("{gave_up}");
            node.stop().await;
            ExitCode::from(EXIT_GAVE_UP)
        }
    }
}

/// A write beyond a limit on the size of files (`ulimit -f`, `LimitFSIZE=`) ends the process unless the signal is
/// handled; once it is, the write fails like one to a full disk, and whoever sent the message hears 503.
fn outlive_file_limits() -> std::io::Result<()> {
    // The handler stays for the life of the process, also when nobody listens to it.
    tokio::signal::unix::signal(SignalKind::from_raw(libc::SIGXFSZ)).map(drop)
}
