//! How much is lost, and how many at a time.

use std::collections::VecDeque;

/// Losses of a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Share of the datagrams of the last two seconds that did not arrive, 0.0 to 1.0.
    pub rate: f64,
    /// Mean number of datagrams lost in a row; at least 1, and 1 while none is lost.
    pub burst: f64,
}

impl Loss {
    /// How long losses last when they come, in milliseconds of a call.
    #[must_use]
    pub fn burst_ms(&self) -> u32 {
        (self.burst * DATAGRAM_MS) as u32
    }
}

/// What became of the datagrams of the last [`WINDOW_US`], in their order.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// When it was sent, and whether it is lost.
    settled: VecDeque<(i64, bool)>,
    lost: usize,
}

impl Losses {
    /// Adds a datagram, the next in order.
    pub(super) fn record(&mut self, sent_us: i64, lost: bool) {
        self.settled.push_back((sent_us, lost));
        self.lost += usize::from(lost);
        while self.settled.len() > MAX_SETTLED
            || self.settled.front().is_some_and(|&(us, _)| sent_us - us > WINDOW_US)
        {
            if let Some((_, true)) = self.settled.pop_front() {
                self.lost -= 1;
            }
        }
    }

    /// The losses of the window.
    pub(super) fn loss(&self) -> Loss {
        let starts = |i: usize| i == 0 || self.settled.get(i - 1).is_some_and(|&(_, lost)| !lost);
        let bursts = self.settled.iter().enumerate().filter(|(i, (_, lost))| *lost && starts(*i)).count();
        Loss {
            rate: self.lost as f64 / self.settled.len().max(1) as f64,
            burst: if bursts == 0 { 1.0 } else { self.lost as f64 / bursts as f64 },
        }
    }

    /// Share lost of those sent in the last `window_us` that are settled.
    pub(super) fn rate_of_last(&self, window_us: i64) -> f64 {
        let Some(&(newest, _)) = self.settled.back() else { return 0.0 };
        let recent = self.settled.iter().rev().take_while(|(us, _)| newest - us <= window_us);
        let (lost, all) = recent.fold((0_u32, 0_u32), |(lost, all), &(_, l)| (lost + u32::from(l), all + 1));
        f64::from(lost) / f64::from(all.max(1))
    }
}

/// Between two datagrams of a call, about.
const DATAGRAM_MS: f64 = 5.0;
/// Bursts of a bad Wi-Fi are 10 to 100 ms apart: two seconds hold enough of them for a mean.
const WINDOW_US: i64 = 2_000_000;
/// Two seconds at 20 Mb/s.
const MAX_SETTLED: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_counted_in_bursts_and_forgotten() {
        let mut losses = Losses::default();
        assert_eq!(losses.loss(), Loss { rate: 0.0, burst: 1.0 });
        // Three of ten in a row, and one more.
        for i in 0..100 {
            losses.record(i * 10_000, matches!(i % 10, 0..=2 | 5));
        }
        let loss = losses.loss();
        assert!((loss.rate - 0.4).abs() < 0.01 && (loss.burst - 2.0).abs() < 0.01, "{loss:?}");
        (100..401).for_each(|i| losses.record(i * 10_000, false));
        assert_eq!(losses.loss(), Loss { rate: 0.0, burst: 1.0 });
    }
}
