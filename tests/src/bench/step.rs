//! How a call follows a link that becomes narrow and wide again.

use std::time::Duration;

use vchat_proto::stats::Distribution;
use vchat_proto::units::Bitrate;

use super::call::{Window, ms};
use super::metrics::Measured;
use super::pixels::Shown;
use super::profile::Profile;
use super::traffic::Traffic;

/// Measures the three phases of [`Profile::Step`]. What does not happen within its phase is said to take [`NEVER`].
pub(super) fn measure(
    measured: &mut Measured,
    profile: Profile,
    shown: &[Shown; 2],
    traffic: &Traffic,
    window: &Window,
    time: Duration,
) {
    if profile != Profile::Step {
        return;
    }
    let third = Duration::from_millis((time.as_millis() / 3) as u64);
    let phase = |number: u32| window.media_at(third * number)..window.media_at(third * (number + 1));
    measured.set("step_below_s", traffic.below_after(NARROW, third, 2 * third));
    measured.set("step_up_s", traffic.above_after(MOSTLY_WIDE, 2 * third, 3 * third));

    let [first, second, last] = [0, 1, 2].map(|number| {
        let mut delay = Distribution::default();
        shown.iter().for_each(|shown| delay.merge(&shown.within(&phase(number)).delay));
        delay
    });
    measured.set("step_p50_1_ms", ms(first.quantile(0.5)));
    measured.set("step_p50_2_ms", ms(second.quantile(0.5)));
    measured.set("step_p50_3_ms", ms(last.quantile(0.5)));
    measured.set("step_peak_ms", ms(second.max()));
    let frozen: i64 = shown.iter().map(|shown| shown.within(&phase(1)).frozen).sum();
    measured.set("step_frozen_percent", 100.0 * frozen as f64 / 2.0 / third.as_micros() as f64);
    if let Some(usual) = first.quantile(0.95) {
        let from = window.media_at(third);
        let back = shown.iter().map(|shown| back_after(&shown.delays(), usual, from, third));
        measured.set("step_latency_s", back.sum::<f64>() / 2.0);
    }
}

/// How many seconds after `from` pictures have delays of at most `usual` again: half of those of the next [`AVERAGED`], as
/// single ones are late at all times. [`NEVER`] when that is not within `most`.
fn back_after(delays: &[(i64, i64)], usual: i64, from: i64, most: Duration) -> f64 {
    let end = from + most.as_micros() as i64;
    let is_usual = |begin: i64| {
        let next = delays.iter().filter(|(shown, _)| (begin..begin + AVERAGED).contains(shown));
        let (fine, all) =
            next.fold((0, 0), |(fine, all), (_, delay)| (fine + i32::from(*delay <= usual), all + 1));
        all > 0 && fine * 2 >= all
    };
    let begins = (from..=end - AVERAGED).step_by(GRID);
    begins.into_iter().find(|begin| is_usual(*begin)).map_or(NEVER, |begin| (begin - from) as f64 / 1e6)
}

/// Seconds that no phase lasts and no bar allows.
pub(super) const NEVER: f64 = 60.0;
/// The rate in the middle, and the four fifths of the outer one that a call should come back to.
const NARROW: Bitrate = Bitrate::from_kbps(500);
const MOSTLY_WIDE: Bitrate = Bitrate::from_kbps(1600);
/// A second of pictures, in microseconds.
const AVERAGED: i64 = 1_000_000;
/// 50 ms, as exact as rates are.
const GRID: usize = 50_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_back_when_half_of_the_pictures_are() {
        let picture = |i: i64| {
            let shown = i * 33_333;
            // A second of late pictures from 2 s on, and single ones at all times.
            let late = (2_000_000..3_000_000).contains(&shown) || i % 7 == 0;
            (shown, if late { 400_000 } else { 40_000 })
        };
        let delays: Vec<_> = (0..300).map(picture).collect();
        let most = Duration::from_secs(5);
        assert!((back_after(&delays, 50_000, 2_000_000, most) - 0.6).abs() < 0.06);
        assert_eq!(back_after(&delays, 50_000, 4_000_000, most), 0.0);
        assert_eq!(back_after(&delays, 30_000, 2_000_000, most), NEVER);
        assert_eq!(back_after(&[], 30_000, 2_000_000, most), NEVER, "nothing is shown");
    }
}
