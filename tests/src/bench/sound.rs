//! What was spoken and what was heard of it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use vchat_proto::stats::Distribution;

use super::options::Voice;
use super::stage::{NAMES, Stage};
use super::stoi::stoi_of_call;
use super::{chirps, speech};
use crate::harness::{Process, Recording, SAMPLE_RATE};

/// Chirps or speech played into both microphones, and recordings at both mouths and ears.
pub(super) struct Sound {
    players: [Process; 2],
    /// Of each direction, mouth and ear: from the first client to the second, and back.
    recordings: [[Recording; 2]; 2],
}

/// Sound of one direction: what was at the mouth, and at the ear at the same time.
pub(super) struct Heard {
    spoken: Track,
    heard: Track,
}

/// A recording.
struct Track {
    begin: Instant,
    samples: Vec<f32>,
}

impl Sound {
    /// Begins to play and to record.
    pub(super) fn start(stage: &Stage, voice: Voice) -> anyhow::Result<Self> {
        let sound = stage.sound.as_ref().context("a call with sound devices")?;
        let (file, seconds) = (stage.home.path().join(FILE), stage.limit.as_secs_f64());
        match voice {
            Voice::Chirps => chirps::write_train(&file, seconds)?,
            Voice::Speech => speech::write(&file, seconds)?,
        }
        let record = |mouth: &str, ear: &str| -> anyhow::Result<[Recording; 2]> {
            Ok([
                sound.record(&format!("{mouth}_mic_in.monitor"))?,
                sound.record(&format!("{ear}_speaker.monitor"))?,
            ])
        };
        let recordings = [record(NAMES[0], NAMES[1])?, record(NAMES[1], NAMES[0])?];
        let play = |name: &str| sound.play(&file, &format!("{name}_mic_in"));
        Ok(Self { players: [play(NAMES[0])?, play(NAMES[1])?], recordings })
    }

    /// Ends it and returns both directions.
    pub(super) fn stop(self) -> [Heard; 2] {
        drop(self.players);
        self.recordings.map(|pair| {
            let [spoken, heard] = pair.map(|recording| {
                let begin = recording.begin();
                Track { begin, samples: recording.stop() }
            });
            Heard { spoken, heard }
        })
    }
}

impl Heard {
    /// The delays of the chirps heard from `begin` on for `time`, in microseconds.
    pub(super) fn delays(&self, begin: Instant, time: Duration) -> anyhow::Result<Distribution> {
        let find = |track: &Track| {
            let offset = since(track.begin, begin);
            chirps::find(&track.samples).into_iter().map(|at| at + offset).collect::<Vec<f64>>()
        };
        let (spoken, mut heard) = thread::scope(|scope| {
            let spoken = scope.spawn(|| find(&self.spoken));
            (spoken.join().ok().context("looking for chirps failed"), find(&self.heard))
        });
        let spoken = spoken?;
        ensure!(!spoken.is_empty(), "the sound server did not play the chirps");
        heard.retain(|at| (0.0..time.as_secs_f64()).contains(at));
        let mut delays = Distribution::default();
        chirps::delays(&spoken, &heard).into_iter().for_each(|delay| delays.record((delay * 1e6) as i64));
        Ok(delays)
    }

    /// How well the speech is understood that is heard from `begin` on for `time`, from 0 to 1.
    pub(super) fn understood(&self, begin: Instant, time: Duration) -> f64 {
        stoi_of_call(self.spoken.part(begin, time), self.heard.part(begin, time), SAMPLE_RATE)
    }

    /// The longest time of silence at the ear from `begin` on for `time`, while there was sound at the mouth.
    pub(super) fn longest_gap(&self, begin: Instant, time: Duration) -> Duration {
        let quiet = SILENT * self.spoken.usual(begin, time);
        let levels = self.heard.levels(begin, time);
        let longest = levels.split(|level| *level >= quiet).map(<[f32]>::len).max().unwrap_or(0);
        BLOCK_TIME * longest as u32
    }

    /// How long after `moment` it was until sound was there again for [`STEADY`] blocks, at most until `limit`: nothing when it
    /// never stopped.
    pub(super) fn back_after(&self, moment: Instant, limit: Instant) -> Duration {
        let most = limit - moment;
        let loud = PRESENT * self.spoken.usual(moment, most);
        let levels = self.heard.levels(moment, most);
        let back = levels.windows(STEADY).position(|levels| levels.iter().all(|level| *level >= loud));
        back.map_or(most, |blocks| BLOCK_TIME * blocks as u32)
    }
}

impl Track {
    /// The samples from `begin` on for `time`, as far as they are there.
    fn part(&self, begin: Instant, time: Duration) -> &[f32] {
        let at =
            |seconds: f64| ((seconds.max(0.0) * f64::from(SAMPLE_RATE)) as usize).min(self.samples.len());
        let first = since(begin, self.begin);
        &self.samples[at(first)..at(first + time.as_secs_f64())]
    }

    /// The loudness of each block of [`BLOCK`] samples, as root mean square.
    fn levels(&self, begin: Instant, time: Duration) -> Vec<f32> {
        let level = |block: &[f32]| (block.iter().map(|s| s * s).sum::<f32>() / BLOCK as f32).sqrt();
        self.part(begin, time).chunks_exact(BLOCK).map(level).collect()
    }

    /// The usual loudness: the median.
    fn usual(&self, begin: Instant, time: Duration) -> f32 {
        let mut levels = self.levels(begin, time);
        levels.sort_by(f32::total_cmp);
        levels.get(levels.len() / 2).copied().unwrap_or(0.0)
    }
}

/// Seconds from `origin` to `time`, negative when it was before.
fn since(time: Instant, origin: Instant) -> f64 {
    let after = time.saturating_duration_since(origin).as_secs_f64();
    after - origin.saturating_duration_since(time).as_secs_f64()
}

const FILE: &str = "spoken.wav";
/// 5 ms, two periods of the tone between the chirps: shorter ones would swing with it.
const BLOCK: usize = SAMPLE_RATE as usize / 200;
const BLOCK_TIME: Duration = Duration::from_millis(5);
/// Below a tenth of the usual loudness (20 dB) there is nothing to hear; concealment fades to less.
const SILENT: f32 = 0.1;
/// Sound that fades in again is there from a third of its loudness (10 dB) on.
const PRESENT: f32 = 0.3;
/// 20 ms: no click.
const STEADY: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// A tone at both ends, with silence at the ear from `from` to `to` milliseconds.
    fn with_gap(from: usize, to: usize) -> (Heard, Instant) {
        let begin = Instant::now();
        let tone = |n: usize| 0.025 * (std::f32::consts::TAU * n as f32 / 120.0).sin();
        let samples: Vec<f32> = (0..SAMPLE_RATE as usize * 2).map(tone).collect();
        let mut heard: Vec<f32> = samples.iter().map(|s| s * 0.7).collect();
        heard[from * 48..to * 48].fill(0.000_1);
        (Heard { spoken: Track { begin, samples }, heard: Track { begin, samples: heard } }, begin)
    }

    #[test]
    fn silence_is_measured_in_blocks_where_it_is() {
        let ms = Duration::from_millis;
        let (sound, begin) = with_gap(500, 830);
        assert_eq!(sound.longest_gap(begin, ms(2000)), ms(330));
        assert_eq!(sound.longest_gap(begin, ms(600)), ms(100));
        assert_eq!(sound.longest_gap(begin + ms(900), ms(1000)), ms(0));
        assert_eq!(sound.back_after(begin + ms(800), begin + ms(1900)), ms(30));
        assert_eq!(sound.back_after(begin + ms(900), begin + ms(1900)), ms(0));
        assert_eq!(sound.back_after(begin + ms(500), begin + ms(700)), ms(200), "never");
    }
}
