//! Before the AI is asked: what is known of the messages, and whether they are ours to answer.

use std::{sync::Arc, time::Duration};

use ractor::ActorProcessingErr;

use super::{
    Next,
    claim::{self, Begun},
    finish, set_phase,
};
use crate::{
    actors::{Parts, conversation::State, hand::Phase, holder, posting},
    client::{self, Found},
    domain::{
        control::Holder,
        ids::MessageId,
        job::Job,
        prompt::{History, Role},
        reply::{Purpose, Reply, key, split},
        time::Timestamp,
        timeline::{Outcome, Wait},
    },
    state::Recall,
};

/// After so many deaths of the process with a message in hand it is parked (design rule 7).
const CRASHES_MAX: u32 = 4;

/// How long to wait before Zendesk is asked again for something that must be known.
const ZENDESK_PAUSE: Duration = Duration::from_secs(2);

/// What the preparation found.
pub(super) enum Prepared {
    /// The burst is to be answered.
    Ask {
        /// Those of whom only Zendesk could tell that nobody has answered them yet.
        unproven: Vec<(Arc<Job>, u32)>,
    },
    /// A reply was meant already; it is to be posted as far as it is missing.
    Resume(Reply),
    /// The turn is over.
    Over(Next),
}

/// Notes whose conversation it is, at first sight of a message of theirs, so that whatever is kept of it can be
/// forgotten with them; `false` when that could not be noted.
pub(super) async fn note_user(parts: &Parts, state: &mut State) -> bool {
    let user = jobs(state).iter().find_map(|(job, ..)| job.kind.user().cloned());
    let Some(noted) = user.as_ref().filter(|user| state.user.as_ref() != Some(user)) else { return true };
    let outcome = parts.state.note_user(&state.cell.id, noted, parts.clock.now()).await;
    if let Err(error) = &outcome {
        tracing::warn!(%error, conversation.id = %state.cell.id, "whose conversation it is could not be noted");
        return false;
    }
    state.user = user;
    true
}

/// What is in hand: its jobs, with the number of the life they live and whether they may have been worked on before.
pub(super) fn jobs(state: &State) -> Vec<(Arc<Job>, u32, bool)> {
    let inner = state.cell.lock();
    let hand = inner.hand.iter().filter(|_| inner.is_current(state.generation));
    hand.flat_map(|hand| &hand.items)
        .map(|item| (item.delivery.job.clone(), item.delivery.replay, item.delivery.redelivered))
        .collect()
}

/// Looks at each message in hand; those that need no answer are settled on the way.
pub(super) async fn prepare(parts: &Arc<Parts>, state: &mut State) -> Result<Prepared, ActorProcessingErr> {
    set_phase(state, parts, Phase::Preparing);
    let jobs = jobs(state);
    if jobs.is_empty() {
        // Taken over by another incarnation, which claims for itself.
        return Ok(Prepared::Over(Next::Done));
    }
    let recalls = match claim::claim(parts, state, &jobs).await? {
        Begun::Ours(recalls) => recalls,
        Begun::HeadIsAway => return Ok(Prepared::Over(Next::Again)),
        Begun::Draining => return Ok(Prepared::Over(Next::HandBack)),
    };
    let mut unproven = Vec::new();
    for ((job, replay, _), recall) in jobs.iter().zip(recalls) {
        if recall == Recall::Unknown {
            unproven.push((job.clone(), *replay));
        }
        let Some(known) = looked_for(parts, state, (job, *replay), recall).await? else {
            return Ok(Prepared::Over(Next::HandBack));
        };
        let is_head = job.message == jobs[0].0.message;
        match known {
            Recall::New | Recall::Unknown => {}
            Recall::Intended(reply) => {
                // Meant before an absence, perhaps; a human may have taken over unheard.
                let known = holder(parts, state, job).await;
                return Ok(known.map_or(Prepared::Over(Next::HandBack), |_| Prepared::Resume(reply)));
            }
            Recall::Told(reply) if is_head => {
                return go_on_telling(parts, state, job, &reply).await.map(Prepared::Over);
            }
            Recall::Told(_) => {
                // It is not the head that was told; each goes its own way.
                super::put_back(parts, state, |items| {
                    items
                        .iter_mut()
                        .filter(|item| item.delivery.job.message == job.message)
                        .for_each(|it| it.alone = true);
                });
                return Ok(Prepared::Over(Next::Done));
            }
            Recall::Ended(outcome) => {
                let ended = finish::ended_before(parts, state, &job.message, outcome).await?;
                return Ok(Prepared::Over(ended));
            }
        }
        if is_head && parts.in_hand.crashes(job.message.as_str()) >= CRASHES_MAX {
            let cause = format!("the process died {CRASHES_MAX} times with it in hand");
            return finish::give_up(parts, state, &cause).await.map(Prepared::Over);
        }
    }
    let over = spared(parts, state, &jobs).await?;
    Ok(over.map_or(Prepared::Ask { unproven }, Prepared::Over))
}

/// Ends the turn where the AI need not be asked; else makes sure that what was said before is known.
async fn spared(
    parts: &Arc<Parts>,
    state: &mut State,
    jobs: &[(Arc<Job>, u32, bool)],
) -> Result<Option<Next>, ActorProcessingErr> {
    let head = &jobs[0].0;
    if state.cell.lock().removed {
        return finish::ignored(parts, state, "the conversation was removed").await.map(Some);
    }
    let Some(holder) = holder(parts, state, head).await else { return Ok(Some(Next::HandBack)) };
    if !holder.lets_us_answer() {
        return finish::ignored(parts, state, "a human holds the conversation").await.map(Some);
    }
    if let Some(mute) = parts.settings.mutes(head, state.alias.as_ref().unwrap_or(&state.cell.id)) {
        return finish::muted(parts, state, &mute).await.map(Some);
    }
    if is_too_old(parts, head) {
        return finish::hand_over(parts, state, "the deadline has passed", None).await.map(Some);
    }
    if let Some(phrase) = asks_for_human(parts, jobs) {
        tracing::info!(conversation.id = %state.cell.id, phrase, "the customer asks for a human");
        return finish::hand_over(parts, state, "the customer asked for a human", None).await.map(Some);
    }
    let is_known = state.history.is_some() || fetch_history(parts, state, head, jobs).await;
    Ok((!is_known).then_some(Next::HandBack))
}

/// The customer was told that the head gets no answer, or was about to be: what was begun is finished, and the AI not
/// asked, for then one who was told so would get an answer after all.
async fn go_on_telling(
    parts: &Arc<Parts>,
    state: &mut State,
    head: &Job,
    told: &Reply,
) -> Result<Next, ActorProcessingErr> {
    if state.cell.lock().removed {
        return finish::ignored(parts, state, "the conversation was removed").await;
    }
    if let Some(mute) = parts.settings.mutes(head, state.alias.as_ref().unwrap_or(&state.cell.id)) {
        return finish::muted(parts, state, &mute).await;
    }
    if told.purpose == Purpose::Failure {
        let cause = reason(state).unwrap_or_else(|| "given up before the process ended".into());
        return finish::give_up(parts, state, &cause).await;
    }
    let Some(holder) = holder(parts, state, head).await else { return Ok(Next::HandBack) };
    if !holder.lets_us_answer() {
        return finish::handed_over(parts, state, "a human was promised, and has taken over").await;
    }
    finish::hand_over(parts, state, "a human was promised", Some(&told.text())).await
}

/// Why the head failed last.
fn reason(state: &State) -> Option<String> {
    let inner = state.cell.lock();
    inner.hand.as_ref()?.items.first()?.delivery.reason.clone()
}

/// What the ledger knows; where it knows nothing and that proves nothing, what Zendesk knows. `None` when the node drains.
async fn looked_for(
    parts: &Arc<Parts>,
    state: &State,
    (job, replay): (&Job, u32),
    recall: Recall,
) -> Result<Option<Recall>, ActorProcessingErr> {
    if recall != Recall::Unknown || parts.chat.shadow {
        return Ok(Some(recall));
    }
    // The state was lost: absence proves nothing, our mark in the conversation does.
    let poster = posting::Poster::of_conversation(parts, state);
    match poster.find_marks(job.message.as_str(), job.received).await {
        Ok(marks) => Ok(Some(read(parts, job, replay, &marks))),
        Err(posting::Error::Draining) => Ok(None),
        Err(error) => Err(error.to_string().into()),
    }
}

/// What the marks in a conversation say of a message that the ledger has lost. An answer is one for all its lives;
/// whatever else was said belongs to the life in which it was.
fn read(parts: &Parts, job: &Job, replay: u32, marks: &[Found]) -> Recall {
    if Found::is_whole_answer(marks) {
        return Recall::Ended(Outcome::Replied);
    }
    let is_of_this_life =
        |mark: &Found, purpose| purpose == Purpose::Answer || mark.key == key(&job.message, purpose, replay);
    let has =
        |purpose: Purpose| marks.iter().any(|mark| mark.kind == purpose.as_str() && is_of_this_life(mark, purpose));
    // The words of half an answer are lost, and another answer after it would be a second one: a human takes over.
    let told = match (has(Purpose::Failure), has(Purpose::Handoff) || has(Purpose::Answer)) {
        (true, _) => Purpose::Failure,
        (false, true) => Purpose::Handoff,
        (false, false) => return Recall::New,
    };
    Recall::Told(Reply {
        conversation: job.conversation.clone(),
        covers: vec![job.message.clone()],
        purpose: told,
        parts: split(&parts.chat.failure_message),
        replay,
        at: parts.clock.now(),
    })
}

/// Right before an answer is meant: those of whom the ledger knows nothing, which proves nothing, may have been answered by
/// another node since they were looked for.
pub(super) async fn look_again(
    parts: &Arc<Parts>,
    state: &mut State,
    unproven: &[(Arc<Job>, u32)],
) -> Result<Option<Next>, ActorProcessingErr> {
    for (job, replay) in unproven {
        match looked_for(parts, state, (job, *replay), Recall::Unknown).await? {
            None => return Ok(Some(Next::HandBack)),
            Some(Recall::Ended(outcome)) => {
                return finish::ended_before(parts, state, &job.message, outcome).await.map(Some);
            }
            Some(Recall::Told(_)) => return Ok(Some(Next::Again)),
            Some(_) => {}
        }
    }
    Ok(None)
}

/// Who holds the conversation; asked from Zendesk if not known. `None` when the node drains.
async fn holder(parts: &Parts, state: &State, head: &Job) -> Option<Holder> {
    let target = state.alias.as_ref().unwrap_or(&state.cell.id);
    loop {
        set_phase(state, parts, Phase::Waiting(Wait::Zendesk, None));
        let holder = holder::holder(parts, head.app.as_deref(), target).await;
        set_phase(state, parts, Phase::Preparing);
        match holder {
            Ok(holder) => return Some(holder),
            Err(_) => wait(parts, state, Wait::Zendesk, ZENDESK_PAUSE).await?,
        }
    }
}

/// Waits for a while; `None` when the node drains.
pub(super) async fn wait(parts: &Parts, state: &State, on: Wait, pause: Duration) -> Option<()> {
    let until = parts.clock.monotonic() + pause;
    set_phase(state, parts, Phase::Waiting(on, Some(until)));
    tokio::select! {
        () = parts.draining.cancelled() => None,
        () = tokio::time::sleep_until(parts.clock.instant(until)) => {
            // What follows is no wait; a wake-up that is over would be taken for a missed one.
            set_phase(state, parts, Phase::Preparing);
            Some(())
        }
    }
}

/// Whether the customer has waited so long that an answer would be stale (design rule 16).
pub(in crate::actors) fn is_too_old(parts: &Parts, job: &Job) -> bool {
    let (now, deadline) = (parts.clock.now(), parts.chat.deadline);
    parts.clock.agrees()
        && now.since(job.replayed.unwrap_or(job.received)) >= deadline
        // A clock of the sender's that lies far back must not expire what has only just come.
        && now.since(job.first_seen) >= deadline.min(Duration::from_secs(60))
}

fn asks_for_human<'a>(parts: &'a Parts, jobs: &[(Arc<Job>, u32, bool)]) -> Option<&'a str> {
    let said = |phrase: &&String| {
        let phrase = phrase.to_lowercase();
        jobs.iter().filter_map(|(job, ..)| job.kind.text()).any(|text| text.to_lowercase().contains(&phrase))
    };
    parts.chat.handoff_phrases.iter().filter(|phrase| !phrase.is_empty()).find(said).map(String::as_str)
}

/// Fills the history up from Zendesk; `false` when the node drains meanwhile.
async fn fetch_history(parts: &Parts, state: &mut State, head: &Job, jobs: &[(Arc<Job>, u32, bool)]) -> bool {
    let keep = parts.chat.history;
    if keep == 0 {
        // Whether the conversation begins here is left open; knowing would cost a call that nothing else needs.
        state.history = Some(History::default());
        return true;
    }
    let target = state.alias.clone().unwrap_or_else(|| state.cell.id.clone());
    // One page is enough for the last turns; what came before needs no search.
    set_phase(state, parts, Phase::Waiting(Wait::Zendesk, None));
    let messages = parts.sunshine.messages(head.app.as_deref(), &target, Timestamp(i64::MAX)).await;
    set_phase(state, parts, Phase::Preparing);
    let mut history = History::default();
    match messages {
        Ok(messages) => {
            let waiting = |id: &str| jobs.iter().any(|(job, ..)| job.message.as_str() == id);
            let is_earlier = |message: &client::Message| {
                !waiting(&message.id) && message.received.is_none_or(|received| received <= head.received)
            };
            let earlier: Vec<client::Message> = messages.into_iter().filter(is_earlier).collect();
            state.begins = Some(earlier.is_empty());
            for message in earlier {
                let role = if message.from_customer { Role::User } else { Role::Assistant };
                if let Some(text) = message.text.filter(|text| !text.is_empty()) {
                    history.add(role, &text, keep);
                }
            }
        }
        // A history we cannot have must not keep the customer waiting; the next burst tries again.
        Err(error) => {
            tracing::warn!(%error, conversation.id = %state.cell.id, "the history could not be read; answering without it");
            return !parts.draining.is_cancelled();
        }
    }
    state.history = Some(history);
    true
}

/// The last look before posting: has the customer written more, has a human taken over, is it too late?
pub(super) async fn last_look(
    parts: &Arc<Parts>,
    state: &mut State,
    superseded: bool,
) -> Result<Option<Next>, ActorProcessingErr> {
    let jobs = jobs(state);
    let Some((head, ..)) = jobs.first() else { return Ok(Some(Next::Done)) };
    let Some(holder) = holder(parts, state, head).await else { return Ok(Some(Next::HandBack)) };
    if !holder.lets_us_answer() {
        return finish::ignored(parts, state, "a human took over").await.map(Some);
    }
    if state.cell.lock().removed {
        return finish::ignored(parts, state, "the conversation was removed").await.map(Some);
    }
    if let Some(mute) = parts.settings.mutes(head, state.alias.as_ref().unwrap_or(&state.cell.id)) {
        return finish::muted(parts, state, &mute).await.map(Some);
    }
    if is_too_old(parts, head) {
        return finish::hand_over(parts, state, "the deadline has passed", None).await.map(Some);
    }
    // A node that drains finishes what it has; what has come since is answered after the next start.
    if parts.draining.is_cancelled() {
        return Ok(None);
    }
    if state.cell.lock().is_preceded() {
        return Ok(Some(Next::Superseded));
    }
    let merges = !parts.chat.merge_quiet.is_zero() && !superseded;
    Ok((merges && has_newer(state)).then_some(Next::Superseded))
}

/// Whether the customer has written since the burst was taken in hand. What waited already then was left out on
/// purpose: it belongs to a later burst.
fn has_newer(state: &State) -> bool {
    let inner = state.cell.lock();
    let Some(hand) = &inner.hand else { return false };
    let alone = hand.items.iter().any(|item| item.alone);
    let last_arrival = hand.items.iter().map(|item| item.arrived).max();
    !alone && inner.inbox.iter().any(|item| !item.alone && Some(item.arrived) > last_arrival)
}

/// The messages in hand, by id.
pub(super) fn message_ids(state: &State) -> Vec<MessageId> {
    jobs(state).into_iter().map(|(job, ..)| job.message.clone()).collect()
}
