//! Our media on its way to the relay.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use vchat_proto::hop::{self, Sender};
use vchat_proto::id::{FrameId, TrackId};
use vchat_proto::packetize::{FrameInfo, FrameSizeError, Packetizer};
use vchat_proto::session::Me;
use vchat_proto::units::Bitrate;
use vchat_proto::wire::datagram::{Dependency, Media, MediaKind};
use vchat_proto::wire::hop::Report;
use vchat_proto::wire::pb;

use super::Demand;
use crate::audio::AudioPacket;
use crate::video::{EncodedFrame, Encoding};

/// Cuts our frames into datagrams and sends them as the hop to the relay bears.
pub(crate) struct Uplink {
    tracks: Tracks,
    /// Those of the connection that it moves to.
    next: Option<Tracks>,
    /// The number of the next frame of sound. Frames count through breaks and moves, also those that nobody is sent: who hears us goes
    /// on with the same buffer.
    next_audio: FrameId,
    /// Of the present connection.
    sender: Option<Sender>,
    demand: Arc<Demand>,
    frames: u32,
}

/// Our tracks as one connection numbers them.
#[derive(Default)]
struct Tracks {
    audio: Option<Packetizer>,
    full: Option<Video>,
    small: Option<Video>,
}

/// A track of ours.
struct Video {
    packetizer: Packetizer,
    /// Frames before the first key frame on a track are of no use to anybody.
    begun: bool,
    /// Somebody receives it.
    wanted: bool,
    /// Nobody can take more.
    limit: Option<Bitrate>,
}

impl Tracks {
    fn new(me: &Me) -> Self {
        let of_kind = |kind| me.tracks.iter().find(|(_, k)| *k == kind).map(|(id, _)| *id);
        let video = |kind, wanted| {
            let packetizer = Packetizer::new(MediaKind::Video, of_kind(kind)?);
            Some(Video { packetizer, begun: false, wanted, limit: None })
        };
        Self {
            audio: of_kind(pb::TrackKind::Microphone).map(|id| Packetizer::new(MediaKind::Audio, id)),
            full: video(pb::TrackKind::Camera, true),
            small: video(pb::TrackKind::CameraSmall, false),
        }
    }
}

impl Uplink {
    pub(crate) fn new(demand: Arc<Demand>) -> Self {
        let (tracks, next_audio) = (Tracks::default(), FrameId(0));
        Self { tracks, next: None, next_audio, sender: None, demand, frames: 0 }
    }

    /// The relay has numbered our tracks on the connection on which the next [`Self::begin`] is to begin; what it says of them from now
    /// on is in those numbers.
    pub(crate) fn prepare(&mut self, me: &Me) {
        self.next = Some(Tracks::new(me));
    }

    /// Sending begins on the connection that was prepared, with a key frame.
    pub(crate) fn begin(&mut self, now: Instant) {
        let Some(tracks) = self.next.take() else { return };
        self.tracks = tracks;
        // A move is no reason to think less of the line than before.
        let start = self.sender.as_ref().map_or(START, |sender| sender.target().max(START));
        for video in [&mut self.tracks.full, &mut self.tracks.small].into_iter().flatten() {
            video.packetizer.set_rate(start);
        }
        let video_max = self.video_max();
        self.sender = Some(Sender::new(now, hop::Settings { start, video_max }));
        self.demand.full.want_key_frame();
        if self.tracks.small.as_ref().is_some_and(|v| v.wanted) {
            self.demand.small.want_key_frame();
        }
        self.demand.hold.store(false, Ordering::Relaxed);
        self.demand.live.store(self.tracks.full.is_some(), Ordering::Relaxed);
    }

    /// There is no connection: nothing is sent until the next [`Self::begin`].
    pub(crate) fn pause(&mut self) {
        (self.tracks, self.next, self.sender) = (Tracks::default(), None, None);
        self.demand.live.store(false, Ordering::Relaxed);
        self.demand.small.set_target(Bitrate::from_bps(0));
    }

    pub(crate) fn push_audio(&mut self, now: Instant, packet: &AudioPacket) {
        let number = self.next_audio;
        self.next_audio = number.plus(1);
        if let Some(packetizer) = &mut self.tracks.audio {
            let (dependency, captured) = (Dependency::None, packet.captured);
            let info = FrameInfo { number, dependency, temporal: 0, discardable: false, captured };
            let datagrams = packetizer.packetize_frame(&info, &packet.data);
            self.queue(now, datagrams);
        }
    }

    pub(crate) fn push_video(&mut self, now: Instant, frame: &EncodedFrame) {
        let track = match frame.encoding {
            Encoding::Full => &mut self.tracks.full,
            Encoding::Small => &mut self.tracks.small,
        };
        let Some(video) = track else { return };
        video.begun |= frame.is_key();
        if !video.begun || !video.wanted {
            return;
        }
        let EncodedFrame { number, dependency, temporal, discardable, captured, .. } = *frame;
        let info = FrameInfo { number, dependency, temporal, discardable, captured };
        let datagrams = video.packetizer.packetize_frame(&info, &frame.data);
        if datagrams.is_err() {
            // What follows would refer to a frame that nobody has.
            video.begun = false;
            self.demand.of(frame.encoding).want_key_frame();
        }
        self.queue(now, datagrams);
        self.frames += u32::from(frame.encoding == Encoding::Full);
    }

    /// The relay tells what of ours has arrived.
    pub(crate) fn handle_report(&mut self, now: Instant, report: &Report) {
        if let Some(sender) = &mut self.sender {
            sender.handle_report(now, report);
        }
        self.tell(now);
    }

    /// The next datagram to send now.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Bytes> {
        let sender = self.sender.as_mut()?;
        sender.handle_timeout(now);
        let next = sender.poll_datagram(now);
        if next.is_none() {
            self.tell(now);
        }
        next
    }

    /// When to call [`Self::pop`] again, though nothing new comes.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.sender.as_ref()?.poll_timeout()
    }

    /// Somebody cannot decode what depends on frames of this track later than `decoded`.
    pub(crate) fn want_refresh(&self, track: TrackId, decoded: Option<FrameId>) {
        // What is prepared begins with a key frame.
        if self.next.is_none() {
            self.refresh(track, decoded);
        }
    }

    /// Somebody receives this track of ours, or nobody does any more.
    pub(crate) fn set_wanted(&mut self, track: TrackId, wanted: bool) {
        let Tracks { full, small, .. } = self.next.as_mut().unwrap_or(&mut self.tracks);
        for (video, demand) in [(full, &self.demand.full), (small, &self.demand.small)] {
            if let Some(video) = video.as_mut().filter(|v| v.packetizer.track() == track) {
                video.wanted = wanted;
                if wanted {
                    demand.want_key_frame();
                }
            }
        }
    }

    /// Nobody can take more of this track.
    pub(crate) fn set_limit(&mut self, track: TrackId, limit: Option<Bitrate>) {
        let tracks = self.next.as_mut().unwrap_or(&mut self.tracks);
        if let Some(full) = tracks.full.as_mut().filter(|v| v.packetizer.track() == track) {
            full.limit = limit;
        }
    }

    /// The sending end of the hop to the relay, while there is one.
    pub(crate) const fn sender(&self) -> Option<&Sender> {
        self.sender.as_ref()
    }

    /// How long a round trip to the relay takes.
    pub(crate) fn round_trip(&self) -> Duration {
        self.sender.as_ref().map(Sender::round_trip).unwrap_or_default()
    }

    /// How long losses last when they come, in milliseconds.
    pub(crate) fn burst_ms(&self) -> u32 {
        let Some(loss) = self.sender.as_ref().map(Sender::loss).filter(|l| l.rate > 0.0) else { return 0 };
        loss.burst_ms()
    }

    /// Video frames sent since the last call.
    pub(crate) fn take_frames(&mut self) -> u32 {
        std::mem::take(&mut self.frames)
    }

    fn queue(&mut self, now: Instant, datagrams: Result<Vec<BytesMut>, FrameSizeError>) {
        match datagrams {
            Ok(datagrams) => {
                for media in datagrams.into_iter().filter_map(|d| Media::parse(d.freeze()).ok()) {
                    if let Some(sender) = &mut self.sender {
                        sender.push(now, media.header, media.body);
                    }
                }
            }
            Err(e) => tracing::warn!("{e}"),
        }
    }

    /// Tells the encoders what the hop bears.
    fn tell(&mut self, now: Instant) {
        let video_max = self.video_max();
        let small_max = self.small_max();
        let Some(sender) = &mut self.sender else { return };
        sender.set_video_max(video_max);
        // What waits is sent first, and into a dead network nothing is.
        let hold = sender.video_wait(now) > BACKLOG || sender.is_silent(now);
        let target = sender.video_target();
        let refreshes: Vec<_> = std::iter::from_fn(|| sender.poll_refresh()).collect();
        // Whoever is shown the small pictures has no others, so they are not the first to suffer.
        let full_wanted = self.tracks.full.as_ref().is_some_and(|v| v.wanted);
        let share = if full_wanted { SMALL_SHARE } else { 1 };
        let small = small_max.min(Bitrate::from_bps(target.bps() / share));
        let full = Bitrate::from_bps(target.bps() - small.bps());
        let full = self.tracks.full.as_ref().and_then(|v| v.limit).map_or(full, |limit| full.min(limit));
        self.demand.hold.store(hold, Ordering::Relaxed);
        self.demand.full.set_paused(!full_wanted);
        for (video, demand, rate) in [
            (&mut self.tracks.full, &self.demand.full, full),
            (&mut self.tracks.small, &self.demand.small, small),
        ] {
            demand.set_target(rate);
            if let Some(video) = video {
                video.packetizer.set_rate(rate);
            }
        }
        refreshes.into_iter().for_each(|refresh| self.refresh(refresh.track, refresh.decoded));
    }

    fn refresh(&self, track: TrackId, decoded: Option<FrameId>) {
        let is = |video: &Option<Video>| video.as_ref().is_some_and(|v| v.packetizer.track() == track);
        let wanted = match (is(&self.tracks.full), is(&self.tracks.small)) {
            (true, _) => &self.demand.full,
            (_, true) => &self.demand.small,
            _ => return,
        };
        match decoded {
            Some(frame) => wanted.want_refresh(frame),
            None => wanted.want_key_frame(),
        }
    }

    /// What all encodings would take.
    fn video_max(&self) -> Bitrate {
        let full_wanted = self.tracks.full.as_ref().is_some_and(|v| v.wanted);
        let full = if full_wanted { self.demand.full.max().bps() } else { 0 };
        Bitrate::from_bps(full + self.small_max().bps())
    }

    /// What the small encoding would take, if somebody receives it.
    fn small_max(&self) -> Bitrate {
        let wanted = self.tracks.small.as_ref().is_some_and(|v| v.wanted);
        if wanted {
            Bitrate::from_bps(self.demand.full.max().bps() / SMALL_SHARE)
        } else {
            Bitrate::default()
        }
    }
}

/// Two frames at 30 a second: enough to even out a key frame, too little to be felt.
const BACKLOG: Duration = Duration::from_millis(66);
/// A quarter of the pixels for a quarter of the bits: softer, but it is shown small or to who cannot receive more.
const SMALL_SHARE: u64 = 4;
/// What to begin with, before anything is known: most networks bear this, and where there is more it is found within a
/// second. What a narrow line does not bear stands in its queue for much longer.
const START: Bitrate = Bitrate::from_kbps(400);
