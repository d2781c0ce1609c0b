//! A token bucket: how much a peer may send.

use std::time::Instant;

/// Allows a steady rate and a burst.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    per_second: u32,
    burst: u32,
    /// Millionths of a token, so that short intervals add up without rounding.
    level: u64,
    filled_at: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket of `limit.1` tokens that fills at `limit.0` tokens a second.
    #[must_use]
    pub const fn new((per_second, burst): (u32, u32)) -> Self {
        Self { per_second, burst, level: burst as u64 * UNIT, filled_at: None }
    }

    /// Takes `tokens` if they are there; otherwise takes none and returns false.
    pub fn take(&mut self, now: Instant, tokens: u32) -> bool {
        let since = self.filled_at.map_or(0, |t| now.saturating_duration_since(t).as_micros());
        self.filled_at = Some(now);
        let added = u64::try_from(since).unwrap_or(u64::MAX).saturating_mul(u64::from(self.per_second));
        self.level = self.level.saturating_add(added).min(u64::from(self.burst) * UNIT);
        let wanted = u64::from(tokens) * UNIT;
        let enough = self.level >= wanted;
        if enough {
            self.level -= wanted;
        }
        enough
    }
}

const UNIT: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_then_the_rate() {
        let (mut bucket, start) = (TokenBucket::new((10, 3)), Instant::now());
        assert_eq!((0..5).filter(|_| bucket.take(start, 1)).count(), 3);
        let later = (1..=1000).filter(|ms| bucket.take(start + Duration::from_millis(*ms), 1)).count();
        assert_eq!(later, 10);
        assert!(!bucket.take(start + Duration::from_secs(9), 4), "never more than the burst");
    }
}
