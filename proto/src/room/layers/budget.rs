//! What the hop to a receiver carries, and when more may be tried.

use std::time::{Duration, Instant};

use crate::units::Bitrate;

/// What is known of the hop to one receiver.
#[derive(Debug)]
pub(crate) struct Budget {
    /// What the hop says it carries; none before its first word.
    carries: Option<Bitrate>,
    /// What the hop was told last to probe for.
    told: Option<Bitrate>,
    /// What it was told to probe for [`GRACE`] ago; before that, what it carried to begin with.
    settled: Bitrate,
    /// When it was told more than `settled`.
    told_more_at: Option<Instant>,
    changed_at: Option<Instant>,
    /// Since when more is sent than it bears.
    over_since: Option<Instant>,
    /// The last time when more was tried, until less was needed.
    raised_at: Option<Instant>,
    /// How long to leave things as they are before more is tried.
    hold: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            carries: None,
            told: None,
            settled: Bitrate::default(),
            told_more_at: None,
            changed_at: None,
            over_since: None,
            raised_at: None,
            hold: MIN_HOLD,
        }
    }
}

impl Budget {
    pub(crate) const fn handle_rate(&mut self, carries: Bitrate) {
        self.carries = Some(carries);
    }

    /// The most that may be sent, in bits per second; none when no limit is known. A hop that carries all that it was told to probe
    /// for says nothing of what else it would carry, and one that was told of more a moment ago has not had the time to try.
    pub(crate) fn limit(&mut self, now: Instant) -> Option<u64> {
        if self.told_more_at.is_some_and(|t| now >= t + GRACE) {
            self.settled = self.told.unwrap_or_default();
            self.told_more_at = None;
        }
        let carries = self.carries?.bps();
        (self.told.is_some() && carries < percent(self.settled.bps(), FULL_PERCENT)).then_some(carries)
    }

    /// What the best choices take now. Returns it when the hop, once it has said something, should be told.
    pub(crate) fn news(&mut self, now: Instant, wanted: Bitrate) -> Option<Bitrate> {
        let carries = self.carries?;
        let told = self.told.map_or(0, Bitrate::bps);
        let same = wanted.bps().abs_diff(told) <= told / NEWS_FRACTION;
        if self.told.is_some() && same {
            return None;
        }
        if self.told.is_none() {
            self.settled = carries;
        }
        self.told = Some(wanted);
        if wanted <= self.settled {
            (self.settled, self.told_more_at) = (wanted, None);
        } else if self.told_more_at.is_none() {
            self.told_more_at = Some(now);
        }
        Some(wanted)
    }

    /// Whether more than it bears has been sent for so long that something must change; `over`: it is now.
    pub(crate) fn is_over_for_long(&mut self, now: Instant, over: bool) -> bool {
        if !over {
            self.over_since = None;
        }
        over && now >= *self.over_since.get_or_insert(now) + OVER
    }

    /// Whether it is time to try more.
    pub(crate) fn may_raise(&self, now: Instant) -> bool {
        self.changed_at.is_none_or(|t| now >= t + self.hold)
    }

    /// More is being tried.
    pub(crate) fn raised(&mut self, now: Instant) {
        if self.raised_at.is_some() {
            self.hold = MIN_HOLD;
        }
        (self.raised_at, self.changed_at) = (Some(now), Some(now));
    }

    /// It was too much. When that shows soon after more was tried, the next try waits longer.
    pub(crate) fn lowered(&mut self, now: Instant) {
        if let Some(raised_at) = self.raised_at.take() {
            let failed = now < raised_at + TRIAL;
            self.hold = if failed { (2 * self.hold).min(MAX_HOLD) } else { MIN_HOLD };
        }
        self.changed_at = Some(now);
    }
}

/// So much of a rate.
pub(crate) const fn percent(bps: u64, percent: u64) -> u64 {
    (bps as u128 * percent as u128 / 100) as u64
}

/// Estimates overshoot downwards for as long as a queue drains.
const OVER: Duration = Duration::from_millis(800);
/// Estimators need about that long to find that a hop carries twice as much.
const GRACE: Duration = Duration::from_secs(2);
/// Of what a hop was told to probe for: it found nothing in the way.
const FULL_PERCENT: u64 = 95;
/// A change of the wanted rate by a tenth is told.
const NEWS_FRACTION: u64 = 10;
/// A switch costs a key frame of the publisher, so it should last.
const MIN_HOLD: Duration = Duration::from_secs(3);
const MAX_HOLD: Duration = Duration::from_secs(30);
/// Congestion that a larger picture brings shows within this time.
const TRIAL: Duration = Duration::from_secs(5);
