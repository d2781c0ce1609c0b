//! Frames to datagrams.

use std::time::Duration;

use bytes::BytesMut;

use crate::id::{FrameId, TrackId};
use crate::units::{Bitrate, MediaTime};
use crate::wire::datagram::{Dependency, MediaHeader, MediaKind};
use crate::wire::limits::MAX_FRAGMENTS;

/// Cuts the frames of one track into datagrams.
///
/// Either numbers the frames itself ([`Self::packetize`]: audio, and video of which each frame refers to the one before)
/// or takes what their encoder says of them ([`Self::packetize_frame`]).
#[derive(Clone, Debug)]
pub struct Packetizer {
    kind: MediaKind,
    track: TrackId,
    next: FrameId,
    /// The most payload of a fragment.
    max_payload: usize,
}

/// What an encoder says of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// Its number in its track.
    pub number: FrameId,
    /// What must have been decoded before.
    pub dependency: Dependency,
    /// Temporal layer, 0 to 7.
    pub temporal: u8,
    /// No other frame depends on it.
    pub discardable: bool,
    /// When it was captured.
    pub captured: MediaTime,
}

/// A frame is larger than [`MAX_FRAME`] or empty; it was not sent and took no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes cannot be sent; 1 to {MAX_FRAME} bytes can")]
pub struct FrameSizeError(pub usize);

impl Packetizer {
    /// For a track as the relay numbered it; frames count from 0.
    #[must_use]
    pub const fn new(kind: MediaKind, track: TrackId) -> Self {
        Self { kind, track, next: FrameId(0), max_payload: MediaHeader::MAX_PAYLOAD }
    }

    /// For a track that is sent at `rate`: cuts frames so that no fragment takes longer than [`FRAGMENT_TIME`] at that rate.
    ///
    /// On a narrow line sound waits for the fragment before it, and a relay sends none on before it has all of it; on a wide one
    /// neither is felt, and large fragments have fewer headers.
    pub fn set_rate(&mut self, rate: Bitrate) {
        let payload = usize::try_from(rate.bytes_in(FRAGMENT_TIME)).unwrap_or(usize::MAX);
        self.max_payload = payload.clamp(MIN_FRAGMENT, MediaHeader::MAX_PAYLOAD);
    }

    /// The track.
    #[must_use]
    pub const fn track(&self) -> TrackId {
        self.track
    }

    /// The number of the next frame.
    #[must_use]
    pub const fn next_frame(&self) -> FrameId {
        self.next
    }

    /// Cuts the next frame. `key`: it depends on no other; otherwise, for video, on the frame before it.
    pub fn packetize(
        &mut self,
        data: &[u8],
        key: bool,
        captured: MediaTime,
    ) -> Result<Vec<BytesMut>, FrameSizeError> {
        let dependency =
            if key || self.kind == MediaKind::Audio { Dependency::None } else { Dependency::Back(1) };
        let number = self.next;
        self.packetize_frame(
            &FrameInfo { number, dependency, temporal: 0, discardable: false, captured },
            data,
        )
    }

    /// Cuts one frame into fragments of nearly equal size: a short last one would be lost as easily as a long one and
    /// carry less. Frames numbered by [`Self::packetize`] go on after this one.
    pub fn packetize_frame(
        &mut self,
        frame: &FrameInfo,
        data: &[u8],
    ) -> Result<Vec<BytesMut>, FrameSizeError> {
        if data.is_empty()
            || data.len() > MAX_FRAME
            || (self.kind == MediaKind::Audio && data.len() > MediaHeader::MAX_PAYLOAD)
        {
            return Err(FrameSizeError(data.len()));
        }
        let count = data.len().div_ceil(self.max_payload);
        let count =
            if count > MAX_FRAGMENTS.into() { data.len().div_ceil(MediaHeader::MAX_PAYLOAD) } else { count };
        let header = |index: usize| MediaHeader {
            kind: self.kind,
            track: self.track,
            frame: frame.number,
            index: index as u16,
            count: count as u16,
            dependency: frame.dependency,
            discardable: frame.discardable,
            temporal: frame.temporal,
            spatial: 0,
            captured: frame.captured,
        };
        let cut = |i: usize| i * data.len() / count;
        let datagrams = (0..count).map(|i| header(i).datagram(&data[cut(i)..cut(i + 1)])).collect();
        self.next = frame.number.plus(1);
        Ok(datagrams)
    }
}

/// Largest frame in bytes.
pub const MAX_FRAME: usize = MAX_FRAGMENTS as usize * MediaHeader::MAX_PAYLOAD;
/// Less than the time between two packets of sound.
const FRAGMENT_TIME: Duration = Duration::from_millis(8);
/// With less, headers take a seventh of the line and more.
const MIN_FRAGMENT: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::datagram::Media;
    use crate::wire::limits::MAX_DATAGRAM;

    #[test]
    fn fragments_are_even_and_in_order() {
        let mut packetizer = Packetizer::new(MediaKind::Video, TrackId(3));
        let data: Vec<u8> = (0..3000_u32).map(|i| i as u8).collect();
        packetizer.packetize(&data, true, MediaTime::default()).expect("fits");
        let parts = packetizer.packetize(&data, false, MediaTime::from_micros(7)).expect("fits");
        let parts: Vec<Media> = parts.into_iter().map(|d| Media::parse(d.freeze()).expect("valid")).collect();
        assert_eq!(parts.iter().map(|m| m.header.index).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(parts.iter().all(|m| m.header.count == 3 && m.payload().len() == 1000));
        assert!(
            parts.iter().all(|m| m.header.frame == FrameId(1) && m.header.dependency == Dependency::Back(1))
        );
        assert_eq!(parts.iter().flat_map(|m| m.payload().to_vec()).collect::<Vec<_>>(), data);
    }

    #[test]
    fn what_the_encoder_says_is_in_every_fragment() {
        let mut packetizer = Packetizer::new(MediaKind::Video, TrackId(3));
        let frame = FrameInfo {
            number: FrameId(40),
            dependency: Dependency::Back(3),
            temporal: 1,
            discardable: true,
            captured: MediaTime::from_micros(7),
        };
        let parts = packetizer.packetize_frame(&frame, &[1; 3000]).expect("fits");
        for part in parts {
            let MediaHeader { frame: number, dependency, temporal, discardable, captured, .. } =
                Media::parse(part.freeze()).expect("valid").header;
            assert_eq!(FrameInfo { number, dependency, temporal, discardable, captured }, frame);
        }
        assert_eq!(packetizer.next_frame(), FrameId(41));
    }

    #[test]
    fn no_fragment_takes_long_on_a_narrow_line() {
        let mut packetizer = Packetizer::new(MediaKind::Video, TrackId(3));
        let mut lens = |kbps, len| {
            packetizer.set_rate(Bitrate::from_kbps(kbps));
            let parts = packetizer.packetize(&vec![1; len], true, MediaTime::default()).expect("fits");
            parts.into_iter().map(|d| Media::parse(d.freeze()).expect("valid").payload().len()).collect()
        };
        let (fine, narrow, wide): (Vec<_>, Vec<_>, Vec<_>) =
            (lens(500, 2000), lens(30, 1600), lens(5000, 2000));
        assert_eq!((fine, narrow, wide), (vec![500; 4], vec![400; 4], vec![1000; 2]));
        // What is too large for so many fragments is cut as on a wide line.
        assert_eq!(lens(30, MAX_FRAME).len(), 256);
    }

    #[test]
    fn the_largest_frame_fits_and_a_larger_one_is_refused() {
        let mut packetizer = Packetizer::new(MediaKind::Video, TrackId(3));
        let parts = packetizer.packetize(&vec![1; MAX_FRAME], true, MediaTime::default()).expect("fits");
        assert!(parts.len() == 256 && parts.iter().all(|d| d.len() == MAX_DATAGRAM - 8));
        for size in [0, MAX_FRAME + 1] {
            assert_eq!(
                packetizer.packetize(&vec![1; size], true, MediaTime::default()),
                Err(FrameSizeError(size))
            );
        }
        assert_eq!(packetizer.next_frame(), FrameId(1));
        let mut audio = Packetizer::new(MediaKind::Audio, TrackId(4));
        assert!(audio.packetize(&[1; 1079], true, MediaTime::default()).is_err(), "audio is one datagram");
    }
}
