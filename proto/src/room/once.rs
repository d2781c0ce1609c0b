//! Frames of sound that come several times, forwarded once.

use crate::id::FrameId;

/// Which frames of one track have come. Remembers the newest [`WINDOW`] numbers; what is older counts as seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    newest: Option<FrameId>,
    /// Bit n: the frame n before the newest has come.
    frames: u128,
}

impl Seen {
    /// Whether this frame comes for the first time.
    pub(crate) fn is_new(&mut self, frame: FrameId) -> bool {
        let newest = *self.newest.get_or_insert(frame);
        let ahead = frame.since(newest);
        if ahead > 0 {
            self.frames = self.frames.checked_shl(ahead.unsigned_abs()).unwrap_or(0);
            self.newest = Some(frame);
        }
        let back = if ahead > 0 { 0 } else { ahead.unsigned_abs() };
        if back >= WINDOW {
            return false;
        }
        let bit = 1 << back;
        let new = self.frames & bit == 0;
        self.frames |= bit;
        new
    }
}

/// 1.28 s of sound: more than anybody waits for a frame.
const WINDOW: u32 = u128::BITS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_frame_is_new_once_in_whatever_order_across_the_wrap() {
        let mut seen = Seen::default();
        let start = FrameId(u32::MAX - 3);
        for n in [0, 2, 1, 5, 3, 9, 4] {
            assert!(seen.is_new(start.plus(n)), "{n}");
        }
        for n in [0, 1, 2, 3, 4, 5, 9] {
            assert!(!seen.is_new(start.plus(n)), "{n}");
        }
        assert!(seen.is_new(start.plus(6)));
    }

    #[test]
    fn what_is_older_than_the_window_is_not_new() {
        let mut seen = Seen::default();
        assert!(seen.is_new(FrameId(1000)));
        assert!(seen.is_new(FrameId(1001 - WINDOW)));
        assert!(!seen.is_new(FrameId(1000 - WINDOW)));
        assert!(seen.is_new(FrameId(1000 + WINDOW)));
        assert!(!seen.is_new(FrameId(1000)), "just out of it");
        assert!(seen.is_new(FrameId(1001)));
        assert!(seen.is_new(FrameId(1_000_000)));
        assert!(!seen.is_new(FrameId(1_000_000)));
    }
}
