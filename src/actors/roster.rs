//! A card for each actor: what it is, what it has done, what befell it. Kept outside the actors, so that a stuck or
//! dead one is seen and not waited for.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    durations::Durations,
    stamp::{Busy, Stamp},
};
use crate::{
    domain::time::{Timestamp, rfc3339},
    guard::bell::Bell,
    telemetry::Clock,
};

/// The longest cause kept, in bytes.
const REASON_BYTES_MAX: usize = 512;

/// What an actor is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[schema(as = ActorState)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not running yet, or waiting to be started again.
    Starting,
    /// Running.
    Running,
    /// Ended, and not to be started again.
    Stopped,
}

impl State {
    /// All states, for metrics that start at zero.
    pub const ALL: [Self; 3] = [Self::Starting, Self::Running, Self::Stopped];

    /// The state as label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// How an actor failed last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastFailure {
    /// When, RFC 3339.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The panic's text, the error, or which time limit it broke.
    pub reason: String,
    /// The message it had in hand, if it was one's fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
}

/// A failure made on purpose (`POST /admin/actors/{path}/crash`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
pub struct Fault {
    /// How to fail.
    pub mode: FaultMode,
    /// For how long to block; 1 s if not told.
    #[serde(default)]
    pub ms: Option<u64>,
}

/// How to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FaultMode {
    /// Panic.
    Panic,
    /// Return an error from the handler.
    Error,
    /// Wait for ever.
    Hang,
    /// Occupy the thread.
    Block,
}

/// An actor's card.
pub struct Card {
    /// The actor's place in the tree, such as `node/guards/breaker/primary`.
    pub path: String,
    /// What kind of actor it is, as label value.
    pub kind: &'static str,
    state: AtomicU8,
    started: AtomicI64,
    handled: AtomicU64,
    failed: AtomicU64,
    restarts: AtomicU64,
    starts: AtomicU64,
    zombies: AtomicU64,
    waiting: AtomicUsize,
    last_failure: Mutex<Option<LastFailure>>,
    fault: Mutex<Option<Fault>>,
    /// What the actor has in hand, for the watchdog.
    pub(super) stamp: Stamp,
    /// Wakes the actor, so that it meets a fault ordered for it.
    pub bell: Bell,
}

impl Card {
    fn new(path: &str, kind: &'static str, clock: Clock, durations: &Durations) -> Self {
        Self {
            path: path.to_owned(),
            kind,
            state: AtomicU8::new(0),
            started: AtomicI64::new(0),
            handled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            starts: AtomicU64::new(0),
            zombies: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            last_failure: Mutex::new(None),
            fault: Mutex::new(None),
            stamp: Stamp::new(clock, durations.of(kind)),
            bell: Bell::default(),
        }
    }

    /// The actor runs.
    pub fn started(&self, now: Timestamp) {
        self.started.store(now.0, Ordering::Relaxed);
        self.starts.fetch_add(1, Ordering::Relaxed);
        self.set_state(State::Running);
    }

    /// The actor has ended for good.
    pub fn stopped(&self) {
        self.stamp.clear();
        self.set_state(State::Stopped);
    }

    /// The actor failed and will be started again.
    pub fn failed(&self, now: Timestamp, reason: &str) {
        self.stamp.clear();
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.restarts.fetch_add(1, Ordering::Relaxed);
        *self.last_failure.lock() = Some(LastFailure { at: now, reason: shortened(reason), message_id: None });
        self.set_state(State::Starting);
    }

    /// An incarnation blocks its thread and was replaced; it may end some day.
    pub fn outlived(&self) {
        self.zombies.fetch_add(1, Ordering::Relaxed);
    }

    /// The actor is at something until the guard is dropped; too long, and the watchdog has it killed.
    pub fn begin(&self, what: &'static str) -> Busy<'_> {
        self.stamp.begin(what, None)
    }

    /// The actor has handled so many things more.
    pub fn handled(&self, count: u64) {
        self.handled.fetch_add(count, Ordering::Relaxed);
    }

    /// So many things wait for the actor.
    pub fn waiting(&self, count: usize) {
        self.waiting.store(count, Ordering::Relaxed);
    }

    /// Orders a failure, met with the next thing the actor handles.
    pub fn order(&self, fault: Fault) {
        *self.fault.lock() = Some(fault);
        self.bell.ring();
    }

    /// Meets a failure that was ordered. The error says that the actor is broken.
    pub async fn meet_fault(&self) -> Result<(), Ordered> {
        let fault = self.fault.lock().take();
        let _in_hand = self.begin("a failure on purpose");
        match fault {
            Some(fault) => fault.strike().await,
            None => Ok(()),
        }
    }

    fn set_state(&self, state: State) {
        let code = State::ALL.iter().position(|known| *known == state).unwrap_or(0);
        self.state.store(code as u8, Ordering::Relaxed);
    }

    /// What the card says now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            path: self.path.clone(),
            kind: self.kind.to_owned(),
            state: State::ALL[usize::from(self.state.load(Ordering::Relaxed)) % State::ALL.len()],
            generation: self.starts.load(Ordering::Relaxed),
            in_hand: self.stamp.in_hand().map(|(phase, age)| InHandView {
                message_id: None,
                conversation_id: None,
                phase: phase.to_owned(),
                age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            }),
            waiting: self.waiting.load(Ordering::Relaxed),
            handled: self.handled.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            restarts: self.restarts.load(Ordering::Relaxed),
            zombies: self.zombies.load(Ordering::Relaxed),
            last_failure: self.last_failure.lock().clone(),
            started_at: Some(self.started.load(Ordering::Relaxed))
                .filter(|at| *at > 0)
                .map(|at| Timestamp(at).to_rfc3339()),
            children_total: 0,
            children: Vec::new(),
        }
    }
}

fn shortened(text: &str) -> String {
    let end = (0..=REASON_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

/// A failure that was ordered.
#[derive(Debug, thiserror::Error)]
#[error("a failure was ordered")]
pub struct Ordered;

impl Fault {
    /// Fails as ordered.
    pub async fn strike(self) -> Result<(), Ordered> {
        match self.mode {
            FaultMode::Panic => panic!("a panic was ordered"),
            FaultMode::Error => Err(Ordered),
            FaultMode::Hang => std::future::pending().await,
            FaultMode::Block => {
                std::thread::sleep(Duration::from_millis(self.ms.unwrap_or(1_000)));
                // Who was replaced meanwhile ends at its next wait. This is one: else it would take the successor's work
                // with it, which the sender has to send again.
                tokio::task::yield_now().await;
                Ok(())
            }
        }
    }
}

/// What is in an actor's hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InHandView {
    /// The message; the head of a burst.
    pub message_id: Option<String>,
    /// Its conversation.
    pub conversation_id: Option<String>,
    /// What is being done with it.
    pub phase: String,
    /// For how long, in milliseconds.
    pub age_ms: u64,
}

/// An actor and those below it, as the admin endpoint shows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Actor)]
pub struct Snapshot {
    /// Its place in the tree.
    pub path: String,
    /// What kind of actor it is.
    pub kind: String,
    /// What it is doing.
    pub state: State,
    /// Which of its incarnations runs, or ran last.
    pub generation: u64,
    /// What it has in hand.
    pub in_hand: Option<InHandView>,
    /// How many things wait for it.
    pub waiting: usize,
    /// How many it has handled.
    pub handled: u64,
    /// How often it failed.
    pub failed: u64,
    /// How often it was started again.
    pub restarts: u64,
    /// Incarnations that blocked and were replaced.
    pub zombies: u64,
    /// How it failed last.
    pub last_failure: Option<LastFailure>,
    /// When it was started, RFC 3339.
    pub started_at: Option<String>,
    /// How many children it has; more than are listed when the list is paged.
    pub children_total: usize,
    /// Those below it.
    #[schema(no_recursion)]
    pub children: Vec<Snapshot>,
}

/// All cards of a node.
pub struct Roster {
    cards: Mutex<BTreeMap<String, Arc<Card>>>,
    /// The clock that dates what is noted.
    pub clock: Clock,
    /// How long actors are busy.
    pub durations: Durations,
}

impl Roster {
    /// Begins without cards.
    pub fn new(clock: Clock) -> Self {
        Self { cards: Mutex::default(), durations: Durations::new(), clock }
    }

    /// The card of the actor at `path`; an actor that is started again finds its old one.
    pub fn card(&self, path: &str, kind: &'static str) -> Arc<Card> {
        let mut cards = self.cards.lock();
        let card = || Arc::new(Card::new(path, kind, self.clock.clone(), &self.durations));
        cards.entry(path.to_owned()).or_insert_with(card).clone()
    }

    /// The card at a path, if there is one.
    pub fn find(&self, path: &str) -> Option<Arc<Card>> {
        self.cards.lock().get(path).cloned()
    }

    /// All cards, by path.
    pub fn all(&self) -> Vec<Arc<Card>> {
        self.cards.lock().values().cloned().collect()
    }

    /// The cards as a tree. Paths are sorted, so each parent comes before its children.
    pub fn tree(&self) -> Option<Snapshot> {
        let mut flat: Vec<Snapshot> = self.all().iter().map(|card| card.snapshot()).collect();
        while let Some(last) = flat.pop() {
            let parent = flat.iter_mut().rev().find(|above| last.path.starts_with(&format!("{}/", above.path)));
            match parent {
                Some(parent) => {
                    parent.children.insert(0, last);
                    parent.children_total = parent.children.len();
                }
                None => return Some(last),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn cards_form_a_tree_and_keep_their_history() {
        let roster = Roster::new(Clock::system());
        for path in ["node", "node/guards", "node/guards/breaker/a", "node/guards/limiter/a", "node/retry"] {
            roster.card(path, "x").started(Timestamp(1));
        }
        roster.card("node/retry", "x").failed(Timestamp(2), &"é".repeat(1_000));
        let tree = roster.tree().unwrap();
        let names: Vec<_> = tree.children.iter().map(|child| child.path.as_str()).collect();
        assert_eq!(names, ["node/guards", "node/retry"]);
        assert_eq!(tree.children[0].children.len(), 2);
        assert_eq!(tree.children[1].restarts, 1);
        assert!(tree.children[1].last_failure.as_ref().unwrap().reason.len() <= REASON_BYTES_MAX);
    }

    #[tokio::test]
    async fn an_ordered_fault_is_met_once() {
        let roster = Roster::new(Clock::system());
        let card = roster.card("node", "x");
        card.order(Fault { mode: FaultMode::Error, ms: None });
        assert!(card.meet_fault().await.is_err());
        assert!(card.meet_fault().await.is_ok());
    }
}
