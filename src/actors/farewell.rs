//! What happens around giving a message up: the customer is told, the conversation goes to a human (design rule 15).

use std::{sync::Arc, time::Duration};

use dashmap::DashMap;

use super::{Parts, holder::holder, posting::Poster};
use crate::{
    client,
    domain::{
        control::{Control, Holder},
        ids::ConversationId,
        job::Job,
        reply::{Purpose, Reply, split},
        time::Timestamp,
    },
};

/// A failure of the telling never blocks: after this long the message is parked all the same.
const TELL_WITHIN: Duration = Duration::from_secs(60);

/// A hand-off that Zendesk has not confirmed by its event after this long is an alarm.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(30);

/// The pause between attempts to hand over.
const PASS_PAUSE: Duration = Duration::from_secs(2);

/// The customer's words in a summary; metadata has 4 kB in all.
const SUMMARY_CHARS_MAX: usize = 500;

/// The most hand-offs remembered at once.
const PENDING_MAX: usize = 10_000;

/// Hand-offs that wait for Zendesk's `switchboard:passControl`.
#[derive(Default)]
pub struct Handoffs(DashMap<ConversationId, Timestamp>);

impl Handoffs {
    /// A hand-off is about to be asked for: its event may come before the answer. `false` when too many are awaited.
    fn asking(&self, conversation: &ConversationId, now: Timestamp) -> bool {
        let room = self.0.len() < PENDING_MAX;
        if room {
            self.0.insert(conversation.clone(), now);
        }
        room
    }

    /// An event says that somebody else holds the conversation, or that the hand-off failed; `true` if that was awaited.
    pub fn confirmed(&self, conversation: &ConversationId) -> bool {
        self.0.remove(conversation).is_some()
    }

    /// It did not come to a hand-off; `false` when it was confirmed meanwhile.
    fn withdraw(&self, conversation: &ConversationId) -> bool {
        self.0.remove(conversation).is_some()
    }

    /// Hand-offs that should have been confirmed by now; each is told once.
    pub fn overdue(&self, now: Timestamp) -> Vec<ConversationId> {
        let late: Vec<ConversationId> = self
            .0
            .iter()
            .filter(|entry| now.since(*entry.value()) > CONFIRMED_WITHIN)
            .map(|entry| entry.key().clone())
            .collect();
        late.into_iter().filter(|conversation| self.0.remove(conversation).is_some()).collect()
    }
}

/// How handing a conversation over ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Passed {
    /// A human has it, or will have it as soon as Zendesk confirms.
    Over,
    /// Zendesk refuses; nobody else holds it.
    Refused(String),
    /// The node drains.
    Draining,
}

/// Tells the customer and hands the conversation over, as far as that can be done in time. Returns the cause, with what
/// Zendesk said if it refused the hand-off.
pub(super) async fn farewell(
    parts: &Arc<Parts>,
    (job, replay): (&Arc<Job>, u32),
    alias: Option<ConversationId>,
    cause: &str,
) -> String {
    let target = alias.as_ref().unwrap_or(&job.conversation);
    let is_told = job.kind.text().is_some() && parts.settings.mutes(job, target).is_none();
    if !is_told || parts.directory.is_removed(&job.conversation) {
        return cause.to_owned();
    }
    // What cannot be asked now is taken as ours: better told needlessly than not at all.
    let holder = holder(parts, job.app.as_deref(), target).await;
    let human_holds = holder.is_ok_and(|holder| !holder.lets_us_answer());
    if human_holds {
        return cause.to_owned();
    }
    let telling = async {
        tell(parts, (job, replay), alias.clone(), Purpose::Failure, &parts.chat.failure_message).await;
        pass_control(parts, job, alias.clone(), cause).await
    };
    let told = tokio::select! {
        told = tokio::time::timeout(TELL_WITHIN, telling) => told.unwrap_or(Passed::Draining),
        () = parts.draining.cancelled() => Passed::Draining,
    };
    match told {
        Passed::Over => cause.to_owned(),
        Passed::Refused(why) => format!("{cause}; {why}"),
        Passed::Draining => {
            tracing::warn!(conversation.id = %job.conversation, job.id = %job.id, "a customer could not be told that a message was given up");
            cause.to_owned()
        }
    }
}

/// Posts a sentence about a message in one of its lives, once.
pub(super) async fn tell(
    parts: &Arc<Parts>,
    (job, replay): (&Arc<Job>, u32),
    alias: Option<ConversationId>,
    purpose: Purpose,
    text: &str,
) {
    let texts = split(text);
    if texts.is_empty() {
        return;
    }
    let reply = Reply {
        conversation: job.conversation.clone(),
        covers: vec![job.message.clone()],
        purpose,
        parts: texts,
        replay,
        at: parts.clock.now(),
    };
    if let Err(error) = Poster::detached(parts, job, alias).post_once(&reply, job.received).await {
        tracing::warn!(conversation.id = %job.conversation, %error, "a customer could not be told");
    }
}

/// Hands the conversation to a human; tries until Zendesk has taken or refused it.
pub(super) async fn pass_control(
    parts: &Arc<Parts>,
    job: &Arc<Job>,
    alias: Option<ConversationId>,
    cause: &str,
) -> Passed {
    if parts.chat.shadow {
        return Passed::Over;
    }
    let target = alias.unwrap_or_else(|| job.conversation.clone());
    let first_message = first_message(parts, job, &target).await;
    let summary = summary(job, cause);
    loop {
        let app = job.app.as_deref();
        let awaited = parts.handoffs.asking(&target, parts.clock.now());
        let passed = parts.sunshine.pass_control(app, &target, &parts.handoff_to, &first_message, &summary).await;
        // Without an answer it may have been heard; then the event has come, or will.
        let confirmed = passed.is_err() && awaited && !parts.handoffs.withdraw(&target);
        match passed {
            Err(error @ (client::Error::Refused(_) | client::Error::Locked)) if !confirmed => {
                parts.metrics.handed_off("refused");
                tracing::error!(conversation.id = %job.conversation, %error, "Zendesk refuses to hand a conversation over; check zendesk.handoff_to");
                return Passed::Refused(format!("Zendesk refuses the hand-off ({error})"));
            }
            Err(_) if !confirmed => tokio::select! {
                () = parts.draining.cancelled() => return Passed::Draining,
                () = tokio::time::sleep(PASS_PAUSE) => {}
            },
            _ => break,
        }
    }
    parts.metrics.handed_off("asked");
    // Silent from now on; the event will confirm it.
    let control = Control { holder: Holder::Other, at: parts.clock.now() };
    if let Err(error) = parts.state.note_control(&target, control).await {
        tracing::warn!(%error, "a hand-off could not be noted");
    }
    Passed::Over
}

/// Where the ticket begins: at the oldest of the last hundred messages. Without it an agent sees the last ten only.
async fn first_message(parts: &Parts, job: &Job, target: &ConversationId) -> String {
    let messages = parts.sunshine.messages(job.app.as_deref(), target, Timestamp(i64::MAX)).await;
    let oldest = messages.ok().and_then(|messages| messages.into_iter().next());
    oldest.map_or_else(|| job.message.to_string(), |message| message.id)
}

/// What the agent reads first: why, and what the customer said last.
fn summary(job: &Job, cause: &str) -> String {
    let said: String = job.kind.text().unwrap_or_default().chars().take(SUMMARY_CHARS_MAX).collect();
    format!("Handed over by Tidegate: {cause}. The customer's last message: {said}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_off_is_overdue_once_unless_it_was_confirmed_or_withdrawn() {
        let handoffs = Handoffs::default();
        let id = |text: &str| ConversationId::new(text).unwrap();
        for conversation in ["confirmed", "withdrawn", "silent"] {
            assert!(handoffs.asking(&id(conversation), Timestamp(0)));
        }
        assert!(handoffs.confirmed(&id("confirmed")) && !handoffs.confirmed(&id("confirmed")));
        assert!(!handoffs.withdraw(&id("confirmed")), "confirmed before it could be withdrawn");
        assert!(handoffs.withdraw(&id("withdrawn")));
        assert!(handoffs.overdue(Timestamp(30_000)).is_empty());
        assert_eq!(handoffs.overdue(Timestamp(30_001)), [id("silent")]);
        assert!(handoffs.overdue(Timestamp(60_000)).is_empty(), "told once");
    }
}
