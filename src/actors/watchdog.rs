//! Finds actors whose work does not end: cancels a slow AI call, kills an actor that hangs, replaces one that blocks its
//! thread (design rule 12). A conversation's limits run in its timed phases; every other actor has one for whatever it
//! has in hand (`stamp.rs`).
//!
//! Runs on a runtime of its own, so that a blocked worker thread cannot blind it. Supervised by the node.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{
    ChatConfig, Parts,
    chat::ConversationRef,
    hand::{Hand, Phase},
    inbox::Cell,
    roster::Card,
    stamp::{KILL_GRACE, WAKE_SLACK},
};

/// The longest time between two looks.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);

/// A look that comes this late says that the process stood still, and with it everybody it would be blamed on.
const STANDSTILL: Duration = Duration::from_secs(5);

/// The watchdog.
pub(super) struct Watchdog {
    pub parts: Arc<Parts>,
    pub card: Arc<Card>,
}

/// What it is told.
pub(super) enum Message {
    /// Look.
    Look,
    /// Look whether a failure was ordered.
    Bell,
}

/// What it knows.
pub(super) struct State {
    looked: Duration,
    /// How often it looks.
    every: Duration,
    /// After a standstill everybody gets time to do what was due meanwhile.
    blind_until: Duration,
}

impl State {
    /// Whether what is seen at this time means anything.
    fn sees(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.looked) > STANDSTILL {
            tracing::warn!("the process stood still for a while");
            self.blind_until = now + STANDSTILL;
        }
        self.looked = now;
        now >= self.blind_until
    }
}

/// What is wrong with a conversation.
enum Finding {
    Kill(ConversationRef, String),
    Replace(u64, String),
}

impl Actor for Watchdog {
    type Msg = Message;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<State, ActorProcessingErr> {
        let now = self.parts.clock.monotonic();
        let shortest = self.parts.chat.soft_time_limit.min(self.parts.actor_time_limit);
        let every = (shortest / 10).clamp(Duration::from_millis(10), LOOK_EVERY_MAX);
        Ok(State { looked: now, every, blind_until: now })
    }

    async fn post_start(&self, myself: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        let bell = myself.clone();
        self.card.bell.connect(move || drop(bell.cast(Message::Bell)));
        // A failure may have been ordered before there was anybody to hear it.
        myself.cast(Message::Bell)?;
        myself.send_interval(state.every, || Message::Look);
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Look => {
                // For the one who looks after it.
                self.card.stamp.wakes_at(Some(self.parts.clock.monotonic() + state.every));
                if state.sees(self.parts.clock.monotonic()) {
                    self.look();
                    self.look_at_cards();
                }
            }
            Message::Bell => self.card.meet_fault().await?,
        }
        Ok(())
    }
}

impl Watchdog {
    fn look(&self) {
        let _in_hand = self.card.begin("a look around");
        let now = self.parts.clock.monotonic();
        for cell in self.parts.directory.all() {
            match self.examine(&cell, now) {
                Some(Finding::Kill(actor, cause)) => {
                    tracing::warn!(conversation.id = %cell.id, cause, "a conversation's actor is killed");
                    self.card.handled(1);
                    actor.kill();
                }
                Some(Finding::Replace(generation, cause)) => {
                    self.card.handled(1);
                    self.parts.conversations.replace(cell, generation, cause);
                }
                None => {}
            }
        }
    }

    /// The actors that are no conversations; their supervisors end them.
    fn look_at_cards(&self) {
        for card in self.parts.roster.all() {
            if let Some((keeper, order)) = card.stamp.examine(self.parts.actor_time_limit) {
                tracing::warn!(actor.path = card.path, ?order, "an actor is stuck");
                self.card.handled(1);
                keeper(order);
            }
        }
    }

    fn examine(&self, cell: &Cell, now: Duration) -> Option<Finding> {
        let mut inner = cell.lock();
        let generation = inner.generation;
        let actor = inner.actor.clone();
        let hand = inner.hand.as_mut()?;
        match verdict(hand, &self.parts.chat, now)? {
            Verdict::Cancel => {
                tracing::warn!(conversation.id = %cell.id, "an AI call takes too long and is cancelled");
                hand.soft_limit.cancel();
                None
            }
            Verdict::Kill(cause) => {
                hand.killed_at = Some(now);
                inner.killed_for = Some(cause.clone());
                actor.map(|actor| Finding::Kill(actor, cause))
            }
            Verdict::Replace => {
                // Told once; the next look is a grace away.
                hand.killed_at = Some(now);
                Some(Finding::Replace(generation, "time limit: it blocked its thread and was replaced".into()))
            }
        }
    }
}

/// What has to be done about a conversation.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The soft limit is over: its AI call is cancelled.
    Cancel,
    /// The hard limit is over, or a wake-up was missed.
    Kill(String),
    /// It was killed and has not ended.
    Replace,
}

/// Judges what is in hand by the time spent on it in timed phases, all of them together.
fn verdict(hand: &Hand, limits: &ChatConfig, now: Duration) -> Option<Verdict> {
    if let Some(killed_at) = hand.killed_at {
        return (now.saturating_sub(killed_at) > KILL_GRACE).then_some(Verdict::Replace);
    }
    let phase = hand.phase;
    let worked = hand.worked(now);
    match phase {
        Phase::Waiting(_, Some(until)) if now > until + WAKE_SLACK => {
            Some(Verdict::Kill(format!("time limit: {} missed its wake-up", phase.name())))
        }
        _ if phase.is_timed() && worked > limits.time_limit => {
            let limit = humantime::format_duration(limits.time_limit);
            Some(Verdict::Kill(format!("time limit: it took more than {limit}, the last of it in {}", phase.name())))
        }
        Phase::Ai if worked > limits.soft_time_limit && !hand.soft_limit.is_cancelled() => Some(Verdict::Cancel),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{time::Timestamp, timeline::Wait};

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// A hand that went through these phases, each for so many seconds, and is in the last one since.
    fn after(phases: &[(Phase, u64)], last: Phase) -> (Hand, Duration) {
        let mut now = secs(1_000);
        let mut hand = Hand::new(Vec::new(), now);
        for (phase, took) in phases {
            hand.enter(*phase, now, Timestamp(0));
            now += secs(*took);
        }
        hand.enter(last, now, Timestamp(0));
        (hand, now)
    }

    fn judged(hand: &Hand, now: Duration) -> Option<Verdict> {
        verdict(hand, &ChatConfig::default(), now)
    }

    #[test]
    fn timed_phases_add_up_and_waits_do_not_count() {
        let wait = Phase::Waiting(Wait::Limiter, None);
        let (mut hand, now) =
            after(&[(Phase::Ai, 100), (wait, 5_000), (Phase::Preparing, 5_000), (Phase::Ai, 100)], Phase::Ai);
        assert_eq!(judged(&hand, now + secs(40)), None);
        assert_eq!(judged(&hand, now + secs(41)), Some(Verdict::Cancel));
        hand.soft_limit.cancel();
        hand.enter(Phase::Look, now + secs(41), Timestamp(0));
        assert_eq!(judged(&hand, now + secs(50)), None, "the soft limit is for the AI call only");
        hand.enter(Phase::Post, now + secs(50), Timestamp(0));
        assert_eq!(judged(&hand, now + secs(100)), None);
        let Some(Verdict::Kill(cause)) = judged(&hand, now + secs(101)) else { panic!("not killed") };
        assert_eq!(cause, "time limit: it took more than 5m, the last of it in post");
    }

    #[test]
    fn the_time_a_failing_service_took_is_not_on_the_messages_account() {
        let (mut hand, now) = after(&[(Phase::Ai, 230)], Phase::Ai);
        hand.forgive(secs(230), now, Timestamp(0));
        assert_eq!(judged(&hand, now + secs(240)), None);
        assert_eq!(judged(&hand, now + secs(241)), Some(Verdict::Cancel));
    }

    #[test]
    fn a_wait_is_stuck_five_seconds_after_its_registered_wake_up() {
        let (hand, now) = after(&[], Phase::Waiting(Wait::Backoff, Some(secs(1_060))));
        assert_eq!(judged(&hand, now + secs(65)), None);
        let Some(Verdict::Kill(cause)) = judged(&hand, now + secs(66)) else { panic!("not killed") };
        assert!(cause.contains("missed its wake-up"), "{cause}");
        let (hand, now) = after(&[], Phase::Waiting(Wait::Slot, None));
        assert_eq!(judged(&hand, now + secs(100_000)), None, "a wait without a wake-up is somebody else's to end");
    }

    #[test]
    fn one_that_was_killed_has_a_grace_before_it_is_replaced() {
        let (mut hand, now) = after(&[], Phase::Ai);
        hand.killed_at = Some(now);
        assert_eq!(judged(&hand, now + KILL_GRACE), None);
        assert_eq!(judged(&hand, now + KILL_GRACE + secs(1)), Some(Verdict::Replace));
    }

    #[test]
    fn after_a_standstill_nobody_is_blamed_for_a_while() {
        let mut state = State { looked: secs(10), every: secs(1), blind_until: secs(10) };
        assert!(state.sees(secs(11)));
        assert!(!state.sees(secs(400)));
        assert!(!state.sees(secs(404)));
        assert!(state.sees(secs(405)));
    }
}
