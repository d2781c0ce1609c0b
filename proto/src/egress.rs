//! What waits for one connection to take it: a bounded queue above QUIC that drops whole frames.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::id::{FrameId, TrackId};
use crate::wire::datagram::{Dependency, MediaHeader, MediaKind};

/// Media waiting for one connection: audio first, then video that other frames depend on (the base), then the rest.
///
/// Overflow: frames on which nothing depends go when they have waited for [`MAX_HIGHER_WAIT`]. When base video waits longer
/// than [`MAX_VIDEO_WAIT`] or all video takes more than [`MAX_VIDEO_BYTES`], everything queued of the track that holds the
/// most is dropped, and so is what follows of it until a frame comes that needs none of the dropped ones, which is asked for
/// ([`Self::poll_refresh_needed`]): a picture that stands still for a moment, never one that is torn. A key frame that is
/// on its way is sent to its end, or a link too narrow for it would never show anything; only when such key frames alone
/// take more than [`MAX_VIDEO_BYTES`] does the largest go too. Audio older than [`MAX_AUDIO_WAIT`] is dropped, oldest
/// first, and so is what takes more than [`MAX_AUDIO_BYTES`].
#[derive(Debug, Default)]
pub struct Egress {
    audio: VecDeque<Queued>,
    audio_bytes: usize,
    base: VecDeque<Queued>,
    higher: VecDeque<Queued>,
    video_bytes: usize,
    tracks: BTreeMap<TrackId, Track>,
    /// How often there was room for more.
    pops: u64,
    refreshes: VecDeque<(TrackId, Option<FrameId>)>,
    dropped: u64,
}

/// A datagram that waits.
#[derive(Clone, Debug)]
pub struct Queued {
    /// Its header.
    pub header: MediaHeader,
    /// Header and payload as bytes.
    pub body: Bytes,
    /// Since when it waits.
    pub since: Instant,
}

/// What is known of a video track.
#[derive(Debug, Default)]
struct Track {
    /// Everything is dropped until a frame that comes after this one, the newest one dropped, and does not need it.
    broken: Option<FrameId>,
    /// The newest base frame of which the last fragment was sent.
    sent: Option<FrameId>,
    asked: Option<Asked>,
}

/// When a refresh of a track was asked for.
#[derive(Debug)]
struct Asked {
    at: Instant,
    /// [`Egress::pops`] then. While that stands still nothing reaches the receiver, and another key frame would only
    /// cost all others.
    pops: u64,
}

/// What waits of one track.
#[derive(Debug, Default)]
struct Load {
    /// The frame that waits longest, when it is a key frame.
    key: Option<FrameId>,
    bytes: usize,
    /// Without that key frame.
    behind_key: usize,
}

impl Queued {
    const fn bytes(&self) -> usize {
        self.body.len() + OVERHEAD
    }
}

impl Egress {
    /// Queues the body of a datagram (without hop prefix).
    pub fn push(&mut self, now: Instant, header: MediaHeader, body: Bytes) {
        let queued = Queued { header, body, since: now };
        match (header.kind, header.discardable) {
            (MediaKind::Audio, _) => self.push_audio(now, queued),
            (MediaKind::Video, true) => self.push_higher(now, queued),
            (MediaKind::Video, false) => self.push_base(now, queued),
        }
    }

    /// The next audio to send.
    pub fn pop_audio(&mut self) -> Option<Queued> {
        self.pops = self.pops.wrapping_add(1);
        let next = self.audio.pop_front()?;
        self.audio_bytes -= next.bytes();
        Some(next)
    }

    /// What the body has of the audio that [`Self::pop_audio`] would give.
    #[must_use]
    pub fn next_audio(&self) -> Option<&Bytes> {
        self.audio.front().map(|q| &q.body)
    }

    /// The next base video to send.
    pub fn pop_base(&mut self) -> Option<Queued> {
        self.pops = self.pops.wrapping_add(1);
        let next = self.base.pop_front()?;
        self.video_bytes -= next.bytes();
        let header = &next.header;
        if header.index + 1 == header.count {
            let sent = &mut self.tracks.entry(header.track).or_default().sent;
            // Late fragments of an older frame change nothing.
            if sent.is_none_or(|sent| header.frame.is_after(sent)) {
                *sent = Some(header.frame);
            }
        }
        Some(next)
    }

    /// The next video on which nothing depends.
    pub fn pop_higher(&mut self) -> Option<Queued> {
        let next = self.higher.pop_front()?;
        self.video_bytes -= next.bytes();
        Some(next)
    }

    /// Frames of this track that were sent are lost for good; the receiver can decode `decoded`, if anything. What waits, and
    /// what comes until a frame that needs nothing later, is dropped.
    pub fn give_up(&mut self, now: Instant, track: TrackId, decoded: Option<FrameId>, newest: FrameId) {
        let waiting = self.base.iter().rfind(|q| q.header.track == track).map(|q| q.header.frame);
        self.drop_queued(track, None);
        let state = self.tracks.entry(track).or_default();
        let newest = waiting.filter(|frame| frame.is_after(newest)).unwrap_or(newest);
        state.broken = Some(newest);
        state.sent = decoded;
        self.ask(now, track);
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.has_audio() && !self.has_video()
    }

    /// Whether audio waits.
    #[must_use]
    pub fn has_audio(&self) -> bool {
        !self.audio.is_empty()
    }

    /// Whether video waits.
    #[must_use]
    pub fn has_video(&self) -> bool {
        self.has_base() || !self.higher.is_empty()
    }

    /// Whether video waits that other frames depend on.
    #[must_use]
    pub fn has_base(&self) -> bool {
        !self.base.is_empty()
    }

    /// How long the oldest base video has waited.
    #[must_use]
    pub fn video_wait(&self, now: Instant) -> Duration {
        self.base.front().map_or(Duration::ZERO, |q| now.saturating_duration_since(q.since))
    }

    /// A track of which this receiver needs a frame that depends on none later than the one named, if one is: what was sent of
    /// it last. To be drained after each [`Self::push`].
    pub fn poll_refresh_needed(&mut self) -> Option<(TrackId, Option<FrameId>)> {
        self.refreshes.pop_front()
    }

    /// Datagrams dropped so far.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Forgets a track that ended.
    pub fn forget(&mut self, track: TrackId) {
        self.tracks.remove(&track);
        self.drop_queued(track, None);
    }

    fn push_audio(&mut self, now: Instant, queued: Queued) {
        self.audio_bytes += queued.bytes();
        self.audio.push_back(queued);
        let late = self.audio.partition_point(|q| now.saturating_duration_since(q.since) > MAX_AUDIO_WAIT);
        for n in 1.. {
            if n > late && self.audio_bytes <= MAX_AUDIO_BYTES {
                break;
            }
            let Some(oldest) = self.audio.pop_front() else { break };
            self.audio_bytes -= oldest.bytes();
            self.dropped += 1;
        }
    }

    fn push_higher(&mut self, now: Instant, queued: Queued) {
        if self.tracks.get(&queued.header.track).is_some_and(|t| t.broken.is_some()) {
            self.dropped += 1;
            return;
        }
        self.video_bytes += queued.bytes();
        self.higher.push_back(queued);
        // Frames go whole: of one that is being sent the rest goes too.
        while let Some(first) = self.higher.front().filter(|q| {
            let late = now.saturating_duration_since(q.since) > MAX_HIGHER_WAIT;
            late || self.video_bytes > MAX_VIDEO_BYTES
        }) {
            let (track, frame) = (first.header.track, first.header.frame);
            self.drop_where(|q| q.header.discardable && (q.header.track, q.header.frame) == (track, frame));
        }
    }

    fn push_base(&mut self, now: Instant, queued: Queued) {
        let (track, header) = (queued.header.track, queued.header);
        let state = self.tracks.entry(track).or_default();
        if let Some(last_dropped) = state.broken {
            let needs_none = match header.dependency {
                Dependency::None => true,
                Dependency::Back(back) => {
                    let reference = header.frame.minus(u32::from(back));
                    state.sent.is_some_and(|sent| !reference.is_after(sent))
                }
            };
            if !(needs_none && header.frame.is_after(last_dropped)) {
                self.dropped += 1;
                if state.asked.as_ref().is_none_or(|a| now >= a.at + REFRESH_RETRY) {
                    self.ask(now, track);
                }
                return;
            }
            state.broken = None;
        }
        self.video_bytes += queued.bytes();
        self.base.push_back(queued);
        if self.video_wait(now) > MAX_VIDEO_WAIT || self.video_bytes > MAX_VIDEO_BYTES {
            self.break_largest(now);
        }
    }

    fn break_largest(&mut self, now: Instant) {
        let mut tracks: BTreeMap<TrackId, Load> = BTreeMap::new();
        for q in self.base.iter().chain(&self.higher) {
            let (frame, bytes) = (q.header.frame, q.bytes());
            let load = tracks
                .entry(q.header.track)
                .or_insert_with(|| Load { key: q.header.is_key().then_some(frame), ..Load::default() });
            load.bytes += bytes;
            if load.key != Some(frame) {
                load.behind_key += bytes;
            }
        }
        let heaviest = |load: fn(&Load) -> usize| {
            let (track, l) = tracks.iter().max_by_key(|(_, l)| load(l)).filter(|(_, l)| load(l) > 0)?;
            Some((*track, l.key))
        };
        if let Some((track, key)) = heaviest(|l| l.behind_key) {
            self.break_track(now, track, key);
        } else if self.video_bytes > MAX_VIDEO_BYTES
            && let Some((track, _)) = heaviest(|l| l.bytes)
        {
            self.break_track(now, track, None);
        }
    }

    /// Drops what is queued of a track, but for one frame, and what comes of it until a frame that needs none of that.
    fn break_track(&mut self, now: Instant, track: TrackId, keep: Option<FrameId>) {
        let dropped = |q: &&Queued| q.header.track == track && Some(q.header.frame) != keep;
        let Some(last_dropped) = self.base.iter().rfind(dropped).map(|q| q.header.frame) else {
            return self.drop_queued(track, keep);
        };
        self.drop_queued(track, keep);
        self.tracks.entry(track).or_default().broken = Some(last_dropped);
        self.ask(now, track);
    }

    /// Asks for a refresh, unless nothing has reached the receiver since the last time.
    fn ask(&mut self, now: Instant, track: TrackId) {
        let state = self.tracks.entry(track).or_default();
        if state.asked.as_ref().is_none_or(|a| a.pops != self.pops) {
            state.asked = Some(Asked { at: now, pops: self.pops });
            // A key frame that waits will have been sent by then.
            let key = self.base.iter().rfind(|q| q.header.track == track && q.header.is_key());
            self.refreshes.push_back((track, key.map(|q| q.header.frame).or(state.sent)));
        }
    }

    /// Drops what is queued of a track, but for one frame.
    fn drop_queued(&mut self, track: TrackId, keep: Option<FrameId>) {
        self.drop_where(|q| q.header.track == track && Some(q.header.frame) != keep);
    }

    fn drop_where(&mut self, dropped: impl Fn(&Queued) -> bool) {
        let before = self.base.len() + self.higher.len();
        self.base.retain(|q| !dropped(q));
        self.higher.retain(|q| !dropped(q));
        self.dropped += (before - self.base.len() - self.higher.len()) as u64;
        self.video_bytes = self.base.iter().chain(&self.higher).map(Queued::bytes).sum();
    }
}

/// Video that waited longer is of no use in a conversation, and what comes after it would be late too.
pub const MAX_VIDEO_WAIT: Duration = Duration::from_millis(150);

/// Every second picture may go when it would be two pictures late: the others keep coming.
pub const MAX_HIGHER_WAIT: Duration = Duration::from_millis(66);

/// Room for the largest key frame and what follows it while it is being sent.
pub const MAX_VIDEO_BYTES: usize = 400 * 1024;

/// What a datagram takes in memory besides its bytes, so that a queue of tiny ones stays small too: header, handle and time in
/// a queue that may be half empty, and a buffer of its own with a count of its holders.
const OVERHEAD: usize = 208;

/// A receiver that is too slow must not make the publisher send key frames to everybody all the time.
pub const REFRESH_RETRY: Duration = Duration::from_secs(1);

/// Later audio would come after its time in any playout buffer.
pub const MAX_AUDIO_WAIT: Duration = Duration::from_millis(200);

/// Eight people speaking at once for [`MAX_AUDIO_WAIT`], each of 160 pieces with 100 bytes and what it takes besides.
pub const MAX_AUDIO_BYTES: usize = 56 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packetize::Packetizer;
    use crate::units::MediaTime;
    use crate::wire::datagram::Media;

    fn frame(p: &mut Packetizer, key: bool, size: usize) -> Vec<Media> {
        let parts = p.packetize(&vec![1; size], key, MediaTime::default()).expect("fits");
        parts.into_iter().map(|d| Media::parse(d.freeze()).expect("valid")).collect()
    }

    fn push(e: &mut Egress, now: Instant, media: &[Media]) {
        media.iter().for_each(|m| e.push(now, m.header, m.body.clone()));
    }

    fn pop(e: &mut Egress) -> Option<Queued> {
        e.pop_audio().or_else(|| e.pop_base()).or_else(|| e.pop_higher())
    }

    fn sent(e: &mut Egress) -> Vec<Queued> {
        std::iter::from_fn(|| pop(e)).collect()
    }

    fn asked(e: &mut Egress) -> Vec<TrackId> {
        std::iter::from_fn(|| e.poll_refresh_needed()).map(|(track, _)| track).collect()
    }

    #[test]
    fn audio_goes_first() {
        let (mut e, now) = (Egress::default(), Instant::now());
        let mut video = Packetizer::new(MediaKind::Video, TrackId(1));
        let mut audio = Packetizer::new(MediaKind::Audio, TrackId(2));
        push(&mut e, now, &frame(&mut video, true, 2000));
        push(&mut e, now, &frame(&mut audio, true, 80));
        let out = sent(&mut e);
        assert_eq!(out.iter().map(|m| m.header.track.0).collect::<Vec<_>>(), [2, 1, 1]);
    }

    #[test]
    fn a_receiver_that_stalls_gets_whole_frames_or_nothing_and_then_a_key_frame() {
        let (mut e, start) = (Egress::default(), Instant::now());
        let mut video = Packetizer::new(MediaKind::Video, TrackId(1));
        push(&mut e, start, &frame(&mut video, true, 5000));
        for i in 1..=10 {
            push(&mut e, start + i * Duration::from_millis(33), &frame(&mut video, false, 2500));
        }
        assert_eq!(asked(&mut e), [TrackId(1)]);
        assert!(sent(&mut e).iter().all(|m| m.header.is_key()), "the rest depends on what was dropped");
        let later = start + Duration::from_secs(2);
        push(&mut e, later, &frame(&mut video, false, 2500));
        assert!(e.is_empty());
        assert_eq!(asked(&mut e), [TrackId(1)], "it asks again as long as it is broken");
        push(&mut e, later, &frame(&mut video, true, 5000));
        push(&mut e, later, &frame(&mut video, false, 2500));
        let out = sent(&mut e);
        assert_eq!(out.len(), 5 + 3);
        assert!(out[0].header.is_key());
        assert_eq!(asked(&mut e), []);
    }

    #[test]
    fn a_link_too_narrow_for_a_key_frame_still_gets_one() {
        let (mut e, start) = (Egress::default(), Instant::now());
        let mut video = Packetizer::new(MediaKind::Video, TrackId(1));
        let (mut keys, mut asked_for) = (0, true);
        for i in 0..100_u32 {
            let now = start + i * Duration::from_millis(33);
            push(&mut e, now, &frame(&mut video, std::mem::take(&mut asked_for), 30_000));
            let passes = pop(&mut e).expect("something waits");
            keys += usize::from(passes.header.is_key() && passes.header.index + 1 == passes.header.count);
            asked_for |= !asked(&mut e).is_empty();
        }
        assert!(keys >= 2, "{keys} whole key frames");
    }

    #[test]
    fn the_heaviest_track_gives_way_and_the_others_do_not_notice() {
        let (mut e, now) = (Egress::default(), Instant::now());
        let mut small = Packetizer::new(MediaKind::Video, TrackId(1));
        let mut big = Packetizer::new(MediaKind::Video, TrackId(2));
        push(&mut e, now, &frame(&mut small, true, 3000));
        (0..5).for_each(|i| push(&mut e, now, &frame(&mut big, i == 0, 100_000)));
        assert_eq!(asked(&mut e), [TrackId(2)]);
        let out = sent(&mut e);
        assert_eq!(out.iter().filter(|m| m.header.track == TrackId(1)).count(), 3);
        assert!(out.iter().all(|m| m.header.is_key()));
    }

    #[test]
    fn a_key_frame_sent_over_and_over_does_not_fill_the_memory() {
        let (mut e, start) = (Egress::default(), Instant::now());
        let key = frame(&mut Packetizer::new(MediaKind::Video, TrackId(1)), true, 1);
        for i in 0..20_000_u32 {
            push(&mut e, start + i * Duration::from_millis(1), &key);
        }
        assert!(e.base.len() <= MAX_VIDEO_BYTES / OVERHEAD, "{} datagrams wait", e.base.len());
    }

    #[test]
    fn a_key_frame_on_its_way_does_not_shelter_other_tracks() {
        let (mut e, start) = (Egress::default(), Instant::now());
        let mut big = Packetizer::new(MediaKind::Video, TrackId(1));
        let mut small = Packetizer::new(MediaKind::Video, TrackId(2));
        push(&mut e, start, &frame(&mut big, true, 100_000));
        for i in 0..30_u32 {
            let now = start + i * Duration::from_millis(33);
            push(&mut e, now, &frame(&mut small, i == 0, 2500));
        }
        let of_small = |m: &Queued| m.header.track == TrackId(2) && !m.header.is_key();
        assert!(sent(&mut e).iter().filter(|m| of_small(m)).count() <= 3 * 5, "older pictures are late");
    }

    #[test]
    fn a_receiver_that_hears_nothing_costs_the_others_one_key_frame() {
        let (mut e, start) = (Egress::default(), Instant::now());
        let mut video = Packetizer::new(MediaKind::Video, TrackId(1));
        let mut wanted = 0;
        for i in 0..150_u32 {
            let key = i == 0 || !asked(&mut e).is_empty();
            wanted += u32::from(key);
            push(&mut e, start + i * Duration::from_millis(33), &frame(&mut video, key, 2500));
        }
        assert_eq!(wanted, 2, "the first, and one when it fell behind");
        let later = start + Duration::from_secs(6);
        sent(&mut e);
        push(&mut e, later, &frame(&mut video, false, 2500));
        assert_eq!(asked(&mut e), [TrackId(1)], "it is there again");
    }

    #[test]
    fn old_audio_gives_way_to_new() {
        let (mut e, start) = (Egress::default(), Instant::now());
        let mut audio = Packetizer::new(MediaKind::Audio, TrackId(2));
        (0..100_u32)
            .for_each(|i| push(&mut e, start + i * Duration::from_millis(10), &frame(&mut audio, true, 80)));
        let out = sent(&mut e);
        assert_eq!(out.first().map(|m| m.header.frame), Some(FrameId(79)));
        assert_eq!(out.len(), 21);
        assert_eq!(e.dropped(), 79);
    }
}
