//! Opus as a call needs it: 10 ms of mono speech in a packet, and what restores lost packets in later ones.

use bytes::Bytes;
use vchat_proto::units::Bitrate;

use super::libopus::{self, Redundancy, Setting};
use super::protection::{Depth, Loss, Protection};
use super::{AudioError, FRAME};

/// Turns frames into packets.
pub(super) struct Encoder {
    opus: libopus::Encoder,
    buffer: Box<[u8; MAX_PACKET]>,
    lookahead: usize,
    toc: u8,
    bps: i32,
    protection: Protection,
    /// Frames until one carries deep redundancy.
    until_deep: u32,
}

/// Turns packets into frames, and hides or restores those that are missing.
pub(super) struct Decoder {
    opus: libopus::Decoder,
    /// The deep redundancy of the packet `read`.
    deep: Redundancy,
    /// The packet that was read for restoring last, and how many frames of it.
    read: (Bytes, usize),
    /// For looking into packets that wait for their turn.
    ahead: Redundancy,
}

impl Encoder {
    pub(super) fn new() -> Result<Self, AudioError> {
        let build = || {
            let mut opus = libopus::Encoder::new()?;
            opus.set(Setting::Complexity(COMPLEXITY))?;
            let lookahead = opus.lookahead()?;
            let (protection, bps) = (Protection::default(), START_BPS);
            let mut encoder = Self {
                opus,
                buffer: Box::new([0; MAX_PACKET]),
                lookahead,
                toc: 0,
                bps,
                protection,
                until_deep: 0,
            };
            encoder.apply()?;
            Ok::<_, libopus::Error>(encoder)
        };
        build().map_err(codec)
    }

    /// Samples by which the decoded sound lags behind the frames encoded.
    pub(super) const fn lookahead(&self) -> usize {
        self.lookahead
    }

    /// Sets the bitrate of the sound, and protects it against that loss. Deep redundancy comes on top of the bitrate.
    pub(super) fn adapt(&mut self, rate: Bitrate, loss: Loss) {
        let bps = i32::try_from(rate.bps()).unwrap_or(i32::MAX).clamp(MIN_BPS, MAX_BPS);
        let protection = self.protection.against(loss);
        if (bps, protection) == (self.bps, self.protection) {
            return;
        }
        (self.bps, self.protection) = (bps, protection);
        tracing::debug!(bps, ?protection, ?loss, "the sound is coded anew");
        if let Err(error) = self.apply() {
            tracing::warn!(%error, bps, ?protection, "the Opus encoder keeps its settings");
        }
    }

    fn apply(&mut self) -> Result<(), libopus::Error> {
        let (copies, percent, frames) = match self.protection {
            Protection::None => (false, 0, 0),
            Protection::Copy { percent } => (true, i32::from(percent), 0),
            Protection::Deep(depth) => (false, SHALLOW_PERCENT, depth.frames),
        };
        self.until_deep = 0;
        self.opus.set(Setting::Bitrate(self.bps))?;
        self.opus.set(Setting::Copies(copies))?;
        self.opus.set(Setting::Loss(percent))?;
        self.opus.set(Setting::Redundancy(i32::from(frames)))
    }

    /// Encodes one frame.
    pub(super) fn encode(&mut self, frame: &[f32; FRAME]) -> Result<Bytes, AudioError> {
        if let Protection::Deep(depth) = self.protection {
            self.alternate(depth).map_err(codec)?;
        }
        let n = self.opus.encode(frame, self.buffer.as_mut_slice()).map_err(codec)?;
        let packet = Bytes::copy_from_slice(self.buffer.get(..n).unwrap_or_default());
        self.toc = packet.first().copied().unwrap_or(self.toc);
        Ok(packet)
    }

    /// Lets one packet of several carry deep redundancy, with bits of its own.
    ///
    /// Neighbours would tell nearly the same. The encoder puts none into a packet for which little loss is declared,
    /// but goes on to remember.
    fn alternate(&mut self, depth: Depth) -> Result<(), libopus::Error> {
        let deep = self.until_deep == 0;
        self.until_deep = if deep { depth.every } else { self.until_deep } - 1;
        let (bps, percent) =
            if deep { (self.bps + depth.bps, DEEP_PERCENT) } else { (self.bps, SHALLOW_PERCENT) };
        self.opus.set(Setting::Bitrate(bps))?;
        self.opus.set(Setting::Loss(percent))
    }

    /// A packet without sound that announces a pause: the first byte of the last packet alone, which RFC 6716
    /// (section 3.1, code 0 with a frame of zero bytes) defines as "nothing transmitted".
    pub(super) fn pause(&self) -> Bytes {
        Bytes::copy_from_slice(&[self.toc & !0b11])
    }
}

impl Decoder {
    pub(super) fn new() -> Result<Self, AudioError> {
        let build = || {
            let (opus, deep, ahead) = (libopus::Decoder::new()?, Redundancy::new()?, Redundancy::new()?);
            Ok(Self { opus, deep, read: (Bytes::new(), 0), ahead })
        };
        build().map_err(codec)
    }

    /// Decodes one packet; what is no Opus packet of 10 ms is hidden like a lost one.
    pub(super) fn decode(&mut self, payload: &[u8], out: &mut [f32; FRAME]) {
        let fits = libopus::packet_samples(payload) == Some(FRAME);
        if !fits || self.opus.decode(payload, false, out).is_err() {
            self.conceal(out);
        }
    }

    /// How many frames before a packet it has something to restore them from.
    pub(super) fn reach(&mut self, payload: &[u8]) -> u32 {
        let deep = self.ahead.reach(payload, MOST_RESTORED);
        u32::try_from(deep).unwrap_or(0).max(u32::from(has_copy(payload)))
    }

    /// Restores the frame `back` frames before the packet `from`, which has to be within its reach.
    pub(super) fn restore(&mut self, from: &Bytes, back: u32, out: &mut [f32; FRAME]) {
        let back = usize::try_from(back).unwrap_or(usize::MAX);
        let done = if back == 1 && has_copy(from) {
            self.opus.decode(from, true, out)
        } else {
            // Frames of a hole come oldest first, so the first reading is deep enough for the others.
            if self.read.0 != *from || self.read.1 < back {
                self.read = (from.clone(), self.deep.read(from, back.min(MOST_RESTORED)));
            }
            self.opus.restore(&self.deep, back, out)
        };
        if done.is_err() {
            self.conceal(out);
        }
    }

    /// Invents sound that goes on from what was decoded last. `out` is a multiple of 2.5 ms long.
    pub(super) fn conceal(&mut self, out: &mut [f32]) {
        if self.opus.conceal(out).is_err() {
            out.fill(0.0);
        }
    }
}

/// Whether a packet carries a coarse copy of the one before (LBRR, RFC 6716 section 4.2.4).
///
/// True for one frame of mono speech whose second flag bit is set; in other packets there is none, or it cannot be
/// used for a single frame of 10 ms.
fn has_copy(payload: &[u8]) -> bool {
    let &[toc, flags, ..] = payload else { return false };
    let (config, stereo, code) = (toc >> 3, toc & 0b100, toc & 0b11);
    config < CELT_ONLY && stereo == 0 && code == 0 && flags & 0b0100_0000 != 0
}

fn codec(error: libopus::Error) -> AudioError {
    AudioError::Codec(error.to_string())
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
const START_BPS: i32 = 32_000;
/// Below, speech is no longer full-band; above, nobody hears the difference (RFC 7587 section 3.1.1).
const MIN_BPS: i32 = 16_000;
const MAX_BPS: i32 = 40_000;
/// Loss declared for packets with deep redundancy: from this on the encoder gives it all that it asks for (measured).
const DEEP_PERCENT: i32 = 25;
/// Loss declared for the others: too little for the encoder to put redundancy into them, enough to code the high band
/// with some independence of lost packets.
const SHALLOW_PERCENT: i32 = 3;
/// A second is the most that a packet can hold.
const MOST_RESTORED: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{RATE, speech};

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
        encoder.adapt(Bitrate::from_kbps(32), Loss { percent: 6, burst_ms: 10 });
        let frames = frames(60);
        let packets: Vec<Bytes> = frames.iter().map(|f| encoder.encode(f).expect("encodes")).collect();
        let lost = (30..50).find(|&n| has_copy(&packets[n + 1])).expect("a packet with a coarse copy");
        let decode = |repaired: bool| {
            let mut decoder = Decoder::new().expect("decoder");
            let mut out = [0.0; FRAME];
            packets[..lost].iter().for_each(|p| decoder.decode(p, &mut out));
            if repaired {
                decoder.restore(&packets[lost + 1], 1, &mut out);
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
            decoder.reach(junk);
            decoder.restore(&Bytes::copy_from_slice(junk), 1, &mut out);
            decoder.restore(&Bytes::copy_from_slice(junk), 7, &mut out);
            assert!(out.iter().all(|s| s.is_finite() && s.abs() <= 2.0));
        }
        let packet = encoder.encode(&frames(1)[0]).expect("encodes");
        assert!(!pauses(&packet) && pauses(&encoder.pause()) && pauses(&[]));
        decoder.decode(&encoder.pause(), &mut out);
    }

    /// Energy in dB of each frame.
    fn contour(sound: &[[f32; FRAME]]) -> Vec<f32> {
        sound.iter().map(|frame| 10.0 * (frame.iter().map(|s| s * s).sum::<f32>() + 1e-4).log10()).collect()
    }

    #[test]
    fn bursts_are_restored_from_deep_redundancy() {
        let mut encoder = Encoder::new().expect("encoder");
        encoder.adapt(Bitrate::from_kbps(32), Loss { percent: 10, burst_ms: 40 });
        let speech = speech::frames(6);
        let packets: Vec<Bytes> = speech.iter().map(|f| encoder.encode(f).expect("encodes")).collect();
        let mut look = Decoder::new().expect("decoder");
        let reach: Vec<u32> = packets.iter().map(|p| look.reach(p)).collect();
        let deep = reach[200..].iter().filter(|&&r| r >= 20).count();
        assert!((100..=150).contains(&deep), "one packet of three of 400: {deep}");
        // Of each 250 ms, 100 ms are lost. `near` is how far off the loudness of those frames is, in dB on average.
        let lost = |n: usize| n >= 200 && n % 25 < 10;
        let near = |restored: bool| {
            let (mut whole, mut decoder) =
                (Decoder::new().expect("decoder"), Decoder::new().expect("decoder"));
            let (mut truth, mut heard) = (Vec::new(), Vec::new());
            for (n, packet) in packets.iter().enumerate() {
                let (mut right, mut out) = ([0.0; FRAME], [0.0; FRAME]);
                whole.decode(packet, &mut right);
                let after = (n..packets.len()).find(|&m| !lost(m) && reach[m] as usize >= m - n);
                match after.filter(|_| restored) {
                    _ if !lost(n) => decoder.decode(packet, &mut out),
                    Some(m) => decoder.restore(&packets[m], (m - n) as u32, &mut out),
                    None => decoder.conceal(&mut out),
                }
                if lost(n) {
                    truth.push(right);
                    heard.push(out);
                }
            }
            let (truth, heard) = (contour(&truth), contour(&heard));
            truth.iter().zip(&heard).map(|(a, b)| (a - b).abs()).sum::<f32>() / truth.len() as f32
        };
        assert!(near(true) * 2.0 < near(false), "{} against {} dB", near(true), near(false));
    }

    #[test]
    fn deep_redundancy_has_bits_of_its_own_and_the_sound_keeps_its_band() {
        let speech = speech::frames(6);
        let size = |loss| {
            let mut encoder = Encoder::new().expect("encoder");
            encoder.adapt(Bitrate::from_kbps(32), loss);
            let packets: Vec<Bytes> = speech.iter().map(|f| encoder.encode(f).expect("encodes")).collect();
            let settled = &packets[200..];
            let switches = settled.windows(2).filter(|w| w[0][0] >> 3 != w[1][0] >> 3).count();
            assert!(switches <= 8, "{switches} changes of mode or band in 4 s, {loss:?}");
            settled.iter().map(Bytes::len).sum::<usize>() as f64 * 8.0 / settled.len() as f64 / 10.0
        };
        let bare = size(Loss::default());
        for burst_ms in [10, 40, 100] {
            let more = size(Loss { percent: 10, burst_ms }) - bare;
            assert!((10.0..28.0).contains(&more), "{more} kb/s for bursts of {burst_ms} ms");
        }
    }
}
