//! Our media on its way to the relay.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use vchat_proto::hop::{self, Sender};
use vchat_proto::id::{FrameId, TrackId};
use vchat_proto::packetize::{FrameSizeError, Packetizer};
use vchat_proto::room::kind_of;
use vchat_proto::session::Me;
use vchat_proto::units::Bitrate;
use vchat_proto::wire::datagram::{Media, MediaKind};
use vchat_proto::wire::hop::Report;

use super::Demand;
use crate::audio::AudioPacket;
use crate::video::EncodedFrame;

/// Cuts our frames into datagrams and sends them as the hop to the relay bears.
pub(crate) struct Uplink {
    audio: Option<Packetizer>,
    video: Option<Packetizer>,
    /// Frames before the first key frame on a track are of no use to anybody.
    video_begun: bool,
    /// Of the present connection.
    sender: Option<Sender>,
    demand: Arc<Demand>,
    frames: u32,
}

impl Uplink {
    pub(crate) fn new(demand: Arc<Demand>) -> Self {
        Self { audio: None, video: None, video_begun: false, sender: None, demand, frames: 0 }
    }

    /// The relay has numbered our tracks: sending begins, with a key frame.
    pub(crate) fn begin(&mut self, now: Instant, me: &Me) {
        let of_kind = |kind| {
            let track = me.tracks.iter().find(|(_, k)| kind_of(*k) == kind);
            track.map(|(id, _)| Packetizer::new(kind, *id))
        };
        (self.audio, self.video) = (of_kind(MediaKind::Audio), of_kind(MediaKind::Video));
        self.video_begun = false;
        let video_max = self.video_max();
        let start = Bitrate::from_bps(video_max.bps() * 3 / 2).clamp(MIN_START, MAX_START);
        self.sender = Some(Sender::new(now, hop::Settings { start, video_max }));
        self.demand.want_key_frame();
        self.demand.backlog.store(false, Ordering::Relaxed);
        self.demand.live.store(self.video.is_some(), Ordering::Relaxed);
    }

    /// There is no connection: nothing is sent until the next [`Self::begin`].
    pub(crate) fn pause(&mut self) {
        (self.audio, self.video, self.sender) = (None, None, None);
        self.demand.live.store(false, Ordering::Relaxed);
    }

    pub(crate) fn push_audio(&mut self, now: Instant, packet: &AudioPacket) {
        if let Some(packetizer) = &mut self.audio {
            let datagrams = packetizer.packetize(&packet.data, true, packet.captured);
            self.queue(now, datagrams);
        }
    }

    pub(crate) fn push_video(&mut self, now: Instant, frame: &EncodedFrame) {
        self.video_begun |= frame.key;
        if let Some(packetizer) = self.video.as_mut().filter(|_| self.video_begun) {
            let datagrams = packetizer.packetize(&frame.data, frame.key, frame.captured);
            if datagrams.is_err() {
                // What follows would refer to a frame that nobody has.
                self.video_begun = false;
                self.demand.want_key_frame();
            }
            self.queue(now, datagrams);
            self.frames += 1;
        }
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

    /// Somebody cannot decode what depends on frames of ours later than `decoded`.
    pub(crate) fn want_refresh(&self, _decoded: Option<FrameId>) {
        self.demand.want_key_frame();
    }

    /// Whether this track is our video.
    pub(crate) fn is_video(&self, track: TrackId) -> bool {
        self.video.as_ref().is_some_and(|v| v.track() == track)
    }

    /// The sending end of the hop to the relay, while there is one.
    pub(crate) const fn sender(&self) -> Option<&Sender> {
        self.sender.as_ref()
    }

    /// How long a round trip to the relay takes.
    pub(crate) fn round_trip(&self) -> Duration {
        self.sender.as_ref().map(Sender::round_trip).unwrap_or_default()
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

    /// Tells the encoder what the hop bears.
    fn tell(&mut self, now: Instant) {
        let video_max = self.video_max();
        let Some(sender) = &mut self.sender else { return };
        sender.set_video_max(video_max);
        // What waits is sent first, and into a dead network nothing is.
        let backlog = sender.video_wait(now) > BACKLOG || sender.is_silent(now);
        let target = sender.video_target();
        let refreshes: Vec<_> = std::iter::from_fn(|| sender.poll_refresh()).collect();
        self.demand.backlog.store(backlog, Ordering::Relaxed);
        self.demand.target_bps.store(target.bps(), Ordering::Relaxed);
        refreshes.into_iter().for_each(|refresh| self.want_refresh(refresh.decoded));
    }

    fn video_max(&self) -> Bitrate {
        Bitrate::from_bps(self.demand.max_bps.load(Ordering::Relaxed))
    }
}

/// Two frames at 30 a second: enough to even out a key frame, too little to be felt.
const BACKLOG: Duration = Duration::from_millis(66);
/// What to begin with, before anything is known: most networks bear this, and more is found within a second.
const MIN_START: Bitrate = Bitrate::from_kbps(300);
const MAX_START: Bitrate = Bitrate::from_kbps(1_200);
