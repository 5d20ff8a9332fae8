//! Takes webhooks: authenticates before it parses, judges each event alone, answers 200 only after durable storage.

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use utoipa::ToSchema;

use super::{
    Public,
    body::{self, Announced},
    problem::Problem,
    signature,
};
use crate::{
    actors::{Refusal, STORED_WITHIN, Share, traced},
    broker::{Lane, Publication, Published},
    domain::{
        control::{Control, Holder},
        event::{self, Circumstances, Verdict},
        hex::hex,
        ids::{ConversationId, EventId, MessageId},
        job::{Job, Kind},
        secret::Secret,
        support,
        time::Timestamp,
    },
};

/// When Zendesk Support may try again: only below 60 s does it try at all.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The state may take so long to note who holds a conversation; the delivery is stored all the same.
const NOTED_WITHIN: Duration = Duration::from_secs(1);

/// Events of one delivery. A real one has hundreds of bytes, so a body of a megabyte holds some thousands; made of
/// scraps it would hold half a million, and each of them takes more in memory and on the disk than in the body.
const EVENTS_MAX: usize = 10_000;

/// What became of a delivery's events.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = WebhookCounts)]
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
#[utoipa::path(post, path = "/webhooks/sunshine", tag = "public", request_body(content = Object), security(("webhook_secret" = [])), responses((status = 200, body = Counts)))]
pub async fn sunshine(State(public): State<Arc<Public>>, request: Request) -> Result<Json<Counts>, Problem> {
    let (head, body) = request.into_parts();
    if !knows_secret(&public.webhook_secrets, &head.headers) {
        public.metrics.webhook("unauthorized", 1);
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "X-API-Key is missing or wrong"));
    }
    let deadline = Deadline::of(&public);
    let (body, share) = deadline.read(&public, body, Announced::Believed).await?;
    let envelope = event::open(&body).map_err(|unusable| {
        public.metrics.webhook("unusable", 1);
        tracing::warn!(%unusable, "a webhook's body is unusable as a whole");
        Problem::new(StatusCode::BAD_REQUEST, "unusable-body", unusable.to_string())
    })?;
    if envelope.events.len() > EVENTS_MAX {
        public.metrics.webhook("unusable", 1);
        let detail = format!("the delivery has more than {EVENTS_MAX} events");
        return Err(Problem::new(StatusCode::BAD_REQUEST, "unusable-body", detail));
    }
    let now = public.parts.clock.now();
    let mut counts = Counts::default();
    let mut publications = Vec::with_capacity(envelope.events.len());
    let mut spans = Vec::new();
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
        let Some((mut publication, class)) = publication(&public, &mut counts, judged.verdict, raw.get(), now) else {
            continue;
        };
        spans.push(traced::send(&public.parts, publication.lane, Arc::make_mut(&mut publication.job)));
        publications.push((publication, class));
    }
    let messages = publications.iter().map(|(publication, _)| publication.clone()).collect();
    let stored = deadline.admit(&public, messages, share).await?;
    drop(spans);
    for ((_, class), published) in publications.iter().zip(stored) {
        counts.add(*class, published);
    }
    public.metrics.webhook_counts(&counts);
    Ok(Json(counts))
}

/// `POST /webhooks/zendesk`
#[utoipa::path(post, path = "/webhooks/zendesk", tag = "public", request_body(content = Object), responses((status = 200, body = Counts)))]
pub async fn support(State(public): State<Arc<Public>>, request: Request) -> Result<Json<Counts>, Problem> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let unauthorized = |detail: &str| {
        public.metrics.webhook("unauthorized", 1);
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    };
    // Nobody can have signed: not read, so that it takes no room from those who may come.
    if public.support_secrets.is_empty() {
        return Err(unauthorized("no secret is set (zendesk.support_webhook_secrets)"));
    }
    let signature = header("x-zendesk-webhook-signature").ok_or_else(|| unauthorized("the signature is missing"))?;
    let timestamp =
        header("x-zendesk-webhook-signature-timestamp").ok_or_else(|| unauthorized("the timestamp is missing"))?;
    let now = public.parts.clock.now();
    if !signature::is_fresh(timestamp, now) {
        return Err(unauthorized("the timestamp is more than 5 minutes away"));
    }
    // The body is part of what is signed, so it is read first; it is parsed after.
    let deadline = Deadline::of(&public);
    let (body, share) = deadline.read(&public, body, Announced::Ignored).await?;
    if !signature::is_valid(&public.support_secrets, timestamp, &body, signature) {
        return Err(unauthorized("the signature is wrong"));
    }
    let mut job = support::job(&body, header("x-zendesk-webhook-invocation-id"), &digest(&body), now);
    let _span = traced::send(&public.parts, Lane::Events, &mut job);
    let publication = Publication { lane: Lane::Events, job: Arc::new(job), parked: None };
    let mut counts = Counts::default();
    for published in deadline.admit(&public, vec![publication], share).await? {
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

/// Who holds the conversation is known at once, ahead of what waits in the conversation's queue.
async fn note_control(public: &Public, conversation: &ConversationId, control: Control) {
    let noting = public.parts.state.note_control(conversation, control);
    match tokio::time::timeout(NOTED_WITHIN, noting).await {
        Ok(Ok(true)) => {
            if control.holder == Holder::Other && public.parts.handoffs.confirmed(conversation) {
                public.parts.metrics.handed_off("confirmed");
            }
        }
        Ok(Ok(false)) => {}
        // The event itself travels in the queue as well.
        Ok(Err(error)) => tracing::warn!(%error, "the holder of a conversation could not be noted"),
        Err(_) => tracing::warn!("the holder of a conversation could not be noted in time"),
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
    Some((Publication { lane, job: Arc::new(job), parked: unusable.map(|why| why.as_str().into()) }, class))
}

fn unusable_job(raw: &str, now: Timestamp) -> Job {
    // Named by its bytes: a second try brings the same, and is known.
    let id = format!("unusable:{}", digest(raw.as_bytes()));
    let expect = "a digest is printable and short";
    let (event, message) = (EventId::new(&id).expect(expect), MessageId::new(&id).expect(expect));
    let kind = Kind::Unusable { raw: raw.to_owned() };
    Job::new(event, message, ConversationId::new(&id).expect(expect), kind, now)
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// When (monotonic) a delivery must have been answered.
struct Deadline(Duration);

impl Deadline {
    fn of(public: &Public) -> Self {
        Self(public.parts.clock.monotonic() + public.config.request_timeout)
    }

    fn left(&self, public: &Public) -> Duration {
        self.0.saturating_sub(public.parts.clock.monotonic())
    }

    /// Reads the body; its bytes are held against the budget until the delivery is stored.
    async fn read(&self, public: &Public, body: Body, announced: Announced) -> Result<(Bytes, Share), Problem> {
        let limit = usize::try_from(public.config.webhook_body_limit).unwrap_or(usize::MAX);
        let mut share = public.budget.nothing();
        let read = tokio::time::timeout(self.left(public), body::read(body, limit, announced, &mut share)).await;
        let (outcome, problem) = match read {
            Ok(Ok(body)) => return Ok((body, share)),
            Ok(Err(body::Error::TooLong)) => {
                let detail = format!("the body is longer than {limit} bytes (http.webhook_body_limit)");
                ("too_large", Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail))
            }
            Ok(Err(body::Error::NoRoom)) => {
                let detail = "too many bytes of webhooks wait to be stored; try again";
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-much-waits", detail);
                ("unavailable", problem.retry_after(RETRY_AFTER))
            }
            Ok(Err(body::Error::BrokeOff)) => {
                ("unusable", Problem::new(StatusCode::BAD_REQUEST, "unusable-body", "the body broke off"))
            }
            Err(_) => {
                let detail = "the body did not come in time (http.request_timeout)";
                ("unusable", Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", detail))
            }
        };
        public.metrics.webhook(outcome, 1);
        Err(problem)
    }

    /// Makes a delivery durable.
    async fn admit(
        &self,
        public: &Public,
        messages: Vec<Publication>,
        share: Share,
    ) -> Result<Vec<Published>, Problem> {
        static TURN: AtomicUsize = AtomicUsize::new(0);
        let desk = &public.desks[TURN.fetch_add(1, Ordering::Relaxed) % public.desks.len()];
        let within = self.left(public).min(STORED_WITHIN);
        desk.admit(messages, share, within).await.map_err(|refusal: Refusal| {
            public.metrics.webhook("unavailable", 1);
            tracing::error!(cause = refusal.cause, "a webhook could not be stored; the sender is asked to try again");
            let detail = "the delivery could not be stored; try again";
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "cannot-store", detail);
            problem.retry_after(refusal.retry_after.min(RETRY_AFTER))
        })
    }
}
