//! After an absence longer than Zendesk's patience, looks for what was written and who took over meanwhile (design
//! rule 18).
//!
//! Zendesk gives a webhook up after 15 minutes. The node leaves a mark of life as long as it can take webhooks; a mark
//! found too old tells of an absence. Then what is known of holders is not believed any more, and each conversation that
//! was open is read until that succeeds: customers' messages that never came are published as if they had, and the
//! dedupe by message id drops those that did. The old mark stays until all is made up for, so that a restart begins anew.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use super::{Desk, Parts};
use crate::{
    broker::{Lane, Publication, Published},
    client::{self, Message},
    domain::{
        control::{Control, Holder},
        ids::{ConversationId, EventId, MessageId, UserId},
        job::{Job, Kind},
        time::Timestamp,
    },
    state,
};

/// Zendesk tries a webhook for this long.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Conversations in which something was said this long before the absence are taken for open.
const OPEN_FOR: Duration = Duration::from_secs(24 * 3600);

/// The most conversations read; the most recent come first.
const CONVERSATIONS_MAX: usize = 1_000;

/// After so many failures one after another the rest waits for the next round: Zendesk is away, not a conversation.
const FAILURES_IN_A_ROW_MAX: usize = 3;

/// The most apps remembered; with more it is time to write one into `zendesk.app_id`.
const APPS_MAX: usize = 16;

/// What is known of the node's absence.
#[derive(Default)]
pub struct Reconciler {
    absence: Mutex<Option<Absence>>,
    /// What was noted of holders before then may have changed unheard.
    back_at: Mutex<Timestamp>,
    /// The apps heard of, for an installation that does not name its own.
    apps: Mutex<BTreeSet<String>>,
}

/// An absence that is not made up for yet.
#[derive(Clone)]
struct Absence {
    /// The last sign of life before.
    since: Timestamp,
    /// Conversations that have to be read, the most recent first; `None`: not looked up yet.
    open: Option<VecDeque<ConversationId>>,
    found: usize,
}

/// Why a conversation could not be reconciled.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Zendesk(#[from] client::Error),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error(transparent)]
    Broker(#[from] crate::broker::Error),
}

impl Reconciler {
    /// A message tells of an app.
    pub(super) fn heard_of(&self, app: Option<&str>) {
        let Some(app) = app else { return };
        let mut apps = self.apps.lock();
        if apps.len() < APPS_MAX && !apps.contains(app) {
            apps.insert(app.to_owned());
        }
    }

    /// Whether what was noted of a holder can be believed: events during an absence are lost.
    pub(super) fn believes(&self, control: Control) -> bool {
        control.at >= *self.back_at.lock()
    }
}

/// Notes that the node is alive, unless it cannot take webhooks now; finds out whether it was away for too long.
pub(super) async fn note_alive(parts: &Parts, desks: &[Arc<Desk>]) -> Result<(), state::Error> {
    let unfinished = parts.reconciler.absence.lock().is_some();
    if unfinished {
        return Ok(());
    }
    // One who refuses what comes is not there for Zendesk.
    if Desk::are_refusing(desks) {
        return Ok(());
    }
    let now = parts.clock.now();
    match parts.state.last_alive().await? {
        Some(last) if now.since(last) > PATIENCE => {
            tracing::warn!("this node could not be reached for more than 15 minutes");
            *parts.reconciler.back_at.lock() = now;
            *parts.reconciler.absence.lock() = Some(Absence { since: last, open: None, found: 0 });
            Ok(())
        }
        _ => parts.state.alive(now).await.map(drop),
    }
}

/// Goes once over the conversations that are still to be read; the next round goes on with what failed.
pub(super) async fn reconcile(parts: &Parts) -> Result<(), state::Error> {
    let Some(mut absence) = parts.reconciler.absence.lock().clone() else { return Ok(()) };
    let apps = apps(parts);
    if apps.is_empty() {
        // Without an app there is no address; the first webhook names it.
        return Ok(());
    }
    let mut open = match absence.open.take() {
        Some(open) => open,
        None => look_up(parts, absence.since).await?,
    };
    let mut failures = 0;
    for _ in 0..open.len() {
        let Some(conversation) = open.pop_front() else { break };
        if parts.draining.is_cancelled() {
            return Ok(());
        }
        match reconcile_one(parts, &apps, &conversation, absence.since).await {
            Ok(found) => (failures, absence.found) = (0, absence.found + found),
            Err(error) => {
                tracing::warn!(%error, conversation.id = %conversation, "a conversation could not be reconciled; it is tried again");
                open.push_back(conversation);
                failures += 1;
            }
        }
        if failures >= FAILURES_IN_A_ROW_MAX {
            break;
        }
    }
    if !open.is_empty() {
        absence.open = Some(open);
        *parts.reconciler.absence.lock() = Some(absence);
        return Ok(());
    }
    tracing::warn!(found = absence.found, "the absence has been made up for");
    parts.state.alive(parts.clock.now()).await?;
    *parts.reconciler.absence.lock() = None;
    Ok(())
}

/// The apps a conversation may belong to.
fn apps(parts: &Parts) -> Vec<String> {
    match parts.sunshine.app() {
        Some(app) => vec![app.to_owned()],
        None => parts.reconciler.apps.lock().iter().cloned().collect(),
    }
}

async fn look_up(parts: &Parts, last: Timestamp) -> Result<VecDeque<ConversationId>, state::Error> {
    let since = Timestamp(last.0 - OPEN_FOR.as_millis() as i64);
    let open = parts.state.open_since(since, CONVERSATIONS_MAX).await?;
    tracing::warn!(conversations = open.len(), "looking for what was written meanwhile");
    Ok(open.into())
}

/// Reads one conversation and publishes what is missing; how much that was.
async fn reconcile_one(
    parts: &Parts,
    apps: &[String],
    conversation: &ConversationId,
    last: Timestamp,
) -> Result<usize, Failed> {
    for app in apps {
        // An event that comes while Zendesk answers is newer than the answer.
        let asked_at = parts.clock.now();
        let standing = match parts.sunshine.standing(Some(app), conversation).await {
            Ok(standing) => standing,
            // It belongs to another app, or is gone.
            Err(client::Error::Refused(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        let holder = parts.ours.holder(standing.active.as_ref());
        parts.state.note_control(conversation, Control { holder, at: asked_at }).await?;
        if holder == Holder::Other {
            return Ok(0);
        }
        let messages = parts.sunshine.messages(Some(app), conversation, last).await?;
        let around = Around { conversation, app, brand: standing.brand, now: asked_at };
        return publish_missing(parts, &around, messages, last).await;
    }
    tracing::warn!(conversation.id = %conversation, "a conversation is gone; nothing of it is reconciled");
    Ok(0)
}

async fn publish_missing(
    parts: &Parts,
    around: &Around<'_>,
    messages: Vec<Message>,
    last: Timestamp,
) -> Result<usize, Failed> {
    // Deliveries in hand at the end may have been answered 200 a little after the last sign of life.
    let from = Timestamp(last.0 - PATIENCE.as_millis() as i64);
    // What a human has replied to since is not asked again. What we have answered the ledger knows, or our marks tell.
    let of_humans = messages.iter().filter(|message| !message.from_customer && message.mark.is_none());
    let replied = of_humans.filter_map(|message| message.received).max();
    let missing = messages.into_iter().filter(|message| {
        message.from_customer
            && message.received.is_some_and(|at| at >= from && replied.is_none_or(|replied| at > replied))
    });
    let mut publications = Vec::new();
    for job in missing.filter_map(|message| around.job(message)) {
        // What has ended would lie there a second time, as a duplicate or a second letter.
        if parts.state.record(job.message.as_str()).await?.is_none() {
            publications.push(publication(job));
        }
    }
    if publications.is_empty() {
        return Ok(0);
    }
    let outcomes = parts.broker.publish(publications).await?;
    Ok(outcomes.iter().filter(|outcome| **outcome == Published::Stored).count())
}

fn publication(job: Job) -> Publication {
    Publication { lane: Lane::Chat, job: Arc::new(job), parked: None }
}

/// What a message found at Zendesk does not say itself.
struct Around<'a> {
    conversation: &'a ConversationId,
    app: &'a str,
    brand: Option<String>,
    now: Timestamp,
}

impl Around<'_> {
    fn job(&self, message: Message) -> Option<Job> {
        let text = message.text.filter(|text| !text.trim().is_empty())?;
        let received = message.received?;
        let user = message.user.and_then(|user| UserId::new(&user).ok());
        let (event, message_id) = (EventId::new(&message.id).ok()?, MessageId::new(&message.id).ok()?);
        let kind = Kind::Message { text, user, image: message.image };
        Some(Job {
            app: Some(self.app.to_owned()),
            brand: self.brand.clone(),
            // It may have been seen, before the state was lost or brought back: absence proves nothing of it.
            first_seen: received.min(self.now),
            ..Job::new(event, message_id, self.conversation.clone(), kind, received)
        })
    }
}
