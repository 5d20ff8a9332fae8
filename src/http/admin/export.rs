//! Dead letters as JSON lines, with what customers wrote.

use std::io;

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Admin, Problem, Who,
    letters::{Filter, refused},
    noted,
};
use crate::{
    broker::{
        self, Lane, Letter, Standing,
        letters::{Content, Listing, Look, pages},
    },
    domain::job::Job,
    http::extract::Query,
};

/// Letters written down at once.
const AT_ONCE: usize = 1_000;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lane: Option<Lane>,
    #[serde(skip_serializing_if = "Option::is_none")]
    standing: Option<Standing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    tries: u32,
    pub(super) replay: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    parked_at: Option<String>,
    /// The message as it lies in the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job: Option<Job>,
    /// Of what is no message of Tidegate's: as far as it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
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
    let mut pages = Box::pin(pages(admin.parts.letters.clone(), filter.which(), AT_ONCE, Look::Whole));
    // What cannot begin is told so; later it can only be broken off.
    let first = pages.try_next().await.map_err(|error| refused(error.into()))?;
    let body = Body::from_stream(written(stream::iter(first.map(Ok)).chain(pages)));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// The lines of all pages. Where they do not reach to the end it is broken off, so that nobody takes it for all.
fn written(pages: impl Stream<Item = Result<Listing, broker::Error>>) -> impl Stream<Item = io::Result<Bytes>> {
    pages.flat_map(|page| {
        let parts = match page {
            Ok(listing) => {
                let is_cut = listing.next.is_none() && listing.beyond;
                let cut = is_cut.then(|| Err(io::Error::other("more lie there than one look reaches")));
                [Some(Ok(lines(&listing.letters))), cut]
            }
            Err(error) => [Some(Err(io::Error::other(error))), None],
        };
        stream::iter(parts.into_iter().flatten())
    })
}

fn lines(letters: &[Letter]) -> Bytes {
    let mut text = String::new();
    for letter in letters {
        text += &serde_json::to_string(&Line::of(letter)).expect("a letter is plain data");
        text.push('\n');
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_export_that_is_not_all_is_broken_off() {
        let whole = async |pages: Vec<Listing>| {
            let pages = stream::iter(pages.into_iter().map(Ok));
            written(pages).map(|part| part.is_ok()).collect::<Vec<_>>().await
        };
        assert_eq!(whole(vec![Listing::default()]).await, [true]);
        let next = Listing { next: Some("2".into()), beyond: true, ..Listing::default() };
        let last = Listing { beyond: true, ..Listing::default() };
        assert_eq!(whole(vec![next, last]).await, [true, true, false], "there are more behind the last page");
    }
}
