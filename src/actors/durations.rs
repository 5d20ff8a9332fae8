//! How long actors are busy with what they are given: `tidegate_actor_handle_duration_seconds{kind}`.

use prometheus_client::{
    metrics::{family::Family, histogram::Histogram},
    registry::Registry,
};

use crate::telemetry::series::{Histograms, zero};

/// The durations of all kinds of actors.
#[derive(Clone)]
pub struct Durations {
    by_kind: Histograms<1>,
}

impl Durations {
    /// Begins without any. From a bell that finds nothing to do to a turn that waits for an AI service.
    pub fn new() -> Self {
        let histogram = || Histogram::new([0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0]);
        Self { by_kind: Family::new_with_constructor(histogram) }
    }

    /// Registers them, with every kind at zero.
    pub fn register(&self, registry: &mut Registry, kinds: &[&'static str]) {
        kinds.iter().for_each(|kind| zero(&self.by_kind, [("kind", *kind)]));
        let help = "How long an actor was busy with one thing";
        registry.register("tidegate_actor_handle_duration_seconds", help, self.by_kind.clone());
    }

    /// Those of one kind.
    pub fn of(&self, kind: &'static str) -> Histogram {
        self.by_kind.get_or_create(&[("kind", kind)]).clone()
    }
}
