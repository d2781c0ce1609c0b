//! A loudspeaker of this machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use cpal::traits::{DeviceTrait, StreamTrait};
use cpal::{FromSample, OutputCallbackInfo, SampleFormat, SizedSample, StreamConfig};
use rtrb::{Consumer, Producer, RingBuffer};
use vchat_proto::units::MediaTime;

use super::{MIN_WAIT_US, Sink, VoiceBlock};
use crate::audio::device::{self, Found};
use crate::audio::resample::Resampler;
use crate::audio::{AudioError, BLOCK, Kind, RATE, samples_us};
use crate::clock::MediaClock;

/// An open speaker. The device's callback empties a ring that is kept just full enough: what the device takes at once,
/// and a margin that grows when the callback found the ring empty and shrinks slowly while it does not.
pub(super) struct Speaker {
    name: String,
    ring: Producer<f32>,
    marks: Consumer<Mark>,
    errors: Receiver<String>,
    resampler: Resampler,
    rate: u32,
    /// Device samples put into the ring.
    written: u64,
    last: Option<Mark>,
    /// Heard time of sample 0 of the ring in µs on the media clock, smoothed; jumps when the device does.
    zero: Option<i64>,
    /// Samples the device takes at once.
    period: usize,
    /// Samples kept beyond [`Self::period`].
    margin: usize,
    underruns: Arc<AtomicU64>,
    seen_underruns: u64,
    /// When the margin last changed.
    settled: MediaTime,
    alive: MediaTime,
    _stream: cpal::Stream,
}

/// Left by each callback.
#[derive(Clone, Copy)]
struct Mark {
    /// When it ran.
    at: MediaTime,
    /// The next sample of the ring.
    sample: u64,
    /// When that sample is heard.
    heard: MediaTime,
    /// Samples it took.
    frames: usize,
}

impl Speaker {
    pub(super) fn open(name: Option<&str>, clock: MediaClock) -> Result<Self, AudioError> {
        let found = device::find(Kind::Speaker, name, PERIOD)?;
        let underruns = Arc::new(AtomicU64::new(0));
        let (stream, ring, marks_out, errors_out) = found.start(Kind::Speaker, |config| {
            let (ring, samples) = RingBuffer::new(RING);
            let (marks, marks_out) = RingBuffer::new(MARKS);
            let (errors, errors_out) = sync_channel(1);
            let on_error = move |error: cpal::Error| {
                if fatal(&error) {
                    // One error ends the sink; more of them say nothing new.
                    let _ = errors.try_send(device::one_line(&error));
                }
            };
            let tap = Tap {
                ring: samples,
                marks,
                clock,
                channels: usize::from(config.channels.max(1)),
                sample: 0,
                last: 0.0,
                gain: 0.0,
                started: false,
                underruns: underruns.clone(),
            };
            let stream = build(&found, config, tap, on_error)?;
            stream.play()?;
            Ok((stream, ring, marks_out, errors_out))
        })?;
        let rate = found.config.sample_rate;
        Ok(Self {
            resampler: Resampler::new(RATE, rate)?,
            name: found.name,
            ring,
            marks: marks_out,
            errors: errors_out,
            rate,
            written: 0,
            last: None,
            zero: None,
            period: PERIOD as usize,
            margin: MARGIN,
            underruns,
            seen_underruns: 0,
            settled: clock.now(),
            alive: clock.now(),
            _stream: stream,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn observe(&mut self, now: MediaTime) {
        while let Ok(mark) = self.marks.pop() {
            let zero = mark.heard.as_micros() as i64 - self.device_us(mark.sample as i64);
            self.zero = Some(match self.zero {
                Some(old) if (zero - old).abs() < JUMP_US => old + (zero - old) / 32,
                _ => zero,
            });
            // A device that asks for two periods at once after a stall does so once; a larger period stays.
            self.period = mark.frames.max(self.period - self.period / 64).min(RING / 2);
            self.last = Some(mark);
            self.alive = now;
        }
        let underruns = self.underruns.load(Ordering::Relaxed);
        if underruns > self.seen_underruns {
            self.seen_underruns = underruns;
            self.margin = (self.margin + BLOCK).min(MAX_MARGIN);
            self.settled = now;
        } else if now.micros_since(self.settled) > RELAX_US {
            self.margin = self.margin.saturating_sub(BLOCK).max(MARGIN);
            self.settled = now;
        }
    }

    fn level(&self) -> usize {
        RING - self.ring.slots()
    }

    fn device_us(&self, samples: i64) -> i64 {
        samples * 1_000_000 / i64::from(self.rate.max(1))
    }
}

impl Sink for Speaker {
    fn check(&mut self, now: MediaTime) -> Result<(), AudioError> {
        self.observe(now);
        let gone = |reason| Err(AudioError::Gone { kind: Kind::Speaker, name: self.name.clone(), reason });
        match self.errors.try_recv() {
            Ok(reason) => gone(reason),
            Err(_) if now.micros_since(self.alive) > SILENT_US => gone("it stopped taking sound".to_owned()),
            Err(_) => Ok(()),
        }
    }

    fn wants(&mut self, _now: MediaTime) -> bool {
        self.level() < self.period + self.margin
    }

    fn heard(&self, now: MediaTime) -> MediaTime {
        let delay = self.device_us((self.resampler.delay() + self.resampler.ready()) as i64);
        match self.zero {
            Some(zero) => {
                let us = zero + self.device_us(self.written as i64) + delay;
                MediaTime::from_micros(u64::try_from(us).unwrap_or(0))
            }
            None => now.offset(self.device_us(self.level() as i64) + delay),
        }
    }

    fn write(&mut self, mix: &[f32; BLOCK], _voices: &[VoiceBlock]) -> Result<(), AudioError> {
        self.resampler.push(mix.iter().copied());
        while let Some(sample) = self.resampler.pop() {
            // `wants` leaves more room than a block needs.
            if self.ring.push(sample).is_ok() {
                self.written += 1;
            }
        }
        Ok(())
    }

    fn wait(&self, now: MediaTime) -> Duration {
        let next = self.last.map_or(now, |mark| mark.at.offset(self.device_us(mark.frames as i64)));
        let left = next.micros_since(now).clamp(MIN_WAIT_US, samples_us(BLOCK as i64));
        Duration::from_micros(left.unsigned_abs())
    }

    fn underruns(&self) -> u64 {
        self.seen_underruns
    }
}

/// The callback's end of the rings.
struct Tap {
    ring: Consumer<f32>,
    marks: Producer<Mark>,
    clock: MediaClock,
    channels: usize,
    sample: u64,
    last: f32,
    gain: f32,
    started: bool,
    underruns: Arc<AtomicU64>,
}

impl Tap {
    fn read<T: SizedSample + FromSample<f32>>(&mut self, out: &mut [T], info: OutputCallbackInfo) {
        let at = self.clock.now();
        let stamps = info.timestamp();
        let heard = at + stamps.playback.saturating_duration_since(stamps.callback);
        let frames = out.len() / self.channels;
        // A full ring of marks loses this one: the last stays good for a while.
        let _ = self.marks.push(Mark { at, sample: self.sample, heard, frames });
        let mut short = false;
        for channels in out.chunks_exact_mut(self.channels) {
            let value = match self.ring.pop() {
                Ok(sample) => {
                    self.started = true;
                    self.sample += 1;
                    self.last = sample;
                    self.gain = (self.gain + FADE_STEP).min(1.0);
                    sample * self.gain
                }
                // Nothing there: let the last sample decay, for a jump to zero would click.
                Err(_) => {
                    short = true;
                    self.gain *= 1.0 - FADE_STEP;
                    self.last * self.gain
                }
            };
            channels.fill(T::from_sample_(value));
        }
        if short && self.started {
            self.underruns.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn build(
    found: &Found,
    config: StreamConfig,
    mut tap: Tap,
    on_error: impl FnMut(cpal::Error) + Send + 'static,
) -> Result<cpal::Stream, cpal::Error> {
    let (device, wait) = (&found.device, Some(OPEN_TIMEOUT));
    match found.format {
        SampleFormat::I16 => device.build_output_stream::<i16, _, _>(
            config,
            move |out, info| tap.read(out, *info),
            on_error,
            wait,
        ),
        SampleFormat::I32 => device.build_output_stream::<i32, _, _>(
            config,
            move |out, info| tap.read(out, *info),
            on_error,
            wait,
        ),
        _ => device.build_output_stream::<f32, _, _>(
            config,
            move |out, info| tap.read(out, *info),
            on_error,
            wait,
        ),
    }
}

/// Whether an error ends the stream; an underrun or a refused priority does not.
fn fatal(error: &cpal::Error) -> bool {
    use cpal::ErrorKind::{DeviceChanged, RealtimeDenied, Xrun};
    !matches!(error.kind(), DeviceChanged | RealtimeDenied | Xrun)
}

/// Samples that the device takes at once: 5 ms (docs/audio.md has the measurements).
const PERIOD: u32 = 240;
/// 200 ms at 48 kHz: holds twice the largest period used.
const RING: usize = 9_600;
/// Marks of as many callbacks as fit into the ring.
const MARKS: usize = 64;
/// Samples kept beyond a period: one block to start with, at most 20 ms on a machine that stalls.
const MARGIN: usize = BLOCK;
const MAX_MARGIN: usize = BLOCK * 8;
/// After half a minute without an underrun a smaller margin is tried.
const RELAX_US: i64 = 30_000_000;
/// Gain of a sample's step after an underrun: back within 2 ms.
const FADE_STEP: f32 = 0.01;
/// A device silent for 5 s is gone, whatever the sound system says. Not less: a null sink of PulseAudio that was idle
/// has rendered up to 2 s of silence ahead and takes nothing until that has passed.
const SILENT_US: i64 = 5_000_000;
/// A sound server that does not answer within 2 s does not work.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Beyond 20 ms a stamp is a new start (underrun, another device), not noise.
const JUMP_US: i64 = 20_000;
