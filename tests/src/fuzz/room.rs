//! A room full of people who do anything, and the queues to them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use prost::Message;
use vchat_proto::egress::{Egress, MAX_AUDIO_BYTES, MAX_VIDEO_BYTES, Queued};
use vchat_proto::id::{DisplayName, FrameId, ParticipantId, TrackId};
use vchat_proto::room::{Kept, Older, Output, Room, Stored};
use vchat_proto::units::{Bitrate, MediaTime};
use vchat_proto::wire::datagram::{Dependency, HOP_LEN, Media, MediaHeader, MediaKind};
use vchat_proto::wire::limits::{MAX_CHAT_TEXT, MAX_DATAGRAM, MAX_FRAGMENTS, MAX_MESSAGE, MAX_PARTICIPANTS};
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
        discardable: bool,
    },
    Control {
        from: u8,
        bytes: Vec<u8>,
    },
    Refresh {
        from: u8,
        track: u32,
        decoded: Option<u32>,
    },
    View {
        from: u8,
        tiles: Vec<(u8, u16)>,
    },
    /// What the hop to somebody carries and loses.
    Hop {
        from: u8,
        kbps: u16,
        loss_permille: u32,
        burst_ms: u32,
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
    Older {
        from: u8,
        before: u64,
        limit: u32,
    },
    /// The disk has read a page, or cannot.
    PageRead {
        readable: bool,
        long: bool,
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
    sees: bool,
    hears: bool,
    /// Whom the view hides.
    hidden: BTreeSet<ParticipantId>,
    /// The frames of sound that came.
    heard: BTreeSet<(TrackId, u32)>,
    /// Own small tracks that are wanted.
    wanted: BTreeSet<u32>,
}

/// Outputs go to people who are here, nobody gets their own media, or what they do not show or hear, or sound twice; chat is in
/// order, pages have no gaps and fit a message, queues keep their bounds, and small tracks are wanted and unwanted in turn.
pub fn room(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut world = World {
        room: Room::new(kept()),
        now: Instant::now(),
        people: BTreeMap::new(),
        stored: 0,
        lines: KEPT,
        pages: BTreeMap::new(),
    };
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

/// The lines at hand are not all.
fn kept() -> Kept {
    let line = |seq| pb::Line { seq, ..pb::Line::default() };
    Kept { history: 7, last_seq: KEPT, lines: (KEPT / 2..=KEPT).map(line).collect(), ..Kept::default() }
}

struct World {
    room: Room,
    now: Instant,
    people: BTreeMap<ParticipantId, Receiver>,
    /// Posts that were to be stored, and lines that were.
    stored: u64,
    lines: u64,
    /// Pages that are being read.
    pages: BTreeMap<ParticipantId, Older>,
}

impl World {
    fn step(&mut self, step: Step) {
        match step {
            Step::Join { instance, publish, hears, sees } => {
                let Ok(name) = DisplayName::parse("n") else { return };
                let hello = pb::Hello {
                    instance: instance.into(),
                    publish: publish.into_iter().map(|kind| i32::from(kind % 4 + 1)).collect(),
                    subscriptions: Some(pb::Subscriptions { audio: hears, video: sees }),
                    ..pb::Hello::default()
                };
                if let Ok(id) = self.room.join(self.now, [instance % 4; 32], None, name, &hello) {
                    let (egress, tracks) = (Egress::default(), Vec::new());
                    let receiver = Receiver {
                        egress,
                        tracks,
                        pushed: 0,
                        popped: 0,
                        last_line: 0,
                        sees,
                        hears,
                        hidden: BTreeSet::new(),
                        heard: BTreeSet::new(),
                        wanted: BTreeSet::new(),
                    };
                    self.people.insert(id, receiver);
                }
            }
            Step::Leave(who) => {
                if let Some(id) = self.person(who) {
                    self.people.remove(&id);
                    self.room.leave(self.now, id, pb::LeaveReason::Lost);
                }
            }
            Step::Media { from, track, audio, frame, count, back, size, discardable } => {
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
                    // Frames of sound that are too far apart have no order.
                    frame: FrameId(if audio { frame % 4096 } else { frame }),
                    index: 0,
                    count,
                    dependency,
                    discardable,
                    temporal: discardable.into(),
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
            Step::Refresh { from, track, decoded } => {
                let request = pb::KeyFrameRequest { track, decoded };
                self.control_of(from, pb::client_control::Body::KeyFrameRequest(request));
            }
            Step::View { from, tiles } => {
                let tile = |(who, height): (u8, u16)| {
                    let participant = self.person(who).map_or(u32::MAX, |id| id.0);
                    pb::Tile { participant, height: height.into() }
                };
                let tiles = tiles.into_iter().map(tile).collect();
                self.control_of(from, pb::client_control::Body::View(pb::View { tiles }));
            }
            Step::Hop { from, kbps, loss_permille, burst_ms } => {
                let Some(id) = self.person(from) else { return };
                self.room.handle_budget(self.now, id, Bitrate::from_kbps(kbps.into()));
                self.room.handle_loss(self.now, id, loss_permille, burst_ms);
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
            Step::Older { from, before, limit } => {
                self.chat_of(from, pb::chat_up::Body::Older(pb::Older { before, limit }));
            }
            Step::PageRead { readable, long } => {
                if let Some((to, older)) = self.pages.pop_first() {
                    self.room.handle_page(to, older, readable.then(|| self.found(older, long)));
                }
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
                    let Some(receiver) = self.people.get_mut(&to) else { continue };
                    match &message.body {
                        Some(pb::relay_control::Body::Welcome(welcome)) => {
                            let tracks = welcome.you.iter().flat_map(|you| &you.tracks);
                            let ids = tracks.filter_map(|t| u16::try_from(t.id).ok().map(TrackId));
                            receiver.tracks = ids.collect();
                        }
                        Some(pb::relay_control::Body::Wanted(pb::Wanted { track, wanted: true })) => {
                            assert!(receiver.wanted.insert(*track), "wanted twice");
                        }
                        Some(pb::relay_control::Body::Wanted(pb::Wanted { track, wanted: false })) => {
                            assert!(receiver.wanted.remove(track), "unwanted twice");
                        }
                        _ => {}
                    }
                }
                Output::VideoWanted(to, _) => assert!(self.people.contains_key(&to), "{to:?} is not here"),
                Output::Page(to, older) => {
                    assert!(self.people.contains_key(&to), "{to:?} is not here");
                    assert!(self.pages.insert(to, older).is_none(), "two pages for {to:?} are under way");
                }
                Output::Chat(_, pb::ChatDown { body: Some(pb::chat_down::Body::Page(page)) }) => {
                    let gapless = page.lines.is_sorted_by(|a, b| a.seq + 1 == b.seq);
                    assert!(gapless && page.lines.last().is_none_or(|l| l.seq < page.before));
                    let message = pb::ChatDown { body: Some(pb::chat_down::Body::Page(page)) };
                    assert!(message.encoded_len() <= MAX_MESSAGE);
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
                    let is_owner = |(_, r): &(&ParticipantId, &Receiver)| r.tracks.contains(&header.track);
                    let owner = self.people.iter().find(is_owner).map(|(id, _)| *id);
                    let Some(receiver) = self.people.get_mut(&to) else { continue };
                    assert!(!receiver.tracks.contains(&header.track), "{to:?} gets their own media");
                    receiver.takes(&header, owner);
                    receiver.pushed += 1;
                    receiver.egress.push(self.now, header, body);
                    while let Some((track, decoded)) = receiver.egress.poll_refresh_needed() {
                        needed.push((to, track, decoded));
                    }
                }
                Output::Store(post) => {
                    self.stored += 1;
                    // One of five is not stored, and one of seven was before.
                    let stored = match self.stored {
                        n if n % 5 == 0 => Stored::Failed,
                        n if n % 7 == 0 => Stored::Known(1),
                        _ => {
                            self.lines += 1;
                            Stored::New { history: 7, seq: self.lines }
                        }
                    };
                    self.room.handle_stored(post.author, post.id, stored);
                }
                Output::TrackEnded(track) => self.people.values_mut().for_each(|r| r.egress.forget(track)),
                Output::Close(id, _) => drop(self.people.remove(&id)),
            }
        }
        for (id, track, decoded) in needed {
            self.room.request_refresh(self.now, id, track, decoded);
        }
        while let Some(output) = self.room.poll_output() {
            assert!(matches!(output, Output::Control(..)), "a request is a message: {output:?}");
        }
    }

    /// The end of a long chat, as a disk would give it.
    fn found(&self, older: Older, long: bool) -> Kept {
        let end = older.before.min(10_000);
        let text = "x".repeat(if long { MAX_CHAT_TEXT } else { 1 });
        let line = |seq| pb::Line { seq, text: text.clone(), ..pb::Line::default() };
        let lines = (end.saturating_sub(older.lines().into()).max(1)..end).map(line).collect();
        Kept { history: 7, last_seq: self.lines, lines, ..Kept::default() }
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
        let body = message.body.clone();
        self.room.handle_control(self.now, 0, id, message);
        let Some(receiver) = self.people.get_mut(&id) else { return };
        match body {
            Some(pb::client_control::Body::Goodbye(_)) => drop(self.people.remove(&id)),
            Some(pb::client_control::Body::Subscriptions(pb::Subscriptions { audio, video })) => {
                (receiver.hears, receiver.sees) = (audio, video);
            }
            Some(pb::client_control::Body::View(view)) => {
                // The last tile of a participant counts.
                let tiles = view.tiles.iter().take(MAX_PARTICIPANTS);
                let heights: BTreeMap<u32, u32> = tiles.map(|t| (t.participant, t.height)).collect();
                let hidden = heights.into_iter().filter(|(_, height)| *height == 0);
                receiver.hidden = hidden.map(|(id, _)| ParticipantId(id)).collect();
            }
            _ => {}
        }
    }

    fn chat_of(&mut self, from: u8, body: pb::chat_up::Body) {
        if let Some(id) = self.person(from) {
            self.room.handle_chat(self.now, 0, id, pb::ChatUp { body: Some(body) });
        }
    }
}

impl Receiver {
    /// Checks that this may come here.
    fn takes(&mut self, header: &MediaHeader, owner: Option<ParticipantId>) {
        match header.kind {
            MediaKind::Audio => {
                assert!(self.hears, "sound for somebody who does not hear");
                assert!(self.heard.insert((header.track, header.frame.0)), "sound comes twice");
            }
            MediaKind::Video => {
                assert!(self.sees, "pictures for somebody who does not see");
                assert!(owner.is_none_or(|id| !self.hidden.contains(&id)), "pictures that are not shown");
            }
        }
    }

    fn drain(&mut self, count: usize) {
        let before = self.popped;
        while self.popped - before < count as u64
            && let Some(queued) = pop(&mut self.egress)
        {
            assert!(queued.body.len() + HOP_LEN <= MAX_DATAGRAM);
            self.popped += 1;
            assert!(self.popped - before <= MOST_HELD, "the queue has no bound");
        }
    }
}

fn pop(egress: &mut Egress) -> Option<Queued> {
    egress.pop_audio().or_else(|| egress.pop_base()).or_else(|| egress.pop_higher())
}

/// Lines that were written before.
const KEPT: u64 = 20;
/// Datagrams of one step: enough for a key frame, few enough to be quick.
const MOST_AT_ONCE: u16 = 64;
/// The smallest video datagrams, the largest frame that is kept beyond the bound, and audio.
const MOST_HELD: u64 =
    ((MAX_VIDEO_BYTES + MAX_AUDIO_BYTES) / MediaHeader::LEN + MAX_FRAGMENTS as usize) as u64;
