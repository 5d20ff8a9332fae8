//! What operators have set for all nodes, as this one does it.
//!
//! ```text
//! state --each second, and at once where it was ordered--> refresh --> looked at before anything is taken or said
//!                                                             `------> breakers and slots of the services, limiters
//! ```
//! The state keeps it (`state/settings.rs`), so that it is seen on all nodes. What ends with a run of a process is taken
//! back by whoever notices that it has ended.

mod order;

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, watch};

pub use self::order::{Mute, Order, OtherLimits, Pool};
use super::Parts;
use crate::{
    domain::{ids::ConversationId, job::Job},
    guard::{Gate, Permits, Service, breaker::Mode},
    state::{
        self,
        settings::{All, Setting},
    },
};

/// A breaker that is held otherwise than it is set for so many readings is told again. One reading proves nothing: what
/// another node has just done is seen on the breaker before it is read here.
const ASTRAY_MAX: u32 = 3;

/// What is set, as far as this node knows.
#[derive(Default)]
pub struct Settings {
    known: ArcSwap<Known>,
    changes: watch::Sender<u64>,
    /// One who reads at a time.
    turn: Mutex<()>,
    astray: parking_lot::Mutex<HashMap<&'static str, u32>>,
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

    /// Tells a breaker again that is held otherwise than it is set: who was to tell it may have died before.
    fn lead_back(&self, service: &'static str, gate: &Gate, mode: Mode) {
        let mut astray = self.astray.lock();
        let readings = astray.entry(service).or_default();
        *readings = if gate.snapshot().mode == mode { 0 } else { *readings + 1 };
        if *readings >= ASTRAY_MAX {
            *readings = 0;
            gate.force(mode);
        }
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
    let Order::Breaker(name, _) = order else { return Ok(was_set) };
    // Also one that is held although nothing is set: its node has died before it could let it go.
    let held = parts.stack.services().iter().find(|service| service.name == name);
    let held = held.filter(|service| service.gate.snapshot().mode != Mode::Auto);
    held.inspect(|service| service.gate.force(Mode::Auto));
    Ok(was_set || held.is_some())
}

/// Reads what is set and does what is new in it.
pub(super) async fn refresh(parts: &Parts) -> Result<(), state::Error> {
    let settings = &parts.settings;
    let _turn = settings.turn.lock().await;
    let before = settings.known.load_full();
    if let Some(all) = parts.state.settings(before.version).await? {
        let now = Arc::new(Known::of(all, parts.nodes.id()));
        parts.stack.services().iter().for_each(|service| apply(service, &before, &now));
        for (name, permits) in &parts.key_limits {
            limit(name, permits, &before, &now);
        }
        settings.known.store(now);
        settings.changes.send_modify(|changes| *changes += 1);
    }
    parts.upkeep.rest(settings.is_drained());
    if settings.is_drained() {
        parts.directory.give_back_waiting();
    }
    let known = settings.known.load_full();
    for service in parts.stack.services() {
        settings.lead_back(service.name, &service.gate, known.mode(service.name));
    }
    for setting in &known.all {
        if let Some(run) = setting.ends_with.as_deref().filter(|run| parts.nodes.has_ended(run)) {
            tracing::warn!(
                setting = setting.name,
                by = setting.by,
                "what was set ends with the process it was set for"
            );
            parts.state.end(&setting.name, run).await?;
        }
    }
    Ok(())
}

fn apply(service: &Service, before: &Known, now: &Known) {
    let name = service.name;
    if before.mode(name) != now.mode(name) {
        tracing::warn!(ai.service = name, mode = ?now.mode(name), "an operator decides about a breaker");
        service.gate.force(now.mode(name));
    }
    if let Some(limits) = limit(name, &service.permits, before, now) {
        service.bulkhead.set_limit(limits.concurrency.unwrap_or(service.bulkhead.configured()));
    }
}

/// Has a limiter go by what is set now; that, if it is something else than before.
fn limit(name: &str, permits: &Permits, before: &Known, now: &Known) -> Option<OtherLimits> {
    let limits = now.limits(name);
    (before.limits(name) != limits).then(|| {
        tracing::warn!(limiter = name, ?limits, "an operator sets other limits");
        permits.set_limits(limits.over(permits.configured()));
        limits
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{domain::time::Timestamp, guard::breaker, telemetry::Clock};

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
    fn a_breaker_that_stays_held_although_nothing_is_set_is_let_go_and_one_just_held_is_not() {
        let (settings, gate) =
            (Settings::default(), Gate::new(breaker::Config::default(), Duration::from_secs(1), Clock::system()));
        gate.force(Mode::Open);
        let mode_after = |set| {
            settings.lead_back("primary", &gate, set);
            gate.snapshot().mode
        };
        assert_eq!((mode_after(Mode::Auto), mode_after(Mode::Auto)), (Mode::Open, Mode::Open));
        // Now it is read that another has set it.
        assert_eq!(mode_after(Mode::Open), Mode::Open);
        assert_eq!([(); 3].map(|()| mode_after(Mode::Auto)), [Mode::Open, Mode::Open, Mode::Auto]);
    }
}
