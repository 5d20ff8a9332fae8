//! The actors, and the tree they form.
//!
//! ```text
//! node                          supervisor.rs   one_for_one; past its intensity the process ends
//! ├─ broker-link                link.rs         tidies the queue
//! │  └─ broker-link/<round>     link.rs         with RabbitMQ: its connections, publish and consume, and what else it needs
//! ├─ state-link                 link.rs         tidies the state
//! ├─ redis                      supervisor.rs   with state.kind = "redis"
//! │  ├─ redis/<connection>      link.rs         keeps it up: state, published, cache
//! │  └─ redis/heartbeat         link.rs         tells the other nodes that this one lives
//! ├─ settings                    link.rs         does what operators have set (settings.rs)
//! ├─ pulse                       link.rs         counts what happens in a second (pulse.rs)
//! ├─ reconciler                 reconcile.rs    notes that the node is alive; makes up for an absence
//! ├─ guards                     supervisor.rs
//! │  ├─ breaker/<service>       breaker.rs
//! │  ├─ limiter/<service>       limiter.rs      also limiter/zendesk, for posts, and limiter/key:<name>, of an API key
//! │  └─ allowance/<name>        allowance.rs    the monthly budget of an API key
//! ├─ ingress                    supervisor.rs
//! │  └─ ingress/<n>             ingress.rs
//! ├─ conversations              chat.rs         conversation/<id> on demand (conversation.rs, turn.rs)
//! ├─ chat                       supervisor.rs
//! │  └─ chat/<partition>        consumer.rs
//! ├─ partitions                 link.rs         tells the queue over which nodes to spread
//! ├─ events                     events.rs
//! ├─ retry                      retry.rs
//! ├─ bulk                        bulk.rs         works off jobs on many letters
//! ├─ watchdog                   watchdog.rs     on a runtime of its own
//! └─ deputy                     link.rs         looks after the watchdog
//! ```

pub mod accounts;
mod allowance;
mod breaker;
mod budget;
pub mod bulk;
mod chat;
mod config;
mod consumer;
mod conversation;
mod courtesies;
pub mod deeds;
mod directory;
mod durations;
mod events;
pub mod explain;
mod farewell;
mod faults;
mod faults_config;
mod hand;
mod holder;
mod inbox;
mod ingress;
mod inspector;
mod lease;
pub mod letters;
mod limiter;
mod link;
mod metrics;
#[cfg(test)]
mod outlived_tests;
mod patience;
mod posting;
pub mod pulse;
mod reconcile;
mod removal;
mod retry;
pub mod roster;
pub mod settings;
mod stamp;
mod story;
mod supervisor;
pub mod traced;
mod tree;
mod turn;
mod watchdog;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Broker, Letters, Upkeep},
    client::{self, Sunshine},
    domain::{control::Ours, retry::Policy},
    guard::{Allowance, Permits, Stack, bulkhead::Bulkhead},
    state::{Shared, nodes::Nodes, redis::Link},
    store::in_hand::InHand,
    telemetry::Clock,
};

pub use self::{
    accounts::{Accounts, Payer},
    budget::{Budget, Share},
    bulk::Bulks,
    chat::Sender as ConversationStarter,
    config::{Ai, ChatConfig, RetryConfig, Service},
    courtesies::Courtesies,
    deeds::Deeds,
    directory::Directory,
    farewell::Handoffs,
    faults::Faults,
    faults_config::{FaultsConfig, KillPoint},
    ingress::{Admitted, Desk, Refusal, STORED_WITHIN},
    inspector::{AliveView, ConversationView, Inspector, MessageView},
    metrics::Metrics,
    pulse::Pulse,
    reconcile::Reconciler,
    roster::Roster,
    settings::Settings,
    tree::{Branches, Tree, grow},
};

/// How the names of the limiters of API keys begin, among those of the services.
pub const KEY_LIMITERS: &str = "key:";

/// What the actors work with. Made once by the node, shared by all.
pub struct Parts {
    /// The queue.
    pub broker: Arc<dyn Broker>,
    /// What keeps the queue going.
    pub upkeep: Arc<dyn Upkeep>,
    /// The queue's dead and parked letters.
    pub letters: Arc<dyn Letters>,
    /// What nodes share.
    pub state: Shared,
    /// The nodes that live.
    pub nodes: Arc<Nodes>,
    /// The connections to Redis, if the state is there.
    pub redis: Option<Arc<Link>>,
    /// The guards of the AI services.
    pub stack: Stack,
    /// The AI services, in the order of the guards' chain, with their models.
    pub ai: Vec<client::Ai>,
    /// Zendesk.
    pub sunshine: Sunshine,
    /// Whether the last call to Zendesk worked.
    pub zendesk_up: AtomicBool,
    /// Whether Zendesk has refused our key, and no call has succeeded since.
    pub zendesk_refuses: AtomicBool,
    /// The limiter of posts.
    pub posts: Arc<Permits>,
    /// How many replies may be posted at once.
    pub posting: Bulkhead,
    /// The limiters of those API keys that are limited, by their own names ([`limiter_of`]).
    pub key_limits: Vec<(&'static str, Arc<Permits>)>,
    /// The monthly budgets of those API keys that have one.
    pub allowances: Vec<Arc<Allowance>>,
    /// What was used of the AI services, and by whom.
    pub accounts: Accounts,
    /// Tells our integration from others.
    pub ours: Ours,
    /// To whom conversations are handed.
    pub handoff_to: String,
    /// Zendesk's time limit for a post; as long after it a post may still turn up.
    pub post_timeout: Duration,
    /// Whether the customer is shown that an answer is being written.
    pub typing: bool,
    /// How conversations are answered.
    pub chat: ChatConfig,
    /// When to try again.
    pub retry: Policy,
    /// The conversations alive.
    pub directory: Directory,
    /// Starts their actors.
    pub conversations: chat::Sender,
    /// What is known of an absence of this node.
    pub reconciler: Reconciler,
    /// Hand-offs that wait for their confirmation.
    pub handoffs: Handoffs,
    /// What was in hand when the last process died.
    pub in_hand: InHand,
    /// Messages that were in hand at two such deaths run one at a time.
    pub suspects: tokio::sync::Semaphore,
    /// What operators have set.
    pub settings: Settings,
    /// What they have done.
    pub deeds: Deeds,
    /// Jobs on many letters.
    pub bulks: Bulks,
    /// What has happened in the last minutes.
    pub pulse: Pulse,
    /// What nobody waits for.
    pub courtesies: Courtesies,
    /// Failures made on purpose.
    pub faults: Faults,
    /// The longest time for which an actor above the conversations may be at one thing.
    pub actor_time_limit: Duration,
    /// The actors' cards.
    pub roster: Arc<Roster>,
    /// The clocks.
    pub clock: Clock,
    /// What the actors count.
    pub metrics: Metrics,
    /// Set when the process is to end: nothing new is taken.
    pub draining: CancellationToken,
    /// Set shortly before the grace is over: AI calls without an intent are given up.
    pub giving_up: CancellationToken,
}

/// What the limiter of an API key is called.
pub fn limiter_of(key: &str) -> String {
    format!("{KEY_LIMITERS}{key}")
}

impl Parts {
    /// Zendesk has answered something: whether it accepts our key is known by that.
    fn heard_of_zendesk(&self, error: Option<&client::Error>) {
        match error {
            None => self.zendesk_refuses.store(false, Ordering::Relaxed),
            Some(client::Error::Unauthorized) => self.zendesk_refuses.store(true, Ordering::Relaxed),
            Some(_) => {}
        }
    }
}
