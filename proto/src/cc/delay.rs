//! The standing queue, read from one-way delays between two clocks that need not agree.

use std::collections::VecDeque;

/// One-way delays of the last datagrams, and the smallest of the last seconds to compare them with.
///
/// The *standing* queue is the smallest delay of a tenth of a second above that base: what even the luckiest datagram
/// had to wait. A frame that waits for its own first bytes, and jitter, leave some datagrams untouched; a queue that
/// does not drain leaves none (the same reasoning as in CoDel, RFC 8289 section 3, and Copa, NSDI 2018 section 2.2).
#[derive(Debug, Default)]
pub(super) struct Delays {
    /// Arrival and delay of the last datagrams, in the order of the reports.
    recent: VecDeque<(i64, i64)>,
    /// Smallest delay by the [`BUCKET_US`] in which it arrived, oldest first.
    base: VecDeque<(i64, i64)>,
    /// Newest arrival.
    newest_us: i64,
}

impl Delays {
    /// Adds a datagram. False when its delay has nothing to do with the ones before: the receiver's clock was set, so
    /// everything that was measured on it is void and has been forgotten.
    pub(super) fn record(&mut self, sent_us: i64, arrived_us: i64) -> bool {
        let delay = arrived_us - sent_us;
        let same_clock = self.recent.back().is_none_or(|&(_, last)| (delay - last).abs() <= CLOCK_JUMP_US);
        if !same_clock {
            *self = Self::default();
        }
        self.newest_us = if self.recent.is_empty() { arrived_us } else { self.newest_us.max(arrived_us) };
        if self.recent.len() >= MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((arrived_us, delay));
        let bucket = arrived_us.div_euclid(BUCKET_US);
        match self.base.back_mut() {
            Some((last, least)) if bucket <= *last => *least = delay.min(*least),
            _ => self.base.push_back((bucket, delay)),
        }
        while self.base.front().is_some_and(|&(first, _)| bucket - first > BUCKETS) {
            self.base.pop_front();
        }
        same_clock
    }

    /// What stands now is no queue of ours: the base is what was met lately.
    pub(super) fn rebase(&mut self) {
        let least = self.recent_least(WINDOW_US);
        self.base = least.map(|least| (self.newest_us.div_euclid(BUCKET_US), least)).into_iter().collect();
    }

    /// The standing queue of the last [`WINDOW_US`] in microseconds.
    pub(super) fn standing(&self) -> i64 {
        self.least_above_base(WINDOW_US)
    }

    /// The same of the last [`SHORT_US`]: rises sooner, and is fooled sooner.
    pub(super) fn latest(&self) -> i64 {
        self.least_above_base(SHORT_US)
    }

    fn least_above_base(&self, window_us: i64) -> i64 {
        let base = self.base.iter().map(|&(_, delay)| delay).min();
        self.recent_least(window_us).zip(base).map_or(0, |(least, base)| (least - base).max(0))
    }

    fn recent_least(&self, window_us: i64) -> Option<i64> {
        let from = self.newest_us - window_us;
        let newest_first = self.recent.iter().rev().enumerate();
        let counting = newest_first.take_while(|(i, (arrived, _))| *i < MIN_SAMPLES || *arrived >= from);
        counting.map(|(_, &(_, delay))| delay).min()
    }
}

/// Three pictures, or ten packets of sound: with jitter of 10 ms the luckiest of them waits about 1 ms.
const WINDOW_US: i64 = 100_000;
/// Nearly one picture, or three packets of sound.
const SHORT_US: i64 = 30_000;
/// Fewer datagrams say nothing about a queue, so older ones count with them.
const MIN_SAMPLES: usize = 4;
/// The base is the smallest delay of 10 to 11 s: longer than any queue of ours stands, short enough that clocks that
/// drift apart by 100 ppm move it by 1 ms only, and that a longer route is believed.
const BUCKET_US: i64 = 1_000_000;
const BUCKETS: i64 = 10;
/// Datagrams of [`WINDOW_US`] at 20 Mb/s; of more, the newest suffice.
const MAX_RECENT: usize = 256;
/// No queue grows or drains by this much from one datagram to the next.
const CLOCK_JUMP_US: i64 = 10_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_and_bursts_are_no_queue_but_what_stands_is() {
        let mut delays = Delays::default();
        let clock = -7_000_000_000;
        for i in 0..200 {
            delays.record(i * 10_000, clock + i * 10_000 + 30_000 + (i * 7 % 5) * 4_000);
        }
        assert_eq!(delays.standing(), 0);
        for i in 200..215 {
            delays.record(i * 10_000, clock + i * 10_000 + 80_000 + (i * 7 % 5) * 4_000);
        }
        assert!((50_000..60_000).contains(&delays.standing()), "{}", delays.standing());
    }

    #[test]
    fn a_longer_route_becomes_the_base_and_a_clock_that_is_set_starts_anew() {
        let mut delays = Delays::default();
        for i in 0..3000 {
            delays.record(i * 10_000, i * 10_000 + if i < 1000 { 10_000 } else { 60_000 });
        }
        assert_eq!(delays.standing(), 0);
        assert!(delays.record(30_000_000, 30_100_000));
        assert!(!delays.record(30_010_000, 90_000_000));
        assert_eq!(delays.standing(), 0);
        // The clock went back: its new time counts.
        assert!(!delays.record(30_020_000, -90_000_000));
        assert!(delays.record(30_030_000, -89_000_000));
        assert_eq!(delays.standing(), 0);
    }
}
