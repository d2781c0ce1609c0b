//! What passes at most for a moment, read from how frames spread on their way.

use std::collections::VecDeque;

use super::history::{Fate, Sent};

/// Measures trains: datagrams that left one right after another at the pacing rate, as those of one frame do.
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
    /// The rate of a line that has spread trains. Paced a little above that rate they hardly spread any more, so it
    /// stays known until all of them together pass as they left, or faster than it.
    line: Option<f64>,
}

/// What the last trains say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Capacity {
    /// Bits per second that pass at least; the line's rate when `narrow`.
    pub(super) rate: f64,
    /// The same of all but a few, to be sure: clocks that stand still for a moment make pairs look fast.
    pub(super) low: f64,
    /// How many trains tell so.
    pub(super) trains: usize,
    /// Whether the line spreads most trains, and about equally.
    pub(super) narrow: bool,
    /// When the last train left, on the sender's clock.
    pub(super) at_us: i64,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    sent_us: i64,
    arrived_us: i64,
    last_sent_us: i64,
    last_arrived_us: i64,
    /// Bytes after the first datagram: those whose passing the spans measure.
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    rate: f64,
    spread: bool,
    /// How long it took to leave, and to come.
    left_us: f64,
    came_us: f64,
    at_us: i64,
}

impl Trains {
    /// Adds the next datagram in order.
    pub(super) fn record(&mut self, sent: Sent) {
        let Fate::Arrived(arrived_us) = sent.fate else { return self.close() };
        if let Some(open) = &mut self.open {
            if sent.follows && arrived_us >= open.last_arrived_us {
                open.bytes += u64::from(sent.bytes);
                open.last_sent_us = sent.at_us;
                open.last_arrived_us = arrived_us;
                return;
            }
            self.close();
        }
        let (sent_us, last_sent_us, last_arrived_us) = (sent.at_us, sent.at_us, arrived_us);
        self.open = Some(Open { sent_us, arrived_us, last_sent_us, last_arrived_us, bytes: 0 });
    }

    /// What the last trains say; `None` until there are enough.
    pub(super) fn capacity(&self) -> Option<Capacity> {
        let at_us = self.samples.back()?.at_us;
        let [low, rate, _] = self.quartiles()?;
        let trains = self.samples.len();
        Some(Capacity { rate, low, trains, narrow: self.line.is_some(), at_us })
    }

    /// Forgets all trains: the line is no longer what it was.
    pub(super) fn forget(&mut self) {
        self.samples.clear();
    }

    /// How many trains left after `us`.
    pub(super) fn since(&self, us: i64) -> usize {
        self.samples.iter().filter(|s| s.at_us > us).count()
    }

    fn quartiles(&self) -> Option<[f64; 3]> {
        if self.samples.len() < MIN_TRAINS {
            return None;
        }
        let mut rates: Vec<f64> = self.samples.iter().map(|s| s.rate).collect();
        rates.sort_by(f64::total_cmp);
        let at = |quarter: usize| rates.get(rates.len() * quarter / 4).copied();
        Some([at(1)?, at(2)?, at(3)?])
    }

    fn find_line(&mut self) {
        let Some([low, rate, high]) = self.quartiles() else { return };
        let spread = self.samples.iter().filter(|s| s.spread).count();
        let alike = high - low < rate * ALIKE;
        let most = spread * 4 >= self.samples.len() * 3;
        let sum = |of: fn(&Sample) -> f64| self.samples.iter().map(of).sum::<f64>();
        // One by one that may be noise, which all of them together have less of.
        let none = sum(|s| s.came_us) < sum(|s| s.left_us) * AS_LEFT;
        let before = self.line.filter(|line| rate < line * FASTER && !none);
        self.line = if !alike {
            None
        } else if most {
            Some(rate)
        } else {
            before
        };
    }

    /// Ends the present train.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        if open.bytes < MIN_BYTES {
            return;
        }
        let left_us = (open.last_sent_us - open.sent_us) as f64;
        let came_us = (open.last_arrived_us - open.arrived_us) as f64;
        let spread = came_us > left_us * SPREAD + RESOLUTION_US;
        let rate = open.bytes as f64 * 8e6 / left_us.max(came_us).max(RESOLUTION_US);
        if self.samples.len() >= MAX_TRAINS {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { rate, spread, left_us, came_us, at_us: open.last_sent_us });
        self.find_line();
    }
}

/// At 500 kb/s these pass in 6 ms, well above the noise of clocks.
const MIN_BYTES: u64 = 400;
/// Time stamps and timers are not better than this.
const RESOLUTION_US: f64 = 1_000.0;
/// Spread by less is noise.
const SPREAD: f64 = 1.08;
/// The same of several trains together, which noise moves less.
const AS_LEFT: f64 = 1.05;
/// Quartiles of trains that one line has spread are not further apart than this share of the median.
const ALIKE: f64 = 0.5;
/// Trains that pass this much faster than a line have another one.
const FASTER: f64 = 1.2;
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
                trains.record(Sent { at_us, bytes: 1000, follows: i > 0, fate: Fate::Arrived(free) });
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
            trains.record(Sent { at_us: i * 100, bytes: 1000, follows: true, fate });
        }
        assert_eq!(trains.capacity(), None);
    }
}
