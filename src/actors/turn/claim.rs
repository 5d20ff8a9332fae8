//! Claims the conversation for a turn, and learns all there is to know with the same question.

use std::{sync::Arc, time::Duration};

use ractor::ActorProcessingErr;

use super::{gather::HEAD_SLACK, prepare};
use crate::{
    actors::{Parts, conversation::State, lease::Held},
    domain::{job::Job, timeline::Wait},
    state::{Claimed, Life, Ours, Recall, Remembered, Turn},
};

/// How often a conversation is asked for that another node works on.
const HELD_PAUSE: Duration = Duration::from_secs(1);

/// How claiming ended.
pub(super) enum Begun {
    /// It is ours; what is known of each message in hand.
    Ours(Vec<Recall>),
    /// A message that comes before these is being tried again: it is waited for.
    HeadIsAway,
    /// The node drains.
    Draining,
}

/// Claims the conversation, for as long as it takes.
pub(super) async fn claim(
    parts: &Parts,
    state: &mut State,
    jobs: &[(Arc<Job>, u32, bool)],
) -> Result<Begun, ActorProcessingErr> {
    let user = jobs.iter().find_map(|(job, ..)| job.kind.user().cloned());
    let user = user.filter(|user| state.user.as_ref() != Some(user));
    let lives = jobs.iter().map(|(job, replay, redelivered)| Life::of(job, *replay, *redelivered)).collect();
    let mut turn =
        Turn { conversation: state.cell.id.clone(), lives, user, recalled: state.recalled, now: parts.clock.now() };
    let mut waiting = false;
    loop {
        let asked = parts.clock.monotonic();
        match parts.state.claim(&turn).await? {
            Claimed::Ours(Ours { fence, inherited, remembered, recalls }) => {
                state.lease.set(Held { fence, inherited, confirmed: asked });
                let is_away = remembered.is_some_and(|remembered| remember(parts, state, remembered, jobs));
                state.user = turn.user.take().or(state.user.take());
                return Ok(if is_away { Begun::HeadIsAway } else { Begun::Ours(recalls) });
            }
            Claimed::Held { by } => {
                if !waiting {
                    tracing::info!(conversation.id = %state.cell.id, by, "another node works on a conversation");
                    waiting = true;
                }
                if prepare::wait(parts, state, Wait::Owner, HELD_PAUSE).await.is_none() {
                    return Ok(Begun::Draining);
                }
                turn.now = parts.clock.now();
            }
        }
    }
}

/// Takes over what is remembered; `true` when a head is away that was not heard of before.
fn remember(parts: &Parts, state: &mut State, remembered: Remembered, jobs: &[(Arc<Job>, u32, bool)]) -> bool {
    // Words are kept with an answer only.
    state.begins = remembered.history.is_some().then_some(false);
    state.history = remembered.history;
    state.user = remembered.user;
    let is_first = !std::mem::replace(&mut state.recalled, true);
    let mut inner = state.cell.lock();
    if inner.alias.is_none() {
        inner.alias = remembered.alias;
    }
    state.alias = inner.alias.clone();
    let waited_for = remembered.away.filter(|away| {
        let is_back = jobs.iter().any(|(job, ..)| job.message == away.head);
        is_first && !is_back && parts.clock.now() < away.until.after(HEAD_SLACK)
    });
    let is_away = waited_for.is_some();
    if is_away {
        inner.away = waited_for;
    }
    is_away
}

/// What the directory was told of a merge meanwhile.
pub(super) fn follow(state: &mut State) {
    if state.recalled {
        state.alias = state.cell.lock().alias.clone();
    }
}

/// Ends the claim, if there is one.
pub(super) async fn release(parts: &Parts, state: &State) {
    let Some(held) = state.lease.take() else { return };
    if let Err(error) = parts.state.release(&state.cell.id, Some(held.fence)).await {
        // The next turn of this node takes it over; another node does when this one has ended.
        tracing::warn!(%error, conversation.id = %state.cell.id, "a claim could not be released");
    }
}
