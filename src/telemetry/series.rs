//! Building blocks for metrics: label values, label sets, buckets.

use std::{
    sync::{LazyLock, Mutex},
    time::{Duration, SystemTime},
};

use prometheus_client::metrics::{
    counter::Counter, exemplar::HistogramWithExemplars, family::Family, gauge::Gauge, histogram::Histogram,
};

use super::span;

/// A label set of `N` pairs. Values come from enums and configuration, never from data.
pub type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Counters by `N` labels.
pub type Counters<const N: usize> = Family<Labels<N>, Counter>;

/// Gauges by `N` labels.
pub type Gauges<const N: usize> = Family<Labels<N>, Gauge>;

/// Histograms by `N` labels.
pub type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// What an exemplar names: the trace of one that was counted (OpenMetrics, "Exemplars").
pub type Exemplar = [(&'static str, String); 1];

/// A histogram that names the trace of one of those counted in each bucket.
pub type Traced = HistogramWithExemplars<Exemplar>;

/// The same by `N` labels.
pub type TracedBy<const N: usize> = Family<Labels<N>, Traced, fn() -> Traced>;

/// Counts a duration in seconds, and names the trace that is being worked in.
pub fn observe(histogram: &Traced, took: Duration) {
    observe_in(histogram, took, span::sampled_trace());
}

/// The same for a trace that is told.
pub fn observe_in(histogram: &Traced, took: Duration, trace: Option<String>) {
    let at = trace.is_some().then(SystemTime::now);
    histogram.observe(took.as_secs_f64(), trace.map(|trace| [("trace_id", trace)]), at);
}

/// Lets a series exist before anything is counted in it, so that the first event is seen as a change.
pub fn zero<const N: usize, M, C>(family: &Family<Labels<N>, M, C>, labels: Labels<N>)
where
    C: prometheus_client::metrics::family::MetricConstructor<M>,
    M: Clone,
{
    drop(family.get_or_create(&labels));
}

/// Makes a configured name into a label value. Names live as long as the process: there are as many as the
/// configuration has, and each is kept once.
pub fn label(name: &str) -> &'static str {
    static NAMES: LazyLock<Mutex<Vec<&'static str>>> = LazyLock::new(Mutex::default);
    let mut names = NAMES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(known) = names.iter().find(|known| **known == name) {
        return known;
    }
    let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.push(kept);
    kept
}

/// 1 ms to 60 s.
const SECONDS: [f64; 15] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// 10 ms to an hour.
const LIFETIMES: [f64; 13] = [0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// Histograms for waits of up to a minute.
pub fn seconds<const N: usize>() -> Histograms<N> {
    Family::new_with_constructor(|| Histogram::new(SECONDS))
}

/// Histograms for calls over a network.
pub fn calls<const N: usize>() -> TracedBy<N> {
    Family::new_with_constructor(|| Traced::new(SECONDS.into_iter()))
}

/// Histograms for a message's whole life.
pub fn lifetimes<const N: usize>() -> TracedBy<N> {
    Family::new_with_constructor(|| Traced::new(LIFETIMES.into_iter()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once() {
        assert!(std::ptr::eq(label("primary"), label("primary")));
        assert_eq!(label("other"), "other");
    }
}
