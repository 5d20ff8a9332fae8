//! The connection to Redis: one client for all scripts, one for what is published.
//!
//! Every call ends within [`WITHIN`], whatever the server does. A script is sent once: one whose answer is lost may
//! have run, so whoever calls must bear both.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fred::{
    clients::{Client, SubscriberClient},
    interfaces::{ClientLike, EventInterface, PubsubInterface},
    types::{
        Builder, FromValue, MultipleValues, RespVersion, Value,
        config::{Config as FredConfig, ReconnectPolicy, Server, ServerConfig},
        scripts::Script,
    },
};
use tokio::sync::{broadcast, watch};

use crate::state::{Error, RedisConfig};

/// A call that takes longer has failed; its effect is unknown.
const WITHIN: Duration = Duration::from_millis(250);

/// The pauses between attempts to connect again, in milliseconds.
const RECONNECT_MS: (u32, u32) = (20, 2_000);

/// Commands that may wait inside the client.
const WAITING_MAX: usize = 10_000;

/// Published messages kept for a slow reader.
const PUBLISHED_MAX: usize = 1_024;

/// The connection.
pub struct Link {
    client: Client,
    subscriber: SubscriberClient,
    prefix: String,
    up: AtomicBool,
    connections: watch::Sender<u64>,
}

impl Link {
    /// Begins to connect and returns at once; what is asked before it is connected fails.
    pub fn open(config: &RedisConfig) -> Result<Arc<Self>, Error> {
        let servers = config.nodes.iter().map(|node| server(node)).collect::<Option<Vec<_>>>();
        let first = servers.as_ref().and_then(|servers| servers.first()).cloned();
        let server = first.ok_or_else(|| Error::Failed("state.redis.nodes must name hosts as host:port".into()))?;
        let mut builder = Builder::from_config(FredConfig {
            fail_fast: false,
            username: Some(config.username.clone()).filter(|name| !name.is_empty()),
            password: Some(config.password.expose().to_owned()).filter(|word| !word.is_empty()),
            server: ServerConfig::Centralized { server },
            version: RespVersion::RESP3,
            ..FredConfig::default()
        });
        builder
            .with_performance_config(|performance| {
                performance.default_command_timeout = WITHIN;
                performance.broadcast_channel_capacity = PUBLISHED_MAX;
            })
            .with_connection_config(|connection| {
                connection.connection_timeout = Duration::from_secs(1);
                connection.internal_command_timeout = Duration::from_secs(1);
                connection.max_command_attempts = 1;
                connection.max_command_buffer_len = WAITING_MAX;
            })
            .set_policy(ReconnectPolicy::new_exponential(0, RECONNECT_MS.0, RECONNECT_MS.1, 2));
        let failed = |error: fred::error::Error| Error::Failed(error.to_string());
        let client = builder.build().map_err(failed)?;
        let subscriber = builder.build_subscriber_client().map_err(failed)?;
        let link = Arc::new(Self {
            client,
            subscriber,
            prefix: config.prefix.clone(),
            up: AtomicBool::new(false),
            connections: watch::Sender::new(0),
        });
        link.watch();
        Ok(link)
    }

    fn watch(self: &Arc<Self>) {
        self.client.connect();
        self.subscriber.connect();
        self.subscriber.manage_subscriptions();
        let here = Arc::downgrade(self);
        self.client.on_reconnect(move |_| {
            let here = here.clone();
            async move {
                if let Some(link) = here.upgrade() {
                    link.up.store(true, Ordering::Release);
                    link.connections.send_modify(|count| *count += 1);
                }
                Ok(())
            }
        });
        let here = Arc::downgrade(self);
        self.client.on_error(move |_| {
            let here = here.clone();
            async move {
                if let Some(link) = here.upgrade() {
                    link.up.store(false, Ordering::Release);
                }
                Ok(())
            }
        });
    }

    /// Whether Redis answered last.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Counts the connections made: after each, what Redis knew may be lost.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
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
        let asked = script.evalsha_with_reload::<Value, _, _>(&self.client, keys, args);
        let value = tokio::time::timeout(WITHIN, asked).await.map_err(|_| Error::Away("no answer in time".into()))?;
        value.and_then(Value::convert).map_err(|error| self.error(&error))
    }

    /// What is published on a channel from now on, as long as the connection holds; what is missed meanwhile is lost.
    pub async fn listen(&self, channel: &str) -> Result<broadcast::Receiver<fred::types::Message>, Error> {
        let receiver = self.subscriber.message_rx();
        self.subscriber.subscribe(channel).await.map_err(|error| self.error(&error))?;
        Ok(receiver)
    }

    /// Ends the connections.
    pub async fn close(&self) {
        // Whether the server hears the farewell does not matter.
        let _ = tokio::join!(self.client.quit(), self.subscriber.quit());
    }

    fn error(&self, error: &fred::error::Error) -> Error {
        use fred::error::ErrorKind;
        match error.kind() {
            ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::Backpressure => {
                Error::Away(error.to_string())
            }
            _ => Error::Failed(error.to_string()),
        }
    }
}

fn server(node: &str) -> Option<Server> {
    let (host, port) = node.rsplit_once(':')?;
    Some(Server::new(host.to_owned(), port.parse::<u16>().ok()?))
}
