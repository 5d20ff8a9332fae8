//! `tidegate pause`, `resume`, `drain`: what takes nothing more in hand.

use std::{cell::Cell, process::ExitCode, time::Duration};

use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{Error, Node, Reach, part};

/// Stands for the node that is asked.
const SELF: &str = "self";

/// A node that cannot be told for so long, because Redis is away, would only go on taking messages.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

/// How often it is looked whether a node is drained.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Options of `tidegate pause`.
#[derive(clap::Args)]
pub(in crate::cli) struct PauseOptions {
    /// chat, events or retry: on all nodes, also after a restart, until it is resumed.
    pool: String,
    #[command(flatten)]
    reach: Reach,
}

/// Options of `tidegate drain`.
#[derive(clap::Args)]
pub(in crate::cli) struct DrainOptions {
    /// The node's id (`tidegate nodes`), else the node that is asked: until it is resumed or ends.
    #[arg(default_value = SELF, hide_default_value = true)]
    node: String,
    /// Waits until the node that is asked has nothing in hand and its spool is empty, for so long at the most.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// Waits so long at least: until balancers have noticed that the node is unready.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s", requires = "wait")]
    at_least: Duration,
    #[command(flatten)]
    reach: Reach,
}

/// Options of `tidegate resume`.
#[derive(clap::Args)]
pub(in crate::cli) struct ResumeOptions {
    /// A pool (chat, events, retry), or the id of a drained node, else the node that is asked.
    #[arg(default_value = SELF, hide_default_value = true)]
    what: String,
    #[command(flatten)]
    reach: Reach,
}

pub(in crate::cli) fn pause(options: &PauseOptions) -> ExitCode {
    order(&options.reach, format!("/admin/pools/{}/pause", part(&options.pool)), format!("{} is paused", options.pool))
}

pub(in crate::cli) fn drain(options: &DrainOptions) -> ExitCode {
    let path = format!("/admin/nodes/{}/drain", part(&options.node));
    let who = if options.node == SELF { "the node" } else { &options.node };
    let Some(within) = options.wait else { return order(&options.reach, path, format!("{who} is drained")) };
    options.reach.run(async |node| {
        if options.node != SELF {
            return Err(Error::Refused(
                "--wait looks at the node that is asked; name it by --admin instead".to_owned(),
            ));
        }
        let began = Instant::now();
        let left = Cell::new(None);
        let waited = timeout(within.max(options.at_least), until_nothing_is_held(node, &path, &left)).await;
        let late = || match left.get() {
            Some(left) => {
                format!("{who} still holds {left} messages; it stays drained until `tidegate resume` or its end")
            }
            None => format!("{who} could not be told in time"),
        };
        let told = waited.unwrap_or_else(|_| Err(Error::Refused(late())))?;
        tokio::time::sleep_until(began + options.at_least).await;
        if !node.printed(&told) {
            println!("{who} is drained, and holds nothing");
        }
        Ok(())
    })
}

/// Drains a node and waits until it holds nothing; what it says of its queues then.
async fn until_nothing_is_held(node: &Node, path: &str, held: &Cell<Option<u64>>) -> Result<Value, Error> {
    let began = Instant::now();
    while passing(node.order(Method::POST, path, Value::Null).await)?.is_none() {
        if began.elapsed() > TOLD_WITHIN {
            return Err(Error::Unavailable("the node cannot be told now; SIGTERM drains it as well".to_owned()));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    loop {
        if let Some(told) = passing(node.get("/admin/queues").await)? {
            held.set(Some(left(&told)));
            if left(&told) == 0 {
                return Ok(told);
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What cannot be done now, while Redis is away or the node is busy, may be in a moment.
fn passing(answer: Result<Value, Error>) -> Result<Option<Value>, Error> {
    match answer {
        Ok(told) => Ok(Some(told)),
        Err(Error::Away(_) | Error::Unavailable(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Messages in hand or in the spool.
fn left(queues: &Value) -> u64 {
    let count = |lane: &Value, what: &str| lane[what].as_u64().unwrap_or(0);
    let lanes = queues.as_object().into_iter().flatten();
    lanes.map(|(_, lane)| count(lane, "in_hand") + count(lane, "spool")).sum()
}

pub(in crate::cli) fn resume(options: &ResumeOptions) -> ExitCode {
    let what = &options.what;
    let who = if what == SELF { "the node" } else { what };
    let kind = if ["chat", "events", "retry"].contains(&what.as_str()) { "pools" } else { "nodes" };
    order(&options.reach, format!("/admin/{kind}/{}/resume", part(what)), format!("{who} works again"))
}

fn order(reach: &Reach, path: String, done: String) -> ExitCode {
    reach.run(async |node| {
        let told = node.order(Method::POST, &path, Value::Null).await?;
        if !node.printed(&told) {
            println!("{}", if told["changed"] == false { "it was so already" } else { &done });
        }
        Ok(())
    })
}
