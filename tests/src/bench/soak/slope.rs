//! A line through what was measured over time.

/// How fast something grows, by Theil and Sen: the median of the slopes between any two points, which a few outliers do not move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slope {
    pub(super) per_second: f64,
    /// With 95 % confidence it is between these (Sen 1968).
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Slope {
    /// Of points of time in seconds and value. None of fewer than ten.
    ///
    /// Points that follow each other closely are much alike, which would feign confidence: so each of [`BLOCKS`] stretches counts
    /// as one point, its median.
    pub(super) fn of(points: &[(f64, f64)]) -> Option<Self> {
        let points: Vec<(f64, f64)> =
            points.chunks(points.len().div_ceil(BLOCKS).max(1)).map(middle).collect();
        let n = points.len() as f64;
        let mut slopes: Vec<f64> = points
            .iter()
            .enumerate()
            .flat_map(|(i, a)| points[i + 1..].iter().map(move |b| (b.1 - a.1) / (b.0 - a.0)))
            .filter(|slope| slope.is_finite())
            .collect();
        if points.len() < 10 || slopes.is_empty() {
            return None;
        }
        slopes.sort_by(f64::total_cmp);
        // The variance of Kendall's statistic, without ties.
        let spread = 1.96 * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
        let at = |rank: f64| slopes[(rank.max(0.0) as usize).min(slopes.len() - 1)];
        let all = slopes.len() as f64;
        Some(Self {
            per_second: at(all / 2.0),
            low: at((all - spread) / 2.0),
            high: at(f64::midpoint(all, spread)),
        })
    }
}

fn middle(block: &[(f64, f64)]) -> (f64, f64) {
    let median = |of: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = block.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    (median(|p| p.0), median(|p| p.1))
}

/// As many points as a line is put through.
const BLOCKS: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netem::Random;

    fn noisy(slope: f64, outliers: bool) -> Vec<(f64, f64)> {
        let mut random = Random::new(1, 0);
        let value = |random: &mut Random, n: u32| {
            let noise = random.unit() * 10.0 + if outliers && n.is_multiple_of(9) { 500.0 } else { 0.0 };
            (f64::from(n), slope * f64::from(n) + noise)
        };
        (0..500).map(|n| value(&mut random, n)).collect()
    }

    #[test]
    fn a_slope_is_found_in_noise_and_outliers_do_not_move_it() {
        for outliers in [false, true] {
            let found = Slope::of(&noisy(0.25, outliers)).expect("a slope");
            assert!((found.per_second - 0.25).abs() < 0.005, "{found:?}");
            assert!(found.low < 0.25 && 0.25 < found.high && found.high - found.low < 0.02, "{found:?}");
        }
    }

    #[test]
    fn what_does_not_grow_may_be_zero_and_too_little_says_nothing() {
        let found = Slope::of(&noisy(0.0, true)).expect("a slope");
        assert!(found.low < 0.0 && 0.0 < found.high, "{found:?}");
        let flat: Vec<_> = (0..100).map(|n| (f64::from(n), 7.0)).collect();
        assert_eq!(Slope::of(&flat), Some(Slope { per_second: 0.0, low: 0.0, high: 0.0 }));
        assert_eq!(Slope::of(&[]), None);
        assert_eq!(Slope::of(&flat[..5]), None);
    }
}
