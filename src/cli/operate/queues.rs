//! `tidegate queues`: what lies where.

use std::process::ExitCode;

use super::{Reach, span, table, text};

/// Options of `tidegate queues`.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    reach: Reach,
}

pub(in crate::cli) fn queues(options: &Options) -> ExitCode {
    options.reach.run(async |node| {
        let told = node.get("/admin/queues").await?;
        if !node.printed(&told) {
            let counts = ["ready", "in_hand", "delayed", "dead", "parked", "spool"];
            let lanes = told.as_object().into_iter().flatten();
            let row = |(lane, it): (&String, &serde_json::Value)| {
                let cells = counts.iter().map(|count| text(&it[*count]));
                [lane.clone()].into_iter().chain(cells).chain([span(&it["oldest_age_ms"])]).collect()
            };
            let rows: Vec<Vec<String>> = lanes.map(row).collect();
            table::print(&["LANE", "READY", "IN HAND", "DELAYED", "DEAD", "PARKED", "SPOOL", "OLDEST"], &rows);
        }
        Ok(())
    })
}
