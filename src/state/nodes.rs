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

/// A run of a process that was silent for so long has ended. What was set until then is not taken back sooner: a node may
/// be out of reach of Redis for a while, and live.
pub const ENDED_AFTER: Duration = Duration::from_secs(60);

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
    /// Who has lately said goodbye.
    pub left: Vec<String>,
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
    called: Called,
    /// For how long the roll was looked at; while it could not be read, nobody was missed.
    watched: Duration,
    met: HashMap<String, Met>,
    at: Instant,
}

/// A node on the roll.
struct Met {
    /// When it was there, in the time in which the roll was looked at.
    at: Duration,
    /// The roll has said since that it is gone.
    gone: bool,
}

impl Seen {
    /// Who was on the roll a moment ago lives, unless the roll says that he has gone: it may have been lost itself, and
    /// then each node finds itself alone on it at first.
    fn next(before: Option<Self>, called: Called) -> Self {
        let at = Instant::now();
        let (watched, mut met) = before.map_or_else(Default::default, |before| {
            (before.watched + at.duration_since(before.at).min(BEAT_EVERY), before.met)
        });
        met.extend(called.nodes.iter().map(|node| (node.id.clone(), Met { at: watched, gone: false })));
        for id in &called.gone {
            met.entry(id.clone()).and_modify(|met: &mut Met| met.gone = true);
        }
        met.retain(|_, met| watched.saturating_sub(met.at) < ENDED_AFTER);
        Self { called, watched, met, at }
    }

    fn missed(&self, id: &str) -> Duration {
        // One who was never seen is missed since the first look.
        self.watched.saturating_sub(self.met.get(id).map_or(Duration::ZERO, |met| met.at))
    }

    fn live(&self) -> usize {
        self.met.iter().filter(|(id, met)| !met.gone && self.missed(id) < EXPIRES_AFTER).count()
    }

    fn has_ended(&self, id: &str) -> bool {
        let left = self.called.left.iter().any(|left| left == id);
        left || self.missed(id) >= ENDED_AFTER
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
        let seen = self.seen.lock().as_ref().map(|seen| seen.called.nodes.clone());
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

    /// Whether a run of a process is over: the roll was read lately, and it has said goodbye there or was missed on it for
    /// [`ENDED_AFTER`].
    pub fn has_ended(&self, id: &str) -> bool {
        let has_ended = match (&self.roll, self.seen.lock().as_ref()) {
            (None, _) => true,
            (Some(_), Some(seen)) => seen.at.elapsed() < EXPIRES_AFTER && seen.has_ended(id),
            (Some(_), None) => false,
        };
        id != self.id && has_ended
    }

    /// How many live, as far as the last beats told, however long ago; 0: the roll was never seen.
    pub fn live(&self) -> usize {
        match (&self.roll, self.seen.lock().as_ref()) {
            (None, _) => 1,
            (Some(_), Some(seen)) => seen.live().max(1),
            (Some(_), None) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A roll with who is on it and who has left.
    #[derive(Default)]
    struct Paper(Mutex<(Vec<String>, Vec<String>)>);

    #[async_trait]
    impl Roll for Paper {
        async fn enter(&self, me: &Node, _: Duration) -> Result<Called, Error> {
            let (there, left) = self.0.lock().clone();
            let nodes = there.into_iter().map(|id| Node { id, ..me.clone() }).chain([me.clone()]).collect();
            Ok(Called { nodes, gone: left.clone(), left, now: Timestamp(0) })
        }

        async fn strike(&self, _: &str) -> Result<(), Error> {
            Ok(())
        }
    }

    async fn beats(nodes: &Nodes, seconds: u64) {
        for _ in 0..seconds {
            tokio::time::advance(BEAT_EVERY).await;
            nodes.beat(0, true).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_has_ended_after_its_goodbye_or_a_minute_of_silence_that_was_watched() {
        let paper = Arc::new(Paper::default());
        let nodes = Nodes::new(1, Some(paper.clone()), Clock::system());
        let at = Timestamp(0);
        nodes.introduce(Node {
            id: String::new(),
            name: "ada".into(),
            version: String::new(),
            roles: Vec::new(),
            started_at: at,
            addresses: Vec::new(),
            in_hand: 0,
            consumes: true,
            clock_skew_ms: None,
        });
        *paper.0.lock() = (vec!["bob".into(), "eve".into()], Vec::new());
        beats(&nodes, 1).await;
        assert_eq!(nodes.live(), 3);
        // Both are silent from now on; one has said why.
        *paper.0.lock() = (Vec::new(), vec!["eve".into()]);
        beats(&nodes, 10).await;
        assert_eq!((nodes.live(), nodes.has_ended("eve"), nodes.has_ended("bob")), (1, true, false));
        // While nothing can be read, nothing is known.
        tokio::time::advance(ENDED_AFTER).await;
        assert!(!nodes.has_ended("bob") && !nodes.has_ended("eve"));
        beats(&nodes, 48).await;
        assert!(!nodes.has_ended("bob") && !nodes.has_ended("never seen"));
        beats(&nodes, 2).await;
        assert!(nodes.has_ended("bob") && nodes.has_ended("never seen"));
        assert!(!nodes.has_ended(nodes.id()));
    }
}
