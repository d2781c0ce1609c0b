//! When a moving picture stood still.

use std::collections::VecDeque;

/// Counts freezes as W3C's webrtc-stats does (`freezeCount`): a gap between two shown pictures that is longer than three
/// times the average gap, or than the average plus 150 ms, whichever is longer; the average is that of the last 30 gaps.
#[derive(Debug, Default)]
pub(crate) struct Freezes {
    last_us: Option<i64>,
    gaps: VecDeque<i64>,
    pub(crate) count: u64,
    pub(crate) total_us: i64,
}

impl Freezes {
    /// A picture was shown.
    pub(crate) fn shown(&mut self, at_us: i64) {
        let Some(last) = self.last_us.replace(at_us) else { return };
        let gap = at_us - last;
        if !self.gaps.is_empty() {
            let average = self.gaps.iter().sum::<i64>() / self.gaps.len() as i64;
            if gap > (3 * average).max(average + 150_000) {
                self.count += 1;
                self.total_us += gap;
            }
        }
        self.gaps.push_back(gap);
        if self.gaps.len() > AVERAGED {
            self.gaps.pop_front();
        }
    }

    /// The pictures stop on purpose (camera off): the pause is no freeze.
    pub(crate) const fn pause(&mut self) {
        self.last_us = None;
    }
}

const AVERAGED: usize = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freeze_is_a_gap_far_above_the_average() {
        let mut f = Freezes::default();
        (0..60).for_each(|i| f.shown(i * 33_000));
        f.shown(59 * 33_000 + 180_000);
        assert_eq!(f.count, 0, "180 ms is below 33 + 150");
        f.shown(59 * 33_000 + 180_000 + 300_000);
        assert_eq!((f.count, f.total_us), (1, 300_000));
        f.pause();
        f.shown(99_000_000);
        assert_eq!(f.count, 1);
    }
}
