//! The media of the others, from datagrams to decoders and playback.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::WeakUnboundedSender;
use vchat_proto::id::{FrameId, ParticipantId, TrackId};
use vchat_proto::reassemble::{Frame, Output, Reassembler};
use vchat_proto::room::kind_of;
use vchat_proto::session::Peer;
use vchat_proto::units::MediaTime;
use vchat_proto::wire::datagram::{Media, MediaKind};
use vchat_proto::wire::limits::MAX_FRAGMENTS;

use super::Command;
use crate::audio::{Heard, PlaybackHandle};
use crate::call::decode::{self, Decoding};
use crate::clock::MediaClock;
use crate::news::{News, NewsSender};
use crate::slot::Slot;

/// Takes the datagrams of all other participants apart.
pub(crate) struct Inbound {
    audio: BTreeMap<TrackId, ParticipantId>,
    video: BTreeMap<TrackId, Video>,
    /// Video that overtook the news of its sender: without the key frame in it they would be seen a round trip later.
    /// Overflow, past [`MAX_EARLY`]: the oldest gives way.
    early: VecDeque<Media>,
    playback: Option<PlaybackHandle>,
    back: WeakUnboundedSender<Command>,
    news: NewsSender,
    clock: MediaClock,
    round_trip: Duration,
}

/// A track of which we need a frame that depends on none later than `decoded`; without one, a key frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refresh {
    pub(crate) track: TrackId,
    pub(crate) decoded: Option<FrameId>,
}

struct Video {
    participant: ParticipantId,
    reassembler: Reassembler,
    /// That of the participant, for all sizes of the camera. Overflow: it cannot keep up; everything up to the next key frame
    /// is dropped.
    decoder: SyncSender<(TrackId, Frame)>,
    bytes: u64,
}

impl Inbound {
    pub(crate) fn new(
        playback: Option<PlaybackHandle>,
        back: WeakUnboundedSender<Command>,
        news: NewsSender,
        clock: MediaClock,
    ) -> Self {
        Self {
            audio: BTreeMap::new(),
            video: BTreeMap::new(),
            early: VecDeque::new(),
            playback,
            back,
            news,
            clock,
            round_trip: Duration::ZERO,
        }
    }

    /// How long a round trip to the relay takes, which repairs what we miss.
    pub(crate) const fn set_round_trip(&mut self, round_trip: Duration) {
        self.round_trip = round_trip;
    }

    /// Somebody is here: makes ready for their tracks. `needed` is told of each track that needs a refresh.
    pub(crate) fn joined(&mut self, now: Instant, peer: &Peer, needed: &mut Vec<Refresh>) {
        let heard = self.playback.as_ref().map(|p| p.joined(peer.id, peer.name.as_str()));
        if let Some(heard) = heard.clone() {
            drop(self.news.send(News::Listening(peer.id, heard)));
        }
        let of_kind =
            |of| peer.tracks.iter().filter(move |(_, kind)| kind_of(*kind) == of).map(|(track, _)| *track);
        self.audio.extend(of_kind(MediaKind::Audio).map(|track| (track, peer.id)));
        if let Some(first) = of_kind(MediaKind::Video).next() {
            match self.decoder(peer.id, first, heard) {
                Ok(decoder) => {
                    for track in of_kind(MediaKind::Video) {
                        let (decoder, reassembler) = (decoder.clone(), Reassembler::default());
                        let video = Video { participant: peer.id, reassembler, decoder, bytes: 0 };
                        self.video.insert(track, video);
                    }
                }
                Err(e) => tracing::error!("cannot start a decoder: {e}"),
            }
        }
        let theirs = |m: &Media| peer.tracks.iter().any(|(track, _)| *track == m.header.track);
        let (early, others): (VecDeque<Media>, _) =
            std::mem::take(&mut self.early).into_iter().partition(theirs);
        self.early = others;
        early.iter().for_each(|media| self.handle_media(now, media, needed));
    }

    /// Starts the decoder of a participant.
    fn decoder(
        &self,
        participant: ParticipantId,
        track: TrackId,
        heard: Option<Heard>,
    ) -> Result<SyncSender<(TrackId, Frame)>, String> {
        let slot = Slot::default();
        drop(self.news.send(News::Decoding(participant, slot.clone())));
        let (clock, news) = (self.clock, self.news.clone());
        let back = self.back.clone();
        let failed = move |track| {
            if let Some(back) = back.upgrade() {
                drop(back.send(Command::DecoderFailed(track)));
            }
        };
        decode::start(Decoding { participant, track, heard, clock, slot, news }, failed)
    }

    /// The connection is lost. The next one numbers its tracks anew, and their media may come before the news of who is
    /// there: none of it must meet the tracks of before.
    pub(crate) fn disconnected(&mut self) {
        self.audio.clear();
        self.video.clear();
        self.early.clear();
    }

    /// Somebody is gone.
    pub(crate) fn left(&mut self, who: ParticipantId) {
        self.audio.retain(|_, p| *p != who);
        self.video.retain(|_, v| v.participant != who);
        if let Some(playback) = &self.playback {
            playback.left(who);
        }
    }

    /// A media datagram came. `needed` is told of each track that needs a refresh.
    pub(crate) fn handle_media(&mut self, now: Instant, media: &Media, needed: &mut Vec<Refresh>) {
        let track = media.header.track;
        match media.header.kind {
            MediaKind::Audio => {
                if let (Some(from), Some(playback)) = (self.audio.get(&track), &self.playback) {
                    playback.packet(*from, media.header.frame, media.header.captured, media.payload());
                }
            }
            MediaKind::Video => {
                if let Some(video) = self.video.get_mut(&track) {
                    video.bytes += media.body.len() as u64;
                    video.reassembler.set_round_trip(self.round_trip);
                    video.reassembler.handle_media(now, self.clock.now(), media);
                    if let Some(since) = video.drain(now, track, needed) {
                        self.rest_others(track, since);
                    }
                } else {
                    self.early.push_back(media.clone());
                    if self.early.len() > MAX_EARLY {
                        self.early.pop_front();
                    }
                }
            }
        }
    }

    /// The decoder of a track failed: it needs a key frame.
    pub(crate) fn decoder_failed(&mut self, now: Instant, track: TrackId, needed: &mut Vec<Refresh>) {
        if let Some(video) = self.video.get_mut(&track) {
            video.reassembler.reset(now);
            video.drain(now, track, needed);
        }
    }

    /// Call when the time of [`Self::poll_timeout`] has come.
    pub(crate) fn handle_timeout(&mut self, now: Instant, needed: &mut Vec<Refresh>) {
        let mut keys = Vec::new();
        for (track, video) in &mut self.video {
            video.reassembler.handle_timeout(now, self.clock.now());
            keys.extend(video.drain(now, *track, needed).map(|since| (*track, since)));
        }
        keys.into_iter().for_each(|(track, since)| self.rest_others(track, since));
    }

    /// A key frame of this track, captured at `since`, came: nothing is expected of the other sizes of the same camera.
    fn rest_others(&mut self, track: TrackId, since: MediaTime) {
        let Some(who) = self.video.get(&track).map(|v| v.participant) else { return };
        let others = self.video.iter_mut().filter(|(t, v)| **t != track && v.participant == who);
        others.for_each(|(_, v)| v.reassembler.rest(since));
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.video.values().filter_map(|v| v.reassembler.poll_timeout()).min()
    }

    /// Bytes of video received from each participant since the last call.
    pub(crate) fn take_bytes(&mut self) -> Vec<(ParticipantId, u64)> {
        self.video.values_mut().map(|v| (v.participant, std::mem::take(&mut v.bytes))).collect()
    }
}

impl Video {
    /// Hands on what there is. When a key frame was among it, returns when that was captured.
    fn drain(&mut self, now: Instant, track: TrackId, needed: &mut Vec<Refresh>) -> Option<MediaTime> {
        let mut key = None;
        while let Some(output) = self.reassembler.poll_output() {
            match output {
                Output::RefreshNeeded(decoded) => needed.push(Refresh { track, decoded }),
                Output::Frame(frame) => {
                    key = frame.key.then_some(frame.captured).or(key);
                    match self.decoder.try_send((track, frame)) {
                        Ok(()) => {}
                        Err(TrySendError::Full(_)) => self.reassembler.reset(now),
                        // The decoder is gone; that has been reported.
                        Err(TrySendError::Disconnected(_)) => {}
                    }
                }
            }
        }
        key
    }
}

/// The largest frame, or some frames of each of several people.
const MAX_EARLY: usize = MAX_FRAGMENTS as usize;
