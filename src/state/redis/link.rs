//! The connections to Redis: one for all scripts, one for what is published; the cache has a link of its own.
//!
//! ```text
//! Link ─ a Line for calls, one for what is published   line.rs      kept up, watched, calls bounded in time
//!          └─ find(Plan) -> Way                        servers.rs   asks the nodes what they are, each time
//!               └─ Probe                               probe.rs     tells what is wrong (Trouble)
//! ```
//! Every call ends within [`client::WITHIN`], whatever the server does. A script is sent once: one whose answer is lost may
//! have run, so whoever calls must bear both.

mod client;
mod line;
mod plan;
mod probe;
mod published;
mod servers;
#[cfg(test)]
mod tests;
mod tls;
mod trouble;

use std::{sync::Arc, time::Duration};

use fred::types::{FromValue, MultipleValues, scripts::Script};
use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, watch},
    task::JoinSet,
};

use self::published::Published;
pub use self::{
    line::Line,
    plan::Plan,
    probe::{Facts, Probe, Reply, ServerKind},
    servers::{Way, find, survey},
    trouble::Trouble,
};
use crate::state::{Error, RedisConfig};

/// How long somebody who begins to listen waits for the connection.
const LISTEN_WITHIN: Duration = Duration::from_secs(1);

/// The connections.
pub struct Link {
    calls: Arc<Line>,
    /// Nobody listens to the cache's Redis.
    listening: Option<Arc<Line>>,
    published: Published,
    prefix: String,
    /// Those who keep them up, where no actor does.
    attendants: Mutex<JoinSet<()>>,
}

impl Link {
    /// Begins to connect and returns at once; what is asked before it is connected fails. Keeps itself up.
    pub fn open(config: &RedisConfig) -> Result<Arc<Self>, Error> {
        let link = Self::unattended(config)?;
        for line in link.lines() {
            link.attendants.lock().spawn(async move { line.attend().await });
        }
        Ok(link)
    }

    /// One whose lines somebody else keeps up.
    pub fn unattended(config: &RedisConfig) -> Result<Arc<Self>, Error> {
        let plan = Plan::new(config)?;
        let published = Published::default();
        let listening = Line::new("published", plan.clone(), Some(published.prepare()));
        Ok(Self::new(Line::new("state", plan, None), Some(listening), published, config))
    }

    /// The cache's: to its own nodes, if it has some. Somebody else keeps it up.
    pub fn for_cache(config: &RedisConfig) -> Result<Arc<Self>, Error> {
        let line = Line::new("cache", Plan::for_cache(config)?, None);
        Ok(Self::new(line, None, Published::default(), config))
    }

    fn new(calls: Arc<Line>, listening: Option<Arc<Line>>, published: Published, config: &RedisConfig) -> Arc<Self> {
        let (prefix, attendants) = (config.prefix.clone(), Mutex::default());
        Arc::new(Self { calls, listening, published, prefix, attendants })
    }

    /// All lines, for those who keep them up.
    pub fn lines(&self) -> Vec<Arc<Line>> {
        [Some(&self.calls), self.listening.as_ref()].into_iter().flatten().cloned().collect()
    }

    /// The line of the calls.
    pub fn line(&self) -> &Line {
        &self.calls
    }

    /// Whether Redis answers, as far as the last look tells.
    pub fn is_up(&self) -> bool {
        self.calls.is_up()
    }

    /// Counts the connections made: after each, what Redis knew may be lost.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.calls.connections()
    }

    /// The name of a key: all keys of the same `tag` lie in one slot.
    pub fn key(&self, tag: &str, name: &str) -> String {
        format!("{}:{{{tag}}}:{name}", self.prefix)
    }

    /// The name of a channel.
    pub fn channel(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    /// Runs a script whose keys all lie in one slot.
    pub async fn run<R, V>(&self, script: &Script, keys: Vec<String>, args: V) -> Result<R, Error>
    where
        R: FromValue,
        V: TryInto<MultipleValues> + Send,
        V::Error: Into<fred::error::Error> + Send,
    {
        self.calls.run(script, keys, args).await
    }

    /// What is published on a channel from now on, over all connections to come; what is published while there is
    /// none is lost.
    pub async fn listen(&self, channel: &str) -> Result<broadcast::Receiver<fred::types::Message>, Error> {
        let receiver = self.published.listen(channel);
        let Some(line) = &self.listening else { return Ok(receiver) };
        // Without a connection the next one subscribes.
        let mut connections = line.connections();
        let connected = tokio::time::timeout(LISTEN_WITHIN, connections.wait_for(|count| *count > 0)).await;
        if connected.is_ok() && line.is_up() {
            self.published.subscribe(line, channel).await;
        }
        Ok(receiver)
    }

    /// Ends the connections.
    pub async fn close(&self) {
        let mut attendants = std::mem::take(&mut *self.attendants.lock());
        attendants.shutdown().await;
        self.lines().iter().for_each(|line| line.end());
    }
}
