//! How the local media clock relates to the relay's.

use std::collections::VecDeque;

use crate::units::MediaTime;
use crate::wire::pb;

/// Estimates the offset between two clocks from ping round trips (Cristian, "Probabilistic clock synchronization", 1989):
/// the relay's reading belongs to the middle of the round trip, give or take half of it, so the shortest of the
/// last [`WINDOW`] round trips tells most.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClockSync {
    samples: VecDeque<pb::Clock>,
}

impl ClockSync {
    /// Takes the answer to a ping.
    pub(crate) fn handle_pong(&mut self, now: MediaTime, pong: &pb::ClockPong) {
        let sent = MediaTime::from_micros(pong.sent_us);
        let Ok(round_trip) = u64::try_from(now.micros_since(sent)) else { return };
        if round_trip > MAX_ROUND_TRIP_US || pong.relay_us > MediaTime::MAX.as_micros() {
            return;
        }
        let middle = sent.offset((round_trip / 2) as i64);
        let offset_us = MediaTime::from_micros(pong.relay_us).micros_since(middle);
        self.samples.push_back(pb::Clock { offset_us, error_us: round_trip / 2 });
        if self.samples.len() > WINDOW {
            self.samples.pop_front();
        }
    }

    /// The best estimate so far.
    pub(crate) fn best(&self) -> Option<pb::Clock> {
        self.samples.iter().min_by_key(|s| s.error_us).copied()
    }
}

/// What to add to a time of `theirs` to get a time of `ours`, in microseconds.
///
/// Clocks whose offsets agree within the errors of their measurement are one clock (two clients on one machine; the
/// zeros of different machines differ by hours), and then the difference is exactly zero.
pub(crate) const fn difference(ours: pb::Clock, theirs: pb::Clock) -> i64 {
    let difference = theirs.offset_us.saturating_sub(ours.offset_us);
    let error = ours.error_us.saturating_add(theirs.error_us).saturating_add(SLACK_US);
    if difference.unsigned_abs() <= error { 0 } else { difference }
}

/// About a minute of pings: clocks drift apart by some milliseconds in that time at the very most.
const WINDOW: usize = 12;
/// A ping that took longer tells nothing.
const MAX_ROUND_TRIP_US: u64 = 5_000_000;
/// For the time that passed between the measurements of the two sides.
const SLACK_US: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_round_trip_wins() {
        let mut sync = ClockSync::default();
        let at = MediaTime::from_micros;
        // The relay's clock is 1 s ahead. The second round trip is slow on its way back only.
        sync.handle_pong(at(10_400), &pb::ClockPong { sent_us: 10_000, relay_us: 1_010_200 });
        sync.handle_pong(at(40_000), &pb::ClockPong { sent_us: 20_000, relay_us: 1_020_100 });
        assert_eq!(sync.best(), Some(pb::Clock { offset_us: 1_000_000, error_us: 200 }));
    }

    #[test]
    fn nonsense_is_ignored() {
        let mut sync = ClockSync::default();
        sync.handle_pong(MediaTime::from_micros(5), &pb::ClockPong { sent_us: 10, relay_us: 0 });
        sync.handle_pong(MediaTime::from_micros(5), &pb::ClockPong { sent_us: 0, relay_us: u64::MAX });
        sync.handle_pong(MediaTime::MAX, &pb::ClockPong { sent_us: 0, relay_us: 0 });
        assert_eq!(sync.best(), None);
    }

    #[test]
    fn clocks_of_one_machine_are_one_clock() {
        let clock = |offset_us, error_us| pb::Clock { offset_us, error_us };
        assert_eq!(difference(clock(5_000, 300), clock(5_900, 300)), 0);
        assert_eq!(difference(clock(5_000, 300), clock(9_000, 300)), 4_000);
        assert_eq!(difference(clock(i64::MIN, 0), clock(i64::MAX, 0)), i64::MAX);
    }
}
