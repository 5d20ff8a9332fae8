//! `tidegate health`: whether a node serves; for checks of containers, whose images have no shell.

use std::process::ExitCode;

use super::{Error, Reach, text};

/// Options of `tidegate health`.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    reach: Reach,
}

pub(in crate::cli) fn health(options: &Options) -> ExitCode {
    options.reach.run(async |node| {
        let told = node.report("/readyz").await?;
        let status = text(&told["status"]);
        match status.as_str() {
            "ready" | "degraded" | "unready" => {}
            _ => return Err(node.strange()),
        }
        if !node.printed(&told) {
            println!("{status}");
        }
        if status == "unready" {
            return Err(Error::Refused(format!("the node is unready: {}", text(&told["reason"]))));
        }
        Ok(())
    })
}
