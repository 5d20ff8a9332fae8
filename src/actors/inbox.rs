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

use super::{
    conversation,
    hand::{Hand, Item},
    roster::{Fault, InHandView, LastFailure, Snapshot, State},
};
use crate::{
    domain::{
        burst::Fragment,
        ids::{ConversationId, UserId},
        job::Kind,
        time::Timestamp,
    },
    state::Away,
};

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
    /// How often one blocked its thread and was replaced.
    pub zombies: u64,
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

    /// How often an actor failed here, and a message.
    pub fn sums(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.restarts, inner.failed)
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
            generation: inner.generation,
            in_hand,
            waiting: inner.inbox.len(),
            handled: inner.handled,
            failed: inner.failed,
            restarts: inner.restarts,
            zombies: inner.zombies,
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
        self.hand = Some(Hand::new(items, now));
        self.active_at = now;
    }

    /// Puts items back into the inbox, each at its place.
    pub fn put_back(&mut self, items: impl IntoIterator<Item = Item>) {
        for item in items {
            let place = self.inbox.partition_point(|waiting| waiting.order() <= item.order());
            self.inbox.insert(place, item);
        }
    }

    /// A message in hand whose tag is void has been delivered again: the newer tag takes its place, and the work goes on.
    /// Returns what is not such a one.
    pub fn renew_in_hand(&mut self, item: Item) -> Option<Item> {
        let (id, replay) = (&item.delivery.job.id, item.delivery.replay);
        let is_same = |held: &&mut Item| {
            held.delivery.job.id == *id && held.delivery.replay == replay && held.delivery.is_withdrawn()
        };
        match self.hand.as_mut().and_then(|hand| hand.items.iter_mut().find(is_same)) {
            Some(held) => {
                held.delivery = item.delivery;
                None
            }
            None => Some(item),
        }
    }

    /// Lets go of what waits and has become somebody else's.
    pub fn let_go(&mut self) {
        self.inbox.retain(|item| !item.delivery.is_withdrawn());
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

    /// Whether a message of this customer waits or is in hand.
    pub fn holds_message_of(&self, user: &UserId) -> bool {
        let in_hand = self.hand.iter().flat_map(|hand| &hand.items);
        self.inbox.iter().chain(in_hand).any(|item| item.kind().user() == Some(user))
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
