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
use futures_util::{Stream, stream};
use serde::Serialize;
use serde_json::json;

use super::{
    Admin, Problem, Who,
    letters::{Filter, refused},
    noted,
};
use crate::{
    broker::{
        self, Lane, Letter, Standing,
        letters::{Content, Listing, Page},
    },
    domain::job::Job,
    http::extract::Query,
};

/// Letters written down at once.
const AT_ONCE: usize = 1_000;

/// One line.
#[derive(Debug, Serialize)]
struct Line {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<Lane>,
    #[serde(skip_serializing_if = "Option::is_none")]
    standing: Option<Standing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    tries: u32,
    replay: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    parked_at: Option<String>,
    /// The message as it lies in the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<Job>,
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
    let which = filter.which();
    let first = Page { after: None, limit: AT_ONCE };
    let listing = admin.parts.letters.list(&which, &first).await.map_err(|error| refused(error.into()))?;
    let pages = pages(listing, move |page| {
        let (admin, which) = (admin.clone(), which.clone());
        async move { admin.parts.letters.list(&which, &page).await }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pages)).into_response())
}

/// All pages from the first on. Where it cannot go on to the end it is broken off, so that nobody takes it for all.
fn pages<F, L>(first: Listing, list: F) -> impl Stream<Item = io::Result<Bytes>>
where
    F: Fn(Page) -> L + Clone,
    L: Future<Output = Result<Listing, broker::Error>>,
{
    stream::unfold(Some(Ok(first)), move |page: Option<io::Result<Listing>>| {
        let list = list.clone();
        async move {
            let listing = match page? {
                Ok(listing) => listing,
                Err(broken) => return Some((Err(broken), None)),
            };
            let next = match listing.next {
                Some(after) => Some(list(Page { after: Some(after), limit: AT_ONCE }).await.map_err(io::Error::other)),
                None => listing.beyond.then(|| Err(io::Error::other("more lie there than one look reaches"))),
            };
            Some((Ok(lines(&listing.letters)), next))
        }
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
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn an_export_that_is_not_all_is_broken_off() {
        let whole = async |listing: Listing| {
            let list = |page: Page| async move {
                assert_eq!(page.after.as_deref(), Some("2"));
                Ok(Listing { beyond: true, ..Listing::default() })
            };
            pages(listing, list).map(|page| page.is_ok()).collect::<Vec<_>>().await
        };
        assert_eq!(whole(Listing::default()).await, [true]);
        let next = Listing { next: Some("2".into()), beyond: true, ..Listing::default() };
        assert_eq!(whole(next).await, [true, true, false], "there are more behind the last page");
    }
}
