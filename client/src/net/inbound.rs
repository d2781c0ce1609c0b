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
use crate::call::decode::{self, Channel, Decoding};
use crate::clock::MediaClock;
use crate::news::{News, NewsSender};
use crate::slot::Slot;

/// Takes the datagrams of all other participants apart.
///
/// Each connection numbers their tracks anew; people keep their number through breaks and moves, and the frames of their tracks go on
/// counting. So the buffers and decoders are here by person and [`Channel`], and each connection has [`Routes`] to them.
pub(crate) struct Inbound {
    people: BTreeMap<ParticipantId, Person>,
    video: BTreeMap<Channel, Video>,
    next_channel: u32,
    routes: Routes,
    /// Of the connection of before, as long as anything comes over it.
    old_routes: Routes,
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

/// Over which connection something came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Present,
    /// That which a move has left behind.
    Before,
}

/// Somebody whose media come.
#[derive(Default)]
struct Person {
    heard: Option<Heard>,
    /// For all sizes of the camera, which are the channels, in the order of their tracks.
    decoder: Option<SyncSender<(Channel, Frame)>>,
    channels: Vec<Channel>,
}

/// What the tracks of a connection are.
#[derive(Default)]
struct Routes {
    audio: BTreeMap<TrackId, ParticipantId>,
    video: BTreeMap<TrackId, Channel>,
}

struct Video {
    participant: ParticipantId,
    /// Its number on the present connection; none while it is not there.
    track: Option<TrackId>,
    reassembler: Reassembler,
    /// Overflow: it cannot keep up; everything up to the next key frame is dropped.
    decoder: SyncSender<(Channel, Frame)>,
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
            people: BTreeMap::new(),
            video: BTreeMap::new(),
            next_channel: 0,
            routes: Routes::default(),
            old_routes: Routes::default(),
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

    /// Somebody is here with these tracks: makes ready for those. `needed` is told of each track that needs a refresh.
    pub(crate) fn here(&mut self, now: Instant, peer: &Peer, needed: &mut Vec<Refresh>) {
        self.routes.forget(peer.id, &self.video);
        let of_kind =
            |of| peer.tracks.iter().filter(move |(_, kind)| kind_of(*kind) == of).map(|(track, _)| *track);
        self.routes.audio.extend(of_kind(MediaKind::Audio).map(|track| (track, peer.id)));
        let mut person = match self.people.remove(&peer.id) {
            Some(person) => person,
            None => self.welcome(peer),
        };
        let tracks: Vec<TrackId> = of_kind(MediaKind::Video).collect();
        for _ in person.channels.len()..tracks.len() {
            if let Err(e) = self.open_channel(peer.id, &mut person) {
                tracing::error!("cannot start a decoder: {e}");
            }
        }
        person.channels.drain(tracks.len().min(person.channels.len())..).for_each(|channel| {
            self.video.remove(&channel);
        });
        for (&track, &channel) in tracks.iter().zip(&person.channels) {
            self.routes.video.insert(track, channel);
            if let Some(video) = self.video.get_mut(&channel) {
                video.track = Some(track);
            }
        }
        self.people.insert(peer.id, person);
        let theirs = |m: &Media| tracks.contains(&m.header.track);
        let (early, others): (VecDeque<Media>, _) =
            std::mem::take(&mut self.early).into_iter().partition(theirs);
        self.early = others;
        early.iter().for_each(|media| self.handle_media(now, Way::Present, media, needed));
    }

    fn welcome(&self, peer: &Peer) -> Person {
        let heard = self.playback.as_ref().map(|p| p.joined(peer.id, peer.name.as_str()));
        if let Some(heard) = heard.clone() {
            drop(self.news.send(News::Listening(peer.id, heard)));
        }
        Person { heard, ..Person::default() }
    }

    /// One more encoding of somebody's camera.
    fn open_channel(&mut self, participant: ParticipantId, person: &mut Person) -> Result<(), String> {
        let channel = Channel(self.next_channel);
        let decoder = match person.decoder.clone() {
            Some(decoder) => decoder,
            None => self.decoder(participant, channel, person.heard.clone())?,
        };
        self.next_channel = self.next_channel.wrapping_add(1);
        person.decoder = Some(decoder.clone());
        person.channels.push(channel);
        let video =
            Video { participant, track: None, reassembler: Reassembler::default(), decoder, bytes: 0 };
        self.video.insert(channel, video);
        Ok(())
    }

    /// Starts the decoder of a participant.
    fn decoder(
        &self,
        participant: ParticipantId,
        channel: Channel,
        heard: Option<Heard>,
    ) -> Result<SyncSender<(Channel, Frame)>, String> {
        let slot = Slot::default();
        drop(self.news.send(News::Decoding(participant, slot.clone())));
        let (clock, news) = (self.clock, self.news.clone());
        let back = self.back.clone();
        let failed = move |channel| {
            if let Some(back) = back.upgrade() {
                drop(back.send(Command::DecoderFailed(channel)));
            }
        };
        decode::start(Decoding { participant, channel, heard, clock, slot, news }, failed)
    }

    /// The connection is lost. The next one numbers its tracks anew, and their media may come before the news of who is
    /// there: none of it must meet the tracks of before.
    pub(crate) fn disconnected(&mut self) {
        self.moved();
        self.moved();
    }

    /// Another connection is the present one now.
    pub(crate) fn moved(&mut self) {
        self.old_routes = std::mem::take(&mut self.routes);
        self.video.values_mut().for_each(|video| video.track = None);
        self.early.clear();
    }

    /// Nothing comes over the connection of before any more.
    pub(crate) fn left_behind(&mut self) {
        self.old_routes = Routes::default();
    }

    /// Somebody is gone.
    pub(crate) fn left(&mut self, who: ParticipantId) {
        for routes in [&mut self.routes, &mut self.old_routes] {
            routes.forget(who, &self.video);
        }
        self.people.remove(&who);
        self.video.retain(|_, v| v.participant != who);
        if let Some(playback) = &self.playback {
            playback.left(who);
        }
    }

    /// A media datagram came. `needed` is told of each track that needs a refresh.
    pub(crate) fn handle_media(&mut self, now: Instant, way: Way, media: &Media, needed: &mut Vec<Refresh>) {
        let routes = match way {
            Way::Present => &self.routes,
            Way::Before => &self.old_routes,
        };
        let track = media.header.track;
        match media.header.kind {
            MediaKind::Audio => {
                if let (Some(from), Some(playback)) = (routes.audio.get(&track), &self.playback) {
                    playback.packet(*from, media.header.frame, media.header.captured, media.payload());
                }
            }
            MediaKind::Video => {
                let channel = routes.video.get(&track).copied();
                if let Some((channel, video)) = channel.and_then(|c| Some((c, self.video.get_mut(&c)?))) {
                    video.bytes += media.body.len() as u64;
                    video.reassembler.set_round_trip(self.round_trip);
                    video.reassembler.handle_media(now, self.clock.now(), media);
                    if let Some(since) = video.drain(now, channel, needed) {
                        self.rest_others(channel, since);
                    }
                } else if way == Way::Present {
                    self.early.push_back(media.clone());
                    if self.early.len() > MAX_EARLY {
                        self.early.pop_front();
                    }
                }
            }
        }
    }

    /// The decoder of a channel failed: it needs a key frame.
    pub(crate) fn decoder_failed(&mut self, now: Instant, channel: Channel, needed: &mut Vec<Refresh>) {
        if let Some(video) = self.video.get_mut(&channel) {
            video.reassembler.reset(now);
            video.drain(now, channel, needed);
        }
    }

    /// Call when the time of [`Self::poll_timeout`] has come.
    pub(crate) fn handle_timeout(&mut self, now: Instant, needed: &mut Vec<Refresh>) {
        let mut keys = Vec::new();
        for (channel, video) in &mut self.video {
            video.reassembler.handle_timeout(now, self.clock.now());
            keys.extend(video.drain(now, *channel, needed).map(|since| (*channel, since)));
        }
        keys.into_iter().for_each(|(channel, since)| self.rest_others(channel, since));
    }

    /// A key frame of this channel, captured at `since`, came: nothing is expected of the other sizes of the same camera.
    fn rest_others(&mut self, channel: Channel, since: MediaTime) {
        let Some(who) = self.video.get(&channel).map(|v| v.participant) else { return };
        let others = self.video.iter_mut().filter(|(c, v)| **c != channel && v.participant == who);
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

impl Routes {
    /// Forgets the ways to somebody, whose channels are among these.
    fn forget(&mut self, who: ParticipantId, video: &BTreeMap<Channel, Video>) {
        self.audio.retain(|_, person| *person != who);
        self.video.retain(|_, channel| video.get(channel).is_some_and(|v| v.participant != who));
    }
}

impl Video {
    /// Hands on what there is. When a key frame was among it, returns when that was captured.
    fn drain(&mut self, now: Instant, channel: Channel, needed: &mut Vec<Refresh>) -> Option<MediaTime> {
        let mut key = None;
        while let Some(output) = self.reassembler.poll_output() {
            match output {
                Output::RefreshNeeded(decoded) => {
                    needed.extend(self.track.map(|track| Refresh { track, decoded }));
                }
                Output::Frame(frame) => {
                    key = frame.key.then_some(frame.captured).or(key);
                    match self.decoder.try_send((channel, frame)) {
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
