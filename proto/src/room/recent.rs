//! The latest group of pictures of a track, so that who joins sees a picture at once.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::id::FrameId;
use crate::wire::datagram::MediaHeader;

/// The datagrams of a video track since its latest key frame, while they are young and few.
///
/// Overflow: past [`MAX_AGE`] or its bytes it is given up until the next key frame; a burst of old pictures would
/// cost a joiner more than a fresh key frame.
#[derive(Debug)]
pub(crate) struct Recent {
    group: Option<Group>,
    max_bytes: usize,
}

#[derive(Debug)]
struct Group {
    key: FrameId,
    since: Instant,
    bytes: usize,
    datagrams: Vec<(MediaHeader, Bytes)>,
}

impl Recent {
    /// For one of so many video tracks of a participant, who has [`MAX_BYTES`] for all together.
    pub(crate) const fn one_of(tracks: usize) -> Self {
        let tracks = if tracks == 0 { 1 } else { tracks };
        Self { group: None, max_bytes: MAX_BYTES / tracks }
    }

    /// Takes a datagram of the track. True when it is the first one of a key frame.
    pub(crate) fn push(&mut self, now: Instant, header: &MediaHeader, body: &Bytes) -> bool {
        let newer = |g: &Group| header.frame.is_after(g.key);
        let begins = header.is_key() && self.group.as_ref().is_none_or(newer);
        if begins {
            self.group = Some(Group { key: header.frame, since: now, bytes: 0, datagrams: Vec::new() });
        }
        if let Some(group) = &mut self.group {
            group.bytes += body.len() + OVERHEAD;
            if group.bytes > self.max_bytes || now > group.since + MAX_AGE {
                // The key stays known, so that its stragglers do not begin a group of their own.
                group.datagrams = Vec::new();
            } else if header.frame.since(group.key) >= 0 {
                group.datagrams.push((*header, body.clone()));
            }
        }
        begins
    }

    /// What to send to somebody who joins; empty when a key frame must be asked for.
    pub(crate) fn replay(&self, now: Instant) -> &[(MediaHeader, Bytes)] {
        match &self.group {
            Some(group) if now <= group.since + MAX_AGE && group.bytes <= self.max_bytes => &group.datagrams,
            _ => &[],
        }
    }
}

/// Half a second of pictures takes a decoder some 15 ms.
const MAX_AGE: Duration = Duration::from_millis(500);

/// Half a second at 4 Mb/s, with the overhead; of all tracks of a participant.
const MAX_BYTES: usize = 300 * 1024;

/// What a datagram takes in memory besides its bytes, so that a group of tiny ones stays small too: header and handle in a
/// vector that may be half empty, and a buffer of its own with a count of its holders.
const OVERHEAD: usize = 208;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TrackId;
    use crate::packetize::Packetizer;
    use crate::units::MediaTime;
    use crate::wire::datagram::{Media, MediaKind};

    fn push(r: &mut Recent, p: &mut Packetizer, now: Instant, key: bool, size: usize) -> usize {
        let parts = p.packetize(&vec![1; size], key, MediaTime::default()).expect("fits");
        let media = parts.into_iter().map(|d| Media::parse(d.freeze()).expect("valid"));
        media.filter(|m| r.push(now, &m.header, &m.body)).count()
    }

    #[test]
    fn replays_from_the_newest_key_frame_while_it_is_young() {
        let (mut r, start) = (Recent::one_of(1), Instant::now());
        let mut p = Packetizer::new(MediaKind::Video, TrackId(1));
        assert_eq!(push(&mut r, &mut p, start, false, 100), 0);
        assert!(r.replay(start).is_empty());
        assert_eq!(push(&mut r, &mut p, start, true, 3000), 1, "one beginning for three datagrams");
        push(&mut r, &mut p, start, false, 100);
        assert_eq!(r.replay(start).len(), 4);
        push(&mut r, &mut p, start, true, 100);
        assert_eq!(r.replay(start).len(), 1);
        assert!(r.replay(start + MAX_AGE + Duration::from_millis(1)).is_empty());
        push(&mut r, &mut p, start + 2 * MAX_AGE, false, 100);
        assert!(r.replay(start + 2 * MAX_AGE).is_empty());
    }

    #[test]
    fn a_participant_with_several_tracks_has_less_for_each() {
        let (mut r, start) = (Recent::one_of(2), Instant::now());
        let mut p = Packetizer::new(MediaKind::Video, TrackId(1));
        push(&mut r, &mut p, start, true, 100_000);
        assert!(!r.replay(start).is_empty());
        push(&mut r, &mut p, start, true, 200_000);
        assert!(r.replay(start).is_empty());
    }

    #[test]
    fn a_group_of_crumbs_is_given_up() {
        let (mut r, start) = (Recent::one_of(1), Instant::now());
        let mut p = Packetizer::new(MediaKind::Video, TrackId(1));
        push(&mut r, &mut p, start, true, 100);
        for _ in 0..10_000 {
            push(&mut r, &mut p, start, false, 1);
        }
        assert!(r.group.as_ref().is_some_and(|g| g.datagrams.len() <= MAX_BYTES / OVERHEAD));
    }

    #[test]
    fn a_group_that_grows_too_large_is_given_up() {
        let (mut r, start) = (Recent::one_of(1), Instant::now());
        let mut p = Packetizer::new(MediaKind::Video, TrackId(1));
        push(&mut r, &mut p, start, true, 200_000);
        assert!(!r.replay(start).is_empty());
        push(&mut r, &mut p, start, false, 200_000);
        assert!(r.replay(start).is_empty());
        push(&mut r, &mut p, start, true, 100);
        assert_eq!(r.replay(start).len(), 1);
    }
}
