//! Audio frames that were sent of late, for copies of them in later datagrams.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::egress::Queued;
use crate::id::{FrameId, TrackId};
use crate::wire::hop::bundled_len;

/// Which audio frame.
pub(super) type Key = (TrackId, FrameId);

/// The audio frames of the last moments. Bounds: [`MAX_FRAMES`]; the oldest give way.
#[derive(Debug, Default)]
pub(super) struct Sound {
    frames: VecDeque<Frame>,
}

#[derive(Debug)]
struct Frame {
    key: Key,
    body: Bytes,
    first: Instant,
    /// The last datagram that carries it.
    last_in: u64,
    arrived: bool,
    /// It was lost and should go once more.
    wanted: bool,
}

impl Sound {
    /// Adds frames to a datagram: what was lost, and those of the tracks in `fresh` that lie `offsets` before them, as far as
    /// they are not known to have arrived and `room` bytes allow. The newest of them come first.
    pub(super) fn copies(
        &mut self,
        now: Instant,
        fresh: &[Queued],
        offsets: &[u32],
        mut room: usize,
    ) -> Vec<(Key, Bytes)> {
        let mut copies = Vec::new();
        let before = |key: Key| {
            fresh.iter().any(|q| {
                let behind = q.header.frame.since(key.1);
                q.header.track == key.0 && offsets.iter().any(|o| i64::from(*o) == i64::from(behind))
            })
        };
        for frame in self.frames.iter_mut().rev().filter(|f| !f.arrived) {
            let young = now.saturating_duration_since(frame.first) < MAX_AGE;
            if young && (frame.wanted || before(frame.key)) && bundled_len(&frame.body) <= room {
                room -= bundled_len(&frame.body);
                frame.wanted = false;
                copies.push((frame.key, frame.body.clone()));
            }
        }
        copies
    }

    /// The frames of a datagram with this number are sent; new ones are `fresh`.
    pub(super) fn sent(&mut self, number: u64, keys: &[Key], fresh: &[Queued]) {
        for frame in &mut self.frames {
            if keys.contains(&frame.key) {
                frame.last_in = number;
            }
        }
        for q in fresh {
            let key = (q.header.track, q.header.frame);
            let body = q.body.clone();
            self.frames.push_back(Frame {
                key,
                body,
                first: q.since,
                last_in: number,
                arrived: false,
                wanted: false,
            });
        }
        self.frames.drain(..self.frames.len().saturating_sub(MAX_FRAMES));
    }

    pub(super) fn arrived(&mut self, keys: &[Key]) {
        self.frames.iter_mut().filter(|f| keys.contains(&f.key)).for_each(|f| f.arrived = true);
    }

    /// A datagram was lost: what it carried and no later one does is wanted again.
    pub(super) fn lost(&mut self, number: u64, keys: &[Key]) {
        let lost = |f: &&mut Frame| keys.contains(&f.key) && !f.arrived && f.last_in == number;
        self.frames.iter_mut().filter(lost).for_each(|f| f.wanted = true);
    }

    /// Whether something was lost that is still worth sending.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        let young = |f: &Frame| now.saturating_duration_since(f.first) < MAX_AGE;
        self.frames.iter().any(|f| f.wanted && !f.arrived && young(f))
    }
}

/// Sound that is older is past its time in most jitter buffers.
const MAX_AGE: Duration = Duration::from_millis(200);
/// 200 ms of three people speaking at once.
const MAX_FRAMES: usize = 64;
