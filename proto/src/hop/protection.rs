//! How much to send beyond what was asked for, so that losses need no round trip.

use std::time::Duration;

use crate::cc::Loss;

/// What to add against losses like those of late.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Protection {
    loss: f64,
    burst: f64,
    round_trip: Duration,
}

impl Protection {
    pub(super) const fn new(loss: Loss, round_trip: Duration) -> Self {
        Self { loss: loss.rate, burst: loss.burst, round_trip }
    }

    /// Which of the audio frames before go along once more with each new one: 1 is the one before.
    ///
    /// A copy costs a third of a datagram. Where losses come in bursts the copies lie further apart.
    pub(super) fn copies(&self) -> &'static [u32] {
        let bursts = self.burst > BURSTS;
        match self.loss {
            ..0.001 => &[],
            ..0.07 if bursts => &[2],
            ..0.07 => &[1],
            ..0.14 if bursts => &[2, 4],
            ..0.14 => &[1, 2],
            _ if bursts => &[2, 4, 7],
            _ => &[1, 2, 4],
        }
    }

    /// Rows of parity for a group of so many datagrams.
    ///
    /// As few as keep the share of groups that need a round trip below what such a trip is worth: on short paths sending again
    /// is nearly as good, on long ones it is not (Holmer, Shemer and Paniconi, "Handling packet loss in WebRTC", 2013).
    pub(super) fn rows(&self, group: usize, importance: Importance) -> usize {
        if self.loss < NEGLIGIBLE || group == 0 {
            return 0;
        }
        let bearable = match self.round_trip.as_millis() {
            0..=35 => 0.2,
            36..=80 => 0.07,
            _ => 0.03,
        };
        let bearable = match importance {
            Importance::Key => bearable / 4.0,
            Importance::Base => bearable,
            Importance::Higher => bearable * 2.0,
        };
        (0..group).find(|rows| self.fails(group, *rows) <= bearable).unwrap_or(group).min(MAX_ROWS)
    }

    /// When the rows of a group may go: in the gaps between bursts rather than in the same burst.
    pub(super) fn spread(&self, row: usize) -> Duration {
        if self.burst > BURSTS { SPREAD * (row as u32 + 1) } else { Duration::ZERO }
    }

    /// How many times to send what was lost.
    pub(super) const fn repeats(&self) -> usize {
        if self.loss > HEAVY { 2 } else { 1 }
    }

    /// The chance that more than `rows` of a group and its rows are lost, each on its own.
    fn fails(&self, group: usize, rows: usize) -> f64 {
        let (n, p) = (group + rows, self.loss.clamp(0.0, 0.9));
        let mut exactly = (1.0 - p).powi(n as i32);
        let mut at_most = exactly;
        for lost in 1..=rows {
            exactly *= p / (1.0 - p) * (n - lost + 1) as f64 / lost as f64;
            at_most += exactly;
        }
        1.0 - at_most
    }
}

/// What depends on a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Importance {
    /// Everything, and it is asked for when nothing can be seen.
    Key,
    /// All that comes after it.
    Base,
    /// Nothing.
    Higher,
}

/// Losses that are no longer single ones.
const BURSTS: f64 = 2.2;
/// Below half a percent sending again is rare enough.
const NEGLIGIBLE: f64 = 0.005;
/// From here on one repetition in six would be lost as well.
const HEAVY: f64 = 0.15;
/// More than a call's usual burst between two rows.
const SPREAD: Duration = Duration::from_millis(8);
/// The most rows of a group.
const MAX_ROWS: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(loss: f64, round_trip_ms: u64, group: usize, importance: Importance) -> usize {
        let loss = Loss { rate: loss, burst: 1.0 };
        Protection::new(loss, Duration::from_millis(round_trip_ms)).rows(group, importance)
    }

    #[test]
    fn parity_grows_with_loss_and_distance() {
        assert_eq!(rows(0.0, 300, 20, Importance::Key), 0);
        assert_eq!(rows(0.05, 24, 3, Importance::Base), 0, "sending again is soon enough");
        assert_eq!(rows(0.1, 50, 3, Importance::Base), 1);
        assert_eq!(rows(0.2, 50, 3, Importance::Base), 2);
        assert!(rows(0.05, 24, 10, Importance::Key) > 0);
        assert!(rows(0.2, 50, 3, Importance::Higher) <= rows(0.2, 50, 3, Importance::Base));
        assert!(rows(0.9, 500, 3, Importance::Key) <= 3);
    }

    #[test]
    fn copies_grow_with_loss_and_lie_apart_in_bursts() {
        let copies = |rate, burst| Protection::new(Loss { rate, burst }, Duration::ZERO).copies();
        assert!(copies(0.0, 1.0).is_empty());
        assert_eq!(copies(0.01, 1.0), [1]);
        assert!(copies(0.2, 1.1).len() > copies(0.05, 1.1).len());
        assert!(copies(0.3, 4.0).iter().zip(copies(0.3, 1.0)).all(|(apart, close)| apart > close));
    }
}
