//! Dead and parked letters: operators look at them, replay or discard one (many at once: `bulk.rs`).

use std::collections::BTreeMap;

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{AGAIN, Admin, Problem, Who, noted};
use crate::{
    actors::letters::{self, LetterError},
    broker::{
        Error, Lane, Letter, Standing,
        letters::{Content, Page, Which},
    },
    domain::{ids::ConversationId, reason},
    http::extract::{Path, Query},
};

/// Letters listed at once, unless more are asked for.
const PAGE: usize = 100;

/// Of a foreign message so many bytes are shown.
const FOREIGN_BYTES_MAX: usize = 64 << 10;

/// Letters in one listing at the most.
const PAGE_MAX: usize = 1_000;

/// Of each group so many letters are named.
const EXAMPLES: usize = 3;

/// Which letters are asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) standing: Option<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<Lane>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<ConversationId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

/// Which part of them.
#[derive(Debug, Deserialize)]
pub struct Asked {
    standing: Option<Kind>,
    cause: Option<String>,
    fingerprint: Option<String>,
    lane: Option<Lane>,
    conversation: Option<ConversationId>,
    after: Option<String>,
    limit: Option<usize>,
}

/// Dead or parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Failed, and not judged yet.
    Dead,
    /// Given up.
    Parked,
}

impl Filter {
    pub(super) fn which(&self) -> Which {
        let standing = self.standing.map(|kind| match kind {
            Kind::Dead => Standing::Dead,
            Kind::Parked => Standing::Parked,
        });
        Which {
            standing,
            cause: self.cause.clone(),
            fingerprint: self.fingerprint.clone(),
            lane: self.lane,
            conversation: self.conversation.clone(),
            id: self.id.clone(),
            until: None,
        }
    }
}

/// `GET /admin/dead-letters`: without what customers wrote.
pub async fn list(State(admin): State<Admin>, Query(asked): Query<Asked>) -> Result<Json<Value>, Problem> {
    let Asked { standing, cause, fingerprint, lane, conversation, after, limit } = asked;
    let filter = Filter { standing, cause, fingerprint, lane, conversation, id: None };
    let page = Page { after, limit: limit.unwrap_or(PAGE).min(PAGE_MAX) };
    let listing = admin.parts.letters.list(&filter.which(), &page).await.map_err(|error| refused(error.into()))?;
    let shown: Vec<Value> = listing.letters.iter().map(summary).collect();
    Ok(Json(json!({ "letters": shown, "next": listing.next, "beyond": listing.beyond })))
}

/// Letters that failed for the same reason.
#[derive(Debug, Serialize)]
pub struct Group {
    /// What their reasons have in common; the filter that finds them.
    fingerprint: String,
    /// The cause, as a label.
    cause: &'static str,
    standing: Standing,
    letters: u64,
    /// When the first and the last of them were parked, RFC 3339.
    first: Option<String>,
    last: Option<String>,
    /// Some of them, by id.
    examples: Vec<String>,
}

/// All groups.
#[derive(Debug, Serialize)]
pub struct Groups {
    /// The largest first.
    groups: Vec<Group>,
    /// More letters lie there than were looked at.
    beyond: bool,
}

/// `GET /admin/dead-letters/groups`: the letters by what their causes have in common.
pub async fn groups(State(admin): State<Admin>) -> Result<Json<Groups>, Problem> {
    let mut groups: BTreeMap<(String, &'static str, &'static str), Group> = BTreeMap::new();
    let mut page = Page { after: None, limit: usize::MAX };
    let beyond = loop {
        let listing = admin.parts.letters.list(&Which::default(), &page).await;
        let listing = listing.map_err(|error| refused(error.into()))?;
        for letter in &listing.letters {
            let fingerprint = reason::fingerprint(letter.reason());
            let key = (fingerprint.clone(), letter.cause(), letter.standing.as_str());
            let (cause, standing, examples) = (letter.cause(), letter.standing, Vec::new());
            let empty = Group { fingerprint, cause, standing, letters: 0, first: None, last: None, examples };
            groups.entry(key).or_insert(empty).add(letter);
        }
        page.after = listing.next;
        if page.after.is_none() {
            break listing.beyond;
        }
    };
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.letters));
    Ok(Json(Groups { groups, beyond }))
}

impl Group {
    fn add(&mut self, letter: &Letter) {
        let parked_at = letter.parked_at.map(|at| at.to_rfc3339());
        self.letters += 1;
        self.first = self.first.take().or_else(|| parked_at.clone());
        self.last = parked_at.or_else(|| self.last.take());
        if self.examples.len() < EXAMPLES {
            self.examples.push(letter.id.clone());
        }
    }
}

/// Whether the customer's words are asked for.
#[derive(Debug, Deserialize)]
pub struct Shown {
    #[serde(default)]
    text: bool,
}

/// `GET /admin/dead-letters/{id}`: with `text=true` also what the customer wrote; that is written down.
pub async fn show(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    Query(shown): Query<Shown>,
) -> Result<Json<Value>, Problem> {
    let letter = admin.parts.letters.letter(&id).await.map_err(|error| refused(error.into()))?;
    let letter = letter.ok_or_else(|| refused(LetterError::Unknown))?;
    let mut told = summary(&letter);
    if !shown.text {
        return Ok(Json(told));
    }
    noted(&admin, &who, "letter.read", &letter.id, Value::Null).await?;
    match &letter.content {
        Content::Message(job) => told["message"] = json!(job.kind),
        Content::Foreign(bytes) => {
            let some = &bytes[..bytes.len().min(FOREIGN_BYTES_MAX)];
            told["foreign"] = json!({ "bytes": bytes.len(), "text": String::from_utf8_lossy(some) });
        }
    }
    Ok(Json(told))
}

/// `POST /admin/dead-letters/{id}/replay`
pub async fn replay(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    noted(&admin, &who, "letter.replay", &id, Value::Null).await?;
    let replay = letters::replay(&admin.parts, &id).await.map_err(refused)?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id, "replay": replay }))).into_response())
}

/// `DELETE /admin/dead-letters/{id}`: at once, for good.
pub async fn discard(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    noted(&admin, &who, "letter.discard", &id, Value::Null).await?;
    letters::discard(&admin.parts, &id).await.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn summary(letter: &Letter) -> Value {
    let job = letter.job();
    json!({
        "id": letter.id,
        "message_id": job.map(|job| &job.message),
        "conversation_id": job.map(|job| &job.conversation),
        "lane": letter.lane,
        "standing": letter.standing,
        "cause": letter.cause(),
        "reason": letter.reason,
        "fingerprint": reason::fingerprint(letter.reason()),
        "tries": letter.tries,
        "replay": letter.replay,
        "accepted_at": job.map(|job| job.first_seen.to_rfc3339()),
        "parked_at": letter.parked_at.map(|at| at.to_rfc3339()),
        "can_be_replayed": letter.can_be_replayed(),
    })
}

pub(super) fn refused(error: LetterError) -> Problem {
    match error {
        LetterError::Unknown => Problem::new(StatusCode::NOT_FOUND, "no-such-letter", "no letter of this id is there"),
        LetterError::Queue(Error::NoSuchPlace) => {
            Problem::new(StatusCode::BAD_REQUEST, "unusable-query", "`after` is the `next` of the page before")
        }
        LetterError::Queue(Error::Unreplayable) => {
            let detail = "it is no message of Tidegate's, or could not be understood; a new life would not change that";
            Problem::new(StatusCode::CONFLICT, "not-replayable", detail)
        }
        LetterError::Queue(Error::Lost) => {
            Problem::new(StatusCode::CONFLICT, "in-hand", "somebody else has this letter in hand; try again")
                .retry_after(AGAIN)
        }
        error => {
            tracing::error!(%error, "the letters could not be looked at");
            let detail = "the letters could not be looked at, or what was asked not be done; try again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "cannot-look-up", detail).retry_after(AGAIN)
        }
    }
}
