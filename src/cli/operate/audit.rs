//! `tidegate audit`: what operators did.

use std::process::ExitCode;

use serde_json::Value;

use super::{Reach, items, table, text};

/// Options of `tidegate audit`.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    /// The newest so many.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    reach: Reach,
}

pub(in crate::cli) fn audit(options: &Options) -> ExitCode {
    options.reach.run(async |node| {
        let told = node.get(&format!("/admin/audit?limit={}", options.limit)).await?;
        if !node.printed(&told) {
            let row = |it: &Value| {
                ["at", "who", "action", "subject", "node", "detail"].iter().map(|field| text(&it[*field])).collect()
            };
            let rows: Vec<Vec<String>> = items(&told["entries"]).iter().map(row).collect();
            table::print(&["AT", "WHO", "WHAT", "TO WHAT", "NODE", "HOW"], &rows);
        }
        Ok(())
    })
}
