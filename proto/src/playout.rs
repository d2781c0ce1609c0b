//! When to show pictures that came over a path with losses: evenly, and no later than needed.

use std::collections::VecDeque;

use crate::units::MediaTime;

/// Chooses how old pictures are when they are shown.
///
/// A picture that had to be repaired comes a round trip late, together with those that waited for it. Shown as they come,
/// they would stand still and then jump; shown a little later, so that all but [`LATE_PER_MILLE`] of a thousand are in time,
/// they move. Where pictures are hardly later than their neighbours, as on a good network, they are shown at once. Like the
/// delay of sound ([`crate::jitter`]) it is a quantile over a window of past arrivals (Moon, Kurose and Towsley, 1998).
///
/// What counts is how much later a picture comes than its neighbours in time, on both sides: a queue that fills and drains
/// delays all of them alike, and when it has drained nothing of it should last.
#[derive(Debug, Default)]
pub struct Playout {
    /// Ages of the last pictures in microseconds, between two clocks that need not agree, in order of arrival.
    recent: VecDeque<i64>,
    /// How much later than their neighbours pictures came, in order of arrival, and sorted.
    window: VecDeque<i64>,
    sorted: Vec<i64>,
}

impl Playout {
    /// A picture captured at `captured` (on its sender's clock) is complete at `now`.
    pub fn record(&mut self, now: MediaTime, captured: MediaTime) {
        let age = now.micros_since(captured);
        if self.recent.back().is_some_and(|last| age.abs_diff(*last) > LEAP_US) {
            // Another clock.
            *self = Self::default();
        }
        self.recent.push_back(age);
        if self.recent.len() <= 2 * NEIGHBOURS {
            return;
        }
        let least = |ages: &mut dyn Iterator<Item = &i64>| ages.copied().min().unwrap_or(age);
        let before = least(&mut self.recent.iter().take(NEIGHBOURS + 1));
        let after = least(&mut self.recent.iter().skip(NEIGHBOURS));
        let judged = self.recent.get(NEIGHBOURS).copied().unwrap_or(age);
        self.recent.pop_front();
        self.judge(judged.saturating_sub(before.max(after)));
    }

    /// When to show a picture captured at `captured`, on our clock; none for at once.
    #[must_use]
    pub fn due(&self, captured: MediaTime) -> Option<MediaTime> {
        Some(captured.offset(self.age()?))
    }

    /// The age at which pictures are shown, in microseconds between the two clocks; none for at once.
    #[must_use]
    pub fn age(&self) -> Option<i64> {
        let rank = (self.sorted.len() * (1000 - LATE_PER_MILLE)).div_ceil(1000).max(1);
        let late = *self.sorted.get(rank - 1)?;
        if late <= EVEN_US || self.sorted.len() < ENOUGH {
            return None;
        }
        let level = self.recent.iter().rev().take(NEIGHBOURS + 1).min()?;
        Some(level.saturating_add(late.min(MAX_LATE_US)))
    }

    fn judge(&mut self, late: i64) {
        if late > OUTAGE_US {
            // What waited out an outage tells nothing about the next pictures.
            return;
        }
        if self.window.len() == WINDOW
            && let Some(oldest) = self.window.pop_front()
            && let Ok(at) = self.sorted.binary_search(&oldest)
        {
            self.sorted.remove(at);
        }
        self.window.push_back(late);
        let at = self.sorted.partition_point(|l| *l <= late);
        self.sorted.insert(at, late);
    }
}

/// Pictures on each side to compare one with: a sixth of a second at 30 a second.
const NEIGHBOURS: usize = 5;
/// Pictures of the last five seconds at 30 a second.
const WINDOW: usize = 150;
/// Half a second of them before anything is held back.
const ENOUGH: usize = 15;
/// One picture in twenty may be late: it is still shown, only not evenly.
pub const LATE_PER_MILLE: usize = 50;
/// A third of the time between two pictures: less is not seen.
const EVEN_US: i64 = 12_000;
/// Longer than this it is better to let pictures jump than to make people wait for answers.
const MAX_LATE_US: i64 = 250_000;
/// A picture so much later than its neighbours came out of an outage.
const OUTAGE_US: i64 = 300_000;
/// Ages that differ by more are of another clock.
const LEAP_US: u64 = 5_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn age(ages_ms: impl IntoIterator<Item = i64>) -> Option<i64> {
        let mut playout = Playout::default();
        for (n, age) in ages_ms.into_iter().enumerate() {
            let captured = MediaTime::from_micros(1_000_000_000 + n as u64 * 33_333);
            playout.record(captured.offset(age * 1000), captured);
        }
        playout.age().map(|us| us / 1000)
    }

    #[test]
    fn on_a_good_network_pictures_are_shown_at_once() {
        assert_eq!(age((0..300).map(|n| 20 + n % 8)), None);
        assert_eq!(age((0..300).map(|n| if n % 50 == 0 { 90 } else { 20 })), None, "one in fifty");
    }

    #[test]
    fn where_many_are_late_all_wait_for_them() {
        assert_eq!(age((0..300).map(|n| if n % 10 == 0 { 90 } else { 20 })), Some(90));
        assert_eq!(age((0..300).map(|n| if n % 10 == 0 { 900 } else { 20 })), None, "outages apart");
        let forgotten = (0..150).map(|n| 20 + n % 5 * 20).chain((0..170).map(|_| 20));
        assert_eq!(age(forgotten), None, "when it is over it is over");
    }
    #[test]
    fn a_queue_that_fills_and_drains_leaves_nothing_behind() {
        let queue = |n: i64| 20 + (n - 100).clamp(0, 10) * 30 - (n - 120).clamp(0, 15) * 20;
        assert_eq!(age((0..200).map(queue)), None);
        assert_eq!(age((0..200).map(|n| queue(n) + if n % 10 == 0 { 70 } else { 0 })), Some(90));
    }
}
