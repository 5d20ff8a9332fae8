//! One turn of a conversation: a burst from the inbox to its end.
//!
//! ```text
//! gather -> take in hand -> claim -> prepare (crashes, ledger, holder, deadline) -> ask
//!        -> last look -> intent -> post -> conclude, which ends the claim
//! ```
//! Whatever waits, waits here, in place: the message stays unacknowledged, so that a crash loses nothing.

mod ask;
mod changes;
mod claim;
mod finish;
mod gather;
mod prepare;

pub(super) use changes::UNREADABLE;
pub(super) use finish::{back, bury, park};
pub(super) use prepare::is_too_old;

use std::{sync::Arc, time::Duration};

use ractor::ActorProcessingErr;

use super::{
    Parts,
    conversation::State,
    hand::{Item, Phase},
    patience::STORE_PAUSE,
    posting, story, traced,
};
use crate::{
    domain::{
        job::Job,
        reply::Reply,
        time::millis,
        timeline::{Stage, Wait},
    },
    state::Claim,
};

/// How a turn goes on.
enum Next {
    /// The burst is done with, one way or another.
    Done,
    /// A newer message has come, and the burst joins it; or an earlier one, which is answered first (G3).
    Superseded,
    /// What is in hand goes back, and is looked at again.
    Again,
    /// The node drains: what is in hand goes back unspent.
    HandBack,
}

/// Works off one burst; `false` when there is nothing to do now. An error means that the actor is broken.
pub(super) async fn turn(parts: &Arc<Parts>, state: &mut State) -> Result<bool, ActorProcessingErr> {
    let more = rounds(parts, state).await;
    // What has been concluded was released with that.
    claim::release(parts, state).await;
    more
}

async fn rounds(parts: &Arc<Parts>, state: &mut State) -> Result<bool, ActorProcessingErr> {
    claim::follow(state);
    let mut superseded = false;
    loop {
        if !gather::gather(parts, state).await {
            return Ok(false);
        }
        let span = traced::attempt(parts, state);
        let next = match span.over(begin(parts, state, superseded)).await {
            Ok(next) => next,
            Err(error) if matches!(error.downcast_ref(), Some(crate::state::Error::Fenced)) => {
                span.fail("fenced");
                tracing::warn!(%error, conversation.id = %state.cell.id, "what was done with a message is looked up again");
                put_back(parts, state, |_| ());
                return Ok(!parts.draining.is_cancelled());
            }
            // The store is in trouble, not the message and not the actor.
            Err(error) if error.is::<crate::state::Error>() || error.is::<crate::broker::Error>() => {
                span.fail("store");
                tracing::error!(%error, conversation.id = %state.cell.id, "a conversation waits for its store");
                let drained = prepare::wait(parts, state, Wait::Store, STORE_PAUSE).await.is_none();
                put_back(parts, state, |_| ());
                return Ok(!drained);
            }
            Err(error) => return Err(error),
        };
        match next {
            Next::Done => {
                forget_if_removed(parts, state).await;
                return Ok(true);
            }
            Next::Superseded => {
                superseded = true;
                let worked = worked(state, parts);
                put_back(parts, state, |items| {
                    for item in items {
                        item.superseded = true;
                        item.worked = worked;
                        item.timeline.note(parts.clock.now(), Stage::Superseded);
                    }
                });
            }
            Next::Again => {
                put_back(parts, state, |_| ());
                claim::release(parts, state).await;
            }
            Next::HandBack => {
                put_back(parts, state, |_| ());
                return Ok(false);
            }
        }
    }
}

/// Takes up what is in hand.
async fn begin(parts: &Arc<Parts>, state: &mut State, superseded: bool) -> Result<Next, ActorProcessingErr> {
    story::recall_in_hand(parts, state).await;
    parts.faults.strike(parts, state).await?;
    work(parts, state, superseded).await
}

/// Forgets what a removed conversation has left behind since it was removed.
async fn forget_if_removed(parts: &Parts, state: &mut State) {
    if !state.cell.lock().removed {
        return;
    }
    state.history = None;
    if let Err(error) = parts.state.forget_conversation(&state.cell.id).await {
        // It is thrown away by its age.
        tracing::error!(%error, conversation.id = %state.cell.id, "a removed conversation could not be forgotten once more");
    }
}

fn put_back(parts: &Parts, state: &State, change: impl FnOnce(&mut [Item])) {
    let mut inner = state.cell.lock();
    if !inner.is_current(state.generation) {
        return;
    }
    if let Some(mut hand) = inner.hand.take() {
        hand.enter(Phase::Preparing, parts.clock.monotonic(), parts.clock.now());
        change(&mut hand.items);
        inner.put_back(hand.items.into_iter().map(Item::touched));
    }
}

/// Does what is to be done with the burst in hand.
async fn work(parts: &Arc<Parts>, state: &mut State, superseded: bool) -> Result<Next, ActorProcessingErr> {
    if changes::is_change(state) {
        return changes::apply(parts, state).await;
    }
    match prepare::prepare(parts, state).await? {
        prepare::Prepared::Ask { unproven } => answer(parts, state, superseded, &unproven).await,
        prepare::Prepared::Resume(reply) => post(parts, state, reply, posting::Knowledge::Unknown).await,
        prepare::Prepared::Over(next) => Ok(next),
    }
}

/// Asks for an answer and posts it, unless the last look forbids it.
async fn answer(
    parts: &Arc<Parts>,
    state: &mut State,
    superseded: bool,
    unproven: &[(Arc<Job>, u32)],
) -> Result<Next, ActorProcessingErr> {
    let answer = match ask::ask(parts, state).await? {
        ask::Asked::Answer(answer) => answer,
        ask::Asked::Over(next) => return Ok(next),
    };
    set_phase(state, parts, Phase::Look);
    if let Some(next) = prepare::last_look(parts, state, superseded).await? {
        return Ok(next);
    }
    if answer.handoff {
        return finish::hand_over(parts, state, "the model asked for a human", Some(&answer.text)).await;
    }
    if let Some(next) = prepare::look_again(parts, state, unproven).await? {
        return Ok(next);
    }
    let reply = finish::reply(parts, state, &answer.text);
    parts.faults.kill_point(super::KillPoint::BeforeIntent);
    match intend(parts, state, &reply, superseded).await? {
        Meant::Ours => {}
        Meant::Over(next) => return Ok(next),
    }
    parts.faults.kill_point(super::KillPoint::AfterIntent);
    note(state, parts, &Stage::Intended);
    post(parts, state, reply, posting::Knowledge::NothingPosted).await
}

/// Whether the reply may be posted.
enum Meant {
    Ours,
    Over(Next),
}

/// Enters the reply into the ledger, for as long as it takes: the answer is kept meanwhile, and the AI not asked again.
async fn intend(
    parts: &Arc<Parts>,
    state: &mut State,
    reply: &Reply,
    superseded: bool,
) -> Result<Meant, ActorProcessingErr> {
    loop {
        let asked = parts.clock.monotonic();
        match parts.state.intend(reply, state.lease.fence()).await {
            Ok(Claim::Ours) => {
                state.lease.confirm(asked);
                return Ok(Meant::Ours);
            }
            Ok(Claim::Human(_)) => {
                return finish::ignored(parts, state, "a human took over").await.map(Meant::Over);
            }
            Ok(Claim::Lost) => return Ok(Meant::Over(Next::Again)),
            // Another reply covers one of them: look again, and post that.
            Ok(Claim::Taken(_)) => return Ok(Meant::Over(Next::Superseded)),
            Err(error) => {
                tracing::error!(%error, conversation.id = %state.cell.id, "a reply waits for the state");
                if prepare::wait(parts, state, Wait::Store, STORE_PAUSE).await.is_none() {
                    return Ok(Meant::Over(Next::HandBack));
                }
                if let Some(next) = prepare::last_look(parts, state, superseded).await? {
                    return Ok(Meant::Over(next));
                }
            }
        }
    }
}

async fn post(
    parts: &Arc<Parts>,
    state: &mut State,
    reply: Reply,
    known: posting::Knowledge,
) -> Result<Next, ActorProcessingErr> {
    set_phase(state, parts, Phase::Post);
    let poster = posting::Poster::of_conversation(parts, state);
    match poster.post(&reply, known).await {
        Ok(posting::Posted { parts: count, took, found }) => {
            if found > 0 {
                note(state, parts, &Stage::LookedFor { found });
            }
            let posted = Stage::Posted { parts: count, ms: millis(took) };
            note(state, parts, if parts.chat.shadow { &Stage::Recorded } else { &posted });
            parts.faults.kill_point(super::KillPoint::AfterPost);
            finish::replied(parts, state, &reply).await
        }
        Err(posting::Error::NotOurs) => {
            parts.state.revoke(&reply).await?;
            finish::ignored(parts, state, "a human holds the conversation").await
        }
        Err(posting::Error::Preceded) => {
            parts.state.revoke(&reply).await?;
            Ok(Next::Superseded)
        }
        Err(posting::Error::Expired) => {
            parts.state.revoke(&reply).await?;
            finish::hand_over(parts, state, "the deadline has passed", None).await
        }
        Err(posting::Error::Muted(mute)) => {
            parts.state.revoke(&reply).await?;
            finish::muted(parts, state, &mute).await
        }
        Err(posting::Error::Lost) => Ok(Next::Again),
        Err(posting::Error::Draining | posting::Error::Outlived) => Ok(Next::HandBack),
        Err(posting::Error::Refused(cause)) => finish::give_up(parts, state, &cause).await,
    }
}

/// Says what is being done with what is in hand.
fn set_phase(state: &State, parts: &Parts, phase: Phase) {
    let mut inner = state.cell.lock();
    if let (true, Some(hand)) = (inner.is_current(state.generation), &mut inner.hand) {
        hand.enter(phase, parts.clock.monotonic(), parts.clock.now());
    }
}

/// The time spent in timed phases on what is in hand.
fn worked(state: &State, parts: &Parts) -> Duration {
    state.cell.lock().hand.as_ref().map(|hand| hand.worked(parts.clock.monotonic())).unwrap_or_default()
}

/// Notes a stage in the story of each message in hand.
fn note(state: &State, parts: &Parts, stage: &Stage) {
    let now = parts.clock.now();
    let mut inner = state.cell.lock();
    if let (true, Some(hand)) = (inner.is_current(state.generation), &mut inner.hand) {
        hand.note(now, stage);
    }
}
