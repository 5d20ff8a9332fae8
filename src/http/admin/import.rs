//! Dead letters that an export has written down are taken over, here or elsewhere.

use std::{collections::HashSet, pin::pin, sync::Arc};

use axum::{Extension, Json, extract::State, http::StatusCode};
use futures_util::TryStreamExt;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{Admin, Problem, Who, came_of, export::Line, letters::refused, noted};
use crate::{
    broker::{
        self, Lane, Publication, Published,
        letters::{Which, pages},
    },
    domain::job::Job,
    http::extract::Body,
};

/// The largest part of an export that is taken at once.
pub const PART_BYTES_MAX: usize = 4 << 20;

/// Why a letter lies here whose own reason was not written down.
const IMPORTED: &str = "imported";

/// What became of the lines.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Imported {
    /// Letters that are parked now.
    imported: u64,
    /// Letters that lie here already, or whose message was taken in lately.
    known: u64,
    /// Lines without a message of Tidegate's.
    left_out: u64,
}

/// `POST /admin/dead-letters/import`: lines of an export; each letter is parked here for its reason. Its message is looked
/// for in Zendesk when it is replayed: whoever exported it may have answered it since.
#[utoipa::path(post, path = "/admin/dead-letters/import", tag = "letters", request_body(content = String, content_type = "application/x-ndjson"), responses((status = 200, body = Imported)))]
pub async fn import(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Body(body): Body,
) -> Result<Json<Imported>, Problem> {
    let lines = lines(&body)?;
    noted(&admin, &who, "letters.import", "letters", json!({ "lines": lines.len() })).await?;
    let taken = take(&admin, lines).await.map_err(|error| refused(error.into()));
    came_of(&admin, &who, ("letters.import", "letters"), taken).await.map(Json)
}

/// Nothing is taken of what is not whole.
fn lines(body: &[u8]) -> Result<Vec<Line>, Problem> {
    let lines = body.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    let read = lines.map(|(index, line)| {
        serde_json::from_slice(line).map_err(|error| {
            let detail = format!("line {} is no line of an export ({error}); nothing of it was imported", index + 1);
            Problem::new(StatusCode::BAD_REQUEST, "unusable-body", detail)
        })
    });
    read.collect()
}

async fn take(admin: &Admin, lines: Vec<Line>) -> Result<Imported, broker::Error> {
    let mut told = Imported::default();
    let known = known(admin).await?;
    let mut letters = Vec::new();
    for line in lines {
        match line.job {
            None => told.left_out += 1,
            Some(job) if known.contains(job.id.as_str()) => told.known += 1,
            Some(job) => letters.push(Publication {
                lane: line.lane.unwrap_or(Lane::Chat),
                job: Arc::new(Job { imported: Some(line.replay), ..job }),
                parked: Some(line.reason.unwrap_or_else(|| IMPORTED.to_owned()).into()),
            }),
        }
    }
    let stored = if letters.is_empty() { Vec::new() } else { admin.parts.broker.publish(letters).await? };
    for published in stored {
        match published {
            Published::Stored => told.imported += 1,
            Published::DuplicateEvent | Published::DuplicateMessage => told.known += 1,
        }
    }
    Ok(told)
}

/// The events whose letters lie here.
async fn known(admin: &Admin) -> Result<HashSet<String>, broker::Error> {
    let mut pages = pin!(pages(admin.parts.letters.clone(), Which::default(), usize::MAX, false));
    let mut known = HashSet::new();
    while let Some(listing) = pages.try_next().await? {
        known.extend(listing.letters.into_iter().map(|letter| letter.id));
    }
    Ok(known)
}
