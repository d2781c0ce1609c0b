//! When to show pictures that came over a path with losses: evenly, and no later than needed.

use std::collections::VecDeque;

use crate::units::MediaTime;

/// Chooses how old pictures are when they are shown.
///
/// A picture that had to be repaired comes a round trip late, together with those that waited for it. Shown as they come,
/// they would stand still and then jump; shown a little later, at the age that all but one in [`LATE_PER_MILLE`] thousandths
/// reach lately, they move. Where ages hardly differ, as on a good network, pictures are shown at once. Like the delay of
/// sound ([`crate::jitter`]) it is a quantile over a window of past arrivals (Moon, Kurose and Towsley, 1998).
#[derive(Debug, Default)]
pub struct Playout {
    /// Ages in microseconds, between two clocks that need not agree, in order of arrival.
    window: VecDeque<i64>,
    sorted: Vec<i64>,
}

impl Playout {
    /// A picture captured at `captured` (on its sender's clock) could be shown at `now`.
    pub fn record(&mut self, now: MediaTime, captured: MediaTime) {
        let age = now.micros_since(captured);
        if let Some(median) = self.sorted.get(self.sorted.len() / 2) {
            let ahead = age.saturating_sub(*median);
            if ahead.unsigned_abs() > LEAP_US {
                // Another clock.
                *self = Self::default();
            } else if ahead > OUTAGE_US && self.sorted.len() >= ENOUGH {
                // What waited out an outage tells nothing about the next pictures.
                return;
            }
        }
        if self.window.len() == WINDOW
            && let Some(oldest) = self.window.pop_front()
            && let Ok(at) = self.sorted.binary_search(&oldest)
        {
            self.sorted.remove(at);
        }
        self.window.push_back(age);
        let at = self.sorted.partition_point(|a| *a <= age);
        self.sorted.insert(at, age);
    }

    /// When to show a picture captured at `captured`, on our clock; none for at once.
    #[must_use]
    pub fn due(&self, captured: MediaTime) -> Option<MediaTime> {
        Some(captured.offset(self.age()?))
    }

    /// The age at which pictures are shown, in microseconds between the two clocks; none for at once.
    #[must_use]
    pub fn age(&self) -> Option<i64> {
        let first = *self.sorted.first()?;
        let rank = (self.sorted.len() * (1000 - LATE_PER_MILLE)).div_ceil(1000).max(1);
        let age = *self.sorted.get(rank - 1)?;
        let spread = age.saturating_sub(first);
        (spread > EVEN_US && self.sorted.len() >= ENOUGH).then_some(first + spread.min(MAX_SPREAD_US))
    }
}

/// Pictures of the last five seconds at 30 a second.
const WINDOW: usize = 150;
/// Half a second of them before anything is held back.
const ENOUGH: usize = 15;
/// One picture in twenty may be late: it is still shown, only not evenly.
pub const LATE_PER_MILLE: usize = 50;
/// Half the time between two pictures: less is not seen.
const EVEN_US: i64 = 12_000;
/// Longer than this it is better to let pictures jump than to make people wait for answers.
const MAX_SPREAD_US: i64 = 250_000;
/// A picture so much later than most came out of an outage.
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
        let forgotten = (0..150).map(|n| 20 + n % 5 * 20).chain((0..150).map(|_| 20));
        assert_eq!(age(forgotten), None, "when it is over it is over");
    }
}
