//! What was sent on a hop and what became of it.

use std::collections::VecDeque;

/// The datagrams sent lately, by number.
///
/// Bounded by [`MAX_SENT`] datagrams and by [`MAX_AGE_US`]: what is older has either been reported or never will be.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Number of the first datagram kept.
    first: u64,
    sent: VecDeque<Sent>,
}

/// One datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// When it left, on the sender's clock.
    pub(super) at_us: i64,
    /// Its size on the wire.
    pub(super) bytes: u32,
    /// Whether it left right after the one before, as fast as the pace allows.
    pub(super) follows: bool,
    /// What the reports say.
    pub(super) fate: Fate,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// No report names it.
    Unknown,
    /// It was missing when the last report on it was written.
    Missing,
    /// It arrived then, on the receiver's clock.
    Arrived(i64),
}

impl History {
    /// Adds a datagram that left while bursts were paced at `pace` bits per second; a number that is not the next one
    /// starts anew.
    pub(super) fn push(&mut self, number: u64, at_us: i64, bytes: u32, pace: f64) {
        if number != self.end() {
            self.sent.clear();
            self.first = number;
        }
        while self.sent.len() >= MAX_SENT || self.sent.front().is_some_and(|s| at_us - s.at_us > MAX_AGE_US) {
            self.sent.pop_front();
            self.first += 1;
        }
        if self.sent.is_empty() {
            self.first = number;
        }
        let paced = |last: &Sent| f64::from(last.bytes) * 8e6 / pace.max(1.0) * LATE + SLACK_US;
        let follows = self.sent.back().is_some_and(|last| (at_us - last.at_us) as f64 <= paced(last));
        self.sent.push_back(Sent { at_us, bytes, follows, fate: Fate::Unknown });
    }

    /// Notes what a report says, and returns the datagram when this is the first word of its arrival.
    pub(super) fn resolve(&mut self, number: u64, arrived_us: Option<i64>) -> Option<Sent> {
        let sent = self.at(number)?;
        match (sent.fate, arrived_us) {
            (Fate::Arrived(_), _) => None,
            (_, None) => {
                sent.fate = Fate::Missing;
                None
            }
            (_, Some(us)) => {
                sent.fate = Fate::Arrived(us);
                Some(*sent)
            }
        }
    }

    /// The datagram with this number, while it is kept.
    pub(super) fn get(&self, number: u64) -> Option<Sent> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.sent.get(index).copied()
    }

    /// Number of the first datagram kept.
    pub(super) const fn first(&self) -> u64 {
        self.first
    }

    /// Number that the next datagram should have.
    fn end(&self) -> u64 {
        self.first + self.sent.len() as u64
    }

    fn at(&mut self, number: u64) -> Option<&mut Sent> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.sent.get_mut(index)
    }
}

/// Three seconds at 10 Mb/s in full datagrams, more than any delay of feedback that leaves a call usable.
const MAX_SENT: usize = 4096;
/// Longer than the longest delay of a report: 600 ms there and back, and some outage.
const MAX_AGE_US: i64 = 5_000_000;

/// Senders' timers are late by as much: a share of the time, and this much.
const LATE: f64 = 1.2;
const SLACK_US: f64 = 750.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrival_counts_once_and_overrules_a_loss() {
        let mut history = History::default();
        for number in 7..10 {
            history.push(number, 100, 50, 1e6);
        }
        assert!(history.resolve(8, None).is_none());
        assert_eq!(history.get(8).map(|s| s.fate), Some(Fate::Missing));
        assert!(history.resolve(8, Some(5)).is_some());
        assert!(history.resolve(8, Some(6)).is_none());
        assert!(history.resolve(8, None).is_none());
        assert_eq!(history.get(8).map(|s| s.fate), Some(Fate::Arrived(5)));
        assert!(history.resolve(6, Some(5)).is_none() && history.resolve(10, Some(5)).is_none());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut history = History::default();
        for number in 0..2 * MAX_SENT as u64 {
            history.push(number, 0, 50, 1e6);
        }
        assert_eq!(history.first(), MAX_SENT as u64);
        history.push(2 * MAX_SENT as u64, MAX_AGE_US + 1, 50, 1e6);
        assert_eq!(history.first(), 2 * MAX_SENT as u64);
        history.push(3, MAX_AGE_US + 1, 50, 1e6);
        assert_eq!((history.first(), history.end()), (3, 4));
    }
}
