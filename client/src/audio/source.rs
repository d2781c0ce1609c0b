//! Where the sound that is sent comes from.

mod file;
mod microphone;
pub mod tone;

use std::time::Duration;

use vchat_proto::units::MediaTime;

use super::{AudioError, FRAME, Kind, MicSpec, samples_us};
use crate::clock::MediaClock;

/// Yields sound in frames of 10 ms.
pub(super) trait Source: Send {
    /// Waits up to about 20 ms for the next frame and returns the capture time of its first sample; none when it is
    /// not there yet. After an error there is no more.
    fn read(&mut self, frame: &mut [f32; FRAME]) -> Result<Option<MediaTime>, AudioError>;
}

/// A source with the name of its device, if it is one.
pub(super) struct Opened {
    pub(super) source: Box<dyn Source>,
    pub(super) device: Option<String>,
}

/// Opens a source; none for `none`, and for `auto` on a machine without a microphone.
pub(super) fn open(spec: &MicSpec, clock: MediaClock) -> Result<Option<Opened>, AudioError> {
    let open_device = |name: Option<&str>| {
        let microphone = microphone::Microphone::open(name, clock)?;
        let device = Some(microphone.name().to_owned());
        Ok(Opened { source: Box::new(microphone), device })
    };
    match spec {
        MicSpec::None => Ok(None),
        MicSpec::Tone => Ok(Some(Opened { source: Box::new(tone::Tone::new(clock)), device: None })),
        MicSpec::File(path) => {
            Ok(Some(Opened { source: Box::new(file::File::open(path, clock)?), device: None }))
        }
        MicSpec::Named(name) => open_device(Some(name)).map(Some),
        MicSpec::Auto => match open_device(None) {
            Ok(opened) => Ok(Some(opened)),
            Err(AudioError::NoDevice { kind: Kind::Microphone }) => Ok(None),
            Err(error) => {
                tracing::warn!(%error, "going on without a microphone");
                Ok(None)
            }
        },
    }
}

/// Real time for sources that make their sound themselves: frame after frame, each due when its last sample is over.
///
/// By absolute deadlines, so that it neither drifts nor sums up delays. After a stall of more than
/// [`Pace::FORGIVEN`] the time that was lost stays lost.
#[derive(Debug)]
struct Pace {
    clock: MediaClock,
    next: MediaTime,
}

impl Pace {
    const FORGIVEN: Duration = Duration::from_millis(200);

    fn new(clock: MediaClock) -> Self {
        Self { clock, next: clock.now() }
    }

    /// Waits until the next frame is over; returns its start, or none if that is more than 20 ms away.
    fn wait(&mut self) -> Option<MediaTime> {
        let end = self.next.offset(samples_us(FRAME as i64));
        let left = end.micros_since(self.clock.now());
        if left < -(Self::FORGIVEN.as_micros() as i64) {
            self.next = self.next.offset(-left - left.rem_euclid(samples_us(FRAME as i64)));
            return None;
        }
        if left > 0 {
            std::thread::sleep(Duration::from_micros(left.min(MAX_WAIT_US).unsigned_abs()));
        }
        if left > MAX_WAIT_US {
            return None;
        }
        Some(std::mem::replace(&mut self.next, end))
    }
}

/// Longest sleep before a thread looks whether it should end.
const MAX_WAIT_US: i64 = 20_000;
