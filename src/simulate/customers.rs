//! Customers who write: many conversations, a steady rate, now and then a burst of fragments.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::chance;
use super::zendesk::Zendesk;

/// Bursts being written at once; beyond it a burst is written as a single message.
const BURSTS_MAX: usize = 1000;
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);
const TEXTS: [&str; 6] = [
    "Where is my order?",
    "The parcel arrived damaged, what now?",
    "Can I change the delivery address?",
    "How do I return this?",
    "I was charged twice!",
    "Is the blue one back in stock?",
];

/// What customers write.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Conversations among which messages are spread.
    pub conversations: usize,
    /// Messages per second over all of them; 0 is as fast as the webhooks' queue takes them.
    pub per_second: f64,
    /// Messages in all; none: until stopped.
    pub total: Option<u64>,
    /// The share of messages (0 to 1) that start a burst.
    pub burst_rate: f64,
    /// Messages of a burst.
    pub burst_fragments: u32,
    /// The span over which a burst is written.
    pub burst_within: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            conversations: 100,
            per_second: 50.0,
            total: None,
            burst_rate: 0.0,
            burst_fragments: 3,
            burst_within: Duration::from_secs(3),
        }
    }
}

/// Customers at work; dropping them ends their writing.
pub struct Customers {
    crowd: Arc<Crowd>,
    writing: Mutex<JoinSet<()>>,
}

struct Crowd {
    zendesk: Zendesk,
    plan: Plan,
    /// Conversations of one crowd share this prefix, so that two crowds do not meet.
    prefix: String,
    started: AtomicU64,
    written: AtomicU64,
}

impl Customers {
    /// Starts writing.
    pub fn start(zendesk: &Zendesk, plan: Plan) -> Self {
        let prefix = format!("{:016x}", rand::random::<u64>());
        let (started, written) = (AtomicU64::new(0), AtomicU64::new(0));
        let crowd = Arc::new(Crowd { zendesk: zendesk.clone(), plan, prefix, started, written });
        let mut writing = JoinSet::new();
        writing.spawn(crowd.clone().write());
        Self { crowd, writing: Mutex::new(writing) }
    }

    /// Messages written so far.
    pub fn written(&self) -> u64 {
        self.crowd.written.load(Relaxed)
    }

    /// The ids of the conversations.
    pub fn conversations(&self) -> Vec<String> {
        (0..self.crowd.plan.conversations.max(1)).map(|number| self.crowd.conversation(number)).collect()
    }

    /// Waits until the plan's total is written; false when it takes longer than `within`.
    pub async fn finished(&self, within: Duration) -> bool {
        within_time(within, || self.crowd.plan.total.is_some_and(|total| self.written() >= total)).await
    }

    /// Stops writing; bursts under way stay unfinished.
    pub async fn stop(&self) {
        let mut writing = std::mem::take(&mut *self.writing.lock());
        writing.shutdown().await;
    }

    /// Waits until every message of the simulator (those of other customers too) is answered, handed off or was
    /// refused by the daemon for good, and no webhook of one is under way; false when it takes longer than `within`.
    /// Says nothing about messages that are still to be written.
    pub async fn settled(&self, within: Duration) -> bool {
        settled(&self.crowd.zendesk, within).await
    }
}

/// Waits until nothing is owed to any customer of the simulator; false when it takes longer than `within`.
pub async fn settled(zendesk: &Zendesk, within: Duration) -> bool {
    within_time(within, || {
        let judged = zendesk.tally();
        judged.lost == 0 && judged.undelivered == 0
    })
    .await
}

async fn within_time(within: Duration, condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + within;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
    }
}

impl Crowd {
    fn conversation(&self, number: usize) -> String {
        format!("{}{number:08x}", self.prefix)
    }

    async fn write(self: Arc<Self>) {
        let mut bursts = JoinSet::new();
        let begun = Instant::now();
        while let Some(number) = self.next_number() {
            if self.plan.per_second > 0.0 {
                sleep_until(begun + Duration::from_secs_f64(number as f64 / self.plan.per_second)).await;
            }
            while bursts.try_join_next().is_some() {}
            let conversation = self.conversation(rand::rng().random_range(0..self.plan.conversations.max(1)));
            if bursts.len() < BURSTS_MAX && chance(self.plan.burst_rate) {
                bursts.spawn(self.clone().burst(conversation));
            } else {
                self.say(&conversation).await;
            }
        }
        while bursts.join_next().await.is_some() {}
    }

    /// The first message of a burst is counted already; the others take their numbers as they come.
    async fn burst(self: Arc<Self>, conversation: String) {
        let fragments = self.plan.burst_fragments.max(1);
        self.say(&conversation).await;
        for _ in 1..fragments {
            sleep(self.plan.burst_within / fragments).await;
            if self.next_number().is_none() {
                return;
            }
            self.say(&conversation).await;
        }
    }

    /// The number of the next message, while the total allows one.
    fn next_number(&self) -> Option<u64> {
        let total = self.plan.total.unwrap_or(u64::MAX);
        self.started.fetch_update(Relaxed, Relaxed, |started| (started < total).then_some(started + 1)).ok()
    }

    async fn say(&self, conversation: &str) {
        let reference = self.zendesk.next_reference();
        let text = TEXTS[reference.0 as usize % TEXTS.len()];
        self.zendesk.say(conversation, &format!("{text} {reference}")).await;
        self.written.fetch_add(1, Relaxed);
    }
}
