//! What passes at most for a moment, read from how frames spread on their way.

use std::collections::VecDeque;

use super::history::{Fate, Sent};

/// Measures trains: datagrams that left faster than the target, one right after another, as those of one frame do.
///
/// A line that is narrower than the pace at which they left spreads them to its own rate; a wider one leaves their
/// spacing alone (packet-pair dispersion, Keshav, SIGCOMM 1991, over whole trains as by Dovrolis, Infocom 2001). So
/// each frame tells for free what GCC learns from padding. A single train is fooled by jitter: the median of the last
/// ones counts.
#[derive(Debug, Default)]
pub(super) struct Trains {
    open: Option<Open>,
    /// Oldest first.
    samples: VecDeque<Sample>,
}

/// What the last trains say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Capacity {
    /// Bits per second that pass at least; the line's rate when `narrow`.
    pub(super) rate: f64,
    /// Whether the line spreads most trains, and about equally.
    pub(super) narrow: bool,
    /// When the last train left, on the sender's clock.
    pub(super) at_us: i64,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    sent_us: i64,
    arrived_us: i64,
    last: Sent,
    last_arrived_us: i64,
    /// Bytes after the first datagram: those whose passing the spans measure.
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    rate: f64,
    spread: bool,
    at_us: i64,
}

impl Trains {
    /// Adds the next datagram in order. `target` (bits per second) is what the sender sends on average.
    pub(super) fn record(&mut self, sent: Sent, target: f64) {
        let Fate::Arrived(arrived_us) = sent.fate else { return self.close() };
        if let Some(open) = &mut self.open {
            let fair_us = f64::from(open.last.bytes) * 8e6 / (FASTER * target.max(1.0));
            if (sent.at_us - open.last.at_us) as f64 <= fair_us + SLACK_US
                && arrived_us >= open.last_arrived_us
            {
                open.bytes += u64::from(sent.bytes);
                open.last = sent;
                open.last_arrived_us = arrived_us;
                return;
            }
            self.close();
        }
        self.open =
            Some(Open { sent_us: sent.at_us, arrived_us, last: sent, last_arrived_us: arrived_us, bytes: 0 });
    }

    /// What the last trains say; `None` until there are enough.
    pub(super) fn capacity(&self) -> Option<Capacity> {
        let at_us = self.samples.back()?.at_us;
        if self.samples.len() < MIN_TRAINS {
            return None;
        }
        let mut rates: Vec<f64> = self.samples.iter().map(|s| s.rate).collect();
        rates.sort_by(f64::total_cmp);
        let at = |quarter: usize| rates.get(rates.len() * quarter / 4).copied().unwrap_or(0.0);
        let spread = self.samples.iter().filter(|s| s.spread).count();
        let narrow = spread * 4 >= self.samples.len() * 3 && at(3) - at(1) < at(2) * ALIKE;
        Some(Capacity { rate: at(2), narrow, at_us })
    }

    /// Ends the present train.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        if open.bytes < MIN_BYTES {
            return;
        }
        let left_us = (open.last.at_us - open.sent_us) as f64;
        let came_us = (open.last_arrived_us - open.arrived_us) as f64;
        let spread = came_us > left_us * SPREAD + RESOLUTION_US;
        let rate = open.bytes as f64 * 8e6 / left_us.max(came_us).max(RESOLUTION_US);
        if self.samples.len() >= MAX_TRAINS {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { rate, spread, at_us: open.last.at_us });
    }
}

/// A datagram belongs to the train if the one before it left at least this much faster than the target.
const FASTER: f64 = 1.1;
/// Senders' timers are late by as much.
const SLACK_US: f64 = 1_000.0;
/// At 500 kb/s these pass in 6 ms, well above the noise of clocks.
const MIN_BYTES: u64 = 400;
/// Time stamps and timers are not better than this.
const RESOLUTION_US: f64 = 1_000.0;
/// Spread by less is noise.
const SPREAD: f64 = 1.2;
/// Quartiles of trains that one line has spread are not further apart than this share of the median.
const ALIKE: f64 = 0.25;
/// Enough for a median to shrug off one wrong train.
const MIN_TRAINS: usize = 3;
/// Nine pictures, 0.3 s: the median follows a change after half of that.
const MAX_TRAINS: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of 4 datagrams of 1000 bytes that leave at `pace` into a line of `line` bits per second.
    fn run(trains: &mut Trains, frames: i64, pace: i64, line: i64) {
        let mut free = 0;
        for frame in 0..frames {
            for i in 0..4 {
                let at_us = frame * 33_333 + i * 8_000_000_000 / pace;
                free = at_us.max(free) + 8_000_000_000 / line;
                trains.record(Sent { at_us, bytes: 1000, fate: Fate::Arrived(free) }, 1e6);
            }
        }
    }

    #[test]
    fn a_narrow_line_shows_its_rate_and_a_wide_one_the_pace() {
        let mut trains = Trains::default();
        run(&mut trains, 20, 4_000_000, 1_500_000);
        let capacity = trains.capacity().expect("enough");
        assert!(capacity.narrow && (capacity.rate / 1.5e6 - 1.0).abs() < 0.01, "{capacity:?}");
        run(&mut trains, 20, 4_000_000, 100_000_000);
        let capacity = trains.capacity().expect("enough");
        assert!(!capacity.narrow && (capacity.rate / 4e6 - 1.0).abs() < 0.01, "{capacity:?}");
    }

    #[test]
    fn a_lost_datagram_ends_a_train() {
        let mut trains = Trains::default();
        for i in 0..100 {
            let fate = if i % 2 == 0 { Fate::Missing } else { Fate::Arrived(i * 100) };
            trains.record(Sent { at_us: i * 100, bytes: 1000, fate }, 1e6);
        }
        assert_eq!(trains.capacity(), None);
    }
}
