//! All remote participants: their voices, mixed.

use std::collections::BTreeMap;

use bytes::Bytes;
use vchat_proto::id::{FrameId, ParticipantId};
use vchat_proto::units::MediaTime;

use super::limiter::Limiter;
use super::playback::{Heard, PeerAudio};
use super::sink::VoiceBlock;
use super::voice::Voice;
use super::{AudioError, BLOCK};

/// The voices of a call and their sum. At most [`MAX_VOICES`]; packets of more are dropped.
#[derive(Default)]
pub(super) struct Mixer {
    voices: BTreeMap<ParticipantId, Voice>,
    limiter: Limiter,
    deaf: bool,
    blocks: Vec<VoiceBlock>,
}

impl Mixer {
    /// A participant came: what is heard of it is told through `heard` from now on.
    pub(super) fn join(&mut self, now: MediaTime, id: ParticipantId, heard: Heard) -> Result<(), AudioError> {
        if let Some(voice) = self.voices.get_mut(&id) {
            voice.share(heard);
        } else if self.voices.len() < MAX_VOICES {
            self.voices.insert(id, Voice::new(now, heard)?);
        } else {
            tracing::warn!(participant = id.0, "too many participants, this one is not heard");
        }
        Ok(())
    }

    /// A participant went.
    pub(super) fn leave(&mut self, id: ParticipantId) {
        self.voices.remove(&id);
    }

    /// Whether that participant is known.
    pub(super) fn has(&self, id: ParticipantId) -> bool {
        self.voices.contains_key(&id)
    }

    /// Stops (or starts again) playing what is received.
    pub(super) const fn set_deaf(&mut self, deaf: bool) {
        self.deaf = deaf;
    }

    /// Takes a packet that arrived at `now`.
    pub(super) fn receive(
        &mut self,
        now: MediaTime,
        id: ParticipantId,
        frame: FrameId,
        captured: MediaTime,
        payload: Bytes,
    ) {
        if let Some(voice) = self.voices.get_mut(&id) {
            voice.receive(now, frame, captured, payload);
        }
    }

    /// Mixes the next 2.5 ms, asked for at `now`, to be heard at `heard`; also gives each voice alone.
    pub(super) fn mix(&mut self, now: MediaTime, heard: MediaTime) -> ([f32; BLOCK], &[VoiceBlock]) {
        let mut sum = [0.0; BLOCK];
        self.blocks.clear();
        for (&participant, voice) in &mut self.voices {
            let mut pcm = voice.pull(now, heard);
            if self.deaf {
                pcm = [0.0; BLOCK];
            }
            sum.iter_mut().zip(pcm).for_each(|(sum, s)| *sum += s);
            self.blocks.push(VoiceBlock { participant, pcm });
        }
        self.limiter.apply(&mut sum);
        (sum, &self.blocks)
    }

    /// Statistics of each voice since the last call.
    pub(super) fn poll_stats(&mut self, now: MediaTime) -> Vec<PeerAudio> {
        self.voices.iter_mut().map(|(&id, voice)| voice.poll_stats(id, now)).collect()
    }
}

/// Decoders held at once: far more than people who can be told apart by ear.
const MAX_VOICES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::codec::Encoder;
    use crate::audio::{FRAME, samples_us};

    #[test]
    fn two_speakers_are_both_in_the_mix_and_alone_in_their_blocks() {
        let start = MediaTime::from_micros(50_000_000);
        let mut mixer = Mixer::default();
        let (ann, bob) = (ParticipantId(1), ParticipantId(2));
        let mut encoders = [300.0, 1100.0].map(|hz| (hz, Encoder::new().expect("an encoder")));
        for id in [ann, bob] {
            mixer.join(start, id, Heard::default()).expect("a decoder");
        }
        let (mut mixed, mut alone) = (Vec::new(), Vec::new());
        for n in 0..200_u32 {
            let now = start.offset(i64::from(n) * samples_us(FRAME as i64));
            for (id, (hz, encoder)) in [ann, bob].into_iter().zip(&mut encoders) {
                let frame = std::array::from_fn(|i| {
                    let t = (n as usize * FRAME + i) as f32 / 48_000.0;
                    0.3 * (std::f32::consts::TAU * *hz * t).sin()
                });
                let packet = encoder.encode(&frame).expect("encodes");
                mixer.receive(now, id, FrameId(n), now.offset(-10_000), packet);
            }
            for block in 0..4 {
                let at = now.offset(1_000 + block * 2_500);
                let (mix, voices) = mixer.mix(at, at);
                mixed.extend(mix);
                assert_eq!(voices.len(), 2);
                alone.extend(voices[0].pcm);
            }
        }
        let power = |pcm: &[f32], hz: f32| {
            let (mut re, mut im) = (0.0, 0.0);
            for (n, s) in pcm.iter().enumerate() {
                let phase = std::f32::consts::TAU * hz * n as f32 / 48_000.0;
                (re, im) = (re + s * phase.cos(), im + s * phase.sin());
            }
            2.0 * (re * re + im * im).sqrt() / pcm.len() as f32
        };
        let (mixed, alone) = (&mixed[48_000..], &alone[48_000..]);
        assert!(power(mixed, 300.0) > 0.2 && power(mixed, 1100.0) > 0.2, "both in the mix");
        assert!(power(alone, 300.0) > 0.2 && power(alone, 1100.0) < 0.03, "one alone");
        mixer.set_deaf(true);
        let (mix, _) = mixer.mix(start.offset(3_000_000), start);
        assert!(mix.iter().all(|s| *s == 0.0));
    }
}
