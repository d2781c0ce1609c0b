//! How well speech is understood, without listeners: the short-time objective intelligibility measure (STOI).
//!
//! C. H. Taal, R. C. Hendriks, R. Heusdens and J. Jensen, "An algorithm for intelligibility prediction of time-frequency
//! weighted noisy speech" (IEEE Transactions on Audio, Speech, and Language Processing 19, 2011): the envelopes of 15
//! third-octave bands, in stretches of 384 ms, are compared with those of the clean speech. 1 is perfect; above 0.9
//! nearly every word is understood, at 0.75 most sentences are.
//!
//! No crate has it. This follows the Python package `pystoi`, and its tests hold the figures that `pystoi` 0.4.1 gives.

use std::f32::consts::TAU;

/// Intelligibility of mono sound that is aligned with the clean speech already.
///
/// Below 0.4 s of speech there is nothing to measure, and the result is 0.
#[must_use]
pub fn stoi(clean: &[f32], degraded: &[f32], rate: u32) -> f64 {
    measure(&resample(clean, rate), &resample(degraded, rate))
}

/// Intelligibility of what was heard of a call, whose delay is unknown and changes.
///
/// Playout buffers stretch time, so one alignment for the whole is not enough: the sound heard is cut into pieces of
/// half a second, each of which is put where within 300 ms of the common lag it resembles the clean speech most; where
/// it resembles it nowhere (lost sound, silence) it stays where the piece before it was. STOI is then taken once over the
/// whole, whose own stretches of 384 ms are averaged there.
#[must_use]
pub fn stoi_of_call(clean: &[f32], heard: &[f32], rate: u32) -> f64 {
    let (clean, heard) = (resample(clean, rate), resample(heard, rate));
    let (slow_clean, slow_heard) = (decimate(&clean), Searched::new(&decimate(&heard)));
    let (common, _) = slow_heard.best(&slow_clean, 0, -FAR..=FAR);
    let mut lag = common;
    let mut aligned = Vec::with_capacity(clean.len());
    for (n, piece) in slow_clean.chunks(PIECE).enumerate() {
        let around = common - REACH..=common + REACH;
        let (best, likeness) = slow_heard.best(piece, (n * PIECE) as i64, around);
        if likeness > ALIKE {
            lag = best;
        }
        let start = (n * PIECE) as i64 + lag;
        let fine = start * DECIMATION as i64..(start + piece.len() as i64) * DECIMATION as i64;
        aligned.extend(fine.map(|at| sample(&heard, at)));
    }
    aligned.resize(clean.len(), 0.0);
    measure(&clean, &aligned)
}

/// Samples by which `degraded` lags behind `clean`, negative when it leads: where the two resemble each other most.
///
/// Looks up to two seconds in each direction, with a resolution of 0.4 ms.
#[must_use]
pub fn align(clean: &[f32], degraded: &[f32], rate: u32) -> i64 {
    let slow = |sound| decimate(&resample(sound, rate));
    let (lag, _) = Searched::new(&slow(degraded)).best(&slow(clean), 0, -FAR..=FAR);
    lag * DECIMATION as i64 * i64::from(rate) / i64::from(RATE)
}

/// Sound in which pieces of other sound are looked for.
struct Searched {
    sound: Vec<f32>,
    /// Sums of the squares of all samples before each.
    energy: Vec<f64>,
}

impl Searched {
    fn new(sound: &[f32]) -> Self {
        let mut sum = 0.0;
        let sums = sound.iter().map(|&s| {
            sum += f64::from(s) * f64::from(s);
            sum
        });
        let energy = std::iter::once(0.0).chain(sums).collect();
        Self { sound: sound.to_vec(), energy }
    }

    /// The lag at which this resembles `piece`, which is at `at` in its own sound, most, and the normalised correlation
    /// there.
    fn best(&self, piece: &[f32], at: i64, lags: std::ops::RangeInclusive<i64>) -> (i64, f32) {
        let own: f32 = piece.iter().map(|s| s * s).sum();
        let correlation = |lag: i64| {
            let start = at + lag;
            // What lies before and after this sound is silent.
            let skipped = usize::try_from(-start).unwrap_or(0).min(piece.len());
            let start = usize::try_from(start).unwrap_or(0).min(self.sound.len());
            let (piece, heard) = (&piece[skipped..], &self.sound[start..]);
            let end = start + piece.len().min(heard.len());
            let energy = (self.energy[end] - self.energy[start]) as f32;
            dot(piece, heard) / (own * energy + 1e-9).sqrt()
        };
        lags.map(|lag| (lag, correlation(lag))).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.0))
    }
}

/// In eight sums, so that the compiler may use vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 8];
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum()
}

fn sample(sound: &[f32], at: i64) -> f32 {
    usize::try_from(at).ok().and_then(|at| sound.get(at)).copied().unwrap_or(0.0)
}

/// STOI of sound at [`RATE`].
fn measure(clean: &[f32], degraded: &[f32]) -> f64 {
    let (clean, degraded) = without_silence(clean, degraded);
    let (clean, degraded) = (bands(&clean), bands(&degraded));
    let stretches = (clean.len() + 1).saturating_sub(STRETCH);
    if stretches == 0 {
        return 0.0;
    }
    let clip = 1.0 + 10_f64.powf(CLIP_DB / 20.0);
    let mut sum = 0.0;
    for start in 0..stretches {
        for band in 0..BANDS {
            let of = |bands: &[[f64; BANDS]]| -> Vec<f64> {
                bands[start..start + STRETCH].iter().map(|frame| frame[band]).collect()
            };
            let (x, mut y) = (of(&clean), of(&degraded));
            let gain = norm(&x) / (norm(&y) + f64::EPSILON);
            y.iter_mut().zip(&x).for_each(|(y, x)| *y = (*y * gain).min(x * clip));
            sum += correlation(x, y);
        }
    }
    sum / (stretches * BANDS) as f64
}

fn correlation(mut x: Vec<f64>, mut y: Vec<f64>) -> f64 {
    for v in [&mut x, &mut y] {
        let mean = v.iter().sum::<f64>() / v.len() as f64;
        v.iter_mut().for_each(|v| *v -= mean);
    }
    let product: f64 = x.iter().zip(&y).map(|(x, y)| x * y).sum();
    product / ((norm(&x) + f64::EPSILON) * (norm(&y) + f64::EPSILON))
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Leaves out of both what is silent in the clean sound: frames 40 dB below the loudest.
fn without_silence(clean: &[f32], degraded: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let window = hann();
    let windowed = |sound: &[f32], at: usize| -> Vec<f32> {
        sound.iter().skip(at).take(WINDOW).zip(&window).map(|(s, w)| s * w).collect()
    };
    let frames = clean.len().min(degraded.len()).saturating_sub(WINDOW).div_ceil(HOP);
    let energy =
        |frame: &[f32]| 20.0 * (frame.iter().map(|s| s * s).sum::<f32>().sqrt() + f32::EPSILON).log10();
    let energies: Vec<f32> = (0..frames).map(|n| energy(&windowed(clean, n * HOP))).collect();
    let loudest = energies.iter().copied().fold(f32::MIN, f32::max);
    let kept: Vec<usize> = (0..frames).filter(|&n| energies[n] > loudest - SILENT_DB).collect();
    let joined = |sound: &[f32]| {
        let mut out = vec![0.0; (kept.len() + 1) * HOP];
        for (n, frame) in kept.iter().enumerate() {
            let sum = out[n * HOP..].iter_mut().zip(windowed(sound, frame * HOP));
            sum.for_each(|(out, s)| *out += s);
        }
        out
    };
    (joined(clean), joined(degraded))
}

/// Amplitudes of the third-octave bands in each frame.
fn bands(sound: &[f32]) -> Vec<[f64; BANDS]> {
    let window = hann();
    // Lower bounds of the bands in bins of the transform, and the upper bound of the last.
    let bound = |band: usize| {
        let hz = LOWEST_HZ * 2_f64.powf((2.0 * band as f64 - 1.0) / 6.0);
        (hz * TRANSFORM as f64 / f64::from(RATE)).round() as usize
    };
    let bounds: Vec<usize> = (0..=BANDS).map(bound).collect();
    let table: Vec<(f32, f32)> =
        (0..TRANSFORM).map(|n| (TAU * n as f32 / TRANSFORM as f32).sin_cos()).collect();
    let power = |frame: &[f32], bin: usize| {
        let (mut re, mut im) = (0.0, 0.0);
        for (n, (s, w)) in frame.iter().zip(&window).enumerate() {
            let (sin, cos) = table[bin * n % TRANSFORM];
            (re, im) = (re + s * w * cos, im + s * w * sin);
        }
        f64::from(re * re + im * im)
    };
    let starts = (0..sound.len().saturating_sub(WINDOW)).step_by(HOP);
    let frame = |start: usize| {
        let frame = &sound[start..start + WINDOW];
        std::array::from_fn(|b| (bounds[b]..bounds[b + 1]).map(|bin| power(frame, bin)).sum::<f64>().sqrt())
    };
    starts.map(frame).collect()
}

/// A Hann window whose ends are not zero.
fn hann() -> Vec<f32> {
    (1..=WINDOW).map(|n| 0.5 - 0.5 * (TAU * n as f32 / (WINDOW + 1) as f32).cos()).collect()
}

/// Converts to [`RATE`] with a windowed sinc of [`ZEROS`] zero crossings to each side.
fn resample(sound: &[f32], rate: u32) -> Vec<f32> {
    if rate == RATE {
        return sound.to_vec();
    }
    let step = f64::from(rate) / f64::from(RATE);
    let cutoff = PASSED / step.max(1.0);
    let reach = (ZEROS / cutoff).floor();
    let width = reach as usize;
    let tap = |x: f64| {
        let phase = std::f64::consts::PI * cutoff * x;
        let sinc = if phase.abs() < 1e-9 { 1.0 } else { phase.sin() / phase };
        (cutoff * sinc * (0.5 + 0.5 * (std::f64::consts::PI * x / (reach + 1.0)).cos())) as f32
    };
    // Positions between two samples come again after so many.
    let phases = RATE / gcd(rate, RATE);
    let taps = |phase: u32| {
        let fraction = (f64::from(phase) * step).fract();
        (0..=2 * width).map(|i| tap(i as f64 - reach - fraction)).collect::<Vec<f32>>()
    };
    let filters: Vec<Vec<f32>> = (0..phases).map(taps).collect();
    let padded = [&vec![0.0; width], sound, &vec![0.0; width + 1]].concat();
    let length = sound.len() as u64 * u64::from(RATE) / u64::from(rate.max(1));
    (0..length)
        .map(|n| {
            let at = usize::try_from(n * u64::from(rate) / u64::from(RATE)).unwrap_or(usize::MAX);
            let filter = &filters[(n % u64::from(phases)) as usize];
            let near = padded.get(at..).unwrap_or_default();
            filter.iter().zip(near).map(|(tap, s)| tap * s).sum()
        })
        .collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A quarter of the rate, crudely: enough to find lags by the voice's low harmonics.
fn decimate(sound: &[f32]) -> Vec<f32> {
    sound.chunks(DECIMATION).map(|c| c.iter().sum::<f32>() / DECIMATION as f32).collect()
}

/// The paper's constants: 10 kHz, frames of 25.6 ms half overlapping, 15 bands from 150 Hz, stretches of 384 ms, signal
/// to distortion no worse than -15 dB, and silence from 40 dB below the loudest frame.
const RATE: u32 = 10_000;
const WINDOW: usize = 256;
const HOP: usize = 128;
const TRANSFORM: usize = 512;
const BANDS: usize = 15;
const LOWEST_HZ: f64 = 150.0;
const STRETCH: usize = 30;
const CLIP_DB: f64 = 15.0;
const SILENT_DB: f32 = 40.0;
/// Zero crossings of the resampling filter, and the share of the band that it lets through: the highest band of the
/// measure ends at 4.3 kHz.
const ZEROS: f64 = 32.0;
const PASSED: f64 = 0.95;
/// Lags are looked for at 2.5 kHz: 0.4 ms is a fraction of what changes the measure.
const DECIMATION: usize = 4;
/// Half a second at that rate: long enough to be unlike other speech, short enough that its delay hardly changes.
const PIECE: usize = 1_250;
/// 300 ms: more than a playout buffer moves.
const REACH: i64 = 750;
/// Two seconds.
const FAR: i64 = 5_000;
/// Correlation below which a piece is not the one looked for.
const ALIKE: f32 = 0.4;

#[cfg(test)]
mod tests {
    use super::*;

    /// A buzz of 120 Hz whose loudness swings like that of syllables, and noise: made the same way in Python for
    /// `pystoi`.
    fn buzz(rate: u32, seconds: u32) -> Vec<f32> {
        let tau = std::f64::consts::TAU;
        let at = |n: u32| {
            let t = f64::from(n) / f64::from(rate);
            let loud = (tau * 2.5 * t).sin().max(0.0) * (0.6 + 0.4 * (tau * 0.7 * t).sin());
            let tone: f64 = (1..=32).map(f64::from).map(|h| (tau * 120.0 * h * t + h * h).sin() / h).sum();
            (0.2 * loud * tone) as f32
        };
        (0..rate * seconds).map(at).collect()
    }

    fn noise(samples: usize) -> Vec<f32> {
        let mut seed = 1_u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f64::from(seed) / f64::from(u32::MAX) * 2.0 - 1.0) as f32
        };
        (0..samples).map(|_| next()).collect()
    }

    fn noisy(clean: &[f32], gain: f32) -> Vec<f32> {
        clean.iter().zip(noise(clean.len())).map(|(s, n)| s + gain * n).collect()
    }

    #[test]
    fn the_measure_is_that_of_pystoi() {
        let expected = [
            (10_000, [(0.02, 0.9733), (0.1, 0.7403), (0.5, 0.3941)], 0.9586),
            (48_000, [(0.02, 0.9940), (0.1, 0.8857), (0.5, 0.5033)], 0.9584),
        ];
        for (rate, noises, with_holes) in expected {
            let clean = buzz(rate, 6);
            for (gain, pystoi) in noises {
                let ours = stoi(&clean, &noisy(&clean, gain), rate);
                assert!((ours - pystoi).abs() < 0.002, "{rate} Hz, noise {gain}: {ours}, pystoi {pystoi}");
            }
            let mut holes = clean.clone();
            let (period, hole) = (rate as usize / 5, rate as usize * 40 / 1000);
            holes.iter_mut().enumerate().filter(|(n, _)| n % period < hole).for_each(|(_, s)| *s = 0.0);
            let ours = stoi(&clean, &holes, rate);
            assert!((ours - with_holes).abs() < 0.002, "{rate} Hz, holes: {ours}, pystoi {with_holes}");
            assert!((stoi(&clean, &clean, rate) - 1.0).abs() < 1e-6);
        }
        assert_eq!(stoi(&[], &[], 48_000), 0.0);
        assert_eq!(stoi(&[0.1; 100], &[0.1; 100], 48_000), 0.0);
    }

    /// Noise in syllables: unlike a buzz, it resembles itself at one lag alone.
    fn unique(rate: u32, seconds: u32) -> Vec<f32> {
        let swing = |n: usize| (TAU * 2.5 * n as f32 / rate as f32).sin().max(0.0);
        let mut past = 0.0;
        let low = noise((rate * seconds) as usize).into_iter().map(move |s| {
            past += 0.1 * (s - past);
            past
        });
        low.enumerate().map(|(n, s)| s * swing(n)).collect()
    }

    #[test]
    fn a_delay_is_found_and_one_that_changes_is_followed() {
        let rate = 16_000;
        let clean = unique(rate, 6);
        for lag in [-3_000_i64, 0, 1_600, 20_000] {
            let heard: Vec<f32> = (0..clean.len() as i64).map(|n| sample(&clean, n - lag)).collect();
            assert!((align(&clean, &heard, rate) - lag).abs() <= 16, "{lag}");
        }
        // The delay jumps from 100 to 180 ms in the middle: half the sound counts for nothing with one alignment.
        let heard: Vec<f32> = (0..clean.len() as i64)
            .map(|n| sample(&clean, n - if n < 48_000 { 1_600 } else { 2_880 }))
            .collect();
        let whole = stoi_of_call(&clean, &heard, rate);
        let once: Vec<f32> = (0..clean.len() as i64).map(|n| sample(&heard, n + 1_600)).collect();
        let fixed = stoi(&clean, &once, rate);
        assert!(whole > 0.93 && fixed < 0.6, "{whole} against {fixed}");
        let other: Vec<f32> = noise(clean.len()).into_iter().rev().collect();
        assert!(stoi_of_call(&clean, &other, rate) < 0.4, "noise is not understood");
    }
}
