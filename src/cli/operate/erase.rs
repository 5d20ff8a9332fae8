//! `tidegate erase`: a customer is removed from queue, ledger, history and dead letters.

use std::{process::ExitCode, time::Duration};

use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

use super::{Error, Reach, part, text};

/// How often it is looked whether everything is gone.
const POLL: Duration = Duration::from_millis(200);

/// Options of `tidegate erase`.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    /// The customer's id in Sunshine Conversations.
    #[arg(long, value_name = "ID")]
    user: String,
    /// The app, if it is not zendesk.app_id.
    #[arg(long, value_name = "ID")]
    app: Option<String>,
    /// How long to wait for the end of it.
    #[arg(long, value_name = "SPAN", default_value = "120s", value_parser = humantime::parse_duration)]
    within: Duration,
    #[command(flatten)]
    reach: Reach,
}

pub(in crate::cli) fn erase(options: &Options) -> ExitCode {
    options.reach.run(async |node| {
        let body = json!({ "user": options.user, "app": options.app });
        let told = node.order(Method::POST, "/admin/erase", body).await?;
        let id = text(&told["id"]);
        let until = Instant::now() + options.within;
        loop {
            let ended = match node.get(&format!("/admin/messages/{}", part(&id))).await {
                Ok(ended) => ended,
                Err(Error::Unknown(_)) => json!(null),
                Err(error) => return Err(error),
            };
            if ended["outcome"] == "applied" {
                if !node.printed(&ended) {
                    println!("{} is removed: nothing of theirs waits, is in hand, or is kept", options.user);
                }
                return Ok(());
            }
            if Instant::now() >= until {
                let detail = format!("not everything is gone yet; it goes on by itself: tidegate explain {id}");
                return Err(Error::Refused(detail));
            }
            tokio::time::sleep(POLL).await;
        }
    })
}
