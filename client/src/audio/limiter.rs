//! Keeps the sum of several speakers within full scale.

use super::BLOCK;

/// A peak limiter: turns the mix down within 0.7 ms when it would exceed full scale, and up again over a second.
///
/// It looks no further ahead than the block at hand, so it adds no delay; what exceeds the ceiling while the gain
/// comes down is bent by a smooth saturation instead of being clipped.
#[derive(Debug)]
pub(super) struct Limiter {
    gain: f32,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { gain: 1.0 }
    }
}

impl Limiter {
    /// Limits a block in place; afterwards no sample exceeds 1.
    pub(super) fn apply(&mut self, block: &mut [f32; BLOCK]) {
        let peak = block.iter().fold(0.0_f32, |peak, s| peak.max(s.abs()));
        let ceiling = (CEILING / peak.max(CEILING)).min(1.0);
        let (target, steps) = if ceiling < self.gain {
            (ceiling, ATTACK)
        } else {
            (self.gain + (ceiling - self.gain) * RELEASE, BLOCK)
        };
        let step = (target - self.gain) / steps as f32;
        for (n, sample) in block.iter_mut().enumerate() {
            if n < steps {
                self.gain += step;
            }
            *sample = saturate(*sample * self.gain);
        }
        self.gain = target;
    }
}

/// Linear up to [`CEILING`], then bends smoothly towards 1.
fn saturate(x: f32) -> f32 {
    let over = x.abs() - CEILING;
    if over <= 0.0 { x } else { x.signum() * (CEILING + (1.0 - CEILING) * (over / (1.0 - CEILING)).tanh()) }
}

/// Loudest sample that passes unbent: 1 dB below full scale.
const CEILING: f32 = 0.89;
/// Samples over which the gain comes down: 0.7 ms, short against a syllable, long against a click.
const ATTACK: usize = 32;
/// Share of the way back up in each block of 2.5 ms: four fifths of it in a second, too slow to pump.
const RELEASE: f32 = 0.004;

#[cfg(test)]
mod tests {
    use std::f32::consts::TAU;

    use super::*;

    fn run(signal: impl Fn(usize) -> f32, blocks: usize) -> Vec<f32> {
        let mut limiter = Limiter::default();
        let mut out = Vec::new();
        for b in 0..blocks {
            let mut block: [f32; BLOCK] = std::array::from_fn(|i| signal(b * BLOCK + i));
            limiter.apply(&mut block);
            out.extend(block);
        }
        out
    }

    #[test]
    fn normal_speech_passes_unchanged() {
        let sine = |n: usize| 0.8 * (TAU * 440.0 * n as f32 / 48_000.0).sin();
        assert!(run(sine, 50).iter().enumerate().all(|(n, &s)| s == sine(n)));
    }

    #[test]
    fn six_loud_speakers_stay_within_full_scale_without_wrapping_or_flat_tops() {
        let six = |n: usize| {
            (1..=6).map(|v| 0.9 * (TAU * (173.0 * v as f32) * n as f32 / 48_000.0).sin()).sum::<f32>()
        };
        let out = run(six, 400);
        assert!(out.iter().all(|s| s.abs() <= 1.0));
        // Once settled, the wave keeps its shape: hardly anything lies in the bent part.
        let settled = &out[BLOCK * 100..];
        let bent = settled.iter().filter(|s| s.abs() > CEILING + 0.02).count();
        assert!(bent * 100 < settled.len(), "{bent} of {}", settled.len());
        assert!(settled.iter().any(|s| s.abs() > 0.5), "and stays loud");
    }

    #[test]
    fn it_recovers_within_seconds() {
        let burst = |n: usize| (if n < 4800 { 3.0 } else { 0.5 }) * (TAU * 440.0 * n as f32 / 48_000.0).sin();
        let out = run(burst, 1600);
        let last = out[out.len() - 480..].iter().fold(0.0_f32, |peak, s| peak.max(s.abs()));
        assert!(last > 0.49, "{last}");
    }
}
