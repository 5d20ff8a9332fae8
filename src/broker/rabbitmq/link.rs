//! The connections to RabbitMQ: one to publish, one to consume, so that a blocked publisher can still acknowledge
//! (`reference`: a broker in alarm reads nothing more from a connection that publishes).
//!
//! lapin's own recovery is off: it hides an outage and knows one host only. Here a connection that breaks is thrown away
//! and made anew, with the next host, after a pause that grows, for ever.

mod greeting;
mod line;
mod plan;
mod trouble;
mod wire;

use std::sync::Arc;

use super::topology::Topology;
use crate::broker::{Error, RabbitmqConfig};

pub use self::{
    greeting::Greeting,
    line::{Line, Live},
    plan::Plan,
    trouble::{NOT_FOUND, Trouble, code},
};

/// Both connections.
pub struct Link {
    publish: Arc<Line>,
    consume: Arc<Line>,
}

impl Link {
    /// Reads the configuration; nothing is connected yet, [`Line::attend`] does that.
    pub fn new(config: &RabbitmqConfig, topology: &Arc<Topology>) -> Result<Self, Error> {
        let plan = Arc::new(Plan::new(config)?);
        // What is to be consumed from must be there as well, whichever connection comes first.
        let publish = Line::new("publish", plan.clone(), topology.clone());
        let consume = Line::new("consume", plan, topology.clone());
        Ok(Self { publish, consume })
    }

    /// The connection publications go through.
    pub fn publish(&self) -> &Arc<Line> {
        &self.publish
    }

    /// The connection deliveries come and are acknowledged through.
    pub fn consume(&self) -> &Arc<Line> {
        &self.consume
    }

    /// Why nothing can be published now, or nothing comes.
    pub fn trouble(&self) -> Option<Trouble> {
        self.publish.trouble().or_else(|| self.consume.trouble())
    }

    /// Closes both and waits until the server has said so, or has had its time.
    pub async fn close(&self) {
        tokio::join!(self.publish.close(), self.consume.close());
    }
}
