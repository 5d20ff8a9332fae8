//! What operators have set for all nodes, as this one does it.
//!
//! ```text
//! state --each second, and at once where it was ordered--> refresh --> looked at before anything is taken or said
//!                                                             `------> breakers, limiters and slots of the services
//! ```
//! The state keeps it (`state/settings.rs`), so that it is seen on all nodes. What ends with a run of a process is taken
//! back by whoever notices that it has ended.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Mutex, watch};
use utoipa::ToSchema;

use super::Parts;
use crate::{
    domain::{ids::ConversationId, job::Job},
    guard::{Service, breaker::Mode, limiter::Limits},
    state::{
        self,
        settings::{All, Setting},
    },
};

/// Actors that can be paused together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// Those who answer conversations.
    Chat,
    /// Those who work off the events lane.
    Events,
    /// Those who judge dead letters.
    Retry,
}

impl Pool {
    /// All pools.
    pub const ALL: [Self; 3] = [Self::Chat, Self::Events, Self::Retry];

    /// The pool in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Events => "events",
            Self::Retry => "retry",
        }
    }

    fn setting(self) -> String {
        format!("pause/{}", self.as_str())
    }
}

/// Where the bot says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mute {
    /// Nowhere at all.
    All,
    /// In the conversations of a brand.
    Brand(String),
    /// In one conversation.
    #[schema(value_type = String)]
    Conversation(ConversationId),
}

impl Mute {
    fn setting(&self) -> String {
        format!("mute/{}", self.to_string().replacen(' ', "/", 1))
    }

    /// Why a message is parked that came meanwhile.
    pub fn cause(&self) -> String {
        format!("muted: {self}")
    }
}

impl std::fmt::Display for Mute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Brand(brand) => write!(f, "brand {brand}"),
            Self::Conversation(id) => write!(f, "conversation {id}"),
        }
    }
}

/// Other limits of a service; what is left out stays as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OtherLimits {
    /// Requests that may come at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Requests in any 60 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<u64>,
    /// Requests in any 3600 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_hour: Option<u64>,
    /// Tokens in any 60 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Calls at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
}

impl OtherLimits {
    /// Whether it says anything of how often may be called, and not only how much at once.
    pub fn limits_requests(&self) -> bool {
        *self != Self { concurrency: self.concurrency, ..Self::default() }
    }

    /// Whether it takes away a limit that is configured: its window would be forgotten, and be empty when it comes back.
    pub fn forgets(&self, configured: &Limits) -> bool {
        let gone = |other: Option<u64>, configured: u64| other == Some(0) && configured > 0;
        gone(self.per_minute, configured.per_minute)
            || gone(self.per_hour, configured.per_hour)
            || gone(self.tokens_per_minute, configured.tokens_per_minute)
    }

    fn over(&self, configured: &Limits) -> Limits {
        Limits {
            burst: self.burst.unwrap_or(configured.burst),
            per_minute: self.per_minute.unwrap_or(configured.per_minute),
            per_hour: self.per_hour.unwrap_or(configured.per_hour),
            tokens_per_minute: self.tokens_per_minute.unwrap_or(configured.tokens_per_minute),
            ..configured.clone()
        }
    }
}

/// One order of an operator's; taken back by what it is named after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// The pool takes nothing more in hand.
    Pause(Pool),
    /// The node takes nothing more from the queue: by the name of the run of its process.
    Drain(String),
    /// The bot says nothing there; what comes is parked.
    Mute(Mute),
    /// The breaker of a service is held.
    Breaker(String, Mode),
    /// A service is used within other limits.
    Limits(String, OtherLimits),
}

impl Order {
    /// What it is set under.
    pub fn name(&self) -> String {
        match self {
            Self::Pause(pool) => pool.setting(),
            Self::Drain(node) => format!("drain/{node}"),
            Self::Mute(mute) => mute.setting(),
            Self::Breaker(service, _) => format!("breaker/{service}"),
            Self::Limits(service, _) => format!("limits/{service}"),
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Pause(_) | Self::Drain(_) => Value::Bool(true),
            Self::Mute(mute) => serde_json::json!(mute),
            Self::Breaker(_, mode) => serde_json::json!(mode),
            Self::Limits(_, limits) => serde_json::json!(limits),
        }
    }

    /// Whether it ends with a run of a process although nobody says so.
    fn ends_with(&self) -> Option<String> {
        match self {
            Self::Drain(node) => Some(node.clone()),
            _ => None,
        }
    }
}

/// What is set, as far as this node knows.
#[derive(Default)]
pub struct Settings {
    known: ArcSwap<Known>,
    changes: watch::Sender<u64>,
    /// One who reads at a time.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Known {
    version: Option<u64>,
    all: Vec<Setting>,
    paused: [bool; Pool::ALL.len()],
    drained: bool,
    mutes: Vec<Mute>,
}

impl Known {
    /// `own`: the run of this process.
    fn of(all: All, own: &str) -> Self {
        let is_set = |name: String| all.settings.iter().any(|setting| setting.name == name);
        let mutes = all.settings.iter().filter(|setting| setting.name.starts_with("mute/"));
        Self {
            version: Some(all.version),
            paused: Pool::ALL.map(|pool| is_set(pool.setting())),
            drained: is_set(Order::Drain(own.to_owned()).name()),
            mutes: mutes.filter_map(|setting| serde_json::from_value(setting.value.clone()).ok()).collect(),
            all: all.settings,
        }
    }

    fn value<T: serde::de::DeserializeOwned + Default>(&self, name: String) -> T {
        let found = self.all.iter().find(|setting| setting.name == name);
        found.and_then(|setting| serde_json::from_value(setting.value.clone()).ok()).unwrap_or_default()
    }

    fn mode(&self, service: &str) -> Mode {
        self.value(Order::Breaker(service.to_owned(), Mode::Auto).name())
    }

    fn limits(&self, service: &str) -> OtherLimits {
        self.value(Order::Limits(service.to_owned(), OtherLimits::default()).name())
    }
}

impl Settings {
    /// All that is set.
    pub fn all(&self) -> Vec<Setting> {
        self.known.load().all.clone()
    }

    /// Whether a pool takes nothing in hand: it is paused, or this node is drained.
    pub fn holds(&self, pool: Pool) -> bool {
        let known = self.known.load();
        known.drained || known.paused[pool as usize]
    }

    /// Whether this node takes nothing from the queue.
    pub fn is_drained(&self) -> bool {
        self.known.load().drained
    }

    /// Whether, and why, the bot says nothing to this message, whose answer goes to `target`.
    pub fn mutes(&self, job: &Job, target: &ConversationId) -> Option<Mute> {
        self.mutes_in(&[&job.conversation, target], job.brand.as_deref())
    }

    /// The same of a conversation by any of its names.
    pub fn mutes_in(&self, names: &[&ConversationId], brand: Option<&str>) -> Option<Mute> {
        let known = self.known.load();
        let concerns = |mute: &&Mute| match mute {
            Mute::All => true,
            Mute::Brand(muted) => brand == Some(muted),
            Mute::Conversation(id) => names.contains(&id),
        };
        known.mutes.iter().find(concerns).cloned()
    }

    /// Waits until a pool may take something in hand.
    pub(super) async fn free(&self, pool: Pool) {
        self.until(|| !self.holds(pool)).await;
    }

    /// Waits until it may not.
    pub(super) async fn held(&self, pool: Pool) {
        self.until(|| self.holds(pool)).await;
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        let mut changes = self.changes.subscribe();
        // Whoever waits has the sender.
        while !holds() && changes.changed().await.is_ok() {}
    }
}

/// Sets something for all nodes and does it here at once. What is not `lasting` ends with the run of this process.
pub async fn set(parts: &Parts, order: &Order, by: &str, lasting: bool) -> Result<(), state::Error> {
    let ends_with = order.ends_with().or_else(|| (!lasting).then(|| parts.nodes.id().to_owned()));
    let (name, value, by, at) = (order.name(), order.value(), by.to_owned(), parts.clock.now());
    parts.state.set(&Setting { name, value, by, at, ends_with }).await?;
    at_once(parts).await;
    Ok(())
}

/// It is set; who cannot read it now does so within a second.
async fn at_once(parts: &Parts) {
    if let Err(error) = refresh(parts).await {
        tracing::warn!(%error, "what was just set could not be read back yet");
    }
}

/// Takes something back on all nodes, and here at once; `false` if it was not set.
pub async fn unset(parts: &Parts, order: &Order) -> Result<bool, state::Error> {
    let was_set = parts.state.unset(&order.name()).await?;
    at_once(parts).await;
    Ok(was_set)
}

/// Reads what is set and does what is new in it.
pub(super) async fn refresh(parts: &Parts) -> Result<(), state::Error> {
    let settings = &parts.settings;
    let _turn = settings.turn.lock().await;
    let before = settings.known.load_full();
    if let Some(all) = parts.state.settings(before.version).await? {
        let now = Arc::new(Known::of(all, parts.nodes.id()));
        parts.stack.services().iter().for_each(|service| apply(service, &before, &now));
        settings.known.store(now);
        settings.changes.send_modify(|changes| *changes += 1);
    }
    parts.upkeep.rest(settings.is_drained());
    let known = settings.known.load_full();
    for ended in known.all.iter().filter(|setting| is_over(parts, setting)) {
        tracing::warn!(setting = ended.name, by = ended.by, "what was set ends with the process it was set for");
        parts.state.unset(&ended.name).await?;
    }
    Ok(())
}

fn is_over(parts: &Parts, setting: &Setting) -> bool {
    setting.ends_with.as_ref().is_some_and(|run| parts.nodes.has_ended(run))
}

fn apply(service: &Service, before: &Known, now: &Known) {
    let name = service.name;
    if before.mode(name) != now.mode(name) {
        tracing::warn!(ai.service = name, mode = ?now.mode(name), "an operator decides about a breaker");
        service.gate.force(now.mode(name));
    }
    let limits = now.limits(name);
    if before.limits(name) != limits {
        tracing::warn!(ai.service = name, ?limits, "an operator sets other limits");
        service.permits.set_limits(limits.over(service.permits.configured()));
        service.bulkhead.set_limit(limits.concurrency.unwrap_or(service.bulkhead.configured()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;

    fn setting(order: &Order) -> Setting {
        let (by, at) = ("ada".into(), Timestamp(0));
        Setting { name: order.name(), value: order.value(), by, at, ends_with: order.ends_with() }
    }

    fn known(orders: &[Order]) -> Known {
        Known::of(All { version: 1, settings: orders.iter().map(setting).collect() }, "0001")
    }

    #[test]
    fn an_order_is_read_as_it_was_given() {
        let conversation = ConversationId::new("a / b").unwrap();
        let mutes = [Mute::All, Mute::Brand("x y".into()), Mute::Conversation(conversation)];
        let limits = OtherLimits { per_minute: Some(7), concurrency: Some(2), ..OtherLimits::default() };
        let mut orders: Vec<Order> = mutes.iter().cloned().map(Order::Mute).collect();
        orders.extend([
            Order::Pause(Pool::Retry),
            Order::Drain("0002".into()),
            Order::Breaker("primary".into(), Mode::Open),
            Order::Limits("primary".into(), limits.clone()),
        ]);
        let known = known(&orders);
        assert_eq!(known.mutes, mutes);
        assert_eq!((known.paused, known.drained), ([false, false, true], false), "another node is drained");
        assert_eq!((known.mode("primary"), known.mode("other")), (Mode::Open, Mode::Auto));
        assert_eq!((known.limits("primary"), known.limits("other")), (limits, OtherLimits::default()));
        let names: std::collections::BTreeSet<String> = orders.iter().map(Order::name).collect();
        assert_eq!(names.len(), orders.len(), "{names:?}");
        assert!(super::tests::known(&[Order::Drain("0001".into())]).drained);
    }

    #[test]
    fn what_is_not_told_stays_as_configured() {
        let configured = Limits::default();
        let change = OtherLimits { per_minute: Some(7), burst: Some(0), ..OtherLimits::default() };
        assert_eq!(change.over(&configured), Limits { per_minute: 7, burst: 0, ..configured.clone() });
        assert_eq!(OtherLimits::default().over(&configured), configured);
        assert!(serde_json::from_str::<OtherLimits>(r#"{"per_second":1}"#).is_err());
    }
}
