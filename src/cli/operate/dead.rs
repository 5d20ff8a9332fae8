//! `tidegate dead`: dead letters, one by one or many at once.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use reqwest::Method;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::{Error, Node, Reach, items, part, table, text};

/// Bytes of letters sent at once; the node takes some more.
const PART_BYTES_MAX: usize = 1 << 20;

/// Options of `tidegate dead`.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    reach: Reach,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Groups the letters by what their causes have in common.
    Groups,
    /// Lists letters.
    List {
        #[command(flatten)]
        filter: Filter,
        /// So many at the most.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// Goes on behind this place.
        #[arg(long, value_name = "PLACE")]
        after: Option<String>,
    },
    /// Shows a letter.
    Show {
        /// The event or the message.
        id: String,
        /// With what the customer wrote; that is written into the audit log.
        #[arg(long)]
        text: bool,
    },
    /// Gives letters a new life.
    Replay {
        #[command(flatten)]
        many: Many,
        /// So many first, and the others only if these end well.
        #[arg(long, value_name = "N", default_value_t = 0)]
        canary: usize,
        /// Only says what would happen.
        #[arg(long)]
        dry_run: bool,
    },
    /// Removes letters for good.
    Discard {
        #[command(flatten)]
        many: Many,
        /// How long it can be undone (`tidegate dead cancel`).
        #[arg(long, value_name = "SPAN", default_value = "30s")]
        undo: String,
    },
    /// Hands the conversations of letters to humans.
    HandOver {
        #[command(flatten)]
        many: Many,
    },
    /// Prints letters as JSON lines, with what customers wrote; that is written into the audit log.
    Export {
        #[command(flatten)]
        filter: Filter,
    },
    /// Parks the letters of an export; those that lie there already are left alone.
    Import {
        /// What `tidegate dead export` has printed.
        file: PathBuf,
    },
    /// Lists the jobs on many letters that the node works off.
    Jobs,
    /// Breaks a job off, or undoes one that has not begun.
    Cancel {
        /// The job.
        job: String,
    },
}

#[derive(clap::Args)]
struct Filter {
    /// The cause, such as panic, or the reason word for word.
    #[arg(long)]
    cause: Option<String>,
    /// What the causes have in common (`tidegate dead groups`).
    #[arg(long, value_name = "TEXT")]
    fingerprint: Option<String>,
    /// chat or events.
    #[arg(long)]
    lane: Option<String>,
    /// Of one conversation.
    #[arg(long, value_name = "ID")]
    conversation: Option<String>,
}

#[derive(clap::Args)]
struct Many {
    /// One letter, by event or message; without it all that the filter means.
    id: Option<String>,
    /// All parked letters.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Letters a second.
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    rate: f64,
}

impl Filter {
    fn fields(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let all = [
            ("cause", &self.cause),
            ("fingerprint", &self.fingerprint),
            ("lane", &self.lane),
            ("conversation", &self.conversation),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)))
    }
}

impl Many {
    fn body(&self, more: Value) -> Result<Value, Error> {
        let mut filter: Map<String, Value> =
            self.filter.fields().map(|(name, value)| (name.into(), json!(value))).collect();
        filter.extend(self.id.iter().map(|id| ("id".to_owned(), json!(id))));
        if filter.is_empty() && !self.all {
            return Err(Error::Refused("name a letter, a filter, or --all".into()));
        }
        let mut body = json!({ "filter": filter, "all": self.all, "rate": self.rate });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        Ok(body)
    }
}

pub(in crate::cli) fn dead(options: &Options) -> ExitCode {
    options.reach.run(async |node| match &options.action {
        Action::Groups => groups(node).await,
        Action::List { filter, limit, after } => list(node, filter, *limit, after.as_deref()).await,
        Action::Show { id, text } => show(node, id, *text).await,
        Action::Replay { many, canary, dry_run } => {
            let body = many.body(json!({ "canary": canary, "dry_run": dry_run }))?;
            let told = node.order(Method::POST, "/admin/dead-letters/replay", body).await?;
            if *dry_run {
                would(node, &told)
            } else {
                ordered(node, &told)
            };
            Ok(())
        }
        Action::Discard { many, undo } => {
            let body = many.body(json!({ "undo": undo }))?;
            ordered(node, &node.order(Method::POST, "/admin/dead-letters/discard", body).await?);
            Ok(())
        }
        Action::HandOver { many } => {
            let body = many.body(json!({}))?;
            ordered(node, &node.order(Method::POST, "/admin/dead-letters/hand-over", body).await?);
            Ok(())
        }
        Action::Export { filter } => {
            let fields: Vec<String> = filter.fields().map(|(name, value)| format!("{name}={}", part(value))).collect();
            node.copy(&format!("/admin/dead-letters/export?{}", fields.join("&")), &mut std::io::stdout()).await
        }
        Action::Import { file } => import(node, file).await,
        Action::Jobs => jobs(node).await,
        Action::Cancel { job } => {
            let told = node.order(Method::POST, &format!("/admin/jobs/{}/cancel", part(job)), Value::Null).await?;
            if !node.printed(&told) {
                println!("job {job} is broken off; {} letters were done", told["done"]);
            }
            Ok(())
        }
    })
}

/// In parts of whole lines, so that no body is too large for the node.
async fn import(node: &Node, file: &Path) -> Result<(), Error> {
    let unreadable = |why: &dyn Display| Error::Refused(format!("{}: {why}; nothing was imported", file.display()));
    let text = fs::read_to_string(file).map_err(|error| unreadable(&error))?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    // A file that was cut off is noticed before any of it is parked.
    if let Some(torn) = lines.iter().position(|line| serde_json::from_str::<IgnoredAny>(line).is_err()) {
        return Err(unreadable(&format!("letter {} is no JSON; is the file whole?", torn + 1)));
    }
    let (mut told, mut rest) = ([0; 3], &lines[..]);
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|line| {
            bytes += line.len() + 1;
            bytes <= PART_BYTES_MAX
        });
        let (part, others) = rest.split_at(fits.count().max(1));
        let answer = node.send(Method::POST, "/admin/dead-letters/import", part.join("\n")).await?;
        for (sum, field) in told.iter_mut().zip(["imported", "known", "left_out"]) {
            *sum += answer[field].as_u64().unwrap_or_default();
        }
        rest = others;
    }
    let [imported, known, left_out] = told;
    if !node.printed(&json!({ "imported": imported, "known": known, "left_out": left_out })) {
        println!("{imported} letters are parked; {known} were known already, {left_out} hold no message");
    }
    Ok(())
}

async fn groups(node: &Node) -> Result<(), Error> {
    let told = node.get("/admin/dead-letters/groups").await?;
    if !node.printed(&told) {
        let row = |it: &Value| {
            ["letters", "standing", "cause", "last", "fingerprint"].iter().map(|field| text(&it[*field])).collect()
        };
        let rows: Vec<Vec<String>> = items(&told["groups"]).iter().map(row).collect();
        table::print(&["LETTERS", "STATE", "CAUSE", "LAST", "FINGERPRINT"], &rows);
        beyond(&told);
    }
    Ok(())
}

fn beyond(told: &Value) {
    if told["beyond"] == true {
        println!("more lie there than one look reaches");
    }
}

async fn list(node: &Node, filter: &Filter, limit: usize, after: Option<&str>) -> Result<(), Error> {
    let fields = filter.fields().map(|(name, value)| format!("&{name}={}", part(value)));
    let after = after.map(|after| format!("&after={}", part(after)));
    let query: String = fields.chain(after).collect();
    let told = node.get(&format!("/admin/dead-letters?limit={limit}{query}")).await?;
    if !node.printed(&told) {
        let row = |it: &Value| {
            ["id", "conversation_id", "standing", "tries", "parked_at", "reason"]
                .iter()
                .map(|field| text(&it[*field]))
                .collect()
        };
        let rows: Vec<Vec<String>> = items(&told["letters"]).iter().map(row).collect();
        table::print(&["LETTER", "CONVERSATION", "STATE", "TRIES", "PARKED", "REASON"], &rows);
        if let Some(next) = told["next"].as_str() {
            println!("more: --after {next}");
        }
        beyond(&told);
    }
    Ok(())
}

async fn show(node: &Node, id: &str, with_text: bool) -> Result<(), Error> {
    let told = node.get(&format!("/admin/dead-letters/{}?text={with_text}", part(id))).await?;
    if !node.printed(&told) {
        for (name, value) in told.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            println!("{name:<16} {}", text(value));
        }
    }
    Ok(())
}

fn would(node: &Node, told: &Value) {
    if node.printed(told) {
        return;
    }
    println!("{} letters", told["letters"]);
    for (would, count) in told["would"].as_object().into_iter().flatten() {
        println!("  {count} would {}", would.replace('_', " "));
    }
    beyond(told);
}

fn ordered(node: &Node, told: &Value) {
    if !node.printed(told) {
        println!("job {} is ordered; it begins at {}", text(&told["id"]), text(&told["begins_at"]));
    }
}

async fn jobs(node: &Node) -> Result<(), Error> {
    let told = node.get("/admin/jobs").await?;
    if !node.printed(&told) {
        let row = |it: &Value| {
            let fields = ["id", "deed", "stage", "done", "total", "failed", "by", "ordered_at", "last_error"];
            fields.iter().map(|field| text(&it[*field])).collect()
        };
        let rows: Vec<Vec<String>> = items(&told).iter().map(row).collect();
        table::print(&["JOB", "WHAT", "STATE", "DONE", "OF", "FAILED", "BY", "ORDERED", "LAST ERROR"], &rows);
    }
    Ok(())
}
