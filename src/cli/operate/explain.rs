//! `tidegate explain`: why has this customer no answer?

use std::process::ExitCode;

use serde_json::Value;

use super::{Error, Node, Reach, items, part, span, table, text};

/// Options of `tidegate explain`.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    /// A message, an event or a conversation.
    id: String,
    #[command(flatten)]
    reach: Reach,
}

pub(in crate::cli) fn explain(options: &Options) -> ExitCode {
    options.reach.run(async |node| show(node, &options.id).await)
}

async fn show(node: &Node, id: &str) -> Result<(), Error> {
    match node.get(&format!("/admin/messages/{}", part(id))).await {
        Ok(message) => {
            if !node.printed(&message) {
                print_message(&message);
            }
            return Ok(());
        }
        Err(Error::Unknown(_)) => {}
        Err(error) => return Err(error),
    }
    match node.get(&format!("/admin/conversations/{}", part(id))).await {
        Ok(conversation) => {
            if !node.printed(&conversation) {
                print_conversation(&conversation);
            }
            Ok(())
        }
        Err(Error::Unknown(_)) => {
            Err(Error::Unknown(format!("neither a message, an event nor a conversation `{id}` is known to the node")))
        }
        Err(error) => Err(error),
    }
}

fn print_message(message: &Value) {
    println!("message {} of conversation {}", text(&message["message_id"]), text(&message["conversation_id"]));
    println!("{}\n", text(&message["explanation"]));
    let rows: Vec<Vec<String>> =
        items(&message["timeline"]).iter().map(|entry| vec![text(&entry["at"]), stage(entry)]).collect();
    table::print(&["AT", "WHAT"], &rows);
}

/// One entry of a timeline.
fn stage(entry: &Value) -> String {
    let of = |field: &str| text(&entry[field]);
    match entry["stage"].as_str().unwrap_or_default() {
        "accepted" if entry["trace"].is_null() => "accepted: stored, the webhook answered".into(),
        "accepted" => format!("accepted: stored, the webhook answered; trace {}", of("trace")),
        "taken" => "taken into its conversation".into(),
        "merged" => format!("merged: {} messages, one answer", of("fragments")),
        "superseded" => "its answer was withheld: the customer had written more".into(),
        "waited" => format!("waited {}: {}", span(&entry["ms"]), of("on")),
        "asked" => format!("asked {}: {} after {}", of("service"), of("outcome"), span(&entry["ms"])),
        "intended" => "the answer was written into the ledger".into(),
        "posted" => format!("posted in {} parts, in {}", of("parts"), span(&entry["ms"])),
        "recorded" => "the answer was recorded and not posted (chat.shadow)".into(),
        "looked_for" => format!("looked for in Zendesk: {} parts were there", of("found")),
        "failed" => format!("failed: {}", of("cause")),
        "replayed" => format!("replayed by an operator: life {}", of("replay")),
        "handed_over" => "handed to a human".into(),
        "late" => "answered after a later message of its conversation".into(),
        "ended" => format!("ended: {}", of("outcome")),
        other => other.to_owned(),
    }
}

fn print_conversation(conversation: &Value) {
    println!("conversation {}", text(&conversation["id"]));
    println!("{}", text(&conversation["explanation"]));
    for (field, word) in [("customer_id", "customer"), ("holder", "held by"), ("merged_into", "merged into")] {
        if !conversation[field].is_null() {
            println!("{word}: {}", text(&conversation[field]));
        }
    }
    let waiting = items(&conversation["waiting"]);
    if !waiting.is_empty() {
        println!();
        let row = |it: &Value| vec![text(&it["message_id"]), text(&it["accepted_at"]), text(&it["explanation"])];
        table::print(&["WAITING", "SINCE", "WHY"], &waiting.iter().map(row).collect::<Vec<_>>());
    }
    let ended = items(&conversation["ended"]);
    if !ended.is_empty() {
        println!();
        let row = |it: &Value| vec![text(&it["message_id"]), text(&it["at"]), text(&it["explanation"])];
        table::print(&["ENDED", "AT", "HOW"], &ended.iter().map(row).collect::<Vec<_>>());
    }
}
