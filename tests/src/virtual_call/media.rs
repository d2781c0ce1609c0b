//! Encoded pictures that tell on a decoder.

use std::collections::VecDeque;

use vchat_proto::id::FrameId;
use vchat_proto::packetize::FrameInfo;
use vchat_proto::units::{Bitrate, MediaTime};
use vchat_proto::wire::datagram::Dependency;

use super::tracks::FRAME_INTERVAL;
use crate::netem::Random;

/// An encoder of pictures that say which they are and which one they depend on, in two temporal layers: every second one
/// is of use to no other.
#[derive(Debug)]
pub(super) struct Encoder {
    next: u32,
    /// Base pictures that it could still refer to, the newest last.
    kept: VecDeque<u32>,
    random: Random,
}

/// What a decoder can tell of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) number: u32,
    /// The picture it was made from; none for a key frame.
    pub(super) reference: Option<u32>,
    base: bool,
}

/// What a decoder remembers.
#[derive(Clone, Debug, Default)]
pub(super) struct Decoder {
    kept: VecDeque<u32>,
}

impl Encoder {
    pub(super) const fn new(random: Random) -> Self {
        Self { next: 0, kept: VecDeque::new(), random }
    }

    /// Encodes the next picture at a bitrate. `wanted`: it must depend on none later than the one named, or on none at all.
    pub(super) fn encode(&mut self, wanted: Option<Option<FrameId>>, rate: Bitrate) -> (Vec<u8>, FrameInfo) {
        let number = self.next;
        self.next += 1;
        let base = number.is_multiple_of(2) || wanted.is_some() || self.kept.is_empty();
        let reference = match wanted {
            Some(None) => None,
            Some(Some(decoded)) => self.kept.iter().copied().rfind(|n| *n <= decoded.0),
            None => self.kept.back().copied(),
        };
        if reference.is_none() {
            self.kept.clear();
        }
        if base {
            keep(&mut self.kept, number);
        }
        let mean = rate.bytes_in(FRAME_INTERVAL).max(MIN_BYTES) as f64;
        let mean = mean
            * if reference.is_none() {
                KEY
            } else if base {
                BASE
            } else {
                HIGHER
            };
        // Between 0.8 and 1.2 of the mean.
        let size = ((mean * (0.8 + 0.4 * self.random.unit())) as usize).max(HEAD);
        let mut data = Vec::with_capacity(size);
        data.extend(number.to_be_bytes());
        data.extend(reference.unwrap_or(u32::MAX).to_be_bytes());
        data.push(u8::from(base));
        data.extend((size as u32).to_be_bytes());
        data.extend((HEAD..size).map(|at| filler(number, at)));
        let dependency = reference.map_or(Dependency::None, |r| Dependency::Back((number - r) as u16));
        let captured = MediaTime::default();
        let (temporal, discardable) = (u8::from(!base), !base);
        (data, FrameInfo { number: FrameId(number), dependency, temporal, discardable, captured })
    }
}

impl Decoder {
    /// Takes a frame as a real decoder would, but panics where that would show garbage.
    pub(super) fn decode(&mut self, data: &[u8], context: &str) -> Picture {
        let picture = Picture::read(data).unwrap_or_else(|| panic!("a frame is damaged: {context}"));
        let Picture { number, reference, base } = picture;
        match reference {
            Some(reference) => assert!(
                self.kept.contains(&reference),
                "picture {number} needs {reference} of {:?}: {context}",
                self.kept
            ),
            None => self.kept.clear(),
        }
        if base {
            keep(&mut self.kept, number);
        }
        picture
    }
}

/// A codec has so many places for pictures; the encoder says which one goes, here always the oldest.
fn keep(kept: &mut VecDeque<u32>, number: u32) {
    kept.push_back(number);
    if kept.len() > PLACES {
        kept.pop_front();
    }
}

impl Picture {
    fn read(data: &[u8]) -> Option<Self> {
        let (head, rest) = data.split_first_chunk::<HEAD>()?;
        let [n0, n1, n2, n3, r0, r1, r2, r3, base, s0, s1, s2, s3] = *head;
        let number = u32::from_be_bytes([n0, n1, n2, n3]);
        let reference = Some(u32::from_be_bytes([r0, r1, r2, r3])).filter(|r| *r != u32::MAX);
        let whole = u32::from_be_bytes([s0, s1, s2, s3]) as usize == data.len();
        let intact = rest.iter().enumerate().all(|(i, byte)| *byte == filler(number, HEAD + i));
        (whole && intact).then_some(Self { number, reference, base: base != 0 })
    }
}

/// A byte that is wrong at any other place and in most other pictures.
const fn filler(number: u32, at: usize) -> u8 {
    (number.wrapping_mul(151) as usize ^ at.wrapping_mul(31) ^ (at >> 8)) as u8
}

/// Number, reference, layer, size.
const HEAD: usize = 13;
/// Places for base pictures.
const PLACES: usize = 7;
/// Sizes against the mean: a key frame is some six times as large as another, and the base larger than the rest.
const KEY: f64 = 6.0;
const BASE: f64 = 1.2;
const HIGHER: f64 = 0.8;
/// Pictures do not get smaller.
const MIN_BYTES: u64 = 150;
