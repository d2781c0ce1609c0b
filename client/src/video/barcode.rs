//! A stamp in the pixels that a machine can read after encoding, loss and scaling: frame number and capture time.
//!
//! Delays are measured from pixels that were really shown, so the stamp travels in the picture itself, in a strip of
//! black and white cells along its bottom edge:
//!
//! ```text
//! 40 cells across, 3 down, each 1/40 of the width and 1/22.5 of the height (16x16 pixels at 640x360)
//! 120 bits, row by row, most significant first:  magic 8 | frame 32 | captured 48 | CRC-32 of frame and captured
//! ```
//!
//! Cells are read at their middle and against the threshold between the darkest and the brightest one, so neither
//! ringing at the edges nor a change of range or contrast matters. A wrong read passes magic and CRC once in 2^40.

use vchat_proto::units::MediaTime;

use crate::picture::Picture;

/// What is stamped on a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The source's number of the picture.
    pub frame: u32,
    /// When it was taken.
    pub captured: MediaTime,
}

/// Paints `stamp` over the bottom of `picture`. Below about 160x90 pixels it will not survive encoding.
pub fn paint(picture: &mut Picture, stamp: Stamp) {
    let (width, height) = (picture.width(), picture.height());
    let (chroma_width, chroma_height) = (picture.chroma_width(), picture.chroma_height());
    let bits = stamp.bits();
    let [y, u, v] = picture.planes_mut();
    for (row, bits) in bits.chunks_exact(COLUMNS).enumerate() {
        let mut line = vec![BLACK; width];
        for (column, &bit) in bits.iter().enumerate() {
            let (left, right) = (column * width / COLUMNS, (column + 1) * width / COLUMNS);
            line[left..right].fill(if bit { WHITE } else { BLACK });
        }
        for row in y.chunks_exact_mut(width).take(edge(row + 1, height)).skip(edge(row, height)) {
            row.copy_from_slice(&line);
        }
    }
    let top = edge(0, chroma_height) * chroma_width;
    u[top..].fill(128);
    v[top..].fill(128);
}

/// Reads the stamp of a whole picture, scaled or not.
#[must_use]
pub fn read(picture: &Picture) -> Option<Stamp> {
    read_luma(&picture.planes()[0], picture.width(), picture.width(), picture.height())
}

/// Reads the stamp from brightness alone, such as a grey screenshot cut to the picture: `height` rows of `width` bytes,
/// `stride` bytes apart. Any range of brightness will do.
#[must_use]
pub fn read_luma(luma: &[u8], stride: usize, width: usize, height: usize) -> Option<Stamp> {
    if width < COLUMNS || height * 2 < DOWN_HALVES || stride < width {
        return None;
    }
    if luma.len() < stride * (height - 1) + width {
        return None;
    }
    let mut means = [0; CELLS];
    for (i, mean) in means.iter_mut().enumerate() {
        let (row, column) = (i / COLUMNS, i % COLUMNS);
        let rows = middle(edge(row, height), edge(row + 1, height));
        let columns = middle(column * width / COLUMNS, (column + 1) * width / COLUMNS);
        *mean = mean_of(luma, stride, rows, columns)?;
    }
    let (darkest, brightest) = (*means.iter().min()?, *means.iter().max()?);
    if brightest - darkest < MIN_CONTRAST {
        return None;
    }
    let threshold = u16::midpoint(darkest, brightest);
    Stamp::from_bits(means.map(|mean| mean > threshold))
}

impl Stamp {
    fn bits(self) -> [bool; CELLS] {
        let mut bytes = [0; CELLS / 8];
        bytes[0] = MAGIC;
        bytes[1..5].copy_from_slice(&self.frame.to_be_bytes());
        bytes[5..11].copy_from_slice(&self.captured.as_micros().to_be_bytes()[2..]);
        let check = crc32(&bytes[1..11]);
        bytes[11..].copy_from_slice(&check.to_be_bytes());
        std::array::from_fn(|i| bytes[i / 8] >> (7 - i % 8) & 1 == 1)
    }

    fn from_bits(bits: [bool; CELLS]) -> Option<Self> {
        let number = |from: usize, to: usize| bits[from..to].iter().fold(0, |n, &b| n << 1 | u64::from(b));
        let stamp = Self {
            frame: u32::try_from(number(8, 40)).ok()?,
            captured: MediaTime::from_micros(number(40, 88)),
        };
        // Painting it again checks magic and CRC at once.
        (stamp.bits() == bits).then_some(stamp)
    }
}

/// The upper edge of the strip's row `row`, or for `row` 3 the lower edge of the strip, in pixels.
fn edge(row: usize, height: usize) -> usize {
    height - (ROWS - row) * 2 * height / DOWN_HALVES
}

/// The middle half of a cell; at least one pixel.
fn middle(from: usize, to: usize) -> std::ops::Range<usize> {
    let quarter = (to - from) / 4;
    from + quarter..(to - quarter).max(from + quarter + 1)
}

fn mean_of(
    luma: &[u8],
    stride: usize,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
) -> Option<u16> {
    let (mut sum, mut count) = (0_u32, 0_u32);
    for row in rows {
        for &sample in luma.get(row * stride..)?.get(columns.clone())? {
            sum += u32::from(sample);
            count += 1;
        }
    }
    u16::try_from(sum.checked_div(count)?).ok()
}

/// CRC-32 as in Ethernet (ISO 3309), bit by bit: ten bytes a picture need no table.
fn crc32(bytes: &[u8]) -> u32 {
    let update = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(u32::MAX, update)
}

/// Cells across and down: the most that leaves each 16x16 pixels at 640x360, which AV1 keeps at any usable bitrate.
const COLUMNS: usize = 40;
const ROWS: usize = 3;
const CELLS: usize = COLUMNS * ROWS;
/// Twice the number of cell heights in a picture: 22.5 makes cells square at 16:9.
const DOWN_HALVES: usize = 45;
/// Alternating bits: a picture that is all dark or all bright there is no stamp.
const MAGIC: u8 = 0b1010_0101;
/// Less than a quarter of the range between cells is not a strip of black and white.
const MIN_CONTRAST: u16 = 60;
/// Limited range.
const BLACK: u8 = 16;
const WHITE: u8 = 235;

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(frame: u32, us: u64) -> Stamp {
        Stamp { frame, captured: MediaTime::from_micros(us) }
    }

    #[test]
    fn what_is_painted_can_be_read_at_every_size() {
        for (width, height) in [(40, 23), (160, 90), (320, 240), (641, 361), (1280, 720), (1920, 1080)] {
            for stamp in [stamp(0, 0), stamp(u32::MAX, (1 << 48) - 1), stamp(7, 123_456_789)] {
                let mut picture = Picture::black(width, height);
                paint(&mut picture, stamp);
                assert_eq!(read(&picture), Some(stamp), "{width}x{height}");
            }
        }
    }

    #[test]
    fn every_range_of_brightness_will_do() {
        let mut picture = Picture::black(640, 360);
        paint(&mut picture, stamp(42, 4_200_000));
        for (low, high) in [(0_u8, 255_u8), (16, 235), (90, 170)] {
            let mut luma = vec![200; 700 * 360];
            for (to, from) in luma.chunks_exact_mut(700).zip(picture.planes()[0].chunks_exact(640)) {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = if *from > 128 { high } else { low };
                }
            }
            assert_eq!(read_luma(&luma, 700, 640, 360), Some(stamp(42, 4_200_000)));
        }
    }

    #[test]
    fn a_wrong_cell_is_no_stamp() {
        let bits = stamp(1234, 5_678_901).bits();
        for i in 0..CELLS {
            let mut wrong = bits;
            wrong[i] = !wrong[i];
            assert_eq!(Stamp::from_bits(wrong), None, "cell {i}");
            for j in 0..i {
                wrong[j] = !wrong[j];
                assert_eq!(Stamp::from_bits(wrong), None, "cells {i} and {j}");
                wrong[j] = !wrong[j];
            }
        }
    }

    #[test]
    fn pictures_without_a_stamp_have_none() {
        assert_eq!(read(&Picture::black(640, 360)), None);
        assert_eq!(read(&Picture::black(1, 1)), None);
        assert_eq!(read_luma(&[], 640, 640, 360), None);
        assert_eq!(read_luma(&[255; 100], 10, 640, 360), None);
        let mut state = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(40 * 23 * 1000)
        .collect();
        assert!(noise.chunks_exact(40 * 23).all(|luma| read_luma(luma, 40, 40, 23).is_none()));
    }

    #[test]
    fn the_check_is_the_crc_of_ethernet() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }
}
