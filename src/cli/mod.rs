//! The command line: one file for each subcommand.

mod backup;
mod check;
mod completions;
mod demo;
mod manager;
mod operate;
mod run;
mod simulate;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Loaded};

/// The configuration is wrong (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;
/// The node gave up (`EX_SOFTWARE`).
const EXIT_GAVE_UP: u8 = 70;

/// Keeps an AI support chat answering while the AI service rate-limits, slows down or fails.
#[derive(Parser)]
#[command(name = "tidegate", version, about)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Shows the whole system on this machine, without any set-up.
    Demo(demo::Options),
    /// Runs the daemon.
    Run(run::Options),
    /// Checks the configuration and every dependency.
    Check(check::Options),
    /// Runs a simulator by itself.
    Simulate(simulate::Options),
    /// Says whether a node serves; fails when it is unready.
    Health(operate::health::Options),
    /// Says why a customer has no answer: the story of a message or conversation.
    Explain(operate::explain::Options),
    /// Shows the live tree of actors.
    Actors(operate::actors::Options),
    /// Shows how things stand, live on a full screen.
    Top(operate::top::Options),
    /// Starts an actor again.
    Restart(operate::actors::RestartOptions),
    /// Shows what lies in the queues.
    Queues(operate::queues::Options),
    /// Shows, replays, discards or hands over dead letters.
    Dead(operate::dead::Options),
    /// Shows breakers, and holds them open or closed.
    Breaker(operate::breaker::Options),
    /// Shows limits, and sets others.
    Limits(operate::limits::Options),
    /// Lets a pool take nothing more in hand, on all nodes.
    Pause(operate::pools::PauseOptions),
    /// Lets a pool or a drained node go on.
    Resume(operate::pools::ResumeOptions),
    /// Lets a node take nothing more from the queue.
    Drain(operate::pools::DrainOptions),
    /// Lets the bot say nothing, somewhere or everywhere.
    Mute(operate::mute::MuteOptions),
    /// Lets the bot speak again.
    Unmute(operate::mute::UnmuteOptions),
    /// Shows the nodes that live.
    Nodes(operate::nodes::Options),
    /// Shows what operators did.
    Audit(operate::audit::Options),
    /// Removes a customer from queue, ledger, history and dead letters.
    Erase(operate::erase::Options),
    /// Copies the embedded store while the node runs.
    Backup(backup::Options),
    /// Brings a copy back into an empty folder.
    Restore(backup::Options),
    /// Prints what a shell completes.
    Completions(completions::Options),
}

/// Where the configuration comes from.
#[derive(Args)]
struct Source {
    /// The configuration file; without one, defaults and environment.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Source {
    /// Loads it; what is wrong is printed, all at once.
    fn load(&self, flags: toml::Table) -> Result<Loaded, ExitCode> {
        let file = self.config.as_deref().map(config::File::read).transpose().map_err(|error| {
            let path = self.config.as_deref().unwrap_or_else(|| std::path::Path::new(""));
            eprintln!("tidegate: cannot read {}: {error}", path.display());
            ExitCode::from(EXIT_USAGE)
        })?;
        config::load(file, std::env::vars_os(), flags).map_err(|refused| {
            eprintln!("tidegate: the configuration cannot be used:");
            for problem in &refused.0 {
                eprintln!("  {problem}");
            }
            ExitCode::from(EXIT_USAGE)
        })
    }
}

pub use crate::client::tls;

/// Runs the command line.
pub fn main() -> ExitCode {
    let action = Command::parse().action;
    // Whoever reads no more ends what is printed; what serves goes on.
    if !matches!(action, Action::Demo(_) | Action::Run(_) | Action::Simulate(_)) {
        sigpipe::reset();
    }
    match action {
        Action::Demo(options) => demo::demo(&options),
        Action::Run(options) => run::run(&options),
        Action::Check(options) => check::check(&options),
        Action::Simulate(options) => simulate::simulate(&options),
        Action::Health(options) => operate::health::health(&options),
        Action::Explain(options) => operate::explain::explain(&options),
        Action::Actors(options) => operate::actors::actors(&options),
        Action::Top(options) => operate::top::top(&options),
        Action::Restart(options) => operate::actors::restart(&options),
        Action::Queues(options) => operate::queues::queues(&options),
        Action::Dead(options) => operate::dead::dead(&options),
        Action::Breaker(options) => operate::breaker::breaker(&options),
        Action::Limits(options) => operate::limits::limits(&options),
        Action::Pause(options) => operate::pools::pause(&options),
        Action::Resume(options) => operate::pools::resume(&options),
        Action::Drain(options) => operate::pools::drain(&options),
        Action::Mute(options) => operate::mute::mute(&options),
        Action::Unmute(options) => operate::mute::unmute(&options),
        Action::Nodes(options) => operate::nodes::nodes(&options),
        Action::Audit(options) => operate::audit::audit(&options),
        Action::Erase(options) => operate::erase::erase(&options),
        Action::Backup(options) => backup::backup(&options),
        Action::Restore(options) => backup::restore(&options),
        Action::Completions(options) => completions::completions(&options),
    }
}

/// Makes the runtime that everything runs on but the connections of `/v1`, the watchdog and the admin listener.
fn runtime(worker_threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if worker_threads > 0 {
        builder.worker_threads(worker_threads);
    }
    builder.enable_all().build()
}

/// Prints why it did not work, and fails.
fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("tidegate: {error:#}");
    ExitCode::FAILURE
}

/// Waits for SIGTERM or ctrl-C.
async fn asked_to_stop() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}
