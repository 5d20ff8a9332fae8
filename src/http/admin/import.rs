//! Dead letters that an export has written down are taken over, here or elsewhere.

use std::{collections::HashSet, fmt::Display, pin::pin, sync::Arc};

use axum::{Extension, Json, extract::State, http::StatusCode};
use futures_util::TryStreamExt;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{Admin, Problem, Who, came_of, export::Line, letters::refused, noted};
use crate::{
    broker::{
        self, Lane, Publication,
        letters::{Look, Which, pages},
    },
    domain::job::Job,
    http::extract::Body,
};

/// The largest part of an export that is taken at once.
pub const PART_BYTES_MAX: usize = 4 << 20;

/// Letters that are stored at once.
const STORED_AT_ONCE: usize = 200;

/// The lives that a letter may have lived: an operator gave it each.
const REPLAYS_MAX: u32 = 1_000;

/// Why a letter lies here whose own reason was not written down.
const IMPORTED: &str = "imported";

/// What became of the lines.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Imported {
    /// Letters that are parked now.
    imported: u64,
    /// Letters that lie here already.
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
        let unusable = |why: &dyn Display| {
            let detail = format!("line {} is no line of an export ({why}); nothing of it was imported", index + 1);
            Problem::new(StatusCode::BAD_REQUEST, "unusable-body", detail)
        };
        let line: Line = serde_json::from_slice(line).map_err(|error| unusable(&error))?;
        if line.replay > REPLAYS_MAX {
            return Err(unusable(&format_args!("`replay` is over {REPLAYS_MAX}")));
        }
        Ok(line)
    });
    read.collect()
}

async fn take(admin: &Admin, lines: Vec<Line>) -> Result<Imported, broker::Error> {
    let mut told = Imported::default();
    let mut known = known(admin).await?;
    let mut letters = Vec::new();
    for line in lines {
        match line.job {
            None => told.left_out += 1,
            Some(job) if !known.insert(job.id.to_string()) => told.known += 1,
            Some(job) => letters.push(Publication {
                lane: line.lane.unwrap_or(Lane::Chat),
                job: Arc::new(Job { imported: Some(line.replay), ..job }),
                parked: Some(line.reason.unwrap_or_else(|| IMPORTED.to_owned()).into()),
            }),
        }
    }
    let mut letters = letters.into_iter();
    loop {
        let some: Vec<Publication> = letters.by_ref().take(STORED_AT_ONCE).collect();
        if some.is_empty() {
            return Ok(told);
        }
        told.imported += admin.parts.broker.publish(some).await?.len() as u64;
    }
}

/// The events whose letters lie here.
async fn known(admin: &Admin) -> Result<HashSet<String>, broker::Error> {
    let mut pages = pin!(pages(admin.parts.letters.clone(), Which::default(), usize::MAX, Look::Fresh));
    let mut known = HashSet::new();
    while let Some(listing) = pages.try_next().await? {
        if listing.beyond {
            let why = "more letters lie here than can be known; import again when some of them have gone";
            return Err(broker::Error::Store(why.into()));
        }
        known.extend(listing.letters.into_iter().map(|letter| letter.id));
    }
    Ok(known)
}
