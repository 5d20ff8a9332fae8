//! What operators do with dead and parked letters: a new life, or the end.
//!
//! Written down first, done then (G1): whenever the process dies, the letter is still there and can be asked for again.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{Parts, farewell, holder::holder, removal, turn};
use crate::{
    broker::{self, Letter, Standing, letters::Held},
    domain::{
        job::Job,
        timeline::{Outcome, Stage, Timeline},
    },
    state::{self, Life, Recall, Record},
};

/// Why a discarded message ended.
const DISCARDED: &str = "an operator discarded it";

/// Why one was handed over.
const HANDED_OVER: &str = "an operator handed it to a human";

/// An operator waits for Zendesk's answer to a hand-over so long.
const PASSES_WITHIN: Duration = Duration::from_secs(30);

/// Why nothing was done with a letter.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    /// There is none of that id.
    #[error("there is no letter of this id")]
    Unknown,
    /// The queue would not.
    #[error(transparent)]
    Queue(#[from] broker::Error),
    /// Zendesk would not.
    #[error("{0}")]
    Refused(String),
    /// The state could not be asked or told.
    #[error(transparent)]
    State(#[from] state::Error),
}

/// Gives a letter a new life; returns which it is.
pub async fn replay(parts: &Parts, id: &str) -> Result<u32, LetterError> {
    replay_held(parts, hold(parts, id).await?).await
}

/// The same for one in hand.
pub(super) async fn replay_held(parts: &Parts, held: Held) -> Result<u32, LetterError> {
    let Some(job) = held.letter.job().filter(|_| held.letter.can_be_replayed()).cloned() else {
        return Err(broker::Error::Unreplayable.into());
    };
    let replay = held.letter.replay + 1;
    let mut story = story(parts, &job).await?;
    story.note(parts.clock.now(), Stage::Replayed { replay });
    parts.state.note_story(&job, replay, &story).await?;
    // What killed the process in its last life is tried again from the beginning.
    parts.in_hand.forget(job.message.as_str());
    let was_dead = held.letter.standing == Standing::Dead;
    held.replay().await?;
    if was_dead {
        turn::back(parts, &job.conversation).await;
    }
    tracing::info!(job.id = %job.id, conversation.id = %job.conversation, replay, "an operator replays a message");
    Ok(replay)
}

/// Removes a letter for good.
pub async fn discard(parts: &Parts, id: &str) -> Result<(), LetterError> {
    discard_held(parts, hold(parts, id).await?).await
}

/// The same for one in hand.
pub(super) async fn discard_held(parts: &Parts, held: Held) -> Result<(), LetterError> {
    end_held(parts, held, Outcome::Discarded, DISCARDED).await
}

/// Hands the conversation of a letter in hand to a human, and ends it with that. What Zendesk refuses stays.
pub(super) async fn hand_over_held(parts: &Arc<Parts>, held: Held) -> Result<(), LetterError> {
    let Some(job) = held.letter.job().cloned() else { return Err(broker::Error::Unreplayable.into()) };
    let alias = parts.state.remembered(&job.conversation).await?.alias;
    let target = alias.as_ref().unwrap_or(&job.conversation);
    let holder = holder(parts, job.app.as_deref(), target).await;
    let is_with_human = holder.is_ok_and(|holder| !holder.lets_us_answer());
    if !is_with_human {
        let passing = farewell::pass_control(parts, &job, alias, HANDED_OVER);
        match timeout(PASSES_WITHIN, passing).await {
            Ok(farewell::Passed::Over) => {}
            Ok(farewell::Passed::Refused(why)) => return Err(LetterError::Refused(why)),
            Ok(farewell::Passed::Draining) => return Err(LetterError::Refused("the node ends".into())),
            Err(_) => return Err(LetterError::Refused("Zendesk does not answer".into())),
        }
    }
    end_held(parts, held, Outcome::HandedOver, HANDED_OVER).await
}

/// Records how a letter in hand ends, then removes it.
async fn end_held(parts: &Parts, held: Held, outcome: Outcome, cause: &str) -> Result<(), LetterError> {
    let Some(job) = held.letter.job().cloned() else {
        held.discard().await?;
        tracing::info!("an operator discarded a message that is none of Tidegate's");
        return Ok(());
    };
    let Letter { lane, standing, replay, .. } = held.letter;
    let now = parts.clock.now();
    // What was parked has been counted as ended already.
    let known = parts.state.recall(&job.conversation, &Life::of(&job, replay, true)).await?;
    let is_counted = matches!(known, Recall::Ended(_));
    let mut record = Record { outcome, ..removal::discarded(&job, replay, cause, now) };
    record.timeline = story(parts, &job).await?;
    record.timeline.note(now, Stage::Ended { outcome: outcome.as_str().into() });
    parts.state.conclude(vec![record], None, None).await?;
    parts.in_hand.forget(job.message.as_str());
    held.discard().await?;
    if let Some(lane) = lane.filter(|_| !is_counted) {
        parts.metrics.ended(lane, outcome, now.since(job.first_seen));
    }
    if standing == Standing::Dead {
        turn::back(parts, &job.conversation).await;
    }
    tracing::info!(job.id = %job.id, conversation.id = %job.conversation, outcome = outcome.as_str(), "an operator ended a message");
    Ok(())
}

async fn hold(parts: &Parts, id: &str) -> Result<Held, LetterError> {
    parts.letters.hold(id).await?.ok_or(LetterError::Unknown)
}

/// What has befallen a message so far.
async fn story(parts: &Parts, job: &Job) -> Result<Timeline, state::Error> {
    if let Some(record) = parts.state.record(job.message.as_str()).await? {
        return Ok(record.timeline);
    }
    let kept = parts.state.story(job.message.as_str()).await?;
    Ok(kept.unwrap_or_else(|| {
        let mut story = Timeline::default();
        story.note(job.first_seen, Stage::accepted(job));
        story
    }))
}
