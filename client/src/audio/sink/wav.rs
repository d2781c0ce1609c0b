//! Wav files as loudspeaker: what each remote participant would have sounded like, and the mix.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hound::{SampleFormat, WavSpec, WavWriter};
use vchat_proto::id::ParticipantId;
use vchat_proto::units::MediaTime;

use super::{Pace, Sink, VoiceBlock};
use crate::audio::{AudioError, BLOCK, RATE};
use crate::clock::MediaClock;

/// Writes `NAME.wav` for each participant, from the moment it joined, and `mix.wav`: 48 kHz, 16 bit, mono, real time.
///
/// The headers are brought up to date four times a second, so that the files are good whenever the process ends. Time
/// in which the process stood still is silence, so that the files stay in step with the clock.
pub(super) struct Wav {
    dir: PathBuf,
    pace: Pace,
    mix: Track,
    voices: HashMap<ParticipantId, Track>,
    /// Files in use, in lower case: some file systems do not tell case apart.
    taken: HashSet<String>,
    unflushed: usize,
}

struct Track {
    path: PathBuf,
    writer: WavWriter<BufWriter<fs::File>>,
}

impl Wav {
    pub(super) fn create(dir: &Path, clock: MediaClock) -> Result<Self, AudioError> {
        fs::create_dir_all(dir)
            .map_err(|e| AudioError::File { path: dir.to_owned(), reason: e.to_string() })?;
        Ok(Self {
            dir: dir.to_owned(),
            pace: Pace::new(clock.now()),
            mix: Track::create(dir.join("mix.wav"))?,
            voices: HashMap::new(),
            taken: HashSet::from(["mix".to_owned()]),
            unflushed: 0,
        })
    }

    fn tracks(&mut self) -> impl Iterator<Item = &mut Track> {
        std::iter::once(&mut self.mix).chain(self.voices.values_mut())
    }

    /// A file name for a participant that no other has: a number is added when the name is taken.
    fn name_for(&mut self, name: &str) -> String {
        let safe = file_name(name);
        let mut candidate = safe.clone();
        let mut n = 2;
        while !self.taken.insert(candidate.to_lowercase()) {
            candidate = format!("{safe}-{n}");
            n += 1;
        }
        candidate
    }
}

impl Sink for Wav {
    fn wants(&mut self, now: MediaTime) -> bool {
        let lost = self.pace.skip(now);
        for track in self.tracks() {
            // An error shows again at the next block.
            let _ = track.write(std::iter::repeat_n(0.0, lost));
        }
        self.pace.wants(now)
    }

    fn heard(&self, now: MediaTime) -> MediaTime {
        self.pace.heard(now)
    }

    fn write(&mut self, mix: &[f32; BLOCK], voices: &[VoiceBlock]) -> Result<(), AudioError> {
        self.mix.write(mix.iter().copied())?;
        for voice in voices {
            if let Some(track) = self.voices.get_mut(&voice.participant) {
                track.write(voice.pcm.iter().copied())?;
            }
        }
        self.unflushed += BLOCK;
        if self.unflushed >= FLUSH {
            self.unflushed = 0;
            self.tracks().try_for_each(Track::flush)?;
        }
        self.pace.write(mix, voices)
    }

    fn wait(&self, now: MediaTime) -> Duration {
        self.pace.wait(now)
    }

    fn joined(&mut self, participant: ParticipantId, name: &str) {
        if self.voices.contains_key(&participant) {
            return;
        }
        let name = self.name_for(name);
        match Track::create(self.dir.join(format!("{name}.wav"))) {
            Ok(track) => drop(self.voices.insert(participant, track)),
            Err(error) => tracing::warn!(%error, "a participant is not recorded"),
        }
    }

    fn left(&mut self, participant: ParticipantId) {
        self.voices.remove(&participant);
    }
}

impl Track {
    fn create(path: PathBuf) -> Result<Self, AudioError> {
        let spec =
            WavSpec { channels: 1, sample_rate: RATE, bits_per_sample: 16, sample_format: SampleFormat::Int };
        let made = WavWriter::create(&path, spec).and_then(|mut writer| {
            writer.flush()?;
            Ok(writer)
        });
        match made {
            Ok(writer) => Ok(Self { path, writer }),
            Err(e) => Err(AudioError::File { path, reason: e.to_string() }),
        }
    }

    fn write(&mut self, samples: impl Iterator<Item = f32>) -> Result<(), AudioError> {
        for sample in samples {
            let value = (sample.clamp(-1.0, 1.0) * f32::from(i16::MAX)).round() as i16;
            self.writer.write_sample(value).map_err(|e| self.failed(&e))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), AudioError> {
        self.writer.flush().map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &hound::Error) -> AudioError {
        AudioError::File { path: self.path.clone(), reason: error.to_string() }
    }
}

/// A name that is one path component on every system: no separators, no leading dot, never empty.
fn file_name(name: &str) -> String {
    let safe: String = name
        .chars()
        .map(|c| if c.is_alphanumeric() || matches!(c, '-' | '_' | ' ') { c } else { '_' })
        .collect();
    match safe.trim() {
        "" => "participant".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

/// Samples between two updates of the headers: 250 ms, all that a killed process loses.
const FLUSH: usize = 12_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn length(path: &Path) -> u32 {
        hound::WavReader::open(path).expect("a good file").duration()
    }

    #[test]
    fn files_are_good_while_they_are_being_written_and_names_do_not_collide() {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = MediaClock::new();
        let mut wav = Wav::create(dir.path(), clock).expect("creates");
        for (n, name) in ["ann", "../Ann", "ANN", "mix", "", "日本"].into_iter().enumerate() {
            wav.joined(ParticipantId(n as u32), name);
        }
        let voice = |n: u32| VoiceBlock { participant: ParticipantId(n), pcm: [0.25; BLOCK] };
        for _ in 0..200 {
            wav.write(&[0.5; BLOCK], &[voice(0), voice(1), voice(9)]).expect("writes");
        }
        // The writer is alive, as it is when the process is killed.
        for (file, samples) in [("mix", 24_000), ("ann", 24_000), (".._Ann", 0)] {
            let path = dir.path().join(format!("{file}.wav"));
            if samples > 0 {
                assert_eq!(length(&path), samples, "{file}");
            }
        }
        let mut files: Vec<String> = fs::read_dir(dir.path())
            .expect("lists")
            .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        files.sort();
        assert_eq!(
            files,
            ["ANN-2.wav", "___Ann.wav", "ann.wav", "mix-2.wav", "mix.wav", "participant.wav", "日本.wav"]
        );
        let mut reader = hound::WavReader::open(dir.path().join("ann.wav")).expect("a good file");
        assert!(reader.samples::<i16>().all(|s| s.expect("a sample") == 8192));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let error =
            Wav::create(&file.path().join("sub"), MediaClock::new()).err().expect("a file is no directory");
        assert!(error.to_string().contains("sub"), "{error}");
    }
}
