//! Both ends of a hop, joined by a path that takes time and loses datagrams.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::id::{FrameId, TrackId};
use crate::units::{Bitrate, MediaTime};
use crate::wire::datagram::{Dependency, Media, MediaHeader, MediaKind};
use crate::wire::hop::{Fate, Packet, Report};

const MS: Duration = Duration::from_millis(1);

/// A call over one hop: 30 pictures a second of `fragments` datagrams in two temporal layers, and sound every 10 ms.
struct Hop {
    start: Instant,
    now: Duration,
    sender: Sender,
    receiver: Receiver,
    way: Duration,
    /// Which datagrams are lost, reports too, by a number drawn below 1000.
    lost: fn(Duration, u64) -> bool,
    random: u64,
    forth: VecDeque<(Duration, Bytes)>,
    back: VecDeque<(Duration, Bytes)>,
    fragments: u16,
    frame: u32,
    sound: u32,
    /// When each fragment, and each audio frame, was sent first and arrived first.
    video: BTreeMap<(u32, u16), (Duration, Option<Duration>)>,
    audio: BTreeMap<u32, (Duration, Option<Duration>)>,
    refreshes: Vec<Refresh>,
    reports: usize,
}

impl Hop {
    fn new(way: Duration, lost: fn(Duration, u64) -> bool) -> Self {
        let start = Instant::now();
        let rate = Bitrate::from_kbps(700);
        Self {
            start,
            now: Duration::ZERO,
            sender: Sender::new(start, Settings { start: rate, video_max: rate }),
            receiver: Receiver::new(start),
            way,
            lost,
            random: 0x9e37_79b9_7f4a_7c15,
            forth: VecDeque::new(),
            back: VecDeque::new(),
            fragments: 3,
            frame: 0,
            sound: 0,
            video: BTreeMap::new(),
            audio: BTreeMap::new(),
            refreshes: Vec::new(),
            reports: 0,
        }
    }

    fn at(&self) -> Instant {
        self.start + self.now
    }

    fn is_lost(&mut self) -> bool {
        // Marsaglia's xorshift64.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.lost)(self.now, self.random % 1000)
    }

    fn picture(&mut self) {
        let (frame, higher) = (self.frame, self.frame % 2 == 1);
        let dependency = match (frame, higher) {
            (0, _) => Dependency::None,
            (_, true) => Dependency::Back(1),
            _ => Dependency::Back(2),
        };
        for index in 0..self.fragments {
            let header = MediaHeader {
                kind: MediaKind::Video,
                track: TrackId(1),
                frame: FrameId(frame),
                index,
                count: self.fragments,
                dependency,
                discardable: higher,
                temporal: u8::from(higher),
                spatial: 0,
                captured: MediaTime::default(),
            };
            self.push(header, 900);
            self.video.insert((frame, index), (self.now, None));
        }
        self.frame += 1;
    }

    fn push(&mut self, header: MediaHeader, len: usize) {
        let body = header.datagram(&vec![header.frame.0 as u8; len]).freeze().slice(2..);
        self.sender.push(self.at(), header, body);
    }

    fn say(&mut self) {
        let header = MediaHeader {
            kind: MediaKind::Audio,
            track: TrackId(2),
            frame: FrameId(self.sound),
            index: 0,
            count: 1,
            dependency: Dependency::None,
            discardable: false,
            temporal: 0,
            spatial: 0,
            captured: MediaTime::default(),
        };
        self.push(header, 40);
        self.audio.insert(self.sound, (self.now, None));
        self.sound += 1;
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            if self.now.as_micros().is_multiple_of(33_000) {
                self.picture();
            }
            if self.now.as_micros().is_multiple_of(10_000) {
                self.say();
            }
            self.step();
            self.now += MS / 2;
        }
    }

    fn step(&mut self) {
        let at = self.at();
        self.sender.handle_timeout(at);
        while let Some(datagram) = self.sender.poll_datagram(at) {
            if !self.is_lost() {
                self.forth.push_back((self.now + self.way, datagram));
            }
        }
        self.refreshes.extend(std::iter::from_fn(|| self.sender.poll_refresh()));
        while let Some(datagram) = due(&mut self.forth, self.now) {
            let len = datagram.len();
            let (number, packet) = Packet::parse(datagram).expect("valid");
            self.receiver.handle_packet(at, number, len, packet);
            while let Some(media) = self.receiver.poll_media() {
                self.take(&media);
            }
        }
        if let Some(report) = self.receiver.poll_report(at) {
            self.reports += 1;
            if !self.is_lost() {
                self.back.push_back((self.now + self.way, report));
            }
        }
        while let Some(report) = due(&mut self.back, self.now) {
            let Ok((_, Packet::Report(report))) = Packet::parse(report) else { panic!("no report") };
            self.sender.handle_report(at, &report);
        }
    }

    fn take(&mut self, media: &Media) {
        let header = &media.header;
        assert!(media.payload().iter().all(|byte| *byte == header.frame.0 as u8), "damaged");
        match header.kind {
            MediaKind::Video => {
                let (_, arrived) = self.video.get_mut(&(header.frame.0, header.index)).expect("sent");
                assert_eq!(arrived.replace(self.now), None, "twice: {header:?}");
            }
            MediaKind::Audio => {
                let (_, arrived) = self.audio.get_mut(&header.frame.0).expect("sent");
                arrived.get_or_insert(self.now);
            }
        }
    }

    /// Shares of base fragments, higher ones and audio frames that came within `limit`, of those sent from `from` until a second ago.
    fn within(&self, from: Duration, limit: Duration) -> [f64; 3] {
        let sent = |at: &Duration| (from..self.now.saturating_sub(MS * 1000)).contains(at);
        let share = |all: Vec<(Duration, Option<Duration>)>| {
            let came = all.iter().filter(|(at, arrived)| arrived.is_some_and(|t| t - *at <= limit)).count();
            came as f64 / all.len() as f64
        };
        let video = |higher: bool| {
            let of_layer =
                self.video.iter().filter(|((frame, _), (at, _))| (frame % 2 == 1) == higher && sent(at));
            share(of_layer.map(|(_, times)| *times).collect())
        };
        let audio = self.audio.values().filter(|(at, _)| sent(at)).copied().collect();
        [video(false), video(true), share(audio)]
    }
}

fn due(way: &mut VecDeque<(Duration, Bytes)>, now: Duration) -> Option<Bytes> {
    let arrived = way.front().is_some_and(|(at, _)| *at <= now);
    if arrived { way.pop_front().map(|(_, datagram)| datagram) } else { None }
}

#[test]
fn on_a_good_path_only_media_and_few_reports_are_sent() {
    let mut hop = Hop::new(MS * 10, |_, _| false);
    hop.run(MS * 10_000);
    assert_eq!(hop.within(MS * 2000, MS * 12), [1.0; 3], "all at once, when the path is known");
    let (sent, totals) = (hop.sender.sent(), hop.receiver.totals());
    assert_eq!(sent.repaired_bytes, 0);
    assert!(
        sent.other_bytes() < sent.media_bytes / 50,
        "the first pictures are protected, and more than they take is probed for: {sent:?}"
    );
    assert!(totals.other_bytes < sent.media_bytes / 50, "{totals:?}");
    assert_eq!((totals.restored, totals.resent), (0, 0));
    assert!(hop.reports <= 210, "{} reports", hop.reports);
    assert_eq!(hop.sender.round_trip().as_millis(), 20);
}

#[test]
fn single_losses_cost_one_round_trip_of_this_hop() {
    let mut hop = Hop::new(MS * 12, |_, random| random < 50);
    hop.run(MS * 30_000);
    let from = MS * 2000;
    let [base, higher, audio] = hop.within(from, MS * 12 + MS * 36);
    assert!(base > 0.985 && higher > 0.98, "{base} {higher}");
    assert!(audio > 0.996, "{audio}");
    let [base, _, audio] = hop.within(from, MS * 120);
    assert!(base > 0.9999 && audio > 0.9995, "{base} {audio}");
    let sent = hop.sender.sent();
    let overhead = sent.other_bytes() as f64 / sent.media_bytes as f64;
    assert!(overhead < 0.15, "{overhead}: {sent:?}");
    assert_eq!(hop.refreshes, []);
}

#[test]
fn heavy_losses_are_met_with_parity_and_copies() {
    let mut hop = Hop::new(MS * 25, |_, random| random < 200);
    hop.run(MS * 30_000);
    let from = MS * 3000;
    let [base, _, audio] = hop.within(from, MS * 25 + MS * 12);
    assert!(base > 0.9, "{base} without a round trip");
    assert!(audio > 0.9, "{audio}");
    let [base, _, audio] = hop.within(from, MS * 200);
    assert!(base > 0.998 && audio > 0.997, "{base} {audio}");
    assert!(hop.receiver.totals().restored > 100);
}

#[test]
fn after_a_short_outage_everything_is_sent_again_at_once() {
    // Nothing passes from 3.0 s to 3.3 s.
    let mut hop = Hop::new(MS * 10, |now, _| (3000..3300).contains(&now.as_millis()));
    hop.run(MS * 3300);
    let back = hop.now;
    hop.run(MS * 3000);
    let lost =
        hop.video.iter().filter(|((frame, _), (at, _))| frame % 2 == 0 && (MS * 2990..back).contains(at));
    for (which, (_, arrived)) in lost {
        let arrived = arrived.unwrap_or_else(|| panic!("{which:?} is lost"));
        assert!(arrived < back + MS * 60, "{which:?} at {arrived:?}");
    }
    assert_eq!(hop.refreshes, []);
}

#[test]
fn after_a_long_outage_a_refresh_is_asked_for() {
    let mut hop = Hop::new(MS * 10, |now, _| (3000..4000).contains(&now.as_millis()));
    hop.run(MS * 4200);
    let decoded = hop.refreshes.first().expect("a refresh").decoded.expect("something was decodable");
    let sent = hop.video[&(decoded.0, 0)].0;
    assert!(sent < MS * 3000 && sent > MS * 2850, "the last one before: {sent:?}");
    assert!(hop.refreshes.len() <= 2, "{:?}", hop.refreshes);
}

#[test]
fn reports_about_what_was_never_sent_change_nothing() {
    let mut hop = Hop::new(MS * 10, |_, _| false);
    let nonsense =
        |highest| Report { highest, held_us: 0, arrived: 7, fates: vec![Fate::Arrived(i32::MIN); 255] };
    hop.sender.handle_report(hop.at(), &nonsense(0));
    hop.run(MS * 500);
    for highest in [40_000, u16::MAX, 900] {
        hop.sender.handle_report(hop.at(), &nonsense(highest));
    }
    hop.sender.handle_report(hop.at(), &nonsense(50));
    hop.run(MS * 3500);
    assert_eq!(hop.within(MS * 2000, MS * 12), [1.0; 3]);
}

#[test]
fn sound_overtakes_pictures_and_pictures_leave_at_the_pace() {
    let mut hop = Hop::new(MS * 10, |_, _| false);
    hop.fragments = 200;
    hop.picture();
    hop.say();
    let first = hop.sender.poll_datagram(hop.at()).expect("something");
    let (_, Packet::Media(media)) = Packet::parse(first).expect("valid") else { panic!("no media") };
    assert_eq!(media.header.kind, MediaKind::Audio);
    let burst = std::iter::from_fn(|| hop.sender.poll_datagram(hop.at())).count();
    assert!(burst < 200, "{burst} at once");
    assert!(hop.sender.poll_timeout().is_some_and(|t| t > hop.at()));
    let seen: BTreeSet<u16> = hop.video.keys().map(|(_, index)| *index).collect();
    assert_eq!(seen.len(), 200);
}
