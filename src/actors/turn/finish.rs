//! The ends of a burst. Each message ends in exactly one recorded way (G1): recorded first, then acknowledged.

use std::{collections::HashSet, sync::Arc};

use ractor::ActorProcessingErr;

use super::{Next, prepare};
use crate::{
    actors::{
        KillPoint, Parts,
        conversation::State,
        farewell,
        inbox::{Hand, Item, Phase},
        removal,
        roster::LastFailure,
    },
    domain::{
        ids::MessageId,
        prompt::Role,
        reply::{PARTS_MAX, Purpose, Reply, split},
        timeline::{Outcome, Stage, Wait},
    },
    state::{Away, Record},
};

type Ended = Result<Next, ActorProcessingErr>;

/// The reply to what is in hand.
pub(super) fn reply(parts: &Parts, state: &State, text: &str) -> Reply {
    let texts = split(text);
    debug_assert!(texts.len() <= PARTS_MAX);
    let replay = prepare::jobs(state).first().map_or(0, |(_, replay, _)| *replay);
    Reply {
        conversation: state.cell.id.clone(),
        covers: prepare::message_ids(state),
        purpose: Purpose::Answer,
        parts: texts,
        replay,
        at: parts.clock.now(),
    }
}

/// Takes what is in hand, if this incarnation still counts.
fn take_hand(parts: &Parts, state: &State) -> Option<Hand> {
    let mut inner = state.cell.lock();
    if !inner.is_current(state.generation) {
        return None;
    }
    inner.active(parts.clock.monotonic());
    inner.hand.take()
}

/// Takes the head; the others go back and will run by themselves.
fn take_head(state: &State) -> Option<Item> {
    let mut inner = state.cell.lock();
    if !inner.is_current(state.generation) {
        return None;
    }
    let mut items = inner.hand.take()?.items.into_iter();
    let head = items.next();
    inner.put_back(items.map(|item| Item { alone: true, ..item.touched() }));
    head
}

/// The reply has been posted.
pub(super) async fn replied(parts: &Arc<Parts>, state: &mut State, reply: &Reply) -> Ended {
    let whose_is_known = prepare::note_user(parts, state).await;
    let Some(hand) = take_hand(parts, state) else { return Ok(Next::Done) };
    let covered: HashSet<&MessageId> = reply.covers.iter().collect();
    let (items, others): (Vec<Item>, Vec<Item>) =
        hand.items.into_iter().partition(|item| covered.contains(&item.delivery.job.message));
    let mut history = state.history.take().unwrap_or_default();
    let keep = parts.chat.history;
    for item in &items {
        if let Some(text) = item.kind().text() {
            history.add(Role::User, text, keep);
        }
    }
    history.add(Role::Assistant, &reply.text(), keep);
    {
        let mut inner = state.cell.lock();
        inner.put_back(others);
        inner.crashes_in_a_row = 0;
    }
    let late = note_answered(state, &items);
    let key = reply.key();
    let outcomes = items.into_iter().enumerate().map(|(index, mut item)| {
        if late {
            item.timeline.note(parts.clock.now(), Stage::Late);
        }
        (item, if index == 0 { Outcome::Replied } else { Outcome::Merged })
    });
    let outcomes: Vec<_> = outcomes.collect();
    state.history = Some(history.clone());
    // Without knowing the customer the words could not be forgotten with them.
    let said = whose_is_known.then_some(history);
    conclude(parts, outcomes, None, Some(&key), said).await?;
    Ok(Next::Done)
}

/// Remembers the newest message answered; `true` when these are older than one answered before.
fn note_answered(state: &State, items: &[Item]) -> bool {
    let Some(newest) = items.iter().map(|item| item.delivery.job.order()).max() else { return false };
    let mut inner = state.cell.lock();
    let late = inner.answered.is_some_and(|answered| answered > newest);
    inner.answered = inner.answered.max(Some(newest));
    late
}

/// Records how messages ended, then acknowledges them.
async fn conclude(
    parts: &Parts,
    items: Vec<(Item, Outcome)>,
    cause: Option<&str>,
    reply: Option<&str>,
    said: Option<crate::domain::prompt::History>,
) -> Result<(), ActorProcessingErr> {
    let now = parts.clock.now();
    let records = items.iter().map(|(item, outcome)| record(item, *outcome, now, cause, reply)).collect();
    parts.state.conclude(records, said).await?;
    parts.faults.kill_point(KillPoint::BeforeAck);
    for (item, outcome) in items {
        let job = item.delivery.job.clone();
        parts.metrics.ended(item.delivery.lane, outcome, now.since(job.first_seen));
        parts.in_hand.forget(job.message.as_str());
        settled(parts, &job, 1, None);
        let was_away = item.delivery.tries > 0;
        item.delivery.ack().await?;
        if was_away {
            parts.state.note_away(&job.conversation, None).await?;
        }
    }
    Ok(())
}

fn record(
    item: &Item,
    outcome: Outcome,
    now: crate::domain::time::Timestamp,
    cause: Option<&str>,
    reply: Option<&str>,
) -> Record {
    let job = &item.delivery.job;
    let mut timeline = item.timeline.clone();
    timeline.note(now, Stage::Ended { outcome: outcome.as_str().into() });
    Record {
        id: job.id.clone(),
        message: job.message.clone(),
        conversation: job.conversation.clone(),
        outcome,
        at: now,
        cause: cause.map(str::to_owned),
        timeline,
        reply: reply.map(str::to_owned),
        text: None,
    }
}

/// Counts on the conversation's card.
fn settled(parts: &Parts, job: &crate::domain::job::Job, count: usize, failure: Option<&str>) {
    if let Some(cell) = parts.directory.find(&job.conversation) {
        let failure = failure.map(|reason| LastFailure { at: parts.clock.now(), reason: reason.to_owned() });
        cell.lock().count(count, failure);
    }
}

/// Nobody is to be answered.
pub(super) async fn ignored(parts: &Parts, state: &mut State, cause: &str) -> Ended {
    // A human speaks: what we know of the conversation's words is out of date.
    state.history = None;
    end_all(parts, state, Outcome::Ignored, Some(cause)).await
}

/// A change has been applied.
pub(super) async fn applied(parts: &Parts, state: &State) -> Ended {
    end_all(parts, state, Outcome::Applied, None).await
}

async fn end_all(parts: &Parts, state: &State, outcome: Outcome, cause: Option<&str>) -> Ended {
    let Some(hand) = take_hand(parts, state) else { return Ok(Next::Done) };
    let items = hand.items.into_iter().map(|item| (item, outcome)).collect();
    conclude(parts, items, cause, None, None).await?;
    Ok(Next::Done)
}

/// A message had ended before; its copy goes, the others are looked at again.
pub(super) async fn ended_before(parts: &Parts, state: &State, message: &MessageId, outcome: Outcome) -> Ended {
    let Some(hand) = take_hand(parts, state) else { return Ok(Next::Done) };
    let (copies, others): (Vec<Item>, Vec<Item>) =
        hand.items.into_iter().partition(|item| item.delivery.job.message == *message);
    state.cell.lock().put_back(others);
    for copy in copies {
        tracing::debug!(job.id = %copy.delivery.job.id, before = outcome.as_str(), "a message had ended before");
        parts.metrics.ended(copy.delivery.lane, Outcome::Duplicate, std::time::Duration::ZERO);
        parts.in_hand.forget(message.as_str());
        settled(parts, &copy.delivery.job, 1, None);
        copy.delivery.ack().await?;
    }
    Ok(Next::Done)
}

/// The conversation goes to a human; `text` is said before.
pub(super) async fn hand_over(parts: &Arc<Parts>, state: &State, cause: &str, text: Option<&str>) -> Ended {
    let Some((head, ..)) = prepare::jobs(state).into_iter().next() else { return Ok(Next::Done) };
    let words = text.unwrap_or(&parts.chat.failure_message);
    super::set_phase(state, parts, Phase::Waiting(Wait::Zendesk, None));
    farewell::tell(parts, &head, state.alias.clone(), Purpose::Handoff, words).await;
    let passed = farewell::pass_control(parts, &head, state.alias.clone(), cause).await;
    if !passed && parts.draining.is_cancelled() {
        return Ok(Next::HandBack);
    }
    super::note(state, parts, &Stage::HandedOver);
    end_all(parts, state, Outcome::HandedOver, Some(cause)).await
}

/// The head failed and is itself the cause: to the dead letters, a try is spent.
pub(super) async fn failed(parts: &Parts, state: &State, cause: &str) -> Ended {
    if let Some(head) = take_head(state) {
        bury(parts, head, cause).await?;
    }
    Ok(Next::Done)
}

/// Sends a message to the dead letters; its followers wait for its return.
pub(in crate::actors) async fn bury(parts: &Parts, item: Item, cause: &str) -> Result<(), ActorProcessingErr> {
    let job = item.delivery.job.clone();
    let tries = item.delivery.tries + 1;
    parts.metrics.buried(item.delivery.lane, cause);
    let expected = parts.retry.pause(tries, 1.0).unwrap_or_default();
    let away = Away { head: job.message.clone(), until: parts.clock.now().after(expected) };
    if let Some(cell) = parts.directory.find(&job.conversation) {
        cell.lock().away = Some(away.clone());
    }
    if let Err(error) = parts.state.note_away(&job.conversation, Some(away)).await {
        // Costs order at worst, never a message.
        tracing::warn!(%error, "that a head is away could not be noted");
    }
    settled(parts, &job, 1, Some(cause));
    item.delivery.bury(cause).await?;
    Ok(())
}

/// The head is given up at once: told, handed over, parked.
pub(super) async fn give_up(parts: &Arc<Parts>, state: &State, cause: &str) -> Ended {
    let Some((head, ..)) = prepare::jobs(state).into_iter().next() else { return Ok(Next::Done) };
    super::set_phase(state, parts, Phase::Waiting(Wait::Zendesk, None));
    farewell::farewell(parts, &head, state.alias.clone(), cause).await;
    let Some(item) = take_head(state) else { return Ok(Next::Done) };
    let job = item.delivery.job.clone();
    park(parts, item, cause).await?;
    settled(parts, &job, 1, Some(cause));
    Ok(Next::Done)
}

/// Records a message as parked and parks it.
pub(in crate::actors) async fn park(parts: &Parts, mut item: Item, cause: &str) -> Result<(), ActorProcessingErr> {
    let now = parts.clock.now();
    let job = item.delivery.job.clone();
    if parts.directory.is_removed(&job.conversation) {
        // Parked it would lie there, words and all, although its customer is to be forgotten.
        conclude(parts, vec![(item, Outcome::Discarded)], Some(removal::CAUSE), None, None).await?;
        return Ok(parts.state.forget_conversation(&job.conversation).await?);
    }
    item.timeline.note(now, Stage::Failed { cause: cause.to_owned() });
    let record = record(&item, Outcome::Parked, now, Some(cause), None);
    parts.state.conclude(vec![record], None).await?;
    parts.metrics.buried(item.delivery.lane, cause);
    parts.metrics.ended(item.delivery.lane, Outcome::Parked, now.since(job.first_seen));
    parts.in_hand.forget(job.message.as_str());
    item.delivery.park(cause).await?;
    tracing::error!(job.id = %job.id, conversation.id = %job.conversation, cause, "a message was parked");
    Ok(())
}
