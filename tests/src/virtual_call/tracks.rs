//! What a client sends and what it makes of what it receives, track by track.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use vchat_proto::hop::Sender;
use vchat_proto::id::{FrameId, TrackId};
use vchat_proto::jitter::{FRAME, JitterBuffer, Packet, Stretch, Tick};
use vchat_proto::packetize::{FrameInfo, FrameSizeError, Packetizer};
use vchat_proto::reassemble::{Output, Reassembler};
use vchat_proto::room::kind_of;
use vchat_proto::session::Me;
use vchat_proto::units::{Bitrate, MediaTime};
use vchat_proto::wire::datagram::Media;
use vchat_proto::wire::pb;

use super::client::{Heard, Shown};
use super::media::{Decoder, Encoder};
use crate::netem::Random;

/// Camera, encoder and microphone.
#[derive(Debug)]
pub(super) struct Source {
    full: Camera,
    small: Camera,
    /// Nobody can take more of the full pictures.
    limit: Option<Bitrate>,
    /// What the encoder of the full pictures was told last.
    pub(super) rate: Bitrate,
    audio: Option<Packetizer>,
    picture_at: Duration,
    sound_at: Duration,
}

/// One size of the camera's pictures.
#[derive(Debug)]
struct Camera {
    /// A frame is needed that depends on none later than this one; without one, a key frame.
    needed: Option<Option<FrameId>>,
    /// Somebody receives it.
    wanted: bool,
    encoder: Encoder,
    packetizer: Option<Packetizer>,
}

/// Somebody's pictures.
#[derive(Debug)]
pub(super) struct Video {
    pub(super) from: String,
    pub(super) reassembler: Reassembler,
    decoder: Decoder,
    /// When their media clock was zero, in microseconds since the world began.
    clock_zero_us: i64,
    /// The same of the viewer's.
    viewer_zero_us: i64,
}

/// Somebody's sound.
#[derive(Debug)]
pub(super) struct Voice {
    pub(super) from: String,
    buffer: JitterBuffer,
    last: Option<u32>,
    play_at: Duration,
    clock_zero_us: i64,
}

impl Source {
    pub(super) fn new(now: Duration, random: &mut Random) -> Self {
        Self {
            full: Camera::new(random),
            small: Camera::new(random),
            limit: None,
            rate: Bitrate::default(),
            audio: None,
            picture_at: now + random.below(FRAME_INTERVAL),
            sound_at: now + random.below(FRAME),
        }
    }

    /// The relay has numbered our tracks: sending begins, with a key frame.
    pub(super) fn begin(&mut self, me: &Me) {
        let of_kind = |kind| {
            let track = me.tracks.iter().find(|(_, k)| *k == kind);
            track.map(|(id, _)| Packetizer::new(kind_of(kind), *id))
        };
        self.audio = of_kind(pb::TrackKind::Microphone);
        self.full.begin(of_kind(pb::TrackKind::Camera), true);
        self.small.begin(of_kind(pb::TrackKind::CameraSmall), false);
        self.limit = None;
    }

    pub(super) fn pause(&mut self) {
        (self.full.packetizer, self.small.packetizer, self.audio) = (None, None, None);
    }

    /// Somebody receives this track, or nobody does any more.
    pub(super) fn set_wanted(&mut self, track: TrackId, wanted: bool) {
        if let Some(camera) = self.camera(track) {
            camera.wanted = wanted;
            camera.needed = Some(None);
        }
    }

    /// Nobody can take more of the full pictures.
    pub(super) const fn set_limit(&mut self, limit: Option<Bitrate>) {
        self.limit = limit;
    }

    fn camera(&mut self, track: TrackId) -> Option<&mut Camera> {
        let is = |c: &Camera| c.packetizer.as_ref().is_some_and(|p| p.track() == track);
        [&mut self.full, &mut self.small].into_iter().find(|c| is(c))
    }

    pub(super) fn next_event(&self) -> Duration {
        self.picture_at.min(self.sound_at)
    }

    /// Somebody needs a refresh. Of several requests the one that helps all counts.
    pub(super) fn want(&mut self, track: TrackId, decoded: Option<FrameId>) {
        let Some(camera) = self.camera(track) else { return };
        camera.needed = Some(match (camera.needed, decoded) {
            (None, decoded) => decoded,
            (Some(Some(a)), Some(b)) => Some(if a.is_after(b) { b } else { a }),
            (Some(_), _) => None,
        });
    }

    /// Captures what is due, for a connection if there is one. `clock` is media time at the world's zero.
    pub(super) fn capture(
        &mut self,
        start: Instant,
        now: Duration,
        clock: MediaTime,
        mut sender: Option<&mut Sender>,
    ) {
        let at = start + now;
        while self.picture_at <= now {
            let captured = clock + self.picture_at;
            self.picture_at += FRAME_INTERVAL;
            let Some(sender) = sender.as_deref_mut() else { continue };
            // What waits already is enough: the next picture will be a newer one.
            if sender.video_wait(at) > BACKLOG || sender.is_silent(at) {
                continue;
            }
            let target = sender.video_target();
            let small = Bitrate::from_bps(if self.small.wanted { target.bps() / 4 } else { 0 });
            let full = Bitrate::from_bps(target.bps() - small.bps());
            let full = self.limit.map_or(full, |limit| limit.min(full));
            self.rate = full;
            self.full.encode(sender, at, captured, full);
            self.small.encode(sender, at, captured, small);
        }
        while self.sound_at <= now {
            let captured = clock + self.sound_at;
            self.sound_at += FRAME;
            if let Some((sender, packetizer)) = sender.as_deref_mut().zip(self.audio.as_mut()) {
                let number = packetizer.next_frame().0.to_be_bytes();
                let data: Vec<u8> = number.into_iter().cycle().take(OPUS_BYTES).collect();
                send(sender, at, packetizer.packetize(&data, true, captured));
            }
        }
    }
}

impl Camera {
    fn new(random: &mut Random) -> Self {
        let encoder = Encoder::new(Random::new(random.bits(), 0));
        Self { needed: None, wanted: false, encoder, packetizer: None }
    }

    fn begin(&mut self, packetizer: Option<Packetizer>, wanted: bool) {
        (self.packetizer, self.wanted, self.needed) = (packetizer, wanted, Some(None));
    }

    fn encode(&mut self, sender: &mut Sender, at: Instant, captured: MediaTime, rate: Bitrate) {
        if let Some(packetizer) = self.packetizer.as_mut().filter(|_| self.wanted) {
            let (data, encoded) = self.encoder.encode(self.needed.take(), rate);
            let info = FrameInfo { captured, ..encoded };
            packetizer.set_rate(rate);
            send(sender, at, packetizer.packetize_frame(&info, &data));
        }
    }
}

impl Video {
    pub(super) fn new(from: &str, clock_zero_us: i64, viewer_zero_us: i64) -> Self {
        Self {
            from: from.into(),
            reassembler: Reassembler::default(),
            decoder: Decoder::default(),
            clock_zero_us,
            viewer_zero_us,
        }
    }

    /// Decodes what can be decoded. Panics where a real decoder would show garbage.
    pub(super) fn drain(
        &mut self,
        now: Duration,
        track: TrackId,
        needed: &mut Vec<(TrackId, Option<FrameId>)>,
        shown: &mut Vec<Shown>,
    ) -> Option<MediaTime> {
        let mut key = None;
        while let Some(output) = self.reassembler.poll_output() {
            match output {
                Output::RefreshNeeded(decoded) => needed.push((track, decoded)),
                Output::Frame(frame) => {
                    let picture = self.decoder.decode(&frame.data, &self.from);
                    assert_eq!(
                        frame.key,
                        picture.reference.is_none(),
                        "the header's key flag: {}",
                        self.from
                    );
                    key = frame.key.then_some(frame.captured).or(key);
                    let captured = frame.captured.as_micros() as i64 + self.clock_zero_us;
                    let captured = Duration::from_micros(captured.max(0).unsigned_abs());
                    // The first pictures of another size may be older than the last one of the size before.
                    if shown.last().is_some_and(|s| captured <= s.captured) {
                        continue;
                    }
                    let due = frame.due.map_or(0, |due| due.as_micros() as i64 + self.viewer_zero_us);
                    let at = now.max(Duration::from_micros(due.max(0).unsigned_abs()));
                    // A decoder shows one after the other.
                    let at = shown.last().map_or(at, |last| at.max(last.at));
                    shown.push(Shown { at, captured, number: picture.number, key: frame.key });
                }
            }
        }
        key
    }
}

impl Voice {
    pub(super) fn new(now: Duration, from: &str, clock_zero_us: i64) -> Self {
        Self { from: from.into(), buffer: JitterBuffer::new(), last: None, play_at: now, clock_zero_us }
    }

    pub(super) fn handle(&mut self, now: MediaTime, media: &Media) {
        let (id, captured) = (media.header.frame, media.header.captured);
        let (reach, pauses, payload) = (1, false, media.payload());
        self.buffer.handle_packet(now, Packet { id, captured, reach, pauses, payload });
    }

    /// When the sound decoded so far is over.
    pub(super) const fn next_event(&self) -> Duration {
        self.play_at
    }

    /// The sound card has played what there was. `clock` is the listener's media time at the world's zero.
    pub(super) fn play(&mut self, now: Duration, clock: MediaTime, heard: &mut Heard) {
        while self.play_at <= now {
            let at = self.play_at;
            let stretched = match self.buffer.tick(clock + at) {
                Tick::Play { packet, stretch } => {
                    self.check(&packet);
                    let captured = packet.captured.as_micros() as i64 + self.clock_zero_us;
                    heard.delays.push(Duration::from_micros(
                        (at.as_micros() as i64 - captured).max(0).unsigned_abs(),
                    ));
                    // A time stretcher cuts or repeats one pitch period.
                    match stretch {
                        Stretch::Keep => 0,
                        Stretch::Shorten { excess, .. } => -(excess.min(PITCH_PERIOD).as_micros() as i64),
                        Stretch::Lengthen { lack } => lack.min(PITCH_PERIOD).as_micros() as i64,
                    }
                }
                Tick::Conceal { .. } => 0,
                Tick::Silence => {
                    self.play_at += BLOCK;
                    continue;
                }
            };
            self.buffer.handle_stretched(stretched);
            self.play_at += FRAME;
            self.play_at = match stretched {
                0.. => self.play_at + Duration::from_micros(stretched.unsigned_abs()),
                _ => self.play_at - Duration::from_micros(stretched.unsigned_abs()),
            };
        }
        heard.stats = self.buffer.stats();
    }

    fn check(&mut self, packet: &Packet) {
        let number = packet.id.0;
        let payload = number.to_be_bytes().into_iter().cycle().take(OPUS_BYTES);
        assert!(payload.eq(packet.payload.iter().copied()), "sound is damaged: {}", self.from);
        assert!(
            self.last.is_none_or(|last| number > last),
            "sound out of order: {number} of {} after {:?}",
            self.from,
            self.last
        );
        self.last = Some(number);
    }
}

fn send(sender: &mut Sender, at: Instant, datagrams: Result<Vec<BytesMut>, FrameSizeError>) {
    for datagram in datagrams.unwrap_or_else(|e| panic!("the model's {e}")) {
        let media = Media::parse(datagram.freeze()).unwrap_or_else(|e| panic!("the packetizer makes a {e}"));
        sender.push(at, media.header, media.body);
    }
}

/// 30 pictures a second.
pub(super) const FRAME_INTERVAL: Duration = Duration::from_micros(33_333);
/// As the client does: two frames even out a key frame.
const BACKLOG: Duration = Duration::from_millis(66);
/// 10 ms of Opus at 32 kb/s.
const OPUS_BYTES: usize = 40;
/// What a mixer takes at once.
const BLOCK: Duration = Duration::from_micros(2_500);
/// Of most voices.
const PITCH_PERIOD: Duration = Duration::from_millis(5);
