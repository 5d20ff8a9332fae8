//! `tidegate limits`: how the limiters stand, what was used and what it cost, and other limits.

use std::process::ExitCode;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Reach, items, part, span, table, text};
use crate::actors::KEY_LIMITERS;

/// Options of `tidegate limits`.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    reach: Reach,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Lists the limiters, and what was used and what it cost.
    List,
    /// Sets other limits for a service or an API key, on all nodes; what is not told stays as configured.
    Set {
        /// The service; an API key that is limited is `key:` and its name.
        name: String,
        /// Requests in any minute.
        #[arg(long, value_name = "N")]
        per_minute: Option<u64>,
        /// Requests in any hour.
        #[arg(long, value_name = "N")]
        per_hour: Option<u64>,
        /// Requests that may come at once.
        #[arg(long, value_name = "N")]
        burst: Option<u32>,
        /// Tokens in any minute.
        #[arg(long, value_name = "N")]
        tokens_per_minute: Option<u64>,
        /// Calls at once; of a service only.
        #[arg(long, value_name = "N")]
        concurrency: Option<usize>,
        /// Also after a restart of the node that is told.
        #[arg(long)]
        keep: bool,
    },
    /// Brings back the configured limits.
    Reset {
        /// The service; an API key that is limited is `key:` and its name.
        name: String,
    },
}

pub(in crate::cli) fn limits(options: &Options) -> ExitCode {
    options.reach.run(async |node| {
        let told = match &options.action {
            Action::List => {
                let told = node.get("/admin/limiters").await?;
                if !node.printed(&told) {
                    list(&told);
                    accounts(&told);
                }
                return Ok(());
            }
            Action::Set { name, per_minute, per_hour, burst, tokens_per_minute, concurrency, keep } => {
                let all = json!({ "per_minute": per_minute, "per_hour": per_hour, "burst": burst,
                    "tokens_per_minute": tokens_per_minute, "concurrency": concurrency, "keep": keep });
                let told = all.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
                let body: serde_json::Map<String, Value> =
                    told.map(|(name, value)| (name.clone(), value.clone())).collect();
                node.order(Method::PUT, &format!("/admin/limiters/{}", part(name)), body.into()).await?
            }
            Action::Reset { name } => {
                node.order(Method::DELETE, &format!("/admin/limiters/{}", part(name)), Value::Null).await?
            }
        };
        if !node.printed(&told) {
            println!("done; `tidegate limits list` shows what holds");
        }
        Ok(())
    })
}

fn list(told: &Value) {
    let mut rows = Vec::new();
    for (name, it) in told.as_object().into_iter().flatten() {
        let slots = it["slots"]
            .as_object()
            .map(|slots| format!("{}/{}", slots["in_use"], slots["effective"]))
            .unwrap_or_default();
        let windows = items(&it["used"]);
        if let Some(budget) = it["budget"].as_object() {
            let limit = format!("{} tokens until {}", budget["tokens"], text(&budget["until"]));
            rows.push(vec![name.clone(), limit, text(&budget["used"]), String::new(), String::new()]);
        } else if windows.is_empty() {
            rows.push(vec![name.clone(), "no limit".into(), String::new(), text(&it["waiting"]), slots.clone()]);
        }
        for window in windows {
            let limit = limit(window);
            let learned = window["configured"] != window["limit"] && !window["configured"].is_null();
            let limit =
                if learned { format!("{limit} (learned from 429; set: {})", window["configured"]) } else { limit };
            rows.push(vec![name.clone(), limit, text(&window["used"]), text(&it["waiting"]), slots.clone()]);
        }
    }
    table::print(&["WHOSE", "LIMIT", "USED", "WAITING", "SLOTS"], &rows);
}

fn limit(window: &Value) -> String {
    let (most, per) = (&window["limit"], span(&window["per_ms"]));
    match window["kind"].as_str() {
        Some("burst") => format!("{most} at once, and one each {per}"),
        kind => format!("{most} {} in {per}", kind.unwrap_or_default()),
    }
}

/// What was used, by service, model and who asked; those of the keys are among those of the services.
fn accounts(told: &Value) {
    let of_services = told.as_object().into_iter().flatten().filter(|(name, _)| !name.starts_with(KEY_LIMITERS));
    let row = |account: &Value| {
        let asked_by = account["key"].as_str().map_or("the chat".to_owned(), |key| format!("key {key}"));
        let used = ["input_tokens", "output_tokens"].map(|kind| text(&account[kind]));
        let cost = account["cost"].as_f64().map(|cost| format!("{cost:.6}")).unwrap_or_default();
        [vec![text(&account["service"]), text(&account["model"]), asked_by], used.to_vec(), vec![cost]].concat()
    };
    let rows: Vec<_> = of_services.flat_map(|(_, it)| items(&it["accounts"])).map(row).collect();
    if !rows.is_empty() {
        println!("\nused on this node since it began:");
        table::print(&["SERVICE", "MODEL", "ASKED BY", "TOKENS IN", "TOKENS OUT", "COST"], &rows);
    }
}
