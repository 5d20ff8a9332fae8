//! `tidegate breaker`: how the breakers stand, and how they are held by hand.

use std::process::ExitCode;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Reach, part, table, text};

/// Options of `tidegate breaker`.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    reach: Reach,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Lists the breakers.
    List,
    /// Holds one open on all nodes: no call is made.
    Open(Held),
    /// Holds one closed on all nodes: calls are made whatever fails.
    Close(Held),
    /// Lets one decide again.
    Auto {
        /// The service.
        name: String,
    },
}

#[derive(clap::Args)]
struct Held {
    /// The service.
    name: String,
    /// Also after a restart of the node that is told.
    #[arg(long)]
    keep: bool,
}

pub(in crate::cli) fn breaker(options: &Options) -> ExitCode {
    options.reach.run(async |node| {
        let (name, mode, keep) = match &options.action {
            Action::List => {
                let told = node.get("/admin/breakers").await?;
                if !node.printed(&told) {
                    list(&told);
                }
                return Ok(());
            }
            Action::Open(held) => (&held.name, "open", held.keep),
            Action::Close(held) => (&held.name, "closed", held.keep),
            Action::Auto { name } => (name, "auto", false),
        };
        let body = json!({ "mode": mode, "keep": keep });
        let told = node.order(Method::PUT, &format!("/admin/breakers/{}", part(name)), body).await?;
        if !node.printed(&told) {
            println!("the breaker of {name}: {mode}");
        }
        Ok(())
    })
}

fn list(told: &Value) {
    let rows: Vec<Vec<String>> = told
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, it)| {
            let until = if it["until"].is_null() { String::new() } else { format!("probes at {}", text(&it["until"])) };
            vec![
                name.clone(),
                text(&it["state"]),
                text(&it["mode"]),
                text(&it["consecutive_failures"]),
                text(&it["scope"]),
                until,
            ]
        })
        .collect();
    table::print(&["SERVICE", "STATE", "MODE", "FAILURES", "OF", ""], &rows);
}
