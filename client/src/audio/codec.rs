//! Opus as a call needs it: 10 ms of mono speech in a packet, coarse copies of the packet before against loss.

use bytes::Bytes;
use opus::{Application, Bitrate as OpusBitrate, Channels, Signal};
use vchat_proto::units::Bitrate;

use super::{AudioError, FRAME, RATE};

/// Turns frames into packets.
pub(super) struct Encoder {
    opus: opus::Encoder,
    buffer: Box<[u8; MAX_PACKET]>,
    lookahead: usize,
    toc: u8,
}

/// Turns packets into frames, and hides those that are missing.
pub(super) struct Decoder {
    opus: opus::Decoder,
}

impl Encoder {
    pub(super) fn new() -> Result<Self, AudioError> {
        let build = || {
            let mut opus = opus::Encoder::new(RATE, Channels::Mono, Application::Voip)?;
            opus.set_signal(Signal::Voice)?;
            opus.set_complexity(COMPLEXITY)?;
            opus.set_vbr(true)?;
            opus.set_inband_fec(true)?;
            let lookahead = usize::try_from(opus.get_lookahead()?).unwrap_or(0);
            Ok::<_, opus::Error>(Self { opus, buffer: Box::new([0; MAX_PACKET]), lookahead, toc: 0 })
        };
        let mut encoder = build().map_err(|e| AudioError::Codec(e.to_string()))?;
        encoder.adapt(START_BITRATE, START_LOSS_PERCENT);
        Ok(encoder)
    }

    /// Samples by which the decoded sound lags behind the frames encoded.
    pub(super) const fn lookahead(&self) -> usize {
        self.lookahead
    }

    /// Sets the rate, and the loss against which the coarse copies protect.
    pub(super) fn adapt(&mut self, rate: Bitrate, loss_percent: u8) {
        let bps = i32::try_from(rate.bps()).unwrap_or(i32::MAX).clamp(MIN_BPS, MAX_BPS);
        // Both calls refuse only values out of the ranges that they are clamped to here.
        let done = self
            .opus
            .set_bitrate(OpusBitrate::Bits(bps))
            .and_then(|()| self.opus.set_packet_loss_perc(i32::from(loss_percent.min(100))));
        if let Err(error) = done {
            tracing::warn!(%error, bps, loss_percent, "the Opus encoder keeps its settings");
        }
    }

    /// Encodes one frame.
    pub(super) fn encode(&mut self, frame: &[f32; FRAME]) -> Result<Bytes, AudioError> {
        let n = self
            .opus
            .encode_float(frame, self.buffer.as_mut_slice())
            .map_err(|e| AudioError::Codec(e.to_string()))?;
        let packet = Bytes::copy_from_slice(self.buffer.get(..n).unwrap_or_default());
        self.toc = packet.first().copied().unwrap_or(self.toc);
        Ok(packet)
    }

    /// A packet without sound that announces a pause: the first byte of the last packet alone, which RFC 6716
    /// (section 3.1, code 0 with a frame of zero bytes) defines as "nothing transmitted".
    pub(super) fn pause(&self) -> Bytes {
        Bytes::copy_from_slice(&[self.toc & !0b11])
    }
}

impl Decoder {
    pub(super) fn new() -> Result<Self, AudioError> {
        let opus = opus::Decoder::new(RATE, Channels::Mono).map_err(|e| AudioError::Codec(e.to_string()))?;
        Ok(Self { opus })
    }

    /// Decodes one packet; what is no Opus packet of 10 ms is hidden like a lost one.
    pub(super) fn decode(&mut self, payload: &[u8], out: &mut [f32; FRAME]) {
        let fits = opus::packet::get_nb_samples(payload, RATE).is_ok_and(|n| n == FRAME);
        if !fits || self.opus.decode_float(payload, out, false).is_err() {
            self.conceal(out);
        }
    }

    /// Restores the frame before `next` from the coarse copy in it.
    pub(super) fn repair(&mut self, next: &[u8], out: &mut [f32; FRAME]) {
        if self.opus.decode_float(next, out, true).is_err() {
            self.conceal(out);
        }
    }

    /// Invents sound that goes on from what was decoded last. `out` is a multiple of 2.5 ms long.
    pub(super) fn conceal(&mut self, out: &mut [f32]) {
        if self.opus.decode_float(&[], out, false).is_err() {
            out.fill(0.0);
        }
    }
}

/// Whether a packet carries a coarse copy of the one before (LBRR, RFC 6716 section 4.2.4).
///
/// True for one frame of mono speech whose second flag bit is set; in other packets there is none, or it cannot be
/// used for a single frame of 10 ms.
pub(super) fn repairs(payload: &[u8]) -> bool {
    let &[toc, flags, ..] = payload else { return false };
    let (config, stereo, code) = (toc >> 3, toc & 0b100, toc & 0b11);
    config < CELT_ONLY && stereo == 0 && code == 0 && flags & 0b0100_0000 != 0
}

/// Whether a packet announces a pause: no more than its first byte (or that and padding), so no sound.
pub(super) fn pauses(payload: &[u8]) -> bool {
    payload.len() <= 2
}

/// Largest packet that is made: RFC 6716's limit for one frame.
const MAX_PACKET: usize = 1275;
/// Configurations from 16 on are CELT alone, which has no in-band FEC (RFC 6716, table 2).
const CELT_ONLY: u8 = 16;
/// Best quality: measured 0.18 ms for a frame of 10 ms (0.11 ms at 5), 2 % of a core.
const COMPLEXITY: i32 = 10;
/// Full-band speech without audible loss (RFC 7587 recommends 28 to 40 kb/s).
const START_BITRATE: Bitrate = Bitrate::from_kbps(32);
/// Declared until measured: enough for the encoder to spend bits on coarse copies where speech is hard to guess.
const START_LOSS_PERCENT: u8 = 5;
/// Opus' own range for mono.
const MIN_BPS: i32 = 6_000;
const MAX_BPS: i32 = 256_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// A voice-like sound: harmonics of 120 Hz whose loudness swings four times a second.
    fn voice(n: usize) -> f32 {
        let t = n as f32 / RATE as f32;
        let tone: f32 =
            (1..12).map(|h| (std::f32::consts::TAU * 120.0 * h as f32 * t).sin() / h as f32).sum();
        0.2 * tone * (0.6 + 0.4 * (std::f32::consts::TAU * 4.0 * t).sin())
    }

    fn frames(count: usize) -> Vec<[f32; FRAME]> {
        (0..count).map(|f| std::array::from_fn(|i| voice(f * FRAME + i))).collect()
    }

    /// Signal to noise in dB of `got` against the original `lag` samples earlier.
    fn snr(original: &[f32], got: &[f32], lag: usize) -> f32 {
        let (mut signal, mut noise) = (0.0, 1e-9);
        for (a, b) in original.iter().zip(got.get(lag..).unwrap_or_default()) {
            signal += a * a;
            noise += (a - b) * (a - b);
        }
        10.0 * (signal / noise).log10()
    }

    #[test]
    fn speech_survives_at_the_delay_that_the_encoder_tells() {
        let (mut encoder, mut decoder) = (Encoder::new().expect("encoder"), Decoder::new().expect("decoder"));
        let frames = frames(100);
        let (mut got, mut bytes) = (Vec::new(), 0);
        for frame in &frames {
            let packet = encoder.encode(frame).expect("encodes");
            let mut out = [0.0; FRAME];
            decoder.decode(&packet, &mut out);
            got.extend(out);
            bytes += packet.len();
        }
        let original: Vec<f32> = frames.concat();
        let at = |lag| snr(&original[FRAME * 20..FRAME * 80], &got[FRAME * 20..], lag);
        let best = (0..1000).max_by(|&a, &b| at(a).total_cmp(&at(b))).expect("some lag");
        assert!(best.abs_diff(encoder.lookahead()) <= 24, "lag {best}, told {}", encoder.lookahead());
        // Opus moves the phases of low tones (it cuts what is below 50 Hz), so the wave is not the same; the sound is.
        assert!(at(best) > 3.0, "{} dB", at(best));
        let kbps = bytes * 8 / 1000;
        assert!((10..=45).contains(&kbps), "{kbps} kb/s");
    }

    #[test]
    fn a_lost_frame_comes_back_from_the_next_packet() {
        let mut encoder = Encoder::new().expect("encoder");
        encoder.adapt(Bitrate::from_kbps(32), 20);
        let frames = frames(60);
        let packets: Vec<Bytes> = frames.iter().map(|f| encoder.encode(f).expect("encodes")).collect();
        let lost = (30..50).find(|&n| repairs(&packets[n + 1])).expect("a packet with a coarse copy");
        let decode = |repaired: bool| {
            let mut decoder = Decoder::new().expect("decoder");
            let mut out = [0.0; FRAME];
            packets[..lost].iter().for_each(|p| decoder.decode(p, &mut out));
            if repaired {
                decoder.repair(&packets[lost + 1], &mut out);
            } else {
                decoder.decode(&packets[lost], &mut out);
            }
            out
        };
        assert!(snr(&decode(false), &decode(true), 0) > 3.0, "{} dB", snr(&decode(false), &decode(true), 0));
    }

    #[test]
    fn concealment_goes_on_and_then_fades() {
        let (mut encoder, mut decoder) = (Encoder::new().expect("encoder"), Decoder::new().expect("decoder"));
        let mut out = [0.0; FRAME];
        for frame in frames(50) {
            decoder.decode(&encoder.encode(&frame).expect("encodes"), &mut out);
        }
        let power = |x: &[f32]| x.iter().map(|s| s * s).sum::<f32>();
        let before = power(&out);
        decoder.conceal(&mut out);
        assert!(power(&out) > before * 0.1, "it goes on");
        (0..30).for_each(|_| decoder.conceal(&mut out));
        assert!(power(&out) < before * 0.2, "it fades: {} of {before}", power(&out));
    }

    #[test]
    fn what_is_no_packet_is_hidden_and_pauses_are_told_apart() {
        let (mut encoder, mut decoder) = (Encoder::new().expect("encoder"), Decoder::new().expect("decoder"));
        let mut out = [9.0; FRAME];
        for junk in [&[][..], &[0xff], &[0xff; 40], &[3, 0xff, 1], &[0x7b; 700]] {
            decoder.decode(junk, &mut out);
            decoder.repair(junk, &mut out);
            assert!(out.iter().all(|s| s.is_finite() && s.abs() <= 2.0));
        }
        let packet = encoder.encode(&frames(1)[0]).expect("encodes");
        assert!(!pauses(&packet) && pauses(&encoder.pause()) && pauses(&[]));
        decoder.decode(&encoder.pause(), &mut out);
    }
}
