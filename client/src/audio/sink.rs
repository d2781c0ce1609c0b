//! Where the mixed sound goes.

mod speaker;
mod wav;

use std::time::Duration;

use vchat_proto::id::ParticipantId;
use vchat_proto::units::MediaTime;

use super::{AudioError, BLOCK, Kind, SpeakerSpec, samples_us};
use crate::clock::MediaClock;

/// One block of one remote participant, as it goes into the mix.
#[derive(Clone, Copy, Debug)]
pub(super) struct VoiceBlock {
    pub(super) participant: ParticipantId,
    pub(super) pcm: [f32; BLOCK],
}

/// Takes the mix block by block at the pace of a sound card.
pub(super) trait Sink: Send {
    /// Whether it still works; called often.
    fn check(&mut self, _now: MediaTime) -> Result<(), AudioError> {
        Ok(())
    }
    /// Whether it is time for another block.
    fn wants(&mut self, now: MediaTime) -> bool;
    /// When the first sample of the next block will be heard.
    fn heard(&self, now: MediaTime) -> MediaTime;
    /// Takes a block. After an error the sink is of no more use.
    fn write(&mut self, mix: &[f32; BLOCK], voices: &[VoiceBlock]) -> Result<(), AudioError>;
    /// How long until it may want another block.
    fn wait(&self, now: MediaTime) -> Duration;
    /// A participant came, with the name to show.
    fn joined(&mut self, _participant: ParticipantId, _name: &str) {}
    /// A participant went.
    fn left(&mut self, _participant: ParticipantId) {}
    /// Times that the sound card found nothing to play.
    fn underruns(&self) -> u64 {
        0
    }
}

/// A sink with the name of its device, if it is one.
pub(super) struct Opened {
    pub(super) sink: Box<dyn Sink>,
    pub(super) device: Option<String>,
}

/// Opens a sink; `auto` on a machine without a speaker is silent.
pub(super) fn open(spec: &SpeakerSpec, clock: MediaClock) -> Result<Opened, AudioError> {
    let open_device = |name: Option<&str>| {
        let speaker = speaker::Speaker::open(name, clock)?;
        let device = Some(speaker.name().to_owned());
        Ok(Opened { sink: Box::new(speaker), device })
    };
    match spec {
        SpeakerSpec::None => Ok(silent(clock)),
        SpeakerSpec::Wav(dir) => Ok(Opened { sink: Box::new(wav::Wav::create(dir, clock)?), device: None }),
        SpeakerSpec::Named(name) => open_device(Some(name)),
        SpeakerSpec::Auto => open_device(None).or_else(|error| {
            if !matches!(error, AudioError::NoDevice { kind: Kind::Speaker }) {
                tracing::warn!(%error, "going on without a speaker");
            }
            Ok(silent(clock))
        }),
    }
}

/// A sink that drops the sound in real time.
pub(super) fn silent(clock: MediaClock) -> Opened {
    Opened { sink: Box::new(Pace::new(clock.now())), device: None }
}

/// Real time without a sound card: a block is due when its first sample would be heard.
///
/// Also the sink that plays nothing.
#[derive(Debug)]
struct Pace {
    start: MediaTime,
    written: i64,
}

impl Pace {
    /// Blocks that come late are made up for up to 100 ms, as a sound card with that much buffer would.
    const FORGIVEN_US: i64 = 100_000;

    const fn new(start: MediaTime) -> Self {
        Self { start, written: 0 }
    }

    const fn next(&self) -> MediaTime {
        self.start.offset(samples_us(self.written))
    }

    /// Skips what is too late to be played and returns how many samples that were.
    fn skip(&mut self, now: MediaTime) -> usize {
        let late = now.micros_since(self.next());
        if late <= Self::FORGIVEN_US {
            return 0;
        }
        let blocks = late / samples_us(BLOCK as i64);
        self.written += blocks * BLOCK as i64;
        usize::try_from(blocks).unwrap_or(0) * BLOCK
    }
}

impl Sink for Pace {
    fn wants(&mut self, now: MediaTime) -> bool {
        self.skip(now);
        now >= self.next()
    }

    fn heard(&self, _now: MediaTime) -> MediaTime {
        self.next()
    }

    fn write(&mut self, _mix: &[f32; BLOCK], _voices: &[VoiceBlock]) -> Result<(), AudioError> {
        self.written += BLOCK as i64;
        Ok(())
    }

    fn wait(&self, now: MediaTime) -> Duration {
        let left = self.next().micros_since(now).clamp(MIN_WAIT_US, samples_us(BLOCK as i64));
        Duration::from_micros(left.unsigned_abs())
    }
}

/// Shortest wait between two looks: bounds the wake-ups when the clock and a sink disagree by a hair.
const MIN_WAIT_US: i64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_asks_for_48_000_samples_a_second_and_forgives_a_stall() {
        let start = MediaTime::from_micros(1_000_000);
        let mut pace = Pace::new(start);
        let mut pull = |from: u64, to: u64| {
            let mut blocks = 0;
            for us in (from..to).step_by(1_700) {
                while pace.wants(start + Duration::from_micros(us)) {
                    pace.write(&[0.0; BLOCK], &[]).expect("writes");
                    blocks += 1;
                }
            }
            blocks
        };
        assert!(400_i32.abs_diff(pull(0, 1_000_000)) <= 1);
        // Half a second stalled: all of it but the last block is lost, not made up for in a burst.
        assert!(400_i32.abs_diff(pull(1_500_000, 2_500_000)) <= 2);
        assert!(440_i32.abs_diff(pull(2_600_000, 3_600_000)) <= 2, "100 ms are made up for");
    }
}
