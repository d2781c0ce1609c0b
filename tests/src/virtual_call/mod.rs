//! Whole calls in virtual time: every state machine of clients and relay, joined by impaired links.
//!
//! Sessions, packetizers, queues, reassemblers and jitter buffers are the real ones; codecs, QUIC and clocks are
//! replaced by models. Encoded pictures tell what they depend on, so a decoder that would show garbage panics here.
//! The clock jumps from one event to the next: a minute of a lossy call takes milliseconds and always ends the same.

mod client;
mod connection;
mod media;
mod pipe;
mod relay;
mod tracks;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vchat_proto::id::{ChatId, DisplayName, RoomName};
use vchat_proto::session::{Loss, Session, Settings as Joining};
use vchat_proto::units::{Bitrate, MediaTime};
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::limits::IDLE_TIMEOUT;
use vchat_proto::wire::pb;

pub use self::client::{Client, Heard, Shown};
use self::connection::Connection;
use self::relay::Relay;
use crate::netem::{Random, Settings};

/// A relay with one room, its clients, and the clock.
#[derive(Debug)]
pub struct World {
    start: Instant,
    /// Since `start`.
    now: Duration,
    seed: u64,
    relay: Relay,
    clients: Vec<Client>,
    /// Media times at `start`, by name.
    clocks: BTreeMap<String, MediaTime>,
    /// Of all clients; ended ones go at once.
    connections: Vec<Connection>,
    /// Connections made so far, to give each its own randomness.
    made: u64,
    /// The most that a camera sends.
    video_max: Bitrate,
}

/// Number of a client in its [`World`], in the order in which they were added.
pub type Who = usize;

/// The way between a client and the relay.
#[derive(Clone, Debug, Default)]
pub struct Path {
    /// To the relay.
    pub up: Settings,
    /// From the relay.
    pub down: Settings,
}

impl Path {
    /// The same in both directions.
    #[must_use]
    pub fn both(settings: &Settings) -> Self {
        Self { up: settings.clone(), down: settings.clone() }
    }

    /// Nothing but delay, half a round trip in each direction.
    #[must_use]
    pub fn round_trip(time: Duration) -> Self {
        Self::both(&Settings { delay: time / 2, ..Settings::default() })
    }
}

impl World {
    /// A relay with an empty room. Everything random follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            start: Instant::now(),
            now: Duration::ZERO,
            seed,
            relay: Relay::new(seed),
            clients: Vec::new(),
            clocks: BTreeMap::new(),
            connections: Vec::new(),
            made: 0,
            video_max: VIDEO_MAX,
        }
    }

    /// Cameras of clients that connect from now on send this much at most.
    #[must_use]
    pub const fn with_video_max(mut self, max: Bitrate) -> Self {
        self.video_max = max;
        self
    }

    /// Somebody starts a client with camera and microphone, which connects at once.
    pub fn add(&mut self, name: &str, path: Path) -> Who {
        self.start_client(
            name,
            path,
            vec![pb::TrackKind::Camera, pb::TrackKind::CameraSmall, pb::TrackKind::Microphone],
        )
    }

    /// Like [`Self::add`] for a client without camera and microphone.
    pub fn add_listener(&mut self, name: &str, path: Path) -> Who {
        self.start_client(name, path, Vec::new())
    }

    fn start_client(&mut self, name: &str, path: Path, publish: Vec<pb::TrackKind>) -> Who {
        let who = self.clients.len();
        let session = Session::new(Joining {
            // Constant names that are names.
            room: RoomName::parse("room").ok(),
            name: DisplayName::parse(name).expect("the test gives a name that is one"),
            publish,
            subscriptions: pb::Subscriptions { audio: true, video: true },
            media_state: pb::MediaState::default(),
            agent: "virtual".into(),
            instance: who as u64,
        });
        let random = Random::new(self.seed, CLIENT_STREAMS + who as u64);
        let client = Client::new(self.now, session, path, random);
        self.clocks.insert(name.into(), client.clock());
        self.clients.push(client);
        self.settle();
        who
    }

    /// The time since the world began.
    #[must_use]
    pub const fn now(&self) -> Duration {
        self.now
    }

    /// A client, to look at.
    #[must_use]
    pub fn client(&self, who: Who) -> &Client {
        &self.clients[who]
    }

    /// People that the relay has in the room.
    #[must_use]
    pub fn people(&self) -> usize {
        self.relay.people()
    }

    /// How often the relay has asked this client for a key frame.
    #[must_use]
    pub fn key_frames_asked_of(&self, who: Who) -> usize {
        self.clients[who].key_frames_asked
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.run(end, |_| false);
    }

    /// Lets time pass until `done`, for at most `limit`; the time at which it was done.
    pub fn run_until(&mut self, limit: Duration, done: impl FnMut(&Self) -> bool) -> Option<Duration> {
        let end = self.now + limit;
        self.run(end, done).then_some(self.now)
    }

    /// Somebody says something.
    pub fn say(&mut self, who: Who, text: &str) -> ChatId {
        let id = self.clients[who].say(text);
        self.settle();
        id
    }

    /// Somebody leaves with a goodbye.
    pub fn leave(&mut self, who: Who) {
        self.clients[who].session.leave();
        self.settle();
    }

    /// Somebody's program is killed: nothing comes from it any more.
    pub fn kill(&mut self, who: Who) {
        self.clients[who].dead = true;
        self.cut(who);
    }

    /// Somebody's network is gone.
    pub fn cut(&mut self, who: Who) {
        self.clients[who].cut_since.get_or_insert(self.now);
    }

    /// Somebody's network is back.
    pub fn heal(&mut self, who: Who) {
        self.clients[who].cut_since = None;
        self.settle();
    }

    /// Somebody's network changes.
    pub fn set_path(&mut self, who: Who, path: Path) {
        for connection in self.connections.iter_mut().filter(|c| c.client == who) {
            connection.set_path(self.now, &path);
        }
        self.clients[who].path = path;
        self.settle();
    }

    /// The relay stops with a word to everybody, and starts again without a memory.
    pub fn restart_relay(&mut self) {
        for connection in &mut self.connections {
            connection.close_from_relay(self.now, Loss::Closed(CloseCode::ShuttingDown));
        }
        self.relay = Relay::new(self.seed.wrapping_add(self.made).wrapping_add(1));
        self.settle();
    }

    fn run(&mut self, end: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            let next = self.next_event();
            if next.is_none_or(|t| t > end) {
                self.now = end;
                self.settle();
                return done(self);
            }
            self.now = next.unwrap_or(end).max(self.now);
            self.settle();
        }
    }

    /// Does everything that is to be done now.
    fn settle(&mut self) {
        for turn in 0.. {
            assert!(turn < MAX_TURNS, "something is always due: time stands still (seed {})", self.seed);
            self.turn();
            if self.next_event().is_none_or(|t| t > self.now) {
                return;
            }
        }
    }

    fn turn(&mut self) {
        let (start, now) = (self.start, self.now);
        for connection in &mut self.connections {
            let client = &mut self.clients[connection.client];
            if client.cut_since.is_some_and(|since| now >= since + IDLE_TIMEOUT) {
                connection.time_out(now);
            }
        }
        for (who, client) in self.clients.iter_mut().enumerate().filter(|(_, c)| !c.dead) {
            let connection = self.connections.iter_mut().find(|c| c.client == who && c.client_open);
            if client.turn(start, now, connection, &self.clocks) {
                self.made += 1;
                let random = |n| Random::new(self.seed, CONNECTION_STREAMS + 2 * self.made + n);
                let path = client.path.clone();
                self.connections.push(Connection::new(
                    start,
                    now,
                    who,
                    &path,
                    self.video_max,
                    [random(0), random(1)],
                ));
                client.connected(now);
                let connection = self.connections.last_mut();
                client.turn(start, now, connection, &self.clocks);
            }
        }
        let cut: Vec<bool> = self.clients.iter().map(|c| c.cut_since.is_some()).collect();
        self.relay.turn(start, now, &mut self.connections, &cut);
        self.connections.retain(|c| c.client_open && !self.clients[c.client].dead || c.relay_open);
    }

    fn next_event(&self) -> Option<Duration> {
        let connections = self.connections.iter().filter_map(|c| match self.clients[c.client].cut_since {
            Some(since) => {
                c.next_timer(self.clients[c.client].dead).into_iter().chain([since + IDLE_TIMEOUT]).min()
            }
            None => c.next_event(),
        });
        let clients = self.clients.iter().filter(|c| !c.dead).filter_map(|c| c.next_event(self.start));
        let relay = self.relay.next_event(self.start);
        connections.chain(clients).chain(relay).min()
    }
}

/// The most that a camera sends unless it is said.
const VIDEO_MAX: Bitrate = Bitrate::from_kbps(650);
/// Turns at one moment: links without delay pass messages to and fro at once, but not for ever.
const MAX_TURNS: usize = 1000;
/// Numbers of the random sequences: clients and connections draw from their own, so that one more packet here changes
/// nothing there.
const CLIENT_STREAMS: u64 = 1 << 32;
const CONNECTION_STREAMS: u64 = 1 << 33;
