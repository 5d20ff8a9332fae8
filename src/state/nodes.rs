//! The nodes that are alive, as each of them tells the others.
//!
//! A node says every [`BEAT_EVERY`] that it lives, and learns who else does; one that is silent for [`EXPIRES_AFTER`]
//! is gone. Without a fleet a node knows itself only.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::Error;
use crate::{
    domain::time::{Timestamp, rfc3339},
    telemetry::Clock,
};

/// How often a node says that it lives.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);

/// A node that was silent for so long is gone: five beats may be lost. What it consumed from goes to others then, so this
/// is most of the time in which a fleet recovers from a node's death.
pub const EXPIRES_AFTER: Duration = Duration::from_secs(6);

/// What a node tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Names this run of the process.
    pub id: String,
    /// `node.name`, or the host's.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it does.
    pub roles: Vec<String>,
    /// When it started.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Messages it is at work on.
    pub in_hand: usize,
    /// Whether messages reach it from the queue; a node that does not tell is taken for one they do reach.
    #[serde(default = "yes")]
    pub consumes: bool,
    /// By how much its clock is ahead of Redis's; unknown without Redis.
    pub clock_skew_ms: Option<i64>,
}

fn yes() -> bool {
    true
}

/// Where nodes tell each other that they live.
#[async_trait]
pub trait Roll: Send + Sync {
    /// Enters a node until it expires.
    async fn enter(&self, node: &Node, expires: Duration) -> Result<Called, Error>;

    /// Strikes a node out.
    async fn strike(&self, id: &str) -> Result<(), Error>;
}

/// What the roll says.
pub struct Called {
    /// Who lives.
    pub nodes: Vec<Node>,
    /// Who has lately said goodbye or expired; one who is neither here nor there was lost with the roll.
    pub gone: Vec<String>,
    /// The time there.
    pub now: Timestamp,
}

/// What one node knows of all.
pub struct Nodes {
    id: String,
    clock: Clock,
    roll: Option<Arc<dyn Roll>>,
    me: Mutex<Option<Node>>,
    seen: Mutex<Option<Seen>>,
}

struct Seen {
    nodes: Vec<Node>,
    /// For how long each was not on the roll, as far as that could be read.
    missed: HashMap<String, Duration>,
    at: Instant,
}

impl Seen {
    /// Who was on the roll a moment ago lives, unless the roll says that he has gone: it may have been lost itself, and
    /// then each node finds itself alone on it at first.
    fn next(before: Option<Self>, called: Called) -> Self {
        let at = Instant::now();
        let mut missed = HashMap::new();
        if let Some(before) = before {
            // While nothing could be read, nobody was missed.
            let since = at.duration_since(before.at).min(BEAT_EVERY);
            missed = before.missed;
            missed.values_mut().for_each(|missed| *missed += since);
        }
        missed.extend(called.nodes.iter().map(|node| (node.id.clone(), Duration::ZERO)));
        missed.retain(|id, missed| *missed < EXPIRES_AFTER && !called.gone.contains(id));
        Self { nodes: called.nodes, missed, at }
    }
}

impl Nodes {
    /// The name of the run of a process with this number.
    pub fn id_of(boot: u64) -> String {
        format!("{boot:016x}")
    }

    /// One who has not introduced itself yet; without a roll it is alone. `boot` is this run's own number.
    pub fn new(boot: u64, roll: Option<Arc<dyn Roll>>, clock: Clock) -> Self {
        let id = Self::id_of(boot);
        Self { id, clock, roll, me: Mutex::default(), seen: Mutex::default() }
    }

    /// The name of this run of the process.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether there can be others.
    pub fn is_fleet(&self) -> bool {
        self.roll.is_some()
    }

    /// Tells what this node is; from then on its beats count. Its id and its clock are filled in here.
    pub fn introduce(&self, node: Node) {
        *self.me.lock() = Some(Node { id: self.id.clone(), ..node });
    }

    /// Says that this node lives, and learns who else does.
    pub async fn beat(&self, in_hand: usize, consumes: bool) -> Result<(), Error> {
        let Some(mut me) = self.me.lock().clone() else { return Ok(()) };
        me.in_hand = in_hand;
        me.consumes = consumes;
        if let Some(roll) = &self.roll {
            let (sent, began) = (self.clock.now(), Instant::now());
            let called = roll.enter(&me, EXPIRES_AFTER).await?;
            // The other side looked at its clock about half way.
            let half = i64::try_from(began.elapsed().as_millis() / 2).unwrap_or_default();
            me.clock_skew_ms = Some(sent.0 + half - called.now.0);
            let mut seen = self.seen.lock();
            *seen = Some(Seen::next(seen.take(), called));
        }
        *self.me.lock() = Some(me);
        Ok(())
    }

    /// Says goodbye, so that nobody waits for this node to expire.
    pub async fn leave(&self) -> Result<(), Error> {
        self.me.lock().take();
        match &self.roll {
            Some(roll) => roll.strike(&self.id).await,
            None => Ok(()),
        }
    }

    /// All who live, as far as the last beat told, this one among them.
    pub fn all(&self) -> Vec<Node> {
        let seen = self.seen.lock().as_ref().map(|seen| seen.nodes.clone());
        let me = self.me.lock().clone();
        let mut nodes = seen.unwrap_or_default();
        if let Some(me) = me {
            nodes.retain(|node| node.id != me.id);
            nodes.push(me);
        }
        nodes.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        nodes
    }

    /// For how long nothing could be learned of the others; zero where there are none.
    pub fn unheard_for(&self) -> Duration {
        match (&self.roll, self.seen.lock().as_ref()) {
            (Some(_), Some(seen)) => seen.at.elapsed(),
            _ => Duration::ZERO,
        }
    }

    /// What this node is called; empty until it has introduced itself.
    pub fn name(&self) -> String {
        self.me.lock().as_ref().map(|me| me.name.clone()).unwrap_or_default()
    }

    /// Whether a run of a process is over for certain: the roll was seen, and knows nothing of it any more.
    pub fn has_ended(&self, id: &str) -> bool {
        let is_missed = match (&self.roll, self.seen.lock().as_ref()) {
            (None, _) => true,
            (Some(_), Some(seen)) => !seen.missed.contains_key(id) && seen.at.elapsed() < EXPIRES_AFTER,
            (Some(_), None) => false,
        };
        id != self.id && is_missed
    }

    /// How many live, as far as the last beats told, however long ago; 0: the roll was never seen.
    pub fn live(&self) -> usize {
        match (&self.roll, self.seen.lock().as_ref()) {
            (None, _) => 1,
            (Some(_), Some(seen)) => seen.missed.len().max(1),
            (Some(_), None) => 0,
        }
    }
}
