//! The client's side of a call: joining, who is there, chat that arrives once and in order, and coming back after a break.

mod back;
mod clock;
mod moving;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use self::back::{Back, Step};
use self::clock::ClockSync;
use self::moving::Moving;
use self::view::View;
use crate::id::{ChatId, DisplayName, FrameId, ParticipantId, RoomName, TrackId};
use crate::units::{Bitrate, MediaTime};
use crate::wire::close::CloseCode;
use crate::wire::limits::{MAX_CHAT_TEXT, MAX_PARTICIPANTS, MAX_TRACKS};
use crate::wire::pb;

/// A client's session in one room, over as many connections as it takes.
///
/// Call a `handle_*` or a command, then drain [`Self::poll_output`] and look at [`Self::poll_timeout`]. The first output is
/// [`Output::Connect`]. A break before the first welcome ends the session (the user has just typed the address and
/// should hear that it is wrong); later breaks are mended by connecting again, for as long as it takes.
#[derive(Debug)]
pub struct Session {
    hello: pb::Hello,
    state: State,
    /// When the connection was lost that is to be mended.
    lost_at: Option<Instant>,
    ever_joined: bool,
    /// Hellos that did not arrive in time, or at a relay that went away, before the first welcome.
    unheard: u32,
    me: Option<Me>,
    peers: BTreeMap<ParticipantId, Peer>,
    /// Those who were here when we came back and were not here yet, and until when they are waited for.
    missed: BTreeMap<ParticipantId, Instant>,
    /// The way to the process that takes over from the relay.
    moving: Option<Moving>,
    chat: Chat,
    back: Back,
    view: View,
    clock: ClockSync,
    published_clock: Option<pb::Clock>,
    ping_at: Option<Instant>,
    pings: u32,
    /// For times at which not everybody should do the same; never zero.
    dice: u64,
    output: VecDeque<Output>,
}

/// How to join.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The room; none for the one that the relay chooses (that of the invite, or `lobby`).
    pub room: Option<RoomName>,
    /// What the others see.
    pub name: DisplayName,
    /// What may be sent; each gets a track id.
    pub publish: Vec<pb::TrackKind>,
    /// What to receive.
    pub subscriptions: pb::Subscriptions,
    /// What to show beside the name.
    pub media_state: pb::MediaState,
    /// Program and version.
    pub agent: String,
    /// A random number for this run of the program.
    pub instance: u64,
}

/// The participant that this session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// The room it is in.
    pub room: RoomName,
    /// Its number there.
    pub id: ParticipantId,
    /// Its tracks, in the order of [`Settings::publish`].
    pub tracks: Vec<(TrackId, pb::TrackKind)>,
}

/// Another participant.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// Its number in the room.
    pub id: ParticipantId,
    /// Its name, safe to show.
    pub name: DisplayName,
    /// Its tracks.
    pub tracks: Vec<(TrackId, pb::TrackKind)>,
    /// Microphone muted.
    pub muted: bool,
    /// Camera off.
    pub camera_off: bool,
    clock: Option<pb::Clock>,
}

/// A line of chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatLine {
    /// Made by its author.
    pub id: ChatId,
    /// Its place in the room's order.
    pub seq: u64,
    /// Its author.
    pub participant: ParticipantId,
    /// Its author's name when it was written, safe to show.
    pub name: String,
    /// The text.
    pub text: String,
    /// When the relay stored it, milliseconds since 1970.
    pub sent_ms: u64,
}

impl ChatLine {
    /// A line as it may be shown; none without an identity, which no honest relay sends.
    #[must_use]
    pub fn parse(line: pb::Line) -> Option<Self> {
        Some(Self {
            id: ChatId(<[u8; 16]>::try_from(&line.id[..]).ok()?),
            seq: line.seq,
            participant: ParticipantId(line.participant),
            name: DisplayName::parse(&line.name).map_or_else(|_| "?".into(), |n| n.to_string()),
            text: line.text,
            sent_ms: line.sent_ms,
        })
    }
}

/// What [`Session::poll_output`] hands out.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Connect to the relay, then call [`Session::handle_connected`] or [`Session::handle_disconnected`].
    Connect,
    /// The same beside the connection that there is: another process takes over. Then call [`Session::handle_next_connected`] or
    /// [`Session::handle_next_disconnected`].
    ConnectNext,
    /// Write this to the control stream of the connection beside.
    NextControl(pb::ClientControl),
    /// Write this to the chat stream of the connection beside.
    NextChat(pb::ChatUp),
    /// Write this to the control stream.
    Control(pb::ClientControl),
    /// Write this to the chat stream.
    Chat(pb::ChatUp),
    /// Tell the rest of the program.
    Event(Event),
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The room took us in, for the first time or (`gap`: how long there was no connection) again. The tracks of all peers of before have
    /// ended; those who are here follow, as new or as changed. Who is not here yet is waited for, for some seconds.
    Joined {
        /// Who we are now.
        me: Me,
        /// How long there was no connection; none the first time.
        gap: Option<Duration>,
    },
    /// The room took us in on the connection beside, which is the only one of this session from now on. For media the one of before is good
    /// until `at` on the local media clock, and for some seconds after that what the others have sent on theirs comes. Otherwise as
    /// [`Event::Joined`].
    Moved {
        /// Who we are now.
        me: Me,
        /// When everybody begins to send on their new connections.
        at: MediaTime,
    },
    /// Somebody is here.
    PeerJoined(Peer),
    /// Something about them changed.
    PeerChanged(Peer),
    /// Somebody is gone.
    PeerLeft(ParticipantId),
    /// The lines of chat that follow do not join on to those of before: they are the first, or more was written during a break than the
    /// relay has at hand, or the relay has lost the chat.
    ChatBegins {
        /// The lines of before are of a chat that the relay has lost; otherwise they can be read back to.
        lost: bool,
        /// There may be older ones to read back to ([`Session::read_back`]).
        more: bool,
    },
    /// A new line of chat, each exactly once and in the room's order.
    Chat(ChatLine),
    /// The answer to [`Session::read_back`].
    ChatPage {
        /// The lines just before the oldest one told since [`Event::ChatBegins`], oldest first.
        lines: Vec<ChatLine>,
        /// There may be older ones. Without lines: they cannot be had now.
        more: bool,
    },
    /// The relay has stored what we said, under this number.
    ChatStored(ChatId, u64),
    /// The relay will not store what we said.
    ChatRefused(ChatId, pb::RefusalReason),
    /// Somebody needs a frame of this track of ours that depends on none later than this one; without one, a key frame.
    RefreshRequested(TrackId, Option<FrameId>),
    /// Whether anybody receives this small track of ours; nobody does until the first such event after each
    /// [`Event::Joined`].
    TrackWanted(TrackId, bool),
    /// Nobody can take more of this track of ours; none: somebody can.
    TrackLimited(TrackId, Option<Bitrate>),
    /// The worst way from the relay to somebody who hears us; a perfect one until the first such event after each
    /// [`Event::Joined`].
    Audience {
        /// Of a thousand datagrams.
        loss_permille: u32,
        /// How long losses last.
        burst_ms: u32,
    },
    /// What the relay says of its next key: DER of its SubjectPublicKeyInfo, and the proof; none when it has none. Not verified
    /// here. When it is on disk, call [`Session::next_key_stored`].
    NextKey(Option<(Vec<u8>, Vec<u8>)>),
    /// The connection is lost; it is being made again.
    Reconnecting(String),
    /// The session is over.
    Ended(End),
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The relay could not be reached.
    Unreachable(String),
    /// The relay does not want this client.
    Refused(CloseCode),
    /// The relay is not the one that is trusted, or trust could not be established; connecting again will not help.
    Untrusted(String),
}

/// Why a connection could not be made or was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Closed by the relay with a code.
    Closed(CloseCode),
    /// The relay's key is not the pinned one, or the like.
    Untrusted(String),
    /// Anything else, in words.
    Network(String),
}

/// Why a text cannot be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SayError {
    /// Nothing but white space.
    #[error("the message is empty")]
    Empty,
    /// Longer than [`MAX_CHAT_TEXT`].
    #[error("the message is longer than {MAX_CHAT_TEXT} bytes")]
    TooLong,
    /// [`MAX_OUTBOX`] messages wait for the relay.
    #[error("{MAX_OUTBOX} messages are waiting to be sent")]
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting { until: Instant, attempt: u32 },
    Connecting { attempt: u32 },
    Joining,
    Joined,
    Over,
}

/// The room's chat as far as this client has it.
#[derive(Debug, Default)]
struct Chat {
    begun: bool,
    history: u64,
    last_seq: u64,
    outbox: VecDeque<pb::Post>,
}

impl Session {
    /// A session that wants to connect at once.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let hello = pb::Hello {
            room: settings.room.map_or_else(String::new, |room| room.as_str().into()),
            name: settings.name.as_str().into(),
            publish: settings.publish.into_iter().map(i32::from).collect(),
            subscriptions: Some(settings.subscriptions),
            media_state: Some(settings.media_state),
            agent: settings.agent,
            instance: settings.instance,
            participant: 0,
            seat: Vec::new(),
        };
        Self {
            hello,
            state: State::Connecting { attempt: 0 },
            lost_at: None,
            ever_joined: false,
            unheard: 0,
            me: None,
            peers: BTreeMap::new(),
            missed: BTreeMap::new(),
            moving: None,
            chat: Chat::default(),
            back: Back::default(),
            view: View::default(),
            clock: ClockSync::default(),
            published_clock: None,
            ping_at: None,
            pings: 0,
            // Spread over all bits (Fibonacci hashing), and never zero.
            dice: settings.instance.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            output: VecDeque::from([Output::Connect]),
        }
    }

    /// The connection is made.
    pub fn handle_connected(&mut self) {
        if !matches!(self.state, State::Connecting { .. }) {
            return;
        }
        self.state = State::Joining;
        let (hello, chat) = self.introduction();
        self.output.push_back(Output::Control(hello));
        self.output.extend(chat.map(Output::Chat));
    }

    /// What is said first on a connection, on its two streams.
    fn introduction(&self) -> (pb::ClientControl, impl Iterator<Item = pb::ChatUp> + use<>) {
        let hello = pb::ClientControl { body: Some(pb::client_control::Body::Hello(self.hello.clone())) };
        let resume = pb::Resume { history: self.chat.history, after_seq: self.chat.last_seq };
        let posts: Vec<pb::Post> = self.chat.outbox.iter().cloned().collect();
        let posts = posts.into_iter().map(pb::chat_up::Body::Post);
        let chat = std::iter::once(pb::chat_up::Body::Resume(resume)).chain(posts);
        (hello, chat.map(|body| pb::ChatUp { body: Some(body) }))
    }

    /// The connection could not be made or is lost.
    pub fn handle_disconnected(&mut self, now: Instant, loss: Loss) {
        let attempt = match self.state {
            State::Over | State::Waiting { .. } => return,
            State::Connecting { attempt } => attempt + 1,
            State::Joining | State::Joined => 1,
        };
        // The relay is the right one, and the network a bad one; or it is just being started anew.
        let unheard = matches!(loss, Loss::Closed(CloseCode::HelloTimeout | CloseCode::ShuttingDown))
            && !self.ever_joined;
        self.unheard += u32::from(unheard);
        let end = match &loss {
            Loss::Closed(_) if unheard && self.unheard < MAX_UNHEARD => None,
            Loss::Closed(code) if !code.is_temporary() => Some(End::Refused(*code)),
            Loss::Untrusted(why) => Some(End::Untrusted(why.clone())),
            Loss::Closed(code) if !self.ever_joined => Some(End::Refused(*code)),
            Loss::Network(why) if !self.ever_joined => Some(End::Unreachable(why.clone())),
            Loss::Closed(_) | Loss::Network(_) => None,
        };
        (self.ping_at, self.moving) = (None, None);
        self.back.disconnected();
        if let Some(end) = end {
            self.state = State::Over;
            return self.event(Event::Ended(end));
        }
        if self.lost_at.is_none() && self.ever_joined {
            self.lost_at = Some(now);
            self.event(Event::Reconnecting(match loss {
                Loss::Closed(code) => code.reason().into(),
                Loss::Network(why) | Loss::Untrusted(why) => why,
            }));
        }
        let longest = FIRST_RETRY.saturating_mul(1 << (attempt - 1).min(8)).min(LAST_RETRY);
        // Everybody has lost the same relay at the same time, and is not to come back at the same time.
        let wait = longest / 2 + longest.mul_f64(self.roll() / 2.0);
        self.state = State::Waiting { until: now + wait, attempt };
    }

    /// A number from 0 to 1 (xorshift64, Marsaglia 2003).
    fn roll(&mut self) -> f64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Takes a message from the control stream. `at` is the media clock's time.
    pub fn handle_control(&mut self, now: Instant, at: MediaTime, message: pb::RelayControl) {
        use pb::relay_control::Body;
        match message.body {
            Some(Body::Welcome(welcome)) => self.handle_welcome(now, welcome),
            Some(Body::Participant(p)) => {
                let Some(peer) = peer(p) else { return };
                self.missed.remove(&peer.id);
                let here = self.peers.len() - self.missed.len();
                if here + 1 >= MAX_PARTICIPANTS && !self.peers.contains_key(&peer.id) {
                    return;
                }
                let known = self.peers.insert(peer.id, peer.clone());
                match known {
                    None => self.event(Event::PeerJoined(peer)),
                    Some(old) if old != peer => self.event(Event::PeerChanged(peer)),
                    Some(_) => {}
                }
            }
            Some(Body::Left(left)) => {
                self.forget(ParticipantId(left.participant));
            }
            Some(Body::KeyFrameRequest(request)) => {
                if let Some(track) = self.own_track(request.track) {
                    self.event(Event::RefreshRequested(track, request.decoded.map(FrameId)));
                }
            }
            Some(Body::Limit(limit)) => {
                if let Some(track) = self.own_track(limit.track) {
                    let rate = (limit.kbps > 0).then(|| Bitrate::from_kbps(limit.kbps.into()));
                    self.event(Event::TrackLimited(track, rate));
                }
            }
            Some(Body::Wanted(wanted)) => {
                if let Some(track) = self.own_track(wanted.track) {
                    self.event(Event::TrackWanted(track, wanted.wanted));
                }
            }
            Some(Body::Audience(pb::Audience { loss_permille, burst_ms })) => {
                self.event(Event::Audience { loss_permille, burst_ms });
            }
            Some(Body::ClockPong(pong)) => {
                self.clock.handle_pong(at, &pong);
                self.publish_clock();
            }
            Some(Body::NextKey(next)) => {
                let key = (!next.spki.is_empty()).then_some((next.spki, next.signature));
                self.event(Event::NextKey(key));
            }
            Some(Body::Seat(seat)) => self.hello.seat = seat.proof,
            Some(Body::GoAway(go)) => self.handle_go_away(at, &go),
            None => {}
        }
    }

    /// Takes a message from the chat stream.
    pub fn handle_chat(&mut self, message: pb::ChatDown) {
        use pb::chat_down::Body;
        match message.body {
            Some(Body::History(history)) => self.handle_history(history),
            Some(Body::Line(line)) if line.seq > self.chat.last_seq => {
                self.chat.last_seq = line.seq;
                if let Some(line) = ChatLine::parse(line) {
                    self.event(Event::Chat(line));
                }
            }
            Some(Body::Page(page)) => {
                if let Some(step) = self.back.take(page, self.chat.history) {
                    self.step_back(step);
                }
            }
            Some(Body::Ack(ack)) => {
                if let Some(id) = self.settle(&ack.id) {
                    self.event(Event::ChatStored(id, ack.seq));
                }
            }
            Some(Body::Refusal(refusal)) => {
                if let Some(id) = self.settle(&refusal.id) {
                    self.event(Event::ChatRefused(id, refusal.reason()));
                }
            }
            Some(Body::Line(_)) | None => {}
        }
    }

    /// Says something. It is sent now or when there is a connection again, and reported as
    /// [`Event::ChatStored`] or [`Event::ChatRefused`]. `id` must be random.
    pub fn say(&mut self, id: ChatId, text: &str) -> Result<(), SayError> {
        let text = text.trim_end();
        if text.is_empty() {
            return Err(SayError::Empty);
        }
        if text.len() > MAX_CHAT_TEXT {
            return Err(SayError::TooLong);
        }
        if self.chat.outbox.len() >= MAX_OUTBOX {
            return Err(SayError::Full);
        }
        let post = pb::Post { id: id.0.to_vec(), text: text.into() };
        self.chat.outbox.push_back(post.clone());
        let post = pb::ChatUp { body: Some(pb::chat_up::Body::Post(post)) };
        match &self.moving {
            // The process that goes away stores nothing any more.
            Some(moving) if moving.has_said_hello() => self.output.push_back(Output::NextChat(post)),
            Some(_) => {}
            None if matches!(self.state, State::Joining | State::Joined) => {
                self.output.push_back(Output::Chat(post))
            }
            None => {}
        }
        Ok(())
    }

    /// Wants the lines before the oldest one that was told. The answer is one [`Event::ChatPage`], in time; wishes until then are one.
    pub fn read_back(&mut self, now: Instant) {
        self.back.want(now);
        self.poll_back(now);
    }

    /// Whether the relay has decided on everything that was said.
    #[must_use]
    pub fn all_is_said(&self) -> bool {
        self.chat.outbox.is_empty()
    }

    /// Shows the others whether the microphone is muted and the camera off.
    pub fn set_media_state(&mut self, state: pb::MediaState) {
        if self.hello.media_state.replace(state) != Some(state) && self.state == State::Joined {
            self.control(pb::client_control::Body::MediaState(state));
        }
    }

    /// Asks for a frame of somebody's track that depends on none later than `decoded`; without one, for a key frame.
    pub fn request_refresh(&mut self, track: TrackId, decoded: Option<FrameId>) {
        if self.state == State::Joined {
            let request = pb::KeyFrameRequest { track: track.0.into(), decoded: decoded.map(|f| f.0) };
            self.control(pb::client_control::Body::KeyFrameRequest(request));
        }
    }

    /// Tells the relay how high, in pixels, the others are shown here; 0: not at all. Who is missing is shown at full size. May be called
    /// as often as anything changes: what is news is told at once, then five times a second at most.
    pub fn set_view(&mut self, now: Instant, heights: Vec<(ParticipantId, u32)>) {
        self.view.set(heights);
        self.tell_view(now);
    }

    /// Tells the relay that its next key, with this pin, is on our disk.
    pub fn next_key_stored(&mut self, pin: [u8; 32]) {
        if self.state == State::Joined {
            self.control(pb::client_control::Body::NextKeyStored(pb::NextKeyStored { pin: pin.to_vec() }));
        }
    }

    /// Says goodbye; the connection can be closed when the output is written.
    pub fn leave(&mut self) {
        if matches!(self.state, State::Joining | State::Joined) {
            self.control(pb::client_control::Body::Goodbye(pb::Goodbye {}));
        }
        (self.state, self.moving) = (State::Over, None);
    }

    /// Call when the time of [`Self::poll_timeout`] has come. `at` is the media clock's time.
    pub fn handle_timeout(&mut self, now: Instant, at: MediaTime) {
        if let State::Waiting { until, attempt } = self.state
            && until <= now
        {
            self.state = State::Connecting { attempt };
            self.output.push_back(Output::Connect);
        }
        if self.ping_at.is_some_and(|t| t <= now) {
            self.control(pb::client_control::Body::ClockPing(pb::ClockPing { sent_us: at.as_micros() }));
            self.pings = self.pings.saturating_add(1);
            self.ping_at = Some(now + if self.pings < FAST_PINGS { FAST_PING } else { SLOW_PING });
        }
        self.tell_view(now);
        let due = |(id, until): (&ParticipantId, &Instant)| (*until <= now).then_some(*id);
        let lost: Vec<ParticipantId> = self.missed.iter().filter_map(due).collect();
        lost.into_iter().for_each(|id| self.forget(id));
        if let Some(output) = self.moving.as_mut().and_then(|moving| moving.handle_timeout(now)) {
            self.output.push_back(output);
        }
        self.poll_back(now);
    }

    /// What to do next, if anything.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let retry = match self.state {
            State::Waiting { until, .. } => Some(until),
            _ => None,
        };
        let joined = self.state == State::Joined;
        let view = self.view.poll_timeout().filter(|_| joined);
        let back = self.back.poll_timeout().filter(|_| joined);
        let missed = self.missed.values().min().copied();
        let moving = self.moving.as_ref().and_then(Moving::poll_timeout);
        [retry, self.ping_at, view, back, missed, moving].into_iter().flatten().min()
    }

    /// What to add to a peer's media time, in microseconds, to get a time of the local media clock; none while it is unknown.
    #[must_use]
    pub fn clock_difference(&self, peer: ParticipantId) -> Option<i64> {
        Some(clock::difference(self.clock.best()?, self.peers.get(&peer)?.clock?))
    }

    /// Where the lines that follow begin.
    fn handle_history(&mut self, pb::History { id, after_seq }: pb::History) {
        let other = id != self.chat.history;
        let lost = other && self.chat.begun;
        if other {
            (self.chat.history, self.chat.last_seq) = (id, 0);
        }
        if !self.chat.begun || other || after_seq > self.chat.last_seq {
            self.chat.begun = true;
            self.back.begin(after_seq.saturating_add(1));
            self.event(Event::ChatBegins { lost, more: after_seq > 0 });
        }
        self.chat.last_seq = self.chat.last_seq.max(after_seq);
    }

    fn poll_back(&mut self, now: Instant) {
        while self.state == State::Joined
            && let Some(step) = self.back.poll(now)
        {
            self.step_back(step);
        }
    }

    fn step_back(&mut self, step: Step) {
        match step {
            Step::Ask(older) => {
                let body = Some(pb::chat_up::Body::Older(older));
                self.output.push_back(Output::Chat(pb::ChatUp { body }));
            }
            Step::Told(lines, more) => {
                let lines = lines.into_iter().filter_map(ChatLine::parse).collect();
                self.event(Event::ChatPage { lines, more });
            }
        }
    }

    fn handle_welcome(&mut self, now: Instant, welcome: pb::Welcome) {
        if self.state != State::Joining {
            return;
        }
        let gap = self.lost_at.take().map(|t| now.saturating_duration_since(t));
        self.enter(now, welcome, |me| Event::Joined { me, gap });
    }

    /// The room has taken us in, as `event` tells.
    fn enter(&mut self, now: Instant, welcome: pb::Welcome, event: impl FnOnce(Me) -> Event) {
        let Some(you) = welcome.you else { return };
        let Ok(room) = RoomName::parse(&welcome.room) else { return };
        // Who comes back after a break comes back to this room, whatever the relay would choose by then.
        self.hello.room = room.as_str().into();
        self.hello.participant = you.id;
        let me = Me { room, id: ParticipantId(you.id), tracks: tracks(&you.tracks) };
        self.state = State::Joined;
        self.ever_joined = true;
        self.me = Some(me.clone());
        // First: what follows is for the connection that this tells of.
        self.event(event(me));
        // Switched between the hello and now.
        if let Some(state) =
            self.hello.media_state.filter(|state| you.media_state.is_some_and(|told| told != *state))
        {
            self.control(pb::client_control::Body::MediaState(state));
        }
        self.view.forget_told();
        self.tell_view(now);
        // They have lost the same relay and come back to it one after the other.
        self.missed = self.peers.keys().map(|id| (*id, now + COMING_BACK)).collect();
        for peer in welcome.others.into_iter().filter_map(peer).take(MAX_PARTICIPANTS - 1) {
            // Of a relay that has lost what it kept, the same number may be somebody else now.
            if self.peers.get(&peer.id).is_some_and(|known| known.name != peer.name) {
                self.forget(peer.id);
            }
            self.missed.remove(&peer.id);
            let known = self.peers.insert(peer.id, peer.clone()).is_some();
            self.event(if known { Event::PeerChanged(peer) } else { Event::PeerJoined(peer) });
        }
        // The relay may be another process with another clock than before.
        (self.clock, self.published_clock) = (ClockSync::default(), None);
        (self.pings, self.ping_at) = (0, Some(now));
    }

    /// Somebody is not here any more.
    fn forget(&mut self, id: ParticipantId) {
        self.missed.remove(&id);
        if self.peers.remove(&id).is_some() {
            self.event(Event::PeerLeft(id));
        }
    }

    /// Tells the others about our clock when that is news to them.
    fn publish_clock(&mut self) {
        let Some(best) = self.clock.best() else { return };
        let news = |p: pb::Clock| {
            p.offset_us.abs_diff(best.offset_us) > CLOCK_NEWS_US || best.error_us < p.error_us / 2
        };
        if self.published_clock.is_none_or(news) {
            self.published_clock = Some(best);
            self.control(pb::client_control::Body::Clock(best));
        }
    }

    fn tell_view(&mut self, now: Instant) {
        if self.state == State::Joined
            && let Some(view) = self.view.news(now)
        {
            self.control(pb::client_control::Body::View(view));
        }
    }

    fn own_track(&self, id: u32) -> Option<TrackId> {
        let mut tracks = self.me.iter().flat_map(|me| &me.tracks).map(|(track, _)| *track);
        tracks.find(|track| u32::from(track.0) == id)
    }

    /// Takes a post out of the outbox that the relay has decided on.
    fn settle(&mut self, id: &[u8]) -> Option<ChatId> {
        let at = self.chat.outbox.iter().position(|p| p.id == id)?;
        self.chat.outbox.remove(at);
        <[u8; 16]>::try_from(id).ok().map(ChatId)
    }

    fn control(&mut self, body: pb::client_control::Body) {
        self.output.push_back(Output::Control(pb::ClientControl { body: Some(body) }));
    }

    fn event(&mut self, event: Event) {
        self.output.push_back(Output::Event(event));
    }
}

/// A peer as the relay tells of it; none when its name is none, which no honest relay sends.
fn peer(p: pb::Participant) -> Option<Peer> {
    let state = p.media_state.unwrap_or_default();
    Some(Peer {
        id: ParticipantId(p.id),
        name: DisplayName::parse(&p.name).ok()?,
        tracks: tracks(&p.tracks),
        muted: state.muted,
        camera_off: state.camera_off,
        clock: p.clock.filter(pb::Clock::is_possible),
    })
}

fn tracks(tracks: &[pb::Track]) -> Vec<(TrackId, pb::TrackKind)> {
    let track = |t: &pb::Track| Some((TrackId(u16::try_from(t.id).ok()?), t.kind()));
    tracks.iter().filter_map(track).take(MAX_TRACKS).collect()
}

/// Messages that may wait for a connection; more would be a sign that nobody will come back.
pub const MAX_OUTBOX: usize = 100;
/// So many hellos in a row are late, or come to a relay that goes away, only where no call is possible.
const MAX_UNHEARD: u32 = 3;
/// How long somebody who was here before a break is waited for: some attempts to connect.
const COMING_BACK: Duration = Duration::from_secs(3);
/// The first wait before connecting again: a relay that restarts is there again within some milliseconds.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// The longest wait: who returns from a tunnel should not look at a frozen window for long.
const LAST_RETRY: Duration = Duration::from_secs(2);
/// Pings soon after joining, so that delays are known within half a second.
const FAST_PINGS: u32 = 5;
const FAST_PING: Duration = Duration::from_millis(100);
/// Pings after that follow the drift of the clocks.
const SLOW_PING: Duration = Duration::from_secs(5);
/// A change of the offset that the others should hear of: below what anybody sees or hears.
const CLOCK_NEWS_US: u64 = 1_000;

#[cfg(test)]
mod tests;
