//! Opus as a call needs it: 10 ms of mono speech in a packet, coarse copies of the packet before against loss.

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
            let mut encoder =
                Self { opus, buffer: Box::new([0; MAX_PACKET]), lookahead, toc: 0, bps, protection, until_deep: 0 };
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
        let (bps, percent) = if deep { (self.bps + depth.bps, DEEP_PERCENT) } else { (self.bps, SHALLOW_PERCENT) };
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
    use crate::audio::RATE;

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

    #[test]
    fn probe() {
        let mut r = hound::WavReader::open("/tmp/sp/a48.wav").expect("wav");
        let pcm: Vec<f32> = r.samples::<i16>().map(|s| f32::from(s.expect("s")) / 32768.0).collect();
        let fr: Vec<[f32; FRAME]> = pcm.as_chunks::<FRAME>().0.to_vec();
        for kbps in [16, 24, 32, 40] {
        for (percent, burst_ms) in [(0, 0), (5, 10), (10, 12), (10,40), (10,100)] {
            let mut e = Encoder::new().expect("e");
            e.adapt(Bitrate::from_kbps(kbps), Loss { percent, burst_ms });
            let mut red = libopus::Redundancy::new().expect("r");
            let (mut with, mut without, mut nw, mut nwo, mut reach) = (0, 0, 0, 0, 0);
            let mut toc = std::collections::BTreeMap::new();
            let mut t = std::time::Duration::ZERO;
            for (n, f) in fr.iter().enumerate() {
                let s = std::time::Instant::now();
                let packet = e.encode(f).expect("enc");
                t += s.elapsed();
                let got = red.reach(&packet, 100);
                if n < 200 { continue; }
                *toc.entry(packet[0] >> 3).or_insert(0) += 1;
                if got > 0 { with += packet.len(); nw += 1; reach += got; } else { without += packet.len(); nwo += 1; }
            }
            let n = fr.len() - 200;
            eprintln!("kbps {kbps} loss {percent} burst {burst_ms}: {:.1} kb/s; with {nw} x {} B reach {} ; without {nwo} x {} B; encode {:?} toc {toc:?}",
                (with + without) as f64 * 0.8 / n as f64, with / nw.max(1), reach / nw.max(1), without / nwo.max(1), t / fr.len() as u32);
        }}
        for lost in [1_usize, 3, 10] {
            let mut e = Encoder::new().expect("e");
            e.adapt(Bitrate::from_kbps(32), Loss { percent: 10, burst_ms: 40 });
            let packets: Vec<Bytes> = fr.iter().map(|f| e.encode(f).expect("enc")).collect();
            let mut d = Decoder::new().expect("d");
            let mut out = [0.0; FRAME];
            let (mut td, mut nd, mut tr, mut nr, mut tc, mut nc) = (std::time::Duration::ZERO, 0, std::time::Duration::ZERO, 0, std::time::Duration::ZERO, 0);
            let (mut worst, mut worst_c) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
            for (n, p) in packets.iter().enumerate() {
                let s = std::time::Instant::now();
                if n > 100 && n % 20 < lost {
                    let k = (n / 20 * 20 + lost .. n/20*20 + lost + 4).find(|&k| k < packets.len() && d.reach(&packets[k]) as usize >= k - n);
                    let s = std::time::Instant::now();
                    if let Some(k) = k { d.restore(&packets[k], (k - n) as u32, &mut out); tr += s.elapsed(); worst = worst.max(s.elapsed()); nr += 1; }
                    else { d.conceal(&mut out); tc += s.elapsed(); worst_c = worst_c.max(s.elapsed()); nc += 1; }
                } else { d.decode(p, &mut out); td += s.elapsed(); nd += 1; }
            }
            eprintln!("lost {lost} of 20: decode {:?}, restore {nr} x {:?} worst {worst:?}, conceal {nc} x {:?} worst {worst_c:?}", td / nd, tr / nr.max(1), tc / nc.max(1));
        }
    }
}
