//! Which frames the other end of a hop can decode, from what it has acknowledged.

use std::collections::{BTreeMap, VecDeque};

use crate::id::{FrameId, TrackId};
use crate::wire::datagram::{Dependency, MediaHeader};
use crate::wire::limits::MAX_FRAGMENTS;

/// The base frames sent of each track of late, and what is known to have arrived of them.
///
/// Bounds: [`MAX_FRAMES`] of each track, [`MAX_TRACKS`] tracks; the oldest give way.
#[derive(Debug, Default)]
pub(super) struct Chains(BTreeMap<TrackId, VecDeque<Base>>);

/// A frame that others depend on.
#[derive(Debug)]
struct Base {
    frame: FrameId,
    dependency: Dependency,
    missing: u16,
    /// Bit n: fragment n has arrived.
    arrived: [u64; MAX_FRAGMENTS as usize / 64],
    /// Every fragment of it and of all that it depends on has arrived.
    decodable: bool,
}

impl Chains {
    /// A fragment of a base frame is sent.
    pub(super) fn sent(&mut self, header: &MediaHeader) {
        if !self.0.contains_key(&header.track) && self.0.len() >= MAX_TRACKS {
            self.0.pop_first();
        }
        let frames = self.0.entry(header.track).or_default();
        if frames.iter().rev().any(|b| b.frame == header.frame) {
            return;
        }
        frames.push_back(Base {
            frame: header.frame,
            dependency: header.dependency,
            missing: header.count,
            arrived: [0; MAX_FRAGMENTS as usize / 64],
            decodable: false,
        });
        if frames.len() > MAX_FRAMES {
            frames.pop_front();
        }
    }

    /// A fragment has arrived.
    pub(super) fn arrived(&mut self, header: &MediaHeader) {
        let Some(frames) = self.0.get_mut(&header.track) else { return };
        let Some(base) = frames.iter_mut().rev().find(|b| b.frame == header.frame) else { return };
        let (word, bit) = (usize::from(header.index / 64), 1 << (header.index % 64));
        if base.arrived[word] & bit == 0 {
            base.arrived[word] |= bit;
            base.missing = base.missing.saturating_sub(1);
            if base.missing == 0 {
                complete(frames);
            }
        }
    }

    /// The newest frame of a track that can be decoded.
    pub(super) fn decodable(&self, track: TrackId) -> Option<FrameId> {
        self.0.get(&track)?.iter().rev().find(|b| b.decodable).map(|b| b.frame)
    }

    /// The newest frame of a track that was sent.
    pub(super) fn newest(&self, track: TrackId) -> Option<FrameId> {
        Some(self.0.get(&track)?.back()?.frame)
    }

    /// Whether nothing that comes after needs this frame any more: a later one depends on an earlier one, or on none.
    pub(super) fn is_obsolete(&self, header: &MediaHeader) -> bool {
        let Some(frames) = self.0.get(&header.track) else { return true };
        frames.iter().rev().take_while(|b| b.frame.is_after(header.frame)).any(|b| match b.dependency {
            Dependency::None => true,
            Dependency::Back(back) => header.frame.is_after(b.frame.minus(u32::from(back))),
        })
    }

    pub(super) fn forget(&mut self, track: TrackId) {
        self.0.remove(&track);
    }
}

/// Marks what has become decodable.
fn complete(frames: &mut VecDeque<Base>) {
    for at in 0..frames.len() {
        let base = &frames[at];
        if base.decodable || base.missing > 0 {
            continue;
        }
        let decodable = match base.dependency {
            Dependency::None => true,
            Dependency::Back(back) => {
                let reference = base.frame.minus(u32::from(back));
                frames.iter().any(|b| b.frame == reference && b.decodable)
            }
        };
        frames[at].decodable = decodable;
    }
}

/// Four seconds of the base of a track.
const MAX_FRAMES: usize = 64;
/// A room of people with a camera of two sizes each; beyond, only repairs of the lowest-numbered suffer.
const MAX_TRACKS: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MediaTime;
    use crate::wire::datagram::MediaKind;

    fn header(frame: u32, back: u16, index: u16, count: u16) -> MediaHeader {
        let dependency = if back == 0 { Dependency::None } else { Dependency::Back(back) };
        MediaHeader {
            kind: MediaKind::Video,
            track: TrackId(1),
            frame: FrameId(frame),
            index,
            count,
            dependency,
            discardable: false,
            temporal: 0,
            spatial: 0,
            captured: MediaTime::default(),
        }
    }

    #[test]
    fn a_frame_is_decodable_when_all_of_it_and_of_its_references_is_there() {
        let mut chains = Chains::default();
        let sent = [header(0, 0, 0, 1), header(2, 2, 0, 2), header(2, 2, 1, 2), header(4, 2, 0, 1)];
        sent.iter().for_each(|h| chains.sent(h));
        assert_eq!(chains.decodable(TrackId(1)), None);
        chains.arrived(&sent[0]);
        chains.arrived(&sent[3]);
        chains.arrived(&sent[1]);
        chains.arrived(&sent[1]);
        assert_eq!(chains.decodable(TrackId(1)), Some(FrameId(0)));
        chains.arrived(&sent[2]);
        assert_eq!(chains.decodable(TrackId(1)), Some(FrameId(4)), "the last piece completes both");
    }

    #[test]
    fn frames_that_a_later_one_skips_are_obsolete() {
        let mut chains = Chains::default();
        let sent = [header(0, 0, 0, 1), header(2, 2, 0, 1), header(4, 2, 0, 1), header(6, 6, 0, 1)];
        sent.iter().for_each(|h| chains.sent(h));
        assert!(!chains.is_obsolete(&sent[0]) && !chains.is_obsolete(&sent[3]));
        assert!(chains.is_obsolete(&sent[1]) && chains.is_obsolete(&sent[2]));
        chains.sent(&header(8, 0, 0, 1));
        assert!(chains.is_obsolete(&sent[3]), "a key frame ends all before it");
    }
}
