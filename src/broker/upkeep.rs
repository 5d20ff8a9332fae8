//! What a broker needs beside the messages it is given: somebody who keeps its connections up, and who tells it which
//! nodes live.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::{Error, Lane};

/// What a broker is, and how it divides the chat lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Its name in traces (OpenTelemetry, `messaging.system`).
    pub system: &'static str,
    /// Partitions of the chat lane, each with a consumer.
    pub partitions: u32,
    /// Messages the chat consumers of this node may hold at once, all together.
    pub window: usize,
}

/// Something that has to be done again and again, by an actor of its own.
#[derive(Clone)]
pub struct Round {
    /// What it is, one word.
    pub name: &'static str,
    /// How often; without it one round follows the other, and each rests by itself.
    pub every: Option<Duration>,
    /// The longest time a round may take.
    pub within: Duration,
    /// Goes one round.
    pub go: Arc<dyn Fn() -> BoxFuture<'static, Result<(), Error>> + Send + Sync>,
}

/// Why a broker is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// In words.
    pub reason: String,
    /// It lasts until somebody changes a configuration: the node is of no use until then.
    pub lasting: bool,
}

/// A node that answers conversations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Names this run of its process.
    pub id: String,
    /// Whether messages reach it, as it says.
    pub consumes: bool,
}

/// What keeps a broker going.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// How it divides its work.
    fn shape(&self) -> Shape;

    /// What has to be done again and again.
    fn rounds(&self) -> Vec<Round>;

    /// Why it is away, if it is. Messages are taken meanwhile, as long as they can be kept on this node.
    fn trouble(&self) -> Option<Trouble>;

    /// Messages that lie on this node's disk until the broker has taken them; `None`: it has no spool.
    fn spooled(&self) -> Option<u64> {
        None
    }

    /// Of those the messages that stay there, because they are larger than the broker takes.
    fn oversized(&self) -> u64 {
        0
    }

    /// How many of them are of a lane.
    fn spooled_of(&self, _: Lane) -> Option<u64> {
        None
    }

    /// Whether messages reach this node.
    fn consumes(&self) -> bool {
        true
    }

    /// Tells which nodes answer conversations, `me` among them if this one does: the partitions are spread over them.
    fn spread(&self, me: &str, peers: &[Peer]);

    /// This node takes nothing more, or takes again: what a queue that all nodes share has given it, and nobody has taken
    /// yet, goes to the others.
    fn rest(&self, _: bool) {}

    /// Ends it: what was acknowledged is, what was stored is on the disk, and everything in hand is ready again.
    async fn close(&self);
}
