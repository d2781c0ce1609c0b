//! Media datagrams: the header codec. The layout is specified in [`super`].

use bytes::{BufMut, Bytes, BytesMut};

use super::hop::{MAX_AUDIO_BODY, MAX_BODY};
use super::limits::{MAX_DATAGRAM, MAX_FRAGMENTS};
use crate::id::{FrameId, TrackId};
use crate::units::MediaTime;

/// What a track carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MediaKind {
    /// AV1 temporal units.
    Video,
    /// Opus packets of 10 ms.
    Audio,
}

/// Everything about a fragment of a frame that a relay or a receiver needs besides its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaHeader {
    /// What the track carries.
    pub kind: MediaKind,
    /// The track, as the relay numbered it.
    pub track: TrackId,
    /// The frame that this is a fragment of.
    pub frame: FrameId,
    /// Which fragment, from 0.
    pub index: u16,
    /// Of how many, 1 to [`MAX_FRAGMENTS`]; audio always 1.
    pub count: u16,
    /// What the frame needs to be decoded.
    pub dependency: Dependency,
    /// No other frame depends on this one.
    pub discardable: bool,
    /// Temporal layer, 0 to 7.
    pub temporal: u8,
    /// Spatial layer, 0 to 3.
    pub spatial: u8,
    /// When the frame was captured, on its sender's media clock.
    pub captured: MediaTime,
}

/// What must have been decoded before a frame can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependency {
    /// Nothing: a video key frame, or audio.
    None,
    /// The frame so many steps back (at least 1), and all that one depends on.
    Back(u16),
}

/// A media datagram that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// Number of the datagram on the hop it came over.
    pub hop: u16,
    /// Its header.
    pub header: MediaHeader,
    /// The bytes after the hop prefix: header and payload, as a relay forwards them.
    pub body: Bytes,
}

/// Why bytes are no media datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// Shorter than a header and one byte of payload.
    #[error("datagram of {0} bytes is too short")]
    Short(usize),
    /// Longer than [`MAX_DATAGRAM`].
    #[error("datagram of {0} bytes is too long")]
    Long(usize),
    /// A kind that this version does not know. To be ignored: later versions may send more kinds.
    #[error("datagram of unknown kind {0}")]
    UnknownKind(u8),
    /// Fields that contradict each other or this specification.
    #[error("datagram with a bad {0}")]
    Bad(&'static str),
}

impl MediaHeader {
    /// Bytes of an encoded header, without the hop prefix.
    pub const LEN: usize = 20;

    /// Largest payload of one fragment.
    pub const MAX_PAYLOAD: usize = MAX_DATAGRAM - HOP_LEN - Self::LEN - REPAIR_LEN;

    /// Whether the frame can be decoded without any other.
    #[must_use]
    pub const fn is_key(&self) -> bool {
        matches!(self.dependency, Dependency::None)
    }

    /// A whole datagram with a hop prefix of zero, to be numbered by [`HopCounter::number`].
    #[must_use]
    pub fn datagram(&self, payload: &[u8]) -> BytesMut {
        let mut out = BytesMut::with_capacity(HOP_LEN + Self::LEN + payload.len());
        out.put_u16(0);
        out.put_u8(match self.kind {
            MediaKind::Video => KIND_VIDEO,
            MediaKind::Audio => KIND_AUDIO,
        });
        out.put_u16(self.track.0);
        out.put_u32(self.frame.0);
        out.put_u16(self.index);
        out.put_u16(self.count);
        let key = u8::from(self.is_key() && self.kind == MediaKind::Video);
        let layers = (self.temporal & 7) << 2 | (self.spatial & 3) << 5;
        out.put_u8(key | u8::from(self.discardable) << 1 | layers);
        out.put_u16(match self.dependency {
            Dependency::None => 0,
            Dependency::Back(n) => n,
        });
        out.put_uint(self.captured.as_micros(), 6);
        out.put_slice(payload);
        out
    }

    fn parse(body: &[u8]) -> Result<Self, DatagramError> {
        let Some((head, payload)) = body.split_first_chunk::<{ Self::LEN }>() else {
            return Err(DatagramError::Short(body.len() + HOP_LEN));
        };
        let [kind, t0, t1, f0, f1, f2, f3, i0, i1, c0, c1, flags, d0, d1, m0, m1, m2, m3, m4, m5] = *head;
        let kind = match kind {
            KIND_VIDEO => MediaKind::Video,
            KIND_AUDIO => MediaKind::Audio,
            other => return Err(DatagramError::UnknownKind(other)),
        };
        if payload.is_empty() {
            return Err(DatagramError::Bad("payload: empty"));
        }
        let (index, count) = (u16::from_be_bytes([i0, i1]), u16::from_be_bytes([c0, c1]));
        if index >= count || count > MAX_FRAGMENTS || (kind == MediaKind::Audio && count != 1) {
            return Err(DatagramError::Bad("fragment number"));
        }
        let (key, back) = (flags & 1 != 0, u16::from_be_bytes([d0, d1]));
        let dependency = match (kind, key, back) {
            (MediaKind::Video, true, 0) | (MediaKind::Audio, false, 0) => Dependency::None,
            (MediaKind::Video, false, 1..) => Dependency::Back(back),
            _ => return Err(DatagramError::Bad("dependency")),
        };
        if flags & 0x80 != 0 {
            return Err(DatagramError::Bad("reserved flag"));
        }
        Ok(Self {
            kind,
            track: TrackId(u16::from_be_bytes([t0, t1])),
            frame: FrameId(u32::from_be_bytes([f0, f1, f2, f3])),
            index,
            count,
            dependency,
            discardable: flags & 2 != 0,
            temporal: flags >> 2 & 7,
            spatial: flags >> 5 & 3,
            captured: MediaTime::from_micros(u64::from_be_bytes([0, 0, m0, m1, m2, m3, m4, m5])),
        })
    }
}

impl Media {
    /// Checks a datagram that came from the network.
    pub fn parse(datagram: Bytes) -> Result<Self, DatagramError> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(DatagramError::Long(datagram.len()));
        }
        let Some(hop) = datagram.first_chunk::<HOP_LEN>() else {
            return Err(DatagramError::Short(datagram.len()));
        };
        Self::from_body(u16::from_be_bytes(*hop), datagram.slice(HOP_LEN..))
    }

    /// Checks the part of a datagram after its hop prefix.
    pub fn from_body(hop: u16, body: Bytes) -> Result<Self, DatagramError> {
        let header = MediaHeader::parse(&body)?;
        let most = if header.kind == MediaKind::Audio { MAX_AUDIO_BODY } else { MAX_BODY };
        if body.len() > most {
            return Err(DatagramError::Long(HOP_LEN + body.len()));
        }
        Ok(Self { hop, header, body })
    }

    /// The part of the frame that this fragment carries.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.body.slice(MediaHeader::LEN..)
    }
}

/// Numbers the media datagrams that leave over one hop.
#[derive(Clone, Copy, Debug, Default)]
pub struct HopCounter {
    next: u16,
}

impl HopCounter {
    /// Numbers a datagram made by [`MediaHeader::datagram`].
    #[must_use]
    pub fn number(&mut self, mut datagram: BytesMut) -> Bytes {
        if let Some(prefix) = datagram.first_chunk_mut::<HOP_LEN>() {
            *prefix = self.advance().to_be_bytes();
        }
        datagram.freeze()
    }

    /// A datagram for this hop with the body of one that came over another: the one copy that forwarding makes,
    /// because QUIC wants each datagram in one piece.
    #[must_use]
    pub fn forward(&mut self, body: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(HOP_LEN + body.len());
        out.put_u16(self.advance());
        out.put_slice(body);
        out.freeze()
    }

    fn advance(&mut self) -> u16 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        number
    }
}

/// Bytes of the hop prefix.
pub const HOP_LEN: usize = 2;
/// What a repair takes more than what it repairs ([`super::hop`]), so that it fits a datagram too.
const REPAIR_LEN: usize = 8;
pub(super) const KIND_VIDEO: u8 = 1;
pub(super) const KIND_AUDIO: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> MediaHeader {
        MediaHeader {
            kind: MediaKind::Video,
            track: TrackId(0x0102),
            frame: FrameId(0x0304_0506),
            index: 7,
            count: 0x0100,
            dependency: Dependency::Back(0x0908),
            discardable: true,
            temporal: 5,
            spatial: 2,
            captured: MediaTime::from_micros(0x0a0b_0c0d_0e0f),
        }
    }

    #[test]
    fn the_bytes_are_as_specified() {
        let mut hop = HopCounter { next: 0xfffe };
        let datagram = hop.number(header().datagram(b"xy"));
        #[rustfmt::skip]
        let expected = [
            0xff, 0xfe,             // hop sequence
            1,                      // kind
            1, 2,                   // track
            3, 4, 5, 6,             // frame
            0, 7, 1, 0,             // fragment index, count
            0b0101_0110,            // spatial 2, temporal 5, discardable, not key
            9, 8,                   // depends on the frame 0x0908 back
            10, 11, 12, 13, 14, 15, // capture time
            b'x', b'y',
        ];
        assert_eq!(datagram[..], expected);
        let media = Media::parse(datagram).expect("valid");
        assert_eq!((media.hop, media.header, &media.payload()[..]), (0xfffe, header(), &b"xy"[..]));
    }

    #[test]
    fn audio_and_key_frames_depend_on_nothing() {
        let audio = MediaHeader {
            kind: MediaKind::Audio,
            index: 0,
            count: 1,
            dependency: Dependency::None,
            ..header()
        };
        let key = MediaHeader { dependency: Dependency::None, ..header() };
        for h in [audio, key] {
            assert_eq!(Media::parse(h.datagram(&[1]).freeze()).expect("valid").header, h);
        }
    }

    #[test]
    fn what_the_specification_does_not_allow_is_refused() {
        let good = header().datagram(&[1]);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Media::parse(bytes.freeze()).expect_err("must be refused")
        };
        assert_eq!(with(2, 3), DatagramError::UnknownKind(3));
        assert_eq!(with(11, 2), DatagramError::Bad("fragment number"), "more than the largest count");
        assert_eq!(with(9, 1), DatagramError::Bad("fragment number"), "index not below the count");
        assert_eq!(with(2, KIND_AUDIO), DatagramError::Bad("fragment number"), "audio in fragments");
        assert_eq!(with(13, 1), DatagramError::Bad("dependency"), "a key frame that depends on another");
        assert_eq!(with(13, 0x80), DatagramError::Bad("reserved flag"));
        assert_eq!(
            Media::parse(good.clone().freeze().slice(..22)),
            Err(DatagramError::Bad("payload: empty"))
        );
        assert_eq!(Media::parse(Bytes::from_static(&[0; 21])), Err(DatagramError::Short(21)));
        assert_eq!(Media::parse(Bytes::new()), Err(DatagramError::Short(0)));
        assert_eq!(Media::parse(vec![0; 1101].into()), Err(DatagramError::Long(1101)));
    }

    #[test]
    fn forwarding_changes_nothing_but_the_hop_prefix() {
        let original = HopCounter { next: 9 }.number(header().datagram(&[1, 2, 3]));
        let media = Media::parse(original.clone()).expect("valid");
        let forwarded = HopCounter { next: 500 }.forward(&media.body);
        assert_eq!(forwarded[2..], original[2..]);
        assert_eq!(Media::parse(forwarded).expect("valid").hop, 500);
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_value_or_an_error(bytes: Vec<u8>) {
            if let Ok(media) = Media::parse(bytes.clone().into()) {
                let again = media.header.datagram(&media.payload());
                prop_assert_eq!(&again[2..], &bytes[2..], "what parses has one encoding");
            }
        }
    }
}
