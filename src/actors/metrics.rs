//! What the actors show of themselves.

use std::{collections::HashMap, sync::Arc, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};

use super::{
    Parts,
    roster::{Roster, State},
};
use crate::{
    broker::Lane,
    client::Error as ZendeskError,
    domain::{reason, timeline::Outcome},
    telemetry::series::{Counters, Labels, TracedBy, lifetimes, observe, zero},
};

const LANES: [Lane; 2] = [Lane::Chat, Lane::Events];

/// The kinds of causes, as label values.
const CAUSES: [&str; 9] = [
    "panic",
    "error",
    "time_limit",
    "crash",
    "rejected",
    "content_refused",
    "service_failed_on_it",
    "zendesk_refused",
    "muted",
];

/// The kinds of actors, as label values.
const KINDS: [&str; 14] = [
    "supervisor",
    "link",
    "breaker",
    "limiter",
    "allowance",
    "ingress",
    "consumer",
    "conversation",
    "conversations",
    "events",
    "retry",
    "bulk",
    "watchdog",
    "node",
];

/// The actors' metrics.
#[derive(Clone)]
pub struct Metrics {
    messages: Counters<2>,
    durations: TracedBy<2>,
    retries: Counters<2>,
    dead_letters: Counters<2>,
    restarts: Counters<2>,
    zombies: Counters<0>,
    posts: Counters<1>,
    handoffs: Counters<1>,
    deliveries: Counters<1>,
}

impl Metrics {
    /// Registers them, with every known series at zero.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            messages: Counters::default(),
            durations: lifetimes(),
            retries: Counters::default(),
            dead_letters: Counters::default(),
            restarts: Counters::default(),
            zombies: Counters::default(),
            posts: Counters::default(),
            handoffs: Counters::default(),
            deliveries: Counters::default(),
        };
        registry.register("tidegate_messages", "Messages by how they ended", metrics.messages.clone());
        registry.register("tidegate_message_duration_seconds", "From acceptance to the end", metrics.durations.clone());
        registry.register("tidegate_retries", "Messages tried again", metrics.retries.clone());
        registry.register(
            "tidegate_dead_letters",
            "Messages that went to the dead letters",
            metrics.dead_letters.clone(),
        );
        registry.register("tidegate_actor_restarts", "Actors started again after a failure", metrics.restarts.clone());
        registry.register("tidegate_actor_zombies", "Actors replaced because they blocked", metrics.zombies.clone());
        registry.register("tidegate_posts", "Posts to Zendesk", metrics.posts.clone());
        registry.register("tidegate_handoffs", "Conversations handed to humans", metrics.handoffs.clone());
        registry.register("tidegate_delivery_reports", "Zendesk's reports on our replies", metrics.deliveries.clone());
        metrics.begin();
        metrics
    }

    fn begin(&self) {
        for lane in LANES.map(Lane::as_str) {
            for outcome in Outcome::ALL.map(Outcome::as_str) {
                zero(&self.messages, [("lane", lane), ("outcome", outcome)]);
                zero(&self.durations, [("lane", lane), ("outcome", outcome)]);
            }
            for cause in CAUSES {
                zero(&self.retries, [("lane", lane), ("cause", cause)]);
                zero(&self.dead_letters, [("lane", lane), ("cause", cause)]);
            }
        }
        for kind in KINDS {
            for reason in ["panic", "error", "killed", "time_limit"] {
                zero(&self.restarts, [("kind", kind), ("reason", reason)]);
            }
        }
        zero(&self.zombies, []);
        for outcome in ["ok", "unknown", "unreachable", "throttled", "unauthorized", "refused"] {
            zero(&self.posts, [("outcome", outcome)]);
        }
        for outcome in ["asked", "confirmed", "unconfirmed", "refused", "failed"] {
            zero(&self.handoffs, [("outcome", outcome)]);
        }
        for outcome in ["delivered", "failed"] {
            zero(&self.deliveries, [("outcome", outcome)]);
        }
    }

    pub(super) fn ended(&self, lane: Lane, outcome: Outcome, took: Duration) {
        let labels = [("lane", lane.as_str()), ("outcome", outcome.as_str())];
        self.messages.get_or_create(&labels).inc();
        observe(&self.durations.get_or_create(&labels), took);
    }

    /// How many messages have ended so.
    pub(super) fn ended_so(&self, outcome: Outcome) -> u64 {
        let of =
            |lane: Lane| self.messages.get_or_create(&[("lane", lane.as_str()), ("outcome", outcome.as_str())]).get();
        LANES.into_iter().map(of).sum()
    }

    /// How many failures went to the dead letters.
    pub(super) fn buried_so_far(&self) -> u64 {
        let of =
            |lane: Lane, cause| self.dead_letters.get_or_create(&[("lane", lane.as_str()), ("cause", cause)]).get();
        LANES.into_iter().flat_map(|lane| CAUSES.map(|cause| of(lane, cause))).sum()
    }

    pub(super) fn retried(&self, lane: Lane, cause: &'static str) {
        self.retries.get_or_create(&[("lane", lane.as_str()), ("cause", cause)]).inc();
    }

    pub(super) fn buried(&self, lane: Lane, cause: &str) {
        self.dead_letters.get_or_create(&[("lane", lane.as_str()), ("cause", reason::cause(cause))]).inc();
    }

    pub(super) fn restarted(&self, kind: &'static str, reason: &'static str) {
        self.restarts.get_or_create(&[("kind", kind), ("reason", reason)]).inc();
    }

    pub(super) fn zombie(&self) {
        self.zombies.get_or_create(&[]).inc();
    }

    pub(super) fn posted(&self, error: Option<&ZendeskError>) {
        let outcome = error.map_or("ok", ZendeskError::kind);
        self.posts.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts a hand-off by what became of it.
    pub fn handed_off(&self, outcome: &'static str) {
        self.handoffs.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(super) fn delivery_reported(&self, failed: bool) {
        self.deliveries.get_or_create(&[("outcome", if failed { "failed" } else { "delivered" })]).inc();
    }
}

/// `tidegate_actors{kind,state}` and `tidegate_actor_waiting{kind}`, read when scraped.
pub(super) struct Census {
    roster: Arc<Roster>,
    parts: Arc<Parts>,
}

impl std::fmt::Debug for Census {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("actors::Census")
    }
}

impl Census {
    /// Registers the census of a node's actors.
    pub(super) fn register(registry: &mut Registry, parts: &Arc<Parts>) {
        parts.roster.durations.register(registry, &KINDS);
        registry.register_collector(Box::new(Self { roster: parts.roster.clone(), parts: parts.clone() }));
    }
}

impl Collector for Census {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut actors: HashMap<(&str, State), u64> =
            KINDS.iter().flat_map(|kind| State::ALL.map(|state| ((*kind, state), 0))).collect();
        let mut waiting: HashMap<&str, u64> = KINDS.iter().map(|kind| (*kind, 0)).collect();
        for card in self.roster.all() {
            let snapshot = card.snapshot();
            *actors.entry((card.kind, snapshot.state)).or_default() += 1;
            *waiting.entry(card.kind).or_default() += snapshot.waiting as u64;
        }
        actors.insert(("conversation", State::Running), self.parts.directory.len() as u64);
        waiting.insert("conversation", self.parts.directory.held() as u64);
        let mut family = encoder.encode_descriptor("tidegate_actors", "Actors", None, MetricType::Gauge)?;
        for ((kind, state), count) in actors {
            let labels = [("kind", kind), ("state", state.as_str())];
            ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
        }
        let mut family =
            encoder.encode_descriptor("tidegate_actor_waiting", "What waits for actors", None, MetricType::Gauge)?;
        for (kind, count) in waiting {
            let labels: Labels<1> = [("kind", KINDS.iter().find(|known| **known == kind).unwrap_or(&"node"))];
            ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
