//! Something like speech, for tests of what speech codecs do: they treat tones in ways of their own.

use std::f32::consts::TAU;

use super::{FRAME, RATE};

/// `seconds` of syllables, the same each time: a buzz of changing pitch through changing formants, hisses between, pauses.
pub(super) fn frames(seconds: usize) -> Vec<[f32; FRAME]> {
    let mut voice = Voice { phase: 0.0, seed: 1, formants: [Resonator::default(); 3] };
    let samples: Vec<f32> = (0..seconds * RATE as usize).map(|n| voice.sample(n)).collect();
    samples.as_chunks::<FRAME>().0.to_vec()
}

struct Voice {
    phase: f32,
    seed: u32,
    formants: [Resonator; 3],
}

impl Voice {
    fn sample(&mut self, n: usize) -> f32 {
        let t = n as f32 / RATE as f32;
        let syllable = (t / SYLLABLE) as usize;
        let part = (t / SYLLABLE).fract();
        let noise = self.noise();
        // Each fifth syllable is a pause, the last quarter of the others a hiss.
        let loud = if syllable % 5 == 4 { 0.0 } else { (part * TAU / 2.0).sin().powi(2) };
        let hiss = part > 0.75;
        let pitch = 115.0 + 25.0 * (TAU * 0.7 * t).sin() + 15.0 * part;
        self.phase = (self.phase + pitch / RATE as f32).fract();
        let buzz = if self.phase < 0.4 { (self.phase / 0.4 * TAU / 2.0).sin() - 0.5 } else { 0.0 };
        let source = if hiss { noise * 0.3 } else { buzz + noise * 0.02 };
        let vowel = if hiss { [2500.0, 4500.0, 7000.0] } else { VOWELS[syllable % VOWELS.len()] };
        let sound: f32 = self.formants.iter_mut().zip(vowel).map(|(f, hz)| f.filter(source, hz)).sum();
        (0.4 * loud * sound).clamp(-0.9, 0.9)
    }

    fn noise(&mut self) -> f32 {
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.seed as f32 / u32::MAX as f32 * 2.0 - 1.0
    }
}

/// A two-pole resonator with a bandwidth of 100 Hz.
#[derive(Clone, Copy, Default)]
struct Resonator {
    past: [f32; 2],
}

impl Resonator {
    fn filter(&mut self, input: f32, hz: f32) -> f32 {
        let radius = (-TAU / 2.0 * 100.0 / RATE as f32).exp();
        let turn = (TAU * hz / RATE as f32).cos();
        let out = input * (1.0 - radius) * 4.0 + 2.0 * radius * turn * self.past[0]
            - radius * radius * self.past[1];
        self.past = [out, self.past[0]];
        out
    }
}

/// Five syllables a second.
const SYLLABLE: f32 = 0.2;
/// Formants of a, i, o, e in Hz.
const VOWELS: [[f32; 3]; 4] =
    [[730.0, 1090.0, 2440.0], [270.0, 2290.0, 3010.0], [570.0, 840.0, 2410.0], [530.0, 1840.0, 2480.0]];
