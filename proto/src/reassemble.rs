//! Datagrams to frames that can be decoded.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::id::FrameId;
use crate::playout::Playout;
use crate::units::MediaTime;
use crate::wire::datagram::{Dependency, Media, MediaHeader};

/// Puts the frames of one video track together and hands out those that can be decoded, in order.
///
/// A decoder that is fed a frame whose references it lacks shows garbage without an error (measured: 71 garbage
/// pictures after one lost frame), so a frame is released only after the one it depends on. When that does not come
/// for [`PATIENCE`] and three round trips of the hop, in which it may be repaired, the track is broken: the picture stands
/// still and a frame is asked for that depends on none later than the last one released, again and again until one comes.
/// A frame on which none depends is skipped when its successor is due to be shown ([`Playout`]).
///
/// Call a `handle_*`, then drain [`Self::poll_output`] and look at [`Self::poll_timeout`]. `at` is the same moment as `now` on
/// the media clock.
/// At most [`MAX_HELD`] frames are held; the oldest gives way.
#[derive(Debug, Default)]
pub struct Reassembler {
    /// Frames not yet released, whole and partial, in the order of their ids.
    held: VecDeque<Partial>,
    released: Released,
    playout: Playout,
    /// When a frame that waits for one before it that could be skipped is released all the same.
    skip_at: Option<Instant>,
    round_trip: Duration,
    /// Since when a frame that is needed has been missing.
    waiting_since: Option<Instant>,
    asked_at: Option<Instant>,
    /// Resting: only a key frame captured after this moment begins anew.
    resting: Option<MediaTime>,
    /// Refreshes asked for since a frame was released.
    asked: u32,
    output: VecDeque<Output>,
    counts: Counts,
}

/// What [`Reassembler::poll_output`] hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Decode this now.
    Frame(Frame),
    /// Ask the sender for a frame that depends on none later than this one; without one, for a key frame.
    RefreshNeeded(Option<FrameId>),
}

/// A whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its number.
    pub id: FrameId,
    /// Whether it is a key frame.
    pub key: bool,
    /// When it was captured, on the sender's media clock.
    pub captured: MediaTime,
    /// When to show it, on our clock; none for at once.
    pub due: Option<MediaTime>,
    /// The encoded picture.
    pub data: Bytes,
}

/// What happened to the frames of a track so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames handed out.
    pub released: u64,
    /// Frames of which something arrived, but that were never handed out.
    pub dropped: u64,
    /// Datagrams that came twice, too late, or contradicted another of the same frame.
    pub useless: u64,
}

impl Reassembler {
    /// How long a round trip to whoever repairs losses takes.
    pub const fn set_round_trip(&mut self, round_trip: Duration) {
        self.round_trip = round_trip;
    }

    /// Takes a datagram of this track.
    pub fn handle_media(&mut self, now: Instant, at: MediaTime, media: &Media) {
        let header = &media.header;
        if self.resting.is_some_and(|since| !header.is_key() || header.captured <= since) {
            self.counts.useless += 1;
            return;
        }
        self.resting = None;
        let Some(place) = self.place(header) else {
            self.counts.useless += 1;
            return;
        };
        match self.held.get_mut(place) {
            Some(p) if p.header.frame == header.frame => {
                if !p.add(media) {
                    self.counts.useless += 1;
                }
            }
            _ => self.held.insert(place, Partial::new(media)),
        }
        // Its own way counts, not how long it waits for another: one that took long would otherwise count many times.
        if let Some(p) = self.held.get_mut(place).filter(|p| p.is_whole() && !p.counted) {
            p.counted = true;
            self.playout.record(at, header.captured);
        }
        if self.held.len() > MAX_HELD {
            self.held.pop_front();
            self.counts.dropped += 1;
        }
        self.release(now, at);
    }

    /// Call when the time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant, at: MediaTime) {
        if self.skip_at.is_some_and(|t| t <= now) {
            self.release(now, at);
        }
        if self.refresh_at().is_some_and(|t| t <= now) {
            self.asked_at = Some(now);
            self.asked = self.asked.saturating_add(1);
            self.output.push_back(Output::RefreshNeeded(self.released.base()));
        }
    }

    /// What to do next, if anything.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.skip_at, self.refresh_at()].into_iter().flatten().min()
    }

    /// Drops everything and starts again with the next key frame, which is asked for at once: the decoder failed.
    pub fn reset(&mut self, now: Instant) {
        self.counts.dropped += self.held.len() as u64;
        self.held.clear();
        self.released.forget_references();
        self.waiting_since = Some(now);
        self.asked_at = Some(now);
        self.output.push_back(Output::RefreshNeeded(None));
    }

    /// Nothing of this track is expected any more until its next key frame: another one of the same camera goes on since
    /// `since`, and what was captured before is of no use.
    pub fn rest(&mut self, since: MediaTime) {
        self.counts.dropped += self.held.len() as u64;
        self.held.clear();
        self.released.forget_references();
        (self.skip_at, self.waiting_since, self.resting) = (None, None, Some(since));
    }

    /// What happened so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// The index in `held` where this frame is or belongs; none when it is of no more use.
    fn place(&self, header: &MediaHeader) -> Option<usize> {
        if let Some(last) = self.released.last {
            let ahead = header.frame.since(last);
            // A frame far behind belongs to a sender that numbers anew: only its key frame is a way in.
            if ahead <= 0 && !(ahead < -RESTART_DISTANCE && header.is_key()) {
                return None;
            }
        }
        Some(self.held.partition_point(|p| header.frame.is_after(p.header.frame)))
    }

    fn release(&mut self, now: Instant, at: MediaTime) {
        self.skip_at = None;
        while let Some(place) = self.held.iter().position(|p| p.is_whole() && self.released.allows(&p.header))
        {
            let frame = &self.held[place];
            let due = self.playout.due(frame.header.captured);
            if self.released.skips(&frame.header)
                && let Some(due) = due.map(|due| due - SHOWING)
                && due > at
            {
                self.skip_at = Some(now + Duration::from_micros(due.micros_since(at).unsigned_abs()));
                break;
            }
            // What lies before it can no longer be shown in order.
            self.counts.dropped += place as u64;
            self.held.drain(..place);
            let Some(frame) = self.held.pop_front() else { break };
            if frame.header.is_key() {
                self.asked_at = None;
            }
            self.released.note(&frame.header);
            self.counts.released += 1;
            (self.waiting_since, self.asked) = (None, 0);
            self.output.push_back(Output::Frame(frame.into_frame(due)));
        }
        // A whole frame that cannot be released, or a later frame behind a partial one, means that something is missing.
        let missing =
            self.held.len() > 1 || self.held.front().is_some_and(|p| !self.released.allows(&p.header));
        match (missing && self.skip_at.is_none(), self.waiting_since) {
            (true, None) => self.waiting_since = Some(now),
            (false, Some(_)) if self.released.has_references => self.waiting_since = None,
            _ => {}
        }
    }

    /// When to ask for a refresh.
    fn refresh_at(&self) -> Option<Instant> {
        let repaired = PATIENCE + self.round_trip * 3;
        let broken = self.waiting_since? + if self.released.has_references { repaired } else { PATIENCE };
        // Who has stopped sending is not to be asked for ever.
        let retry = (REFRESH_RETRY + self.round_trip * 2) * (1 << self.asked.saturating_sub(8).min(5));
        Some(self.asked_at.map_or(broken, |asked| broken.max(asked + retry)))
    }
}

/// Which frames were released lately.
#[derive(Debug, Default)]
struct Released {
    last: Option<FrameId>,
    /// Bit n: the frame n before `last` was released and its references stand.
    recent: u64,
    has_references: bool,
    /// The newest one that others may depend on.
    last_base: Option<FrameId>,
}

impl Released {
    fn allows(&self, header: &MediaHeader) -> bool {
        let Dependency::Back(back) = header.dependency else { return true };
        let Some(last) = self.last else { return false };
        let behind = last.since(header.frame.minus(u32::from(back)));
        self.has_references && (0..64).contains(&behind) && self.recent >> behind & 1 == 1
    }

    fn note(&mut self, header: &MediaHeader) {
        let ahead = self.last.map_or(64, |last| header.frame.since(last));
        let kept = if header.is_key() || !(0..64).contains(&ahead) { 0 } else { self.recent << ahead };
        self.recent = kept | 1;
        self.last = Some(header.frame);
        self.has_references = true;
        if !header.discardable {
            self.last_base = Some(header.frame);
        }
    }

    /// Whether frames lie between the last one and this one that may still come.
    fn skips(&self, header: &MediaHeader) -> bool {
        !header.is_key() && self.last.is_some_and(|last| header.frame.since(last) > 1)
    }

    /// The newest frame to which the next one may refer.
    const fn base(&self) -> Option<FrameId> {
        if self.has_references { self.last_base } else { None }
    }

    fn forget_references(&mut self) {
        self.recent = 0;
        self.has_references = false;
    }
}

/// A frame of which at least one fragment is here.
#[derive(Debug)]
struct Partial {
    header: MediaHeader,
    parts: Vec<Option<Bytes>>,
    missing: u16,
    /// The playout knows of it.
    counted: bool,
}

impl Partial {
    fn new(media: &Media) -> Self {
        let count = media.header.count;
        let mut partial = Self {
            header: media.header,
            parts: vec![None; usize::from(count)],
            missing: count,
            counted: false,
        };
        partial.add(media);
        partial
    }

    /// False when the fragment is here already or belongs to a frame with another header.
    fn add(&mut self, media: &Media) -> bool {
        let same = MediaHeader { index: self.header.index, ..media.header } == self.header;
        match self.parts.get_mut(usize::from(media.header.index)) {
            Some(slot @ None) if same => {
                *slot = Some(media.payload());
                self.missing -= 1;
                true
            }
            _ => false,
        }
    }

    const fn is_whole(&self) -> bool {
        self.missing == 0
    }

    fn into_frame(self, due: Option<MediaTime>) -> Frame {
        let mut parts = self.parts.into_iter().flatten();
        let data = match self.header.count {
            1 => parts.next().unwrap_or_default(),
            _ => parts
                .fold(BytesMut::new(), |mut all, part| {
                    all.extend_from_slice(&part);
                    all
                })
                .freeze(),
        };
        let MediaHeader { frame: id, captured, .. } = self.header;
        Frame { id, key: self.header.is_key(), captured, due, data }
    }
}

/// How long a missing frame may still come, besides the time of its repair: longer than packets overtake each other on Wi-Fi
/// (about 30 ms), short enough that the freeze until a refresh stays below what people notice as a break.
pub const PATIENCE: Duration = Duration::from_millis(50);

/// A refresh that was asked for takes round trips and some frames to come; asking again sooner only adds more of them.
pub const REFRESH_RETRY: Duration = Duration::from_millis(150);

/// From the release of a frame to its picture on the screen.
const SHOWING: Duration = Duration::from_millis(8);

/// A second of video: with more, the picture would stand still anyway until the next key frame.
pub const MAX_HELD: usize = 32;

/// Key frames this far behind are of a sender that started again, not stragglers.
const RESTART_DISTANCE: i32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TrackId;
    use crate::packetize::Packetizer;
    use crate::wire::datagram::MediaKind;
    use proptest::prelude::*;

    struct Sender(Packetizer);

    impl Sender {
        fn new() -> Self {
            Self(Packetizer::new(MediaKind::Video, TrackId(1)))
        }

        fn frame(&mut self, key: bool, size: usize) -> Vec<Media> {
            let data = vec![self.0.next_frame().0 as u8; size];
            let parts = self.0.packetize(&data, key, MediaTime::default()).expect("fits");
            parts.into_iter().map(|d| Media::parse(d.freeze()).expect("valid")).collect()
        }
    }

    fn drain(r: &mut Reassembler) -> (Vec<u32>, usize) {
        let (mut frames, mut asked) = (Vec::new(), 0);
        while let Some(output) = r.poll_output() {
            match output {
                Output::Frame(f) => {
                    assert!(f.data.iter().all(|b| *b == f.id.0 as u8), "bytes of another frame");
                    frames.push(f.id.0);
                }
                Output::RefreshNeeded(_) => asked += 1,
            }
        }
        (frames, asked)
    }

    fn feed(r: &mut Reassembler, now: Instant, media: &[Media]) -> Vec<u32> {
        media.iter().for_each(|m| r.handle_media(now, MediaTime::default(), m));
        drain(r).0
    }

    #[test]
    fn frames_come_out_whole_and_in_order_whatever_order_they_come_in() {
        let (mut s, mut r, now) = (Sender::new(), Reassembler::default(), Instant::now());
        let (key, a, b) = (s.frame(true, 5000), s.frame(false, 2000), s.frame(false, 100));
        assert_eq!(feed(&mut r, now, &b), []);
        assert_eq!(feed(&mut r, now, &a), []);
        let backwards: Vec<Media> = key.into_iter().rev().collect();
        assert_eq!(feed(&mut r, now, &backwards), [0, 1, 2]);
        assert_eq!(r.poll_timeout(), None, "nothing is missing any more");
        assert_eq!(r.counts(), Counts { released: 3, ..Counts::default() });
    }

    #[test]
    fn after_a_loss_nothing_that_depends_on_it_is_released_until_a_key_frame() {
        let (mut s, mut r, start) = (Sender::new(), Reassembler::default(), Instant::now());
        assert_eq!(feed(&mut r, start, &s.frame(true, 10)), [0]);
        let lost = s.frame(false, 3000);
        feed(&mut r, start, &lost[1..]);
        assert_eq!(feed(&mut r, start, &s.frame(false, 10)), []);
        let deadline = r.poll_timeout().expect("it waits");
        assert_eq!(deadline, start + PATIENCE);
        r.handle_timeout(deadline - Duration::from_millis(1), MediaTime::default());
        assert_eq!(drain(&mut r), (vec![], 0));
        r.handle_timeout(deadline, MediaTime::default());
        assert_eq!(drain(&mut r), (vec![], 1));
        let again = r.poll_timeout().expect("it asks again");
        assert_eq!(again, deadline + REFRESH_RETRY);
        r.handle_timeout(again, MediaTime::default());
        assert_eq!(drain(&mut r), (vec![], 1));
        assert_eq!(feed(&mut r, again, &s.frame(true, 10)), [3]);
        assert_eq!(feed(&mut r, again, &s.frame(false, 10)), [4]);
        assert_eq!(r.poll_timeout(), None);
        assert_eq!(r.counts().dropped, 2);
    }

    #[test]
    fn a_late_fragment_heals_without_a_key_frame() {
        let (mut s, mut r, now) = (Sender::new(), Reassembler::default(), Instant::now());
        feed(&mut r, now, &s.frame(true, 10));
        let (late, next) = (s.frame(false, 3000), s.frame(false, 10));
        feed(&mut r, now, &late[1..]);
        feed(&mut r, now, &next);
        assert_eq!(feed(&mut r, now + Duration::from_millis(40), &late[..1]), [1, 2]);
        assert_eq!(r.poll_timeout(), None);
    }

    #[test]
    fn a_stream_without_a_key_frame_asks_for_one() {
        let (mut s, mut r, now) = (Sender::new(), Reassembler::default(), Instant::now());
        s.frame(true, 10);
        assert_eq!(feed(&mut r, now, &s.frame(false, 10)), []);
        r.handle_timeout(now + PATIENCE, MediaTime::default());
        assert_eq!(drain(&mut r), (vec![], 1));
    }

    #[test]
    fn after_a_reset_only_a_key_frame_is_released() {
        let (mut s, mut r, now) = (Sender::new(), Reassembler::default(), Instant::now());
        feed(&mut r, now, &s.frame(true, 10));
        r.reset(now);
        assert_eq!(drain(&mut r), (vec![], 1));
        assert_eq!(feed(&mut r, now, &s.frame(false, 10)), []);
        assert!(r.poll_timeout().is_some(), "it keeps asking");
        assert_eq!(feed(&mut r, now, &s.frame(true, 10)), [2]);
        assert_eq!(r.poll_timeout(), None);
    }

    #[test]
    fn a_sender_that_numbers_anew_is_taken_from_its_key_frame() {
        let (mut old, mut r, now) = (Sender::new(), Reassembler::default(), Instant::now());
        (0..2000).for_each(|i| drop(old.frame(i == 0, 10)));
        assert_eq!(feed(&mut r, now, &old.frame(true, 10)), [2000]);
        let mut new = Sender::new();
        assert_eq!(feed(&mut r, now, &new.frame(true, 10)), [0]);
        assert_eq!(feed(&mut r, now, &new.frame(false, 10)), [1]);
    }

    proptest! {
        /// Whatever is lost, repeated or reordered: what comes out is intact, in order, and never lacks a reference.
        #[test]
        fn no_frame_is_released_without_its_reference(
            keys in proptest::collection::vec(proptest::bool::weighted(0.1), 1..120),
            fates in proptest::collection::vec((0_u8..10, 0_usize..12), 1..500),
        ) {
            let (mut s, mut r, start) = (Sender::new(), Reassembler::default(), Instant::now());
            let frames: Vec<Media> =
                keys.iter().enumerate().flat_map(|(i, k)| s.frame(*k || i == 0, 1 + i * 37 % 4000)).collect();
            let mut arriving: Vec<(usize, &Media)> = Vec::new();
            for (i, media) in frames.iter().enumerate() {
                let (fate, shift) = fates[i % fates.len()];
                (0..[1, 1, 1, 1, 1, 1, 1, 2, 2, 0][usize::from(fate)]).for_each(|n| arriving.push((i + shift * (n + 1), media)));
            }
            arriving.sort_by_key(|(at, _)| *at);
            let mut decoded: Option<u32> = None;
            for (at, media) in arriving {
                let now = start + Duration::from_millis(at as u64 * 10);
                r.handle_media(now, MediaTime::default(), media);
                r.handle_timeout(now, MediaTime::default());
                for id in drain(&mut r).0 {
                    let key = keys[id as usize] || id == 0;
                    prop_assert!(decoded.is_none_or(|d| id > d), "out of order");
                    prop_assert!(key || decoded == Some(id - 1), "frame {} without its reference", id);
                    decoded = Some(id);
                }
                prop_assert!(r.held.len() <= MAX_HELD);
            }
        }

        #[test]
        fn hostile_headers_do_not_panic(headers: Vec<(u32, u16, u16, u16, bool)>) {
            let mut r = Reassembler::default();
            let now = Instant::now();
            for (frame, index, count, back, key) in headers {
                let (count, back) = (count % 257, back.max(1));
                let dependency = if key { Dependency::None } else { Dependency::Back(back) };
                let header = MediaHeader {
                    kind: MediaKind::Video, track: TrackId(1), frame: FrameId(frame), index, count, dependency,
                    discardable: false, temporal: 0, spatial: 0, captured: MediaTime::default(),
                };
                if let Ok(media) = Media::parse(header.datagram(&[0]).freeze()) {
                    r.handle_media(now, MediaTime::default(), &media);
                    r.handle_timeout(now, MediaTime::default());
                    while r.poll_output().is_some() {}
                }
            }
        }
    }
}
