//! A histogram of waiting times with fixed memory and about 3 % precision.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Steps within each power of two; 32 steps make a relative width of about 3 %.
const STEPS: u64 = 32;
/// Powers of two covered: up to 2^41 microseconds, which is 25 days.
const OCTAVES: u64 = 36;

/// Counts spans in microseconds and answers with percentiles.
pub struct Histogram {
    buckets: Vec<AtomicU64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: (0..STEPS * (OCTAVES + 1)).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Histogram {
    /// Counts one span.
    pub fn record(&self, span_us: u64) {
        self.buckets[index(span_us)].fetch_add(1, Relaxed);
    }

    /// The span in milliseconds that `share` (0 to 1) of all spans do not exceed; 0 when nothing was counted.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let wanted = ((total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_us(index as u64) as f64 / 1000.0;
            }
        }
        0.0
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.buckets.iter().for_each(|bucket| bucket.store(0, Relaxed));
    }
}

fn index(span_us: u64) -> usize {
    if span_us < STEPS {
        return span_us as usize;
    }
    let octave = u64::from(span_us.ilog2()) - u64::from(STEPS.ilog2());
    let step = (span_us >> octave) - STEPS;
    let last = STEPS * (OCTAVES + 1) - 1;
    (STEPS * (octave + 1) + step).min(last) as usize
}

/// The largest span that falls into the bucket.
fn upper_us(index: u64) -> u64 {
    if index < STEPS {
        return index;
    }
    let octave = index / STEPS - 1;
    ((index % STEPS + STEPS + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_four_percent() {
        let histogram = Histogram::default();
        (1..=10_000).for_each(|ms| histogram.record(ms * 1000));
        for (share, wanted) in [(0.5, 5000.0), (0.99, 9900.0), (1.0, 10_000.0)] {
            let got = histogram.percentile_ms(share);
            assert!((got - wanted).abs() / wanted < 0.04, "{share}: {got}");
        }
    }

    #[test]
    fn every_span_is_below_its_buckets_bound_and_above_the_one_before() {
        for span in (0..60).flat_map(|shift| [(1_u64 << shift).saturating_sub(1), 1 << shift, (1 << shift) + 1]) {
            let index = index(span) as u64;
            let last = STEPS * (OCTAVES + 1) - 1;
            assert!(index == last || span <= upper_us(index), "{span}");
            assert!(index == 0 || span > upper_us(index - 1), "{span}");
        }
    }

    #[test]
    fn nothing_counted_is_zero() {
        assert_eq!(Histogram::default().percentile_ms(0.99), 0.0);
    }
}
