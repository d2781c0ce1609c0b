//! By which time chat grows old.

use std::time::{Duration, Instant};

/// The time of day, as far as it is to be believed.
///
/// What is forgotten is gone, and a clock that leaps a year ahead (a battery that is empty, a typing error) would have a relay
/// forget all chat. So a leap counts only when it has lasted for [`DOUBT`]; until then the time is what it would be without. A
/// clock that is set back is believed at once: nothing is forgotten for that. The first time is believed, for there is none to
/// compare it with, so ask only when the clock has had some time to be set right after a start.
#[derive(Debug, Default)]
pub(super) struct Calendar {
    /// When what was believed.
    believed: Option<(Instant, u64)>,
    /// Since when the clock is ahead, and by how many milliseconds.
    leap: Option<(Instant, u64)>,
}

impl Calendar {
    /// The time in milliseconds since 1970, by what the clock says (`clock_ms`) at a moment.
    pub(super) fn time(&mut self, now: Instant, clock_ms: u64) -> u64 {
        let Some((then, believed)) = self.believed else { return self.believe(now, clock_ms) };
        let passed = u64::try_from(now.saturating_duration_since(then).as_millis()).unwrap_or(u64::MAX);
        let expected = believed.saturating_add(passed);
        let ahead = clock_ms.saturating_sub(expected);
        if ahead <= TOLERANCE_MS {
            return self.believe(now, clock_ms);
        }
        match self.leap {
            Some((since, by)) if by.abs_diff(ahead) <= TOLERANCE_MS => {
                if now.saturating_duration_since(since) >= DOUBT {
                    tracing::warn!(
                        ahead_s = ahead / 1000,
                        "the clock has stayed ahead: chat grows old by it again"
                    );
                    return self.believe(now, clock_ms);
                }
            }
            _ => {
                tracing::warn!(
                    ahead_s = ahead / 1000,
                    "the clock has leapt ahead: for a day no chat grows old by that"
                );
                self.leap = Some((now, ahead));
            }
        }
        expected
    }

    const fn believe(&mut self, now: Instant, clock_ms: u64) -> u64 {
        self.believed = Some((now, clock_ms));
        self.leap = None;
        clock_ms
    }
}

/// Long enough for somebody to notice and set the clock right; and what should have been forgotten stays only a day longer where
/// the leap was right, as after a machine was suspended.
const DOUBT: Duration = Duration::from_secs(24 * 3600);

/// What a clock may run ahead between two looks, or be set by when it was a little wrong.
const TOLERANCE_MS: u64 = 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const HOUR_MS: u64 = 3_600_000;
    const YEAR_MS: u64 = 365 * 24 * HOUR_MS;
    const BEGIN: u64 = 50 * YEAR_MS;

    /// What is believed hour by hour, when the clock is so far ahead in each, counted from the right time.
    fn believed(ahead: impl IntoIterator<Item = i64>) -> Vec<i64> {
        let (mut calendar, begin) = (Calendar::default(), Instant::now());
        let mut hour = |(n, ahead): (u32, i64)| {
            let right = BEGIN + u64::from(n) * HOUR_MS;
            let time = calendar.time(begin + HOUR * n, right.saturating_add_signed(ahead));
            time as i64 - right as i64
        };
        (0..).zip(ahead).map(&mut hour).collect()
    }

    #[test]
    fn a_leap_that_is_taken_back_within_a_day_counts_for_nothing() {
        let year = YEAR_MS as i64;
        let clock = [vec![0; 3], vec![year; 23], vec![0; 3]].concat();
        assert_eq!(believed(clock.clone()), vec![0; clock.len()]);
        // Nor do several that each last for less.
        let clock = [vec![0; 3], vec![year; 20], vec![2 * year; 20], vec![0; 3]].concat();
        assert_eq!(believed(clock.clone()), vec![0; clock.len()]);
    }

    #[test]
    fn a_leap_that_lasts_a_day_counts_from_then_on() {
        let year = YEAR_MS as i64;
        let believed = believed([vec![0; 3], vec![year; 30]].concat());
        assert_eq!(believed, [vec![0; 3 + 24], vec![year; 6]].concat());
    }

    #[test]
    fn a_clock_that_is_set_back_or_corrected_a_little_is_believed_at_once() {
        let (day, minute) = (24 * HOUR_MS as i64, 60_000);
        let clock = vec![0, minute, 0, -day, -day, -day + minute];
        assert_eq!(believed(clock.clone()), clock);
    }
}
