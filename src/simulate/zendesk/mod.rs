//! A simulated Zendesk messaging (Sunshine Conversations v2): its API, its webhooks, and a judge of the replies.
//!
//! ```text
//! routes (behind gate) --> desk: store, switch, merge --> webhooks --> the daemon
//! sim_routes, customer -->   '--> judge: lost? twice? in order?
//! ```
//! Every path is served with and without a prefix such as `/sc`. Nothing here is a limit of the real service unless a
//! comment names the source.

mod behaviour;
mod clock;
mod control;
mod conversation;
mod customer;
mod desk;
mod draft;
mod events;
mod gate;
pub mod judge;
mod refusal;
mod routes;
mod sim_routes;
mod stats;
mod webhooks;
mod world;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

pub use behaviour::Behaviour;
pub use control::{Holder, Integration};
pub use stats::{Named, Report, Stats};

use self::world::World;
use super::reference::Reference;
use super::server::Server;

/// What a simulator is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The app's id in every path.
    pub app_id: String,
    /// The user name of basic authentication.
    pub key_id: String,
    /// The password of basic authentication.
    pub key_secret: String,
    /// Where webhooks go; none until [`Zendesk::aim`] when absent.
    pub webhook_target: Option<String>,
    /// The `X-API-Key` of webhooks.
    pub webhook_secret: String,
    /// The daemon's switchboard integration.
    pub bot: Integration,
    /// The agent workspace's switchboard integration.
    pub agent: Integration,
    /// How long a webhook may take (Zendesk: 20 s).
    pub webhook_timeout: Duration,
    /// Attempts per event (Zendesk: 5).
    pub webhook_attempts_max: u32,
    /// The gap after the first failed attempt; it doubles (the real gaps are unknown).
    pub webhook_retry_base: Duration,
    /// The span in which attempts are made (Zendesk: 15 minutes).
    pub webhook_retry_window: Duration,
    /// Webhooks under way at once.
    pub webhook_concurrency: usize,
    /// Webhooks waiting or under way; customers wait when it is full.
    pub webhook_queue_max: usize,
    /// Conversations kept.
    pub conversations_max: usize,
    /// Messages per conversation, after which the API answers 423 (Zendesk: 30,000); customers push out the oldest.
    pub messages_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        let integration = |id: &str, name: &str, integration_id: &str, integration_type: &str| Integration {
            id: format!("66f0a1b2c3d4e5f6000000{id}"),
            name: name.to_owned(),
            integration_id: format!("66f0a1b2c3d4e5f6000000{integration_id}"),
            integration_type: integration_type.to_owned(),
        };
        Self {
            app_id: "66f0a1b2c3d4e5f600000001".to_owned(),
            key_id: "app_simulated".to_owned(),
            key_secret: "simulated-key-secret".to_owned(),
            webhook_target: None,
            webhook_secret: "simulated-webhook-secret".to_owned(),
            bot: integration("0a", "tidegate", "0b", "custom"),
            agent: integration("0c", "zd-agentWorkspace", "0d", "zd:agentWorkspace"),
            webhook_timeout: Duration::from_secs(20),
            webhook_attempts_max: 5,
            webhook_retry_base: Duration::from_secs(1),
            webhook_retry_window: Duration::from_secs(15 * 60),
            webhook_concurrency: 64,
            webhook_queue_max: 100_000,
            conversations_max: 200_000,
            messages_max: 30_000,
        }
    }
}

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The message's id.
    pub id: String,
    /// When it was received, in Zendesk's form.
    pub received: String,
    /// `user` or `business`.
    pub author: String,
    /// The channel it came by, for example `api:conversations`.
    pub source: String,
    /// Its text, empty when it has none.
    pub text: String,
    /// Its metadata.
    pub metadata: Map<String, Value>,
}

/// A running simulator; the last clone to be dropped ends it.
#[derive(Clone)]
pub struct Zendesk {
    world: Arc<World>,
    server: Arc<Server>,
}

impl Zendesk {
    /// Starts a simulator; port 0 takes any free port.
    ///
    /// # Errors
    /// When the address cannot be bound or the webhook target is no URL.
    pub async fn start(listen: SocketAddr, options: Options) -> io::Result<Self> {
        let pair = STANDARD.encode(format!("{}:{}", options.key_id, options.key_secret));
        let client = webhooks::client(options.webhook_concurrency).map_err(io::Error::other)?;
        let (world, errands) = World::new(options, format!("Basic {pair}"));
        let target = world.options.webhook_target.clone();
        world
            .aim(&target.as_deref().into_iter().collect::<Vec<_>>())
            .map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        let routes = routes::routes(&world).merge(sim_routes::routes());
        let router = Router::new().merge(routes.clone()).nest("/{prefix}", routes).with_state(world.clone());
        let server = Server::start(listen, router, webhooks::run(world.clone(), client, errands)).await?;
        Ok(Self { world, server: Arc::new(server) })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// What it was started with.
    pub fn options(&self) -> &Options {
        &self.world.options
    }

    /// Sends webhooks to this URL from now on, or none at all.
    ///
    /// # Errors
    /// When it is no URL.
    pub fn aim(&self, url: Option<&str>) -> io::Result<()> {
        self.aim_at(&url.into_iter().collect::<Vec<_>>())
    }

    /// Sends webhooks to several nodes from now on, as a balancer before them does: the same conversation to the same
    /// node, and to the next one after each failed attempt.
    ///
    /// # Errors
    /// When one is no URL.
    pub fn aim_at(&self, urls: &[&str]) -> io::Result<()> {
        self.world.aim(urls).map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))
    }

    /// Replaces the behaviour.
    pub fn behave(&self, behaviour: Behaviour) {
        self.world.dial.set(behaviour);
    }

    /// The behaviour in force.
    pub fn behaviour(&self) -> Behaviour {
        Behaviour::clone(&self.world.dial.get())
    }

    /// All counts.
    pub fn stats(&self) -> Stats {
        self.world.stats()
    }

    /// What the judge counted; cheaper than all counts.
    pub fn tally(&self) -> judge::Tally {
        self.world.tally()
    }

    /// All counts, and the messages that were lost, answered twice or out of order.
    pub fn report(&self) -> Report {
        self.world.report()
    }

    /// Forgets conversations and counts and behaves well again; the webhook target stays.
    pub fn reset(&self) {
        self.world.reset();
    }

    /// A reference nobody has used, to be written into a text.
    pub fn next_reference(&self) -> Reference {
        self.world.next_reference()
    }

    /// A customer writes; an unknown conversation begins with it. Waits for room in the queue of webhooks and tells
    /// the message's id.
    ///
    /// # Panics
    /// When the conversation would be one more than `conversations_max`.
    pub async fn say(&self, conversation: &str, text: &str) -> String {
        self.world.say(conversation, text).await.expect("there are fewer conversations than conversations_max")
    }

    /// A customer presses a postback button; tells the event's id.
    ///
    /// # Panics
    /// When the conversation would be one more than `conversations_max`.
    pub async fn postback(&self, conversation: &str, payload: &str) -> String {
        self.world.postback(conversation, payload).await.expect("there are fewer conversations than conversations_max")
    }

    /// A human writes from the agent workspace; tells the message's id, or nothing when the conversation is unknown.
    pub async fn agent_says(&self, conversation: &str, text: &str) -> Option<String> {
        self.world.agent_says(conversation, text).await.ok()
    }

    /// Gives control to a holder or to nobody, with the webhook; false when the conversation is unknown.
    pub async fn control(&self, conversation: &str, to: Option<Holder>) -> bool {
        self.world.control(conversation, to).await.is_ok()
    }

    /// Who is in control; nobody also when the conversation is unknown.
    pub fn holder(&self, conversation: &str) -> Option<Holder> {
        let conversation = self.world.conversation(conversation)?;
        self.world.with(&conversation, |_, state| state.control.active)
    }

    /// Merges two users and their conversations, with the webhook; false when one is unknown or both are the same.
    pub async fn merge(&self, surviving: &str, discarded: &str) -> bool {
        let (Ok(surviving), Ok(discarded)) = (self.world.known(surviving), self.world.known(discarded)) else {
            return false;
        };
        self.world.merge(&surviving, &discarded).await.is_ok()
    }

    /// Announces that the user of a conversation was removed; false when the conversation is unknown.
    pub async fn remove_user(&self, conversation: &str) -> bool {
        let Ok(conversation) = self.world.known(conversation) else { return false };
        self.world.remove_user(&conversation).await;
        true
    }

    /// The messages of a conversation, oldest first; none when it is unknown.
    pub fn messages(&self, conversation: &str) -> Vec<Message> {
        let Some(conversation) = self.world.conversation(conversation) else { return Vec::new() };
        let stored: Vec<_> = self.world.with(&conversation, |_, state| state.messages.iter().cloned().collect());
        stored.iter().map(|stored| read(stored.json.get())).collect()
    }

    /// Stops at once: connections are cut, webhooks under way are abandoned.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

impl World {
    fn aim(&self, urls: &[&str]) -> Result<(), String> {
        let parse = |url: &&str| reqwest::Url::parse(url).map_err(|error| format!("{url}: {error}"));
        self.targets.store(Arc::new(urls.iter().map(parse).collect::<Result<_, _>>()?));
        Ok(())
    }
}

fn read(json: &str) -> Message {
    let value: Value = serde_json::from_str(json).unwrap_or_default();
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    Message {
        id: text("/id"),
        received: text("/received"),
        author: text("/author/type"),
        source: text("/source/type"),
        text: text("/content/text"),
        metadata: value.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default(),
    }
}
