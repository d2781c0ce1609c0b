//! A room full of people who do anything, and the queues to them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use prost::Message;
use vchat_proto::egress::{Egress, MAX_AUDIO_BYTES, MAX_VIDEO_BYTES};
use vchat_proto::id::{DisplayName, FrameId, ParticipantId, TrackId};
use vchat_proto::room::{Output, Room};
use vchat_proto::units::MediaTime;
use vchat_proto::wire::datagram::{Dependency, Media, MediaHeader, MediaKind};
use vchat_proto::wire::limits::{MAX_DATAGRAM, MAX_FRAGMENTS};
use vchat_proto::wire::pb;

#[derive(Arbitrary, Debug)]
enum Step {
    Join {
        instance: u8,
        publish: Vec<u8>,
        hears: bool,
        sees: bool,
    },
    Leave(u8),
    /// Some datagrams of a frame, perhaps of somebody else's track.
    Media {
        from: u8,
        track: u8,
        audio: bool,
        frame: u32,
        count: u16,
        back: u16,
        size: u16,
    },
    Control {
        from: u8,
        bytes: Vec<u8>,
    },
    KeyFrame {
        from: u8,
        track: u32,
    },
    Subscribe {
        from: u8,
        hears: bool,
        sees: bool,
    },
    Resume {
        from: u8,
        history: u8,
        after_seq: u64,
    },
    Post {
        from: u8,
        id: u8,
        whole: bool,
        text: String,
    },
    Chat {
        from: u8,
        bytes: Vec<u8>,
    },
    /// A connection takes so many datagrams.
    Drain {
        from: u8,
        count: u8,
    },
    Pass(u16),
}

struct Receiver {
    egress: Egress,
    tracks: Vec<TrackId>,
    pushed: u64,
    popped: u64,
    last_line: u64,
}

/// Outputs go to people who are here, nobody gets their own media, chat is in order, queues keep their bounds.
pub fn room(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut world = World { room: Room::new(7), now: Instant::now(), people: BTreeMap::new() };
    while !input.is_empty()
        && let Ok(step) = Step::arbitrary(&mut input)
    {
        world.step(step);
        world.room.handle_timeout(world.now);
        assert!(world.room.poll_timeout().is_none_or(|t| t > world.now), "a timeout that does not pass");
        world.deliver();
        assert_eq!(world.room.len(), world.people.len());
    }
    for receiver in world.people.values_mut() {
        receiver.drain(usize::MAX);
        assert!(receiver.egress.is_empty());
        assert_eq!(
            receiver.pushed,
            receiver.popped + receiver.egress.dropped(),
            "sent or counted as dropped"
        );
    }
}

struct World {
    room: Room,
    now: Instant,
    people: BTreeMap<ParticipantId, Receiver>,
}

impl World {
    fn step(&mut self, step: Step) {
        match step {
            Step::Join { instance, publish, hears, sees } => {
                let Ok(name) = DisplayName::parse("n") else { return };
                let hello = pb::Hello {
                    instance: instance.into(),
                    publish: publish.into_iter().map(i32::from).collect(),
                    subscriptions: Some(pb::Subscriptions { audio: hears, video: sees }),
                    ..pb::Hello::default()
                };
                if let Ok(id) = self.room.join(self.now, [instance % 4; 32], name, &hello) {
                    let (egress, tracks) = (Egress::default(), Vec::new());
                    let receiver = Receiver { egress, tracks, pushed: 0, popped: 0, last_line: 0 };
                    self.people.insert(id, receiver);
                }
            }
            Step::Leave(who) => {
                if let Some(id) = self.person(who) {
                    self.people.remove(&id);
                    self.room.leave(id, pb::LeaveReason::Lost);
                }
            }
            Step::Media { from, track, audio, frame, count, back, size } => {
                let Some(id) = self.person(from) else { return };
                let own = self.people.get(&id).map_or(&[][..], |r| &r.tracks);
                let own = own.get(usize::from(track) % own.len().max(1)).copied();
                // Mostly one's own, or the call is over at once.
                let track = own.filter(|_| track < 250).unwrap_or_else(|| TrackId(track.into()));
                let kind = if audio { MediaKind::Audio } else { MediaKind::Video };
                let count = if audio { 1 } else { count % MAX_FRAGMENTS + 1 };
                let dependency = if audio || back == 0 { Dependency::None } else { Dependency::Back(back) };
                let header = MediaHeader {
                    kind,
                    track,
                    frame: FrameId(frame),
                    index: 0,
                    count,
                    dependency,
                    discardable: false,
                    temporal: 0,
                    spatial: 0,
                    captured: MediaTime::default(),
                };
                for index in 0..count.min(MOST_AT_ONCE) {
                    let payload = vec![7; usize::from(size) % MediaHeader::MAX_PAYLOAD + 1];
                    let datagram = MediaHeader { index, ..header }.datagram(&payload);
                    let Ok(media) = Media::parse(datagram.freeze()) else { return };
                    self.room.handle_media(self.now, id, &media);
                }
            }
            Step::Control { from, bytes } => {
                if let (Some(id), Ok(message)) = (self.person(from), pb::ClientControl::decode(&bytes[..])) {
                    self.control(id, message);
                }
            }
            Step::KeyFrame { from, track } => {
                let body = pb::client_control::Body::KeyFrameRequest(pb::KeyFrameRequest { track });
                self.control_of(from, body);
            }
            Step::Subscribe { from, hears, sees } => {
                let wanted = pb::Subscriptions { audio: hears, video: sees };
                self.control_of(from, pb::client_control::Body::Subscriptions(wanted));
            }
            Step::Resume { from, history, after_seq } => {
                let resume = pb::Resume { history: history.into(), after_seq };
                if let Some(receiver) = self.person(from).and_then(|id| self.people.get_mut(&id)) {
                    receiver.last_line = 0;
                }
                self.chat_of(from, pb::chat_up::Body::Resume(resume));
            }
            Step::Post { from, id, whole, text } => {
                let id = vec![id; if whole { 16 } else { 5 }];
                self.chat_of(from, pb::chat_up::Body::Post(pb::Post { id, text }));
            }
            Step::Chat { from, bytes } => {
                if let (Some(id), Ok(message)) = (self.person(from), pb::ChatUp::decode(&bytes[..])) {
                    self.room.handle_chat(self.now, 0, id, message);
                }
            }
            Step::Drain { from, count } => {
                if let Some(receiver) = self.person(from).and_then(|id| self.people.get_mut(&id)) {
                    receiver.drain(count.into());
                }
            }
            Step::Pass(ms) => self.now += Duration::from_millis(ms.into()),
        }
    }

    fn deliver(&mut self) {
        let mut needed = Vec::new();
        while let Some(output) = self.room.poll_output() {
            match output {
                Output::Control(to, message) => {
                    let receiver = self.people.get_mut(&to);
                    if let Some(pb::relay_control::Body::Welcome(welcome)) = &message.body {
                        let tracks = welcome.you.iter().flat_map(|you| &you.tracks);
                        let tracks = tracks.filter_map(|t| u16::try_from(t.id).ok().map(TrackId)).collect();
                        if let Some(receiver) = receiver {
                            receiver.tracks = tracks;
                        }
                    }
                }
                Output::Chat(to, message) => {
                    if let (Some(r), Some(pb::chat_down::Body::Line(line))) =
                        (self.people.get_mut(&to), message.body)
                    {
                        assert!(
                            r.last_line == 0 || line.seq == r.last_line + 1,
                            "{} after {}",
                            line.seq,
                            r.last_line
                        );
                        r.last_line = line.seq;
                    }
                }
                Output::Media(to, header, body) => {
                    let Some(receiver) = self.people.get_mut(&to) else { continue };
                    assert!(!receiver.tracks.contains(&header.track), "{to:?} gets their own media");
                    receiver.pushed += 1;
                    receiver.egress.push(self.now, header, body);
                    while let Some(track) = receiver.egress.poll_key_frame_needed() {
                        needed.push(track);
                    }
                }
                Output::TrackEnded(track) => self.people.values_mut().for_each(|r| r.egress.forget(track)),
                Output::Close(id, _) => drop(self.people.remove(&id)),
            }
        }
        needed.into_iter().for_each(|track| self.room.request_key_frame(self.now, track));
        while let Some(output) = self.room.poll_output() {
            assert!(matches!(output, Output::Control(..)), "a request is a message: {output:?}");
        }
    }

    /// One of those who are here.
    fn person(&self, number: u8) -> Option<ParticipantId> {
        self.people.keys().nth(usize::from(number) % self.people.len().max(1)).copied()
    }

    fn control_of(&mut self, from: u8, body: pb::client_control::Body) {
        if let Some(id) = self.person(from) {
            self.control(id, pb::ClientControl { body: Some(body) });
        }
    }

    fn control(&mut self, id: ParticipantId, message: pb::ClientControl) {
        let leaves = matches!(message.body, Some(pb::client_control::Body::Goodbye(_)));
        self.room.handle_control(self.now, 0, id, message);
        if leaves {
            self.people.remove(&id);
        }
    }

    fn chat_of(&mut self, from: u8, body: pb::chat_up::Body) {
        if let Some(id) = self.person(from) {
            self.room.handle_chat(self.now, 0, id, pb::ChatUp { body: Some(body) });
        }
    }
}

impl Receiver {
    fn drain(&mut self, count: usize) {
        let before = self.popped;
        while self.popped - before < count as u64
            && let Some(datagram) = self.egress.pop()
        {
            assert!(datagram.len() <= MAX_DATAGRAM && Media::parse(datagram).is_ok());
            self.popped += 1;
            assert!(self.popped - before <= MOST_HELD, "the queue has no bound");
        }
    }
}

/// Datagrams of one step: enough for a key frame, few enough to be quick.
const MOST_AT_ONCE: u16 = 64;
/// The smallest video datagrams, the largest frame that is kept beyond the bound, and audio.
const MOST_HELD: u64 =
    ((MAX_VIDEO_BYTES + MAX_AUDIO_BYTES) / MediaHeader::LEN + MAX_FRAGMENTS as usize) as u64;
