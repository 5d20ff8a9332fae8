//! What operators see and do.
//!
//! | | |
//! |---|---|
//! | `actors` | the tree; an actor is restarted, or made to fail |
//! | `messages` | timelines of messages and conversations |
//! | `views` | queues, breakers, limiters, nodes, what is set |
//! | `overview` | how things stand, in words; once, or as a stream |
//! | `letters`, `bulk`, `export`, `import` | dead letters, one by one, many at once, written down, taken over |
//! | `controls` | pauses, drains, breakers held by hand, other limits, mutes |
//! | `audit` | what was done |
//!
//! Whoever changes something has it written down first ([`noted`]).

pub mod actors;
pub mod audit;
pub mod bulk;
pub mod controls;
pub mod erase;
pub mod export;
pub mod import;
pub mod letters;
pub mod messages;
pub mod overview;
pub mod views;

use std::time::Duration;

use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Admin, guard::Who, problem::Problem};
use crate::{actors::deeds, state};

/// When to ask again for what could not be looked at or done.
const AGAIN: Duration = Duration::from_secs(2);

/// Writes down what is about to be done; what cannot be written down is not done.
async fn noted(admin: &Admin, who: &Who, action: &str, subject: &str, detail: Value) -> Result<(), Problem> {
    deeds::note(&admin.parts, &who.name, action, subject, detail).await.map_err(not_done)
}

/// Writes down that what was ordered has failed; an answer goes as it comes.
async fn came_of<T>(
    admin: &Admin,
    who: &Who,
    (action, subject): (&str, &str),
    done: Result<T, Problem>,
) -> Result<T, Problem> {
    if done.is_err() {
        // The order is there; without this it reads as done.
        noted(admin, who, &format!("{action}.failed"), subject, Value::Null).await?;
    }
    done
}

/// The state could not be told.
fn not_done(error: state::Error) -> Problem {
    tracing::error!(%error, "what an operator ordered could not be done");
    let detail = "the state that all nodes share could not be told, so nothing was done; try again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-done", detail).retry_after(AGAIN)
}

/// The state could not be asked.
fn not_known(error: impl std::fmt::Display) -> Problem {
    tracing::error!(%error, "what an operator asked could not be looked up");
    let detail = "it could not be looked up; try again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "cannot-look-up", detail).retry_after(AGAIN)
}

/// Reads a body; `shape` says what should stand there.
fn read<T: DeserializeOwned>(body: &[u8], shape: &str) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "unusable-body", format!("write {shape}: {error}")))
}
