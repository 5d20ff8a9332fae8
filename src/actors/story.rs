//! The story of a message over several tries (G10). It travels with the message in memory; only a message that fails
//! has it written down, so that the next try goes on with it, also in another process.

use super::{Parts, conversation::State, hand::Item};
use crate::domain::timeline::Stage;

/// Looks up what befell a message in earlier tries. Without an answer it is looked up again later.
pub(super) async fn recall(parts: &Parts, item: &mut Item) {
    if item.is_story_known {
        return;
    }
    match parts.state.story(item.delivery.job.message.as_str()).await {
        Ok(earlier) => item.go_on(earlier.unwrap_or_default()),
        Err(error) => tracing::warn!(%error, job.id = %item.delivery.job.id, "the story of a message is not known"),
    }
}

/// The same for what is in hand.
pub(super) async fn recall_in_hand(parts: &Parts, state: &State) {
    let unknown: Vec<String> = {
        let inner = state.cell.lock();
        let items = inner.hand.iter().flat_map(|hand| &hand.items);
        items.filter(|item| !item.is_story_known).map(|item| item.delivery.job.message.to_string()).collect()
    };
    for message in unknown {
        let Ok(earlier) = parts.state.story(&message).await else { continue };
        let mut inner = state.cell.lock();
        let mut items = inner.hand.iter_mut().flat_map(|hand| &mut hand.items);
        if let Some(item) = items.find(|item| item.delivery.job.message.as_str() == message) {
            item.go_on(earlier.unwrap_or_default());
        }
    }
}

/// Writes down the story of a message that has failed.
pub(super) async fn failed(parts: &Parts, item: &mut Item, cause: &str) {
    recall(parts, item).await;
    item.timeline.note(parts.clock.now(), Stage::Failed { cause: cause.to_owned() });
    // What could not be looked up is not written over.
    if !item.is_story_known {
        return;
    }
    let job = &item.delivery.job;
    if let Err(error) = parts.state.note_story(job, item.delivery.replay, &item.timeline).await {
        tracing::warn!(%error, job.id = %job.id, "the story of a message could not be kept");
    }
}
