//! The datagrams of one hop: media as they are, and what repairs them. The layout is specified in [`super`].

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::datagram::{DatagramError, HOP_LEN, KIND_AUDIO, KIND_VIDEO, Media, MediaHeader, MediaKind};
use super::limits::MAX_DATAGRAM;

/// A datagram that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A fragment of a video frame or an audio frame, for the first time.
    Media(Media),
    /// A body that was lost under another number of this hop.
    Again {
        /// Its number then.
        lost: u16,
        /// The same as then.
        media: Media,
    },
    /// A row of parity over bodies.
    Parity(Parity),
    /// Several audio frames: the newest, and copies of those before.
    Bundle(Vec<Media>),
    /// Nothing: it was sent to learn whether it passes.
    Padding,
    /// What has arrived of the other direction. Has no number of its own.
    Report(Report),
}

/// One row of an erasure code over up to [`PARITY_SPAN`] datagrams that were sent close to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parity {
    /// Number of the first datagram that it may cover.
    pub first: u16,
    /// Bit n: the datagram numbered `first + n` is covered.
    pub covered: u16,
    /// Which row of the code, less than [`MAX_PARITY_ROWS`].
    pub row: u8,
    /// The row's combination of the covered bodies, each preceded by its length in two bytes and filled up with zeros.
    pub data: Bytes,
}

/// What a receiver has of the datagrams up to the highest number it has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The highest number that has arrived.
    pub highest: u16,
    /// How long ago that was, in microseconds; kept to [`TICK_US`] and at most 16 s.
    pub held_us: u32,
    /// When it arrived, in ticks of [`TICK_US`] of the receiver's clock. Wraps.
    pub arrived: u32,
    /// From the highest number downwards: what became of each. At most [`MAX_REPORTED`]; the first one has arrived.
    pub fates: Vec<Fate>,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has not come.
    Missing,
    /// It has not come, but what it carried is known from parity.
    Restored,
    /// It arrived so many ticks before the one reported just above it (after it, when negative).
    Arrived(i32),
}

impl Packet {
    /// Checks a datagram that came from the network, and tells its number on this hop (without meaning for a report).
    ///
    /// # Errors
    /// It is none. [`DatagramError::UnknownKind`] is to be ignored but for its number, which counts.
    pub fn parse(datagram: Bytes) -> Result<(u16, Self), DatagramError> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(DatagramError::Long(datagram.len()));
        }
        let [n0, n1, kind, ..] = *datagram else { return Err(DatagramError::Short(datagram.len())) };
        let number = u16::from_be_bytes([n0, n1]);
        let mut rest = datagram.slice(HEAD..);
        let packet = match kind {
            KIND_REPORT => Self::Report(Report::parse(&mut rest)?),
            KIND_AGAIN => {
                let lost = take_u16(&mut rest)?;
                Self::Again { lost, media: Media::from_body(lost, rest)? }
            }
            KIND_PARITY => Self::Parity(Parity::parse(rest)?),
            KIND_BUNDLE => Self::Bundle(bundle(number, rest)?),
            KIND_PADDING => Self::Padding,
            KIND_VIDEO | KIND_AUDIO => Self::Media(Media::parse(datagram)?),
            other => return Err(DatagramError::UnknownKind(other)),
        };
        Ok((number, packet))
    }
}

/// A datagram with one body, as it is sent the first time: the one copy that forwarding makes, because QUIC wants each
/// datagram in one piece.
#[must_use]
pub fn media(number: u16, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HOP_LEN + body.len());
    out.put_u16(number);
    out.put_slice(body);
    out.freeze()
}

/// A datagram with a body that was lost.
#[must_use]
pub fn again(number: u16, lost: u16, body: &[u8]) -> Bytes {
    let mut out = head(number, KIND_AGAIN, 2 + body.len());
    out.put_u16(lost);
    out.put_slice(body);
    out.freeze()
}

/// A datagram with several audio frames. The caller keeps to [`MAX_DATAGRAM`]; see [`bundled_len`].
#[must_use]
pub fn bundled(number: u16, bodies: &[Bytes]) -> Bytes {
    let mut out = head(number, KIND_BUNDLE, bodies.iter().map(bundled_len).sum());
    for body in bodies {
        out.put_u16(body.len() as u16);
        out.put_slice(body);
    }
    out.freeze()
}

/// What a body takes in a bundle.
#[must_use]
pub const fn bundled_len(body: &Bytes) -> usize {
    2 + body.len()
}

/// A datagram without content, of `len` bytes in all.
#[must_use]
pub fn padding(number: u16, len: usize) -> Bytes {
    let len = len.clamp(HEAD, MAX_DATAGRAM);
    let mut out = head(number, KIND_PADDING, len - HEAD);
    out.resize(len, 0);
    out.freeze()
}

impl Parity {
    /// The datagram.
    #[must_use]
    pub fn encode(&self, number: u16) -> Bytes {
        let mut out = head(number, KIND_PARITY, PARITY_HEAD + self.data.len());
        out.put_u16(self.first);
        out.put_u16(self.covered);
        out.put_u8(self.row);
        out.put_slice(&self.data);
        out.freeze()
    }

    fn parse(mut rest: Bytes) -> Result<Self, DatagramError> {
        if rest.len() <= PARITY_HEAD + 2 {
            return Err(DatagramError::Bad("parity: too short"));
        }
        let parity = Self { first: rest.get_u16(), covered: rest.get_u16(), row: rest.get_u8(), data: rest };
        if parity.covered == 0 || usize::from(parity.row) >= MAX_PARITY_ROWS {
            return Err(DatagramError::Bad("parity: row"));
        }
        Ok(parity)
    }
}

impl Report {
    /// The datagram.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let count = self.fates.len().min(MAX_REPORTED);
        let mut out = head(0, KIND_REPORT, REPORT_HEAD + count / 4 + 1 + 2 * count);
        out.put_u16(self.highest);
        out.put_u16(u16::try_from(self.held_us / TICK_US).unwrap_or(u16::MAX));
        out.put_u32(self.arrived);
        out.put_u8(count as u8);
        for four in self.fates[..count].chunks(4) {
            let bits = |(at, fate): (usize, &Fate)| {
                let code = match fate {
                    Fate::Missing => 0,
                    Fate::Restored => 1,
                    Fate::Arrived(_) => 2,
                };
                code << (2 * at)
            };
            out.put_u8(four.iter().enumerate().map(bits).sum());
        }
        // The first one's time stands above.
        for fate in self.fates[..count].iter().skip(1) {
            if let Fate::Arrived(earlier) = fate {
                put_varint(&mut out, zigzag(*earlier));
            }
        }
        out.freeze()
    }

    fn parse(rest: &mut Bytes) -> Result<Self, DatagramError> {
        let bad = DatagramError::Bad("report");
        if rest.len() < REPORT_HEAD {
            return Err(bad);
        }
        let (highest, held) = (rest.get_u16(), rest.get_u16());
        let (arrived, count) = (rest.get_u32(), usize::from(rest.get_u8()));
        let states = count.div_ceil(4);
        if count == 0 || rest.len() < states {
            return Err(bad);
        }
        let states = rest.split_to(states);
        let mut fates = Vec::with_capacity(count);
        for at in 0..count {
            fates.push(match states[at / 4] >> (2 * (at % 4)) & 3 {
                0 => Fate::Missing,
                1 => Fate::Restored,
                2 if at == 0 => Fate::Arrived(0),
                2 => Fate::Arrived(unzigzag(take_varint(rest).ok_or(bad)?)),
                _ => return Err(bad),
            });
        }
        if !matches!(fates[0], Fate::Arrived(_)) || !rest.is_empty() {
            return Err(bad);
        }
        Ok(Self { highest, held_us: u32::from(held) * TICK_US, arrived, fates })
    }
}

/// The audio frames of a bundle.
fn bundle(number: u16, mut rest: Bytes) -> Result<Vec<Media>, DatagramError> {
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let len = usize::from(take_u16(&mut rest)?);
        if len > rest.len() {
            return Err(DatagramError::Bad("bundle: length"));
        }
        let media = Media::from_body(number, rest.split_to(len))?;
        if media.header.kind != MediaKind::Audio {
            return Err(DatagramError::Bad("bundle: kind"));
        }
        frames.push(media);
    }
    if frames.is_empty() || frames.len() > MAX_BUNDLE {
        Err(DatagramError::Bad("bundle: number of frames"))
    } else {
        Ok(frames)
    }
}

fn head(number: u16, kind: u8, rest: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(HEAD + rest);
    out.put_u16(number);
    out.put_u8(kind);
    out
}

fn take_u16(rest: &mut Bytes) -> Result<u16, DatagramError> {
    if rest.len() < 2 { Err(DatagramError::Short(rest.len())) } else { Ok(rest.get_u16()) }
}

/// Maps small numbers of either sign to small ones without (as protobuf does).
const fn zigzag(n: i32) -> u32 {
    (n << 1 ^ n >> 31).cast_unsigned()
}

const fn unzigzag(n: u32) -> i32 {
    (n >> 1).cast_signed() ^ -((n & 1).cast_signed())
}

/// Seven bits a byte, lowest first, the top bit set but in the last.
fn put_varint(out: &mut BytesMut, mut n: u32) {
    while n >= 0x80 {
        out.put_u8((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}

fn take_varint(rest: &mut Bytes) -> Option<u32> {
    let mut n: u32 = 0;
    for shift in (0..32).step_by(7) {
        let byte = rest.first().copied()?;
        rest.advance(1);
        let part = u32::from(byte & 0x7f);
        if part.leading_zeros() < shift {
            return None;
        }
        n |= part << shift;
        if byte < 0x80 {
            // One encoding for each number.
            return (byte != 0 || shift == 0).then_some(n);
        }
    }
    None
}

/// Datagrams that one row of parity can cover: the width of its mask.
pub const PARITY_SPAN: u16 = 16;
/// Rows over one group: more than one for each datagram of the smallest groups brings nothing.
pub const MAX_PARITY_ROWS: usize = 16;
/// Numbers in one report: what its count holds. More than a second of a call.
pub const MAX_REPORTED: usize = 255;
/// Resolution of arrival times in microseconds: finer than a network's jitter, and the steps between packets of a call
/// mostly fit one byte.
pub const TICK_US: u32 = 250;
/// Largest body: a row of parity over it fits a datagram too.
pub const MAX_BODY: usize = MAX_DATAGRAM - HEAD - PARITY_HEAD - 2;
/// Largest body of sound: Opus at 40 kb/s takes 50 bytes for its 10 ms, deep redundancy twice that.
pub const MAX_AUDIO_BODY: usize = 512;
/// Most audio frames in one bundle: those of several speakers and their copies. Each costs a relay as much as a datagram.
pub const MAX_BUNDLE: usize = 16;
/// Bytes besides the datagram that each costs on the wire: IPv4 and UDP (28), QUIC's short header, the frame's type and
/// length, and the tag (1 + 8 + 2 + 3 + 16).
pub const WIRE_OVERHEAD: usize = 58;

const _: () = assert!(MediaHeader::LEN + MediaHeader::MAX_PAYLOAD <= MAX_BODY);

/// Hop prefix and kind.
const HEAD: usize = HOP_LEN + 1;
/// First, mask and row.
const PARITY_HEAD: usize = 5;
/// Highest, hold, arrival and count.
const REPORT_HEAD: usize = 9;
const KIND_REPORT: u8 = 3;
const KIND_AGAIN: u8 = 4;
const KIND_PARITY: u8 = 5;
const KIND_BUNDLE: u8 = 6;
const KIND_PADDING: u8 = 7;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::TrackId;
    use crate::packetize::Packetizer;
    use crate::units::MediaTime;

    fn body(kind: MediaKind) -> Bytes {
        let mut parts = Packetizer::new(kind, TrackId(3))
            .packetize(&[7; 40], true, MediaTime::from_micros(9))
            .expect("fits");
        parts.remove(0).freeze().slice(HOP_LEN..)
    }

    fn parsed(datagram: Bytes) -> (u16, Packet) {
        Packet::parse(datagram).expect("valid")
    }

    #[test]
    fn every_kind_comes_back_as_it_was_sent() {
        let (video, audio) = (body(MediaKind::Video), body(MediaKind::Audio));
        let (number, packet) = parsed(media(9, &video));
        assert!(number == 9 && matches!(packet, Packet::Media(m) if m.hop == 9 && m.body == video));
        let (number, packet) = parsed(again(10, 4, &video));
        assert!(number == 10 && matches!(packet, Packet::Again { lost: 4, media } if media.body == video));
        let parity =
            Parity { first: 65_535, covered: 0b101, row: 1, data: Bytes::from_static(&[1, 2, 3, 4]) };
        assert_eq!(parsed(parity.encode(11)), (11, Packet::Parity(parity)));
        let (_, packet) = parsed(bundled(12, &[audio.clone(), audio.clone()]));
        assert!(matches!(packet, Packet::Bundle(frames) if frames.len() == 2 && frames[1].body == audio));
        assert_eq!(parsed(padding(13, 700)), (13, Packet::Padding));
        assert_eq!(padding(13, 700).len(), 700);
    }

    #[test]
    fn the_bytes_of_a_report_are_as_specified() {
        let report = Report {
            highest: 0x0102,
            held_us: 3 * TICK_US,
            arrived: 0x0506_0708,
            fates: vec![
                Fate::Arrived(0),
                Fate::Missing,
                Fate::Restored,
                Fate::Arrived(-1),
                Fate::Arrived(100),
            ],
        };
        let bytes = report.encode();
        let expected = [0, 0, 3, 1, 2, 0, 3, 5, 6, 7, 8, 5, 0b1001_0010, 0b10, 1, 0xc8, 1];
        assert_eq!(bytes[..], expected);
        assert_eq!(parsed(bytes), (0, Packet::Report(report)));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let audio = body(MediaKind::Audio);
        let good = Report { highest: 1, held_us: 0, arrived: 2, fates: vec![Fate::Arrived(0); 3] }.encode();
        for (at, byte) in [(11, 0), (11, 200), (12, 0b11), (12, 0b00)] {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            assert!(Packet::parse(bytes.into()).is_err(), "byte {at} as {byte}");
        }
        assert!(Packet::parse(bundled(1, &[body(MediaKind::Video)])).is_err(), "video in a bundle");
        assert!(Packet::parse(bundled(1, &[])).is_err(), "an empty bundle");
        let cut = bundled(1, &[audio]);
        assert!(Packet::parse(cut.slice(..cut.len() - 1)).is_err(), "a bundle cut short");
        let parity = Parity { first: 1, covered: 0, row: 0, data: Bytes::from_static(&[1, 2, 3]) };
        assert!(Packet::parse(parity.encode(1)).is_err(), "parity of nothing");
        assert!(Packet::parse(Bytes::from_static(&[0, 1])).is_err());
        assert_eq!(
            Packet::parse(Bytes::from_static(&[0, 1, 99, 1, 1, 1])),
            Err(DatagramError::UnknownKind(99))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_value_or_an_error(kind in 0_u8..9, rest: Vec<u8>) {
            let bytes: Vec<u8> = [0, 0, kind].into_iter().chain(rest).collect();
            if let Ok((_, Packet::Report(report))) = Packet::parse(bytes.clone().into()) {
                let again = Packet::parse(report.encode()).expect("valid");
                prop_assert_eq!(again, (0, Packet::Report(report)));
            }
        }

        #[test]
        fn numbers_survive_the_zigzag(n: i32) {
            let mut out = BytesMut::new();
            put_varint(&mut out, zigzag(n));
            prop_assert_eq!(take_varint(&mut out.freeze()).map(unzigzag), Some(n));
        }
    }
}
