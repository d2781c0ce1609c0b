use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::packetize::Packetizer;
use crate::units::MediaTime;
use crate::wire::datagram::Dependency;

const HISTORY: u64 = 77;
const PIN: [u8; 32] = [5; 32];

/// A hello of another run of a client each time.
fn hello() -> pb::Hello {
    static RUNS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    pb::Hello {
        instance: RUNS.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        publish: vec![pb::TrackKind::Camera.into(), pb::TrackKind::Microphone.into()],
        subscriptions: Some(pb::Subscriptions { audio: true, video: true }),
        ..pb::Hello::default()
    }
}

struct World {
    room: Room,
    now: Instant,
    /// The lines that were stored.
    stored: Vec<(Author, ChatId)>,
}

impl World {
    fn new() -> Self {
        Self {
            room: Room::new(Kept { history: HISTORY, ..Kept::default() }),
            now: Instant::now(),
            stored: Vec::new(),
        }
    }

    fn join(&mut self, name: &str) -> (ParticipantId, pb::Welcome) {
        let id = self
            .room
            .join(self.now, PIN, None, DisplayName::parse(name).expect("a name"), &hello())
            .expect("room");
        let welcome = self.room.output.iter().find_map(|o| match o {
            Output::Control(to, pb::RelayControl { body: Some(pb::relay_control::Body::Welcome(w)) })
                if *to == id =>
            {
                Some(w.clone())
            }
            _ => None,
        });
        (id, welcome.expect("a welcome"))
    }

    fn drain(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(output) = self.room.poll_output() {
            match output {
                Output::Store(post) => self.store(&post),
                other => outputs.push(other),
            }
        }
        outputs
    }

    fn store(&mut self, post: &Post) {
        let (author, id) = (post.author, post.id);
        let known = self.stored.iter().position(|stored| *stored == (author, id));
        let stored = match known {
            Some(at) => Stored::Known(at as u64 + 1),
            None => {
                self.stored.push((author, id));
                Stored::New { history: HISTORY, seq: self.stored.len() as u64 }
            }
        };
        self.room.handle_stored(author, id, stored);
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    fn control(&mut self, from: ParticipantId, body: pb::client_control::Body) {
        self.room.handle_control(self.now, 0, from, pb::ClientControl { body: Some(body) });
    }

    fn chat(&mut self, from: ParticipantId, body: pb::chat_up::Body) {
        self.room.handle_chat(self.now, 1000, from, pb::ChatUp { body: Some(body) });
    }

    fn resume(&mut self, from: ParticipantId) {
        self.chat(from, pb::chat_up::Body::Resume(pb::Resume::default()));
    }

    fn older(&mut self, from: ParticipantId, before: u64, limit: u32) {
        self.chat(from, pb::chat_up::Body::Older(pb::Older { before, limit }));
    }

    fn say(&mut self, from: ParticipantId, n: u8) {
        self.chat(from, pb::chat_up::Body::Post(pb::Post { id: vec![n; 16], text: format!("line {n}") }));
    }

    fn video(&mut self, from: ParticipantId, packetizer: &mut Packetizer, key: bool) -> usize {
        let parts = packetizer.packetize(&[1; 2000], key, MediaTime::default()).expect("fits");
        let count = parts.len();
        for part in parts {
            let media = Media::parse(part.freeze()).expect("valid");
            self.room.handle_media(self.now, from, &media);
        }
        count
    }
}

fn camera(welcome: &pb::Welcome) -> Packetizer {
    let track = welcome.you.as_ref().expect("you").tracks[0];
    assert_eq!(track.kind(), pb::TrackKind::Camera);
    Packetizer::new(MediaKind::Video, TrackId(track.id as u16))
}

fn media_to(outputs: &[Output], to: ParticipantId) -> usize {
    outputs.iter().filter(|o| matches!(o, Output::Media(id, ..) if *id == to)).count()
}

fn key_frame_requests(outputs: &[Output], to: ParticipantId) -> usize {
    let asks = |o: &&Output| matches!(o, Output::Control(id, pb::RelayControl { body: Some(pb::relay_control::Body::KeyFrameRequest(_)) }) if *id == to);
    outputs.iter().filter(asks).count()
}

fn lines_to(outputs: &[Output], to: ParticipantId) -> Vec<u64> {
    let line = |o: &Output| match o {
        Output::Chat(id, pb::ChatDown { body: Some(pb::chat_down::Body::Line(l)) }) if *id == to => {
            Some(l.seq)
        }
        _ => None,
    };
    outputs.iter().filter_map(line).collect()
}

#[test]
fn who_joins_learns_of_the_others_and_they_of_them() {
    let mut w = World::new();
    let (ann, _) = w.join("ann");
    w.drain();
    let (bob, welcome) = w.join("bob");
    assert_eq!(welcome.others.iter().map(|p| (p.id, p.name.as_str())).collect::<Vec<_>>(), [(ann.0, "ann")]);
    let told = w.drain().into_iter().any(|o| matches!(o, Output::Control(to, pb::RelayControl { body: Some(pb::relay_control::Body::Participant(p)) }) if to == ann && p.id == bob.0 && p.tracks.len() == 2));
    assert!(told);
    w.control(bob, pb::client_control::Body::Goodbye(pb::Goodbye {}));
    let outputs = w.drain();
    assert!(outputs.iter().any(|o| matches!(o, Output::Control(to, pb::RelayControl { body: Some(pb::relay_control::Body::Left(l)) }) if *to == ann && l.participant == bob.0 && l.reason() == pb::LeaveReason::Goodbye)));
    assert_eq!(w.room.len(), 1);
}

#[test]
fn media_goes_to_everybody_who_wants_it_but_not_back() {
    let mut w = World::new();
    let (ann, welcome) = w.join("ann");
    let (bob, _) = w.join("bob");
    let (eve, _) = w.join("eve");
    w.control(eve, pb::client_control::Body::Subscriptions(pb::Subscriptions { audio: true, video: false }));
    w.drain();
    let sent = w.video(ann, &mut camera(&welcome), true);
    let outputs = w.drain();
    assert_eq!((media_to(&outputs, bob), media_to(&outputs, ann), media_to(&outputs, eve)), (sent, 0, 0));
}

#[test]
fn a_joiner_gets_the_latest_pictures_or_a_key_frame_is_asked_for() {
    let mut w = World::new();
    let (ann, welcome) = w.join("ann");
    let mut camera = camera(&welcome);
    w.video(ann, &mut camera, true);
    w.video(ann, &mut camera, false);
    let (bob, _) = w.join("bob");
    let outputs = w.drain();
    assert_eq!(media_to(&outputs, bob), 4, "the key frame and the one after it");
    assert_eq!(key_frame_requests(&outputs, ann), 0);
    w.pass(600);
    let (eve, _) = w.join("eve");
    let outputs = w.drain();
    assert_eq!((media_to(&outputs, eve), key_frame_requests(&outputs, ann)), (0, 1));
}

#[test]
fn requests_for_key_frames_are_coalesced() {
    let mut w = World::new();
    let (ann, welcome) = w.join("ann");
    let others: Vec<ParticipantId> = (0..10).map(|i| w.join(&format!("guest {i}")).0).collect();
    w.drain();
    w.pass(1000);
    let track = welcome.you.expect("you").tracks[0].id;
    for id in &others {
        w.control(
            *id,
            pb::client_control::Body::KeyFrameRequest(pb::KeyFrameRequest { track, decoded: None }),
        );
    }
    assert_eq!(key_frame_requests(&w.drain(), ann), 1);
    while let Some(due) = w.room.poll_timeout() {
        w.room.handle_timeout(due);
    }
    assert_eq!(key_frame_requests(&w.drain(), ann), 1, "one more for all that came too soon");
}

/// A datagram of a frame without payload that matters.
fn datagram(kind: MediaKind, track: u32, frame: u32, back: u16) -> MediaHeader {
    MediaHeader {
        kind,
        track: TrackId(track as u16),
        frame: FrameId(frame),
        index: 0,
        count: 1,
        dependency: if back == 0 { Dependency::None } else { Dependency::Back(back) },
        discardable: kind == MediaKind::Video && frame % 2 == 1,
        temporal: 0,
        spatial: 0,
        captured: MediaTime::default(),
    }
}

impl World {
    /// Sends it and returns who gets what.
    fn send(&mut self, from: ParticipantId, header: MediaHeader) -> Vec<ParticipantId> {
        let media = Media::parse(header.datagram(&[1; 100]).freeze()).expect("valid");
        self.room.handle_media(self.now, from, &media);
        let to = |o: Output| if let Output::Media(to, ..) = o { Some(to) } else { None };
        self.drain().into_iter().filter_map(to).collect()
    }

    fn join_with(&mut self, name: &str, kinds: &[pb::TrackKind]) -> (ParticipantId, Vec<u32>) {
        let publish = kinds.iter().map(|k| i32::from(*k)).collect();
        let name = DisplayName::parse(name).expect("a name");
        let id = self.room.join(self.now, PIN, None, name, &pb::Hello { publish, ..hello() }).expect("room");
        let tracks = self.drain().into_iter().find_map(|o| match o {
            Output::Control(to, pb::RelayControl { body: Some(pb::relay_control::Body::Welcome(w)) })
                if to == id =>
            {
                w.you.map(|you| you.tracks.iter().map(|t| t.id).collect())
            }
            _ => None,
        });
        (id, tracks.expect("a welcome"))
    }

    /// What its owner is asked for next.
    fn asked(&mut self, owner: ParticipantId) -> Vec<(u32, Option<u32>)> {
        let asked = |o: Output| match o {
            Output::Control(
                to,
                pb::RelayControl { body: Some(pb::relay_control::Body::KeyFrameRequest(r)) },
            ) if to == owner => Some((r.track, r.decoded)),
            _ => None,
        };
        self.drain().into_iter().filter_map(asked).collect()
    }
}

#[test]
fn refreshes_name_the_earliest_frame_and_come_from_receivers_only() {
    let mut w = World::new();
    let (ann, tracks) = w.join_with("ann", &[pb::TrackKind::Camera, pb::TrackKind::Microphone]);
    let ((bob, _), (eve, _)) = (w.join_with("bob", &[]), w.join_with("eve", &[]));
    w.send(ann, datagram(MediaKind::Video, tracks[0], 0, 0));
    w.control(eve, pb::client_control::Body::Subscriptions(pb::Subscriptions { audio: true, video: false }));
    (1..=20).for_each(|n| {
        drop(w.send(ann, datagram(MediaKind::Video, tracks[0], n, if n % 2 == 1 { 1 } else { 2 })))
    });
    w.pass(1000);
    w.drain();
    let ask = |w: &mut World, from, track, decoded| {
        w.room.request_refresh(w.now, from, TrackId(track as u16), decoded)
    };
    ask(&mut w, bob, tracks[0], Some(FrameId(16)));
    assert_eq!(w.asked(ann), [(tracks[0], Some(16))]);
    w.pass(10);
    for (from, track) in [(eve, tracks[0]), (ann, tracks[0]), (bob, tracks[1]), (bob, 999)] {
        ask(&mut w, from, track, None);
    }
    assert_eq!(w.room.poll_timeout(), None, "not theirs, or not video");
    ask(&mut w, bob, tracks[0], Some(FrameId(18)));
    ask(&mut w, bob, tracks[0], Some(FrameId(14)));
    let due = w.room.poll_timeout().expect("kept");
    assert_eq!(due, w.now + Duration::from_millis(90));
    w.room.handle_timeout(due);
    assert_eq!(w.asked(ann), [(tracks[0], Some(14))]);
    ask(&mut w, bob, tracks[0], Some(FrameId(14)));
    w.send(ann, datagram(MediaKind::Video, tracks[0], 24, 10));
    assert_eq!(w.room.poll_timeout(), None, "answered");
}

#[test]
fn sound_that_comes_several_times_is_forwarded_once() {
    let mut w = World::new();
    let (ann, tracks) = w.join_with("ann", &[pb::TrackKind::Microphone]);
    let (bob, _) = w.join("bob");
    let mut say = |frame| w.send(ann, datagram(MediaKind::Audio, tracks[0], frame, 0));
    for frame in [100, 102, 101] {
        assert_eq!(say(frame), [bob], "{frame}");
    }
    for frame in [100, 101, 102] {
        assert_eq!(say(frame), [], "{frame}");
    }
    assert_eq!(say(99), [bob], "late, but new");
    assert_eq!(say(300), [bob]);
    assert_eq!(say(103), [], "too late");
}

#[test]
fn a_small_track_needs_a_camera_beside_it() {
    let mut w = World::new();
    let publish = [pb::TrackKind::CameraSmall, pb::TrackKind::Camera, pb::TrackKind::CameraSmall];
    let publish: Vec<i32> = publish.into_iter().map(i32::from).collect();
    for (n, good) in [(1, false), (2, true), (3, false)] {
        let hello = pb::Hello { publish: publish[..n].to_vec(), ..hello() };
        let joined = w.room.join(w.now, PIN, None, DisplayName::parse("ann").expect("a name"), &hello);
        assert_eq!(joined.is_ok(), good, "{n} tracks");
    }
}

#[test]
fn a_small_picture_is_sent_the_small_track_from_its_key_frame_on() {
    let mut w = World::new();
    let (ann, tracks) = w.join_with("ann", &[pb::TrackKind::Camera, pb::TrackKind::CameraSmall]);
    let ((bob, _), (eve, _)) = (w.join_with("bob", &[]), w.join_with("eve", &[]));
    let [full, small] = tracks[..] else { panic!("two tracks") };
    let video = |track, frame, back| datagram(MediaKind::Video, track, frame, back);
    assert_eq!(w.send(ann, video(full, 0, 0)), [bob, eve]);
    let tile = pb::Tile { participant: ann.0, height: 180 };
    w.control(bob, pb::client_control::Body::View(pb::View { tiles: vec![tile] }));
    let told: Vec<_> = w.drain();
    let bodies = [
        pb::relay_control::Body::Wanted(pb::Wanted { track: small, wanted: true }),
        pb::relay_control::Body::KeyFrameRequest(pb::KeyFrameRequest { track: small, decoded: None }),
    ];
    assert_eq!(told, bodies.map(|body| Output::Control(ann, pb::RelayControl { body: Some(body) })));
    assert_eq!(w.send(ann, video(full, 2, 2)), [bob, eve]);
    // In three fragments, of which the first comes last.
    let part = |index| MediaHeader { index, count: 3, ..video(small, 0, 0) };
    for index in [2, 1, 0] {
        assert_eq!(w.send(ann, part(index)), [bob]);
    }
    assert_eq!(w.send(ann, video(full, 4, 2)), [eve]);
    assert_eq!(w.send(ann, video(small, 2, 2)), [bob]);
    w.pass(400);
    w.control(bob, pb::client_control::Body::View(pb::View::default()));
    assert_eq!(w.asked(ann), [(full, None)]);
    w.pass(6000);
    w.room.handle_timeout(w.now);
    assert!(w.drain().is_empty(), "bob still sees it");
    assert_eq!(w.send(ann, MediaHeader { count: 2, ..video(full, 6, 0) }), [bob, eve]);
    assert_eq!(w.send(ann, video(small, 4, 2)), []);
    let hold = w.room.poll_timeout().expect("the small track is held for a while");
    assert_eq!(hold, w.now + Duration::from_secs(5));
    w.room.handle_timeout(hold);
    let unwanted = pb::relay_control::Body::Wanted(pb::Wanted { track: small, wanted: false });
    assert_eq!(w.drain(), [Output::Control(ann, pb::RelayControl { body: Some(unwanted) })]);
}

#[test]
fn a_joiner_is_shown_two_temporal_layers_and_a_thin_one_without_the_upper() {
    let mut w = World::new();
    let (ann, tracks) = w.join_with("ann", &[pb::TrackKind::Camera]);
    let (bob, _) = w.join("bob");
    let frames = |w: &mut World, ms: u64, from: u32| {
        for n in 0..ms / 40 {
            let frame = from + n as u32;
            let back = if n == 0 { 0 } else { 2 - (frame % 2) as u16 };
            let media = datagram(MediaKind::Video, tracks[0], frame, back).datagram(&[1; 1000]);
            w.room.handle_media(w.now, ann, &Media::parse(media.freeze()).expect("valid"));
            w.pass(40);
        }
    };
    frames(&mut w, 1000, 0);
    frames(&mut w, 400, 100);
    w.drain();
    let (eve, _) = w.join("eve");
    assert_eq!(media_to(&w.drain(), eve), 10);
    // 200 kb/s, 100 of them without the upper layer.
    w.room.handle_budget(w.now, bob, Bitrate::from_kbps(1000));
    for ms in [0, 900] {
        w.room.handle_budget(w.now + Duration::from_millis(ms), bob, Bitrate::from_kbps(130));
    }
    let hide = |w: &mut World, height| {
        let tile = pb::Tile { participant: ann.0, height };
        w.control(bob, pb::client_control::Body::View(pb::View { tiles: vec![tile] }));
    };
    w.drain();
    hide(&mut w, 0);
    hide(&mut w, 500);
    let outputs = w.drain();
    assert_eq!((media_to(&outputs, bob), key_frame_requests(&outputs, ann)), (5, 0));
    w.pass(600);
    hide(&mut w, 0);
    hide(&mut w, 500);
    let outputs = w.drain();
    assert_eq!((media_to(&outputs, bob), key_frame_requests(&outputs, ann)), (0, 1));
}

#[test]
fn speakers_hear_of_their_worst_listener() {
    let mut w = World::new();
    let (ann, _) = w.join_with("ann", &[pb::TrackKind::Microphone]);
    let (bob, _) = w.join_with("bob", &[]);
    w.room.handle_loss(w.now, bob, 100, 60);
    let told = |loss_permille, burst_ms| {
        let body = pb::relay_control::Body::Audience(pb::Audience { loss_permille, burst_ms });
        Output::Control(ann, pb::RelayControl { body: Some(body) })
    };
    assert_eq!(w.drain(), [told(100, 60)]);
    w.pass(100);
    w.room.handle_loss(w.now, ann, 500, 500);
    assert_eq!(w.drain(), [], "her own way matters to nobody who speaks");
    w.room.leave(w.now, bob, pb::LeaveReason::Lost);
    w.drain();
    let due = w.room.poll_timeout().expect("a second later");
    assert_eq!(due, w.now + Duration::from_millis(900));
    w.room.handle_timeout(due);
    assert_eq!(w.drain(), [told(0, 0)]);
    assert_eq!(w.room.poll_timeout(), None);
}

fn two_who_chat() -> (World, ParticipantId, ParticipantId) {
    let mut w = World::new();
    let ((ann, _), (bob, _)) = (w.join("ann"), w.join("bob"));
    w.resume(ann);
    w.resume(bob);
    w.drain();
    (w, ann, bob)
}

#[test]
fn chat_has_one_order_and_late_joiners_get_it_all() {
    let (mut w, ann, bob) = two_who_chat();
    w.say(ann, 1);
    w.say(bob, 2);
    w.say(ann, 1);
    let mut outputs = w.drain();
    w.say(ann, 1);
    outputs.extend(w.drain());
    assert_eq!((lines_to(&outputs, ann), lines_to(&outputs, bob)), (vec![1, 2], vec![1, 2]));
    let acks = outputs.iter().filter(|o| matches!(o, Output::Chat(to, pb::ChatDown { body: Some(pb::chat_down::Body::Ack(a)) }) if *to == ann && a.seq == 1));
    assert_eq!(acks.count(), 2, "the repeated post is acknowledged again");
    let (eve, _) = w.join("eve");
    w.resume(eve);
    assert_eq!(lines_to(&w.drain(), eve), [1, 2]);
}

/// The pages that came, as numbers and whether there are more.
fn pages_to(outputs: &[Output], who: ParticipantId) -> Vec<(Vec<u64>, bool)> {
    let page = |o: &Output| match o {
        Output::Chat(to, pb::ChatDown { body: Some(pb::chat_down::Body::Page(page)) }) if *to == who => {
            Some((page.lines.iter().map(|l| l.seq).collect(), page.more))
        }
        _ => None,
    };
    outputs.iter().filter_map(page).collect()
}

#[test]
fn older_lines_are_read_for_who_asks_one_page_at_a_time() {
    let (mut w, ann, bob) = two_who_chat();
    let line = |seq| pb::Line { seq, ..pb::Line::default() };
    let kept = |lines: std::ops::RangeInclusive<u64>| Kept {
        history: HISTORY,
        last_seq: 9,
        lines: lines.map(line).collect(),
        ..Kept::default()
    };
    w.room.chat = History::new(kept(8..=9));
    w.older(ann, 8, 2);
    w.older(ann, 5, 2);
    w.older(bob, 8, 1);
    let asked = w.drain();
    let [Output::Page(first, anns), Output::Page(second, bobs)] = asked[..] else { panic!("{asked:?}") };
    assert_eq!((first, anns.before, anns.lines(), second, bobs.lines()), (ann, 8, 3, bob, 2));
    w.room.handle_page(ann, anns, Some(kept(5..=7)));
    w.room.handle_page(bob, bobs, None);
    let outputs = w.drain();
    assert_eq!(pages_to(&outputs, ann), [(vec![6, 7], true)]);
    assert_eq!(pages_to(&outputs, bob), [(vec![], true)], "it cannot be read now");
    w.room.handle_page(ann, anns, Some(kept(5..=7)));
    assert_eq!(w.drain(), [], "nobody waits for that");

    w.older(ann, 3, 5);
    assert!(matches!(w.drain()[..], [Output::Page(..)]), "the next one");
    w.room.leave(w.now, ann, pb::LeaveReason::Lost);
    w.room.handle_page(ann, anns, Some(kept(1..=2)));
    assert!(pages_to(&w.drain(), ann).is_empty(), "she is gone");
}

#[test]
fn lines_at_hand_are_told_again_at_once() {
    let (mut w, ann, bob) = two_who_chat();
    (1..=3).for_each(|n| w.say(bob, n));
    w.drain();
    w.older(ann, 3, 1);
    w.older(ann, 2, 0);
    assert_eq!(pages_to(&w.drain(), ann), [(vec![2], true), (vec![1], false)]);
}

#[test]
fn who_asks_for_more_pages_than_anybody_reads_is_removed() {
    let (mut w, ann, _bob) = two_who_chat();
    for _ in 0..MESSAGE_RATE.1 / PAGE_COST {
        w.older(ann, 9, 0);
    }
    assert!(w.drain().contains(&Output::Close(ann, CloseCode::TooFast)));
    let (eve, _) = w.join("eve");
    w.older(eve, 9, 0);
    assert!(w.drain().contains(&Output::Close(eve, CloseCode::Protocol)), "before she resumes");
}

#[test]
fn a_post_that_cannot_be_stored_is_refused_and_seen_by_nobody() {
    let (mut w, ann, _bob) = two_who_chat();
    w.say(ann, 1);
    let Some(Output::Store(post)) = w.room.poll_output() else { panic!("nothing to store") };
    assert_eq!(w.drain(), [], "nothing is said before");
    w.room.handle_stored(post.author, post.id, Stored::Failed);
    let refusal = pb::Refusal { id: vec![1; 16], reason: pb::RefusalReason::NotStored.into() };
    let refused = pb::ChatDown { body: Some(pb::chat_down::Body::Refusal(refusal)) };
    assert_eq!(w.drain(), [Output::Chat(ann, refused)]);
}

#[test]
fn a_flood_of_chat_is_refused_and_harms_nobody() {
    let mut w = World::new();
    let (ann, _) = w.join("ann");
    w.resume(ann);
    (0..150).for_each(|n| w.say(ann, n));
    let outputs = w.drain();
    assert_eq!(lines_to(&outputs, ann).len(), CHAT_RATE.1 as usize);
    assert_eq!(w.room.len(), 1);
}

#[test]
fn a_flood_of_chat_messages_that_say_nothing_ends_the_connection() {
    let mut w = World::new();
    let (ann, _) = w.join("ann");
    w.drain();
    for _ in 0..=MESSAGE_RATE.1 {
        w.room.handle_chat(w.now, 1000, ann, pb::ChatUp { body: None });
    }
    assert!(w.drain().contains(&Output::Close(ann, CloseCode::TooFast)));
}

#[test]
fn a_clock_that_cannot_be_is_told_to_nobody() {
    let mut w = World::new();
    let (ann, _) = w.join("ann");
    w.join("bob");
    w.drain();
    w.control(ann, pb::client_control::Body::Clock(pb::Clock { offset_us: i64::MIN, error_us: 0 }));
    assert_eq!(w.drain(), []);
    w.control(ann, pb::client_control::Body::Clock(pb::Clock { offset_us: -5, error_us: 0 }));
    assert_eq!(w.drain().len(), 1);
}

#[test]
fn who_breaks_the_rules_is_removed() {
    type Rule<'a> = &'a dyn Fn(&mut World, ParticipantId, ParticipantId, &mut Packetizer);
    let rules: [Rule<'_>; 5] = [
        &|w, _, eve, anns_camera| assert!(w.video(eve, anns_camera, true) > 0),
        &|w, _, eve, _| w.control(eve, pb::client_control::Body::Hello(hello())),
        &|w, _, eve, _| w.say(eve, 1),
        &|w, _, eve, _| {
            w.resume(eve);
            w.resume(eve);
        },
        &|w, _, eve, _| {
            (0..1000)
                .for_each(|_| w.control(eve, pb::client_control::Body::ClockPing(pb::ClockPing::default())))
        },
    ];
    for (i, break_rule) in rules.iter().enumerate() {
        let mut w = World::new();
        let (ann, welcome) = w.join("ann");
        let (eve, _) = w.join("eve");
        w.drain();
        break_rule(&mut w, ann, eve, &mut camera(&welcome));
        let outputs = w.drain();
        assert!(outputs.iter().any(|o| matches!(o, Output::Close(id, _) if *id == eve)), "rule {i}");
        assert_eq!(media_to(&outputs, ann), 0, "rule {i}");
        assert_eq!(w.room.len(), 1, "rule {i}");
    }
}

#[test]
fn who_comes_back_takes_the_place_of_the_lost_connection() {
    let mut w = World::new();
    let (ann, _) = w.join("ann");
    let (name, hello) = (DisplayName::parse("bob").expect("a name"), hello());
    let old = w.room.join(w.now, PIN, None, name.clone(), &hello).expect("room");
    w.drain();
    let new = w.room.join(w.now, PIN, None, name.clone(), &hello).expect("room");
    assert!(new == old && w.room.len() == 2, "the same number");
    let outputs = w.drain();
    let of = |o: &Output| match o {
        Output::Control(to, pb::RelayControl { body: Some(body) }) if *to == ann => Some(body.clone()),
        _ => None,
    };
    let told: Vec<_> = outputs.iter().filter_map(of).collect();
    assert!(
        matches!(&told[..], [pb::relay_control::Body::Participant(p), ..] if p.id == old.0 && !p.tracks.is_empty()),
        "the others hear of the new tracks of one who never left: {told:?}"
    );
    w.room.join(w.now, [6; 32], None, name, &hello).expect("room");
    assert_eq!(w.room.len(), 3, "another key is another person");
}

#[test]
fn who_had_a_number_gets_it_again_and_nobody_gets_that_of_another() {
    let mut w = World::new();
    let (name, hello) = (DisplayName::parse("bob").expect("a name"), hello());
    let mut join = |pin, seat| {
        let hello = pb::Hello { instance: u64::from(pin), ..hello.clone() };
        w.room.join(w.now, [pin; 32], seat, name.clone(), &hello).expect("room")
    };
    let ids = [(1, None), (2, Some(ParticipantId(70))), (3, Some(ParticipantId(70))), (4, None)]
        .map(|(pin, seat)| join(pin, seat).0);
    assert_eq!(ids, [1, 70, 2, 3], "the third is late: its number is taken");
    let kept = Kept { history: HISTORY, participants: 4096, ..Kept::default() };
    let mut anew = Room::new(kept);
    let mut back = |seat| anew.join(w.now, [seat as u8; 32], Some(ParticipantId(seat)), name.clone(), &hello);
    assert_eq!((back(3), back(70)), (Ok(ParticipantId(3)), Ok(ParticipantId(70))));
    let new = anew.join(w.now, [9; 32], None, name.clone(), &hello).expect("room");
    assert_eq!(new.0, 4097, "of one who was never here nobody can have heard");
}

#[test]
fn a_full_room_takes_nobody_in() {
    let mut w = World::new();
    (0..MAX_PARTICIPANTS).for_each(|i| drop(w.join(&format!("{i}"))));
    let name = DisplayName::parse("late").expect("a name");
    assert_eq!(w.room.join(w.now, PIN, None, name, &hello()), Err(CloseCode::RoomFull));
}

#[test]
fn the_operator_may_make_rooms_smaller_and_pictures_thinner() {
    let mut w = World::new();
    w.room.set_limits(2, Some(Bitrate::from_kbps(500)));
    let (ann, welcome) = w.join("ann");
    let limit = |o: &Output| match o {
        Output::Control(to, pb::RelayControl { body: Some(pb::relay_control::Body::Limit(l)) }) => {
            Some((*to, *l))
        }
        _ => None,
    };
    let camera = u32::from(camera(&welcome).track().0);
    let told: Vec<_> = w.drain().iter().filter_map(limit).collect();
    assert_eq!(told, [(ann, pb::Limit { track: camera, kbps: 500 })]);
    w.join("bob");
    let name = DisplayName::parse("late").expect("a name");
    assert_eq!(w.room.join(w.now, PIN, None, name, &hello()), Err(CloseCode::RoomFull));
    w.room.set_limits(10_000, None);
    (2..MAX_PARTICIPANTS).for_each(|i| drop(w.join(&format!("{i}"))));
    let name = DisplayName::parse("late").expect("a name");
    assert_eq!(
        w.room.join(w.now, PIN, None, name, &hello()),
        Err(CloseCode::RoomFull),
        "more there never are"
    );
}

/// One step of a random call.
#[derive(Clone, Debug)]
enum Step {
    Join,
    Leave(u8),
    Media(u8, u8, bool),
    KeyFrame(u8, u16),
    Chat(u8, u8),
    Older(u8, u8, u8),
    PageRead,
    Subscribe(u8, bool, bool),
    View(u8, u8, u16),
    Hop(u8, u16, u16),
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Join),
        1 => any::<u8>().prop_map(Step::Leave),
        8 => any::<(u8, u8, bool)>().prop_map(|(a, b, c)| Step::Media(a, b, c)),
        2 => (any::<u8>(), 0_u16..40).prop_map(|(a, b)| Step::KeyFrame(a, b)),
        2 => any::<(u8, u8)>().prop_map(|(a, b)| Step::Chat(a, b)),
        1 => any::<(u8, u8, u8)>().prop_map(|(a, b, c)| Step::Older(a, b, c)),
        1 => Just(Step::PageRead),
        1 => any::<(u8, bool, bool)>().prop_map(|(a, b, c)| Step::Subscribe(a, b, c)),
        2 => (any::<u8>(), any::<u8>(), 0_u16..500).prop_map(|(a, b, c)| Step::View(a, b, c)),
        2 => (any::<u8>(), 0_u16..2000, any::<u16>()).prop_map(|(a, b, c)| Step::Hop(a, b, c)),
        2 => (0_u16..1000).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever happens: outputs go only to people in the room, media never to its sender, chat numbers rise by one.
    #[test]
    fn random_calls_keep_the_rooms_promises(steps in proptest::collection::vec(step(), 1..200)) {
        let mut w = World::new();
        let mut people: Vec<(ParticipantId, Packetizer, u64)> = Vec::new();
        let mut pages: Vec<(ParticipantId, Older)> = Vec::new();
        // The chat is longer than what is at hand.
        let old = (11..=20).map(|seq| pb::Line { seq, ..pb::Line::default() }).collect();
        w.room = Room::new(Kept { history: HISTORY, last_seq: 20, lines: old, ..Kept::default() });
        w.stored = (1..=20).map(|n| (Author([0; 32]), ChatId([n; 16]))).collect();
        for step in steps {
            let count = people.len().max(1);
            let at = |n: u8| usize::from(n) % count;
            match step {
                Step::Join if people.len() < 20 => {
                    let (id, welcome) = w.join("somebody");
                    w.resume(id);
                    people.push((id, camera(&welcome), 0));
                }
                Step::Leave(n) if !people.is_empty() => {
                    let (id, ..) = people.remove(at(n));
                    w.drain();
                    w.room.leave(w.now, id, pb::LeaveReason::Lost);
                }
                Step::Media(n, m, key) if !people.is_empty() => {
                    let mut packetizer = people[at(m)].1.clone();
                    let from = people[at(n)].0;
                    w.video(from, &mut packetizer, key);
                    people[at(m)].1 = packetizer;
                }
                Step::KeyFrame(n, track) if !people.is_empty() => {
                    let from = people[at(n)].0;
                    w.control(from, pb::client_control::Body::KeyFrameRequest(pb::KeyFrameRequest { track: track.into(), decoded: None }));
                }
                Step::Chat(n, id) if !people.is_empty() => w.say(people[at(n)].0, id),
                Step::Older(n, before, limit) if !people.is_empty() => {
                    w.older(people[at(n)].0, before.into(), limit.into());
                }
                Step::PageRead if !pages.is_empty() => {
                    let (to, older) = pages.remove(0);
                    let end = older.before.min(21);
                    let begin = end.saturating_sub(older.lines().into()).max(1);
                    let lines = (begin..end).map(|seq| pb::Line { seq, ..pb::Line::default() }).collect();
                    w.room.handle_page(to, older, Some(Kept { history: HISTORY, last_seq: 20, lines, ..Kept::default() }));
                }
                Step::Subscribe(n, audio, video) if !people.is_empty() => {
                    w.control(people[at(n)].0, pb::client_control::Body::Subscriptions(pb::Subscriptions { audio, video }));
                }
                Step::View(n, m, height) if !people.is_empty() => {
                    let tile = pb::Tile { participant: people[at(m)].0.0, height: height.into() };
                    w.control(people[at(n)].0, pb::client_control::Body::View(pb::View { tiles: vec![tile] }));
                }
                Step::Hop(n, kbps, loss) if !people.is_empty() => {
                    w.room.handle_budget(w.now, people[at(n)].0, Bitrate::from_kbps(kbps.into()));
                    w.room.handle_loss(w.now, people[at(n)].0, loss.into(), loss.into());
                }
                Step::Pass(ms) => {
                    w.pass(ms.into());
                    if w.room.poll_timeout().is_some_and(|t| t <= w.now) {
                        w.room.handle_timeout(w.now);
                        prop_assert!(w.room.poll_timeout().is_none_or(|t| t > w.now), "a timeout that does not pass");
                    }
                }
                _ => {}
            }
            let waiting = |id: ParticipantId, pages: &[(ParticipantId, Older)]| {
                pages.iter().filter(|(to, _)| *to == id).count()
            };
            prop_assert!(people.iter().all(|p| waiting(p.0, &pages) <= 1), "two pages are under way");
            for output in w.drain() {
                match output {
                    Output::Close(id, _) => people.retain(|p| p.0 != id),
                    Output::Media(to, header, _) => {
                        let receiver = people.iter().find(|p| p.0 == to);
                        prop_assert!(receiver.is_some_and(|p| p.1.track() != header.track));
                    }
                    Output::Chat(to, pb::ChatDown { body: Some(pb::chat_down::Body::Line(line)) }) => {
                        let receiver = people.iter_mut().find(|p| p.0 == to);
                        let last = receiver.map(|p| std::mem::replace(&mut p.2, line.seq));
                        prop_assert!(last.is_some_and(|last| last == 0 || line.seq == last + 1));
                    }
                    Output::Chat(to, pb::ChatDown { body: Some(pb::chat_down::Body::Page(page)) }) => {
                        prop_assert!(people.iter().any(|p| p.0 == to));
                        let numbers: Vec<u64> = page.lines.iter().map(|l| l.seq).collect();
                        prop_assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "a gap: {numbers:?}");
                        prop_assert!(numbers.last().is_none_or(|last| *last < page.before));
                        prop_assert_eq!(page.more, numbers.first().is_some_and(|first| *first > 1));
                    }
                    Output::Chat(to, _) | Output::Control(to, _) => prop_assert!(people.iter().any(|p| p.0 == to)),
                    // A disk that takes its time, or cannot read.
                    Output::Page(to, older) => {
                        prop_assert!(people.iter().any(|p| p.0 == to));
                        pages.push((to, older));
                    }
                    Output::TrackEnded(_) | Output::VideoWanted(..) | Output::Store(_) => {}
                }
            }
        }
    }
}
