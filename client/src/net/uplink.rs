//! Our media on its way to the relay.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use vchat_proto::egress::Egress;
use vchat_proto::id::TrackId;
use vchat_proto::packetize::{FrameInfo, FrameSizeError, Packetizer};
use vchat_proto::room::kind_of;
use vchat_proto::session::Me;
use vchat_proto::wire::datagram::{Media, MediaKind};

use super::Demand;
use crate::audio::AudioPacket;
use crate::video::{EncodedFrame, Encoding};

/// Cuts our frames into datagrams and queues them until the connection takes them.
pub(crate) struct Uplink {
    audio: Option<Packetizer>,
    video: Option<Packetizer>,
    /// Frames before the first key frame on a track are of no use to anybody.
    video_begun: bool,
    egress: Egress,
    demand: Arc<Demand>,
    pub(crate) sent: Sent,
}

/// What was sent since the last look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) bytes: u64,
    pub(crate) frames: u32,
}

impl Uplink {
    pub(crate) fn new(demand: Arc<Demand>) -> Self {
        Self {
            audio: None,
            video: None,
            video_begun: false,
            egress: Egress::default(),
            demand,
            sent: Sent::default(),
        }
    }

    /// The relay has numbered our tracks: sending begins, with a key frame.
    pub(crate) fn begin(&mut self, me: &Me) {
        let of_kind = |kind| {
            let track = me.tracks.iter().find(|(_, k)| kind_of(*k) == kind);
            track.map(|(id, _)| Packetizer::new(kind, *id))
        };
        (self.audio, self.video) = (of_kind(MediaKind::Audio), of_kind(MediaKind::Video));
        self.egress = Egress::default();
        self.video_begun = false;
        self.demand.full.want_key_frame();
        self.demand.hold.store(false, Ordering::Relaxed);
        self.demand.live.store(self.video.is_some(), Ordering::Relaxed);
    }

    /// There is no connection: nothing is sent until the next [`Self::begin`].
    pub(crate) fn pause(&mut self) {
        (self.audio, self.video) = (None, None);
        self.egress = Egress::default();
        self.demand.live.store(false, Ordering::Relaxed);
    }

    pub(crate) fn push_audio(&mut self, now: Instant, packet: &AudioPacket) {
        if let Some(packetizer) = &mut self.audio {
            let datagrams = packetizer.packetize(&packet.data, true, packet.captured);
            self.queue(now, datagrams);
        }
    }

    pub(crate) fn push_video(&mut self, now: Instant, frame: &EncodedFrame) {
        // The small encoding has no track.
        if frame.encoding != Encoding::Full {
            return;
        }
        self.video_begun |= frame.is_key();
        if let Some(packetizer) = self.video.as_mut().filter(|_| self.video_begun) {
            let EncodedFrame { number, dependency, temporal, discardable, captured, .. } = *frame;
            let info = FrameInfo { number, dependency, temporal, discardable, captured };
            let datagrams = packetizer.packetize_frame(&info, &frame.data);
            if datagrams.is_err() {
                // What follows would refer to a frame that nobody has.
                self.video_begun = false;
                self.demand.full.want_key_frame();
            }
            self.queue(now, datagrams);
            self.sent.frames += 1;
        }
    }

    /// The next datagram to send.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Bytes> {
        let next = self.egress.pop();
        let wait = self.egress.video_wait(now);
        self.demand.hold.store(wait > BACKLOG, Ordering::Relaxed);
        if let Some(datagram) = &next {
            self.sent.bytes += datagram.len() as u64;
        }
        next
    }

    /// Somebody needs a key frame.
    pub(crate) fn want_key_frame(&self) {
        self.demand.full.want_key_frame();
    }

    /// Whether this track is our video.
    pub(crate) fn is_video(&self, track: TrackId) -> bool {
        self.video.as_ref().is_some_and(|v| v.track() == track)
    }

    fn queue(&mut self, now: Instant, datagrams: Result<Vec<BytesMut>, FrameSizeError>) {
        match datagrams {
            Ok(datagrams) => {
                for media in datagrams.into_iter().filter_map(|d| Media::parse(d.freeze()).ok()) {
                    self.egress.push(now, media.header, media.body);
                }
            }
            Err(e) => tracing::warn!("{e}"),
        }
        while self.egress.poll_key_frame_needed().is_some() {
            self.demand.full.want_key_frame();
        }
    }
}

/// Two frames at 30 a second: enough to even out a key frame, too little to be felt.
const BACKLOG: Duration = Duration::from_millis(66);
