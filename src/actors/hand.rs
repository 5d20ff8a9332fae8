//! What a conversation's actor has in hand: a burst of messages, and what is being done with it. Lies in the
//! conversation's inbox (`inbox.rs`), outside the actor.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::directory::Held;
use crate::{
    broker::Delivery,
    domain::{
        reason,
        time::{Timestamp, millis},
        timeline::{Stage, Timeline, Wait},
    },
    telemetry::span::Span,
};

/// A message that has lain in the queue for less has not waited: this is its pace.
const QUEUE_PACE: Duration = Duration::from_millis(10);

/// One message on its way through a conversation.
pub struct Item {
    /// The message; settled in the end.
    pub delivery: Delivery,
    /// Its story so far.
    pub timeline: Timeline,
    /// Whether that includes what befell it in earlier tries.
    pub is_story_known: bool,
    /// When it came into the inbox.
    pub arrived: Timestamp,
    /// Whether it must not be merged with others.
    pub alone: bool,
    /// Whether its answer was withheld because a newer message came.
    pub superseded: bool,
    /// Time spent in timed phases on answers that were withheld because a newer message came.
    pub worked: Duration,
    /// How often the service has failed on it.
    pub service_failures: u32,
    /// Counts it as held by this node.
    pub held: Option<Held>,
}

impl Item {
    /// Begins the story of a message that has just been taken.
    pub fn new(delivery: Delivery, now: Timestamp) -> Self {
        let mut timeline = Timeline::default();
        timeline.note(delivery.job.first_seen, Stage::accepted(&delivery.job));
        let waited = now.since(delivery.job.first_seen);
        let is_first_try = delivery.tries == 0 && delivery.replay == 0;
        if is_first_try && !delivery.redelivered && waited >= QUEUE_PACE {
            timeline.note(now, Stage::Waited { on: Wait::Queue, ms: millis(waited) });
        }
        timeline.note(now, Stage::Taken);
        let alone = delivery.tries > 0 || delivery.replay > 0 || delivery.job.kind.text().is_none();
        Self {
            delivery,
            timeline,
            is_story_known: is_first_try,
            arrived: now,
            alone,
            superseded: false,
            worked: Duration::ZERO,
            service_failures: 0,
            held: None,
        }
    }

    /// Its story goes on where an earlier try ended.
    pub fn go_on(&mut self, earlier: Timeline) {
        self.timeline.go_on(earlier);
        self.is_story_known = true;
    }

    /// Somebody has worked on it: from now on the ledger is asked before anything is done.
    pub fn touched(mut self) -> Self {
        self.delivery.redelivered = true;
        self
    }

    /// The order of G3; of messages received in the same millisecond, the order of their ids, which Zendesk counts up.
    pub fn order(&self) -> (Timestamp, u32, &str) {
        let job = &self.delivery.job;
        (job.received, job.position, job.message.as_str())
    }
}

/// What is being done with what is in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting; for what, and when (monotonic) it will look again at the latest.
    Waiting(Wait, Option<Duration>),
    /// Being looked up: ledger, holder, history.
    Preparing,
    /// The AI service is being asked.
    Ai,
    /// The last look before posting.
    Look,
    /// Being posted.
    Post,
}

impl Phase {
    /// Whether time limits run in this phase (design rule 12).
    pub fn is_timed(self) -> bool {
        matches!(self, Self::Ai | Self::Look | Self::Post)
    }

    /// The phase in a word.
    pub fn name(self) -> String {
        match self {
            Self::Waiting(wait, _) => {
                format!("waiting:{}", serde_json::to_string(&wait).unwrap_or_default().trim_matches('"'))
            }
            Self::Preparing => "preparing".into(),
            Self::Ai => "ai".into(),
            Self::Look => "look".into(),
            Self::Post => "post".into(),
        }
    }
}

/// What is in hand.
pub struct Hand {
    /// The burst, in order.
    pub items: Vec<Item>,
    /// What is being done with it.
    pub phase: Phase,
    /// Since when (monotonic).
    pub since: Duration,
    /// Time spent in timed phases before that one.
    pub worked: Duration,
    /// Cancels the AI call when the soft time limit is over.
    pub soft_limit: CancellationToken,
    /// When the watchdog has killed the actor (monotonic).
    pub killed_at: Option<Duration>,
    /// What is done with it, as part of a trace.
    pub span: Span,
}

impl Hand {
    /// A burst that has just been taken in hand.
    pub fn new(items: Vec<Item>, now: Duration) -> Self {
        Self {
            worked: items.iter().map(|item| item.worked).max().unwrap_or_default(),
            items,
            phase: Phase::Preparing,
            since: now,
            soft_limit: CancellationToken::new(),
            killed_at: None,
            span: Span::default(),
        }
    }

    /// It has failed: whoever tries its head again will know by which attempt.
    pub fn fail(&mut self, cause: &str) {
        self.span.fail(reason::cause(cause));
        if let Some(head) = self.items.first_mut() {
            head.delivery.attempt = self.span.context();
        }
    }

    /// Begins a phase. A wait that ends with it is noted, whatever it was for: so none is left unattributed (G10).
    pub fn enter(&mut self, phase: Phase, now: Duration, wall: Timestamp) {
        self.worked = self.worked(now);
        let waiting_for = |phase| if let Phase::Waiting(on, _) = phase { Some(on) } else { None };
        let before = waiting_for(self.phase);
        let goes_on = before.is_some() && before == waiting_for(phase);
        self.phase = phase;
        if goes_on {
            return;
        }
        let waited = millis(now.saturating_sub(self.since));
        self.since = now;
        if let (Some(on), 1..) = (before, waited) {
            self.note(wall, &Stage::Waited { on, ms: waited });
        }
    }

    /// The time spent in timed phases so far; waits do not count (design rule 12).
    pub fn worked(&self, now: Duration) -> Duration {
        let running = if self.phase.is_timed() { now.saturating_sub(self.since) } else { Duration::ZERO };
        self.worked + running
    }

    /// The service has failed after so long: not the message's fault, so not on its account (G5).
    pub fn forgive(&mut self, took: Duration, now: Duration, wall: Timestamp) {
        self.enter(self.phase, now, wall);
        self.worked = self.worked.saturating_sub(took);
    }

    /// Notes a stage in the story of each message.
    pub fn note(&mut self, at: Timestamp, stage: &Stage) {
        self.items.iter_mut().for_each(|item| item.timeline.note(at, stage.clone()));
    }
}
