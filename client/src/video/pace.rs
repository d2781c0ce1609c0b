//! When the next picture is due.

use std::time::{Duration, Instant};

/// Absolute deadlines at a fixed rate: no drift, whatever each round takes.
pub(super) struct Pacer {
    start: Instant,
    /// Rounds a second, as a fraction.
    rate: (u32, u32),
    next: u64,
}

impl Pacer {
    pub(super) fn new(rate: (u32, u32)) -> Self {
        Self { start: Instant::now(), rate, next: 0 }
    }

    /// Sleeps until the next round and returns its number. Rounds that are over already are left out.
    pub(super) fn wait(&mut self) -> u64 {
        let nanos = self.start.elapsed().as_nanos() * u128::from(self.rate.0);
        let now = u64::try_from(nanos / (1_000_000_000 * u128::from(self.rate.1))).unwrap_or(u64::MAX);
        let round = self.next.max(now);
        // Rounded up, or a second call within the same nanosecond would find the round not begun.
        let at = (u128::from(round) * 1_000_000_000 * u128::from(self.rate.1)).div_ceil(self.rate.0.into());
        let at = self.start + Duration::from_nanos(u64::try_from(at).unwrap_or(u64::MAX));
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        self.next = round + 1;
        round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pacer_neither_drifts_nor_queues() {
        let mut pacer = Pacer::new((1000, 3));
        let start = pacer.start;
        for _ in 0..20 {
            let round = pacer.wait();
            assert!(start.elapsed() >= Duration::from_micros(3000 * round), "not too early");
        }
        let before = pacer.next;
        std::thread::sleep(Duration::from_millis(30));
        assert!(pacer.wait() >= before + 9, "rounds that are over are left out");
    }
}
