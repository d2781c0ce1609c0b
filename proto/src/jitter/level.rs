//! What packets that follow each other have in common: the network's way and the queue that stands on it.

use std::collections::VecDeque;

use crate::units::MediaTime;

/// The transit time that neighbours share, in microseconds between two clocks that need not agree.
///
/// A queue keeps packets in order and delays all of them; a packet that was lost and sent again is overtaken. So only
/// packets that nothing newer overtook are looked at, and of those the shortest transit of a few in a row (the floor)
/// is what the queue took from all of them. The level is the highest floor of the last moment: it rises with a queue and
/// is back down a tenth of a second after that has drained.
///
/// Floors wander by what jitter leaves in them. The level follows with a play of [`PLAY_US`], so that it stands still
/// meanwhile and the target with it.
///
/// One queue is an event to forget: waiting for the next costs every answer its height. Queues that return within
/// [`RETURN_US`] are waited for, because each of them would cost concealment as it builds up.
#[derive(Debug, Default)]
pub(super) struct Level {
    now: Option<i64>,
    /// When the newest packet was captured.
    newest: Option<MediaTime>,
    /// Transit times of the last few packets that were in order.
    few: VecDeque<i64>,
    /// The floors of the last moment, with the arrival of the packet that each ends at.
    floors: VecDeque<(MediaTime, i64)>,
    /// Whether the floors go up, and the highest of them since; else the lowest since the last peak.
    rising: bool,
    turning: i64,
    /// When the last queues began to drain, and how high they had been.
    peaks: VecDeque<(MediaTime, i64)>,
}

impl Level {
    /// The level, once there was a packet.
    pub(super) const fn now(&self) -> Option<i64> {
        self.now
    }

    /// Takes the transit time of a packet that arrived at `now`; returns the level.
    pub(super) fn follow(&mut self, now: MediaTime, transit: i64) -> i64 {
        let captured = now.offset(transit.saturating_neg());
        let age = self.newest.map_or(i64::MIN, |newest| newest.micros_since(captured));
        if !(0..OVERTAKEN_US).contains(&age) {
            self.newest = Some(captured);
            self.add(now, transit);
        }
        let shortest = self.few.iter().copied().min().unwrap_or(transit);
        let highest = self.floors.iter().map(|&(_, floor)| floor).fold(shortest, i64::max);
        let before = self.now.unwrap_or_else(|| {
            self.turning = highest;
            highest
        });
        self.find_peak(now, highest);
        let wanted = self.returning(now).map_or(highest, |height| height.max(highest));
        let level = before.clamp(wanted.saturating_sub(PLAY_US), wanted);
        self.now = Some(level);
        level
    }

    fn add(&mut self, now: MediaTime, transit: i64) {
        while self.floors.len() >= MAX_FLOORS
            || self.floors.front().is_some_and(|&(at, _)| now.micros_since(at) > BELIEVED_US)
        {
            self.floors.pop_front();
        }
        self.few.push_back(transit);
        // Fewer say nothing of a queue: the first packet of a call may be slow alone.
        if self.few.len() > FEW {
            self.floors.extend(self.few.iter().min().map(|&floor| (now, floor)));
            self.few.pop_front();
        }
    }

    /// Notes how high the floors were when they begin to fall.
    fn find_peak(&mut self, now: MediaTime, highest: i64) {
        if !self.rising {
            self.turning = self.turning.min(highest);
            if highest > self.turning.saturating_add(PLAY_US) {
                (self.rising, self.turning) = (true, highest);
            }
            return;
        }
        self.turning = self.turning.max(highest);
        if highest < self.turning.saturating_sub(PLAY_US) {
            self.peaks.push_back((now, self.turning));
            (self.rising, self.turning) = (false, highest);
        }
    }

    /// How high queues of the last seconds got again and again: the second highest.
    fn returning(&mut self, now: MediaTime) -> Option<i64> {
        while self.peaks.len() > MAX_PEAKS
            || self.peaks.front().is_some_and(|&(at, _)| now.micros_since(at) > RETURN_US)
        {
            self.peaks.pop_front();
        }
        let mut heights: Vec<i64> = self.peaks.iter().map(|&(_, height)| height).collect();
        heights.sort_unstable();
        heights.iter().nth_back(1).copied()
    }
}

/// A floor is the shortest of a packet and so many before it. More would cut the top off a queue that builds up and
/// drains at once and take it for late packets; with fewer, jitter of 30 ms looks like queues now and then.
const FEW: usize = 5;
/// Packets that came so long after a newer one were not overtaken by it: the sender's clock was set back.
const OVERTAKEN_US: i64 = 500_000;
/// Time that a floor is believed in: bridges the gaps between packets and no more.
const BELIEVED_US: i64 = 100_000;
/// Floors kept: more than come in [`BELIEVED_US`] while a queue drains.
const MAX_FLOORS: usize = 64;
/// Play of the level below what it follows, and the least height of a queue: what floors wander by under jitter of
/// 30 ms. The delay after a queue may be longer by as much for some seconds, which nobody notices.
const PLAY_US: i64 = 8_000;
/// Queues that come again within this time are waited for: to follow one of 300 ms costs up to 180 ms of sound, so that
/// one in 4 s already costs more than a talk bears.
const RETURN_US: i64 = 4_000_000;
/// Queues remembered: more than can be told apart in [`RETURN_US`], each outlasting its floors.
const MAX_PEAKS: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    /// The level after packets 10 ms apart that took so many ms each, in order of arrival.
    fn follow(level: &mut Level, from: u64, transits: impl IntoIterator<Item = u64>) -> i64 {
        let sent = (from..).step_by(10).zip(transits);
        let mut arrivals: Vec<(u64, u64)> = sent.map(|(at, transit)| (at + transit, transit)).collect();
        arrivals.sort_by_key(|&(at, transit)| (at, std::cmp::Reverse(transit)));
        let last = arrivals
            .into_iter()
            .map(|(at, transit)| level.follow(MediaTime::from_micros(at * 1000), transit as i64 * 1000));
        last.last().expect("a packet") / 1000
    }

    #[test]
    fn a_queue_raises_it_and_packets_sent_again_do_not() {
        let mut level = Level::default();
        assert_eq!(follow(&mut level, 0, [20; 50]), 20);
        // Two in three are sent again.
        assert_eq!(follow(&mut level, 500, (0..50).map(|n| if n % 3 == 2 { 20 } else { 70 })), 20);
        assert!(follow(&mut level, 1000, (0..30).map(|n| 20 + n * 5)) >= 130);
        assert!(follow(&mut level, 1300, [170; 20]) >= 160);
        assert_eq!(follow(&mut level, 1500, (0..50).map(|n| 170 - n * 3).chain([20; 20])), 20);
    }

    #[test]
    fn queues_that_return_are_waited_for() {
        let mut level = Level::default();
        let queue = || (0..100_u64).map(|n| 20 + 100_u64.saturating_sub(n.abs_diff(20) * 5)).chain([20; 50]);
        assert_eq!(follow(&mut level, 0, queue()), 20, "one is an event");
        assert!(follow(&mut level, 1500, queue()) >= 90);
        assert_eq!(follow(&mut level, 3000, [20; 500]), 20, "and forgotten when they end");
    }

    #[test]
    fn it_does_not_wander_with_small_changes() {
        let mut level = Level::default();
        follow(&mut level, 0, [20; 50]);
        assert_eq!(follow(&mut level, 500, [27; 50]), 20);
        assert_eq!(follow(&mut level, 1000, [30; 50]), 22);
        assert_eq!(follow(&mut level, 1500, [25; 50]), 22);
    }
}
