//! Building blocks for metrics: label values, label sets, buckets.

use std::sync::{LazyLock, Mutex};

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};

/// A label set of `N` pairs. Values come from enums and configuration, never from data.
pub type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Counters by `N` labels.
pub type Counters<const N: usize> = Family<Labels<N>, Counter>;

/// Gauges by `N` labels.
pub type Gauges<const N: usize> = Family<Labels<N>, Gauge>;

/// Histograms by `N` labels.
pub type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

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

/// Histograms for calls over a network: 1 ms to 60 s.
pub fn seconds<const N: usize>() -> Histograms<N> {
    Family::new_with_constructor(|| {
        Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
    })
}

/// Histograms for a message's whole life: 10 ms to an hour.
pub fn lifetimes<const N: usize>() -> Histograms<N> {
    Family::new_with_constructor(|| {
        Histogram::new([0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0])
    })
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
