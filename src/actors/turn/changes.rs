//! Events that change a conversation: applied in its order, answered by nobody.

use std::sync::Arc;

use ractor::ActorProcessingErr;

use super::{Next, finish, prepare};
use crate::{
    actors::{Parts, conversation::State},
    domain::{
        control::{Control, Holder},
        job::Kind,
    },
};

/// Why a stored message is parked that this version cannot read.
pub(in crate::actors) const UNREADABLE: &str =
    "the stored message cannot be read; it was damaged or written by a newer version";

/// Whether what is in hand changes the conversation rather than asking something.
pub(super) fn is_change(state: &State) -> bool {
    prepare::jobs(state).first().is_some_and(|(job, ..)| job.kind.text().is_none())
}

/// Applies the change in hand.
pub(super) async fn apply(parts: &Arc<Parts>, state: &mut State) -> Result<Next, ActorProcessingErr> {
    let Some((job, ..)) = prepare::jobs(state).into_iter().next() else { return Ok(Next::Done) };
    match &job.kind {
        Kind::Control { failed: true, .. } => {
            parts.handoffs.confirmed(&job.conversation);
            parts.metrics.handed_off("failed");
            tracing::error!(conversation.id = %job.conversation, "Zendesk could not hand a conversation over; a customer may be waiting");
        }
        Kind::Control { holder, .. } => {
            parts.state.note_control(&job.conversation, Control { holder: *holder, at: job.received }).await?;
            if *holder == Holder::Other && parts.handoffs.confirmed(&job.conversation) {
                parts.metrics.handed_off("confirmed");
            }
            // Whoever held it has spoken.
            state.history = None;
        }
        Kind::Merge { discarded, surviving_user, .. } => {
            if let Some(discarded) = discarded.as_ref().filter(|it| **it != job.conversation) {
                parts.state.merge(discarded, &job.conversation).await?;
                parts.directory.follow(discarded, &job.conversation);
            }
            if let Some(user) = surviving_user {
                // What is kept under the old name is theirs as well.
                for conversation in discarded.iter().chain([&job.conversation]) {
                    parts.state.note_user(conversation, user, job.received).await?;
                }
                state.user = Some(user.clone());
            }
            state.history = None;
        }
        Kind::ConversationRemoved => {
            parts.state.forget_conversation(&job.conversation).await?;
            state.history = None;
            state.cell.lock().removed = true;
        }
        Kind::Unusable { .. } => return finish::give_up(parts, state, UNREADABLE).await,
        // The other kinds travel in the events lane.
        _ => {}
    }
    finish::applied(parts, state).await
}
