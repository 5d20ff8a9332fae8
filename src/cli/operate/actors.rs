//! `tidegate actors`: the live tree. `tidegate restart`: one of them is started again.

use std::{process::ExitCode, time::Duration};

use reqwest::Method;
use serde_json::Value;

use super::{Error, Node, Reach, items, part, span, text};

/// How often a watched tree is printed anew.
const EVERY: Duration = Duration::from_secs(1);

/// Options of `tidegate actors`.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    /// One actor, such as node/guards/breaker/primary, or conversations whose id contains this.
    path: Option<String>,
    /// Prints it anew every second.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    reach: Reach,
}

/// Options of `tidegate restart`.
#[derive(clap::Args)]
pub(in crate::cli) struct RestartOptions {
    /// The actor, such as node/conversations/ID.
    path: String,
    #[command(flatten)]
    reach: Reach,
}

pub(in crate::cli) fn actors(options: &Options) -> ExitCode {
    options.reach.run(async |node| {
        loop {
            if options.watch && !node.json {
                // Clears the screen and begins at its top.
                print!("\x1b[2J\x1b[H");
            }
            show(node, options.path.as_deref()).await?;
            if !options.watch {
                return Ok(());
            }
            tokio::time::sleep(EVERY).await;
        }
    })
}

pub(in crate::cli) fn restart(options: &RestartOptions) -> ExitCode {
    options.reach.run(async |node| {
        let path = format!("/admin/actors/{}/restart", path(&options.path));
        let told = node.order(Method::POST, &path, Value::Null).await?;
        if !node.printed(&told) {
            println!("{} is restarted", options.path);
        }
        Ok(())
    })
}

fn path(text: &str) -> String {
    text.split('/').map(part).collect::<Vec<_>>().join("/")
}

async fn show(node: &Node, asked: Option<&str>) -> Result<(), Error> {
    let told = match asked {
        Some(asked) if asked.starts_with("node") => node.get(&format!("/admin/actors/{}", path(asked))).await?,
        Some(asked) => node.get(&format!("/admin/actors?limit=1000&q={}", part(asked))).await?,
        None => node.get("/admin/actors").await?,
    };
    if !node.printed(&told) {
        print(&told, 0);
    }
    Ok(())
}

fn print(actor: &Value, depth: usize) {
    let path = text(&actor["path"]);
    let name = if depth == 0 { path.as_str() } else { path.rsplit('/').next().unwrap_or_default() };
    let mut line = format!("{:indent$}{name}  {}", "", text(&actor["state"]), indent = depth * 2);
    for (field, word) in
        [("waiting", "waiting"), ("handled", "handled"), ("restarts", "restarts"), ("zombies", "blocked")]
    {
        if actor[field].as_u64().is_some_and(|count| count > 0) {
            line += &format!(", {} {word}", actor[field]);
        }
    }
    if let Some(hand) = actor["in_hand"].as_object() {
        line += &format!("; in hand: {} for {}", text(&hand["phase"]), span(&hand["age_ms"]));
        if let Some(message) = hand.get("message_id").filter(|id| !id.is_null()) {
            line += &format!(" ({})", text(message));
        }
    }
    if let Some(failure) = actor["last_failure"].as_object() {
        line += &format!("; failed at {}: {}", text(&failure["at"]), text(&failure["reason"]));
    }
    println!("{line}");
    let children = items(&actor["children"]);
    children.iter().for_each(|child| print(child, depth + 1));
    let beyond = actor["children_total"].as_u64().unwrap_or_default().saturating_sub(children.len() as u64);
    if beyond > 0 {
        println!("{:indent$}… {beyond} more", "", indent = (depth + 1) * 2);
    }
}
