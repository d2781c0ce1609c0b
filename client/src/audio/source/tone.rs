//! A test sound whose time can be told from the sound alone.
//!
//! Each chirp starts at a whole second of the media clock, so whoever hears it on the same machine knows how long ago
//! it was spoken (up to a second). Between the chirps a soft tone shows that sound flows, and makes gaps audible.

use std::f32::consts::TAU;

use vchat_proto::units::MediaTime;

use super::{Pace, Source};
use crate::audio::{AudioError, FRAME, RATE};
use crate::clock::MediaClock;

/// The sound at a moment of the media clock.
#[must_use]
pub fn sample_at(time: MediaTime) -> f32 {
    sample(time.as_micros() * u64::from(RATE) / 1_000_000)
}

/// Where chirps start in 48 kHz mono sound, in samples, in order.
///
/// By normalised cross-correlation with the chirp, so it finds them whatever their loudness and in moderate noise, to
/// within a few samples.
#[must_use]
pub fn find_chirps(pcm: &[f32]) -> Vec<usize> {
    let chirp: Vec<f32> = (0..CHIRP).map(|n| chirp_sample(n as u64)).collect();
    let coarse: Vec<usize> = (0..pcm.len().saturating_sub(CHIRP))
        .step_by(COARSE)
        .filter(|&at| likeness(&pcm[at..at + CHIRP], &chirp, 1) > SUSPECT)
        .collect();
    let mut found: Vec<(usize, f32)> = Vec::new();
    for near in coarse {
        let candidates = near.saturating_sub(COARSE)..(near + COARSE).min(pcm.len() - CHIRP);
        let best = candidates
            .map(|at| (at, likeness(&pcm[at..at + CHIRP], &chirp, 1)))
            .max_by(|a, b| a.1.total_cmp(&b.1));
        let Some((at, alike)) = best.filter(|&(_, alike)| alike > CERTAIN) else { continue };
        match found.last_mut() {
            Some(last) if at - last.0 < CHIRP => {
                if alike > last.1 {
                    *last = (at, alike);
                }
            }
            _ => found.push((at, alike)),
        }
    }
    found.into_iter().map(|(at, _)| at).collect()
}

/// Plays the test sound in real time.
pub(in crate::audio) struct Tone {
    pace: Pace,
}

impl Tone {
    pub(in crate::audio) fn new(clock: MediaClock) -> Self {
        Self { pace: Pace::new(clock) }
    }
}

impl Source for Tone {
    fn read(&mut self, frame: &mut [f32; FRAME]) -> Result<Option<MediaTime>, AudioError> {
        let Some(start) = self.pace.wait() else { return Ok(None) };
        let first = start.as_micros() * u64::from(RATE) / 1_000_000;
        for (n, out) in frame.iter_mut().enumerate() {
            *out = sample(first + n as u64);
        }
        Ok(Some(start))
    }
}

/// The sound of the `n`-th sample since the clock's zero.
fn sample(n: u64) -> f32 {
    let within = n % u64::from(RATE);
    if within < CHIRP as u64 {
        chirp_sample(within)
    } else {
        SOFT * (TAU * SOFT_HZ * (within % u64::from(RATE / SOFT_HZ as u32)) as f32 / RATE as f32).sin()
    }
}

/// A sweep over the range of speech with soft ends; its autocorrelation is one narrow peak.
fn chirp_sample(n: u64) -> f32 {
    let (t, length) = (n as f32 / RATE as f32, CHIRP as f32 / RATE as f32);
    let phase = TAU * (LOW_HZ * t + (HIGH_HZ - LOW_HZ) * t * t / (2.0 * length));
    let window = (std::f32::consts::PI * t / length).sin();
    LOUD * window * phase.sin()
}

fn likeness(a: &[f32], b: &[f32], step: usize) -> f32 {
    let (mut ab, mut aa, mut bb) = (0.0_f32, 1e-9_f32, 1e-9_f32);
    for (x, y) in a.iter().zip(b).step_by(step) {
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    ab / (aa * bb).sqrt()
}

/// Samples of the chirp: 60 ms, long enough to stand out after Opus and concealment of one frame.
pub const CHIRP: usize = 2880;
/// The sweep: inside what every speech codec mode keeps.
const LOW_HZ: f32 = 300.0;
const HIGH_HZ: f32 = 3000.0;
/// Loudness of the chirp, and of the tone in between (-32 dB: heard by the silence gate, not annoying).
const LOUD: f32 = 0.5;
const SOFT: f32 = 0.025;
/// A divisor of the sample rate, so that every second starts at the same phase.
const SOFT_HZ: f32 = 400.0;
/// Search in steps of 5 samples, at which the likeness of a chirp to itself is still above [`SUSPECT`].
const COARSE: usize = 5;
const SUSPECT: f32 = 0.25;
/// Far above what noise or a tone reaches, and below a chirp that has passed through Opus (see the tests).
const CERTAIN: f32 = 0.6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::codec::{Decoder, Encoder};

    #[test]
    fn chirps_start_at_whole_seconds_and_are_found_after_opus() {
        let start = MediaTime::from_micros(7_400_000);
        let pcm: Vec<f32> = (0..RATE * 3)
            .map(|n| sample_at(start.offset(i64::from(n) * 1_000_000 / i64::from(RATE) + 1)))
            .collect();
        let mut encoder = Encoder::new().expect("encoder");
        let mut decoder = Decoder::new().expect("decoder");
        let mut heard = Vec::new();
        for frame in pcm.as_chunks::<FRAME>().0 {
            let mut out = [0.0; FRAME];
            decoder.decode(&encoder.encode(frame).expect("encodes"), &mut out);
            heard.extend(out.map(|s| s * 0.3));
        }
        let second = RATE as usize;
        let first = second * 6 / 10;
        for (pcm, lag) in [(&pcm, 0), (&heard, encoder.lookahead())] {
            let found = find_chirps(pcm);
            assert_eq!(found.len(), 3, "{found:?}");
            for (n, at) in found.into_iter().enumerate() {
                assert!(at.abs_diff(first + n * second + lag) <= 12, "chirp {n} at {at}, lag {lag}");
            }
        }
    }

    #[test]
    fn there_is_no_chirp_in_noise_tone_or_nothing() {
        let mut seed = 1_u32;
        let noise: Vec<f32> = (0..96_000)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seed as f32 / u32::MAX as f32 - 0.5
            })
            .collect();
        assert!(find_chirps(&noise).is_empty());
        assert!(find_chirps(&vec![0.0; 96_000]).is_empty());
        let tone: Vec<f32> = (4_000..40_000).map(sample).collect();
        assert!(find_chirps(&tone).is_empty());
        assert!(find_chirps(&[0.1; 10]).is_empty());
    }
}
