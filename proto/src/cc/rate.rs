//! How much arrives.

use std::collections::VecDeque;

/// The datagrams that arrived lately, by the receiver's clock.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// Arrival and bytes, oldest first.
    arrived: VecDeque<(i64, u32)>,
}

impl Delivered {
    /// Adds a datagram.
    pub(super) fn record(&mut self, arrived_us: i64, bytes: u32) {
        let mut at = self.arrived.len();
        while at > 0 && self.arrived.get(at - 1).is_some_and(|&(us, _)| us > arrived_us) {
            at -= 1;
        }
        self.arrived.insert(at, (arrived_us, bytes));
        let newest = self.arrived.back().map_or(arrived_us, |&(us, _)| us);
        while self.arrived.len() > MAX_ARRIVED
            || self.arrived.front().is_some_and(|&(us, _)| newest - us > KEPT_US)
        {
            self.arrived.pop_front();
        }
    }

    /// Bits per second of the last `window_us`, from its first arrival to the last one: exact while datagrams queue
    /// for a line and leave it one right after another. Silence of more than [`GAP_US`] is an outage, and what came
    /// before it says nothing about what passes now. `None` when too little has arrived.
    pub(super) fn rate(&self, window_us: i64) -> Option<f64> {
        let &(last, _) = self.arrived.back()?;
        let (mut first, mut bytes, mut before) = (last, 0_u64, 0);
        for &(us, size) in self.arrived.iter().rev() {
            if last - us > window_us || first - us > GAP_US {
                break;
            }
            bytes += before;
            before = u64::from(size);
            first = us;
        }
        let span = last - first;
        (span >= window_us.min(MIN_SPAN_US)).then(|| bytes as f64 * 8e6 / span as f64)
    }
}

/// Window that the longest question is about.
const KEPT_US: i64 = 1_000_000;
/// A second at 20 Mb/s.
const MAX_ARRIVED: usize = 2048;
/// Longer than the gap that a full datagram leaves behind itself on the narrowest line a call can use (64 kb/s).
const GAP_US: i64 = 200_000;
/// Two pictures: less is a matter of where in a picture the window begins.
const MIN_SPAN_US: i64 = 66_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_line_is_measured_exactly() {
        let mut delivered = Delivered::default();
        // 500 kb/s in datagrams of all sizes.
        let mut at = 0;
        for i in 0..100_u32 {
            let bytes = 100 + i * 37 % 1100;
            at += i64::from(bytes) * 16;
            delivered.record(at, bytes);
        }
        let rate = delivered.rate(300_000).expect("enough");
        assert!((rate / 500e3 - 1.0).abs() < 1e-6, "{rate}");
    }

    #[test]
    fn an_outage_does_not_count_as_slow() {
        let mut delivered = Delivered::default();
        (0..50).for_each(|i| delivered.record(i * 10_000, 1000));
        delivered.record(900_000, 1000);
        assert_eq!(delivered.rate(500_000), None);
        (0..20).for_each(|i| delivered.record(910_000 + i * 10_000, 1000));
        assert_eq!(delivered.rate(500_000).map(f64::round), Some(800e3));
    }
}
