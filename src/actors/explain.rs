//! Says in a sentence why a customer has no answer yet, or how it came to an end: from what is in memory and in the
//! records, never by asking an actor.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    Parts,
    hand::{Hand, Phase},
    inbox::Inner,
    settings::Pool,
};
use crate::{
    broker::{Found, Standing},
    domain::{
        ids::ConversationId,
        time::Timestamp,
        timeline::{Outcome, Stage, Wait},
    },
    guard::{Service, breaker},
    state::{Record, Remembered},
};

/// A span as people say it.
pub fn span(of: Duration) -> String {
    let seconds = of.as_secs();
    match seconds {
        0 if of.as_millis() < 100 => format!("{} ms", of.as_millis()),
        0..10 => format!("{:.1} s", of.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// What is being done with what a conversation has in hand.
pub(super) fn hand(parts: &Parts, hand: &Hand) -> String {
    let now = parts.clock.monotonic();
    let since = span(now.saturating_sub(hand.since));
    match hand.phase {
        Phase::Preparing => format!("what is known of it is being looked up, for {since}"),
        Phase::Ai => format!("the AI service has been asked and has not answered yet, for {since}"),
        Phase::Look => format!("its answer is there, and is looked at once more before it is posted, for {since}"),
        Phase::Post => format!("its answer is being posted, for {since}"),
        Phase::Waiting(on, until) => {
            let left = until.map(|until| until.saturating_sub(now)).filter(|left| !left.is_zero());
            let again = left.map(|left| format!("; looked at again in {}", span(left))).unwrap_or_default();
            let on = match (on, asked_last(hand)) {
                (Wait::Backoff, Some(outcome)) => backoff(parts, outcome),
                _ => wait(parts, on),
            };
            format!("it has been waiting for {since}: {on}{again}")
        }
    }
}

/// What a wait is for, with what is known of it.
fn wait(parts: &Parts, on: Wait) -> String {
    match on {
        Wait::Queue => "it lies in the queue".into(),
        Wait::Turn => "earlier messages of its conversation come first".into(),
        Wait::Merge => "the customer may be writing more, which is answered together".into(),
        Wait::Head => "an earlier message of its conversation failed and is tried again first".into(),
        Wait::Slot => format!("all slots are taken ({})", each(parts, slots)),
        Wait::Limiter => format!("the rate limiter ({})", each(parts, limiter)),
        Wait::Breaker => format!("the circuit breaker ({})", each(parts, breaker)),
        Wait::Backoff => backoff(parts, "failed"),
        Wait::Shared => "another customer asks the same, and one answer serves both".into(),
        Wait::Retry => "it failed and is tried again after a pause".into(),
        Wait::Zendesk if parts.zendesk_refuses.load(Ordering::Relaxed) => {
            "Zendesk does not accept our key (zendesk.key_id, zendesk.key_secret)".into()
        }
        Wait::Zendesk => "Zendesk's API does not answer, or lets nothing more through".into(),
        Wait::Store => "the queue or the state cannot be written".into(),
        Wait::Owner => "another node works on its conversation".into(),
        Wait::Alone => "it was in hand when the process died, and runs when no other such message does".into(),
        Wait::Paused => paused(parts, Pool::Chat),
    }
}

/// How the AI service answered last.
fn asked_last(hand: &Hand) -> Option<&str> {
    let entries = hand.items.first()?.timeline.entries();
    entries.iter().rev().find_map(|entry| match &entry.stage {
        Stage::Asked { outcome, .. } => Some(outcome.as_str()),
        _ => None,
    })
}

/// A pause after a failure of the service, by its kind.
fn backoff(parts: &Parts, outcome: &str) -> String {
    let how = each(parts, breaker);
    match outcome {
        "unusable" => {
            format!("the AI service refuses us as it is set up (its key, its model); the log names the status ({how})")
        }
        "failed" => format!("the AI service failed and is asked again after a pause ({how})"),
        kind => format!("the AI service failed ({kind}) and is asked again after a pause ({how})"),
    }
}

fn each(parts: &Parts, of: impl Fn(&Parts, &Service) -> String) -> String {
    parts.stack.services().iter().map(|service| of(parts, service)).collect::<Vec<_>>().join("; ")
}

fn slots(_: &Parts, service: &Service) -> String {
    let usage = service.bulkhead.usage();
    format!("{}: {} of {} in use, {} wait", service.name, usage.in_use, usage.effective, usage.waiting)
}

/// How a limiter stands.
pub fn limiter(parts: &Parts, service: &Service) -> String {
    let used = service.permits.used();
    let fullest = used.iter().filter(|window| window.limit > 0).max_by(|one, other| {
        let part = |of: &crate::guard::limiter::WindowUse| of.used as f64 / of.limit as f64;
        part(one).total_cmp(&part(other))
    });
    let window = fullest.map_or_else(
        || "no limit".into(),
        |of| format!("{} of {} {} in {}", of.used, of.limit, of.kind, span(Duration::from_millis(of.per_ms))),
    );
    let free = service.permits.free_at(1).saturating_sub(parts.clock.monotonic());
    let when = if free.is_zero() { String::new() } else { format!(", the next in {}", span(free)) };
    format!("{}: {window}, {} wait{when}", service.name, service.permits.waiting())
}

/// How a breaker stands.
pub fn breaker(parts: &Parts, service: &Service) -> String {
    let snapshot = service.gate.snapshot();
    let now = parts.clock.monotonic();
    let state = match (snapshot.mode, snapshot.state) {
        (breaker::Mode::Open, _) => "held open by an operator".to_owned(),
        (breaker::Mode::Closed, _) => "held closed by an operator".to_owned(),
        (_, breaker::State::Closed) => "closed".to_owned(),
        (_, breaker::State::HalfOpen) => "half-open: a probe decides".to_owned(),
        (_, breaker::State::Open) => {
            let until = snapshot.until_ms.map(Duration::from_millis).unwrap_or_default();
            let left = until.saturating_sub(now);
            let next = if left.is_zero() { "now".to_owned() } else { format!("in {}", span(left)) };
            format!("open after {} failures in a row, the next probe {next}", snapshot.consecutive_failures)
        }
    };
    format!("{}: {state}", service.name)
}

/// Who has paused a pool.
pub fn paused(parts: &Parts, pool: Pool) -> String {
    let name = super::settings::Order::Pause(pool).name();
    let set = parts.settings.all().into_iter().find(|setting| setting.name == name);
    match set {
        Some(set) => format!("{} paused the pool {} at {}", set.by, pool.as_str(), set.at.to_rfc3339()),
        None => "this node is drained by an operator".into(),
    }
}

/// Why something waits in a conversation's inbox.
pub(super) fn inbox(parts: &Parts, inner: &Inner) -> String {
    if let Some(hand_of) = &inner.hand {
        return format!("earlier messages of its conversation come first, of which {}", hand(parts, hand_of));
    }
    if parts.settings.holds(Pool::Chat) {
        return format!("it waits: {}", wait(parts, Wait::Paused));
    }
    match &inner.away {
        Some(away) => {
            format!("the earlier message {} failed and is tried again first, at {}", away.head, away.until.to_rfc3339())
        }
        None => format!("it waits: {}", wait(parts, Wait::Merge)),
    }
}

/// Where a message in the queue stands that no conversation of this node has.
pub(super) fn queued(parts: &Parts, found: &Found) -> String {
    let reason = found.reason.as_deref().unwrap_or("for a reason that is not known");
    match found.standing {
        Standing::Ready if parts.settings.holds(Pool::Chat) => {
            format!("it lies in the queue: {}", wait(parts, Wait::Paused))
        }
        Standing::Ready => "it lies in the queue and has not been taken yet".into(),
        Standing::InHand => "another node, or another part of this one, has it in hand".into(),
        Standing::Delayed => match found.reason {
            Some(_) => format!("it failed ({reason}), try {} of it, and is tried again after a pause", found.tries),
            None => "it waits outside of its conversation, which has too much waiting".into(),
        },
        Standing::Dead => format!("it failed ({reason}) and is about to be judged"),
        Standing::Parked => format!("it was given up: {reason}; replay or discard it among the dead letters"),
    }
}

/// What is known of a conversation that another node has in hand, or had when it died.
pub(super) fn elsewhere(parts: &Parts, node: &str) -> String {
    match parts.nodes.all().into_iter().find(|one| one.id == node) {
        Some(node) => format!("the node {} has it in hand: ask there", node.name),
        None => {
            "the node that had it in hand is gone; another one takes it over, looks for what was posted, and goes on"
                .into()
        }
    }
}

/// How a message ended.
pub(super) fn ended(record: &Record) -> String {
    let took = record.timeline.entries().first().map(|first| record.at.since(first.at));
    let after = took.map(|took| format!(", {} after it came", span(took))).unwrap_or_default();
    let cause = record.cause.as_deref().unwrap_or("for a reason that was not noted");
    match record.outcome {
        Outcome::Replied if is_recorded_only(record) => {
            format!("its answer was recorded and not posted{after}: chat.shadow")
        }
        Outcome::Replied => format!("it was answered{after}"),
        Outcome::Merged => format!("it was answered together with other messages of its customer{after}"),
        Outcome::Ignored => format!("it was not answered: {cause}"),
        Outcome::HandedOver => format!("its conversation was handed to a human{after}: {cause}"),
        Outcome::Parked => format!("it was given up{after}: {cause}; it lies among the dead letters"),
        Outcome::Applied => "it changed the conversation and asked nothing".into(),
        Outcome::Duplicate => "it had been answered before".into(),
        Outcome::Discarded => format!("it was removed: {cause}"),
    }
}

fn is_recorded_only(record: &Record) -> bool {
    record.timeline.entries().iter().any(|entry| entry.stage == Stage::Recorded)
}

/// Why nothing happens in a conversation in which nothing waits here.
pub(super) fn idle(parts: &Parts, id: &ConversationId, known: &Remembered, last: Option<&Record>) -> String {
    let mute = parts
        .settings
        .all()
        .into_iter()
        .find(|setting| setting.name == "mute/all" || setting.name == format!("mute/conversation/{id}"));
    if let Some(mute) = mute {
        return format!("the bot is muted here ({}, by {} at {})", mute.name, mute.by, mute.at.to_rfc3339());
    }
    if let Some(into) = &known.alias {
        return format!("it was merged into the conversation {into}");
    }
    if let Some(away) = &known.away {
        return format!("the message {} failed and is tried again at {}", away.head, away.until.to_rfc3339());
    }
    if let Some(control) = known.control.filter(|control| !control.holder.lets_us_answer()) {
        return format!("a human holds it, as Zendesk said last at {}", control.at.to_rfc3339());
    }
    if parts.settings.holds(Pool::Chat) {
        return format!("nothing is in hand here, and what comes lies in the queue: {}", paused(parts, Pool::Chat));
    }
    last.map_or_else(
        || "nothing is known to wait here".into(),
        |last| format!("nothing waits here; of the last message, {}: {}", last.message, ended(last)),
    )
}

/// For how long a customer has been waiting.
pub fn waiting_since(inner: &Inner) -> Option<Timestamp> {
    let in_hand = inner.hand.iter().flat_map(|hand| &hand.items);
    let of_customers = inner.inbox.iter().chain(in_hand).filter(|item| item.kind().text().is_some());
    of_customers.map(|item| item.delivery.job.first_seen).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_as_people_say_them() {
        let table = [
            (7, "7 ms"),
            (1_540, "1.5 s"),
            (59_000, "59 s"),
            (180_000, "3 min"),
            (3 * 3_600_000, "3 h"),
            (72 * 3_600_000, "3 d"),
        ];
        for (ms, said) in table {
            assert_eq!(span(Duration::from_millis(ms)), said);
        }
    }
}
