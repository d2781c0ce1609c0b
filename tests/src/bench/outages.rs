//! How soon a call is back when nothing has passed for a while.

use std::time::Duration;

use super::call::Window;
use super::metrics::Measured;
use super::pixels::Shown;
use super::profile::Profile;
use super::sound::Heard;

/// Measures the time from the end of each outage of the profile to the next picture and to sound, of both directions; at most
/// until the next outage or the end of what is measured.
pub(super) fn measure(
    measured: &mut Measured,
    profile: Profile,
    shown: &[Shown; 2],
    heard: &[Heard; 2],
    window: &Window,
    time: Duration,
) {
    let outages = profile.outages(time);
    if outages.is_empty() {
        return;
    }
    let (mut pictures, mut sounds) = (Vec::new(), Vec::new());
    for (number, outage) in outages.iter().enumerate() {
        let limit = outages.get(number + 1).map_or(time, |next| next.start);
        let (end, most) = (window.media_at(outage.end), (limit - outage.end).as_secs_f64() * 1e3);
        for shown in shown {
            let back = shown.first_after(end).map_or(most, |first| (first - end) as f64 / 1e3);
            pictures.push(back.min(most));
        }
        for heard in heard {
            let back = heard.back_after(window.begin + outage.end, window.begin + limit);
            sounds.push(back.as_secs_f64() * 1e3);
        }
    }
    let mean = |times: &[f64]| times.iter().sum::<f64>() / times.len() as f64;
    let most = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
    measured.set("picture_back_ms", mean(&pictures));
    measured.set("picture_back_max_ms", most(&pictures));
    measured.set("sound_back_ms", mean(&sounds));
    measured.set("sound_back_max_ms", most(&sounds));
}
