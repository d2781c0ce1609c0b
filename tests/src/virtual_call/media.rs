//! Encoded pictures that tell on a decoder.

use std::time::Duration;

use crate::netem::Random;

/// An encoder of pictures that say which they are and which one they depend on.
#[derive(Debug)]
pub(super) struct Encoder {
    next: u32,
    random: Random,
}

/// What a decoder can tell of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) number: u32,
    /// The picture it was made from; none for a key frame.
    pub(super) reference: Option<u32>,
}

/// What a decoder remembers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Decoder {
    last: Option<u32>,
}

impl Encoder {
    pub(super) const fn new(random: Random) -> Self {
        Self { next: 0, random }
    }

    pub(super) fn encode(&mut self, key: bool) -> (Vec<u8>, bool) {
        let key = key || self.next == 0;
        let number = self.next;
        self.next += 1;
        let mean = if key { KEY_BYTES } else { DELTA_BYTES };
        // Between half and one and a half of the mean.
        let spread = self.random.below(Duration::from_nanos(mean as u64)).as_nanos();
        let size = (mean / 2 + usize::try_from(spread).unwrap_or(0)).max(HEAD);
        let mut data = Vec::with_capacity(size);
        data.extend(number.to_be_bytes());
        data.push(u8::from(key));
        data.extend((size as u32).to_be_bytes());
        data.extend((HEAD..size).map(|at| filler(number, at)));
        (data, key)
    }
}

impl Decoder {
    /// Takes a frame as a real decoder would, but panics where that would show garbage.
    pub(super) fn decode(&mut self, data: &[u8], context: &str) -> Picture {
        let picture = Picture::read(data).unwrap_or_else(|| panic!("a frame is damaged: {context}"));
        let Picture { number, reference } = picture;
        if let Some(reference) = reference {
            assert!(
                self.last == Some(reference),
                "picture {number} needs {reference} after {:?}: {context}",
                self.last
            );
        }
        self.last = Some(number);
        picture
    }
}

impl Picture {
    fn read(data: &[u8]) -> Option<Self> {
        let (head, rest) = data.split_first_chunk::<HEAD>()?;
        let [n0, n1, n2, n3, key, s0, s1, s2, s3] = *head;
        let number = u32::from_be_bytes([n0, n1, n2, n3]);
        let whole = u32::from_be_bytes([s0, s1, s2, s3]) as usize == data.len();
        let intact = rest.iter().enumerate().all(|(i, byte)| *byte == filler(number, HEAD + i));
        (whole && intact).then_some(Self { number, reference: (key == 0).then(|| number.wrapping_sub(1)) })
    }
}

/// A byte that is wrong at any other place and in most other pictures.
const fn filler(number: u32, at: usize) -> u8 {
    (number.wrapping_mul(151) as usize ^ at.wrapping_mul(31) ^ (at >> 8)) as u8
}

/// Number, key flag, size.
const HEAD: usize = 9;
/// Mean sizes of pictures of 640x360 at about 500 kb/s: a key frame is some six times as large as another.
const KEY_BYTES: usize = 12_000;
const DELTA_BYTES: usize = 2_000;
