//! Dead and parked letters: operators look at them, replay or discard one (many at once: `bulk.rs`).

use std::{collections::BTreeMap, pin::pin};

use axum::{Extension, Json, extract::State, http::StatusCode};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{AGAIN, Admin, Problem, Who, came_of, not_known, noted};
use crate::{
    actors::letters::{self, LetterError},
    broker::{
        Error, Lane, Letter, Standing,
        letters::{Content, Look, Page, Which, pages},
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
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub(super) standing: Option<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    lane: Option<Lane>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    conversation: Option<ConversationId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

/// Which part of them.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Asked {
    #[param(inline)]
    standing: Option<Kind>,
    cause: Option<String>,
    fingerprint: Option<String>,
    #[param(inline)]
    lane: Option<Lane>,
    #[param(value_type = Option<String>)]
    conversation: Option<ConversationId>,
    /// By event or message.
    id: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// Dead or parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[utoipa::path(get, path = "/admin/dead-letters", tag = "letters", params(Asked), responses((status = 200, body = LetterPage)))]
pub async fn list(State(admin): State<Admin>, Query(asked): Query<Asked>) -> Result<Json<LetterPage>, Problem> {
    let Asked { standing, cause, fingerprint, lane, conversation, id, after, limit } = asked;
    let filter = Filter { standing, cause, fingerprint, lane, conversation, id };
    let page = Page { after, limit: limit.unwrap_or(PAGE).min(PAGE_MAX), look: Look::Remembered };
    let listing = admin.parts.letters.list(&filter.which(), &page).await.map_err(|error| refused(error.into()))?;
    let letters = listing.letters.iter().map(summary).collect();
    Ok(Json(LetterPage { letters, next: listing.next, beyond: listing.beyond }))
}

/// Letters that failed for the same reason.
#[derive(Debug, Serialize, ToSchema)]
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
#[derive(Debug, Serialize, ToSchema)]
pub struct Groups {
    /// The largest first.
    groups: Vec<Group>,
    /// More letters lie there than were looked at.
    beyond: bool,
}

/// `GET /admin/dead-letters/groups`: the letters by what their causes have in common.
#[utoipa::path(get, path = "/admin/dead-letters/groups", tag = "letters", responses((status = 200, body = Groups)))]
pub async fn groups(State(admin): State<Admin>) -> Result<Json<Groups>, Problem> {
    let mut groups: BTreeMap<(String, &'static str, &'static str), Group> = BTreeMap::new();
    let mut pages = pin!(pages(admin.parts.letters.clone(), Which::default(), usize::MAX, Look::Remembered));
    let mut beyond = false;
    while let Some(listing) = pages.try_next().await.map_err(|error| refused(error.into()))? {
        for letter in &listing.letters {
            let fingerprint = reason::fingerprint(letter.reason());
            let key = (fingerprint.clone(), letter.cause(), letter.standing.as_str());
            let (cause, standing, examples) = (letter.cause(), letter.standing, Vec::new());
            let empty = Group { fingerprint, cause, standing, letters: 0, first: None, last: None, examples };
            groups.entry(key).or_insert(empty).add(letter);
        }
        beyond = listing.beyond;
    }
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
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Shown {
    #[serde(default)]
    text: bool,
}

/// `GET /admin/dead-letters/{id}`: with `text=true` also what the customer wrote; that is written down.
#[utoipa::path(get, path = "/admin/dead-letters/{id}", tag = "letters", params(("id" = String, Path), Shown), responses((status = 200, body = LetterView)))]
pub async fn show(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    Query(shown): Query<Shown>,
) -> Result<Json<LetterView>, Problem> {
    let letter = admin.parts.letters.letter(&id).await.map_err(|error| refused(error.into()))?;
    let letter = letter.ok_or_else(|| refused(LetterError::Unknown))?;
    let mut told = summary(&letter);
    let story = admin.inspector.message(&letter.id).await.map_err(not_known)?;
    told.history = story.map(|story| json!(story)["timeline"].take());
    if !shown.text {
        return Ok(Json(told));
    }
    noted(&admin, &who, "letter.read", &letter.id, Value::Null).await?;
    match &letter.content {
        Content::Message(job) => told.message = Some(json!(job.kind)),
        Content::Foreign(bytes) => {
            let some = &bytes[..bytes.len().min(FOREIGN_BYTES_MAX)];
            told.foreign = Some(Foreign { bytes: bytes.len(), text: String::from_utf8_lossy(some).into_owned() });
        }
    }
    Ok(Json(told))
}

/// `POST /admin/dead-letters/{id}/replay`
#[utoipa::path(post, path = "/admin/dead-letters/{id}/replay", tag = "letters", params(("id" = String, Path)), responses((status = 202, body = Replayed)))]
pub async fn replay(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Replayed>), Problem> {
    noted(&admin, &who, "letter.replay", &id, Value::Null).await?;
    let done = letters::replay(&admin.parts, &id).await.map_err(refused);
    let replay = came_of(&admin, &who, ("letter.replay", &id), done).await?;
    Ok((StatusCode::ACCEPTED, Json(Replayed { id, replay })))
}

/// `DELETE /admin/dead-letters/{id}`: at once, for good.
#[utoipa::path(delete, path = "/admin/dead-letters/{id}", tag = "letters", params(("id" = String, Path)), responses((status = 204)))]
pub async fn discard(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    noted(&admin, &who, "letter.discard", &id, Value::Null).await?;
    let done = letters::discard(&admin.parts, &id).await.map_err(refused);
    came_of(&admin, &who, ("letter.discard", &id), done).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A letter as operators see it.
#[derive(Debug, Serialize, ToSchema)]
pub struct LetterView {
    /// The event.
    id: String,
    message_id: Option<String>,
    conversation_id: Option<String>,
    lane: Option<Lane>,
    standing: Standing,
    /// Why it failed last, as a label.
    cause: &'static str,
    /// The same in words.
    reason: Option<String>,
    /// What reasons of that kind have in common.
    fingerprint: String,
    /// Tries spent in this life.
    tries: u32,
    /// Which life it lives.
    replay: u32,
    accepted_at: Option<String>,
    parked_at: Option<String>,
    can_be_replayed: bool,
    /// What has befallen it, when one letter is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    history: Option<Value>,
    /// What the customer wrote, when that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    message: Option<Value>,
    /// What lies there that is no message of Tidegate's, when that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    foreign: Option<Foreign>,
}

/// Bytes that are no message of Tidegate's.
#[derive(Debug, Serialize, ToSchema)]
pub struct Foreign {
    bytes: usize,
    /// The first of them, as far as they are text.
    text: String,
}

/// Part of the letters.
#[derive(Debug, Serialize, ToSchema)]
pub struct LetterPage {
    letters: Vec<LetterView>,
    /// The `after` of the next page, if there is one.
    next: Option<String>,
    /// More lie there than one look reaches.
    beyond: bool,
}

/// A letter with a new life.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replayed {
    id: String,
    /// Which life.
    replay: u32,
}

pub(super) fn summary(letter: &Letter) -> LetterView {
    let job = letter.job();
    LetterView {
        id: letter.id.clone(),
        message_id: job.map(|job| job.message.to_string()),
        conversation_id: job.map(|job| job.conversation.to_string()),
        lane: letter.lane,
        standing: letter.standing,
        cause: letter.cause(),
        reason: letter.reason.clone(),
        fingerprint: reason::fingerprint(letter.reason()),
        tries: letter.tries,
        replay: letter.replay,
        accepted_at: job.map(|job| job.first_seen.to_rfc3339()),
        parked_at: letter.parked_at.map(|at| at.to_rfc3339()),
        can_be_replayed: letter.can_be_replayed(),
        history: None,
        message: None,
        foreign: None,
    }
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
