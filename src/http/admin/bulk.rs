//! What is done with many letters at once, at a pace: as jobs that are watched, paused and broken off.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    time::Duration,
};

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    Admin, Problem, Who, came_of, controls,
    letters::{Filter, Kind, LetterView, refused, summary},
    noted, read,
};
use crate::{
    actors::{
        bulk::{self, Deed, Plan, Progress},
        settings::{Mute, Order},
    },
    broker::{
        Letter, Standing,
        letters::{Look, Which, pages},
    },
    domain::{ids::ConversationId, units},
    http::extract::{Body, Path},
};

/// Every node has heard of what was set, or taken back, after this.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// Letters of which a dry run says one by one what would happen.
const SHOWN: usize = 20;

/// Letters that a dry run looks at: of each conversation the holder is asked for.
const TRIED_MAX: u64 = 10_000;

/// The longest time in which a job can be undone.
const UNDO_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Letters a second, if nothing else is said.
const RATE: f64 = 10.0;

/// What is to be done with many letters.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Many {
    #[serde(default)]
    filter: Filter,
    /// All parked letters; without it the filter has to say something.
    #[serde(default)]
    all: bool,
    /// Letters a second.
    rate: Option<f64>,
    #[serde(default)]
    canary: usize,
    #[serde(default)]
    dry_run: bool,
    /// How long it can be undone.
    #[serde(default, with = "units::duration")]
    #[schema(value_type = String, example = "30s")]
    undo: Duration,
}

const MANY: &str = r#"{"filter":{"cause":"…","fingerprint":"…","lane":"chat","conversation":"…","id":"…"},"all":false,"rate":10,"canary":0,"dry_run":false,"undo":"0s"}, or some of it"#;

/// `POST /admin/dead-letters/replay`, `/discard` and `/hand-over`: all parked letters that the filter means, at a pace.
#[utoipa::path(post, path = "/admin/dead-letters/{deed}", tag = "letters", params(("deed" = String, Path)), request_body(content = Option<Many>), responses((status = 200, body = DryRun), (status = 202, body = Progress)))]
pub async fn many(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(deed): Path<String>,
    Body(body): Body,
) -> Result<Response, Problem> {
    let deed = match deed.as_str() {
        "replay" => Deed::Replay,
        "discard" => Deed::Discard,
        "hand-over" => Deed::HandOver,
        _ => {
            let detail = "the actions on many letters are /replay, /discard and /hand-over";
            return Err(Problem::new(StatusCode::NOT_FOUND, "no-such-action", detail));
        }
    };
    let many: Many = if body.is_empty() { read(b"{}", MANY)? } else { read(&body, MANY)? };
    let mut filter = many.filter;
    filter.standing = Some(Kind::Parked);
    if filter.which().means_all() && !many.all {
        let detail = "name the letters with `filter`, or say \"all\": true";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "unusable-body", detail));
    }
    if many.dry_run {
        return Ok(Json(dry_run(&admin, deed, &filter.which()).await?).into_response());
    }
    let rate = many.rate.unwrap_or(RATE);
    let is_usable = is_rate(rate) && many.undo <= UNDO_MAX;
    if !is_usable {
        let detail = format!("rate is {} to {}, undo at most 24h", bulk::RATE_MIN, bulk::RATE_MAX);
        return Err(Problem::new(StatusCode::BAD_REQUEST, "unusable-body", detail));
    }
    let detail = json!({ "filter": filter, "rate": rate, "canary": many.canary });
    let action = format!("letters.{}", word(deed));
    noted(&admin, &who, &action, "parked", detail).await?;
    let (which, undo, by) = (filter.which(), many.undo, who.name.clone());
    let plan = Plan { deed, which, rate, canary: many.canary, undo, reaches: Duration::ZERO, by };
    let progress = came_of(&admin, &who, (&action, "parked"), order(&admin, plan)).await?;
    Ok((StatusCode::ACCEPTED, Json(progress)).into_response())
}

fn order(admin: &Admin, plan: Plan) -> Result<Progress, Problem> {
    admin.parts.bulks.order(plan, admin.parts.clock.now()).ok_or_else(|| {
        let detail =
            "too many jobs are under way on this node; wait for one to end, or break one off (GET /admin/jobs)";
        Problem::new(StatusCode::CONFLICT, "too-many-jobs", detail)
    })
}

fn is_rate(rate: f64) -> bool {
    (bulk::RATE_MIN..=bulk::RATE_MAX).contains(&rate)
}

fn word(deed: Deed) -> &'static str {
    match deed {
        Deed::Replay => "replay",
        Deed::Discard => "discard",
        Deed::HandOver => "hand_over",
    }
}

/// What would happen to one letter.
#[derive(Debug, Serialize, ToSchema)]
struct Would {
    #[serde(flatten)]
    letter: LetterView,
    would: &'static str,
}

/// What would happen.
#[derive(Debug, Serialize, ToSchema)]
struct DryRun {
    /// Letters that are meant.
    letters: u64,
    /// More lie there than could be looked at.
    beyond: bool,
    /// How many would end how, as things stand now.
    would: BTreeMap<&'static str, u64>,
    /// The first of them, one by one.
    sample: Vec<Would>,
}

async fn dry_run(admin: &Admin, deed: Deed, which: &Which) -> Result<DryRun, Problem> {
    let mut run = DryRun { letters: 0, beyond: false, would: BTreeMap::new(), sample: Vec::new() };
    let mut holders = HashMap::new();
    let mut pages = pin!(pages(admin.parts.letters.clone(), which.clone(), usize::MAX, Look::Remembered));
    while let Some(listing) = pages.try_next().await.map_err(|error| refused(error.into()))? {
        for letter in &listing.letters {
            if run.letters == TRIED_MAX {
                run.beyond = true;
                return Ok(run);
            }
            let would = would(admin, deed, letter, &mut holders).await;
            run.letters += 1;
            *run.would.entry(would).or_default() += 1;
            if run.sample.len() < SHOWN {
                run.sample.push(Would { letter: summary(letter), would });
            }
        }
        run.beyond |= listing.beyond;
    }
    Ok(run)
}

/// How a letter would end.
async fn would(
    admin: &Admin,
    deed: Deed,
    letter: &Letter,
    holders: &mut HashMap<ConversationId, bool>,
) -> &'static str {
    let Some(job) = letter.job().filter(|_| deed == Deed::Discard || letter.can_be_replayed()) else {
        return if deed == Deed::Discard { "be_removed" } else { "stay: it cannot be understood" };
    };
    let is_with_human = match holders.get(&job.conversation) {
        _ if deed == Deed::Discard => false,
        Some(known) => *known,
        None => {
            let control = admin.parts.state.control(&job.conversation).await.ok().flatten();
            let is_with_human = control.is_some_and(|control| !control.holder.lets_us_answer());
            holders.insert(job.conversation.clone(), is_with_human);
            is_with_human
        }
    };
    match deed {
        Deed::Discard => "be_removed",
        Deed::HandOver if is_with_human => "be_removed: a human has the conversation",
        Deed::HandOver => "go_to_a_human",
        Deed::Replay if is_with_human => "be_ignored: a human has the conversation",
        Deed::Replay if admin.parts.settings.mutes(job, &job.conversation).is_some() => {
            "be_kept: the bot is muted there"
        }
        Deed::Replay => "be_answered",
    }
}

/// `GET /admin/jobs`: jobs on many letters that this node works off, the newest first.
#[utoipa::path(get, path = "/admin/jobs", tag = "letters", responses((status = 200, body = Vec<Progress>)))]
pub async fn jobs(State(admin): State<Admin>) -> Json<Vec<Progress>> {
    Json(admin.parts.bulks.all())
}

/// `POST /admin/jobs/{id}/pause`, `/resume` and `/cancel`; a job that has not begun is undone by that.
#[utoipa::path(post, path = "/admin/jobs/{id}/{action}", tag = "letters", params(("id" = String, Path), ("action" = String, Path)), responses((status = 200, body = Progress)))]
pub async fn job(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path((id, action)): Path<(String, String)>,
) -> Result<Json<Progress>, Problem> {
    let known = ["pause", "resume", "cancel"];
    if !known.contains(&action.as_str()) {
        let detail = "the actions are /pause, /resume and /cancel";
        return Err(Problem::new(StatusCode::NOT_FOUND, "no-such-action", detail));
    }
    let noted_as = format!("job.{action}");
    noted(&admin, &who, &noted_as, &id, Value::Null).await?;
    let bulks = &admin.parts.bulks;
    let progress = match action.as_str() {
        "cancel" => bulks.cancel(&id),
        action => bulks.pause(&id, action == "pause"),
    };
    let progress = progress.ok_or_else(|| {
        let detail = "no job of this id is known to this node (GET /admin/jobs, `tidegate dead jobs`)";
        Problem::new(StatusCode::NOT_FOUND, "no-such-job", detail)
    });
    came_of(&admin, &who, (&noted_as, &id), progress).await.map(Json)
}

/// What becomes of the messages that came while the bot was muted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Then {
    Answer,
    HandOver,
    Drop,
    Keep,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Unmute {
    mute: Mute,
    then: Then,
    rate: Option<f64>,
}

/// How a mute has ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct Unmuted {
    changed: bool,
    /// The job that works off what came meanwhile.
    job: Option<Progress>,
}

/// `POST /admin/mutes/end`
#[utoipa::path(post, path = "/admin/mutes/end", tag = "controls", request_body = Unmute, responses((status = 200, body = Unmuted)))]
pub async fn unmute(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Body(body): Body,
) -> Result<Json<Unmuted>, Problem> {
    let shape = r#"{"mute":"all"|{"brand":"…"}|{"conversation":"…"},"then":"answer|hand_over|drop|keep","rate":10}"#;
    let Unmute { mute, then, rate } = read(&body, shape)?;
    let rate = rate.unwrap_or(RATE);
    if !is_rate(rate) {
        let detail = format!("rate is {} to {}", bulk::RATE_MIN, bulk::RATE_MAX);
        return Err(Problem::new(StatusCode::BAD_REQUEST, "unusable-body", detail));
    }
    noted(&admin, &who, "mute.end", &mute.to_string(), json!({ "then": then })).await?;
    let (subject, cause) = (mute.to_string(), Some(mute.cause()));
    let deed = match then {
        Then::Answer => Some(Deed::Replay),
        Then::HandOver => Some(Deed::HandOver),
        Then::Drop => Some(Deed::Discard),
        Then::Keep => None,
    };
    let which = Which { standing: Some(Standing::Parked), cause, ..Which::default() };
    // Other nodes keep what comes until they have heard of it.
    let (undo, reaches) = (HEARD_WITHIN, HEARD_WITHIN * 2);
    let plan = |deed| Plan { deed, which, rate, canary: 0, undo, reaches, by: who.name.clone() };
    // The job first, which may be refused: what came meanwhile must not lie there and nobody knows.
    let job = deed.map(|deed| order(&admin, plan(deed))).transpose();
    let job = came_of(&admin, &who, ("mute.end", &subject), job).await?;
    let changed = controls::unset(&admin, &Order::Mute(mute), &who).await;
    if let (Err(_), Some(job)) = (&changed, &job) {
        admin.parts.bulks.cancel(&job.id);
    }
    Ok(Json(Unmuted { changed: changed?, job }))
}
