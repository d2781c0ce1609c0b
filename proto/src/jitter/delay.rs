//! The delay that nearly all packets of the last seconds would have met.

use std::collections::VecDeque;

use super::level::Level;
use super::{Bargain, LOST};
use crate::units::MediaTime;

/// Transit times (arrival minus capture, in microseconds, between two clocks that need not agree) of the last seconds,
/// taken apart into what neighbours share (the [`Level`]) and what single packets take beyond it (their lateness).
///
/// The target is the level and a high quantile of the lateness, after Moon, Kurose and Towsley, "Packet audio playout
/// delay adjustment: performance bounds and algorithms" (Multimedia Systems 6, 1998), who found that the quantile over a
/// window of past packets beats smoothed mean-and-variance estimators; NetEQ's relative delay histogram is a
/// descendant of it. Kept exactly instead of in buckets: it costs 800 numbers a speaker. Theirs is a quantile of transit
/// times; so a queue of a second would be waited for until it leaves the window, seconds after it has drained.
///
/// A late packet is in the window at once, against the level it met, so the target grows at once; it shrinks when the
/// packet leaves. Whether it was late or the first in a queue is known when the level has heard of its successors: it is
/// judged again then, and does not count if the level moved.
#[derive(Debug, Default)]
pub(super) struct Delays {
    /// In order of arrival.
    window: VecDeque<Sample>,
    /// Their lateness, sorted.
    sorted: Vec<i64>,
    /// How many of the window, its first, have been judged again.
    judged: usize,
    level: Level,
    /// Arrival and transit time of the last packet.
    last: Option<(MediaTime, i64)>,
    /// The outage of the moment: when it ended, and whether it has been counted.
    outage: Option<(MediaTime, bool)>,
    /// Jitter assumed until there are packets enough, in microseconds: what it was before a long pause.
    prior: Option<i64>,
    /// Whether the first packets have been forgotten.
    settled: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: MediaTime,
    transit: i64,
    /// When it arrived.
    level: i64,
    /// Transit beyond the level, less than zero while a queue drains; none if it does not count.
    lateness: Option<i64>,
}

impl Delays {
    /// Adds the transit time of a packet that arrived at `now`.
    pub(super) fn record(&mut self, now: MediaTime, transit: i64) {
        let gap = self.last.map_or(0, |(last, _)| now.micros_since(last));
        self.last = Some((now, transit));
        if gap > STALE_US {
            self.prior = Some(self.jitter(&LOST));
            self.window.clear();
            self.sorted.clear();
            (self.judged, self.level) = (0, Level::default());
        }
        if gap > OUTAGE_US {
            self.outage = Some((now, false));
        }
        if self.is_counted(now, transit) {
            return;
        }
        while self.window.front().is_some_and(|first| now.micros_since(first.at) > WINDOW_US)
            || self.window.len() >= MAX_SAMPLES
        {
            self.forget_first();
        }
        self.add(now, transit);
        self.judge(now);
        if !self.settled && self.window.len() >= SETTLING * 2 {
            self.settled = true;
            (0..SETTLING).for_each(|_| self.forget_first());
        }
    }

    /// Transit time of the last packet.
    pub(super) fn last(&self) -> Option<i64> {
        self.last.map(|(_, transit)| transit)
    }

    /// Whether a packet should have come during an outage that has been counted. One sample stands for an outage: it is
    /// one event, and its packets come late together. Outages that return often are waited for all the same.
    fn is_counted(&mut self, now: MediaTime, transit: i64) -> bool {
        let Some((ended, counted)) = self.outage else { return false };
        let during = self.lateness(transit) > now.micros_since(ended);
        self.outage = Some((ended, counted || during));
        during && counted
    }

    fn add(&mut self, now: MediaTime, transit: i64) {
        let level = self.level.follow(now, transit);
        let lateness = transit.saturating_sub(level);
        self.window.push_back(Sample { at: now, transit, level, lateness: Some(lateness) });
        self.insert(lateness);
    }

    /// Judges packets again of which the level tells by now what their successors took.
    fn judge(&mut self, now: MediaTime) {
        let Some(level) = self.level.now() else { return };
        while let Some(&Sample { at, transit, level: met, lateness }) = self.window.get(self.judged)
            && now.micros_since(at) >= JUDGE_US
        {
            let earlier = self.window.range(..self.judged).rev();
            let earliest = earlier.take_while(|sample| at.micros_since(sample.at) <= JUDGE_US).last();
            let moved = |other: i64| other.abs_diff(met) > STEEP_US;
            let counts = !moved(level) && !earliest.is_some_and(|sample| moved(sample.level));
            lateness.into_iter().for_each(|lateness| self.remove(lateness));
            let lateness = counts.then(|| transit.saturating_sub(level.max(met)));
            lateness.into_iter().for_each(|lateness| self.insert(lateness));
            if let Some(sample) = self.window.get_mut(self.judged) {
                sample.lateness = lateness;
            }
            self.judged += 1;
        }
    }

    /// The fastest transit of the window.
    pub(super) fn base(&self) -> Option<i64> {
        self.window.iter().map(|sample| sample.transit).min()
    }

    /// How much longer than the level a packet took.
    pub(super) fn lateness(&self, transit: i64) -> i64 {
        transit.saturating_sub(self.level.now().unwrap_or(transit))
    }

    /// Capture-to-playout time to aim at.
    pub(super) fn target(&self, bargain: &Bargain) -> i64 {
        let Some(level) = self.level.now() else { return 0 };
        level.saturating_add(self.jitter(bargain).clamp(MIN_US, MAX_US))
    }

    /// How much longer than the level packets may take, to be in time.
    fn jitter(&self, bargain: &Bargain) -> i64 {
        if self.sorted.is_empty() {
            return self.prior.unwrap_or(START_US);
        }
        let mut seen = MAX_US;
        let mut least = 0;
        for &(late_per_mille, most) in bargain {
            let rank = self.sorted.len() - self.sorted.len() * late_per_mille.min(1000) / 1000;
            let slow = self.sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0);
            seen = slow.saturating_add(GUARD_US).max(least);
            if seen <= most {
                break;
            }
            least = most;
        }
        if self.sorted.len() < ENOUGH { seen.max(self.prior.unwrap_or(START_US)) } else { seen }
    }

    fn insert(&mut self, lateness: i64) {
        let at = self.sorted.partition_point(|&l| l <= lateness);
        self.sorted.insert(at, lateness);
    }

    fn remove(&mut self, lateness: i64) {
        if let Ok(at) = self.sorted.binary_search(&lateness) {
            self.sorted.remove(at);
        }
    }

    fn forget_first(&mut self) {
        if let Some(first) = self.window.pop_front() {
            first.lateness.into_iter().for_each(|lateness| self.remove(lateness));
            self.judged = self.judged.saturating_sub(1);
        }
    }
}

/// Time after which a packet is judged again: what the level takes to rise to a queue that a packet was the first in.
const JUDGE_US: i64 = 100_000;
/// A level that moves by more in [`JUDGE_US`] tells nothing of single packets: twice what it moves without a queue.
const STEEP_US: u64 = 16_000;
/// Time that packets count: long enough to hold the rare ones, short enough to be back down soon after a bad spell.
const WINDOW_US: i64 = 8_000_000;
/// Most packets in the window: what comes in [`WINDOW_US`] at 100 a second.
const MAX_SAMPLES: usize = 800;
/// After this long without a packet the two clocks may have drifted apart by more than the guard: measure anew.
const STALE_US: i64 = 20_000_000;
/// Nothing for so long is an outage. Shorter gaps, which losses in a row make too, are jitter that can be waited for.
const OUTAGE_US: i64 = 150_000;
/// Added to the quantile: one block of the mixer, by which the moment of asking may vary.
const GUARD_US: i64 = 2_500;
/// Bounds of the target: below, scheduling noise of the listener's own machine dominates; above 400 ms people talk
/// over each other (ITU-T G.114) and losing packets is better.
const MIN_US: i64 = 4_000;
const MAX_US: i64 = 400_000;
/// Assumed before anything is known, for the first [`ENOUGH`] packets (half a second).
const START_US: i64 = 15_000;
const ENOUGH: usize = 50;
/// Packets at the start that are forgotten as soon as there are as many after them (after 2 s): threads, devices and
/// congestion windows come up in that second, and what it was like says nothing about the call.
const SETTLING: usize = 100;
