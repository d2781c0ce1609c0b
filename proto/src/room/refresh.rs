//! When to ask a publisher for a frame that those can decode who have lost others.

use std::time::{Duration, Instant};

use crate::id::FrameId;
use crate::wire::datagram::{Dependency, MediaHeader};

/// Turns the requests of any number of receivers into few requests to the publisher of a track.
///
/// A key frame costs as much as five to ten other frames, so one is asked for at most every [`KEY_INTERVAL`], and it answers
/// everybody who waits. A frame that refers to what was decoded costs little more than any other and is asked for at most
/// every [`REFRESH_INTERVAL`]; the request names the earliest frame of all requests, so that one answer fits all. A request that
/// comes too soon is kept and goes out when its time has come, unless a frame that began after it made it needless.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    pending: Option<Need>,
    asked_at: Option<Instant>,
    key_asked_at: Option<Instant>,
    /// A key frame was asked for and has not come.
    key_is_due: bool,
    /// The newest frame so far on which others may depend.
    newest: Option<FrameId>,
}

/// What a receiver needs to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A key frame.
    Key,
    /// A frame that depends on none later than this one.
    Since(FrameId),
}

impl Need {
    /// What the wire calls it.
    pub(crate) const fn decoded(self) -> Option<FrameId> {
        match self {
            Self::Key => None,
            Self::Since(decoded) => Some(decoded),
        }
    }

    /// What answers both.
    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Key, _) | (_, Self::Key) => Self::Key,
            (Self::Since(a), Self::Since(b)) => Self::Since(if a.is_after(b) { b } else { a }),
        }
    }
}

impl Requests {
    /// Somebody needs a frame that depends on none later than `decoded`, or a key frame. Returns what to ask the publisher for now.
    pub(crate) fn request(&mut self, now: Instant, decoded: Option<FrameId>) -> Option<Need> {
        let near = |d: &FrameId| self.newest.is_none_or(|n| d.since(n).unsigned_abs() <= MAX_BACK);
        let need = decoded.filter(near).map_or(Need::Key, Need::Since);
        self.pending = Some(self.pending.map_or(need, |pending| pending.and(need)));
        self.handle_timeout(now)
    }

    /// A datagram came from the publisher. `begins`: the first one of a new key frame.
    pub(crate) fn handle_media(&mut self, header: &MediaHeader, begins: bool) {
        if begins {
            (self.pending, self.key_is_due, self.newest) = (None, false, Some(header.frame));
            return;
        }
        // Of a frame that began before the request came, the receiver may have lost a part.
        if header.discardable || self.newest.is_some_and(|newest| !header.frame.is_after(newest)) {
            return;
        }
        self.newest = Some(header.frame);
        if let (Some(Need::Since(decoded)), Dependency::Back(back)) = (self.pending, header.dependency)
            && !header.frame.minus(back.into()).is_after(decoded)
        {
            self.pending = None;
        }
    }

    /// When to call [`Self::handle_timeout`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due(self.pending?)
    }

    /// What to ask the publisher for now.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<Need> {
        let need = self.pending?;
        if self.due(need).is_some_and(|t| now < t) {
            return None;
        }
        self.pending = None;
        self.asked_at = Some(now);
        if need == Need::Key {
            (self.key_asked_at, self.key_is_due) = (Some(now), true);
        }
        Some(need)
    }

    /// When it may be asked for; none for at once.
    fn due(&self, need: Need) -> Option<Instant> {
        match need {
            // A key frame on its way answers this too.
            Need::Since(_) if !self.key_is_due => Some(self.asked_at? + REFRESH_INTERVAL),
            Need::Since(_) | Need::Key => Some(self.key_asked_at? + KEY_INTERVAL),
        }
    }
}

/// Longer than a round trip plus a few frames on most links; short enough for somebody who joins.
const KEY_INTERVAL: Duration = Duration::from_millis(300);
/// About a round trip: sooner, the answer to the last request may still be on its way.
const REFRESH_INTERVAL: Duration = Duration::from_millis(100);
/// Four seconds of frames. No encoder keeps an older one to refer to, and one so far ahead was never sent: a key frame then.
const MAX_BACK: u32 = 120;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TrackId;
    use crate::units::MediaTime;
    use crate::wire::datagram::MediaKind;

    fn frame(frame: u32, back: u16, discardable: bool) -> MediaHeader {
        MediaHeader {
            kind: MediaKind::Video,
            track: TrackId(1),
            frame: FrameId(frame),
            index: 0,
            count: 3,
            dependency: if back == 0 { Dependency::None } else { Dependency::Back(back) },
            discardable,
            temporal: discardable.into(),
            spatial: 0,
            captured: MediaTime::default(),
        }
    }

    const fn since(frame: u32) -> Option<Need> {
        Some(Need::Since(FrameId(frame)))
    }

    #[test]
    fn many_requests_become_one_and_one_later() {
        let (mut r, start) = (Requests::default(), Instant::now());
        assert_eq!(r.request(start, None), Some(Need::Key));
        assert_eq!(r.poll_timeout(), None);
        let soon = start + Duration::from_millis(10);
        assert_eq!((r.request(soon, None), r.request(soon, None)), (None, None));
        let due = r.poll_timeout().expect("kept");
        assert_eq!(due, start + KEY_INTERVAL);
        assert_eq!(r.handle_timeout(due - Duration::from_millis(1)), None);
        assert_eq!(r.handle_timeout(due), Some(Need::Key));
        assert_eq!(r.poll_timeout(), None);
    }

    #[test]
    fn a_key_frame_answers_those_who_wait() {
        let (mut r, start) = (Requests::default(), Instant::now());
        r.request(start, None);
        r.request(start + Duration::from_millis(10), None);
        r.request(start + Duration::from_millis(10), Some(FrameId(3)));
        r.handle_media(&frame(9, 0, false), true);
        assert_eq!(r.poll_timeout(), None);
        assert_eq!(r.request(start + KEY_INTERVAL, None), Some(Need::Key));
    }

    #[test]
    fn the_earliest_frame_counts_and_a_key_frame_more_than_any() {
        let (mut r, start) = (Requests::default(), Instant::now());
        assert_eq!(r.request(start, Some(FrameId(2))), since(2));
        let soon = start + Duration::from_millis(10);
        for decoded in [7, u32::MAX, 4] {
            assert_eq!(r.request(soon, Some(FrameId(decoded))), None);
        }
        assert_eq!(r.poll_timeout(), Some(start + REFRESH_INTERVAL));
        assert_eq!(r.handle_timeout(start + REFRESH_INTERVAL), since(u32::MAX), "across the wrap");
        let later = start + REFRESH_INTERVAL + Duration::from_millis(10);
        assert_eq!(r.request(later, Some(FrameId(4))), None);
        assert_eq!(r.request(later, None), Some(Need::Key), "no key frame was asked for yet");
        assert_eq!(r.request(later, Some(FrameId(4))), None);
        assert_eq!(r.poll_timeout(), Some(later + KEY_INTERVAL), "the key frame will do");
    }

    #[test]
    fn a_frame_that_needs_nothing_later_answers_a_refresh() {
        let (mut r, start) = (Requests::default(), Instant::now());
        r.handle_media(&frame(0, 0, false), true);
        (1..=6).for_each(|n| r.handle_media(&frame(2 * n, 2, false), false));
        assert_eq!(r.request(start, Some(FrameId(8))), since(8));
        r.request(start, Some(FrameId(6)));
        let waits = |r: &Requests| r.poll_timeout().is_some();
        // A straggler of a frame that began before, a discardable frame, one that needs too much.
        for header in [frame(8, 2, false), frame(15, 9, true), frame(14, 2, false), frame(16, 9, false)] {
            r.handle_media(&header, false);
            assert!(waits(&r), "{header:?}");
        }
        r.handle_media(&frame(18, 12, false), false);
        assert!(!waits(&r));
    }

    #[test]
    fn a_frame_that_no_encoder_has_is_as_good_as_none() {
        for decoded in [1000 - MAX_BACK - 1, 1000 + MAX_BACK + 1] {
            let mut r = Requests::default();
            r.handle_media(&frame(1000, 0, false), true);
            assert_eq!(r.request(Instant::now(), Some(FrameId(decoded))), Some(Need::Key));
        }
    }
}
