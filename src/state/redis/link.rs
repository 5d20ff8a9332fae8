//! The connections to Redis: one for all scripts, one for what is published, one for the cache.
//!
//! ```text
//! Link ─ state, published, cache: a Line each     line.rs      kept up, watched, calls bounded in time
//!          └─ find(Plan) -> Way                   servers.rs   asks the nodes what they are, each time
//!               └─ Probe                          probe.rs     tells what is wrong (Trouble)
//! ```
//! Every call ends within [`client::WITHIN`], whatever the server does. A script is sent once: one whose answer is lost
//! may have run, so whoever calls must bear both.

mod client;
mod line;
mod plan;
mod probe;
mod published;
mod servers;
#[cfg(test)]
pub(crate) mod tests;
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
    state: Arc<Line>,
    listening: Arc<Line>,
    cache: Arc<Line>,
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
        Ok(Arc::new(Self {
            state: Line::new("state", plan.clone(), None),
            listening: Line::new("published", plan, Some(published.prepare())),
            cache: Line::new("cache", Plan::for_cache(config)?, None),
            published,
            prefix: config.prefix.clone(),
            attendants: Mutex::default(),
        }))
    }

    /// All lines, for those who keep them up.
    pub fn lines(&self) -> [Arc<Line>; 3] {
        [self.state.clone(), self.listening.clone(), self.cache.clone()]
    }

    /// The line of the state.
    pub fn state(&self) -> &Line {
        &self.state
    }

    /// The line of the cache, which may lead to another Redis.
    pub fn cache(&self) -> &Arc<Line> {
        &self.cache
    }

    /// Whether the state's Redis answers, as far as the last look tells.
    pub fn is_up(&self) -> bool {
        self.state.is_up()
    }

    /// Counts the connections made: after each, what Redis knew may be lost.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.state.connections()
    }

    /// Counts the connections over which is heard what is published: between them it was missed.
    pub fn published_connections(&self) -> watch::Receiver<u64> {
        self.listening.connections()
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
        self.state.run(script, keys, args).await
    }

    /// What is published on a channel from now on, over all connections to come; what is published while there is
    /// none is lost.
    pub async fn listen(&self, channel: &str) -> Result<broadcast::Receiver<fred::types::Message>, Error> {
        let receiver = self.published.listen(channel);
        let mut connections = self.listening.connections();
        // Without a connection the next one subscribes.
        let connected = tokio::time::timeout(LISTEN_WITHIN, connections.wait_for(|count| *count > 0)).await.is_ok();
        if connected && self.listening.is_up() {
            self.published.subscribe(&self.listening, channel).await;
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
