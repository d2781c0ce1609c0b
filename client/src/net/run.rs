//! The loop of the network thread.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use vchat_certs::invite::Link as InviteLink;
use vchat_certs::known::KnownError;
use vchat_certs::tls::Purpose;
use vchat_proto::hop::{self, Sender, Sent, Totals};
use vchat_proto::id::{DisplayName, RoomName};
use vchat_proto::session::{End, Event, Loss, Me, Output, Session, Settings};
use vchat_proto::units::MediaTime;
use vchat_proto::wire::hop::{Packet, WIRE_OVERHEAD};
use vchat_proto::wire::limits::MAX_DATAGRAM;
use vchat_proto::wire::pb;

use super::connect::{Acquaintance, Connector};
use super::inbound::{Inbound, Refresh, Way};
use super::link::{Incoming, Link};
use super::moving::{Before, Next, NextNews};
use super::pair::{PairError, pair};
use super::uplink::Uplink;
use super::{Command, Demand, NetNews, NetStats, PeerNetStats};
use crate::audio::{AudioPacket, PlaybackHandle};
use crate::cli::{Invite, Target};
use crate::clock::MediaClock;
use crate::news::{News, NewsSender};
use crate::video::EncodedFrame;

/// What the thread is started with.
pub(crate) struct Setup {
    pub(crate) relay: Target,
    pub(crate) invite: Option<InviteLink>,
    pub(crate) trust_on_first_use: bool,
    pub(crate) config_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) room: Option<RoomName>,
    pub(crate) name: DisplayName,
    pub(crate) publish: Vec<pb::TrackKind>,
    pub(crate) media_state: pb::MediaState,
    pub(crate) clock: MediaClock,
    pub(crate) playback: Option<PlaybackHandle>,
    pub(crate) news: NewsSender,
    pub(crate) demand: Arc<Demand>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) back: mpsc::WeakUnboundedSender<Command>,
    pub(crate) audio: mpsc::Receiver<AudioPacket>,
    pub(crate) video: mpsc::Receiver<EncodedFrame>,
}

/// The thread's main function.
pub(crate) fn thread(setup: Setup) {
    let news = setup.news.clone();
    let fail = |why: String| drop(news.send(News::Net(NetNews::Failed(why))));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(format!("cannot start the network thread: {e}")),
    };
    if let Err(why) = runtime.block_on(run(setup)) {
        fail(why);
    }
    // A name service that does not answer must not hold up the end of the program.
    runtime.shutdown_background();
}

async fn run(mut setup: Setup) -> Result<(), String> {
    let (relay, first_use) = (setup.relay, setup.trust_on_first_use);
    let mut connector = Connector::new(relay, first_use, &setup.config_dir, &setup.state_dir)?;
    let mut early = Vec::new();
    // A relay that is known under its name with other keys than the link's has changed its key since the link was made, or the link
    // is of another one: who is a member comes in without, and who is not meets the hard stop.
    if let Some(link) = setup.invite.filter(|link| !connector.knows_other_than(link.pin)) {
        let invite = Invite::Link(link);
        let pairing = pair(&mut connector, &invite, &setup.name);
        let Some(paired) = unless_left(pairing, &mut setup.commands, &mut early).await else { return Ok(()) };
        let news = match paired {
            Ok((paired, closed)) => {
                tokio::spawn(async move { closed.farewell().await });
                setup.room = setup.room.or_else(|| paired.room.clone());
                NetNews::Paired(paired)
            }
            Err(PairError::Local(why)) => return Err(why),
            Err(e) => NetNews::Event(Event::Ended(e.into())),
        };
        let over = matches!(news, NetNews::Event(_));
        // The main thread is gone only when the program ends.
        drop(setup.news.send(News::Net(news)));
        if over {
            return Ok(());
        }
    }
    let session = Session::new(Settings {
        room: setup.room,
        name: setup.name,
        publish: setup.publish,
        subscriptions: pb::Subscriptions { audio: true, video: true },
        media_state: setup.media_state,
        agent: concat!("vchat-client ", env!("CARGO_PKG_VERSION")).into(),
        instance: crate::random(),
    });
    let mut runner = Runner {
        session,
        connector,
        inbound: Inbound::new(setup.playback, setup.back, setup.news.clone(), setup.clock),
        uplink: Uplink::new(setup.demand),
        clock: setup.clock,
        news: setup.news,
        link: None,
        connecting: None,
        next: Next::default(),
        before: None,
        sends: Way::Present,
        connected_to: None,
        reported_at: None,
        receiver: None,
        counted: Counted::default(),
        peers: Vec::new(),
        leaving: None,
        over: false,
    };
    for command in early {
        runner.command(Instant::now(), command, &mut Vec::new());
    }
    runner.run(setup.commands, setup.audio, setup.video).await;
    Ok(())
}

/// Waits for a future, unless the user wants to leave before. Keeps what else is asked meanwhile.
async fn unless_left<T>(
    future: impl Future<Output = T>,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    early: &mut Vec<Command>,
) -> Option<T> {
    tokio::pin!(future);
    loop {
        tokio::select! {
            done = &mut future => return Some(done),
            command = commands.recv() => match command {
                None | Some(Command::Leave) => return None,
                Some(other) => early.push(other),
            },
        }
    }
}

struct Runner {
    session: Session,
    connector: Connector,
    inbound: Inbound,
    uplink: Uplink,
    clock: MediaClock,
    news: NewsSender,
    link: Option<Link>,
    connecting: Option<Connecting>,
    next: Next,
    before: Option<Before>,
    /// Over which connection our media go.
    sends: Way,
    /// The key of the relay at the other end of the link.
    connected_to: Option<vchat_certs::pin::Pin>,
    /// When statistics were told last; none without a connection.
    reported_at: Option<Instant>,
    /// What came over the hop from the relay, while there is one.
    receiver: Option<hop::Receiver>,
    /// Counts until the last statistics.
    counted: Counted,
    peers: Vec<vchat_proto::id::ParticipantId>,
    /// The user wants to leave, by then at the latest.
    leaving: Option<Instant>,
    over: bool,
}

pub(crate) type Connecting =
    Pin<Box<dyn Future<Output = Result<(Link, vchat_certs::pin::Pin), Loss>> + Send>>;

/// What woke the loop.
enum Wake {
    Connected(Result<(Link, vchat_certs::pin::Pin), Loss>),
    Incoming(Incoming),
    Next(NextNews),
    Datagram(Bytes),
    /// Over the connection that was left behind; none when that is lost.
    Late(Option<Bytes>),
    Command(Option<Command>),
    Audio(AudioPacket),
    Video(EncodedFrame),
    Sent,
    Time,
}

impl Runner {
    async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut audio: mpsc::Receiver<AudioPacket>,
        mut video: mpsc::Receiver<EncodedFrame>,
    ) {
        // The datagram at QUIC's door: its queue is full, and audio that comes meanwhile goes next.
        let mut at_door: Option<Bytes> = None;
        loop {
            self.act();
            self.leave_when_all_is_said(Instant::now());
            if self.over {
                break;
            }
            self.send(&mut at_door);
            let timeout = self.timeout(at_door.is_some());
            let wake = {
                let way_out = self.way_out().cloned();
                let link = self.link.as_mut().map(|l| (l.connection.clone(), l));
                let (connection, link) = link.unzip();
                // In no order: whatever the relay floods us with, the user can leave.
                tokio::select! {
                    r = connecting(&mut self.connecting) => Wake::Connected(r),
                    i = incoming(link) => Wake::Incoming(i),
                    n = self.next.next() => Wake::Next(n),
                    d = Before::datagram(self.before.as_mut()) => Wake::Late(d),
                    d = datagram(connection.as_ref()) => Wake::Datagram(d),
                    Some(packet) = audio.recv() => Wake::Audio(packet),
                    Some(frame) = video.recv() => Wake::Video(frame),
                    c = commands.recv(), if self.leaving.is_none() => Wake::Command(c),
                    () = door(way_out.as_ref(), at_door.as_ref()) => Wake::Sent,
                    () = sleep_until(timeout) => Wake::Time,
                }
            };
            self.handle(wake, &mut at_door);
            // What else is ready in the same turn goes out in the same burst.
            while let Ok(packet) = audio.try_recv() {
                self.uplink.push_audio(Instant::now(), &packet);
            }
        }
        // The goodbye is best effort: the relay also notices that we are gone.
        let next = self.next.link.take().map(|(link, _)| link);
        let before = self.before.take().map(Before::into_link);
        let mut farewells = JoinSet::new();
        for link in [self.link.take(), next, before].into_iter().flatten() {
            farewells.spawn(link.close());
        }
        drop(tokio::time::timeout(FAREWELL, farewells.join_all()).await);
    }

    fn handle(&mut self, wake: Wake, at_door: &mut Option<Bytes>) {
        let now = Instant::now();
        let mut needed: Vec<Refresh> = Vec::new();
        match wake {
            Wake::Connected(result) => {
                self.connecting = None;
                match result {
                    Ok((link, pin)) => {
                        self.link = Some(link);
                        self.receiver = Some(hop::Receiver::new(now));
                        self.connected_to = Some(pin);
                        self.session.handle_connected();
                    }
                    Err(loss) => self.session.handle_disconnected(now, loss),
                }
            }
            Wake::Incoming(Incoming::Control(message)) => {
                self.session.handle_control(now, self.clock.now(), message);
            }
            Wake::Incoming(Incoming::Chat(message)) => self.session.handle_chat(message),
            Wake::Incoming(Incoming::Lost(loss)) => {
                *at_door = None;
                self.disconnect(now, loss);
            }
            Wake::Next(news) => self.handle_next(now, news),
            Wake::Datagram(bytes) => self.datagram(now, Way::Present, bytes, &mut needed),
            Wake::Late(Some(bytes)) => self.datagram(now, Way::Before, bytes, &mut needed),
            Wake::Late(None) => {
                *at_door = None;
                self.leave_behind(now);
            }
            Wake::Command(command) => self.command(now, command.unwrap_or(Command::Leave), &mut needed),
            Wake::Audio(packet) => self.uplink.push_audio(now, &packet),
            Wake::Video(frame) => self.uplink.push_video(now, &frame),
            Wake::Sent => *at_door = None,
            Wake::Time => {
                self.session.handle_timeout(now, self.clock.now());
                self.inbound.handle_timeout(now, &mut needed);
                if self.switch_when_due(now) {
                    *at_door = None;
                }
                self.report(now);
            }
        }
        needed.into_iter().for_each(|refresh| self.session.request_refresh(refresh.track, refresh.decoded));
    }

    fn datagram(&mut self, now: Instant, way: Way, bytes: Bytes, needed: &mut Vec<Refresh>) {
        let receiver = match way {
            Way::Present => self.receiver.as_mut(),
            Way::Before => self.before.as_mut().map(|before| &mut before.receiver),
        };
        let Some(receiver) = receiver else { return };
        let len = bytes.len();
        match Packet::parse(bytes) {
            Ok((number, packet)) => {
                if let Packet::Report(report) = &packet
                    && way == self.sends
                {
                    self.uplink.handle_report(now, report);
                    self.inbound.set_round_trip(self.uplink.round_trip());
                }
                receiver.handle_packet(now, number, len, packet);
            }
            Err(e) => tracing::debug!("the relay sends a {e}"),
        }
        while let Some(media) = receiver.poll_media() {
            self.inbound.handle_media(now, way, &media, needed);
        }
    }

    fn command(&mut self, now: Instant, command: Command, needed: &mut Vec<Refresh>) {
        match command {
            Command::Say(id, text) => {
                if let Err(e) = self.session.say(id, &text) {
                    self.tell(NetNews::SayFailed(id, e));
                }
            }
            Command::MediaState(state) => self.session.set_media_state(state),
            Command::View(heights) => self.session.set_view(now, heights),
            Command::ReadBack => self.session.read_back(now),
            Command::DecoderFailed(track) => self.inbound.decoder_failed(now, track, needed),
            Command::Leave => self.leaving = Some(now + FAREWELL),
        }
    }

    /// Says goodbye once the relay has stored what the user said last, or does not within [`FAREWELL`].
    fn leave_when_all_is_said(&mut self, now: Instant) {
        if self.leaving.is_some_and(|t| now >= t || self.link.is_none() || self.session.all_is_said()) {
            self.session.leave();
            self.act();
            self.over = true;
        }
    }

    fn disconnect(&mut self, now: Instant, loss: Loss) {
        (self.link, self.receiver, self.next, self.sends) = (None, None, Next::default(), Way::Present);
        self.before.take().into_iter().for_each(Before::close);
        self.uplink.pause();
        self.inbound.disconnected();
        self.reported_at = None;
        self.session.handle_disconnected(now, loss);
    }

    /// Does what the session wants done.
    fn act(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Connect => {
                    let connected = self.connector.connect(Purpose::Call);
                    self.connecting = Some(Box::pin(async { Link::open(connected.await?).await }));
                }
                Output::ConnectNext => {
                    let connected = self.connector.connect(Purpose::Call);
                    self.next.connecting = Some(Box::pin(async { Link::open(connected.await?).await }));
                }
                Output::NextControl(message) => {
                    if let Some((link, _)) = &self.next.link {
                        link.send_control(message);
                    }
                }
                Output::NextChat(message) => {
                    if let Some((link, _)) = &self.next.link {
                        link.send_chat(message);
                    }
                }
                Output::Control(message) => {
                    if let Some(link) = &self.link {
                        link.send_control(message);
                    }
                }
                Output::Chat(message) => {
                    if let Some(link) = &self.link {
                        link.send_chat(message);
                    }
                }
                Output::Event(event) => self.event(event),
            }
        }
    }

    fn event(&mut self, event: Event) {
        match &event {
            Event::Joined { me, .. } => {
                self.uplink.prepare(me);
                self.uplink.begin(Instant::now());
                self.reported_at = Some(Instant::now());
                self.counted = Counted::default();
                self.remember_relay();
            }
            Event::Moved { me, at } => self.moved(Instant::now(), me, *at),
            _ => {}
        }
        // The main thread hears of a peer before it hears of their pictures.
        if !matches!(event, Event::NextKey(_)) {
            self.tell(NetNews::Event(event.clone()));
        }
        match event {
            Event::PeerJoined(peer) | Event::PeerChanged(peer) => {
                if !self.peers.contains(&peer.id) {
                    self.peers.push(peer.id);
                }
                let mut needed = Vec::new();
                self.inbound.here(Instant::now(), &peer, &mut needed);
                needed
                    .into_iter()
                    .for_each(|refresh| self.session.request_refresh(refresh.track, refresh.decoded));
            }
            Event::PeerLeft(id) => {
                self.peers.retain(|p| *p != id);
                self.inbound.left(id);
            }
            Event::NextKey(said) => self.store_next_key(said),
            Event::RefreshRequested(track, decoded) => self.uplink.want_refresh(track, decoded),
            Event::TrackWanted(track, wanted) => self.uplink.set_wanted(track, wanted),
            Event::TrackLimited(track, limit) => self.uplink.set_limit(track, limit),
            Event::Ended(End::Refused(_) | End::Unreachable(_) | End::Untrusted(_)) => self.over = true,
            _ => {}
        }
    }

    /// What came of the connection to the process that takes over.
    fn handle_next(&mut self, now: Instant, news: NextNews) {
        match news {
            NextNews::Connected(Ok(connected)) => {
                self.next.link = Some(connected);
                self.session.handle_next_connected();
            }
            NextNews::Incoming(Incoming::Control(message)) => self.session.handle_next_control(now, message),
            NextNews::Incoming(Incoming::Chat(message)) => self.session.handle_chat(message),
            NextNews::Connected(Err(loss)) | NextNews::Incoming(Incoming::Lost(loss)) => {
                tracing::debug!("no connection to the process that takes over: {loss:?}");
                self.next = Next::default();
                self.session.handle_next_disconnected(now);
            }
        }
    }

    /// The connection beside is the present one now. Our media go the old way until everybody's do not.
    fn moved(&mut self, now: Instant, me: &Me, at: MediaTime) {
        let Some((link, pin)) = self.next.link.take() else { return };
        let wait = u64::try_from(at.micros_since(self.clock.now())).unwrap_or(0);
        let receiver = self.receiver.replace(hop::Receiver::new(now));
        if let (Some(link), Some(receiver)) = (self.link.replace(link), receiver) {
            let before = Before::new(link, receiver, now + Duration::from_micros(wait));
            self.before.replace(before).into_iter().for_each(Before::close);
            self.sends = Way::Before;
        }
        self.connected_to = Some(pin);
        self.counted.received = Totals::default();
        self.uplink.prepare(me);
        self.inbound.moved();
        self.remember_relay();
    }

    /// Whether our media go over the present connection from now on.
    fn switch_when_due(&mut self, now: Instant) -> bool {
        if self.before.as_ref().is_some_and(|before| before.until() <= now) {
            self.leave_behind(now);
        }
        let due = self.before.as_ref().is_some_and(|before| before.switch_at <= now);
        due && self.switch(now)
    }

    fn switch(&mut self, now: Instant) -> bool {
        if std::mem::replace(&mut self.sends, Way::Present) == Way::Present {
            return false;
        }
        self.uplink.begin(now);
        self.counted.sent = Sent::default();
        true
    }

    /// Nothing comes over the connection of before any more.
    fn leave_behind(&mut self, now: Instant) {
        self.switch(now);
        self.inbound.left_behind();
        self.before.take().into_iter().for_each(Before::close);
    }

    /// The connection over which our media go.
    fn way_out(&self) -> Option<&quinn::Connection> {
        match self.sends {
            Way::Present => self.link.as_ref().map(|link| &link.connection),
            Way::Before => self.before.as_ref().map(Before::connection),
        }
    }

    /// Only the welcome shows that the relay took us; until then its key is not remembered.
    fn remember_relay(&mut self) {
        let Some(relay) = self.connected_to else { return };
        match self.connector.welcomed(relay) {
            Ok(Acquaintance::Old) => {}
            Ok(Acquaintance::FirstUse) => {
                self.tell(NetNews::FirstUse { relay, ours: self.connector.our_pin() });
            }
            Ok(Acquaintance::Alias(name)) => self.tell(NetNews::Alias(name)),
            Ok(Acquaintance::NewKey) => self.tell(NetNews::NewKey(relay)),
            Err(e @ KnownError::Changed { .. }) => {
                self.disconnect(Instant::now(), Loss::Untrusted(e.to_string()));
            }
            Err(e) => tracing::warn!("the relay's key is not remembered: {e}"),
        }
    }

    /// The relay says what its next key is. It waits for us to write it down, so it hears when that is done.
    fn store_next_key(&mut self, said: Option<(Vec<u8>, Vec<u8>)>) {
        let Some(current) = self.connected_to else { return };
        match self.connector.next_key(current, said) {
            Ok(Some(next)) => self.session.next_key_stored(next.0),
            Ok(None) => {}
            Err(why) => tracing::warn!("the relay's next key is not remembered: {why}"),
        }
    }

    /// Hands media to QUIC as long as it has room.
    fn send(&mut self, at_door: &mut Option<Bytes>) {
        let now = Instant::now();
        let ways = [
            self.link.as_ref().map(|link| &link.connection).zip(self.receiver.as_mut()),
            self.before.as_mut().map(Before::hop),
        ];
        // Reports go past everything that waits: they are small, and the relay repairs by them.
        for (connection, receiver) in ways.into_iter().flatten() {
            if let Some(report) = receiver.poll_report(now) {
                self.counted.reports += (report.len() + WIRE_OVERHEAD) as u64;
                drop(connection.send_datagram(report));
            }
        }
        let Some(connection) = self.way_out().cloned() else { return };
        while at_door.is_none() {
            let Some(datagram) = self.uplink.pop(Instant::now()) else { return };
            if connection.datagram_send_buffer_space() >= MAX_DATAGRAM {
                // Fails only when the connection is lost, which shows elsewhere.
                drop(connection.send_datagram(datagram));
            } else {
                *at_door = Some(datagram);
            }
        }
    }

    /// When something is due. While QUIC's door is closed nothing of ours can be sent.
    fn timeout(&self, door_closed: bool) -> Option<Instant> {
        let report = self.reported_at.map(|t| t + STATS);
        let receiver = self.receiver.as_ref().and_then(hop::Receiver::poll_timeout);
        let machines = [self.session.poll_timeout(), self.inbound.poll_timeout(), receiver];
        let before = self.before.as_ref().and_then(|before| before.poll_timeout(self.sends == Way::Before));
        let uplink = self.uplink.poll_timeout().filter(|_| !door_closed);
        let timers = [uplink, report, before, self.leaving];
        machines.into_iter().chain(timers).flatten().min()
    }

    fn report(&mut self, now: Instant) {
        let (Some(link), Some(last)) = (&self.link, self.reported_at.filter(|t| *t + STATS <= now)) else {
            return;
        };
        let seconds = now.saturating_duration_since(last).as_secs_f64();
        // In step, but after a machine slept there is one report and not one for each second.
        self.reported_at = Some((last + STATS).max(now - STATS / 2));
        let kbps = |bytes: u64| bytes as f64 * 8.0 / 1e3 / seconds;
        let rtt_ms = link.connection.rtt().as_secs_f64() * 1e3;
        let now_counted = Counted {
            sent: self.uplink.sender().map(Sender::sent).unwrap_or_default(),
            received: self.receiver.as_ref().map(hop::Receiver::totals).unwrap_or_default(),
            reports: self.counted.reports,
            reports_told: self.counted.reports,
        };
        let last = std::mem::replace(&mut self.counted, now_counted);
        let Counted { sent, received, .. } = now_counted;
        let media = sent.media_bytes.saturating_sub(last.sent.media_bytes);
        let other = sent.other_bytes().saturating_sub(last.sent.other_bytes())
            + now_counted.reports.saturating_sub(last.reports_told);
        let media_in = received.media_bytes.saturating_sub(last.received.media_bytes);
        let other_in = received.other_bytes.saturating_sub(last.received.other_bytes);
        let expected = received.expected.saturating_sub(last.received.expected);
        let arrived = received.arrived.saturating_sub(last.received.arrived);
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let bytes = self.inbound.take_bytes();
        let peers = self.peers.iter().map(|&participant| PeerNetStats {
            participant,
            video_kbps: bytes.iter().filter(|(p, _)| *p == participant).map(|(_, b)| kbps(*b)).sum(),
            clock_difference: self.session.clock_difference(participant),
        });
        let stats = NetStats {
            seconds,
            rtt_ms,
            up_kbps: kbps(media + other),
            up_overhead: share(other, media),
            up_loss: self.uplink.sender().map_or(0.0, |s| s.loss().rate),
            up_residual_loss: self.uplink.sender().map_or(0.0, |s| s.residual_loss().rate),
            up_burst_ms: self.uplink.burst_ms(),
            up_target_kbps: self.uplink.sender().map_or(0.0, |s| s.target().bps() as f64 / 1e3),
            down_kbps: kbps(media_in + other_in),
            down_overhead: share(other_in, media_in),
            down_loss: share(expected.saturating_sub(arrived), expected),
            up_frames: self.uplink.take_frames(),
            peers: peers.collect(),
        };
        self.tell(NetNews::Stats(stats));
    }

    fn tell(&self, news: NetNews) {
        // The main thread is gone only when the program ends.
        drop(self.news.send(News::Net(news)));
    }
}

async fn connecting(future: &mut Option<Connecting>) -> Result<(Link, vchat_certs::pin::Pin), Loss> {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn incoming(link: Option<&mut Link>) -> Incoming {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

async fn datagram(connection: Option<&quinn::Connection>) -> Bytes {
    if let Some(connection) = connection
        && let Ok(datagram) = connection.read_datagram().await
    {
        return datagram;
    }
    // A lost connection is told by the link.
    std::future::pending().await
}

/// Waits until QUIC has taken the datagram.
async fn door(connection: Option<&quinn::Connection>, datagram: Option<&Bytes>) {
    match (connection, datagram) {
        // An error means that the connection is lost, which shows elsewhere.
        (Some(connection), Some(datagram)) => drop(connection.send_datagram_wait(datagram.clone()).await),
        _ => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// What statistics count, as it was when they were told.
#[derive(Clone, Copy, Default)]
struct Counted {
    sent: Sent,
    received: Totals,
    /// Bytes of reports sent, and how many of them were in the last statistics.
    reports: u64,
    reports_told: u64,
}

/// How often statistics are told.
const STATS: Duration = Duration::from_secs(1);
/// A round trip to almost anywhere: for what was said last, and again for the goodbye.
const FAREWELL: Duration = Duration::from_millis(500);
