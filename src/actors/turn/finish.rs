//! The ends of a burst. Each message ends in exactly one recorded way (G1): recorded first, then acknowledged.

use std::{collections::HashSet, sync::Arc};

use ractor::ActorProcessingErr;

use super::{Next, prepare};
use crate::{
    actors::{
        KillPoint, Parts,
        conversation::State,
        farewell::{self, Passed},
        hand::{Hand, Item, Phase},
        lease::Held,
        removal,
        roster::LastFailure,
        settings::Mute,
        story,
    },
    broker::{self, Delivery},
    domain::{
        ids::{ConversationId, MessageId},
        prompt::{History, Role},
        reason,
        reply::{PARTS_MAX, Purpose, Reply, split},
        time::Timestamp,
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
    let mut hand = inner.hand.take()?;
    hand.enter(Phase::Preparing, parts.clock.monotonic(), parts.clock.now());
    Some(hand)
}

/// Takes the head, which has failed; the others go back and will run by themselves.
fn take_failed_head(parts: &Parts, state: &State, cause: &str) -> Option<Item> {
    let mut inner = state.cell.lock();
    if !inner.is_current(state.generation) {
        return None;
    }
    let mut hand = inner.hand.take()?;
    hand.enter(Phase::Preparing, parts.clock.monotonic(), parts.clock.now());
    hand.fail(cause);
    let mut items = hand.items.into_iter();
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
    // What could not be read before stays unknown: the last words alone would pass for all that was said.
    state.history = state.history.take().map(|history| grown(parts, history, &items, reply));
    state.begins = Some(false);
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
    // Without knowing the customer the words could not be forgotten with them.
    let said = state.history.clone().filter(|_| whose_is_known);
    conclude(parts, outcomes, None, Some(&key), said, state.lease.take()).await?;
    Ok(Next::Done)
}

/// What was said, with the question and its answer.
fn grown(parts: &Parts, mut history: History, items: &[Item], reply: &Reply) -> History {
    let keep = parts.chat.history;
    for text in items.iter().filter_map(|item| item.kind().text()) {
        history.add(Role::User, text, keep);
    }
    history.add(Role::Assistant, &reply.text(), keep);
    history
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
    said: Option<History>,
    lease: Option<Held>,
) -> Result<(), ActorProcessingErr> {
    let now = parts.clock.now();
    let records = items.iter().map(|(item, outcome)| record(item, *outcome, now, cause, reply)).collect();
    parts.state.conclude(records, said, lease.map(|held| held.fence)).await?;
    parts.faults.kill_point(KillPoint::BeforeAck);
    for (item, outcome) in items {
        let job = item.delivery.job.clone();
        parts.metrics.ended(item.delivery.lane, outcome, now.since(job.first_seen));
        parts.in_hand.forget(job.message.as_str());
        settled(parts, &job, 1, None);
        let was_away = item.delivery.tries > 0;
        acknowledge(item.delivery).await?;
        if was_away {
            parts.state.note_away(&job.conversation, None).await?;
        }
    }
    Ok(())
}

/// What cannot be acknowledged any more comes to whoever holds it by now, and is found to have ended.
async fn acknowledge(delivery: Delivery) -> Result<(), broker::Error> {
    let id = delivery.job.id.clone();
    match delivery.ack().await {
        Err(broker::Error::Lost) => {
            tracing::debug!(job.id = %id, "a message that has ended comes once more");
            Ok(())
        }
        other => other,
    }
}

fn record(item: &Item, outcome: Outcome, now: Timestamp, cause: Option<&str>, reply: Option<&str>) -> Record {
    let job = &item.delivery.job;
    let mut timeline = item.timeline.clone();
    timeline.note(now, Stage::Ended { outcome: outcome.as_str().into() });
    Record {
        id: job.id.clone(),
        message: job.message.clone(),
        conversation: job.conversation.clone(),
        replay: item.delivery.replay,
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
        let failure = failure.map(|reason| LastFailure {
            at: parts.clock.now(),
            reason: reason.to_owned(),
            message_id: Some(job.message.to_string()),
        });
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
    conclude(parts, items, cause, None, None, state.lease.take()).await?;
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
        if outcome == Outcome::Parked {
            // Recorded before it lay there; twice is better than not at all.
            let record = parts.state.record(message.as_str()).await.ok().flatten();
            let cause = record.and_then(|record| record.cause);
            copy.delivery.park(cause.as_deref().unwrap_or("it was parked before")).await?;
        } else {
            acknowledge(copy.delivery).await?;
        }
    }
    Ok(Next::Done)
}

/// The conversation goes to a human; `text` is said before.
pub(super) async fn hand_over(parts: &Arc<Parts>, state: &State, cause: &str, text: Option<&str>) -> Ended {
    let Some((head, replay, _)) = prepare::jobs(state).into_iter().next() else { return Ok(Next::Done) };
    if let Some(mute) = parts.settings.mutes(&head, state.alias.as_ref().unwrap_or(&state.cell.id)) {
        return muted(parts, state, &mute).await;
    }
    let apology = &parts.chat.failure_message;
    super::set_phase(state, parts, Phase::Waiting(Wait::Zendesk, None));
    farewell::tell(parts, (&head, replay), state.alias.clone(), Purpose::Handoff, text.unwrap_or(apology)).await;
    match farewell::pass_control(parts, &head, state.alias.clone(), cause).await {
        Passed::Over => {
            super::set_phase(state, parts, Phase::Preparing);
            handed_over(parts, state, cause).await
        }
        Passed::Draining => Ok(Next::HandBack),
        Passed::Refused(why) => {
            // Nobody will come; whoever was promised more than an apology hears so.
            if text.is_some_and(|text| text != apology) {
                farewell::tell(parts, (&head, replay), state.alias.clone(), Purpose::Failure, apology).await;
            }
            park_all(parts, state, &format!("{cause}; {why}")).await
        }
    }
}

/// A human holds the conversation, as the customer was told.
pub(super) async fn handed_over(parts: &Parts, state: &State, cause: &str) -> Ended {
    super::note(state, parts, &Stage::HandedOver);
    end_all(parts, state, Outcome::HandedOver, Some(cause)).await
}

/// The bot is muted here: nobody is told anything, and an operator decides what becomes of it.
pub(super) async fn muted(parts: &Parts, state: &State, mute: &Mute) -> Ended {
    park_all(parts, state, &mute.cause()).await
}

/// Parks the whole burst: none of it will be answered.
async fn park_all(parts: &Parts, state: &State, cause: &str) -> Ended {
    let Some(mut hand) = take_hand(parts, state) else { return Ok(Next::Done) };
    if reason::cause(cause) != reason::MUTED {
        hand.fail(cause);
    }
    park_here(parts, state, hand.items, cause).await
}

/// Parks what a turn has in hand.
async fn park_here(parts: &Parts, state: &State, items: Vec<Item>, cause: &str) -> Ended {
    items.iter().for_each(|item| settled(parts, &item.delivery.job, 1, Some(cause)));
    park(parts, items, cause, state.lease.take()).await?;
    Ok(Next::Done)
}

/// The head failed and is itself the cause: to the dead letters, a try is spent.
pub(super) async fn failed(parts: &Parts, state: &State, cause: &str) -> Ended {
    if let Some(head) = take_failed_head(parts, state, cause) {
        bury(parts, head, cause).await?;
    }
    Ok(Next::Done)
}

/// Sends a message to the dead letters; its followers wait for its return.
pub(in crate::actors) async fn bury(parts: &Parts, mut item: Item, cause: &str) -> Result<(), ActorProcessingErr> {
    story::failed(parts, &mut item, cause).await;
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
    let Some((head, replay, _)) = prepare::jobs(state).into_iter().next() else { return Ok(Next::Done) };
    super::set_phase(state, parts, Phase::Waiting(Wait::Zendesk, None));
    let cause = &farewell::farewell(parts, (&head, replay), state.alias.clone(), cause).await;
    if parts.draining.is_cancelled() {
        // Not told, perhaps; the next start goes on from here.
        return Ok(Next::HandBack);
    }
    let Some(item) = take_failed_head(parts, state, cause) else { return Ok(Next::Done) };
    park_here(parts, state, vec![item], cause).await
}

/// Records messages of one conversation as parked and parks them.
pub(in crate::actors) async fn park(
    parts: &Parts,
    mut items: Vec<Item>,
    cause: &str,
    lease: Option<Held>,
) -> Result<(), ActorProcessingErr> {
    let Some(conversation) = items.first().map(|item| item.delivery.job.conversation.clone()) else { return Ok(()) };
    if parts.directory.is_removed(&conversation) {
        // Parked they would lie there, words and all, although their customer is to be forgotten.
        let discarded = items.into_iter().map(|item| (item, Outcome::Discarded)).collect();
        conclude(parts, discarded, Some(removal::CAUSE), None, None, lease).await?;
        return Ok(parts.state.forget_conversation(&conversation).await?);
    }
    let now = parts.clock.now();
    items.iter_mut().for_each(|item| item.timeline.note(now, Stage::Failed { cause: cause.to_owned() }));
    let records = items.iter().map(|item| record(item, Outcome::Parked, now, Some(cause), None)).collect();
    parts.state.conclude(records, None, lease.map(|held| held.fence)).await?;
    for item in items {
        park_recorded(parts, item, cause, now).await?;
    }
    Ok(())
}

async fn park_recorded(parts: &Parts, item: Item, cause: &str, now: Timestamp) -> Result<(), ActorProcessingErr> {
    let job = item.delivery.job.clone();
    parts.metrics.ended(item.delivery.lane, Outcome::Parked, now.since(job.first_seen));
    parts.in_hand.forget(job.message.as_str());
    let was_away = item.delivery.tries > 0;
    if !was_away {
        // It is counted among the dead letters for the first time.
        parts.metrics.buried(item.delivery.lane, cause);
    }
    item.delivery.park(cause).await?;
    if was_away {
        back(parts, &job.conversation).await;
    }
    if reason::cause(cause) == reason::MUTED {
        tracing::info!(job.id = %job.id, conversation.id = %job.conversation, cause, "a message is kept while the bot is muted");
    } else {
        tracing::error!(job.id = %job.id, conversation.id = %job.conversation, cause, "a message was parked");
    }
    Ok(())
}

/// A head that was away has been given up: its followers wait no longer.
pub(in crate::actors) async fn back(parts: &Parts, conversation: &ConversationId) {
    if let Err(error) = parts.state.note_away(conversation, None).await {
        // They wait until it should have been back, and go on then.
        tracing::warn!(%error, "that a head is back could not be noted");
    }
    if let Some(cell) = parts.directory.find(conversation) {
        cell.lock().away = None;
        cell.ring();
    }
}
