//! Distributions of delays, kept small enough for calls of any length.

use std::collections::BTreeMap;

/// A distribution of times in microseconds (negative ones too), exact to [`Self::RESOLUTION_US`].
///
/// Memory grows with the number of different values, not with the number of samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    counts: BTreeMap<i32, u64>,
    samples: u64,
}

impl Distribution {
    /// Width of a bucket.
    pub const RESOLUTION_US: i64 = 100;

    /// Adds one sample; what lies beyond a day is counted as a day.
    pub fn record(&mut self, us: i64) {
        let limit = 86_400 * 1_000_000;
        let bucket = us.clamp(-limit, limit).div_euclid(Self::RESOLUTION_US);
        *self.counts.entry(bucket as i32).or_default() += 1;
        self.samples += 1;
    }

    /// Adds all samples of another distribution.
    pub fn merge(&mut self, other: &Self) {
        for (&bucket, &n) in &other.counts {
            *self.counts.entry(bucket).or_default() += n;
        }
        self.samples += other.samples;
    }

    /// How many samples there are.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.samples
    }

    /// Whether there is no sample.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// The value in microseconds that a share `q` (0 to 1) of the samples does not exceed; none without samples.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<i64> {
        let rank = ((self.samples as f64 * q.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        self.counts.iter().find_map(|(&bucket, &n)| {
            seen += n;
            (seen >= rank).then_some(i64::from(bucket) * Self::RESOLUTION_US)
        })
    }

    /// The largest sample in microseconds; none without samples.
    #[must_use]
    pub fn max(&self) -> Option<i64> {
        self.quantile(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_rank() {
        let mut d = Distribution::default();
        assert_eq!((d.quantile(0.5), d.is_empty()), (None, true));
        (1..=100).rev().for_each(|ms| d.record(ms * 1000));
        assert_eq!(d.quantile(0.5), Some(50_000));
        assert_eq!(d.quantile(0.95), Some(95_000));
        assert_eq!((d.quantile(0.0), d.max(), d.len()), (Some(1000), Some(100_000), 100));
    }

    #[test]
    fn negative_samples_and_merging() {
        let (mut a, mut b) = (Distribution::default(), Distribution::default());
        a.record(-40);
        b.record(3_000);
        b.record(i64::MAX);
        a.merge(&b);
        assert_eq!(a.quantile(0.1), Some(-100));
        assert_eq!(a.quantile(0.6), Some(3_000));
        assert_eq!(a.len(), 3);
    }
}
