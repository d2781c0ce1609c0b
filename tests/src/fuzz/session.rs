//! A client that meets any relay.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use prost::Message;
use vchat_proto::id::{ChatId, DisplayName, FrameId, ParticipantId, RoomName, TrackId};
use vchat_proto::session::{Event, Loss, MAX_OUTBOX, Output, Session, Settings};
use vchat_proto::units::MediaTime;
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::pb;

#[derive(Arbitrary, Debug)]
enum Step {
    Connected,
    NextConnected,
    NextLost,
    GoAway(u64),
    NextWelcome { you: u8, others: [u8; 3] },
    Closed(u8),
    NetworkLost,
    Welcome { you: u8, others: [u8; 3] },
    Participant { id: u8, nameless: bool, offset_us: i64, error_us: u64 },
    Left(u8),
    RefreshWanted { track: u8, decoded: Option<u32> },
    TrackWanted { track: u8, wanted: bool },
    Audience { loss_permille: u32, burst_ms: u32 },
    Pong { sent_us: u64, relay_us: u64 },
    Control(Vec<u8>),
    History { id: u8, after_seq: u64 },
    Line { seq: u64, whole: bool },
    ReadBack,
    Page { history: u8, before: u64, lines: Vec<(u64, bool)>, more: bool },
    Ack(u8),
    Refuse(u8),
    Chat(Vec<u8>),
    Say(u8),
    State(bool),
    NeedRefresh(u16, Option<u32>),
    View(Vec<(u8, u16)>),
    Pass(u16),
    Leave,
}

/// What the rest of the program relies on.
#[derive(Default)]
struct Promises {
    /// A connection is being made or stands.
    connection: bool,
    over: bool,
    peers: BTreeSet<ParticipantId>,
    last_line: u64,
    /// The oldest line since the chat began.
    first_line: Option<u64>,
    /// Wishes for older lines that are not answered.
    reading: bool,
    waiting: usize,
}

/// Peers come before they go, chat comes in order, also when it is read back, nothing comes after the end, and timeouts pass.
pub fn session(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let (Ok(room), Ok(name)) = (RoomName::parse("r"), DisplayName::parse("n")) else { return };
    let mut session = Session::new(Settings {
        room: Some(room),
        name,
        publish: vec![pb::TrackKind::Camera],
        subscriptions: pb::Subscriptions::default(),
        media_state: pb::MediaState::default(),
        agent: String::new(),
        instance: 1,
    });
    let (start, mut ms, mut promises) = (Instant::now(), 0_u64, Promises::default());
    promises.check(&mut session);
    while !input.is_empty()
        && let Ok(step) = Step::arbitrary(&mut input)
    {
        let (now, at) = (start + Duration::from_millis(ms), MediaTime::from_micros(ms * 1000));
        match step {
            Step::Pass(more) => ms += u64::from(more),
            Step::Connected => session.handle_connected(),
            Step::NextConnected => session.handle_next_connected(),
            Step::NextLost => session.handle_next_disconnected(now),
            Step::NextWelcome { you, others } => {
                session.handle_next_control(now, pb::RelayControl { body: Some(welcome(you, others)) });
            }
            Step::Closed(code) => {
                promises.connection = false;
                let code = CloseCode::ALL[usize::from(code) % CloseCode::ALL.len()];
                session.handle_disconnected(now, Loss::Closed(code));
            }
            Step::NetworkLost => {
                promises.connection = false;
                session.handle_disconnected(now, Loss::Network(String::new()));
            }
            Step::Say(id) => {
                let said = session.say(ChatId([id; 16]), "text").is_ok();
                assert_eq!(said, promises.waiting < MAX_OUTBOX);
                promises.waiting += usize::from(said);
            }
            Step::ReadBack => {
                promises.reading = true;
                session.read_back(now);
            }
            Step::State(muted) => session.set_media_state(pb::MediaState { muted, camera_off: false }),
            Step::NeedRefresh(track, decoded) => {
                session.request_refresh(TrackId(track), decoded.map(FrameId));
            }
            Step::View(heights) => {
                let heights =
                    heights.into_iter().map(|(id, height)| (ParticipantId(id.into()), height.into()));
                session.set_view(now, heights.collect());
            }
            Step::Leave => {
                session.leave();
                promises.over = true;
            }
            Step::History { id, .. } => {
                promises.last_line = 0;
                take(&mut session, now, at, step, id);
            }
            Step::Welcome { you, .. } => take(&mut session, now, at, step, you),
            _ => take(&mut session, now, at, step, 0),
        }
        let (now, at) = (start + Duration::from_millis(ms), MediaTime::from_micros(ms * 1000));
        session.handle_timeout(now, at);
        assert!(session.poll_timeout().is_none_or(|t| t > now), "a timeout that does not pass");
        promises.check(&mut session);
    }
}

/// A message of the relay.
fn take(session: &mut Session, now: Instant, at: MediaTime, step: Step, id: u8) {
    use pb::chat_down::Body as Chat;
    use pb::relay_control::Body as Control;
    let control = match step {
        Step::Welcome { others, .. } => Some(welcome(id, others)),
        Step::GoAway(at_us) => Some(Control::GoAway(pb::GoAway { at_us })),
        Step::Participant { id, nameless, offset_us, error_us } => {
            let name = if nameless { String::new() } else { "peer".into() };
            let clock = Some(pb::Clock { offset_us, error_us });
            Some(Control::Participant(pb::Participant { name, clock, ..participant(id) }))
        }
        Step::Left(id) => Some(Control::Left(pb::Left { participant: id.into(), reason: 0 })),
        Step::RefreshWanted { track, decoded } => {
            Some(Control::KeyFrameRequest(pb::KeyFrameRequest { track: track.into(), decoded }))
        }
        Step::TrackWanted { track, wanted } => {
            Some(Control::Wanted(pb::Wanted { track: track.into(), wanted }))
        }
        Step::Audience { loss_permille, burst_ms } => {
            Some(Control::Audience(pb::Audience { loss_permille, burst_ms }))
        }
        Step::Pong { sent_us, relay_us } => Some(Control::ClockPong(pb::ClockPong { sent_us, relay_us })),
        _ => None,
    };
    if control.is_some() {
        session.handle_control(now, at, pb::RelayControl { body: control });
    }
    let chat = match &step {
        Step::History { after_seq, .. } => {
            Some(Chat::History(pb::History { id: id.into(), after_seq: *after_seq }))
        }
        Step::Line { seq, whole } => {
            let id = vec![1; if *whole { 16 } else { 3 }];
            Some(Chat::Line(pb::Line { seq: *seq, id, ..pb::Line::default() }))
        }
        Step::Page { history, before, lines, more } => {
            let line = |(seq, whole): &(u64, bool)| pb::Line {
                seq: *seq,
                id: vec![1; if *whole { 16 } else { 3 }],
                ..pb::Line::default()
            };
            let (history, before) = ((*history).into(), *before);
            let lines = lines.iter().map(line).collect();
            Some(Chat::Page(pb::Page { history, before, lines, more: *more }))
        }
        Step::Ack(id) => Some(Chat::Ack(pb::Ack { id: vec![*id; 16], seq: 1 })),
        Step::Refuse(id) => Some(Chat::Refusal(pb::Refusal { id: vec![*id; 16], reason: 1 })),
        _ => None,
    };
    if chat.is_some() {
        session.handle_chat(pb::ChatDown { body: chat });
    }
    match step {
        Step::Control(bytes) => {
            if let Ok(message) = pb::RelayControl::decode(&bytes[..]) {
                session.handle_control(now, at, message);
            }
        }
        Step::Chat(bytes) => {
            // A history from anywhere would reset the order that is checked here.
            if let Ok(message) = pb::ChatDown::decode(&bytes[..])
                && !matches!(message.body, Some(Chat::History(_)))
            {
                session.handle_chat(message);
            }
        }
        _ => {}
    }
}

fn participant(id: u8) -> pb::Participant {
    pb::Participant {
        id: id.into(),
        name: "peer".into(),
        tracks: vec![pb::Track { id: id.into(), kind: pb::TrackKind::Camera.into() }],
        ..pb::Participant::default()
    }
}

fn welcome(you: u8, others: [u8; 3]) -> pb::relay_control::Body {
    pb::relay_control::Body::Welcome(pb::Welcome {
        you: Some(participant(you)),
        others: others.map(participant).into(),
        room: "r".into(),
    })
}

impl Promises {
    fn check(&mut self, session: &mut Session) {
        while let Some(output) = session.poll_output() {
            match output {
                Output::Connect => {
                    assert!(!self.connection && !self.over, "a second connection");
                    self.connection = true;
                }
                Output::Event(event) => self.event(event, session),
                Output::ConnectNext => assert!(self.connection && !self.over, "a connection beside none"),
                Output::Control(_) | Output::Chat(_) | Output::NextControl(_) | Output::NextChat(_) => {}
            }
        }
    }

    fn event(&mut self, event: Event, session: &Session) {
        match event {
            Event::PeerJoined(peer) => {
                let _ = session.clock_difference(peer.id);
                assert!(self.peers.insert(peer.id), "{:?} joined twice", peer.id);
            }
            Event::PeerChanged(peer) => {
                let _ = session.clock_difference(peer.id);
                assert!(self.peers.contains(&peer.id), "{:?} is not here", peer.id);
            }
            Event::PeerLeft(id) => assert!(self.peers.remove(&id), "{id:?} was not here"),
            Event::ChatBegins { .. } => self.first_line = None,
            Event::Chat(line) => {
                assert!(line.seq > self.last_line, "{} after {}", line.seq, self.last_line);
                self.last_line = line.seq;
                self.first_line.get_or_insert(line.seq);
            }
            Event::ChatPage { lines, more } => {
                assert!(std::mem::take(&mut self.reading), "a page that nobody wants");
                assert!(lines.is_sorted_by(|a, b| a.seq < b.seq), "out of order");
                if let (Some(first), Some(last)) = (self.first_line, lines.last()) {
                    assert!(last.seq < first, "{} is not before {first}", last.seq);
                }
                self.first_line = lines.first().map(|l| l.seq).or(self.first_line);
                assert!(!more || self.first_line != Some(1), "more before the first");
            }
            Event::ChatStored(..) | Event::ChatRefused(..) => self.waiting -= 1,
            Event::Ended(_) => {
                assert!(!self.over, "a second end");
                self.over = true;
            }
            Event::Joined { .. }
            | Event::Moved { .. }
            | Event::RefreshRequested(..)
            | Event::TrackWanted(..)
            | Event::TrackLimited(..)
            | Event::Audience { .. }
            | Event::NextKey(_)
            | Event::Reconnecting(_) => {}
        }
    }
}
