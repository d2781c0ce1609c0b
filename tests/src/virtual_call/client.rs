//! A client: its session, its media, and what it has seen, heard and read. Does what `vchat-client` does with threads.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use vchat_proto::id::{ChatId, ParticipantId, TrackId};
use vchat_proto::jitter;
use vchat_proto::room::kind_of;
use vchat_proto::session::{ChatLine, Event, Loss, Me, Output, Peer, Session};
use vchat_proto::units::{Bitrate, MediaTime};
use vchat_proto::wire::datagram::{Media, MediaKind};
use vchat_proto::wire::hop::Packet;
use vchat_proto::wire::limits::{IDLE_TIMEOUT, MAX_FRAGMENTS};
use vchat_proto::wire::pb;

use super::Path;
use super::connection::Connection;
use super::tracks::{Source, Video, Voice};
use crate::netem::Random;

/// A client and everything that it noticed.
#[derive(Debug)]
pub struct Client {
    pub(super) session: Session,
    pub(super) path: Path,
    pub(super) cut_since: Option<Duration>,
    pub(super) dead: bool,
    pub(super) key_frames_asked: usize,
    /// When the handshake that runs is over.
    connecting: Option<Duration>,
    me: Option<Me>,
    /// Media time at the world's zero: every machine has its own.
    clock: MediaTime,
    source: Source,
    video: BTreeMap<TrackId, (ParticipantId, Video)>,
    audio: BTreeMap<TrackId, (ParticipantId, Voice)>,
    /// Video that came before the news of its sender; as many datagrams as the largest frame has.
    early: VecDeque<Media>,
    others: BTreeMap<ParticipantId, String>,
    chat: Vec<ChatLine>,
    stored: Vec<(ChatId, u64)>,
    shown: BTreeMap<String, Vec<Shown>>,
    heard: BTreeMap<String, Heard>,
    connected_at: Option<Duration>,
    joins: Vec<Duration>,
    random: Random,
    round_trip: Duration,
}

/// A picture on somebody's screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// When it was decoded, since the world began.
    pub at: Duration,
    /// When it was captured, since the world began.
    pub captured: Duration,
    /// The number that its encoder gave it.
    pub number: u32,
    /// Whether it is a key frame.
    pub key: bool,
}

/// Somebody's sound as it was heard.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Counters of the jitter buffer.
    pub stats: jitter::Stats,
    /// Of each packet played, the time from its capture to its playing.
    pub delays: Vec<Duration>,
}

impl Client {
    pub(super) fn new(now: Duration, session: Session, path: Path, mut random: Random) -> Self {
        Self {
            session,
            path,
            cut_since: None,
            dead: false,
            key_frames_asked: 0,
            connecting: None,
            me: None,
            // Up to two years, as far apart as machines are.
            clock: MediaTime::from_micros(random.bits() >> 18),
            source: Source::new(now, &mut random),
            video: BTreeMap::new(),
            audio: BTreeMap::new(),
            early: VecDeque::new(),
            others: BTreeMap::new(),
            chat: Vec::new(),
            stored: Vec::new(),
            shown: BTreeMap::new(),
            heard: BTreeMap::new(),
            connected_at: None,
            joins: Vec::new(),
            random,
            round_trip: Duration::ZERO,
        }
    }

    /// Pictures of somebody, in the order in which they were decoded.
    #[must_use]
    pub fn shown(&self, name: &str) -> &[Shown] {
        self.shown.get(name).map_or(&[], Vec::as_slice)
    }

    /// The sound of somebody.
    #[must_use]
    pub fn heard(&self, name: &str) -> Heard {
        self.heard.get(name).cloned().unwrap_or_default()
    }

    /// The chat as this client has it.
    #[must_use]
    pub fn chat(&self) -> &[ChatLine] {
        &self.chat
    }

    /// What of its own lines the relay has stored, and under which numbers.
    #[must_use]
    pub fn stored(&self) -> &[(ChatId, u64)] {
        &self.stored
    }

    /// When the handshake of the present connection was over.
    #[must_use]
    pub const fn connected_at(&self) -> Option<Duration> {
        self.connected_at
    }

    /// When it was taken into the room, the first time and again.
    #[must_use]
    pub fn joins(&self) -> &[Duration] {
        &self.joins
    }

    /// What its camera's full pictures are encoded at.
    #[must_use]
    pub const fn sends(&self) -> Bitrate {
        self.source.rate
    }

    /// The names of the others in the room.
    #[must_use]
    pub fn others(&self) -> Vec<&str> {
        self.others.values().map(String::as_str).collect()
    }

    /// How wrong this client is about the clock of another, if it knows of it.
    #[must_use]
    pub fn clock_error(&self, other: &Self) -> Option<Duration> {
        let told = self.session.clock_difference(other.me.as_ref()?.id)?;
        Some(Duration::from_micros(told.abs_diff(self.clock.micros_since(other.clock))))
    }

    pub(super) const fn clock(&self) -> MediaTime {
        self.clock
    }

    pub(super) fn say(&mut self, text: &str) -> ChatId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.random.bits().to_be_bytes());
        self.session.say(ChatId(id), text).unwrap_or_else(|e| panic!("it cannot be said: {e}"));
        ChatId(id)
    }

    /// The handshake is over.
    pub(super) fn connected(&mut self, now: Duration) {
        self.connected_at = Some(now);
        self.session.handle_connected();
    }

    /// Does what is due now. True when a handshake is over: the caller makes the connection.
    pub(super) fn turn(
        &mut self,
        start: Instant,
        now: Duration,
        mut connection: Option<&mut Connection>,
        clocks: &BTreeMap<String, MediaTime>,
    ) -> bool {
        let at = start + now;
        if let Some(connection) = connection.as_deref_mut() {
            self.receive(start, now, connection, clocks);
        }
        if self.session.poll_timeout().is_some_and(|t| t <= at) {
            self.session.handle_timeout(at, self.clock + now);
        }
        self.ask_again(at, now);
        let sender = connection.as_deref_mut().filter(|c| c.client_open).map(|c| &mut c.up.sender);
        self.source.capture(start, now, self.clock, sender);
        for (_, voice) in self.audio.values_mut() {
            voice.play(now, self.clock, self.heard.entry(voice.from.clone()).or_default());
        }
        let connected = self.connecting.take_if(|t| *t <= now).is_some();
        if connected && self.cut_since.is_some() {
            self.session.handle_disconnected(at, Loss::Network("no answer".into()));
        }
        self.act(start, now, connection, clocks);
        connected && self.cut_since.is_none()
    }

    pub(super) fn next_event(&self, start: Instant) -> Option<Duration> {
        let machines = self.video.values().filter_map(|(_, v)| v.reassembler.poll_timeout());
        let machines = machines.chain(self.session.poll_timeout());
        let machines = machines.map(|t| t.saturating_duration_since(start));
        let sounds = self.audio.values().map(|(_, v)| v.next_event());
        machines.chain(sounds).chain(self.connecting).chain([self.source.next_event()]).min()
    }

    fn receive(
        &mut self,
        start: Instant,
        now: Duration,
        connection: &mut Connection,
        clocks: &BTreeMap<String, MediaTime>,
    ) {
        let at = start + now;
        if self.cut_since.is_some_and(|since| now < since + IDLE_TIMEOUT) {
            // What was on its way is lost.
            while connection.down.poll_datagram(now).is_some() {}
            return;
        }
        if let Some((_, why)) = connection.closed_by_relay.take_if(|(when, _)| *when <= now) {
            connection.client_open = false;
            connection.closed_by_client.get_or_insert(now);
            self.source.pause();
            self.video.clear();
            self.audio.clear();
            self.early.clear();
            return self.session.handle_disconnected(at, why);
        }
        while let Some(message) = connection.down.control.poll(now) {
            self.session.handle_control(at, self.clock + now, message);
            self.act(start, now, Some(connection), clocks);
        }
        while let Some(message) = connection.down.chat.poll(now) {
            self.session.handle_chat(message);
        }
        while let Some(datagram) = connection.down.poll_datagram(now) {
            let len = datagram.len();
            let (number, packet) =
                Packet::parse(datagram).unwrap_or_else(|e| panic!("the relay sends a {e}"));
            if let Packet::Report(report) = &packet {
                connection.up.sender.handle_report(at, report);
            }
            connection.down.receiver.handle_packet(at, number, len, packet);
            while let Some(media) = connection.down.receiver.poll_media() {
                self.round_trip = connection.up.sender.round_trip();
                self.media(at, now, media);
            }
        }
    }

    fn media(&mut self, at: Instant, now: Duration, media: Media) {
        let track = media.header.track;
        match media.header.kind {
            MediaKind::Video => {
                let Some((who, video)) = self.video.get_mut(&track) else {
                    self.early.push_back(media);
                    if self.early.len() > usize::from(MAX_FRAGMENTS) {
                        self.early.pop_front();
                    }
                    return;
                };
                let (who, mut needed) = (*who, Vec::new());
                video.reassembler.set_round_trip(self.round_trip);
                video.reassembler.handle_media(at, self.clock + now, &media);
                let shown = self.shown.entry(video.from.clone()).or_default();
                if let Some(since) = video.drain(now, track, &mut needed, shown) {
                    let others =
                        |(t, v): &(&TrackId, &mut (ParticipantId, Video))| **t != track && v.0 == who;
                    self.video.iter_mut().filter(others).for_each(|(_, (_, v))| v.reassembler.rest(since));
                }
                needed.into_iter().for_each(|(track, decoded)| self.session.request_refresh(track, decoded));
            }
            MediaKind::Audio => {
                if let Some((_, voice)) = self.audio.get_mut(&track) {
                    voice.handle(self.clock + now, &media);
                }
            }
        }
    }

    /// Asks for key frames that are overdue.
    fn ask_again(&mut self, at: Instant, now: Duration) {
        let mut needed = Vec::new();
        for (track, (_, video)) in &mut self.video {
            if video.reassembler.poll_timeout().is_some_and(|t| t <= at) {
                video.reassembler.handle_timeout(at, self.clock + now);
                video.drain(now, *track, &mut needed, self.shown.entry(video.from.clone()).or_default());
            }
        }
        needed.into_iter().for_each(|(track, decoded)| self.session.request_refresh(track, decoded));
    }

    /// Does what the session wants done.
    fn act(
        &mut self,
        start: Instant,
        now: Duration,
        connection: Option<&mut Connection>,
        clocks: &BTreeMap<String, MediaTime>,
    ) {
        let mut connection = connection.filter(|c| c.client_open);
        let mut leaves = false;
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Connect => {
                    let round_trip = self.path.up.delay + self.path.down.delay;
                    let cut = self.cut_since.is_some();
                    self.connecting = Some(now + if cut { CONNECT_TIMEOUT } else { round_trip });
                }
                Output::Control(message) => {
                    leaves |= matches!(message.body, Some(pb::client_control::Body::Goodbye(_)));
                    if let Some(c) = connection.as_deref_mut() {
                        c.up.send_control(now, message);
                    }
                }
                Output::Chat(message) => {
                    if let Some(c) = connection.as_deref_mut() {
                        c.up.send_chat(now, message);
                    }
                }
                Output::Event(event) => self.event(start + now, now, event, clocks),
                Output::ConnectNext | Output::NextControl(_) | Output::NextChat(_) => {
                    panic!("this relay has no successor")
                }
            }
        }
        let Some(connection) = connection else { return };
        let cut = self.cut_since.is_some();
        while let Some(refresh) = connection.up.sender.poll_refresh() {
            self.source.want(refresh.track, refresh.decoded);
        }
        connection.up.pump(now, cut);
        if let Some(report) = connection.down.receiver.poll_report(start + now) {
            connection.up.send_datagram(now, report, cut);
        }
        if leaves {
            connection.close_from_client(now);
            self.source.pause();
        }
    }

    fn event(&mut self, at: Instant, now: Duration, event: Event, clocks: &BTreeMap<String, MediaTime>) {
        match event {
            Event::Joined { me, .. } => {
                self.joins.push(now);
                self.source.begin(&me);
                self.me = Some(me);
            }
            Event::PeerJoined(peer) => {
                let name = peer.name.as_str();
                assert!(self.others.insert(peer.id, name.into()).is_none(), "{name} joined twice");
                self.peer(at, now, &peer, clocks);
            }
            // Their tracks are others after a break.
            Event::PeerChanged(peer) => self.peer(at, now, &peer, clocks),
            Event::PeerLeft(id) => {
                self.video.retain(|_, (from, _)| *from != id);
                self.audio.retain(|_, (from, _)| *from != id);
                assert!(self.others.remove(&id).is_some(), "somebody left who was not here");
            }
            Event::RefreshRequested(track, decoded) => {
                self.key_frames_asked += usize::from(decoded.is_none());
                self.source.want(track, decoded);
            }
            Event::TrackWanted(track, wanted) => self.source.set_wanted(track, wanted),
            Event::TrackLimited(_, limit) => self.source.set_limit(limit),
            Event::Chat(line) => self.chat.push(line),
            Event::ChatStored(id, seq) => self.stored.push((id, seq)),
            Event::ChatRefused(id, why) => panic!("the relay refused {id}: {why:?}"),
            Event::ChatBegins { .. }
            | Event::ChatPage { .. }
            | Event::Reconnecting(_)
            | Event::NextKey(_)
            | Event::Audience { .. } => {}
            Event::Moved { .. } => panic!("this relay has no successor"),
            Event::Ended(end) => panic!("a session ended: {end:?}"),
        }
    }

    fn peer(&mut self, at: Instant, now: Duration, peer: &Peer, clocks: &BTreeMap<String, MediaTime>) {
        let name = peer.name.as_str();
        let is_theirs = |track: &TrackId| peer.tracks.iter().any(|(t, _)| t == track);
        self.video.retain(|track, (from, _)| *from != peer.id || is_theirs(track));
        self.audio.retain(|track, (from, _)| *from != peer.id || is_theirs(track));
        let zero_us = clocks.get(name).map_or(0, |clock| -(clock.as_micros() as i64));
        for &(track, kind) in &peer.tracks {
            match kind_of(kind) {
                MediaKind::Video if self.video.contains_key(&track) => {}
                MediaKind::Audio if self.audio.contains_key(&track) => {}
                MediaKind::Video => {
                    let video = Video::new(name, zero_us, -(self.clock.as_micros() as i64));
                    self.video.insert(track, (peer.id, video));
                }
                MediaKind::Audio => drop(self.audio.insert(track, (peer.id, Voice::new(now, name, zero_us)))),
            }
        }
        let theirs = |m: &Media| peer.tracks.iter().any(|(track, _)| *track == m.header.track);
        let (theirs, others) = std::mem::take(&mut self.early).into_iter().partition(theirs);
        self.early = others;
        let theirs: VecDeque<Media> = theirs;
        theirs.into_iter().for_each(|media| self.media(at, now, media));
    }
}

/// As in the real client.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
