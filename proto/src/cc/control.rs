//! The target, from what is measured.

use super::rate::Delivered;
use super::train::Capacity;

/// Decides how much to send.
///
/// While a queue stands, what arrives is what the line passes, so the target follows the line at once and stays below
/// it by as much as the queue needs to drain; it is computed from the line, not from itself, so reports of one queue
/// do not add up. Without a queue it grows: fast as long as trains show room, slowly near where the last queue stood.
#[derive(Debug)]
pub(super) struct Control {
    /// Bits per second.
    target: f64,
    min: f64,
    max: f64,
    /// Where the last queue stood.
    ceiling: Option<Ceiling>,
    /// The queue of the moment.
    episode: Option<Episode>,
    /// Share of datagrams lost while no queue stands: what the line loses whatever is sent.
    clean_loss: f64,
    updated_us: Option<i64>,
}

/// What is known when a report has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured<'a> {
    pub(super) now_us: i64,
    pub(super) rtt_us: i64,
    /// Standing queue, in microseconds, of the last tenth of a second and of less.
    pub(super) standing_us: i64,
    pub(super) latest_us: i64,
    /// Loss of the last moments.
    pub(super) loss: f64,
    /// What arrived.
    pub(super) delivered: &'a Delivered,
    /// What was sent in the time that reports are about, in bits per second.
    pub(super) used: f64,
    pub(super) capacity: Option<Capacity>,
}

/// Whether a standing delay is a queue of this flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Verdict {
    /// It may be.
    Plausible,
    /// Sending less did not shorten it: the route is longer, or others fill the queue whatever this flow does.
    NotOurs,
}

/// What the line carried when a queue stood.
#[derive(Clone, Copy, Debug)]
struct Ceiling {
    rate: f64,
    /// What trains showed then: more than `rate` where others share the line.
    trains: f64,
    at_us: i64,
}

/// A time with a queue.
#[derive(Clone, Copy, Debug)]
struct Episode {
    since_us: i64,
    /// The target before.
    before: f64,
    /// What the line passes.
    line: f64,
    /// What was sent before.
    used: f64,
    /// When the queue was last looked at for whether it obeys, and how long it was.
    checked: (i64, f64),
}

impl Control {
    pub(super) const fn new(start: f64, min: f64, max: f64) -> Self {
        Self { target: start, min, max, ceiling: None, episode: None, clean_loss: 0.0, updated_us: None }
    }

    pub(super) const fn target(&self) -> f64 {
        self.target
    }

    pub(super) const fn max(&self) -> f64 {
        self.max
    }

    /// Whether a queue stands.
    pub(super) const fn is_congested(&self) -> bool {
        self.episode.is_some()
    }

    /// What the line carried when the last queue stood on it, in bits per second.
    pub(super) fn ceiling(&self) -> Option<f64> {
        self.ceiling.map(|ceiling| ceiling.rate)
    }

    pub(super) fn set_max(&mut self, max: f64) {
        self.max = max.max(self.min);
        self.target = self.target.min(self.max);
    }

    /// Sends no more than `rate` and forgets the path: it may be another one.
    pub(super) fn restart(&mut self, rate: f64) {
        *self = Self::new(self.target.min(rate), self.min, self.max);
    }

    /// Takes what a report tells, and says what to think of the queue it tells of.
    pub(super) fn update(&mut self, measured: &Measured<'_>) -> Verdict {
        let now = measured.now_us;
        let passed_us = self.updated_us.map_or(0, |before| (now - before).clamp(0, MAX_STEP_US)) as f64;
        self.updated_us = Some(now);
        let (standing, latest) = (measured.standing_us as f64, measured.latest_us as f64);
        // A short queue that loses what does not fit never stands as long as others.
        let limit = if measured.loss > self.clean_loss + LOSSY { SHORT_QUEUE_US } else { QUEUE_US };
        let mut verdict = Verdict::Plausible;
        if standing > limit || latest > RUSH_US {
            verdict = self.decrease(measured, standing.max(latest), latest);
        } else if standing < CLEAR_US {
            self.episode = None;
            self.clean_loss += (measured.loss - self.clean_loss) * (passed_us / CLEAN_US);
            self.increase(measured, passed_us / 1e6);
        }
        self.target = self.target.clamp(self.min, self.max);
        verdict
    }

    fn decrease(&mut self, measured: &Measured<'_>, queue: f64, latest: f64) -> Verdict {
        let now = measured.now_us;
        let new = Episode {
            since_us: now,
            before: self.target,
            line: f64::INFINITY,
            used: measured.used,
            checked: (now, latest),
        };
        let mut episode = self.episode.unwrap_or(new);
        let (checked_us, then) = episode.checked;
        if now - checked_us > PATIENCE_US + 2 * measured.rtt_us {
            episode.checked = (now, latest);
            // As less was sent and arrived, a queue of ours would have drained or grown by now.
            let less = measured.delivered.rate(MAX_WINDOW_US).is_some_and(|now| now < episode.line * LESS);
            if less && (latest - then).abs() < then * STUBBORN {
                self.episode = None;
                self.ceiling = None;
                return Verdict::NotOurs;
            }
            if latest > then {
                episode.since_us = now;
            }
        }
        // What arrives later was sent after the decrease. Of a queue of ours it would tell the same, but of a delay
        // that is not ours it would lower the target again and again.
        if now - episode.since_us <= measured.rtt_us + MEASURE_US {
            let window = (now - episode.since_us + LEAD_US).clamp(MIN_WINDOW_US, MAX_WINDOW_US);
            if let Some(delivered) = measured.delivered.rate(window) {
                episode.line = delivered / (1.0 - self.clean_loss.min(MAX_LOSS));
            }
        }
        self.episode = Some(episode);
        if episode.line.is_infinite() {
            return Verdict::Plausible;
        }
        let drain = (queue / (DRAIN_US + measured.rtt_us as f64)).min(MAX_DRAIN);
        let target = episode.before.min(episode.line * (SHARE - drain));
        // Trains that pass much faster speak of another line than the delay does: wild jitter, or a queue that others made.
        let enough = measured.capacity.filter(|c| c.trains >= ENOUGH_TRAINS);
        let wide = enough.is_some_and(|c| !c.narrow && c.rate > episode.before * WIDE);
        // When little was sent and all of it arrives, the line may pass anything above that.
        let little = episode.before * IDLE;
        let idle = episode.used.max(episode.line) < little && episode.line > episode.used * ALL;
        if idle {
            self.target = target.max(episode.before * GENTLE);
            return Verdict::Plausible;
        }
        self.target = if wide { target.max(episode.before * GENTLE) } else { target };
        let trains = measured.capacity.map_or(episode.line, |c| c.low.max(episode.line));
        self.ceiling = Some(Ceiling { rate: episode.line, trains, at_us: now });
        Verdict::Plausible
    }

    fn increase(&mut self, measured: &Measured<'_>, seconds: f64) {
        let doubling = (DOUBLING_US.max(DOUBLING_RTTS * measured.rtt_us as f64)) / 1e6;
        let fast = (seconds / doubling).exp2();
        let old = |c: &Ceiling| measured.now_us - c.at_us > CEILING_US || self.target > c.rate * BEYOND;
        if self.ceiling.as_ref().is_some_and(old) {
            self.ceiling = None;
        }
        let fresh = |c: &Capacity| measured.now_us - c.at_us < FRESH_US + measured.rtt_us;
        let trains = measured.capacity.filter(fresh);
        let room = trains.map_or(0.0, |c| c.rate * OF_TRAINS);
        let seen = self.ceiling.map_or(0.0, |c| c.trains.max(c.rate) * NEWS);
        let used = measured.used * OF_USED;
        let line = trains.filter(|c| c.narrow).map(|c| c.rate);
        let full = line.is_some_and(|line| self.target > line * FULL);
        let alike = CREEP_BPS.min(self.target * MAX_CREEP);
        let creep = if full { 0.0 } else { alike + self.target * CREEP };
        let (grown, limit) = if room > self.target && trains.is_some_and(|c| c.low > seen) {
            (self.target * fast, room)
        } else if let Some(ceiling) = self.ceiling.filter(|c| self.target < c.rate * RETURN) {
            (self.target * fast, ceiling.rate * RETURN)
        } else if self.ceiling.is_some() || line.is_some() {
            (self.target + seconds * creep, used)
        } else {
            (self.target * (1.0 + GROWTH * seconds), used)
        };
        self.target = self.target.max(grown.min(limit));
    }
}

/// A queue that stands this long is one. A picture of full datagrams at 500 kb/s waits as long for itself.
const QUEUE_US: f64 = 25_000.0;
/// The same when datagrams are lost more than usual, by [`LOSSY`] of all.
const SHORT_QUEUE_US: f64 = 12_000.0;
const LOSSY: f64 = 0.05;
/// A queue this long in the last 30 ms need not stand for 100.
const RUSH_US: f64 = 45_000.0;
/// Below this nothing stands, and what is sent may grow.
const CLEAR_US: f64 = 10_000.0;
/// Share of the line to use after a queue: what pictures that come out too large may take, and the way down of the
/// last few milliseconds.
const SHARE: f64 = 0.92;
/// Time to drain a queue in, a round trip on top; and the share of the line that draining may take, so that a call
/// still has a picture.
const DRAIN_US: f64 = 250_000.0;
const MAX_DRAIN: f64 = 0.7;
/// Trains so much faster than the target are of a wide line, and then the target goes no lower than by this factor at once.
const WIDE: f64 = 2.0;
const GENTLE: f64 = 0.85;
/// Share of the target of which less is little, and what of it arrives is all.
const IDLE: f64 = 0.2;
const ALL: f64 = 0.9;
/// Fewer may all be wrong: they have been counted since the queue began.
const ENOUGH_TRAINS: usize = 6;
/// Time in which what arrives was still sent before the decrease, a round trip on top: encoders follow this late.
const MEASURE_US: i64 = 150_000;
/// Time over which the line is measured: since the queue began, and a little before, for a queue is seen late.
const LEAD_US: i64 = 50_000;
const MIN_WINDOW_US: i64 = 120_000;
const MAX_WINDOW_US: i64 = 400_000;
/// Most random loss that is made up for; beyond it, loss cannot be told from a full queue.
const MAX_LOSS: f64 = 0.5;
/// Time after which a queue that has changed by less than the share [`STUBBORN`] is not ours; two round trips on top.
const PATIENCE_US: i64 = 400_000;
const STUBBORN: f64 = 0.15;
/// Share of the line below which less was sent: an application that cannot send less keeps its queue.
const LESS: f64 = 0.95;
/// Random loss is averaged over this time.
const CLEAN_US: f64 = 2_000_000.0;
/// Where trains show room the target doubles in this time, and never within fewer round trips than these: what it
/// does is seen one round trip later.
const DOUBLING_US: f64 = 700_000.0;
const DOUBLING_RTTS: f64 = 5.0;
/// Growth a second where nothing is known.
const GROWTH: f64 = 0.25;
/// Growth near the last queue: the same for all that share a line, so that they become equal (Chiu and Jain, 1989),
/// and a little by size, so that large targets move at all; no share so large that the smallest make queues all the
/// time. In bits per second per second, and per second.
const CREEP_BPS: f64 = 15_000.0;
const CREEP: f64 = 0.01;
const MAX_CREEP: f64 = 0.06;
/// Where trains show a line, this share of it is all that can be had without a queue.
const FULL: f64 = 0.9;
/// Share of the last queue's line to come back to at once.
const RETURN: f64 = 0.9;
/// The last queue is history when the target is past it by this factor without another, or after this time.
const BEYOND: f64 = 1.2;
const CEILING_US: i64 = 30_000_000;
/// Trains that show this much more than at the last queue are news of a wider line.
const NEWS: f64 = 1.25;
/// Share of what trains show to grow to at once.
const OF_TRAINS: f64 = 0.85;
/// Without trains, the target is at most this much above what was really sent without a queue.
const OF_USED: f64 = 1.5;
/// Age up to which trains count for growth, a round trip on top.
const FRESH_US: i64 = 1_000_000;
/// After a silence, growth does not make up for it.
const MAX_STEP_US: i64 = 100_000;
