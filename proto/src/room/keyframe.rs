//! When to ask a publisher for a key frame.

use std::time::{Duration, Instant};

/// Turns the requests of any number of receivers into few requests to the publisher of a track.
///
/// At most one request goes out every [`MIN_INTERVAL`]: a key frame costs as much as five to ten other frames, and
/// one answers everybody who waits. A request that comes too soon is kept and goes out when its time has come, unless a
/// key frame that began after it made it needless.
#[derive(Debug, Default)]
pub(crate) struct KeyFrameRequests {
    asked_at: Option<Instant>,
    wanted: bool,
}

impl KeyFrameRequests {
    /// Somebody needs a key frame. True: ask the publisher now.
    pub(crate) fn request(&mut self, now: Instant) -> bool {
        self.wanted = true;
        self.handle_timeout(now)
    }

    /// A key frame came from the publisher.
    pub(crate) const fn answered(&mut self) {
        self.wanted = false;
    }

    /// When to call [`Self::handle_timeout`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.wanted.then_some(self.asked_at? + MIN_INTERVAL)
    }

    /// True: ask the publisher now.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        let due = self.wanted && self.asked_at.is_none_or(|t| now >= t + MIN_INTERVAL);
        if due {
            self.asked_at = Some(now);
            self.wanted = false;
        }
        due
    }
}

/// Longer than a round trip plus a few frames on most links; short enough for somebody who joins.
pub(crate) const MIN_INTERVAL: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_requests_become_one_and_one_later() {
        let (mut k, start) = (KeyFrameRequests::default(), Instant::now());
        assert!(k.request(start));
        assert_eq!(k.poll_timeout(), None);
        let soon = start + Duration::from_millis(10);
        assert!(!k.request(soon) && !k.request(soon));
        let due = k.poll_timeout().expect("kept");
        assert_eq!(due, start + MIN_INTERVAL);
        assert!(!k.handle_timeout(due - Duration::from_millis(1)));
        assert!(k.handle_timeout(due));
        assert_eq!(k.poll_timeout(), None);
    }

    #[test]
    fn a_key_frame_answers_those_who_wait() {
        let (mut k, start) = (KeyFrameRequests::default(), Instant::now());
        assert!(k.request(start));
        assert!(!k.request(start + Duration::from_millis(10)));
        k.answered();
        assert_eq!(k.poll_timeout(), None);
        assert!(k.request(start + MIN_INTERVAL));
    }
}
