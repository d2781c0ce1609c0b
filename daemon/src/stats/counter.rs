//! Numbers that tasks count in and scrapes read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that is counted up, or set to what somebody else has counted. Relaxed: it costs next to nothing on the way of media,
/// and a reader may see one number a moment ahead of another.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many events took how long.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// By [`BOUNDS_MS`], and what took longer than the last of them.
    counts: [Counter; BOUNDS_MS.len() + 1],
    sum_us: Counter,
}

impl Histogram {
    pub(crate) fn record(&self, took: Duration) {
        let ms = took.as_secs_f64() * 1e3;
        let bucket = BOUNDS_MS.iter().take_while(|bound| ms > **bound).count();
        self.counts[bucket].add(1);
        self.sum_us.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Upper bounds in seconds, the last infinite, each with the number of events between it and the one before.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS_MS.iter().map(|ms| ms / 1e3).chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().map(Counter::get)).collect()
    }

    /// How many events there were.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().map(Counter::get).sum()
    }

    pub(super) fn sum_seconds(&self) -> f64 {
        self.sum_us.get() as f64 / 1e6
    }

    /// What a share `q` of the events took at most, in milliseconds, as exactly as the buckets tell. None without events.
    pub(super) fn quantile_ms(&self, q: f64) -> Option<f64> {
        let counts: Vec<u64> = self.counts.iter().map(Counter::get).collect();
        let rank = counts.iter().sum::<u64>() as f64 * q;
        let mut before = 0.0;
        let mut from = 0.0;
        for (count, bound) in counts.iter().zip(BOUNDS_MS) {
            let count = *count as f64;
            if count > 0.0 && before + count >= rank {
                return Some(from + (bound - from) * (rank - before) / count);
            }
            (before, from) = (before + count, bound);
        }
        (counts.iter().any(|n| *n > 0)).then_some(from)
    }
}

/// From a commit on a fast disk to one that people take for a failure.
const BOUNDS_MS: [f64; 12] = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_tells_quantiles_as_exactly_as_its_buckets() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile_ms(0.5), None);
        (0..98).for_each(|_| histogram.record(Duration::from_micros(1500)));
        histogram.record(Duration::from_millis(15));
        histogram.record(Duration::from_secs(60));
        let quantile = |q| histogram.quantile_ms(q).expect("events");
        assert!((1.0..=2.0).contains(&quantile(0.5)), "{}", quantile(0.5));
        assert!((10.0..=20.0).contains(&quantile(0.99)), "{}", quantile(0.99));
        assert_eq!(quantile(1.0), 5000.0, "beyond the last bound no more is known");
        let buckets = histogram.buckets();
        assert_eq!((buckets[2], buckets[12]), ((0.002, 98), (f64::INFINITY, 1)));
        assert!((histogram.sum_seconds() - 60.162).abs() < 1e-9);
    }
}
