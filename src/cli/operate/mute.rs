//! `tidegate mute` and `unmute`: where the bot says nothing.

use std::process::ExitCode;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Reach, text};

/// Where.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Where {
    /// Everywhere.
    #[arg(long)]
    all: bool,
    /// In the conversations of a brand.
    #[arg(long, value_name = "ID")]
    brand: Option<String>,
    /// In one conversation.
    #[arg(long, value_name = "ID")]
    conversation: Option<String>,
}

impl Where {
    fn mute(&self) -> Value {
        match (&self.brand, &self.conversation) {
            (Some(brand), _) => json!({ "brand": brand }),
            (_, Some(conversation)) => json!({ "conversation": conversation }),
            _ => json!("all"),
        }
    }
}

/// Options of `tidegate mute`.
#[derive(clap::Args)]
pub(in crate::cli) struct MuteOptions {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    reach: Reach,
}

/// What becomes of the messages that came meanwhile.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Then {
    /// They are answered.
    Answer,
    /// Their conversations go to humans.
    HandOver,
    /// They are dropped.
    Drop,
    /// They stay among the dead letters.
    Keep,
}

/// Options of `tidegate unmute`.
#[derive(clap::Args)]
pub(in crate::cli) struct UnmuteOptions {
    #[command(flatten)]
    place: Where,
    /// What becomes of the messages that came meanwhile.
    #[arg(long, value_enum)]
    then: Then,
    #[command(flatten)]
    reach: Reach,
}

pub(in crate::cli) fn mute(options: &MuteOptions) -> ExitCode {
    options.reach.run(async |node| {
        let told = node.order(Method::POST, "/admin/mutes", json!({ "mute": options.place.mute() })).await?;
        if !node.printed(&told) {
            println!("the bot is muted there; what comes is kept among the dead letters");
        }
        Ok(())
    })
}

pub(in crate::cli) fn unmute(options: &UnmuteOptions) -> ExitCode {
    options.reach.run(async |node| {
        let then = match options.then {
            Then::Answer => "answer",
            Then::HandOver => "hand_over",
            Then::Drop => "drop",
            Then::Keep => "keep",
        };
        let body = json!({ "mute": options.place.mute(), "then": then });
        let told = node.order(Method::POST, "/admin/mutes/end", body).await?;
        if !node.printed(&told) {
            let word = if told["changed"] == true { "the bot speaks there again" } else { "it was not muted there" };
            let job = text(&told["job"]["id"]);
            println!(
                "{word}{}",
                if job.is_empty() { String::new() } else { format!("; job {job} works off what came meanwhile") }
            );
        }
        Ok(())
    })
}
