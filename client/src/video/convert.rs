//! What cameras deliver, made into pictures: YUYV, NV12 and motion JPEG.

use std::borrow::Cow;

use thiserror::Error;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::picture::{MAX_SIDE, Picture};

/// A picture from packed 4:2:2 (`Y0 U Y1 V`), `stride` bytes a row.
///
/// Two rows of chroma are averaged into one. An odd last column, which the format cannot hold, is dropped by the camera.
///
/// # Errors
/// The buffer is too short for the size.
pub fn yuyv(data: &[u8], stride: usize, width: usize, height: usize) -> Result<Picture, ConvertError> {
    let row = width.div_ceil(2) * 4;
    check_size(width, height)?;
    check_length(data, stride, row, height)?;
    // What follows the picture must not be taken for a row of it.
    let data = &data[..stride * (height - 1) + row];
    let mut picture = Picture::black(width, height);
    let chroma_width = picture.chroma_width();
    let [y, u, v] = picture.planes_mut();
    for (to, from) in y.chunks_exact_mut(width).zip(data.chunks(stride)) {
        for (to, from) in to.iter_mut().zip(from[..row].chunks_exact(2)) {
            *to = from[0];
        }
    }
    let rows = u.chunks_exact_mut(chroma_width).zip(v.chunks_exact_mut(chroma_width));
    for ((u, v), pair) in rows.zip(data.chunks(stride * 2)) {
        let above = &pair[..row];
        // The last row of an odd height stands alone.
        let below = pair.get(stride..stride + row).unwrap_or(above);
        let pixels = above.chunks_exact(4).zip(below.chunks_exact(4));
        for ((u, v), (above, below)) in u.iter_mut().zip(v).zip(pixels) {
            *u = average(above[1], below[1]);
            *v = average(above[3], below[3]);
        }
    }
    Ok(picture)
}

/// A picture from 4:2:0 with interleaved chroma: a plane of luma, then one of `U V` pairs, `stride` bytes a row in both.
///
/// # Errors
/// The buffer is too short for the size.
pub fn nv12(data: &[u8], stride: usize, width: usize, height: usize) -> Result<Picture, ConvertError> {
    check_size(width, height)?;
    let row = width.div_ceil(2) * 2;
    let rows = height + height.div_ceil(2);
    // The luma row of an odd width is one byte shorter than the chroma row; both fit the stride of a real driver.
    check_length(data, stride, row, rows)?;
    let mut picture = Picture::black(width, height);
    let chroma_width = picture.chroma_width();
    let [y, u, v] = picture.planes_mut();
    let (luma, chroma) = data.split_at(stride * height);
    for (to, from) in y.chunks_exact_mut(width).zip(luma.chunks(stride)) {
        to.copy_from_slice(&from[..width]);
    }
    let planes = u.chunks_exact_mut(chroma_width).zip(v.chunks_exact_mut(chroma_width));
    for ((u, v), from) in planes.zip(chroma.chunks(stride)) {
        for ((u, v), from) in u.iter_mut().zip(v).zip(from.chunks_exact(2)) {
            (*u, *v) = (from[0], from[1]);
        }
    }
    Ok(picture)
}

/// A picture from one JPEG, of its own size. What follows the end of the JPEG in `data` is ignored.
///
/// Chroma of 4:4:4 and 4:2:2 is averaged down; JPEG's full range is made limited. A JPEG without Huffman tables, as some
/// cameras send, gets the standard ones.
///
/// # Errors
/// The JPEG is damaged, too large, or neither in colour (YCbCr) nor grey. Only this picture is lost.
pub fn mjpeg(data: &[u8]) -> Result<Picture, ConvertError> {
    let options = DecoderOptions::new_fast()
        // A JPEG cut short in transfer must be an error: half a picture is worse than the one before.
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_out_colorspace(ColorSpace::YCbCr);
    let data = with_huffman_tables(data);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&*data), options);
    decoder.decode_headers().map_err(jpeg_error)?;
    let grey = match decoder.input_colorspace() {
        Some(ColorSpace::YCbCr) => false,
        Some(ColorSpace::Luma) => true,
        other => return Err(ConvertError::Jpeg(format!("colours are {other:?}"))),
    };
    if grey {
        decoder.set_options(options.jpeg_set_out_colorspace(ColorSpace::Luma));
    }
    let (width, height) = decoder.dimensions().ok_or_else(|| ConvertError::Jpeg("no size".to_owned()))?;
    check_size(width, height)?;
    let pixels = decoder.decode().map_err(jpeg_error)?;
    let mut picture = Picture::black(width, height);
    if grey {
        picture.planes_mut()[0].copy_from_slice(pixels.get(..width * height).ok_or(ConvertError::Short {
            bytes: pixels.len(),
            width,
            height,
        })?);
    } else {
        check_length(&pixels, width * 3, width * 3, height)?;
        subsample(&pixels, &mut picture);
    }
    limit_range(&mut picture);
    Ok(picture)
}

/// Many cameras leave out the Huffman tables, which motion JPEG fixes. The decoder fills them in for a JPEG that says it
/// comes from an AVI file; so one without tables is made to say so.
fn with_huffman_tables(data: &[u8]) -> Cow<'_, [u8]> {
    let mut rest = data.get(2..).unwrap_or_default();
    while let [0xFF, marker, high, low, ..] = *rest {
        match marker {
            // Tables.
            0xC4 => return Cow::Borrowed(data),
            // The scan begins.
            0xDA => return Cow::Owned([&data[..2], AVI_MARK, &data[2..]].concat()),
            _ => rest = rest.get(2 + usize::from(u16::from_be_bytes([high, low]))..).unwrap_or_default(),
        }
    }
    // Damaged, which the decoder can tell better.
    Cow::Borrowed(data)
}

/// Splits interleaved `Y U V` pixels into planes, averaging the chroma of each 2x2 block.
fn subsample(pixels: &[u8], picture: &mut Picture) {
    let (width, chroma_width) = (picture.width(), picture.chroma_width());
    let [y, u, v] = picture.planes_mut();
    for (to, from) in y.iter_mut().zip(pixels.chunks_exact(3)) {
        *to = from[0];
    }
    let stride = width * 3;
    let rows = u.chunks_exact_mut(chroma_width).zip(v.chunks_exact_mut(chroma_width));
    for ((u, v), pair) in rows.zip(pixels.chunks(stride * 2)) {
        let (above, rest) = pair.split_at(stride);
        let below = if rest.is_empty() { above } else { rest };
        let columns = above.chunks(6).zip(below.chunks(6));
        for ((u, v), (above, below)) in u.iter_mut().zip(v).zip(columns) {
            // The last column of an odd width stands alone.
            let right = if above.len() == 6 { 3 } else { 0 };
            let mean = |c: usize| {
                let sum = [above[c], above[right + c], below[c], below[right + c]].map(u16::from);
                ((sum.iter().sum::<u16>() + 2) / 4) as u8
            };
            (*u, *v) = (mean(1), mean(2));
        }
    }
}

/// Makes full-range samples (0 to 255) limited ones (luma 16 to 235, chroma 16 to 240), in place.
pub fn limit_range(picture: &mut Picture) {
    let [y, u, v] = picture.planes_mut();
    // 219/255 and 224/255 in 16-bit fixed point, rounded; chroma turns about 128.
    for y in y {
        *y = ((u32::from(*y) * 56_284 + (16 << 16) + (1 << 15)) >> 16) as u8;
    }
    for c in u.iter_mut().chain(v) {
        *c = ((u32::from(*c) * 57_569 + 128 * (65_536 - 57_569) + (1 << 15)) >> 16) as u8;
    }
}

/// Makes a limited-range picture of the matrix of BT.709, which browsers send, one of BT.601, in place.
pub fn bt709_to_bt601(picture: &mut Picture) {
    let (width, chroma_width) = (picture.width(), picture.chroma_width());
    let [y, u, v] = picture.planes_mut();
    let chroma = u.chunks_exact_mut(chroma_width).zip(v.chunks_exact_mut(chroma_width));
    for ((u, v), y) in chroma.zip(y.chunks_mut(width * 2)) {
        let (above, below) = y.split_at_mut(width);
        for (x, (u, v)) in u.iter_mut().zip(v.iter_mut()).enumerate() {
            let (cb, cr) = (i32::from(*u) - 128, i32::from(*v) - 128);
            // Rows of M601 * inverse(M709) in 1/1024: from the definitions in BT.601 and BT.709.
            let shift = (102 * cb + 196 * cr + 512) >> 10;
            let columns = x * 2..(x * 2 + 2).min(width);
            for y in above[columns.clone()].iter_mut() {
                *y = clamp(i32::from(*y) + shift);
            }
            if let Some(below) = below.get_mut(columns) {
                for y in below {
                    *y = clamp(i32::from(*y) + shift);
                }
            }
            *u = clamp(((1014 * cb - 113 * cr + 512) >> 10) + 128);
            *v = clamp(((-74 * cb + 1007 * cr + 512) >> 10) + 128);
        }
    }
}

fn clamp(value: i32) -> u8 {
    value.clamp(0, 255) as u8
}

fn average(a: u8, b: u8) -> u8 {
    (u16::from(a) + u16::from(b)).div_ceil(2) as u8
}

fn check_size(width: usize, height: usize) -> Result<(), ConvertError> {
    if (1..=MAX_SIDE).contains(&width) && (1..=MAX_SIDE).contains(&height) {
        return Ok(());
    }
    Err(ConvertError::Size { width, height })
}

/// Whether `data` holds `rows` rows of `row` bytes that start `stride` bytes apart.
fn check_length(data: &[u8], stride: usize, row: usize, rows: usize) -> Result<(), ConvertError> {
    if stride >= row && data.len() >= stride * (rows - 1) + row {
        return Ok(());
    }
    Err(ConvertError::Short { bytes: data.len(), width: row, height: rows })
}

fn jpeg_error(error: impl std::fmt::Debug) -> ConvertError {
    // The decoder's messages may run over several lines.
    let text = format!("{error:?}");
    ConvertError::Jpeg(text.lines().next().unwrap_or_default().to_owned())
}

/// The segment APP0 of a JPEG from an AVI file: marker, length, name, padding.
const AVI_MARK: &[u8] = b"\xFF\xE0\x00\x10AVI1\0\0\0\0\0\0\0\0\0\0";

/// Why a camera's buffer is no picture.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConvertError {
    /// No picture has this size.
    #[error("a picture of {width}x{height} is not possible: sides go from 1 to {MAX_SIDE}")]
    Size {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
    },
    /// The buffer ends too early.
    #[error("{bytes} bytes are too few for {height} rows of {width} bytes: the camera cut a picture short")]
    Short {
        /// What came.
        bytes: usize,
        /// Bytes a row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// Not a JPEG we can use.
    #[error("a damaged or unusual JPEG ({0}): that picture is skipped")]
    Jpeg(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const YUYV: &[u8] = include_bytes!("../../testdata/bars-64x48.yuyv");
    const NV12: &[u8] = include_bytes!("../../testdata/bars-64x48.nv12");
    const JPEGS: [&[u8]; 3] = [
        include_bytes!("../../testdata/bars-64x48-420.jpg"),
        include_bytes!("../../testdata/bars-64x48-422.jpg"),
        include_bytes!("../../testdata/bars-64x48-444.jpg"),
    ];

    /// The first six bars at 75 % and two patches below: where they are and their Y, U, V in BT.601, limited range.
    const KNOWN: [(usize, usize, [u8; 3]); 8] = [
        (4, 10, [180, 128, 128]),
        (14, 10, [162, 44, 142]),
        (24, 10, [131, 156, 44]),
        (34, 10, [112, 72, 58]),
        (44, 10, [84, 184, 198]),
        (54, 10, [65, 100, 212]),
        (16, 44, [235, 128, 128]),
        (40, 44, [16, 128, 128]),
    ];

    fn at(picture: &Picture, x: usize, y: usize) -> [u8; 3] {
        let chroma = y / 2 * picture.chroma_width() + x / 2;
        let [luma, u, v] = picture.planes();
        [luma[y * picture.width() + x], u[chroma], v[chroma]]
    }

    fn check_bars(picture: &Picture, tolerance: u8) {
        assert_eq!((picture.width(), picture.height()), (64, 48));
        for (x, y, known) in KNOWN {
            let got = at(picture, x, y);
            let near = got.iter().zip(known).all(|(a, b)| a.abs_diff(b) <= tolerance);
            assert!(near, "at {x},{y}: {got:?} instead of {known:?}");
        }
    }

    #[test]
    fn raw_bars_keep_their_values() {
        check_bars(&yuyv(YUYV, 128, 64, 48).expect("a picture"), 0);
        check_bars(&nv12(NV12, 64, 64, 48).expect("a picture"), 0);
    }

    #[test]
    fn rows_may_be_padded_and_sizes_odd() {
        let padded: Vec<u8> =
            YUYV.chunks(128).flat_map(|row| row.iter().copied().chain([0xEE; 32])).collect();
        check_bars(&yuyv(&padded, 160, 64, 48).expect("a picture"), 0);
        let padded: Vec<u8> = NV12.chunks(64).flat_map(|row| row.iter().copied().chain([0xEE; 32])).collect();
        check_bars(&nv12(&padded, 96, 64, 48).expect("a picture"), 0);
        let odd = yuyv(YUYV, 128, 63, 47).expect("a picture");
        assert_eq!(at(&odd, 62, 46), at(&yuyv(YUYV, 128, 64, 48).expect("a picture"), 62, 46));
        assert_eq!(nv12(NV12, 64, 63, 47).map(|p| (p.width(), p.height())), Ok((63, 47)));
    }

    #[test]
    fn jpegs_of_all_samplings_become_limited_range() {
        for jpeg in JPEGS {
            check_bars(&mjpeg(jpeg).expect("a picture"), 3);
            // Drivers hand out the whole buffer, not only the JPEG.
            let padded = [jpeg, &[0; 999]].concat();
            check_bars(&mjpeg(&padded).expect("a picture"), 3);
        }
    }

    #[test]
    fn a_jpeg_without_huffman_tables_uses_the_standard_ones() {
        let mut bare = JPEGS[1][..2].to_vec();
        let mut rest = &JPEGS[1][2..];
        while rest[1] != 0xDA {
            let (segment, next) = rest.split_at(2 + usize::from(u16::from_be_bytes([rest[2], rest[3]])));
            if segment[1] != 0xC4 {
                bare.extend_from_slice(segment);
            }
            rest = next;
        }
        bare.extend_from_slice(rest);
        assert!(bare.len() < JPEGS[1].len());
        check_bars(&mjpeg(&bare).expect("a picture"), 3);
    }

    #[test]
    fn damaged_buffers_are_errors() {
        assert_eq!(
            yuyv(&YUYV[1..], 128, 64, 48),
            Err(ConvertError::Short { bytes: 6143, width: 128, height: 48 })
        );
        assert!(yuyv(YUYV, 127, 64, 48).is_err());
        assert!(yuyv(YUYV, 128, 0, 48).is_err());
        assert!(nv12(&NV12[1..], 64, 64, 48).is_err());
        assert!(nv12(NV12, 64, 5000, 48).is_err());
        for jpeg in JPEGS {
            for end in [0, 1, 2, 20, 200, jpeg.len() / 2, jpeg.len() - 100] {
                assert!(mjpeg(&jpeg[..end]).is_err(), "cut after {end} bytes");
            }
        }
    }

    #[test]
    fn no_byte_of_a_jpeg_can_make_it_panic() {
        for (at, flip) in (0..JPEGS[0].len()).flat_map(|at| [(at, 0xFF), (at, 0x01), (at, 0x80)]) {
            let mut jpeg = JPEGS[0].to_vec();
            jpeg[at] ^= flip;
            if let Ok(picture) = mjpeg(&jpeg) {
                assert_eq!(picture.planes()[0].len(), picture.width() * picture.height());
            }
        }
    }

    #[test]
    fn bt709_bars_become_bt601_bars() {
        // 75 % yellow and blue in BT.709 and in BT.601, by the definitions.
        for (from, to) in [([168, 44, 136], [162, 44, 142]), ([28, 212, 120], [35, 212, 114])] {
            let mut picture = Picture::black(3, 3);
            for (plane, value) in picture.planes_mut().into_iter().zip(from) {
                plane.fill(value);
            }
            bt709_to_bt601(&mut picture);
            for (plane, value) in picture.planes().iter().zip::<[u8; 3]>(to) {
                assert!(plane.iter().all(|s| s.abs_diff(value) <= 1), "{plane:?} instead of {value}");
            }
        }
    }

    #[test]
    fn full_range_is_limited_at_both_ends() {
        let mut picture = Picture::black(2, 2);
        let [y, u, _] = picture.planes_mut();
        y.copy_from_slice(&[0, 255, 128, 1]);
        u[0] = 255;
        limit_range(&mut picture);
        assert_eq!(picture.planes(), &[vec![16, 235, 126, 17], vec![240], vec![128]]);
    }
}
