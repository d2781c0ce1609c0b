//! A wav file as microphone: in real time, from the start again at its end.

use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use hound::{SampleFormat, WavReader};
use vchat_proto::units::MediaTime;

use super::{Pace, Source};
use crate::audio::resample::Resampler;
use crate::audio::{AudioError, FRAME, RATE};
use crate::clock::MediaClock;

/// Reads a wav file of any rate, depth and number of channels (mixed down to one), a frame at a time.
pub(super) struct File {
    path: PathBuf,
    reader: WavReader<BufReader<fs::File>>,
    resampler: Resampler,
    pace: Pace,
}

impl File {
    pub(super) fn open(path: &Path, clock: MediaClock) -> Result<Self, AudioError> {
        let wrong = |reason: String| AudioError::File { path: path.to_owned(), reason };
        let reader = WavReader::open(path).map_err(|e| wrong(e.to_string()))?;
        let spec = reader.spec();
        if reader.duration() == 0 {
            return Err(wrong("it has no samples".to_owned()));
        }
        if !(1..=MAX_RATE).contains(&spec.sample_rate) {
            return Err(wrong(format!("its rate is {} Hz; at most {MAX_RATE} work", spec.sample_rate)));
        }
        let resampler = Resampler::new(spec.sample_rate, RATE)?;
        Ok(Self { path: path.to_owned(), reader, resampler, pace: Pace::new(clock) })
    }

    /// Reads a piece into the resampler, from the start of the file again at its end.
    fn fill(&mut self) -> Result<(), AudioError> {
        let spec = self.reader.spec();
        let channels = usize::from(spec.channels.max(1));
        let count = PIECE * channels;
        let samples: Result<Vec<f32>, hound::Error> = match spec.sample_format {
            SampleFormat::Float => self.reader.samples::<f32>().take(count).collect(),
            SampleFormat::Int => {
                let scale = 1.0 / (1_u64 << (spec.bits_per_sample.clamp(1, 32) - 1)) as f32;
                self.reader.samples::<i32>().take(count).map(|s| s.map(|s| s as f32 * scale)).collect()
            }
        };
        let again = |reader: &mut WavReader<_>| reader.seek(0).map_err(hound::Error::from);
        let samples = samples.and_then(|samples| {
            if samples.len() < count {
                again(&mut self.reader)?;
            }
            Ok(samples)
        });
        let samples =
            samples.map_err(|e| AudioError::File { path: self.path.clone(), reason: e.to_string() })?;
        self.resampler.push(samples.chunks(channels).map(|c| c.iter().sum::<f32>() / channels as f32));
        Ok(())
    }
}

impl Source for File {
    fn read(&mut self, frame: &mut [f32; FRAME]) -> Result<Option<MediaTime>, AudioError> {
        while self.resampler.ready() < FRAME {
            self.fill()?;
        }
        let Some(start) = self.pace.wait() else { return Ok(None) };
        frame.fill_with(|| self.resampler.pop().unwrap_or(0.0));
        Ok(Some(start))
    }
}

/// Samples of each channel read at once: 10 ms at most rates.
const PIECE: usize = 480;
/// Above, a file is broken rather than good.
const MAX_RATE: u32 = 384_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// A stereo file whose left channel is a sine and whose right one is silent.
    fn sine(path: &Path, rate: u32, bits: u16, format: SampleFormat, samples: u32) {
        let spec =
            hound::WavSpec { channels: 2, sample_rate: rate, bits_per_sample: bits, sample_format: format };
        let mut writer = hound::WavWriter::create(path, spec).expect("a new file");
        for n in 0..samples {
            let s = (std::f32::consts::TAU * 500.0 * n as f32 / rate as f32).sin();
            match format {
                SampleFormat::Float => {
                    writer.write_sample(s).and_then(|()| writer.write_sample(0.0_f32)).expect("writes");
                }
                SampleFormat::Int => {
                    let full = ((1_i64 << (bits - 1)) - 1) as f32;
                    writer
                        .write_sample((s * full) as i32)
                        .and_then(|()| writer.write_sample(0))
                        .expect("writes");
                }
            }
        }
        writer.finalize().expect("a whole file");
    }

    #[test]
    fn rates_depths_and_channels_all_become_mono_48k_and_the_file_loops() {
        let dir = tempfile::tempdir().expect("a directory");
        for (rate, bits, format) in [
            (48_000, 16, SampleFormat::Int),
            (44_100, 24, SampleFormat::Int),
            (16_000, 16, SampleFormat::Int),
            (8_000, 32, SampleFormat::Float),
        ] {
            let path = dir.path().join(format!("{rate}.wav"));
            // 50 ms: shorter than what is read below.
            sine(&path, rate, bits, format, rate / 20);
            let clock = MediaClock::new();
            let mut file = File::open(&path, clock).expect("a good file");
            let (mut frame, mut pcm, mut last) = ([0.0; FRAME], Vec::new(), None);
            while pcm.len() < FRAME * 12 {
                if let Some(start) = file.read(&mut frame).expect("reads on") {
                    assert!(
                        last.is_none_or(|last| start.micros_since(last) == 10_000),
                        "frames are 10 ms apart"
                    );
                    assert!(clock.now().micros_since(start) >= 10_000, "a frame comes when it is over");
                    last = Some(start);
                    pcm.extend(frame);
                }
            }
            // The filter of the resampler rings before the first sample.
            let pcm = &pcm[FRAME * 2..];
            let rms = (pcm.iter().map(|s| s * s).sum::<f32>() / pcm.len() as f32).sqrt();
            assert!((rms - 0.3535).abs() < 0.02, "{rate} Hz: half of a full sine, got {rms}");
            let ups = pcm.windows(2).filter(|w| w[0] < 0.0 && w[1] >= 0.0).count();
            assert!((48..=52).contains(&ups), "{rate} Hz: 500 Hz for 100 ms, got {ups} periods");
        }
    }

    #[test]
    fn a_bad_file_is_named_in_the_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("empty.wav");
        sine(&path, 48_000, 16, SampleFormat::Int, 0);
        let clock = MediaClock::new();
        let error = File::open(&path, clock).err().expect("no samples").to_string();
        assert!(error.contains("empty.wav") && error.contains("no samples"), "{error}");
        let error = File::open(&dir.path().join("gone.wav"), clock).err().expect("no file").to_string();
        assert!(error.contains("gone.wav"), "{error}");
        let text = dir.path().join("text.wav");
        fs::write(&text, "hello").expect("writes");
        assert!(File::open(&text, clock).is_err());
    }
}
