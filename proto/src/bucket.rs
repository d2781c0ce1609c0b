//! A token bucket: how much of something a peer may do.

use std::time::{Duration, Instant};

/// Allows a steady rate and a burst.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    per_minute: i64,
    burst: u32,
    /// In [`UNIT`]s; negative when tokens are owed.
    level: i64,
    filled_at: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket of `limit.1` tokens that fills at `limit.0` tokens a second.
    #[must_use]
    pub const fn new((per_second, burst): (u32, u32)) -> Self {
        Self::full(per_second as i64 * 60, burst)
    }

    /// A full bucket of `limit.1` tokens that fills at `limit.0` tokens a minute.
    #[must_use]
    pub const fn per_minute((per_minute, burst): (u32, u32)) -> Self {
        Self::full(per_minute as i64, burst)
    }

    /// Takes `tokens` if they are there; otherwise takes none and returns false.
    pub fn take(&mut self, now: Instant, tokens: u32) -> bool {
        self.fill(now);
        let enough = self.level >= units(tokens);
        if enough {
            self.level -= units(tokens);
        }
        enough
    }

    /// Takes `tokens` even if they are not there: what is missing is owed, and comes out of what flows in next.
    pub fn owe(&mut self, now: Instant, tokens: u32) {
        self.fill(now);
        self.level = self.level.saturating_sub(units(tokens));
    }

    /// Whether `tokens` are there.
    #[must_use]
    pub fn has(&self, now: Instant, tokens: u32) -> bool {
        let mut filled = *self;
        filled.fill(now);
        filled.level >= units(tokens)
    }

    /// When the bucket is full if nothing is taken until then; `None` when it never is.
    #[must_use]
    pub fn full_at(&self, now: Instant) -> Option<Instant> {
        let mut filled = *self;
        filled.fill(now);
        let missing = units(self.burst).abs_diff(filled.level);
        if missing == 0 {
            return filled.filled_at;
        }
        if self.per_minute == 0 {
            return None;
        }
        let wait = Duration::from_micros(missing.div_ceil(self.per_minute.unsigned_abs()));
        filled.filled_at?.checked_add(wait)
    }

    const fn full(per_minute: i64, burst: u32) -> Self {
        Self { per_minute, burst, level: units(burst), filled_at: None }
    }

    /// Adds what has flowed in. A clock that goes back adds nothing, then or when it gets there again.
    fn fill(&mut self, now: Instant) {
        let since = self.filled_at.map_or(0, |t| now.saturating_duration_since(t).as_micros());
        self.filled_at = self.filled_at.max(Some(now));
        let added = i64::try_from(since).unwrap_or(i64::MAX).saturating_mul(self.per_minute);
        self.level = self.level.saturating_add(added).min(units(self.burst));
    }
}

const fn units(tokens: u32) -> i64 {
    tokens as i64 * UNIT
}

/// Parts of a token: what a token a minute adds in a microsecond is one, so that short intervals add up without
/// rounding.
const UNIT: i64 = 60_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let (mut bucket, start) = (TokenBucket::new((10, 3)), Instant::now());
        assert_eq!((0..5).filter(|_| bucket.take(start, 1)).count(), 3);
        let later = (1..=1000).filter(|ms| bucket.take(start + Duration::from_millis(*ms), 1)).count();
        assert_eq!(later, 10);
        assert!(!bucket.take(start + Duration::from_secs(9), 4), "never more than the burst");
    }

    #[test]
    fn slow_rates_do_not_round_to_nothing() {
        let (mut bucket, start) = (TokenBucket::per_minute((5, 1)), Instant::now());
        let taken = (0..=60_000).filter(|ms| bucket.take(start + Duration::from_millis(*ms), 1)).count();
        assert_eq!(taken, 1 + 5);
    }

    #[test]
    fn what_is_owed_is_paid_before_anything_is_given() {
        let (mut bucket, start) = (TokenBucket::new((10, 3)), Instant::now());
        assert_eq!(bucket.full_at(start), Some(start));
        (0..13).for_each(|_| bucket.owe(start, 1));
        let later = start + Duration::from_secs(1);
        assert!(!bucket.has(later, 1));
        assert!(bucket.has(later + Duration::from_millis(100), 1));
        let full = bucket.full_at(later).expect("it fills");
        assert!(!bucket.has(full - Duration::from_micros(1), 3) && bucket.has(full, 3));
        let mut dry = TokenBucket::new((0, 1));
        assert!(dry.take(start, 1));
        assert_eq!(dry.full_at(start), None);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_away() {
        let (mut bucket, start) = (TokenBucket::new((10, 10)), Instant::now() + Duration::from_secs(10));
        assert!(bucket.take(start, 10));
        for _ in 0..5 {
            assert!(!bucket.take(start - Duration::from_secs(9), 1));
            assert!(!bucket.take(start, 1));
        }
    }
}
