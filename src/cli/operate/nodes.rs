//! `tidegate nodes`: the nodes that live.

use std::process::ExitCode;

use serde_json::Value;

use super::{Reach, items, table, text};

/// Options of `tidegate nodes`.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    reach: Reach,
}

pub(in crate::cli) fn nodes(options: &Options) -> ExitCode {
    options.reach.run(async |node| {
        let told = node.get("/admin/nodes").await?;
        if !node.printed(&told) {
            let row = |it: &Value| {
                let roles: Vec<String> = items(&it["roles"]).iter().map(text).collect();
                vec![
                    text(&it["name"]),
                    text(&it["id"]),
                    text(&it["version"]),
                    roles.join(","),
                    text(&it["in_hand"]),
                    text(&it["started_at"]),
                ]
            };
            let rows: Vec<Vec<String>> = items(&told).iter().map(row).collect();
            table::print(&["NODE", "ID", "VERSION", "ROLES", "IN HAND", "STARTED"], &rows);
        }
        Ok(())
    })
}
