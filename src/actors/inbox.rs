//! The inboxes of conversations. They lie outside the actors: ractor drops the message in hand and the whole mailbox
//! of an actor that fails, so an actor's mailbox carries only a bell, and what waits and what is in hand survive it.
//!
//! ```text
//! consumer --deliver--> Directory -> Cell { inbox, hand, generation } <--take, finish-- conversation actor
//!                                              ^-- reclaim -- supervisor, watchdog
//! ```

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use ractor::ActorRef;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    conversation,
    directory::Held,
    roster::{Fault, InHandView, LastFailure, Snapshot, State},
};
use crate::{
    broker::Delivery,
    domain::{
        burst::Fragment,
        ids::ConversationId,
        job::Kind,
        time::Timestamp,
        timeline::{Stage, Timeline, Wait, millis},
    },
    state::Away,
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
        timeline.note(delivery.job.first_seen, Stage::Accepted);
        let waited = now.since(delivery.job.first_seen);
        let is_first_try = delivery.tries == 0;
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
    fn order(&self) -> (Timestamp, u32, &str) {
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
}

impl Hand {
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

/// One conversation's inbox, and who works on it.
pub struct Cell {
    /// The conversation.
    pub id: ConversationId,
    inner: Mutex<Inner>,
    /// Rung when something arrives, for an actor that waits with something in hand.
    pub arrived: Notify,
}

/// What a lock on a cell guards; public within `actors` for the few who take decisions on it.
#[derive(Default)]
pub struct Inner {
    /// What waits, in the order of G3.
    pub inbox: VecDeque<Item>,
    /// What is in hand.
    pub hand: Option<Hand>,
    /// Counts incarnations of the actor; what an older one brings is not taken.
    pub generation: u64,
    /// The actor, if one runs.
    pub actor: Option<ActorRef<conversation::Message>>,
    /// A message whose retry is awaited before anything else is taken.
    pub away: Option<Away>,
    /// The newest message answered, for telling that an older one comes late.
    pub answered: Option<(Timestamp, u32)>,
    /// Restarts since the last success.
    pub crashes_in_a_row: usize,
    /// The conversation this one was merged into.
    pub alias: Option<ConversationId>,
    /// How often an actor failed here.
    pub restarts: u64,
    /// A failure ordered for the next message.
    pub fault: Option<Fault>,
    /// Why the watchdog killed the actor.
    pub killed_for: Option<String>,
    /// The customer or the conversation was removed.
    pub removed: bool,
    starting: bool,
    rung: bool,
    active_at: Duration,
    handled: u64,
    failed: u64,
    started: Option<Timestamp>,
    last_failure: Option<LastFailure>,
}

impl Cell {
    /// An empty inbox.
    pub fn new(id: ConversationId) -> Self {
        Self { id, inner: Mutex::default(), arrived: Notify::new() }
    }

    /// Gives access to what it holds. The lock is held for moments and never across an await.
    pub fn lock(&self) -> parking_lot::MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Lets the actor, if there is one, look at the inbox.
    pub fn ring(&self) {
        self.inner.lock().ring();
        self.arrived.notify_one();
    }

    /// What it looks like from outside.
    pub fn snapshot(&self, now: Duration) -> Snapshot {
        let inner = self.inner.lock();
        let in_hand = inner.hand.as_ref().and_then(|hand| {
            Some(InHandView {
                message_id: Some(hand.items.first()?.delivery.job.message.to_string()),
                conversation_id: Some(self.id.to_string()),
                phase: hand.phase.name(),
                age_ms: u64::try_from(now.saturating_sub(hand.since).as_millis()).unwrap_or(u64::MAX),
            })
        });
        Snapshot {
            path: format!("node/conversations/{}", self.id),
            kind: "conversation".into(),
            state: if inner.actor.is_some() { State::Running } else { State::Starting },
            in_hand,
            waiting: inner.inbox.len(),
            handled: inner.handled,
            failed: inner.failed,
            restarts: inner.restarts,
            last_failure: inner.last_failure.clone(),
            started_at: inner.started.map(Timestamp::to_rfc3339),
            children_total: 0,
            children: Vec::new(),
        }
    }
}

impl Inner {
    /// Lets the actor, if there is one, look at the inbox.
    pub fn ring(&mut self) {
        if let (Some(actor), false) = (&self.actor, self.rung) {
            // A dead actor's successor looks at the inbox when it starts.
            self.rung = actor.cast(conversation::Message::Bell).is_ok();
        }
    }

    /// The actor has heard the bell.
    pub fn heard(&mut self) {
        self.rung = false;
    }

    /// Whether this incarnation is the one that counts.
    pub fn is_current(&self, generation: u64) -> bool {
        self.generation == generation
    }

    /// A new incarnation begins; the old one's results are not taken any more.
    pub fn begin_incarnation(&mut self, now: Timestamp) -> u64 {
        self.generation += 1;
        if let Some(hand) = self.hand.take() {
            // Left by one that was outlived.
            self.put_back(hand.items.into_iter().map(Item::touched));
        }
        self.starting = false;
        self.rung = false;
        self.started = Some(now);
        self.generation
    }

    /// The actor has failed or was given up; takes what it had in hand. Until [`Inner::begin_incarnation`] no other is
    /// asked for.
    pub fn bereave(&mut self) -> Option<Hand> {
        self.actor = None;
        // Whatever the old actor still does is not taken.
        self.generation += 1;
        self.restarts += 1;
        self.starting = true;
        self.crashes_in_a_row += 1;
        self.hand.take()
    }

    /// The supervisor has died, and the actor with it: what was in hand goes back unspent, for it did nothing wrong.
    /// `true` if there is work for a new one.
    pub fn adopt(&mut self) -> bool {
        self.actor = None;
        self.starting = true;
        // Whatever the old actor still does is not taken.
        self.generation += 1;
        if let Some(hand) = self.hand.take() {
            self.put_back(hand.items.into_iter().map(Item::touched));
        }
        let needed = !self.inbox.is_empty();
        self.starting = needed;
        needed
    }

    /// Marks that an actor has been asked for; `false` if one runs or has been.
    pub fn ask_for_actor(&mut self) -> bool {
        let needed = self.actor.is_none() && !self.starting;
        self.starting |= needed;
        needed
    }

    /// The messages waiting, as far as merging is concerned.
    pub fn fragments(&self) -> Vec<Fragment> {
        let fragment = |item: &Item| Fragment {
            first_seen: item.delivery.job.first_seen,
            alone: item.alone,
            superseded: item.superseded,
        };
        self.inbox.iter().take(crate::domain::burst::FRAGMENTS_MAX + 1).map(fragment).collect()
    }

    /// Takes the first `count` messages in hand.
    pub fn take(&mut self, count: usize, now: Duration) {
        let items: Vec<Item> = self.inbox.drain(..count.min(self.inbox.len())).collect();
        let worked = items.iter().map(|item| item.worked).max().unwrap_or_default();
        let soft_limit = CancellationToken::new();
        self.hand = Some(Hand { items, phase: Phase::Preparing, since: now, worked, soft_limit, killed_at: None });
        self.active_at = now;
    }

    /// Puts items back into the inbox, each at its place.
    pub fn put_back(&mut self, items: impl IntoIterator<Item = Item>) {
        for item in items {
            let place = self.inbox.partition_point(|waiting| waiting.order() <= item.order());
            self.inbox.insert(place, item);
        }
    }

    /// Counts what has been handled.
    pub fn count(&mut self, handled: usize, failure: Option<LastFailure>) {
        self.handled += handled as u64;
        if let Some(failure) = failure {
            self.failed += 1;
            self.last_failure = Some(failure);
        }
    }

    /// Whether a message waits that comes before what is in hand: it was delivered late, and is answered first (G3).
    pub fn is_preceded(&self) -> bool {
        let in_hand = self.hand.as_ref().and_then(|hand| hand.items.first()).map(Item::order);
        let waiting = self.inbox.front().map(Item::order);
        waiting.is_some() && waiting < in_hand
    }

    /// Something has happened.
    pub fn active(&mut self, now: Duration) {
        self.active_at = now;
    }

    /// Whether it can be put away: nothing waits, nothing is in hand, nothing has happened since `before`.
    pub fn is_idle(&self, before: Duration) -> bool {
        self.inbox.is_empty()
            && self.hand.is_none()
            && self.away.is_none()
            && !self.starting
            && !self.rung
            && self.active_at < before
    }
}

impl Item {
    /// What happened.
    pub fn kind(&self) -> &Kind {
        &self.delivery.job.kind
    }
}
