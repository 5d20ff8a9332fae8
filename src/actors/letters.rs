//! What operators do with dead and parked letters: a new life, or the end.
//!
//! Written down first, done then (G1): whenever the process dies, the letter is still there and can be asked for again.

use super::{Parts, removal, turn};
use crate::{
    broker::{self, Letter, Standing, letters::Held},
    domain::{
        job::Job,
        timeline::{Outcome, Stage, Timeline},
    },
    state::{self, Life, Recall},
};

/// Why a discarded message ended.
const DISCARDED: &str = "an operator discarded it";

/// Why nothing was done with a letter.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    /// There is none of that id.
    #[error("there is no letter of this id")]
    Unknown,
    /// The queue would not.
    #[error(transparent)]
    Queue(#[from] broker::Error),
    /// The state could not be asked or told.
    #[error(transparent)]
    State(#[from] state::Error),
}

/// Gives a letter a new life; returns which it is.
pub async fn replay(parts: &Parts, id: &str) -> Result<u32, LetterError> {
    let held = hold(parts, id).await?;
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
    let held = hold(parts, id).await?;
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
    let mut record = removal::discarded(&job, replay, DISCARDED, now);
    record.timeline = story(parts, &job).await?;
    record.timeline.note(now, Stage::Ended { outcome: Outcome::Discarded.as_str().into() });
    parts.state.conclude(vec![record], None, None).await?;
    parts.in_hand.forget(job.message.as_str());
    held.discard().await?;
    if let Some(lane) = lane.filter(|_| !is_counted) {
        parts.metrics.ended(lane, Outcome::Discarded, now.since(job.first_seen));
    }
    if standing == Standing::Dead {
        turn::back(parts, &job.conversation).await;
    }
    tracing::info!(job.id = %job.id, conversation.id = %job.conversation, "an operator discarded a message");
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
        story.note(job.first_seen, Stage::Accepted);
        story
    }))
}
