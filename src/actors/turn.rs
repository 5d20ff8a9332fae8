//! One turn of a conversation: a burst from the inbox to its end.
//!
//! ```text
//! gather -> take in hand -> prepare (crashes, ledger, holder, deadline) -> ask -> last look -> intent -> post -> conclude
//! ```
//! Whatever waits, waits here, in place: the message stays unacknowledged, so that a crash loses nothing.

mod ask;
mod changes;
mod finish;
mod prepare;

pub(super) use changes::UNREADABLE;
pub(super) use finish::{bury, park};

use std::{sync::Arc, time::Duration};

use ractor::ActorProcessingErr;

use super::{
    Parts,
    conversation::State,
    inbox::{Inner, Item, Phase},
    posting,
};
use crate::domain::{
    burst::{Gather, Merging, gather},
    reply::Reply,
    timeline::{Stage, Wait},
};

/// A head that has not come back this long after it was expected is not waited for any longer; it comes late then.
const HEAD_SLACK: Duration = Duration::from_secs(30);

/// The pause after the state or the queue could not be written.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// How a turn goes on.
enum Next {
    /// The burst is done with, one way or another.
    Done,
    /// A newer message has come, and the burst joins it; or an earlier one, which is answered first (G3).
    Superseded,
    /// The node drains: what is in hand goes back unspent.
    HandBack,
}

/// What there is to do.
enum Waiting {
    Nothing,
    Ready,
    /// Look again then (monotonic), or when something arrives.
    Until(Duration),
}

/// Works off one burst; `false` when there is nothing to do now. An error means that the actor is broken.
pub(super) async fn turn(parts: &Arc<Parts>, state: &mut State) -> Result<bool, ActorProcessingErr> {
    prepare::recall_conversation(parts, state).await;
    let mut superseded = false;
    loop {
        if !gather_burst(parts, state).await {
            return Ok(false);
        }
        parts.faults.strike(parts, state).await?;
        let next = match work(parts, state, superseded).await {
            Ok(next) => next,
            // The store is in trouble, not the message and not the actor.
            Err(error) if error.is::<crate::state::Error>() || error.is::<crate::broker::Error>() => {
                tracing::error!(%error, conversation.id = %state.cell.id, "a conversation waits for its store");
                let drained = prepare::wait(parts, state, Wait::Zendesk, STORE_PAUSE).await.is_none();
                put_back(state, |_| ());
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
                put_back(state, |items| {
                    for item in items {
                        item.superseded = true;
                        item.timeline.note(parts.clock.now(), Stage::Superseded);
                    }
                });
            }
            Next::HandBack => {
                put_back(state, |_| ());
                return Ok(false);
            }
        }
    }
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

/// Waits until a burst is complete and takes it in hand; `false` when there is nothing to take.
async fn gather_burst(parts: &Parts, state: &State) -> bool {
    let began = parts.clock.monotonic();
    loop {
        let arrived = state.cell.arrived.notified();
        let waiting = {
            let mut inner = state.cell.lock();
            // Looked at under the lock, so that one who drains and sees no hand can rely on it.
            if !inner.is_current(state.generation) || parts.draining.is_cancelled() {
                return false;
            }
            let waiting = look_into(parts, &inner);
            if let Waiting::Ready = waiting {
                let count = ready_count(parts, &inner);
                inner.take(count, parts.clock.monotonic());
                note_gathering(parts, &mut inner, began);
            }
            waiting
        };
        match waiting {
            Waiting::Nothing => return false,
            Waiting::Ready => return true,
            Waiting::Until(until) => {
                tokio::select! {
                    () = parts.draining.cancelled() => return false,
                    () = tokio::time::sleep_until(parts.clock.instant(until)) => {}
                    () = arrived => {}
                }
            }
        }
    }
}

fn merging(parts: &Parts) -> Merging {
    Merging { quiet: parts.chat.merge_quiet, cap: parts.chat.merge_cap }
}

fn look_into(parts: &Parts, inner: &Inner) -> Waiting {
    if inner.inbox.is_empty() {
        return Waiting::Nothing;
    }
    let now = parts.clock.now();
    if let Some(away) = &inner.away {
        let given_up_at = away.until.after(HEAD_SLACK);
        let is_back = inner.inbox.iter().any(|item| item.delivery.job.message == away.head);
        if !is_back && now < given_up_at {
            return Waiting::Until(parts.clock.monotonic() + given_up_at.since(now));
        }
    }
    match gather(&inner.fragments(), now, merging(parts)) {
        Gather::Take(_) => Waiting::Ready,
        Gather::Until(until) => Waiting::Until(parts.clock.monotonic() + until.since(now)),
    }
}

fn ready_count(parts: &Parts, inner: &Inner) -> usize {
    match gather(&inner.fragments(), parts.clock.now(), merging(parts)) {
        Gather::Take(count) => count,
        Gather::Until(_) => 1,
    }
}

fn note_gathering(parts: &Parts, inner: &mut Inner, began: Duration) {
    inner.away = None;
    let now = parts.clock.now();
    let waited = parts.clock.monotonic().saturating_sub(began).as_millis();
    let Some(hand) = &mut inner.hand else { return };
    let fragments = hand.items.len();
    for item in &mut hand.items {
        if waited > 0 {
            item.timeline.note(now, Stage::Waited { on: Wait::Merge, ms: u64::try_from(waited).unwrap_or(u64::MAX) });
        }
        if fragments > 1 {
            item.timeline.note(now, Stage::Merged { fragments });
        }
    }
}

fn put_back(state: &State, change: impl FnOnce(&mut [Item])) {
    let mut inner = state.cell.lock();
    if !inner.is_current(state.generation) {
        return;
    }
    if let Some(mut hand) = inner.hand.take() {
        change(&mut hand.items);
        inner.put_back(hand.items.into_iter().map(Item::touched));
    }
}

/// Does what is to be done with the burst in hand.
async fn work(parts: &Arc<Parts>, state: &mut State, superseded: bool) -> Result<Next, ActorProcessingErr> {
    if changes::is_change(state) {
        return changes::apply(parts, state).await;
    }
    let resume = match prepare::prepare(parts, state).await? {
        prepare::Prepared::Ask => None,
        prepare::Prepared::Resume(reply) => Some(reply),
        prepare::Prepared::Over(next) => return Ok(next),
    };
    match resume {
        Some(reply) => post(parts, state, reply, posting::Knowledge::Unknown).await,
        None => answer(parts, state, superseded).await,
    }
}

/// Asks for an answer and posts it, unless the last look forbids it.
async fn answer(parts: &Arc<Parts>, state: &mut State, superseded: bool) -> Result<Next, ActorProcessingErr> {
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
    let reply = finish::reply(parts, state, &answer.text);
    parts.faults.kill_point(super::KillPoint::BeforeIntent);
    match parts.state.intend(&reply).await? {
        crate::state::Claim::Ours => {}
        // Another reply covers one of them: look again, and post that.
        crate::state::Claim::Taken(_) => return Ok(Next::Superseded),
    }
    parts.faults.kill_point(super::KillPoint::AfterIntent);
    note(state, parts, &Stage::Intended);
    post(parts, state, reply, posting::Knowledge::NothingPosted).await
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
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            note(state, parts, &Stage::Posted { parts: count, ms });
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
        Err(posting::Error::Draining) => Ok(Next::HandBack),
        Err(posting::Error::Refused(cause)) => finish::give_up(parts, state, &cause).await,
    }
}

/// Says what is being done with what is in hand.
fn set_phase(state: &State, parts: &Parts, phase: Phase) {
    let now = parts.clock.monotonic();
    let mut inner = state.cell.lock();
    if let (true, Some(hand)) = (inner.is_current(state.generation), &mut inner.hand) {
        hand.phase = phase;
        hand.since = now;
    }
}

/// Notes a stage in the story of each message in hand.
fn note(state: &State, parts: &Parts, stage: &Stage) {
    let now = parts.clock.now();
    let mut inner = state.cell.lock();
    if let (true, Some(hand)) = (inner.is_current(state.generation), &mut inner.hand) {
        hand.items.iter_mut().for_each(|item| item.timeline.note(now, stage.clone()));
    }
}
