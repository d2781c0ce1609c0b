//! The sound of one remote participant: packets in, 2.5 ms of sound out.

use std::time::Duration;

use bytes::Bytes;
use vchat_proto::id::{FrameId, ParticipantId};
use vchat_proto::jitter::{JitterBuffer, Packet, Stretch, Tick};
use vchat_proto::stats::Distribution;
use vchat_proto::units::MediaTime;

use super::codec::{self, Decoder};
use super::level::{Activity, rms};
use super::playback::{Heard, PeerAudio};
use super::{AudioError, BLOCK, FRAME, samples_us, stretch};

/// Jitter buffer, decoder and stretcher of one participant.
pub(super) struct Voice {
    jitter: JitterBuffer,
    decoder: Decoder,
    /// Sound played lately (for repetition), then, from `start`, sound to be played.
    pcm: Vec<f32>,
    start: usize,
    /// Capture time of the end of `pcm`; none while silent.
    end: Option<MediaTime>,
    activity: Activity,
    /// Sound of the level measurement under way.
    measured: Vec<f32>,
    heard: Heard,
    latency: Distribution,
    latency_total: Distribution,
    bytes: u64,
    polled: MediaTime,
    /// When the last packet came.
    pub(super) heard_from: MediaTime,
}

impl Voice {
    pub(super) fn new(now: MediaTime, heard: Heard) -> Result<Self, AudioError> {
        Ok(Self {
            jitter: JitterBuffer::new(),
            decoder: Decoder::new()?,
            pcm: Vec::with_capacity(HISTORY * 4),
            start: 0,
            end: None,
            activity: Activity::default(),
            measured: Vec::with_capacity(FRAME),
            heard,
            latency: Distribution::default(),
            latency_total: Distribution::default(),
            bytes: 0,
            polled: now,
            heard_from: now,
        })
    }

    /// Tells what is heard where a newcomer's owner looks for it.
    pub(super) fn share(&mut self, heard: Heard) {
        self.heard = heard;
    }

    /// Takes a packet that arrived at `now`.
    pub(super) fn receive(&mut self, now: MediaTime, id: FrameId, captured: MediaTime, payload: Bytes) {
        self.bytes += payload.len() as u64;
        self.heard_from = now;
        let (reach, pauses) = (self.decoder.reach(&payload), codec::pauses(&payload));
        self.jitter.handle_packet(now, Packet { id, captured, reach, pauses, payload });
    }

    /// The next 2.5 ms, asked for at `now`, to be heard at `heard`.
    pub(super) fn pull(&mut self, now: MediaTime, heard: MediaTime) -> [f32; BLOCK] {
        while self.waiting() < BLOCK {
            let tick = self.jitter.tick(now);
            self.extend(now, tick);
        }
        if let Some(end) = self.end {
            let captured = end.offset(-samples_us(self.waiting() as i64));
            let latency = heard.micros_since(captured);
            self.heard.set_delay(Some(latency));
            self.latency.record(latency);
        } else {
            self.heard.set_delay(None);
        }
        let mut block = [0.0; BLOCK];
        for (out, sample) in block.iter_mut().zip(self.pcm.iter().skip(self.start)) {
            *out = *sample;
        }
        self.start += BLOCK;
        if self.start > HISTORY * 3 {
            self.pcm.drain(..self.start - HISTORY);
            self.start = HISTORY;
        }
        self.measured.extend(block);
        if self.measured.len() >= FRAME {
            self.activity.update(rms(&self.measured));
            self.heard.set_speaking(self.activity.speaking());
            self.measured.clear();
        }
        block
    }

    /// Statistics since the last call.
    pub(super) fn poll_stats(&mut self, participant: ParticipantId, now: MediaTime) -> PeerAudio {
        let stats = self.jitter.stats();
        let ms = now.micros_since(self.polled).max(1_000) / 1000;
        let kbps = (self.bytes * 8).checked_div(ms.unsigned_abs()).unwrap_or(0);
        self.polled = now;
        self.bytes = 0;
        let latency = std::mem::take(&mut self.latency);
        self.latency_total.merge(&latency);
        PeerAudio {
            participant,
            concealed_ms: stats.concealed * 10,
            repaired_ms: stats.repaired * 10,
            late: stats.late,
            buffer_ms: u32::try_from(stats.delay.as_millis()).unwrap_or(u32::MAX),
            target_ms: u32::try_from(stats.target.as_millis()).unwrap_or(u32::MAX),
            latency,
            latency_total: self.latency_total.clone(),
            level_dbfs: self.activity.level(),
            speaking: self.activity.speaking(),
            kbps: u32::try_from(kbps).unwrap_or(u32::MAX),
        }
    }

    fn waiting(&self) -> usize {
        self.pcm.len() - self.start
    }

    /// Turns a decision of the jitter buffer into sound.
    fn extend(&mut self, now: MediaTime, tick: Tick) {
        match tick {
            Tick::Play { packet, stretch } => {
                self.play(&packet);
                match stretch {
                    Stretch::Keep => {}
                    Stretch::Shorten { excess, urgent } => self.shorten(now, excess, urgent),
                    Stretch::Lengthen { lack } => {
                        let wanted = samples(lack);
                        let added = stretch::lengthen(&mut self.pcm, self.start, wanted).unwrap_or(0);
                        self.jitter.handle_stretched(samples_us(added as i64));
                    }
                }
            }
            Tick::Conceal { repair: Some(repair) } => {
                let mut frame = [0.0; FRAME];
                self.decoder.restore(&repair.payload, repair.back, &mut frame);
                self.append_frame(repair.captured, frame);
            }
            Tick::Conceal { repair: None } => {
                let mut frame = [0.0; FRAME];
                self.decoder.conceal(&mut frame);
                self.append(&frame);
                self.end = self.end.map(|end| end.offset(samples_us(FRAME as i64)));
            }
            Tick::Silence => self.fall_silent(),
        }
    }

    fn play(&mut self, packet: &Packet) {
        let mut frame = [0.0; FRAME];
        self.decoder.decode(&packet.payload, &mut frame);
        self.append_frame(packet.captured, frame);
    }

    fn append_frame(&mut self, captured: MediaTime, mut frame: [f32; FRAME]) {
        if self.end.is_none() {
            // Out of silence: a short rise, for speech that starts in the middle of a wave would click.
            frame.iter_mut().take(RISE).enumerate().for_each(|(n, s)| *s *= n as f32 / RISE as f32);
        }
        self.append(&frame);
        self.end = Some(captured.offset(samples_us(FRAME as i64)));
    }

    /// Cuts a piece out of the sound that waits. With the next packet there too, longer pieces can be chosen.
    fn shorten(&mut self, now: MediaTime, excess: Duration, urgent: bool) {
        if self.jitter.has_next() {
            // That one is due a frame later; its own wish to stretch is the same as this one.
            match self.jitter.tick(now.offset(samples_us(FRAME as i64))) {
                Tick::Play { packet, .. } => self.play(&packet),
                other => self.extend(now, other),
            }
        }
        let cut = stretch::shorten(&mut self.pcm, self.start, samples(excess), urgent).unwrap_or(0);
        self.jitter.handle_stretched(-samples_us(cut as i64));
    }

    fn fall_silent(&mut self) {
        let mut block = [0.0; BLOCK];
        if self.end.take().is_some() {
            self.decoder.conceal(&mut block);
            block.iter_mut().enumerate().for_each(|(n, s)| *s *= 1.0 - (n + 1) as f32 / BLOCK as f32);
        }
        self.append(&block);
    }

    fn append(&mut self, sound: &[f32]) {
        self.pcm.extend_from_slice(sound);
    }
}

fn samples(time: Duration) -> usize {
    usize::try_from(time.as_micros() * 48 / 1000).unwrap_or(usize::MAX)
}

/// Played sound kept to repeat from: 20 ms, more than the longest piece that is repeated.
const HISTORY: usize = 960;
/// Length of the rise out of silence: 1 ms.
const RISE: usize = 48;

#[cfg(test)]
mod tests {
    use std::f32::consts::TAU;

    use std::collections::BTreeMap;

    use vchat_proto::units::Bitrate;

    use super::*;
    use crate::audio::codec::Encoder;
    use crate::audio::protection::Loss;
    use crate::audio::speech;

    /// Runs a call of `seconds` in virtual time; `delay` says how long packet `n` takes, none if it is lost.
    /// Returns what is heard, the statistics and how often the sound was bent.
    fn call(seconds: u32, hz: f32, delay: impl Fn(u32) -> Option<u64>) -> (Vec<f32>, PeerAudio) {
        let start = MediaTime::from_micros(3_000_000_000);
        let mut voice = Voice::new(start, Heard::default()).expect("a decoder");
        let mut encoder = Encoder::new().expect("an encoder");
        let mut wire: Vec<(u64, u32, Bytes)> = Vec::new();
        let mut heard = Vec::new();
        for block in 0..u64::from(seconds) * 400 {
            let now = block * 2500;
            if block % 4 == 0 {
                let n = (block / 4) as u32;
                let frame = std::array::from_fn(|i| {
                    let t = (n as usize * FRAME + i) as f32 % 48_000.0;
                    0.4 * (TAU * hz * t / 48_000.0).sin()
                });
                let packet = encoder.encode(&frame).expect("encodes");
                if let Some(delay) = delay(n) {
                    wire.push((now + 10_000 + delay, n, packet));
                }
            }
            wire.sort_by_key(|&(at, ..)| at);
            while wire.first().is_some_and(|&(at, ..)| at <= now) {
                let (at, n, packet) = wire.remove(0);
                let captured = start.offset(i64::from(n) * 10_000);
                voice.receive(start.offset(at as i64), FrameId(n), captured, packet);
            }
            let now = start.offset(now as i64);
            heard.extend(voice.pull(now, now.offset(5_000)));
        }
        let end = start.offset(i64::from(seconds) * 1_000_000);
        (heard, voice.poll_stats(ParticipantId(1), end))
    }

    fn steepest(pcm: &[f32]) -> f32 {
        pcm.windows(2).map(|w| (w[1] - w[0]).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_quiet_network_costs_less_than_a_frame_and_the_latency_is_told() {
        let (heard, stats) = call(10, 400.0, |_| Some(1_000));
        assert_eq!((stats.concealed_ms, stats.late), (0, 0));
        assert!(stats.buffer_ms <= 10, "{} ms", stats.buffer_ms);
        // 10 ms of packet, 1 ms of network, the buffer, 5 ms to the loudspeaker.
        let p50 = stats.latency_total.quantile(0.5).expect("sound was heard");
        assert!((18_000..=28_000).contains(&p50), "{p50} us");
        assert!(stats.speaking && stats.level_dbfs > -15.0, "{} dB", stats.level_dbfs);
        assert!(rms(&heard[96_000..]) > 0.2);
    }

    #[test]
    fn growing_and_shrinking_delays_bend_the_sound_without_clicks() {
        // Two seconds of calm, three of jitter up to 60 ms, then calm.
        let jitter = |n: u32| match n {
            200..500 => Some(u64::from(n * 7919 % 61) * 1000),
            _ => Some(0),
        };
        let (heard, stats) = call(25, 400.0, jitter);
        assert!(stats.buffer_ms <= 12, "back down to {} ms", stats.buffer_ms);
        assert!(stats.late + stats.concealed_ms / 10 < 40, "{stats:?}");
        let smooth = steepest(&heard[48_000..90_000]);
        // From 9 s on (the window forgets the jitter) the sound is only being shortened, never concealed.
        let bent = steepest(&heard[480_000..]);
        assert!(bent < smooth * 1.2, "{bent} after {smooth}");
    }

    #[test]
    fn pauses_losses_and_the_end_make_no_click() {
        // Losses, a pause of half a second, then an end without announcement.
        let lossy = |n: u32| (n % 13 != 5 && !(400..450).contains(&n) && n < 800).then_some(2_000);
        let (heard, stats) = call(10, 400.0, lossy);
        let sine = 0.4 * TAU * 400.0 / 48_000.0;
        assert!(steepest(&heard) < sine * 3.0, "{} against {sine}", steepest(&heard));
        assert!(heard[48_000 * 9..].iter().all(|s| *s == 0.0), "silence at the end");
        assert!(!stats.speaking);
    }

    /// What a network does to packet `n`: when its copies come, in milliseconds after the packet was sent.
    type Network = Box<dyn FnMut(u32) -> Vec<u64>>;

    /// Loses packets in runs of `burst` on average, independently with 1; `copies` packets after a lost one carry it too.
    fn losing(percent: u64, burst: u64, copies: u32) -> Network {
        let mut seed = 11_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let leave = if burst == 1 { 1000 - percent * 10 } else { 1000 / burst };
        let enter = percent * leave / (100 - percent);
        let mut bad = false;
        let lost: Vec<bool> = (0..10_000)
            .map(|_| {
                bad = if bad { random(1000) >= leave } else { random(1000) < enter };
                bad
            })
            .collect();
        Box::new(move |n| {
            let carried = (0..=copies).filter(|&later| !lost[(n + later) as usize]);
            carried.map(|later| 20 + u64::from(later) * 10).collect()
        })
    }

    /// Nothing passes for so long, each five seconds from the third on.
    fn stopping(ms: u32) -> Network {
        Box::new(move |n| {
            let at = n * 10 % 5_000;
            if (3_000..3_000 + ms).contains(&at) { Vec::new() } else { vec![20] }
        })
    }

    /// Half a minute of speech through a network, coded against `loss`: what is heard, and the statistics of it from the
    /// third second on.
    fn talk(loss: Loss, mut network: Network) -> (Vec<f32>, PeerAudio) {
        let start = MediaTime::from_micros(3_000_000_000);
        let mut voice = Voice::new(start, Heard::default()).expect("a decoder");
        let mut encoder = Encoder::new().expect("an encoder");
        encoder.adapt(Bitrate::from_kbps(32), loss);
        let speech = speech::frames(10);
        let mut wire: BTreeMap<(u64, u32), (u32, Bytes)> = BTreeMap::new();
        let (mut heard, mut sent, mut before) = (Vec::new(), 0, 0);
        for block in 0..SECONDS * 400 {
            let now = block * 2500;
            if block % 4 == 0 {
                let n = (block / 4) as u32;
                let packet = encoder.encode(&speech[n as usize % speech.len()]).expect("encodes");
                for way in network(n) {
                    wire.insert((now + way * 1000, sent), (n, packet.clone()));
                    sent += 1;
                }
            }
            while let Some(entry) = wire.first_entry().filter(|entry| entry.key().0 <= now) {
                let (n, packet) = entry.remove();
                let captured = start.offset(i64::from(n) * 10_000);
                voice.receive(start.offset(now as i64), FrameId(n), captured, packet);
            }
            let now = start.offset(now as i64);
            heard.extend(voice.pull(now, now));
            if block == 2 * 400 {
                before = voice.poll_stats(ParticipantId(1), now).concealed_ms;
            }
        }
        let mut stats = voice.poll_stats(ParticipantId(1), start.offset(SECONDS as i64 * 1_000_000));
        stats.concealed_ms -= before;
        (heard, stats)
    }

    /// Blind concealment of a half minute's talk in a thousand, and the median delay in milliseconds less the network's 20 ms.
    fn talked(loss: Loss, network: Network) -> (u64, i64) {
        let (heard, stats) = talk(loss, network);
        assert!(heard.iter().all(|s| s.is_finite()));
        let delay = stats.latency.quantile(0.5).expect("sound was heard") / 1000 - 20;
        (stats.concealed_ms / (SECONDS - 2), delay)
    }

    const SECONDS: u64 = 30;

    #[test]
    fn copies_of_the_last_packets_leave_little_to_conceal() {
        let little = Loss { percent: 1, burst_ms: 10 };
        for (percent, copies, blind, delay) in [(5, 2, 3, 25), (10, 2, 3, 35), (20, 3, 5, 45)] {
            let (concealed, waited) = talked(little, losing(percent, 1, copies));
            assert!(concealed <= blind && waited <= delay, "{percent} %: {concealed} permille, {waited} ms");
        }
        let bursts = Loss { percent: 12, burst_ms: 60 };
        let (concealed, waited) = talked(bursts, losing(30, 4, 2));
        assert!(concealed <= 40 && waited <= 130, "bursts: {concealed} permille, {waited} ms");
    }

    #[test]
    fn what_nobody_sends_again_is_restored() {
        for (percent, burst, blind, delay) in
            [(5, 1, 12, 30), (10, 1, 10, 50), (20, 1, 15, 70), (30, 4, 50, 150)]
        {
            let loss = Loss { percent: percent as u8, burst_ms: burst as u32 * 10 };
            let (concealed, waited) = talked(loss, losing(percent, burst, 0));
            assert!(concealed <= blind && waited <= delay, "{percent} %: {concealed} permille, {waited} ms");
        }
    }

    #[test]
    fn an_outage_is_no_longer_than_it_is() {
        for ms in [300, 1000] {
            let (heard, stats) = talk(Loss { percent: 1, burst_ms: ms }, stopping(ms));
            // Six outages; what a full buffer had left is heard, then the end of it fades.
            assert!(stats.concealed_ms <= 6 * u64::from(ms), "{ms} ms: {} ms", stats.concealed_ms);
            assert!(stats.latency.max().expect("sound") <= 70_000, "{:?}", stats.latency.max());
            assert!(stats.buffer_ms <= 20, "{stats:?}");
            // Speech pauses 200 ms itself.
            let silent = heard.split(|s| s.abs() > 1e-4).map(<[f32]>::len).max().expect("a gap") / 48;
            assert!(silent <= ms as usize + 240, "silent for {silent} ms");
        }
    }
}
