//! The shared state on Redis: its keys, and how it is asked.
//!
//! ```text
//! <prefix>:{c17}:born          when bucket 17 began (scripts/ledger.lua)
//!              :v:<conversation>   owner, fence, holder, history, head away, alias, customer
//!              :m:<replay>:<message>   reply that covers it, outcome, record, story
//!              :r:<reply>          words, what it covers
//!              :l:<message>        its last life, if it was replayed
//!              :of:<conversation>  its messages     :texts :ends :touched   by time, for tidying
//! <prefix>:{i..}:id:<event or message>   where its record is      <prefix>:{u..}:user:<customer>   conversations
//! <prefix>:{b..}:budget:<month>:<key>    tokens used (budgets.rs)
//! ```
//! A conversation's bucket is a hash of its id, so that everything about it lies in one slot together with the bucket's
//! birth: the very script that finds nothing of a message sees whether that proves anything.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use fred::types::scripts::Script;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::{Link, budgets::Told, controls::Controls};
use crate::{
    domain::{ids::ConversationId, time::Timestamp},
    state::{Error, RetentionConfig},
    telemetry::Clock,
};

/// Buckets of conversations: many enough to spread over any Cluster, few enough to be tidied in a round.
pub(super) const BUCKETS: u8 = 255;

/// What has not ended is kept for this long, whatever happens; nothing is that old that still can be answered.
const OPEN_FOR: Duration = Duration::from_secs(90 * 24 * 3600);

/// The clocks of nodes differ by less.
const SKEW: Duration = Duration::from_secs(5);

macro_rules! script {
    ($name:ident, $file:literal) => {
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::from_lua(concat!(include_str!("scripts/ledger.lua"), include_str!($file))));
    };
}
script!(CLAIM, "scripts/claim.lua");
script!(INTEND, "scripts/intend.lua");
script!(CONCLUDE, "scripts/conclude.lua");
script!(MEMORY, "scripts/memory.lua");
script!(KEEPING, "scripts/keeping.lua");
static SLOT: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("scripts/slot.lua")));

/// The shared state of a fleet.
pub struct Redis {
    pub(in crate::state) link: Arc<Link>,
    pub(super) clock: Clock,
    pub(super) retention: RetentionConfig,
    /// This process, as the owner of claims.
    pub(super) owner: String,
    /// The process before it on this node, which is dead for certain.
    pub(super) predecessor: Option<String>,
    pub(super) controls: Arc<Controls>,
    pub(super) told: Told,
    connections: watch::Receiver<u64>,
    /// The connection last seen, and when (wall): what Redis was told before then it may have lost since.
    connected: AtomicU64,
    trusted_since: AtomicI64,
}

impl Redis {
    /// Begins to use `link`. `owner` names this process on the roll of nodes, `predecessor` the one before it on the
    /// same node.
    pub fn open(
        link: Arc<Link>,
        retention: RetentionConfig,
        clock: Clock,
        owner: String,
        predecessor: Option<String>,
    ) -> Arc<Self> {
        let controls = Controls::listen(&link);
        Arc::new(Self {
            connections: link.connections(),
            link,
            retention,
            owner,
            predecessor,
            controls,
            told: Told::default(),
            connected: AtomicU64::new(0),
            trusted_since: AtomicI64::new(clock.now().0),
            clock,
        })
    }

    /// Whether Redis can be asked.
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// Counts the connections made.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.link.connections()
    }

    /// Asks about a conversation.
    pub(super) async fn ask(
        &self,
        script: &Script,
        conversation: &ConversationId,
        args: Vec<String>,
    ) -> Result<Vec<String>, Error> {
        self.ask_bucket(script, bucket(conversation.as_str()), args).await
    }

    /// Asks a bucket.
    pub(super) async fn ask_bucket(
        &self,
        script: &Script,
        bucket: u8,
        args: Vec<String>,
    ) -> Result<Vec<String>, Error> {
        self.link.run(script, vec![self.link.key(&format!("c{bucket}"), "born")], args).await
    }

    /// Asks about something that lies in a slot of its own.
    pub(super) async fn slot(&self, kind: &str, id: &str, args: Vec<String>) -> Result<Vec<String>, Error> {
        let tag = format!("{}{}", &kind[..1], bucket(id));
        self.link.run(&SLOT, vec![self.link.key(&tag, &format!("{kind}:{id}"))], args).await
    }

    /// Whether finding nothing of a message proves that there was nothing: the bucket knew of all since before it, and
    /// so did the server we are connected to. After each new connection it may be another one, without the last writes.
    pub(super) fn proves(&self, born: &str, first_seen: Timestamp) -> bool {
        self.trusted_from_now_on(self.clock.now());
        let trusted = self.trusted_since.load(Ordering::Acquire);
        born.parse::<i64>().is_ok_and(|born| first_seen > Timestamp(born.max(trusted)).after(SKEW))
    }

    /// Begins to trust the server `now`, if the connection is a new one.
    pub(super) fn trusted_from_now_on(&self, now: Timestamp) {
        let connections = *self.connections.borrow();
        if self.connected.swap(connections, Ordering::AcqRel) != connections {
            self.trusted_since.store(now.0, Ordering::Release);
        }
    }

    /// Seconds for which what has ended is kept at most. Tidying takes it earlier, by the time it ended.
    pub(super) fn kept(&self) -> String {
        (self.retention.history.max(self.retention.results) * 2).as_secs().max(60).to_string()
    }

    /// The same for what has not.
    pub(super) fn open_for(&self) -> String {
        OPEN_FOR.max(self.retention.parked * 2).as_secs().to_string()
    }
}

/// The bucket of an id: the same on every node and in every version.
pub(super) fn bucket(id: &str) -> u8 {
    Sha256::digest(id.as_bytes())[0]
}

/// An empty text is nothing.
pub(super) fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

pub(super) use crate::state::{json, parsed};

/// An answer's field, by position; one that is missing is empty.
pub(super) fn field(answer: &[String], index: usize) -> &str {
    answer.get(index).map_or("", String::as_str)
}

/// Arguments of a script.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { vec![$(($arg).to_string()),*] };
}
pub(super) use args;
