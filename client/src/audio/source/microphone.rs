//! A microphone of this machine.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use cpal::traits::{DeviceTrait, StreamTrait};
use cpal::{FromSample, InputCallbackInfo, SampleFormat, SizedSample, StreamConfig};
use rtrb::{Consumer, Producer, RingBuffer};
use vchat_proto::units::MediaTime;

use super::Source;
use crate::audio::device::{self, Found, Watch};
use crate::audio::resample::Resampler;
use crate::audio::{AudioError, FRAME, Kind, RATE};
use crate::clock::MediaClock;

/// An open microphone. The device's callback fills a ring of [`RING`] samples; when that is full (nobody reads for
/// 200 ms) the newest sound is lost.
pub(super) struct Microphone {
    name: String,
    samples: Consumer<f32>,
    marks: Consumer<Mark>,
    errors: Receiver<String>,
    resampler: Resampler,
    timeline: Timeline,
    /// Device samples taken from the ring.
    taken: u64,
    rate: u32,
    clock: MediaClock,
    /// When the device last gave anything.
    alive: MediaTime,
    _stream: cpal::Stream,
    _watch: Watch,
}

/// Left by each callback: when the next sample of the ring was captured.
#[derive(Clone, Copy)]
struct Mark {
    sample: u64,
    captured: MediaTime,
}

impl Microphone {
    pub(super) fn open(name: Option<&str>, clock: MediaClock) -> Result<Self, AudioError> {
        let found = device::find(Kind::Microphone, name, PERIOD)?;
        let (stream, samples, marks_out, errors, errors_out) = found.start(Kind::Microphone, |config| {
            let (ring, samples) = RingBuffer::new(RING);
            let (marks, marks_out) = RingBuffer::new(MARKS);
            let (errors, errors_out) = sync_channel(1);
            let told = errors.clone();
            let on_error = move |error: cpal::Error| {
                if fatal(&error) {
                    // One error ends the source; more of them say nothing new.
                    let _ = told.try_send(device::one_line(&error));
                }
            };
            let tape = Tape { ring, marks, clock, channels: usize::from(config.channels.max(1)), sample: 0 };
            let stream = build(&found, config, tape, on_error)?;
            stream.play()?;
            Ok((stream, samples, marks_out, errors, errors_out))
        })?;
        let watch = Watch::start(&found.device, Kind::Microphone, errors);
        let rate = found.config.sample_rate;
        Ok(Self {
            resampler: Resampler::new(rate, RATE)?,
            name: found.name,
            samples,
            marks: marks_out,
            errors: errors_out,
            timeline: Timeline::new(rate),
            taken: 0,
            rate,
            clock,
            alive: clock.now(),
            _stream: stream,
            _watch: watch,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Takes what the device has given; returns whether that was anything.
    fn drain(&mut self) -> bool {
        while let Ok(mark) = self.marks.pop() {
            self.timeline.observe(mark);
        }
        let ready = self.samples.slots();
        if let Ok(chunk) = self.samples.read_chunk(ready) {
            let (a, b) = chunk.as_slices();
            self.resampler.push(a.iter().chain(b).copied());
            chunk.commit_all();
        }
        self.taken += ready as u64;
        ready > 0
    }

    fn gone(&self, reason: String) -> AudioError {
        AudioError::Gone { kind: Kind::Microphone, name: self.name.clone(), reason }
    }
}

impl Source for Microphone {
    fn read(&mut self, frame: &mut [f32; FRAME]) -> Result<Option<MediaTime>, AudioError> {
        for _ in 0..POLLS {
            if self.drain() {
                self.alive = self.clock.now();
            }
            if self.taken < u64::from(self.rate) / SETTLE_PART {
                while self.resampler.pop().is_some() {}
            }
            if let Ok(reason) = self.errors.try_recv() {
                return Err(self.gone(reason));
            }
            let waiting = self.resampler.ready();
            if waiting >= FRAME {
                frame.fill_with(|| self.resampler.pop().unwrap_or(0.0));
                // The first of the samples waiting, before the delay of the resampler, in device samples.
                let behind =
                    (waiting + self.resampler.delay()) as u64 * u64::from(self.rate) / u64::from(RATE);
                return Ok(Some(self.timeline.time_of(self.taken as i64 - behind as i64)));
            }
            std::thread::sleep(POLL);
        }
        if self.clock.now().micros_since(self.alive) > SILENT_US {
            return Err(self.gone("it stopped giving sound".to_owned()));
        }
        Ok(None)
    }
}

/// The callback's end of the rings.
struct Tape {
    ring: Producer<f32>,
    marks: Producer<Mark>,
    clock: MediaClock,
    channels: usize,
    sample: u64,
}

impl Tape {
    fn write<T: SizedSample>(&mut self, data: &[T], info: InputCallbackInfo)
    where
        f32: FromSample<T>,
    {
        let stamps = info.timestamp();
        let age = stamps.callback.saturating_duration_since(stamps.capture);
        let captured = self.clock.now() - age;
        // A full ring of marks loses this one: the timeline goes on from the last.
        let _ = self.marks.push(Mark { sample: self.sample, captured });
        for channels in data.chunks_exact(self.channels) {
            let sum: f32 = channels.iter().map(|&s| f32::from_sample_(s)).sum();
            if self.ring.push(sum / self.channels as f32).is_ok() {
                self.sample += 1;
            }
        }
    }
}

fn build(
    found: &Found,
    config: StreamConfig,
    mut tape: Tape,
    on_error: impl FnMut(cpal::Error) + Send + 'static,
) -> Result<cpal::Stream, cpal::Error> {
    let (device, wait) = (&found.device, Some(OPEN_TIMEOUT));
    match found.format {
        SampleFormat::I16 => device.build_input_stream::<i16, _, _>(
            config,
            move |data, info| tape.write(data, *info),
            on_error,
            wait,
        ),
        SampleFormat::I32 => device.build_input_stream::<i32, _, _>(
            config,
            move |data, info| tape.write(data, *info),
            on_error,
            wait,
        ),
        _ => device.build_input_stream::<f32, _, _>(
            config,
            move |data, info| tape.write(data, *info),
            on_error,
            wait,
        ),
    }
}

/// Whether an error ends the stream; an overrun or a refused priority does not.
fn fatal(error: &cpal::Error) -> bool {
    use cpal::ErrorKind::{DeviceChanged, RealtimeDenied, Xrun};
    !matches!(error.kind(), DeviceChanged | RealtimeDenied | Xrun)
}

/// When each sample was captured: a straight line through the callbacks' stamps.
///
/// Callbacks run late, never early, so the line follows early stamps quickly and late ones slowly. Its slope is the
/// nominal rate; a clock that is off by 100 ppm bends it by 1 µs in 10 ms, which the slow correction takes up. While
/// the stream settles it takes the earliest stamp as it is.
struct Timeline {
    rate: u32,
    /// Samples before this one are not used.
    settled: u64,
    last: Option<(u64, MediaTime)>,
}

impl Timeline {
    fn new(rate: u32) -> Self {
        Self { rate, settled: u64::from(rate) / SETTLE_PART, last: None }
    }

    fn observe(&mut self, mark: Mark) {
        let Some((last, _)) = self.last else {
            self.last = Some((mark.sample, mark.captured));
            return;
        };
        let expected = self.time_of(mark.sample as i64);
        let error = mark.captured.micros_since(expected);
        let follow = match error {
            _ if error.abs() > JUMP_US || mark.sample < last => error,
            ..0 if mark.sample < self.settled => error,
            ..0 => error / 8,
            _ => error / 64,
        };
        self.last = Some((mark.sample, expected.offset(follow)));
    }

    fn time_of(&self, sample: i64) -> MediaTime {
        let Some((last, at)) = self.last else { return MediaTime::default() };
        at.offset((sample - last as i64) * 1_000_000 / i64::from(self.rate.max(1)))
    }
}

/// Samples that the device gives at once: 5 ms (docs/audio.md has the measurements).
const PERIOD: u32 = 240;
/// 200 ms at 48 kHz: a thread that sleeps longer on a busy machine has lost the conversation anyway.
const RING: usize = 9_600;
/// Marks of as many callbacks as fit into the ring.
const MARKS: usize = 64;
/// How often the ring is looked at: the time lost by looking is half of it.
const POLL: Duration = Duration::from_millis(1);
const POLLS: u32 = 20;
/// The first tenth of a second is dropped: the sound system does not know its own latency yet, and hands over what it
/// had in store, both of which would look like jitter to the listeners for seconds.
const SETTLE_PART: u64 = 10;
/// A device silent for 5 s is gone, whatever the sound system says. Not less: the monitor of a null sink that was idle
/// gives nothing for up to 2 s.
const SILENT_US: i64 = 5_000_000;
/// A sound server that does not answer within 2 s does not work.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Beyond 40 ms a stamp is a new start (samples were lost, the server moved us), not noise.
const JUMP_US: i64 = 40_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::samples_us;

    #[test]
    fn late_callbacks_hardly_move_the_timeline_and_drift_is_followed() {
        let mut timeline = Timeline::new(RATE);
        let start = MediaTime::from_micros(5_000_000);
        // The device is 200 ppm slow; every seventh callback is 6 ms late.
        let true_time = |sample: u64| start.offset(samples_us(sample as i64) + sample as i64 / 240);
        for n in 0..20_000_u64 {
            let late = if n % 7 == 0 { 6_000 } else { 0 };
            timeline.observe(Mark { sample: n * 240, captured: true_time(n * 240).offset(late) });
            if n > 1_000 {
                let off = timeline.time_of(n as i64 * 240).micros_since(true_time(n * 240));
                assert!(off.abs() < 500, "off by {off} us at callback {n}");
            }
        }
    }

    #[test]
    fn a_gap_moves_the_timeline_at_once() {
        let mut timeline = Timeline::new(RATE);
        timeline.observe(Mark { sample: 9600, captured: MediaTime::from_micros(1_000_000) });
        timeline.observe(Mark { sample: 9840, captured: MediaTime::from_micros(1_305_000) });
        assert_eq!(timeline.time_of(10_080).as_micros(), 1_310_000);
    }
}
