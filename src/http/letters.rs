//! Dead and parked letters: operators look at them, replay them, or discard them.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Admin,
    extract::{Path, Query},
    problem::Problem,
};
use crate::{
    actors::letters::{self, LetterError},
    broker::{
        Error, Lane, Letter, Standing,
        letters::{Content, Page, Which},
    },
    domain::ids::ConversationId,
};

/// Letters listed at once, unless more are asked for.
const PAGE: usize = 100;

/// Of a foreign message so many bytes are shown.
const FOREIGN_BYTES_MAX: usize = 64 << 10;

/// When to ask again for what could not be looked at.
const AGAIN: Duration = Duration::from_secs(2);

/// Which letters are asked for.
#[derive(Debug, Deserialize)]
pub struct Asked {
    standing: Option<Kind>,
    cause: Option<String>,
    lane: Option<Lane>,
    conversation: Option<ConversationId>,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Dead,
    Parked,
}

/// `GET /admin/dead-letters`: without what customers wrote.
pub async fn list(State(admin): State<Admin>, Query(asked): Query<Asked>) -> Result<Json<Value>, Problem> {
    let standing = asked.standing.map(|kind| match kind {
        Kind::Dead => Standing::Dead,
        Kind::Parked => Standing::Parked,
    });
    let which = Which { standing, cause: asked.cause, lane: asked.lane, conversation: asked.conversation };
    let page = Page { after: asked.after, limit: asked.limit.unwrap_or(PAGE) };
    let listing = admin.parts.letters.list(&which, &page).await.map_err(|error| refused(error.into()))?;
    let shown: Vec<Value> = listing.letters.iter().map(summary).collect();
    Ok(Json(json!({ "letters": shown, "next": listing.next, "beyond": listing.beyond })))
}

/// `GET /admin/dead-letters/{id}`: with what the customer wrote.
pub async fn show(State(admin): State<Admin>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let letter = admin.parts.letters.letter(&id).await.map_err(|error| refused(error.into()))?;
    let letter = letter.ok_or_else(|| refused(LetterError::Unknown))?;
    let mut shown = summary(&letter);
    match &letter.content {
        Content::Message(job) => shown["message"] = json!(job.kind),
        Content::Foreign(bytes) => {
            let some = &bytes[..bytes.len().min(FOREIGN_BYTES_MAX)];
            shown["foreign"] = json!({ "bytes": bytes.len(), "text": String::from_utf8_lossy(some) });
        }
    }
    Ok(Json(shown))
}

/// `POST /admin/dead-letters/{id}/replay`
pub async fn replay(State(admin): State<Admin>, Path(id): Path<String>) -> Result<Response, Problem> {
    let replay = letters::replay(&admin.parts, &id).await.map_err(refused)?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id, "replay": replay }))).into_response())
}

/// `DELETE /admin/dead-letters/{id}`
pub async fn discard(State(admin): State<Admin>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    letters::discard(&admin.parts, &id).await.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

fn summary(letter: &Letter) -> Value {
    let job = letter.job();
    json!({
        "id": letter.id,
        "message_id": job.map(|job| &job.message),
        "conversation_id": job.map(|job| &job.conversation),
        "lane": letter.lane,
        "standing": letter.standing,
        "cause": letter.cause(),
        "reason": letter.reason,
        "tries": letter.tries,
        "replay": letter.replay,
        "accepted_at": job.map(|job| job.first_seen.to_rfc3339()),
        "parked_at": letter.parked_at.map(|at| at.to_rfc3339()),
        "can_be_replayed": letter.can_be_replayed(),
    })
}

fn refused(error: LetterError) -> Problem {
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
