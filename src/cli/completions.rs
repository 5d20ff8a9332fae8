//! `tidegate completions`: what a shell completes.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

/// Options of `tidegate completions`.
#[derive(clap::Args)]
pub(super) struct Options {
    /// The shell.
    shell: Shell,
}

pub(super) fn completions(options: &Options) -> ExitCode {
    clap_complete::generate(options.shell, &mut super::Command::command(), "tidegate", &mut std::io::stdout());
    ExitCode::SUCCESS
}
