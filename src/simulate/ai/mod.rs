//! A simulated AI service: chat completions (streams too), models and embeddings as OpenAI and Azure OpenAI have them,
//! and Anthropic's messages.
//!
//! An answer repeats the `[ref:...]` tokens of the last user message, which is how Zendesk's judge recognises it. The
//! service limits by exact sliding windows and records every arrival, so that "never more calls than the window
//! allows" is proven here and not by the caller's own counters.

mod answer;
mod anthropic;
mod behaviour;
mod dialect;
mod embeddings;
mod ledger;
mod request;
mod routes;
mod service;

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

pub use behaviour::Behaviour;
pub use ledger::Stats;

use self::service::Service;
use super::reference::Reference;
use super::server::Server;
pub use crate::simulate::quota::{Peak, Quota};

/// What a simulator is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The key that is demanded; none: nobody is refused.
    pub key: Option<String>,
    /// The models that are listed; any other is answered too.
    pub models: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { key: None, models: vec!["simulated".to_owned()] }
    }
}

/// A running simulator; the last clone to be dropped ends it.
#[derive(Clone)]
pub struct Ai {
    service: Arc<Service>,
    server: Arc<Server>,
}

impl Ai {
    /// Starts a simulator; port 0 takes any free port.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(listen: SocketAddr, options: Options) -> io::Result<Self> {
        let service = Service::new(options);
        let router = routes::routes().with_state(service.clone());
        let server = Server::start(listen, router, pending()).await?;
        Ok(Self { service, server: Arc::new(server) })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The base URL, without `/v1` and without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Replaces the behaviour.
    pub fn behave(&self, behaviour: Behaviour) {
        self.service.dial.set(behaviour);
    }

    /// The behaviour in force.
    pub fn behaviour(&self) -> Behaviour {
        Behaviour::clone(&self.service.dial.get())
    }

    /// All counts.
    pub fn stats(&self) -> Stats {
        self.service.ledger().stats()
    }

    /// In how many answered calls a reference was.
    pub fn asked(&self, reference: Reference) -> u32 {
        self.service.ledger().asked(reference)
    }

    /// The times of the last 100,000 calls, in milliseconds since the start or the last reset.
    pub fn calls_at_ms(&self) -> Vec<u64> {
        self.service.ledger().calls_at_ms()
    }

    /// Forgets all counts and behaves well again.
    pub fn reset(&self) {
        self.service.reset();
    }

    /// Stops at once: connections are cut.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}
