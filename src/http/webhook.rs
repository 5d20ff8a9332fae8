//! Takes webhooks: authenticates before it parses, judges each event alone, answers 200 only after durable storage.

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
};
use bytes::BytesMut;
use futures_util::TryStreamExt;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{Public, problem::Problem, signature};
use crate::{
    actors::Refusal,
    broker::{Lane, Publication, Published},
    domain::{
        event::{self, Circumstances, Verdict},
        ids::{ConversationId, EventId, MessageId},
        job::{Job, Kind},
        reason::Reject,
        secret::Secret,
        support,
        time::Timestamp,
    },
};

/// When Zendesk Support may try again: only below 60 s does it try at all.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What is read of a body beyond its limit, so that its sender hears the answer.
const THROWN_AWAY_MAX: usize = 16 << 20;

/// What became of a delivery's events.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Messages and postbacks that will be answered.
    pub accepted: u64,
    /// Events and messages known already.
    pub duplicate: u64,
    /// Events left alone.
    pub ignored: u64,
    /// Events that could not be understood.
    pub rejected: u64,
    /// Changes of a conversation's or customer's state.
    pub control: u64,
}

/// `POST /webhooks/sunshine`
pub async fn sunshine(State(public): State<Public>, request: Request) -> Result<Json<Counts>, Problem> {
    let (head, body) = request.into_parts();
    if !knows_secret(&public.webhook_secrets, &head.headers) {
        public.metrics.webhook("unauthorized", 1);
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "X-API-Key is missing or wrong"));
    }
    let body = read(&public, body).await?;
    let envelope = event::open(&body).map_err(|unusable| {
        public.metrics.webhook("unusable", 1);
        tracing::warn!(%unusable, "a webhook's body is unusable as a whole");
        Problem::new(StatusCode::BAD_REQUEST, "unusable-body", unusable.to_string())
    })?;
    let now = public.parts.clock.now();
    let mut counts = Counts::default();
    let mut publications = Vec::with_capacity(envelope.events.len());
    for (position, raw) in envelope.events.iter().enumerate() {
        let around = Circumstances {
            ours: &public.parts.ours,
            now,
            position: u32::try_from(position).unwrap_or(u32::MAX),
            app: envelope.app.as_deref(),
        };
        let judged = event::judge(raw, &around);
        if let Some((conversation, control)) = judged.control {
            note_control(&public, &conversation, control).await;
        }
        publications.extend(publication(&public, &mut counts, judged.verdict, raw.get(), now));
    }
    let stored = admit(&public, publications.iter().map(|(publication, _)| publication.clone()).collect()).await?;
    for ((_, class), published) in publications.iter().zip(stored) {
        counts.add(*class, published);
    }
    public.metrics.webhook_counts(&counts);
    Ok(Json(counts))
}

/// `POST /webhooks/zendesk`
pub async fn support(State(public): State<Public>, request: Request) -> Result<Json<Counts>, Problem> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let unauthorized = |detail: &str| {
        public.metrics.webhook("unauthorized", 1);
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    };
    let signature = header("x-zendesk-webhook-signature").ok_or_else(|| unauthorized("the signature is missing"))?;
    let timestamp =
        header("x-zendesk-webhook-signature-timestamp").ok_or_else(|| unauthorized("the timestamp is missing"))?;
    let now = public.parts.clock.now();
    if !signature::is_fresh(timestamp, now) {
        return Err(unauthorized("the timestamp is more than 5 minutes away"));
    }
    // The body is part of what is signed, so it is read first; it is parsed after.
    let body = read(&public, body).await?;
    if !signature::is_valid(&public.support_secrets, timestamp, &body, signature) {
        return Err(unauthorized("the signature is wrong"));
    }
    let job = support::job(&body, header("x-zendesk-webhook-invocation-id"), &digest(&body), now);
    let publication = Publication { lane: Lane::Events, job: Arc::new(job), unusable: None };
    let mut counts = Counts::default();
    for published in admit(&public, vec![publication]).await? {
        counts.add(Class::Control, published);
    }
    public.metrics.webhook_counts(&counts);
    Ok(Json(counts))
}

/// How a stored event is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Accepted,
    Control,
    Ignored,
    Rejected,
}

impl Counts {
    fn add(&mut self, class: Class, published: Published) {
        let count = match (class, published) {
            // The same bytes come again with each try; they stay rejected.
            (Class::Rejected, _) => &mut self.rejected,
            (_, Published::DuplicateEvent | Published::DuplicateMessage) => &mut self.duplicate,
            (Class::Accepted, Published::Stored) => &mut self.accepted,
            (Class::Control, Published::Stored) => &mut self.control,
            (Class::Ignored, Published::Stored) => &mut self.ignored,
        };
        *count += 1;
    }
}

fn knows_secret(secrets: &[Secret], headers: &HeaderMap) -> bool {
    let mut sent = headers.get_all("x-api-key").into_iter();
    let given = sent.next().and_then(|value| value.to_str().ok()).unwrap_or_default();
    if sent.next().is_some() {
        return false;
    }
    // All are compared, so that the time taken does not tell which one is near.
    secrets.iter().fold(false, |known, secret| known | secret.matches(given))
}

async fn read(public: &Public, body: Body) -> Result<Bytes, Problem> {
    let limit = usize::try_from(public.config.webhook_body_limit).unwrap_or(usize::MAX);
    match tokio::time::timeout(public.config.request_timeout, collect(body, limit)).await {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => {
            public.metrics.webhook("too_large", 1);
            let detail = format!("the body is longer than {limit} bytes (http.webhook_body_limit)");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail))
        }
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "unusable-body", "the body broke off")),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "the body did not come in time")),
    }
}

/// Reads a body; `None` when it is longer than `limit`. What is too long is read on for a while and thrown away: a
/// sender that is cut off in the middle does not hear the answer.
async fn collect(body: Body, limit: usize) -> Result<Option<Bytes>, axum::Error> {
    let mut chunks = body.into_data_stream();
    let (mut whole, mut length) = (BytesMut::new(), 0);
    while let Some(chunk) = chunks.try_next().await? {
        length += chunk.len();
        if length <= limit {
            whole.extend_from_slice(&chunk);
        } else if length > limit + THROWN_AWAY_MAX {
            break;
        }
    }
    Ok((length <= limit).then(|| whole.freeze()))
}

/// Who holds the conversation is known at once, ahead of what waits in the conversation's queue.
async fn note_control(public: &Public, conversation: &ConversationId, control: crate::domain::control::Control) {
    match public.parts.state.note_control(conversation, control).await {
        Ok(true) => {
            if control.holder == crate::domain::control::Holder::Other && public.parts.handoffs.confirmed(conversation)
            {
                public.parts.metrics.handed_off("confirmed");
            }
        }
        Ok(false) => {}
        // The event itself travels in the queue as well.
        Err(error) => tracing::warn!(%error, "the holder of a conversation could not be noted"),
    }
}

fn publication(
    public: &Public,
    counts: &mut Counts,
    verdict: Verdict,
    raw: &str,
    now: Timestamp,
) -> Option<(Publication, Class)> {
    let (lane, job, class, unusable) = match verdict {
        Verdict::Answer(job) => (Lane::Chat, job, Class::Accepted, None),
        Verdict::Change(job) => {
            let lane = if matches!(job.kind, Kind::UserRemoved { .. }) { Lane::Events } else { Lane::Chat };
            (lane, job, Class::Control, None)
        }
        Verdict::Record(job, reason) => {
            public.metrics.ignored(reason.as_str());
            (Lane::Events, job, Class::Ignored, None)
        }
        Verdict::Ignored(reason) => {
            public.metrics.ignored(reason.as_str());
            counts.ignored += 1;
            return None;
        }
        Verdict::Rejected(reject) => {
            public.metrics.rejected(reject.as_str());
            tracing::warn!(
                reason = reject.as_str(),
                "an event could not be understood; it was kept among the parked letters"
            );
            (Lane::Events, unusable_job(raw, now), Class::Rejected, Some(reject))
        }
    };
    Some((Publication { lane, job: Arc::new(job), unusable: unusable.map(Reject::as_str) }, class))
}

fn unusable_job(raw: &str, now: Timestamp) -> Job {
    // Named by its bytes: a second try brings the same, and is known.
    let id = format!("unusable:{}", digest(raw.as_bytes()));
    let expect = "a digest is printable and short";
    Job {
        v: Job::VERSION,
        id: EventId::new(&id).expect(expect),
        message: MessageId::new(&id).expect(expect),
        conversation: ConversationId::new(&id).expect(expect),
        app: None,
        brand: None,
        kind: Kind::Unusable { raw: raw.to_owned() },
        received: now,
        position: 0,
        first_seen: now,
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn admit(public: &Public, publications: Vec<Publication>) -> Result<Vec<Published>, Problem> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let desk = &public.desks[TURN.fetch_add(1, Ordering::Relaxed) % public.desks.len()];
    desk.admit(publications).await.map_err(|refusal: Refusal| {
        public.metrics.webhook("unavailable", 1);
        tracing::error!(cause = refusal.cause, "a webhook could not be stored; the sender is asked to try again");
        let problem = Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "cannot-store",
            "the delivery could not be stored; try again",
        );
        problem.retry_after(refusal.retry_after.min(RETRY_AFTER))
    })
}
