//! After an absence longer than Zendesk's patience, looks for what was written meanwhile (design rule 18).
//!
//! Zendesk gives a webhook up after 15 minutes. Conversations known to be open are read, and customers' messages that
//! never came are published as if they had; the dedupe by message id drops those that did.

use std::{sync::Arc, time::Duration};

use super::Parts;
use crate::{
    broker::{Lane, Publication, Published},
    client::Message,
    domain::{
        ids::{ConversationId, EventId, MessageId, UserId},
        job::{Job, Kind},
        time::Timestamp,
    },
};

/// Zendesk tries a webhook for this long.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Conversations in which something was said this long before the absence are taken for open.
const OPEN_FOR: Duration = Duration::from_secs(24 * 3600);

/// The most conversations read; the most recent come first.
const CONVERSATIONS_MAX: usize = 1_000;

/// A note that the node is alive; returns how long it was away if that was too long.
pub(super) async fn alive(parts: &Parts) -> Option<Timestamp> {
    let now = parts.clock.now();
    match parts.state.alive(now).await {
        Ok(Some(last)) if now.since(last) > PATIENCE => Some(last),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(%error, "that this node is alive could not be noted");
            None
        }
    }
}

/// Reads the conversations that were open at `last`, and publishes what is missing.
pub(super) async fn reconcile(parts: Arc<Parts>, last: Timestamp) {
    let since = Timestamp(last.0 - OPEN_FOR.as_millis() as i64);
    let open = match parts.state.open_since(since, CONVERSATIONS_MAX).await {
        Ok(open) => open,
        Err(error) => return tracing::error!(%error, "what was written during the absence could not be looked for"),
    };
    tracing::warn!(
        conversations = open.len(),
        "this node was away for more than 15 minutes; looking for what was written meanwhile"
    );
    let mut found = 0;
    for conversation in open {
        if parts.draining.is_cancelled() {
            return;
        }
        match parts.sunshine.messages(None, &conversation, last).await {
            Ok(messages) => found += publish_missing(&parts, &conversation, messages, last).await,
            Err(error) => {
                tracing::warn!(%error, conversation.id = %conversation, "a conversation could not be reconciled")
            }
        }
    }
    tracing::warn!(found, "the absence has been made up for");
}

async fn publish_missing(
    parts: &Parts,
    conversation: &ConversationId,
    messages: Vec<Message>,
    last: Timestamp,
) -> usize {
    // Deliveries in hand at the end may have been answered 200 a little after the last sign of life.
    let from = Timestamp(last.0 - PATIENCE.as_millis() as i64);
    // What a human or we have replied to since is not asked again.
    let replied = messages.iter().filter(|message| !message.from_customer).filter_map(|message| message.received).max();
    let missing = messages.into_iter().filter(|message| {
        message.from_customer
            && message.received.is_some_and(|at| at >= from && replied.is_none_or(|replied| at > replied))
    });
    let publications: Vec<Publication> =
        missing.filter_map(|message| job(parts, conversation, message)).map(publication).collect();
    if publications.is_empty() {
        return 0;
    }
    match parts.broker.publish(publications).await {
        Ok(outcomes) => outcomes.iter().filter(|outcome| **outcome == Published::Stored).count(),
        Err(error) => {
            tracing::error!(%error, conversation.id = %conversation, "a missed message could not be stored");
            0
        }
    }
}

fn publication(job: Job) -> Publication {
    Publication { lane: Lane::Chat, job: Arc::new(job), unusable: None }
}

fn job(parts: &Parts, conversation: &ConversationId, message: Message) -> Option<Job> {
    let text = message.text.filter(|text| !text.trim().is_empty())?;
    Some(Job {
        v: Job::VERSION,
        id: EventId::new(&message.id).ok()?,
        message: MessageId::new(&message.id).ok()?,
        conversation: conversation.clone(),
        app: None,
        brand: None,
        kind: Kind::Message { text, user: message.user.and_then(|user| UserId::new(&user).ok()), image: None },
        received: message.received?,
        position: 0,
        first_seen: parts.clock.now(),
    })
}
