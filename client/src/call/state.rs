//! The state of a call on the main thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vchat_proto::id::{ChatId, ParticipantId, RoomName};
use vchat_proto::session::{ChatLine, Event};
use vchat_proto::stats::Distribution;
use vchat_proto::units::{Bitrate, MediaTime};
use vchat_proto::wire::pb;

use super::Failure;
use super::camera::Camera;
use super::events::Printer;
use super::peer::{Remote, quantiles, round};
use crate::audio::{Capture, Loss, Playback};
use crate::cli::{Config, Target};
use crate::clock::MediaClock;
use crate::net::{Net, NetNews, NetStats};
use crate::news::News;
use crate::picture::Picture;
use crate::window::{self, Above, Action, Scene, Tile};

/// Everything that the main thread knows of a call.
pub(crate) struct Call {
    pub(crate) clock: MediaClock,
    pub(crate) remotes: BTreeMap<ParticipantId, Remote>,
    /// Those who left, for the statistics of the whole call.
    departed: Vec<Remote>,
    config: Config,
    started: Instant,
    joined_at: Option<Instant>,
    printer: Printer,
    net: Option<Net>,
    capture: Capture,
    camera: Camera,
    playback: Playback,
    muted: bool,
    told: Option<pb::MediaState>,
    /// How high the pictures of the others are, as the network thread knows it.
    view: Vec<(ParticipantId, u32)>,
    /// The worst way from the relay to somebody who hears us.
    audience: Loss,
    me: Option<ParticipantId>,
    scene: Scene,
    /// The newest picture of our own camera, and how many there were.
    self_view: (Option<Arc<Picture>>, u64),
    lines: Vec<window::ChatLine>,
    /// So many of them, the first, are of a chat that the relay has lost.
    lost_lines: usize,
    show_statistics: bool,
    encode_total: Distribution,
    last_net: NetStats,
    /// What the banner says of the connection while there is none.
    connection: Option<String>,
    /// What the banner says otherwise, and until when.
    notice: Option<(String, Instant)>,
    statistics: Option<Value>,
    over: Option<Result<(), Failure>>,
}

impl Call {
    #[allow(clippy::too_many_arguments, reason = "what a call is made of")]
    pub(crate) fn new(
        config: &Config,
        started: Instant,
        clock: MediaClock,
        printer: Printer,
        net: Net,
        capture: Capture,
        camera: Camera,
        playback: Playback,
    ) -> Self {
        let mut call = Self {
            clock,
            remotes: BTreeMap::new(),
            departed: Vec::new(),
            config: config.clone(),
            started,
            joined_at: None,
            printer,
            net: Some(net),
            muted: !capture.has_source(),
            capture,
            camera,
            playback,
            told: None,
            view: Vec::new(),
            audience: Loss::default(),
            me: None,
            scene: Scene {
                room: config.room.as_ref().map_or("", RoomName::as_str).into(),
                ..Scene::default()
            },
            self_view: (None, 0),
            lines: Vec::new(),
            lost_lines: 0,
            show_statistics: false,
            encode_total: Distribution::default(),
            last_net: NetStats::default(),
            connection: Some(match &config.relay {
                Target::Lan => "Looking for a relay on this network…".into(),
                relay => format!("Connecting to {relay}…"),
            }),
            notice: None,
            statistics: None,
            over: None,
        };
        call.tell_media_state();
        call
    }

    /// Takes what another thread tells.
    pub(crate) fn handle(&mut self, news: News) {
        match news {
            News::Net(news) => self.handle_net(news),
            News::Listening(id, heard) => {
                if let Some(remote) = self.remotes.get_mut(&id) {
                    remote.heard = heard;
                }
            }
            News::Decoding(id, slot) => {
                if let Some(remote) = self.remotes.get_mut(&id) {
                    remote.slot = slot;
                }
            }
            // These only wake the loop: the slots are looked at with every turn.
            News::Picture(_) | News::SelfView => {}
            News::CameraGone(why) => {
                self.notice("camera", &why);
                self.tell_media_state();
            }
            News::SoundGone(why) => {
                self.notice("sound", &why);
                // A microphone that comes back stays silent until the user wants it to be heard.
                self.muted |= !self.capture.has_source();
                self.capture.set_muted(self.muted);
                self.tell_media_state();
            }
            News::Line(line, taken) => {
                self.say(&line);
                // Fails only when the reader has ended.
                taken.try_send(()).unwrap_or_default();
            }
            News::Stop => self.over = Some(Ok(())),
        }
    }

    /// Does what the user wants.
    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::ToggleMute => {
                self.muted = !self.muted || !self.capture.has_source();
                self.capture.set_muted(self.muted);
                self.tell_media_state();
            }
            Action::ToggleCamera => {
                self.camera.set_on(!self.camera.is_on());
                self.tell_media_state();
            }
            Action::ToggleStatistics => {
                self.show_statistics = !self.show_statistics;
                self.update_statistics();
            }
            Action::Say(text) => self.say(&text),
            Action::ReadBack => {
                if let (Above::Older, Some(net)) = (self.scene.above, &self.net) {
                    net.read_back();
                    self.scene.above = Above::Coming;
                }
            }
            Action::Quit => self.over = Some(Ok(())),
        }
    }

    /// How the call ended, if it has.
    pub(crate) const fn over(&mut self) -> Option<Result<(), Failure>> {
        self.over.take()
    }

    /// What the window shows.
    pub(crate) fn scene(&mut self) -> &Scene {
        for remote in self.remotes.values_mut() {
            remote.take_picture();
        }
        if let Some(picture) = self.camera.take_self_view() {
            self.self_view = (Some(picture), self.self_view.1 + 1);
        }
        let camera_off = !self.camera.is_on();
        self.scene.tiles.clear();
        self.scene.tiles.extend(self.remotes.values().map(|r| Tile {
            id: r.peer.id.0.into(),
            name: r.peer.name.as_str().into(),
            picture: r.current.as_ref().map(|d| d.picture.clone()),
            version: r.version,
            muted: r.peer.muted,
            camera_off: r.peer.camera_off,
            speaking: !r.peer.muted && r.heard.speaking(),
            me: false,
        }));
        self.scene.tiles.push(Tile {
            id: MY_TILE,
            name: self.config.name.as_str().into(),
            picture: self.self_view.0.clone(),
            version: self.self_view.1,
            muted: self.muted,
            camera_off,
            speaking: !self.muted && self.capture.speaking(),
            me: true,
        });
        self.scene.me = window::Me { muted: self.muted, camera_off };
        self.notice.take_if(|(_, until)| *until <= Instant::now());
        self.scene.banner =
            self.connection.clone().or_else(|| self.notice.as_ref().map(|(text, _)| text.clone()));
        &self.scene
    }

    /// The participants of whom there is a new picture, without a window.
    pub(crate) fn take_fresh(&mut self) -> Vec<ParticipantId> {
        drop(self.camera.take_self_view());
        self.remotes.iter_mut().filter_map(|(id, r)| r.take_picture().then_some(*id)).collect()
    }

    /// The picture `version` of a tile is on the screen.
    pub(crate) fn shown(&mut self, tile: u64, version: u64, at: MediaTime) {
        let Ok(id) = u32::try_from(tile).map(ParticipantId) else { return };
        if self.remotes.get(&id).is_some_and(|r| r.version == version) {
            self.shown_remote(id, at);
        }
    }

    /// The current picture of somebody is shown.
    pub(crate) fn shown_remote(&mut self, id: ParticipantId, at: MediaTime) {
        let Some(remote) = self.remotes.get_mut(&id) else { return };
        remote.shown(at);
        if !std::mem::replace(&mut remote.first_shown, true) {
            self.printer.event(&json!({"event": "first-frame", "participant": id.0, "t_ms": self.age_ms()}));
        }
    }

    /// Tells the final statistics, and says goodbye.
    pub(crate) fn finish(&mut self) {
        if let Some(joined) = self.joined_at {
            self.poll_audio();
            let seconds = joined.elapsed().as_secs_f64();
            self.print_stats(true, seconds);
        }
        if let Some(net) = self.net.take() {
            net.leave();
        }
    }

    fn handle_net(&mut self, news: NetNews) {
        match news {
            NetNews::Event(event) => self.handle_event(event),
            NetNews::FirstUse { relay, ours } => {
                let host = &self.config.relay;
                eprintln!(
                    "first call through {host}: its key is remembered. To be sure that nobody is in between, compare"
                );
                eprintln!("  the relay's fingerprint (vchatd key): {relay}");
                eprintln!("  this device's (vchatd devices):       {ours}");
                let (relay, device) = (relay.to_string(), ours.to_string());
                self.printer.event(&json!({"event": "first-contact", "relay": relay, "device": device}));
            }
            NetNews::Alias(name) => {
                eprintln!("{} is the relay that this device knows as {name}", self.config.relay);
            }
            NetNews::NewKey(pin) => {
                eprintln!("the relay has the new key that it had announced: {pin}");
                self.printer.event(&json!({"event": "relay-key-changed", "relay": pin.to_string()}));
            }
            NetNews::Paired(paired) => {
                eprintln!("paired with {}; from now on: vchat-client --relay {0}", paired.relay);
                self.printer.event(&json!({
                    "event": "paired", "relay": paired.pin.to_string(), "device": paired.ours.to_string(),
                    "rooms": paired.rooms.iter().map(RoomName::as_str).collect::<Vec<_>>(), "admin": paired.admin, "t_ms": self.age_ms(),
                }));
            }
            NetNews::SayFailed(id, why) => {
                self.lines.retain(|l| l.id != id);
                self.chat_changed();
                self.notice("chat", &format!("not sent: {why}"));
            }
            NetNews::Stats(stats) => {
                self.poll_audio();
                for peer in &stats.peers {
                    if let Some(remote) = self.remotes.get_mut(&peer.participant) {
                        remote.set_net(*peer);
                    }
                }
                self.protect_sound(&stats);
                let seconds = stats.seconds;
                self.last_net = stats;
                self.print_stats(false, seconds);
            }
            NetNews::Failed(why) => self.over = Some(Err(Failure::Other(why))),
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Joined { me, gap } => {
                self.me = Some(me.id);
                self.scene.room = me.room.as_str().into();
                self.connection = None;
                match gap {
                    None => {
                        self.joined_at = Some(Instant::now());
                        self.printer.event(&json!({
                            "event": "joined", "room": me.room.as_str(), "participant": me.id.0,
                            "name": self.config.name.as_str(), "t_ms": self.age_ms(),
                        }));
                    }
                    Some(gap) => {
                        // Told again when each is seen again.
                        self.remotes.values_mut().for_each(|remote| remote.first_shown = false);
                        self.printer.event(&json!({"event": "reconnected", "participant": me.id.0, "gap_ms": gap.as_millis()}));
                    }
                }
            }
            Event::Moved { me, .. } => {
                self.me = Some(me.id);
                self.printer.event(&json!({"event": "moved", "participant": me.id.0}));
            }
            Event::PeerJoined(peer) => {
                let (id, name) = (peer.id, peer.name.as_str());
                self.printer.event(&json!({"event": "peer-joined", "participant": id.0, "name": name}));
                self.remotes.insert(id, Remote::new(peer));
            }
            Event::PeerChanged(peer) => {
                if let Some(remote) = self.remotes.get_mut(&peer.id) {
                    if (remote.peer.muted, remote.peer.camera_off) != (peer.muted, peer.camera_off) {
                        self.printer.event(&json!({
                            "event": "peer-changed", "participant": peer.id.0, "muted": peer.muted,
                            "camera_off": peer.camera_off,
                        }));
                    }
                    remote.update(peer);
                }
            }
            Event::Audience { loss_permille, burst_ms } => {
                let percent = u8::try_from(loss_permille.div_ceil(10).min(100)).unwrap_or(100);
                self.audience = Loss { percent, burst_ms };
            }
            Event::PeerLeft(id) => {
                if let Some(remote) = self.remotes.remove(&id) {
                    let name = remote.peer.name.as_str();
                    self.printer.event(&json!({"event": "peer-left", "participant": id.0, "name": name}));
                    self.departed.push(remote);
                    if self.departed.len() > MAX_DEPARTED {
                        self.departed.remove(0);
                    }
                }
            }
            Event::ChatBegins { lost, more } => self.chat_begins(lost, more),
            Event::Chat(line) => self.chat(line),
            Event::ChatPage { lines, more } => self.chat_page(lines, more),
            Event::ChatStored(id, seq) => self.printer.chat_sent(id, seq),
            Event::ChatRefused(id, reason) => {
                self.lines.retain(|l| l.id != id);
                self.chat_changed();
                let why = match reason {
                    pb::RefusalReason::TooFast => "too many messages at once; wait a moment",
                    pb::RefusalReason::TooLong => "the message is too long",
                    pb::RefusalReason::NotStored => "the relay cannot store it; try again later",
                    pb::RefusalReason::Empty | pb::RefusalReason::Unspecified => "the relay did not take it",
                };
                self.notice("chat", &format!("not sent: {why}"));
            }
            Event::RefreshRequested(..)
            | Event::TrackWanted(..)
            | Event::TrackLimited(..)
            | Event::NextKey(_) => {}
            Event::Reconnecting(why) => {
                self.connection = Some("Connection lost, connecting again…".into());
                self.printer.event(&json!({"event": "reconnecting", "reason": why}));
                tracing::warn!("connection lost: {why}");
            }
            Event::Ended(end) => self.over = Some(Err(Failure::end(end, &self.config))),
        }
    }

    fn say(&mut self, text: &str) {
        let text = text.trim_end();
        if text.is_empty() {
            return;
        }
        let id = ChatId(
            [crate::random().to_be_bytes(), crate::random().to_be_bytes()]
                .concat()
                .try_into()
                .unwrap_or([0; 16]),
        );
        self.lines.push(window::ChatLine {
            id,
            name: self.config.name.as_str().into(),
            text: text.into(),
            time_ms: unix_ms(),
            mine: true,
            pending: true,
        });
        self.chat_changed();
        if let Some(net) = &self.net {
            net.say(id, text.into());
        }
    }

    /// A line in the room's order; our own takes the place of the one that waited.
    fn chat(&mut self, line: ChatLine) {
        self.printer.chat(&line);
        let waiting = self.lines.iter().position(|l| l.id == line.id);
        let mine = waiting.map(|at| self.lines.remove(at)).is_some();
        let at = self.lines.iter().position(|l| l.pending).unwrap_or(self.lines.len());
        self.lines.insert(at, shown(line, mine));
        if self.lines.len() > MAX_LINES {
            self.lines.remove(0);
            self.lost_lines = self.lost_lines.saturating_sub(1);
            self.scene.above = Above::Beyond;
        }
        self.chat_changed();
    }

    /// The lines to come do not join on to those there are.
    fn chat_begins(&mut self, lost: bool, more: bool) {
        if lost {
            self.lost_lines = self.lines.iter().position(|l| l.pending).unwrap_or(self.lines.len());
        } else {
            self.lines.retain(|l| l.pending);
            self.lost_lines = 0;
        }
        self.scene.above = if more { Above::Older } else { Above::Beginning };
        self.chat_changed();
    }

    /// Older lines, above all those of the same chat.
    fn chat_page(&mut self, lines: Vec<ChatLine>, more: bool) {
        self.printer.chat_page(&lines, more);
        let beyond = (self.lines.len() + lines.len()).saturating_sub(MAX_LINES);
        let older = lines.into_iter().skip(beyond).map(|line| shown(line, false));
        self.lines.splice(self.lost_lines..self.lost_lines, older);
        self.scene.above = if beyond > 0 {
            Above::Beyond
        } else if more {
            Above::Older
        } else {
            Above::Beginning
        };
        self.chat_changed();
    }

    fn chat_changed(&mut self) {
        self.scene.chat = self.lines.clone().into();
    }

    /// Something is wrong that does not end the call.
    fn notice(&mut self, code: &str, why: &str) {
        tracing::warn!("{why}");
        self.printer.error(code, why);
        self.notice = Some((why.into(), Instant::now() + NOTICE));
    }

    fn tell_media_state(&mut self) {
        let state = pb::MediaState { muted: self.muted, camera_off: !self.camera.is_on() };
        if self.told.replace(state) != Some(state)
            && let Some(net) = &self.net
        {
            net.set_media_state(state);
        }
    }

    /// The pictures of the others are shown so high: the relay need not send more.
    pub(crate) fn set_heights(&mut self, heights: &[(u64, u32)]) {
        let remote = |(tile, height): &(u64, u32)| Some((ParticipantId(u32::try_from(*tile).ok()?), *height));
        let view: Vec<(ParticipantId, u32)> = heights.iter().filter_map(remote).collect();
        if view != self.view
            && let Some(net) = &self.net
        {
            net.set_view(view.clone());
            self.view = view;
        }
    }

    /// Codes our sound against the losses on both ways to those who hear it.
    fn protect_sound(&self, stats: &NetStats) {
        let percent = |share: f64| (share * 100.0).round().clamp(0.0, 100.0) as u8;
        // Of two ways, either may lose it.
        let up = percent(stats.up_residual_loss);
        let both = u32::from(up) + u32::from(self.audience.percent);
        let loss = Loss {
            percent: u8::try_from(both.min(100)).unwrap_or(100),
            burst_ms: stats.up_burst_ms.max(self.audience.burst_ms),
        };
        let narrow = stats.up_target_kbps < NARROW_KBPS && stats.up_target_kbps > 0.0;
        self.capture.adapt(if narrow { NARROW_SOUND } else { SOUND }, loss);
    }

    fn poll_audio(&mut self) {
        for audio in self.playback.handle().poll_stats().peers {
            if let Some(remote) = self.remotes.get_mut(&audio.participant) {
                remote.set_audio(audio);
            }
        }
    }

    fn print_stats(&mut self, whole: bool, seconds: f64) {
        let (encode, target) = self.camera.take_encode_times();
        self.encode_total.merge(&encode);
        let encode = if whole { &self.encode_total } else { &encode };
        let net = &self.last_net;
        let departed = self.departed.iter_mut().filter(|_| whole);
        let peers: Vec<_> =
            departed.chain(self.remotes.values_mut()).map(|r| r.stats(whole, seconds)).collect();
        let stats = json!({
            "event": "stats", "rtt_ms": round(net.rtt_ms),
            "up": {
                "kbps": net.up_kbps.round(), "overhead": share(net.up_overhead), "loss": share(net.up_loss),
                "target_kbps": target.kbps(), "network_kbps": net.up_target_kbps.round(),
                "fps": round(f64::from(net.up_frames) / net.seconds.max(0.001)), "encode_ms": quantiles(encode, 0, &["p50", "p95"]),
            },
            "down": {
                "kbps": net.down_kbps.round(), "overhead": share(net.down_overhead), "loss": share(net.down_loss),
            },
            "peers": peers,
        });
        self.printer.event(&stats);
        self.statistics = Some(stats);
        self.update_statistics();
    }

    fn update_statistics(&mut self) {
        let text = self.statistics.as_ref().filter(|_| self.show_statistics).map(super::statistics::text);
        self.scene.statistics = text;
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A line that the relay has stored, as the window shows it.
fn shown(line: ChatLine, mine: bool) -> window::ChatLine {
    let ChatLine { id, name, text, sent_ms: time_ms, .. } = line;
    window::ChatLine { id, name, text, time_ms, mine, pending: false }
}

/// A share to four digits.
fn share(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn unix_ms() -> u64 {
    let since =
        std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Full-band speech without audible loss (RFC 7587 recommends 28 to 40 kb/s).
const SOUND: Bitrate = Bitrate::from_kbps(32);
/// Where there is hardly room for a picture, sound leaves it a little more.
const NARROW_SOUND: Bitrate = Bitrate::from_kbps(20);
const NARROW_KBPS: f64 = 250.0;
/// Our own tile; participants have 32 bits.
const MY_TILE: u64 = u64::MAX;
/// Long enough to read a sentence twice.
const NOTICE: Duration = Duration::from_secs(10);
/// People who left and are still told of in the statistics of the whole call.
const MAX_DEPARTED: usize = 64;
/// Lines of chat kept for scrolling back: some megabytes, and copied whenever one comes.
const MAX_LINES: usize = 5 * vchat_proto::wire::limits::CHAT_HISTORY;
