//! `tidegate pause`, `resume`, `drain`: what takes nothing more in hand.

use std::process::ExitCode;

use reqwest::Method;
use serde_json::Value;

use super::{Reach, part};

/// Options of `tidegate pause`.
#[derive(clap::Args)]
pub(in crate::cli) struct PauseOptions {
    /// chat, events or retry: on all nodes, also after a restart, until it is resumed.
    pool: String,
    #[command(flatten)]
    reach: Reach,
}

/// Options of `tidegate drain`.
#[derive(clap::Args)]
pub(in crate::cli) struct DrainOptions {
    /// The node's id (`tidegate nodes`): until it is resumed or ends.
    node: String,
    #[command(flatten)]
    reach: Reach,
}

/// Options of `tidegate resume`.
#[derive(clap::Args)]
pub(in crate::cli) struct ResumeOptions {
    /// A pool (chat, events, retry), or the id of a drained node.
    what: String,
    #[command(flatten)]
    reach: Reach,
}

pub(in crate::cli) fn pause(options: &PauseOptions) -> ExitCode {
    order(&options.reach, format!("/admin/pools/{}/pause", part(&options.pool)), format!("{} is paused", options.pool))
}

pub(in crate::cli) fn drain(options: &DrainOptions) -> ExitCode {
    order(&options.reach, format!("/admin/nodes/{}/drain", part(&options.node)), format!("{} is drained", options.node))
}

pub(in crate::cli) fn resume(options: &ResumeOptions) -> ExitCode {
    let what = &options.what;
    let kind = if ["chat", "events", "retry"].contains(&what.as_str()) { "pools" } else { "nodes" };
    order(&options.reach, format!("/admin/{kind}/{}/resume", part(what)), format!("{what} works again"))
}

fn order(reach: &Reach, path: String, done: String) -> ExitCode {
    reach.run(async |node| {
        let told = node.order(Method::POST, &path, Value::Null).await?;
        if !node.printed(&told) {
            println!("{}", if told["changed"] == false { "it was so already" } else { &done });
        }
        Ok(())
    })
}
