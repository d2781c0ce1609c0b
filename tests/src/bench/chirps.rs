//! From mouth to ear, by the sound alone.
//!
//! A train of chirps is played into a microphone. The sound at the microphone and at the other client's speaker are
//! recorded at the same time; the chirps are found in both by correlation, and the time between a chirp here and there is
//! the delay. The chirps are spaced irregularly, so only one shift lays all of them on each other.

use std::path::Path;

use anyhow::Context;
use vchat_client::audio::tone;
use vchat_proto::units::MediaTime;

use crate::harness::SAMPLE_RATE;

/// Writes a train of chirps of at least `seconds` as a WAV file: mono, 16 bits, [`SAMPLE_RATE`].
pub(super) fn write_train(path: &Path, seconds: f64) -> anyhow::Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut file =
        hound::WavWriter::create(path, spec).with_context(|| format!("cannot create {}", path.display()))?;
    for sample in train(seconds) {
        file.write_sample((sample * f32::from(i16::MAX)) as i16)?;
    }
    file.finalize()?;
    Ok(())
}

/// Where the chirps of a recording start, in seconds since its first sample.
pub(super) fn find(samples: &[f32]) -> Vec<f64> {
    tone::find_chirps(samples).into_iter().map(|at| at as f64 / f64::from(SAMPLE_RATE)).collect()
}

/// The delays of the chirps at `heard` after those at `spoken`, in seconds; less than `heard` where some match none.
///
/// Delays may change over time: pieces of [`PIECE`] are looked at one by one. One in which fewer than [`LEAST`] chirps match
/// says nothing.
pub(super) fn delays(spoken: &[f64], heard: &[f64]) -> Vec<f64> {
    let pieces = heard.chunk_by(|a, b| (a / PIECE).floor() == (b / PIECE).floor());
    let delays = pieces.map(|piece| {
        let near =
            |at: &&f64| (piece[0] - MAX_DELAY - TOLERANCE..piece[piece.len() - 1] + TOLERANCE).contains(*at);
        let spoken: Vec<f64> = spoken.iter().filter(near).copied().collect();
        align(&spoken, piece)
    });
    delays.filter(|delays| delays.len() >= LEAST).flatten().collect()
}

/// The delays of chirps that are about the same for all.
///
/// Takes the shift from 0 to [`MAX_DELAY`] that lays most chirps on each other, and then for each heard one the nearest
/// spoken one within [`TOLERANCE`] of that. So no single delay may be further than that from the others.
fn align(spoken: &[f64], heard: &[f64]) -> Vec<f64> {
    let shifts = heard.iter().flat_map(|h| spoken.iter().map(move |s| h - s));
    let fit = |shift: f64| {
        let near = heard.iter().filter_map(|h| nearest(spoken, h - shift));
        near.map(|(_, off)| 1.0 - off / TOLERANCE).sum::<f64>()
    };
    let best = shifts
        .filter(|shift| (0.0..MAX_DELAY).contains(shift))
        .map(|shift| (shift, fit(shift)))
        .max_by(|a, b| a.1.total_cmp(&b.1));
    let Some((shift, _)) = best else { return Vec::new() };
    heard.iter().filter_map(|h| Some(h - nearest(spoken, h - shift)?.0)).collect()
}

/// The element nearest to `at` and its distance, unless that is beyond [`TOLERANCE`].
fn nearest(times: &[f64], at: f64) -> Option<(f64, f64)> {
    let near = times.iter().map(|t| (*t, (t - at).abs())).min_by(|a, b| a.1.total_cmp(&b.1));
    near.filter(|(_, off)| *off < TOLERANCE)
}

/// Chirps with a soft tone in between, which keeps codecs and gates from falling asleep.
fn train(seconds: f64) -> Vec<f32> {
    let mut samples = Vec::new();
    for n in 0.. {
        if samples.len() as f64 >= seconds * f64::from(SAMPLE_RATE) {
            break;
        }
        // The tone has a chirp at each whole second; a part of a second from its start is a chirp and some tone.
        let length = SPACING + (n * STEP_FACTOR % STEPS) * STEP;
        let time = |i: u64| MediaTime::from_micros((i * 1_000_000).div_ceil(u64::from(SAMPLE_RATE)));
        samples.extend((0..length).map(|i| tone::sample_at(time(i))));
    }
    samples
}

/// Seconds in which a delay changes by less than [`TOLERANCE`] on most networks; a dozen chirps.
const PIECE: f64 = 4.0;
/// Fewer chirps fit more than one shift.
const LEAST: usize = 4;
/// Beyond any delay that a conversation survives.
const MAX_DELAY: f64 = 3.0;
/// Less than half of the least space between two chirps.
const TOLERANCE: f64 = 0.12;
/// Samples between the starts of two chirps: 250 ms and up to 12 steps of 15.1 ms more, in an order that repeats after
/// 13 chirps only. No multiple of 10 ms, so that chirps meet packets in all phases.
const SPACING: u64 = 12_000;
const STEP: u64 = 725;
const STEPS: u64 = 13;
const STEP_FACTOR: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_of_any_length_is_found_to_a_sample() {
        let spoken = train(6.0);
        let times = find(&spoken);
        assert!((15..=25).contains(&times.len()), "{}", times.len());
        for delay in [0, 1, 2_400, 30_011] {
            let mut heard = vec![0.0; delay];
            heard.extend(spoken.iter().map(|sample| sample * 0.2));
            let delays = align(&times, &find(&heard));
            assert!(delays.len() >= times.len() - 1, "{} of {}", delays.len(), times.len());
            for measured in delays {
                let samples = measured * f64::from(SAMPLE_RATE);
                assert!((samples - delay as f64).abs() < 2.0, "{samples} samples instead of {delay}");
            }
        }
    }

    #[test]
    fn delays_that_change_are_followed() {
        let spoken: Vec<f64> = find(&train(24.0));
        // From 50 ms to 350 ms and back.
        let delay = |s: f64| 0.05 + 0.3 * (1.0 - (s / 12.0 - 1.0).abs());
        let heard: Vec<f64> = spoken.iter().map(|s| s + delay(*s)).collect();
        let delays = delays(&spoken, &heard);
        assert!(delays.len() * 10 >= spoken.len() * 9, "{} of {}", delays.len(), spoken.len());
        let longest = delays.iter().copied().fold(0.0, f64::max);
        assert!((0.3..=0.35).contains(&longest), "{longest}");
        assert!(super::delays(&spoken, &heard[..3]).is_empty(), "too few to be sure");
    }

    #[test]
    fn lost_invented_and_late_chirps_do_not_confuse_the_others() {
        let spoken: Vec<f64> = find(&train(8.0));
        let mut heard: Vec<f64> = spoken.iter().map(|s| s + 0.045).collect();
        heard[3] += 0.03;
        heard.remove(7);
        heard.remove(12);
        heard.push(30.0);
        let delays = align(&spoken, &heard);
        assert_eq!(delays.len(), spoken.len() - 2);
        let late: Vec<_> = delays.iter().filter(|d| (*d - 0.045).abs() > 1e-9).collect();
        assert_eq!(late.len(), 1);
        assert!((late[0] - 0.075).abs() < 1e-9, "{late:?}");
        assert!(align(&spoken, &[]).is_empty() && align(&[], &heard).is_empty());
    }
}
