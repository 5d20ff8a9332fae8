//! The sender of webhooks, with Zendesk's rules for failures.
//!
//! A delivery has 20 s for an answer and at most 5 attempts within 15 minutes with doubling gaps; 400, 401, 403, 404
//! and 406 are final, any 2xx is success. A repeated event keeps its id. The deliveries of one conversation go one
//! after another; after a failed attempt the next one goes first. Different conversations are sent concurrently.
//!
//! ```text
//! outbox of a conversation -> ready -> attempt (bounded) -+-> accepted
//!            ^                                            +-> final: given up
//!            '----------- later (by time) <---------------'   failed
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::conversation::Conversation;
use super::draft::Draft;
use super::world::World;
use crate::simulate::reference::Reference;

/// Statuses after which Zendesk does not try again (its specification of webhooks).
const FINAL: [u16; 5] = [400, 401, 403, 404, 406];
/// The longest pause between two attempts, however many there were.
const GAP_DOUBLINGS_MAX: u32 = 16;

/// One event on its way to the daemon.
pub struct Delivery {
    /// The whole body.
    pub body: Bytes,
    /// The references of the customer's message in it.
    pub references: Vec<Reference>,
    /// Attempts made.
    pub attempts: u32,
    /// When the first attempt began.
    pub first_at: Option<Instant>,
    /// Its place in the bounded queue.
    pub _room: OwnedSemaphorePermit,
}

/// What the sender is asked to do. The channel needs no bound of its own: a conversation is in it at most once, and
/// late messages are counted.
pub enum Errand {
    /// This conversation has something to send.
    Ready(Arc<Conversation>),
    /// This message is to be stored later.
    StoreAt(Instant, Arc<Conversation>, Box<Draft>),
    /// Everything planned is to be forgotten.
    Forget,
}

enum Later {
    Send(Arc<Conversation>, Delivery),
    Store(Arc<Conversation>, Box<Draft>),
}

enum Outcome {
    Accepted,
    Final,
    Failed,
}

struct Sender {
    world: Arc<World>,
    client: reqwest::Client,
    ready: VecDeque<Arc<Conversation>>,
    later: BTreeMap<(Instant, u64), Later>,
    planned: u64,
    attempts: JoinSet<(Arc<Conversation>, Delivery, Outcome)>,
}

/// Sends webhooks until it is aborted.
pub async fn run(world: Arc<World>, client: reqwest::Client, mut errands: UnboundedReceiver<Errand>) {
    let (ready, later) = (VecDeque::new(), BTreeMap::new());
    let mut sender = Sender { world, client, ready, later, planned: 0, attempts: JoinSet::new() };
    loop {
        sender.start_attempts();
        let due = sender.later.first_key_value().map(|((at, _), _)| *at);
        tokio::select! {
            Some(done) = sender.attempts.join_next() => {
                let (conversation, delivery, outcome) = done.expect("an attempt neither panics nor is aborted");
                sender.settle(conversation, delivery, outcome);
            }
            Some(errand) = errands.recv() => sender.take(errand),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => sender.act_on_due(),
        }
    }
}

impl Sender {
    fn take(&mut self, errand: Errand) {
        match errand {
            Errand::Ready(conversation) => self.ready.push_back(conversation),
            Errand::StoreAt(at, conversation, draft) => self.plan(at, Later::Store(conversation, draft)),
            Errand::Forget => self.forget(),
        }
    }

    fn forget(&mut self) {
        let planned = std::mem::take(&mut self.later);
        let late = planned.values().filter(|later| matches!(later, Later::Store(..))).count();
        self.world.late.fetch_sub(late, Relaxed);
    }

    fn plan(&mut self, at: Instant, later: Later) {
        self.planned += 1;
        self.later.insert((at, self.planned), later);
    }

    fn act_on_due(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Later::Send(conversation, delivery) => {
                    let mut state = conversation.state.lock();
                    // A repeated event is older than what waits behind it.
                    state.outbox.push_front(delivery);
                    let idle = !std::mem::replace(&mut state.sending, true);
                    drop(state);
                    if idle {
                        self.ready.push_back(conversation);
                    }
                }
                Later::Store(conversation, draft) => self.world.store_late(&conversation, &draft),
            }
        }
    }

    fn start_attempts(&mut self) {
        while self.attempts.len() < self.world.options.webhook_concurrency {
            let Some(conversation) = self.ready.pop_front() else { return };
            let mut state = conversation.state.lock();
            let Some(mut delivery) = state.outbox.pop_front() else {
                state.sending = false;
                continue;
            };
            drop(state);
            delivery.attempts += 1;
            delivery.first_at.get_or_insert_with(Instant::now);
            self.world.counters.webhook_attempts.fetch_add(1, Relaxed);
            let answer = self.attempt(&conversation.id, delivery.attempts, delivery.body.clone());
            self.attempts.spawn(async move {
                let outcome = answer.await;
                (conversation, delivery, outcome)
            });
        }
    }

    fn attempt(&self, conversation: &str, attempt: u32, body: Bytes) -> impl Future<Output = Outcome> + Send + 'static {
        let options = &self.world.options;
        let secret = HeaderValue::from_str(&options.webhook_secret).unwrap_or(HeaderValue::from_static(""));
        let timeout = options.webhook_timeout;
        let targets = self.world.targets.load_full();
        let home: usize = conversation.bytes().map(usize::from).sum();
        let turn = home + attempt as usize - 1;
        let request = targets.get(turn.checked_rem(targets.len()).unwrap_or(0)).map(|target| {
            let json = HeaderValue::from_static("application/json");
            self.client.post(target.clone()).header("x-api-key", secret).header(CONTENT_TYPE, json)
        });
        async move {
            let Some(request) = request else { return Outcome::Failed };
            match request.timeout(timeout).body(body).send().await {
                Ok(answer) => read(answer).await,
                Err(_) => Outcome::Failed,
            }
        }
    }

    fn settle(&mut self, conversation: Arc<Conversation>, delivery: Delivery, outcome: Outcome) {
        if !self.world.knows(&conversation) {
            // The simulator was reset during the attempt; the event belongs to what was forgotten.
            return;
        }
        match outcome {
            Outcome::Accepted => self.world.delivered(&conversation, &delivery.references, true),
            Outcome::Final => self.give_up(&conversation, &delivery),
            Outcome::Failed => self.try_again(&conversation, delivery),
        }
        self.ready.push_back(conversation);
    }

    fn try_again(&mut self, conversation: &Arc<Conversation>, delivery: Delivery) {
        let options = &self.world.options;
        let gap = options.webhook_retry_base * (1 << (delivery.attempts - 1).min(GAP_DOUBLINGS_MAX));
        let at = Instant::now() + gap;
        let within = delivery.first_at.is_none_or(|first| at.duration_since(first) <= options.webhook_retry_window);
        self.world.counters.webhook_failed_attempts.fetch_add(1, Relaxed);
        if within && delivery.attempts < options.webhook_attempts_max {
            self.plan(at, Later::Send(conversation.clone(), delivery));
        } else {
            self.give_up(conversation, &delivery);
        }
    }

    fn give_up(&self, conversation: &Arc<Conversation>, delivery: &Delivery) {
        self.world.counters.webhook_failures_final.fetch_add(1, Relaxed);
        self.world.delivered(conversation, &delivery.references, false);
    }
}

/// Judges the status and reads the body to its end, so that the connection can be used again.
async fn read(mut answer: reqwest::Response) -> Outcome {
    let status = answer.status();
    while let Ok(Some(_)) = answer.chunk().await {}
    match status.as_u16() {
        200..=299 => Outcome::Accepted,
        code if FINAL.contains(&code) => Outcome::Final,
        _ => Outcome::Failed,
    }
}

/// The client of the sender: keep-alive, no redirects (a 3xx is no success), no proxy of the environment.
///
/// # Errors
/// When the TLS backend cannot be set up.
pub fn client(concurrency: usize) -> reqwest::Result<reqwest::Client> {
    // The first provider installed in the process stays; a second attempt is not a fault.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(concurrency)
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .build()
}
