//! Removes a customer from the queue, from the state, and from what is in hand.
//!
//! Recorded first, removed then, as every end (G1): whenever the process dies, the event that orders the removal comes
//! again and finds what is left. What is in hand is left to its conversation, which is told; `turn` and `retry` then end
//! it without an answer, and what was said of it is forgotten once more. Until all of it has ended the order comes again.

use std::collections::HashSet;

use ractor::ActorProcessingErr;

use super::Parts;
use crate::{
    broker::{Delivery, Forgotten, Whose},
    domain::{
        ids::{ConversationId, UserId},
        job::Job,
        time::Timestamp,
        timeline::{Outcome, Stage, Timeline},
    },
    guard::Tenant,
    state::{Life, Recall, Record},
};

/// Why a removed customer's messages are not answered.
pub(super) const CAUSE: &str = "its customer was removed";

/// Removes a customer of an app; `false` as long as something of theirs is in hand
/// or kept. The cache does not know whose
/// questions it answers, so what it keeps for the whole app is erased.
pub(super) async fn remove(parts: &Parts, app: &str, user: &UserId) -> Result<bool, ActorProcessingErr> {
    let mut conversations: HashSet<ConversationId> = parts.state.conversations_of(user).await?.into_iter().collect();
    conversations.extend(parts.directory.of_user(user));
    // Told first: what is given to them from now on is not answered.
    conversations.iter().for_each(|conversation| parts.directory.remove(conversation));
    let whose = Whose { user: user.clone(), conversations: conversations.iter().cloned().collect() };
    let Forgotten { deliveries: removed, in_hand } = parts.broker.forget(&whose).await?;
    // What nobody had seen yet, and what was on its way to its conversation just now.
    let waiting = removed.iter().filter(|delivery| delivery.job.kind.user() == Some(user));
    let others = waiting.map(|delivery| delivery.job.conversation.clone()).chain(parts.directory.of_user(user));
    for conversation in others {
        if conversations.insert(conversation.clone()) {
            parts.directory.remove(&conversation);
        }
    }
    discard(parts, removed).await?;
    for conversation in &conversations {
        parts.state.forget_conversation(conversation).await?;
    }
    let erased = parts.stack.cache().erase(Tenant::new(app)).await;
    if let Err(error) = &erased {
        tracing::warn!(%error, "the cache could not be erased for a removed customer; it is tried again");
    }
    Ok(in_hand == 0 && erased.is_ok())
}

async fn discard(parts: &Parts, removed: Vec<Delivery>) -> Result<(), ActorProcessingErr> {
    let now = parts.clock.now();
    let mut records = Vec::with_capacity(removed.len());
    let mut counted = HashSet::new();
    for delivery in &removed {
        // What was parked has been counted as ended already.
        let known =
            parts.state.recall(&delivery.job.conversation, &Life::of(&delivery.job, delivery.replay, true)).await?;
        if !matches!(known, Recall::Ended(_)) {
            counted.insert(delivery.job.id.clone());
        }
        records.push(discarded(&delivery.job, delivery.replay, CAUSE, now));
    }
    // Of one conversation at a time.
    records.sort_by(|one: &Record, other| one.conversation.cmp(&other.conversation));
    for of_one in records.chunk_by(|one, other| one.conversation == other.conversation) {
        parts.state.conclude(of_one.to_vec(), None, None).await?;
    }
    for delivery in removed {
        let job = delivery.job.clone();
        if counted.contains(&job.id) {
            parts.metrics.ended(delivery.lane, Outcome::Discarded, now.since(job.first_seen));
        }
        parts.in_hand.forget(job.message.as_str());
        delivery.ack().await?;
    }
    Ok(())
}

/// How a message ends that somebody has removed.
pub(super) fn discarded(job: &Job, replay: u32, cause: &str, now: Timestamp) -> Record {
    let mut timeline = Timeline::default();
    timeline.note(job.first_seen, Stage::accepted(job));
    timeline.note(now, Stage::Ended { outcome: Outcome::Discarded.as_str().into() });
    Record {
        id: job.id.clone(),
        message: job.message.clone(),
        conversation: job.conversation.clone(),
        replay,
        outcome: Outcome::Discarded,
        at: now,
        cause: Some(cause.into()),
        timeline,
        reply: None,
        text: None,
    }
}
