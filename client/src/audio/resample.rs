//! Other sample rates to and from 48 kHz.

use std::collections::VecDeque;

use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{
    Async, FixedAsync, Indexing, Resampler as _, SincInterpolationParameters, SincInterpolationType,
    WindowFunction,
};

use super::AudioError;

/// Converts a stream of mono sound between two rates; with equal rates it only buffers.
///
/// Whatever goes in is bounded by the caller: it takes out what is ready before it puts more in.
pub(super) struct Resampler {
    /// None when the rates are equal.
    inner: Option<Async<f32>>,
    input: Vec<f32>,
    chunk: Vec<f32>,
    output: VecDeque<f32>,
    delay: usize,
}

impl Resampler {
    pub(super) fn new(from: u32, to: u32) -> Result<Self, AudioError> {
        let settings = SincInterpolationParameters {
            sinc_len: SINC_LEN,
            f_cutoff: None,
            oversampling_factor: 128,
            interpolation: SincInterpolationType::Linear,
            window: WindowFunction::BlackmanHarris2,
        };
        let ratio = f64::from(to) / f64::from(from.max(1));
        let inner = if from == to {
            None
        } else {
            let made = Async::new_sinc(ratio, 1.0, &settings, CHUNK, 1, FixedAsync::Input);
            Some(made.map_err(|e| AudioError::Codec(format!("cannot turn {from} Hz into {to} Hz: {e}")))?)
        };
        let delay = inner.as_ref().map_or(0, |r| r.output_delay());
        let chunk = vec![0.0; inner.as_ref().map_or(0, |r| r.output_frames_max())];
        Ok(Self { inner, input: Vec::with_capacity(CHUNK * 2), chunk, output: VecDeque::new(), delay })
    }

    /// Puts sound in.
    pub(super) fn push(&mut self, samples: impl IntoIterator<Item = f32>) {
        let Some(inner) = &mut self.inner else {
            self.output.extend(samples);
            return;
        };
        self.input.extend(samples);
        let mut used = 0;
        while let Some(piece) = self.input.get(used..used + inner.input_frames_next()) {
            used += piece.len();
            let room = self.chunk.len();
            let made = SequentialSlice::new(piece, 1, piece.len())
                .ok()
                .zip(SequentialSlice::new_mut(&mut self.chunk, 1, room).ok());
            // Sizes are those that the resampler asks for, so neither step fails.
            let Some((from, mut to)) = made else { break };
            let Ok((_, written)) = inner.process_into_buffer(&from, &mut to, None::<&Indexing>) else {
                break;
            };
            self.output.extend(self.chunk.iter().take(written));
        }
        self.input.drain(..used);
    }

    /// Takes one sample out.
    pub(super) fn pop(&mut self) -> Option<f32> {
        self.output.pop_front()
    }

    /// Samples ready to be taken out.
    pub(super) fn ready(&self) -> usize {
        self.output.len()
    }

    /// Samples (at the rate that comes out) by which it delays the sound, not counting what waits for a whole chunk.
    pub(super) const fn delay(&self) -> usize {
        self.delay
    }
}

/// Samples converted at once; what is short of it waits: 1.4 ms at 44.1 kHz.
const CHUNK: usize = 64;
/// Taps: 64 delay 44.1 kHz sound by 0.7 ms; more would be for music.
const SINC_LEN: usize = 64;

#[cfg(test)]
mod tests {
    use std::f32::consts::TAU;

    use super::*;

    #[test]
    fn a_tone_keeps_pitch_and_level_and_lags_as_told() {
        for rate in [8_000, 16_000, 44_100, 96_000, 48_000] {
            let mut resampler = Resampler::new(rate, 48_000).expect("a common rate");
            resampler.push((0..rate).map(|n| 0.5 * (TAU * 440.0 * n as f32 / rate as f32).sin()));
            let got: Vec<f32> = std::iter::from_fn(|| resampler.pop()).collect();
            assert!(got.len().abs_diff(48_000) < 1500, "{rate}: {}", got.len());
            let delay = resampler.delay();
            let expect = |n: usize| 0.5 * (TAU * 440.0 * n as f32 / 48_000.0).sin();
            let worst = (4800..40_000).map(|n| (got[n + delay] - expect(n)).abs()).fold(0.0, f32::max);
            assert!(worst < 0.06, "{rate}: off by {worst}");
        }
    }
}
