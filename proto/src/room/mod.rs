//! The relay's side of a call: who is in a room, what is forwarded to whom, and the room's chat.

mod audience;
mod chat;
mod layers;
mod meter;
mod once;
mod page;
mod recent;
mod refresh;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use self::audience::Audience;
pub use self::chat::{Author, Kept, Post, Stored};
use self::chat::{History, Outcome, Posted};
use self::layers::Layers;
use self::once::Seen;
pub use self::page::Older;
use self::recent::Recent;
use self::refresh::{Need, Requests};
use crate::bucket::TokenBucket;
use crate::id::{ChatId, DisplayName, FrameId, ParticipantId, TrackId};
use crate::units::Bitrate;
use crate::wire::close::CloseCode;
use crate::wire::datagram::{Media, MediaHeader, MediaKind};
use crate::wire::limits::{CHAT_RATE, MAX_PARTICIPANTS, MAX_TRACKS, MESSAGE_RATE, PAGE_COST, SOUND_RATE};
use crate::wire::pb;

/// One room. Knows nothing of connections: participants are numbers, messages go in and come out.
///
/// Call a `handle_*` (or [`Self::join`], [`Self::leave`]), then drain [`Self::poll_output`] and look at
/// [`Self::poll_timeout`]. Media payloads are never looked at and never changed.
#[derive(Debug)]
pub struct Room {
    members: BTreeMap<ParticipantId, Member>,
    tracks: BTreeMap<TrackId, Track>,
    layers: Layers,
    audience: Audience,
    chat: History,
    max_participants: usize,
    /// Of what each participant publishes.
    video_max: Option<Bitrate>,
    next_participant: u32,
    next_track: u16,
    output: VecDeque<Output>,
}

/// What [`Room::poll_output`] hands out. Outputs to one participant keep their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// A message for a participant's control stream.
    Control(ParticipantId, pb::RelayControl),
    /// A message for a participant's chat stream.
    Chat(ParticipantId, pb::ChatDown),
    /// A media datagram for a participant: its header and its body without hop prefix.
    Media(ParticipantId, MediaHeader, Bytes),
    /// A line of chat that is to be stored; [`Room::handle_stored`] is to say what became of it.
    Store(Post),
    /// A participant wants older lines than are at hand; [`Room::handle_page`] is to bring them. At most one of each is under way.
    Page(ParticipantId, Older),
    /// What the best video that a participant may be sent would take, payload only: its hop need not be probed for more.
    VideoWanted(ParticipantId, Bitrate),
    /// A track that ended: nothing of it needs to be sent any more.
    TrackEnded(TrackId),
    /// The participant broke the rules and has been removed: close its connection.
    Close(ParticipantId, CloseCode),
}

/// Who somebody is to the relay: the pin of their key, and which run of their client it is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    /// SHA-256 of the client's SubjectPublicKeyInfo.
    pin: [u8; 32],
    /// From the hello.
    instance: u64,
}

/// Not for logs.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

#[derive(Debug)]
struct Member {
    identity: Identity,
    name: DisplayName,
    tracks: Vec<TrackId>,
    subscriptions: pb::Subscriptions,
    media_state: pb::MediaState,
    clock: Option<pb::Clock>,
    chatting: bool,
    /// A page is being read for them.
    paging: bool,
    limits: Limits,
}

#[derive(Debug)]
struct Limits {
    /// All messages of both streams.
    messages: TokenBucket,
    /// Posts among them.
    posts: TokenBucket,
}

#[derive(Debug)]
struct Track {
    owner: ParticipantId,
    kind: pb::TrackKind,
    /// Of video.
    recent: Recent,
    requests: Requests,
    /// Of audio.
    seen: Seen,
    sound: TokenBucket,
}

impl Room {
    /// An empty room, with what is kept of it.
    #[must_use]
    pub fn new(kept: Kept) -> Self {
        let next_participant = kept.participants.checked_add(1).unwrap_or(1);
        Self {
            members: BTreeMap::new(),
            tracks: BTreeMap::new(),
            layers: Layers::default(),
            audience: Audience::default(),
            chat: History::new(kept),
            max_participants: MAX_PARTICIPANTS,
            video_max: None,
            next_participant,
            next_track: 1,
            output: VecDeque::new(),
        }
    }

    /// From now on takes in so many people, [`MAX_PARTICIPANTS`] at most, and asks newcomers to publish no more video than that.
    pub fn set_limits(&mut self, participants: usize, video_max: Option<Bitrate>) {
        self.max_participants = participants.min(MAX_PARTICIPANTS);
        self.video_max = video_max;
    }

    /// Takes somebody in whose key has the given pin. Outputs the welcome to them, the news to the others, and what they
    /// need to see a picture. The welcome repeats the room's name from the hello.
    ///
    /// Who was here already with the same identity came back before the old connection was missed, and gets the same number again:
    /// whatever comes from the old connection is of no concern any more. Who is known to have had the number `seat` in this room
    /// gets that, if it is free.
    ///
    /// # Errors
    /// The code to close the connection with: the room is full, or the hello breaks the protocol.
    pub fn join(
        &mut self,
        now: Instant,
        pin: [u8; 32],
        seat: Option<ParticipantId>,
        name: DisplayName,
        hello: &pb::Hello,
    ) -> Result<ParticipantId, CloseCode> {
        let identity = Identity { pin, instance: hello.instance };
        let ghost = self.members.iter().find_map(|(id, m)| (m.identity == identity).then_some(*id));
        if self.members.len() >= self.max_participants && ghost.is_none() {
            return Err(CloseCode::RoomFull);
        }
        let kinds: Vec<pb::TrackKind> =
            hello.publish.iter().filter_map(|k| pb::TrackKind::try_from(*k).ok()).collect();
        let count = |kind| kinds.iter().filter(|k| **k == kind).count();
        let small_alone = count(pb::TrackKind::CameraSmall) > count(pb::TrackKind::Camera);
        if kinds.len() > MAX_TRACKS || kinds.contains(&pb::TrackKind::Unspecified) || small_alone {
            return Err(CloseCode::Protocol);
        }
        if let Some(ghost) = ghost {
            // The others hear of new tracks of somebody who is here all the time.
            self.forget(now, ghost);
        }
        let id = ghost.or(seat).filter(|id| !self.members.contains_key(id)).unwrap_or_else(|| self.new_id());
        let videos = kinds.iter().filter(|kind| kind_of(**kind) == MediaKind::Video).count();
        let tracks: Vec<TrackId> =
            kinds.iter().map(|kind| self.add_track(id, *kind, Recent::one_of(videos))).collect();
        let of_kind = |kind| kinds.iter().zip(&tracks).filter(move |(k, _)| **k == kind).map(|(_, t)| *t);
        let mut smalls = of_kind(pb::TrackKind::CameraSmall);
        let cameras: Vec<_> = of_kind(pb::TrackKind::Camera).map(|full| (full, smalls.next())).collect();
        let speaks = kinds.contains(&pb::TrackKind::Microphone);
        let member = Member {
            identity,
            name,
            tracks,
            subscriptions: hello.subscriptions.unwrap_or_default(),
            media_state: hello.media_state.unwrap_or_default(),
            clock: None,
            chatting: false,
            paging: false,
            limits: Limits { messages: TokenBucket::new(MESSAGE_RATE), posts: TokenBucket::new(CHAT_RATE) },
        };
        let others = self.members.iter().map(|(id, m)| self.describe(*id, m)).collect();
        self.members.insert(id, member);
        let you = self.members.get(&id).map(|m| self.describe(id, m));
        self.control(
            id,
            pb::relay_control::Body::Welcome(pb::Welcome { you, others, room: hello.room.clone() }),
        );
        self.announce(id);
        if self.video_max.is_some() {
            cameras.iter().for_each(|(full, _)| self.limit(id, *full, None));
        }
        cameras.into_iter().for_each(|(full, small)| self.layers.add_camera(now, id, full, small));
        let pb::Subscriptions { audio, video } = hello.subscriptions.unwrap_or_default();
        self.layers.add_receiver(now, id, video);
        self.audience.join(id, speaks, audio);
        self.act(now);
        Ok(id)
    }

    /// Lets somebody go, for whatever reason; no-op for somebody who is not here.
    pub fn leave(&mut self, now: Instant, id: ParticipantId, reason: pb::LeaveReason) {
        if !self.forget(now, id) {
            return;
        }
        let left = pb::Left { participant: id.0, reason: reason.into() };
        let others: Vec<ParticipantId> = self.members.keys().copied().collect();
        others.into_iter().for_each(|to| self.control(to, pb::relay_control::Body::Left(left)));
        self.act(now);
    }

    /// Takes a message from a participant's control stream (the hello went to [`Self::join`]). `relay_us` is the relay's
    /// clock in microseconds, for the answer to a clock ping.
    pub fn handle_control(
        &mut self,
        now: Instant,
        relay_us: u64,
        from: ParticipantId,
        message: pb::ClientControl,
    ) {
        use pb::client_control::Body;
        let Some(member) = self.members.get_mut(&from) else { return };
        if !member.limits.messages.take(now, 1) {
            return self.remove(now, from, CloseCode::TooFast);
        }
        match message.body {
            Some(Body::Hello(_)) => self.remove(now, from, CloseCode::Protocol),
            Some(Body::MediaState(state)) if member.media_state != state => {
                member.media_state = state;
                self.announce(from);
            }
            Some(Body::Subscriptions(subscriptions)) => {
                member.subscriptions = subscriptions;
                self.audience.set_hears(from, subscriptions.audio);
                self.layers.set_sees(now, from, subscriptions.video);
                self.act(now);
            }
            Some(Body::KeyFrameRequest(request)) => {
                if let Ok(track) = u16::try_from(request.track) {
                    self.request_refresh(now, from, TrackId(track), request.decoded.map(FrameId));
                }
            }
            Some(Body::View(view)) => {
                let tiles = view.tiles.into_iter().take(MAX_PARTICIPANTS);
                let heights = tiles.map(|t| (ParticipantId(t.participant), t.height)).collect();
                self.layers.set_view(now, from, heights);
                self.act(now);
            }
            Some(Body::ClockPing(pb::ClockPing { sent_us })) => {
                self.control(from, pb::relay_control::Body::ClockPong(pb::ClockPong { sent_us, relay_us }));
            }
            Some(Body::Clock(clock)) if clock.is_possible() => {
                member.clock = Some(clock);
                self.announce(from);
            }
            Some(Body::Goodbye(_)) => self.leave(now, from, pb::LeaveReason::Goodbye),
            // The relay's next key concerns no room.
            Some(Body::MediaState(_) | Body::Clock(_) | Body::NextKeyStored(_)) | None => {}
        }
    }

    /// Takes a message from a participant's chat stream. `unix_ms` is the time of day, for the line.
    pub fn handle_chat(&mut self, now: Instant, unix_ms: u64, from: ParticipantId, message: pb::ChatUp) {
        let Some(member) = self.members.get_mut(&from) else { return };
        let cost = if matches!(message.body, Some(pb::chat_up::Body::Older(_))) { PAGE_COST } else { 1 };
        if !member.limits.messages.take(now, cost) {
            return self.remove(now, from, CloseCode::TooFast);
        }
        match message.body {
            Some(pb::chat_up::Body::Resume(resume)) => {
                if std::mem::replace(&mut member.chatting, true) {
                    return self.remove(now, from, CloseCode::Protocol);
                }
                let (history, missed) = self.chat.since(resume);
                let lines = missed.map(|l| pb::chat_down::Body::Line(l.clone()));
                for body in std::iter::once(pb::chat_down::Body::History(history)).chain(lines) {
                    self.output.push_back(Output::Chat(from, pb::ChatDown { body: Some(body) }));
                }
            }
            Some(pb::chat_up::Body::Post(post)) => self.handle_post(now, unix_ms, from, post),
            Some(pb::chat_up::Body::Older(older)) => self.handle_older(now, from, older.into()),
            None => {}
        }
    }

    /// Takes a media datagram from a participant and forwards it to everybody who is to get it: each frame of sound once, of
    /// video what was chosen for each receiver. Whoever reads datagrams from the network keeps to [`MEDIA_RATE`](crate::wire::limits::MEDIA_RATE) before they get here.
    pub fn handle_media(&mut self, now: Instant, from: ParticipantId, media: &Media) {
        let header = &media.header;
        if !self.members.contains_key(&from) {
            return;
        }
        let Some(track) = self.tracks.get_mut(&header.track) else { return };
        if track.owner != from || kind_of(track.kind) != header.kind {
            return self.remove(now, from, CloseCode::Protocol);
        }
        let output = &mut self.output;
        match header.kind {
            MediaKind::Audio if track.seen.is_new(header.frame) && track.sound.take(now, 1) => {
                for (&to, receiver) in &self.members {
                    if to != from && receiver.subscriptions.audio {
                        output.push_back(Output::Media(to, *header, media.body.clone()));
                    }
                }
            }
            MediaKind::Audio => {}
            MediaKind::Video => {
                let begins = track.recent.push(now, header, &media.body);
                track.requests.handle_media(header, begins);
                let bytes = media.body.len() - MediaHeader::LEN;
                self.layers.handle_media(now, header, bytes, begins, |to| {
                    output.push_back(Output::Media(to, *header, media.body.clone()));
                });
                self.act(now);
            }
        }
    }

    /// A receiver needs a frame of this track that depends on none later than `decoded`, or, without it, a key frame: asks the
    /// owner, but not too often. Ignored when the receiver is not sent the track, nor about to be.
    pub fn request_refresh(
        &mut self,
        now: Instant,
        from: ParticipantId,
        track: TrackId,
        decoded: Option<FrameId>,
    ) {
        if self.layers.cares(now, from, track) {
            self.ask(now, track, decoded);
        }
    }

    /// The hop to a receiver carries so much video, payload only. Most of what is chosen for a receiver is looked at only here, so
    /// this is to be called some times a second, whether or not the budget has changed.
    pub fn handle_budget(&mut self, now: Instant, receiver: ParticipantId, budget: Bitrate) {
        self.layers.handle_budget(now, receiver, budget);
        self.act(now);
    }

    /// The hop to a receiver loses so many of a thousand datagrams, for so long at a time.
    pub fn handle_loss(&mut self, now: Instant, receiver: ParticipantId, loss_permille: u32, burst_ms: u32) {
        self.audience.handle_way(receiver, pb::Audience { loss_permille, burst_ms });
        self.tell_speakers(now);
    }

    /// Call when the time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<(ParticipantId, TrackId, Need)> = self
            .tracks
            .iter_mut()
            .filter_map(|(id, t)| Some((t.owner, *id, t.requests.handle_timeout(now)?)))
            .collect();
        due.into_iter().for_each(|(owner, track, need)| self.ask_owner(owner, track, need));
        self.layers.handle_timeout(now);
        self.act(now);
        self.tell_speakers(now);
    }

    /// What to do next, if anything.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let requests = self.tracks.values().filter_map(|t| t.requests.poll_timeout()).min();
        [requests, self.layers.poll_timeout(), self.audience.poll_timeout()].into_iter().flatten().min()
    }

    /// How many people are here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn handle_post(&mut self, now: Instant, unix_ms: u64, from: ParticipantId, post: pb::Post) {
        let Some(member) = self.members.get_mut(&from) else { return };
        let Ok(id) = <[u8; 16]>::try_from(&post.id[..]) else {
            return self.remove(now, from, CloseCode::Protocol);
        };
        if !member.chatting {
            return self.remove(now, from, CloseCode::Protocol);
        }
        let posted = if member.limits.posts.take(now, 1) {
            let author = (Author(member.identity.pin), from, member.name.as_str());
            self.chat.post(author, ChatId(id), &post.text, unix_ms)
        } else {
            Posted::Refused(pb::RefusalReason::TooFast)
        };
        match posted {
            Posted::Store(post) => self.output.push_back(Output::Store(post)),
            Posted::Waits => {}
            Posted::Refused(reason) => self.refuse(from, post.id, reason),
        }
    }

    /// Says what became of a post of [`Output::Store`], in the order of those. Who wrote it hears so, and everybody sees a new line.
    pub fn handle_stored(&mut self, author: Author, id: ChatId, stored: Stored) {
        let Some(Outcome { asked, id, seq, line, begun_anew }) = self.chat.stored(author, id, stored) else {
            return;
        };
        let chatting: Vec<ParticipantId> =
            self.members.iter().filter(|(_, m)| m.chatting).map(|(id, _)| *id).collect();
        if let Some(history) = begun_anew {
            chatting.iter().for_each(|to| self.chat(*to, pb::chat_down::Body::History(history)));
        }
        for to in asked.into_iter().filter(|to| chatting.contains(to)) {
            match seq {
                Some(seq) => self.chat(to, pb::chat_down::Body::Ack(pb::Ack { id: id.0.to_vec(), seq })),
                None => self.refuse(to, id.0.to_vec(), pb::RefusalReason::NotStored),
            }
        }
        if let Some(line) = line {
            chatting.into_iter().for_each(|to| self.chat(to, pb::chat_down::Body::Line(line.clone())));
        }
    }

    /// Removes a member with their tracks. Returns whether they were here.
    fn forget(&mut self, now: Instant, id: ParticipantId) -> bool {
        let Some(member) = self.members.remove(&id) else { return false };
        self.audience.leave(id);
        self.layers.remove(now, id);
        for track in member.tracks {
            self.tracks.remove(&track);
            self.output.push_back(Output::TrackEnded(track));
        }
        true
    }

    fn handle_older(&mut self, now: Instant, from: ParticipantId, older: Older) {
        let Some(member) = self.members.get_mut(&from) else { return };
        if !member.chatting {
            return self.remove(now, from, CloseCode::Protocol);
        }
        if member.paging {
            return;
        }
        if let Some(page) = self.chat.older(older) {
            return self.chat(from, pb::chat_down::Body::Page(page));
        }
        member.paging = true;
        self.output.push_back(Output::Page(from, older));
    }

    /// Brings what was found for an [`Output::Page`]: the newest [`Older::lines`] before the number, oldest first; `None`: they cannot be
    /// read.
    pub fn handle_page(&mut self, to: ParticipantId, older: Older, found: Option<Kept>) {
        let Some(member) = self.members.get_mut(&to) else { return };
        if std::mem::take(&mut member.paging) {
            let page = found.map_or_else(|| older.unread(self.chat.id()), |found| older.page(found));
            self.chat(to, pb::chat_down::Body::Page(page));
        }
    }

    fn refuse(&mut self, to: ParticipantId, id: Vec<u8>, reason: pb::RefusalReason) {
        self.chat(to, pb::chat_down::Body::Refusal(pb::Refusal { id, reason: reason.into() }));
    }

    /// Does what was decided about who gets what.
    fn act(&mut self, now: Instant) {
        while let Some(output) = self.layers.poll_output() {
            match output {
                layers::Output::Begin(to, track) => self.show(now, to, track),
                layers::Output::KeyFrame(track) => self.ask(now, track, None),
                layers::Output::Wanted(owner, track, wanted) => {
                    let wanted = pb::Wanted { track: track.0.into(), wanted };
                    self.control(owner, pb::relay_control::Body::Wanted(wanted));
                }
                layers::Output::Limit(owner, track, limit) => {
                    self.limit(owner, track, limit);
                }
                layers::Output::VideoWanted(to, rate) => self.output.push_back(Output::VideoWanted(to, rate)),
            }
        }
    }

    /// Tells the owner of a track how much of it somebody can take; none: all, as far as may be published.
    fn limit(&mut self, owner: ParticipantId, track: TrackId, limit: Option<Bitrate>) {
        let limit = [limit, self.video_max].into_iter().flatten().min();
        let kbps = limit.map_or(0, |l| u32::try_from(l.kbps()).unwrap_or(u32::MAX).max(1));
        self.control(owner, pb::relay_control::Body::Limit(pb::Limit { track: track.0.into(), kbps }));
    }

    /// Sends what a receiver needs to see a picture at once: the latest group of pictures, or, where that is too old, a request
    /// for a key frame to the publisher.
    fn show(&mut self, now: Instant, to: ParticipantId, track: TrackId) {
        let replay = self.tracks.get(&track).map_or(&[][..], |t| t.recent.replay(now));
        let Some((first, _)) = replay.first() else { return self.ask(now, track, None) };
        let thin = !self.layers.sends_discardable(to, track);
        for (header, body) in replay.iter().filter(|(header, _)| !(thin && header.discardable)) {
            self.output.push_back(Output::Media(to, *header, body.clone()));
        }
        self.layers.began(to, track, first.frame);
    }

    fn ask(&mut self, now: Instant, track: TrackId, decoded: Option<FrameId>) {
        let Some(t) = self.tracks.get_mut(&track) else { return };
        if let Some(need) = t.requests.request(now, decoded) {
            let owner = t.owner;
            self.ask_owner(owner, track, need);
        }
    }

    fn ask_owner(&mut self, owner: ParticipantId, track: TrackId, need: Need) {
        let request = pb::KeyFrameRequest { track: track.0.into(), decoded: need.decoded().map(|f| f.0) };
        self.control(owner, pb::relay_control::Body::KeyFrameRequest(request));
    }

    fn tell_speakers(&mut self, now: Instant) {
        for (to, way) in self.audience.handle_timeout(now) {
            self.control(to, pb::relay_control::Body::Audience(way));
        }
    }

    /// A number that nobody here has.
    fn new_id(&mut self) -> ParticipantId {
        loop {
            let id = ParticipantId(self.next_participant);
            self.next_participant = self.next_participant.checked_add(1).unwrap_or(1);
            if !self.members.contains_key(&id) {
                return id;
            }
        }
    }

    fn add_track(&mut self, owner: ParticipantId, kind: pb::TrackKind, recent: Recent) -> TrackId {
        while self.tracks.contains_key(&TrackId(self.next_track)) {
            self.next_track = self.next_track.wrapping_add(1);
        }
        let id = TrackId(self.next_track);
        self.next_track = self.next_track.wrapping_add(1);
        let (requests, seen) = (Requests::default(), Seen::default());
        self.tracks
            .insert(id, Track { owner, kind, recent, requests, seen, sound: TokenBucket::new(SOUND_RATE) });
        id
    }

    fn remove(&mut self, now: Instant, id: ParticipantId, code: CloseCode) {
        self.leave(now, id, pb::LeaveReason::Removed);
        self.output.push_back(Output::Close(id, code));
    }

    /// Tells everybody else about a participant.
    fn announce(&mut self, about: ParticipantId) {
        let Some(description) = self.members.get(&about).map(|m| self.describe(about, m)) else { return };
        let others: Vec<ParticipantId> = self.members.keys().copied().filter(|id| *id != about).collect();
        for to in others {
            self.control(to, pb::relay_control::Body::Participant(description.clone()));
        }
    }

    fn describe(&self, id: ParticipantId, member: &Member) -> pb::Participant {
        let track = |id: &TrackId| {
            let kind = self.tracks.get(id).map_or(pb::TrackKind::Unspecified, |t| t.kind);
            pb::Track { id: id.0.into(), kind: kind.into() }
        };
        pb::Participant {
            id: id.0,
            name: member.name.as_str().into(),
            tracks: member.tracks.iter().map(track).collect(),
            media_state: Some(member.media_state),
            clock: member.clock,
        }
    }

    fn control(&mut self, to: ParticipantId, body: pb::relay_control::Body) {
        self.output.push_back(Output::Control(to, pb::RelayControl { body: Some(body) }));
    }

    fn chat(&mut self, to: ParticipantId, body: pb::chat_down::Body) {
        self.output.push_back(Output::Chat(to, pb::ChatDown { body: Some(body) }));
    }
}

/// What datagrams a kind of track has.
#[must_use]
pub const fn kind_of(kind: pb::TrackKind) -> MediaKind {
    match kind {
        pb::TrackKind::Microphone => MediaKind::Audio,
        pb::TrackKind::Camera | pb::TrackKind::CameraSmall | pb::TrackKind::Unspecified => MediaKind::Video,
    }
}

#[cfg(test)]
mod tests;
