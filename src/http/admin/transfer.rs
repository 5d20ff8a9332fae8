//! Dead letters as JSON lines: taken out, with what customers wrote, and put back, here or elsewhere.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{
    Admin, Problem, Who,
    letters::{Filter, refused},
    noted,
};
use crate::{
    broker::{
        Lane, Letter, Publication, Published, Standing,
        letters::{Content, Page},
    },
    domain::job::Job,
    http::extract::{self, Query},
};

/// Letters written down at once.
const AT_ONCE: usize = 1_000;

/// Why an imported letter lies among the parked ones.
const IMPORTED: &str = "imported";

/// One line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lane: Option<Lane>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    standing: Option<Standing>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default)]
    tries: u32,
    #[serde(default)]
    replay: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parked_at: Option<String>,
    /// The message as it lies in the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    job: Option<Job>,
    /// Of what is no message of Tidegate's: as far as it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    foreign: Option<String>,
}

impl Line {
    fn of(letter: &Letter) -> Self {
        let (job, foreign) = match &letter.content {
            Content::Message(job) => (Some(Job::clone(job)), None),
            Content::Foreign(bytes) => (None, Some(String::from_utf8_lossy(bytes).into_owned())),
        };
        Self {
            id: letter.id.clone(),
            lane: letter.lane,
            standing: Some(letter.standing),
            reason: letter.reason.clone(),
            tries: letter.tries,
            replay: letter.replay,
            parked_at: letter.parked_at.map(|at| at.to_rfc3339()),
            job,
            foreign,
        }
    }
}

/// `GET /admin/dead-letters/export`: JSON lines, with what customers wrote; that is written down.
#[utoipa::path(get, path = "/admin/dead-letters/export", tag = "letters", params(Filter), responses((status = 200, content_type = "application/x-ndjson", body = String)))]
pub async fn export(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Query(filter): Query<Filter>,
) -> Result<Response, Problem> {
    noted(&admin, &who, "letters.export", "letters", json!({ "filter": filter })).await?;
    let which = filter.which();
    let first = Page { after: None, limit: AT_ONCE };
    let listing = admin.parts.letters.list(&which, &first).await.map_err(|error| refused(error.into()))?;
    let pages = stream::unfold(Some(listing), move |listing| {
        let (admin, which) = (admin.clone(), which.clone());
        async move {
            let listing = listing?;
            let lines = lines(&listing.letters);
            let next = match listing.next {
                Some(after) => {
                    let page = Page { after: Some(after), limit: AT_ONCE };
                    match admin.parts.letters.list(&which, &page).await {
                        Ok(listing) => Some(listing),
                        // Broken off, so that nobody takes it for all.
                        Err(error) => return Some((Err(std::io::Error::other(error)), None)),
                    }
                }
                None => None,
            };
            Some((Ok(lines), next))
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pages)).into_response())
}

fn lines(letters: &[Letter]) -> Bytes {
    let mut text = String::new();
    for letter in letters {
        text += &serde_json::to_string(&Line::of(letter)).expect("a letter is plain data");
        text.push('\n');
    }
    text.into()
}

/// What became of the lines.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Imported {
    /// Lie among the parked letters now.
    imported: u64,
    /// Were known, and left alone.
    duplicate: u64,
    /// Hold no message of Tidegate's.
    left_out: u64,
}

/// `POST /admin/dead-letters/import`: what an export has written; each letter is parked, and can be replayed.
#[utoipa::path(post, path = "/admin/dead-letters/import", tag = "letters", request_body(content = String, content_type = "application/x-ndjson"), responses((status = 200, body = Imported)))]
pub async fn import(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    extract::Body(body): extract::Body,
) -> Result<Json<Imported>, Problem> {
    let mut publications = Vec::new();
    let mut told = Imported::default();
    for (number, line) in body.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        // Nothing is taken of a file that is not whole.
        let line: Line = serde_json::from_slice(line).map_err(|error| {
            let detail = format!("line {} is no line of an export ({error}); nothing was imported", number + 1);
            Problem::new(StatusCode::BAD_REQUEST, "unusable-body", detail)
        })?;
        match line.job {
            Some(job) => {
                let lane = line.lane.unwrap_or(Lane::Chat);
                publications.push(Publication { lane, job: Arc::new(job), unusable: Some(IMPORTED) });
            }
            None => told.left_out += 1,
        }
    }
    noted(&admin, &who, "letters.import", "letters", json!({ "letters": publications.len() })).await?;
    let stored = match publications.is_empty() {
        true => Vec::new(),
        false => admin.parts.broker.publish(publications).await.map_err(|error| refused(error.into()))?,
    };
    for published in stored {
        match published {
            Published::Stored => told.imported += 1,
            Published::DuplicateEvent | Published::DuplicateMessage => told.duplicate += 1,
        }
    }
    Ok(Json(told))
}
