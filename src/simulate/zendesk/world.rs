//! All conversations of the simulated Zendesk and what was counted about them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::clock::{Ids, timestamp, wall_ms};
use super::control::Switchboard;
use super::conversation::{Conversation, State};
use super::refusal::Refusal;
use super::webhooks::Errand;
use super::{Behaviour, Options};
use crate::simulate::dial::Dial;
use crate::simulate::latency::Histogram;
use crate::simulate::quota::Quotas;
use crate::simulate::reference::Reference;

/// An acceptance and a reply to a later message that cross on the wire within this time have no order: the daemon that
/// posts cannot know yet what another of its tasks has just stored.
const CROSSING_US: u64 = 50_000;

/// The state behind a running simulator. Conversations lock alone; nothing is locked for all of them.
pub struct World {
    /// What the simulator was started with.
    pub options: Options,
    /// What it does wrong on purpose.
    pub dial: Dial<Behaviour>,
    /// Both integrations.
    pub board: Switchboard,
    /// Where webhooks go; none: no webhooks.
    pub targets: ArcSwap<Vec<reqwest::Url>>,
    /// Counts since the start or the last reset.
    pub counters: Counters,
    /// From a message to its first reply.
    pub latency: Histogram,
    /// Makes ids.
    pub ids: Ids,
    /// The quota of posted messages.
    pub throttle: Mutex<Quotas>,
    /// The expected `Authorization` header.
    pub authorization: String,
    /// Held by the one merge under way.
    pub merging: Mutex<()>,
    /// Messages that will be stored late.
    pub late: AtomicUsize,
    conversations: DashMap<String, Arc<Conversation>>,
    errands: UnboundedSender<Errand>,
    room: Arc<Semaphore>,
    tick: AtomicU64,
    next_reference: AtomicU64,
    started: Instant,
}

/// Plain counts; see [`super::Stats`] for their meaning.
#[derive(Default)]
pub struct Counters {
    pub webhook_attempts: AtomicU64,
    pub webhook_failed_attempts: AtomicU64,
    pub webhook_failures_final: AtomicU64,
    pub webhooks_dropped: AtomicU64,
    pub posts: AtomicU64,
    pub posts_while_human: AtomicU64,
    pub activities: AtomicU64,
    pub passes: AtomicU64,
    pub api_requests: AtomicU64,
    pub api_errors_injected: AtomicU64,
    pub throttled: AtomicU64,
}

impl Counters {
    /// Every counter, for reading and clearing.
    pub fn all(&self) -> [&AtomicU64; 11] {
        [
            &self.webhook_attempts,
            &self.webhook_failed_attempts,
            &self.webhook_failures_final,
            &self.webhooks_dropped,
            &self.posts,
            &self.posts_while_human,
            &self.activities,
            &self.passes,
            &self.api_requests,
            &self.api_errors_injected,
            &self.throttled,
        ]
    }
}

/// How a conversation begins.
pub struct Opening {
    /// Its id; a new one when absent.
    pub id: Option<String>,
    /// The customer's id; a new one when absent.
    pub user_id: Option<String>,
    /// `personal` or `sdkGroup`.
    pub kind: &'static str,
    /// Flat metadata.
    pub metadata: Option<Map<String, Value>>,
    /// Why it began, in Zendesk's words.
    pub reason: &'static str,
}

impl World {
    /// A world without conversations, and the errands its sender has to run.
    pub fn new(options: Options, authorization: String) -> (Arc<Self>, UnboundedReceiver<Errand>) {
        let (errands, to_run) = unbounded_channel();
        let board = Switchboard { bot: options.bot.clone(), agent: options.agent.clone() };
        let room = Arc::new(Semaphore::new(options.webhook_queue_max));
        let world = Self {
            options,
            dial: Dial::default(),
            board,
            targets: ArcSwap::default(),
            counters: Counters::default(),
            latency: Histogram::default(),
            ids: Ids::default(),
            throttle: Mutex::default(),
            authorization,
            merging: Mutex::new(()),
            late: AtomicUsize::new(0),
            conversations: DashMap::new(),
            errands,
            room,
            tick: AtomicU64::new(1),
            next_reference: AtomicU64::new(1),
            started: Instant::now(),
        };
        (Arc::new(world), to_run)
    }

    /// The conversation with this id; one that was merged leads to where it went, unless the behaviour forbids it.
    pub fn conversation(&self, id: &str) -> Option<Arc<Conversation>> {
        let conversation = self.conversations.get(id).map(|entry| entry.value().clone())?;
        let moved = conversation.state.lock().moved_to.is_some();
        (!moved || !self.dial.get().merge_closes).then_some(conversation)
    }

    /// The conversation with this id, opened if there is none; `Some(true)` beside it when it is new.
    ///
    /// # Errors
    /// 429 when there are as many conversations as the options allow.
    pub fn open(&self, opening: Opening) -> Result<(Arc<Conversation>, bool), Refusal> {
        let id = opening.id.unwrap_or_else(|| self.ids.next());
        if let Some(known) = self.conversations.get(&id) {
            return Ok((known.value().clone(), false));
        }
        if self.conversations.len() >= self.options.conversations_max {
            return Err(Refusal::new(429, "too_many_conversations", "conversations_max is reached"));
        }
        let conversation = Arc::new(Conversation {
            id: id.clone(),
            user_id: opening.user_id.unwrap_or_else(|| self.ids.next()),
            kind: opening.kind,
            metadata: opening.metadata,
            created_at: timestamp(wall_ms()),
            state: Mutex::new(State::default()),
        });
        let mut new = false;
        let entry = self.conversations.entry(id).or_insert_with(|| {
            new = true;
            conversation
        });
        Ok((entry.value().clone(), new))
    }

    /// Whether this is a conversation of the present, not one that was forgotten by a reset.
    pub fn knows(&self, conversation: &Arc<Conversation>) -> bool {
        self.conversations.get(&conversation.id).is_some_and(|entry| Arc::ptr_eq(entry.value(), conversation))
    }

    /// All conversations, merged ones included.
    pub fn conversations(&self) -> Vec<Arc<Conversation>> {
        self.conversations.iter().map(|entry| entry.value().clone()).collect()
    }

    /// Runs `act` under the lock of the conversation, or of the one into which it was merged.
    pub fn with<R>(
        &self,
        conversation: &Arc<Conversation>,
        act: impl FnOnce(&Arc<Conversation>, &mut State) -> R,
    ) -> R {
        let mut current = conversation.clone();
        loop {
            let mut state = current.state.lock();
            let Some(next) = state.moved_to.clone() else { return act(&current, &mut state) };
            drop(state);
            current = next;
        }
    }

    /// The delivery of these references has ended.
    pub fn delivered(&self, conversation: &Arc<Conversation>, references: &[Reference], accepted: bool) {
        if references.is_empty() {
            return;
        }
        let accepted = accepted.then(|| self.tick() + CROSSING_US);
        self.with(conversation, |_, state| state.judge.delivered(references, accepted));
    }

    /// The next moment of the judge's clock: microseconds, and no two moments are the same.
    pub fn tick(&self) -> u64 {
        let now = self.now_us();
        let before = self.tick.fetch_update(Relaxed, Relaxed, |last| Some(now.max(last + 1)));
        now.max(before.unwrap_or_default() + 1)
    }

    /// Microseconds since the simulator started.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A reference nobody has used.
    pub fn next_reference(&self) -> Reference {
        Reference(self.next_reference.fetch_add(1, Relaxed) as u32)
    }

    /// Waits for a place in the queue of webhooks.
    pub async fn room(&self) -> OwnedSemaphorePermit {
        self.room.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// A place in the queue of webhooks, if one is free.
    pub fn room_now(&self) -> Option<OwnedSemaphorePermit> {
        self.room.clone().try_acquire_owned().ok()
    }

    /// Webhooks waiting or being tried.
    pub fn queued(&self) -> usize {
        self.options.webhook_queue_max - self.room.available_permits()
    }

    /// Gives the sender something to do; without a sender (the simulator has stopped) nothing happens.
    pub fn send(&self, errand: Errand) {
        let _ = self.errands.send(errand);
    }

    /// Back to the start: no conversations, no counts, a healthy behaviour.
    pub fn reset(&self) {
        for conversation in self.conversations() {
            conversation.state.lock().outbox.clear();
        }
        self.send(Errand::Forget);
        self.conversations.clear();
        self.counters.all().into_iter().for_each(|counter| counter.store(0, Relaxed));
        self.latency.clear();
        *self.throttle.lock() = Quotas::default();
        self.dial.set(Behaviour::default());
    }
}
