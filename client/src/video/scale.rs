//! Scaling, for encoders (picture to picture) and for windows (picture to pixels).
//!
//! Large reductions first halve the planes by averaging 2x2 blocks, then, as all others, interpolate linearly. All
//! arithmetic is in 16-bit fixed point over whole rows, which compilers turn into vector code.

use std::borrow::Cow;

use crate::picture::{MAX_SIDE, Picture};

/// Scales a picture to `width` x `height` (1 to [`MAX_SIDE`] each, else clamped), keeping its aspect ratio: what remains
/// at the sides or above and below is black.
#[must_use]
pub fn scale(from: &Picture, width: usize, height: usize) -> Picture {
    let (width, height) = (width.clamp(1, MAX_SIDE), height.clamp(1, MAX_SIDE));
    if (from.width(), from.height()) == (width, height) {
        return from.clone();
    }
    let (fit_width, fit_height) = fit(from.width(), from.height(), width, height);
    // Even offsets keep luma and chroma together.
    let left = ((width - fit_width) / 2) & !1;
    let top = ((height - fit_height) / 2) & !1;
    let mut to = Picture::black(width, height);
    let (luma_stride, chroma_stride) = (to.width(), to.chroma_width());
    for (i, (plane, source)) in to.planes_mut().into_iter().zip(sources(from)).enumerate() {
        let (stride, shift) = if i == 0 { (luma_stride, 0) } else { (chroma_stride, 1) };
        let (w, h) =
            if i == 0 { (fit_width, fit_height) } else { (fit_width.div_ceil(2), fit_height.div_ceil(2)) };
        let mut scaler = Scaler::new(source, w, h);
        let rows = plane.chunks_exact_mut(stride).skip(top >> shift).take(h).enumerate();
        for (y, row) in rows {
            let row = &mut row[left >> shift..];
            // The chroma of an odd offset may reach one sample past the edge.
            let n = w.min(row.len());
            row[..n].copy_from_slice(&scaler.row(y)[..n]);
        }
    }
    to
}

/// As [`scale`], without a copy when the size is right already.
#[must_use]
pub fn scale_owned(from: Picture, width: usize, height: usize) -> Picture {
    if (from.width(), from.height()) == (width, height) { from } else { scale(&from, width, height) }
}

/// The largest size of the aspect ratio `from_width` : `from_height` that fits into `width` x `height`; at least 1x1.
#[must_use]
pub const fn fit(from_width: usize, from_height: usize, width: usize, height: usize) -> (usize, usize) {
    let (by_height, by_width) = (from_width * height, from_height * width);
    let (w, h) = if by_height > by_width {
        (width, (by_width + from_width / 2) / from_width)
    } else {
        ((by_height + from_height / 2) / from_height, height)
    };
    (if w == 0 { 1 } else { w }, if h == 0 { 1 } else { h })
}

/// Scales a picture to `width` x `height`, whatever its aspect ratio, as pixels `0x00RRGGBB`.
///
/// Row `y` is written to `out[y * stride..][..width]`. Rows for which `out` or `stride` has no room are left out; a zero
/// size writes nothing.
pub fn to_xrgb(from: &Picture, out: &mut [u32], stride: usize, width: usize, height: usize) {
    let width = width.min(stride);
    if width == 0 || height == 0 {
        return;
    }
    let [y, u, v] = sources(from);
    let (chroma_width, chroma_height) = (width.div_ceil(2), height.div_ceil(2));
    let mut luma = Scaler::new(y, width, height);
    let mut u = Scaler::new(u, chroma_width, chroma_height);
    let mut v = Scaler::new(v, chroma_width, chroma_height);
    let (mut wide_u, mut wide_v) = (vec![128; width], vec![128; width]);
    for (i, row) in out.chunks_mut(stride).take(height).enumerate() {
        let Some(row) = row.get_mut(..width) else { break };
        if i % 2 == 0 {
            double(u.row(i / 2), &mut wide_u);
            double(v.row(i / 2), &mut wide_v);
        }
        row_to_xrgb(luma.row(i), &wide_u, &wide_v, row);
    }
}

/// Writes each sample twice.
fn double(from: &[u8], to: &mut [u8]) {
    let mut pairs = to.chunks_exact_mut(2);
    for (pair, &sample) in pairs.by_ref().zip(from) {
        pair.fill(sample);
    }
    if let ([last], Some(&sample)) = (pairs.into_remainder(), from.last()) {
        *last = sample;
    }
}

/// BT.601 limited range to red, green and blue; all four slices have one length.
///
/// Coefficients are those of the standard (1.164, 1.596, 0.392, 0.813, 2.017). The sample is shifted left by 6, the
/// product of two 16-bit numbers shifted right by 16, which is one instruction on every vector unit: results have three
/// fractional bits.
fn row_to_xrgb(y: &[u8], u: &[u8], v: &[u8], out: &mut [u32]) {
    let n = out.len();
    let (y, u, v) = (&y[..n], &u[..n], &v[..n]);
    let high = |value: i16, factor: i16| ((i32::from(value) * i32::from(factor)) >> 16) as i16;
    let pixel = |value: i16| u32::from((value >> 3).clamp(0, 255) as u16);
    for i in 0..n {
        // No sum here leaves -4000..5000; the wrapping operations leave out the checks (see `blend`).
        let luma = high(i16::from(y[i]).wrapping_sub(16) << 6, 9536).wrapping_add(4);
        let (cb, cr) = (i16::from(u[i]).wrapping_sub(128) << 6, i16::from(v[i]).wrapping_sub(128) << 6);
        let red = pixel(luma.wrapping_add(high(cr, 13_075)));
        let green = pixel(luma.wrapping_sub(high(cb, 3209)).wrapping_sub(high(cr, 6660)));
        let blue = pixel(luma.wrapping_add(high(cb, 16_525)));
        out[i] = red << 16 | green << 8 | blue;
    }
}

/// One plane of a picture.
struct Source<'a> {
    samples: Cow<'a, [u8]>,
    width: usize,
    height: usize,
}

fn sources(picture: &Picture) -> [Source<'_>; 3] {
    let [y, u, v] = picture.planes();
    let (width, height) = (picture.chroma_width(), picture.chroma_height());
    [
        Source { samples: Cow::Borrowed(y), width: picture.width(), height: picture.height() },
        Source { samples: Cow::Borrowed(u), width, height },
        Source { samples: Cow::Borrowed(v), width, height },
    ]
}

impl Source<'_> {
    /// Half the width and height, each sample the mean of four. Odd last rows and columns are dropped.
    fn halve(self) -> Source<'static> {
        let (width, height) = (self.width / 2, self.height / 2);
        let mut samples = vec![0; width * height];
        for (to, from) in samples.chunks_exact_mut(width).zip(self.samples.chunks_exact(self.width * 2)) {
            let (above, below) = from.split_at(self.width);
            let pairs = above.chunks_exact(2).zip(below.chunks_exact(2));
            for (to, (above, below)) in to.iter_mut().zip(pairs) {
                let sum =
                    u16::from(above[0]) + u16::from(above[1]) + u16::from(below[0]) + u16::from(below[1]);
                *to = ((sum + 2) >> 2) as u8;
            }
        }
        Source { samples: Cow::Owned(samples), width, height }
    }
}

/// Produces the rows of a scaled plane, quickest from top to bottom.
///
/// Each row of the source is scaled in width once, the last two are kept, and rows between them are blended from those:
/// the step that needs an index for every sample runs as rarely as it can.
struct Scaler<'a> {
    source: Source<'a>,
    columns: Vec<Tap>,
    rows: Vec<Tap>,
    /// Row `kept` of the source and the one after it, scaled in width.
    pair: [Vec<u8>; 2],
    kept: Option<usize>,
    out: Vec<u8>,
}

impl<'a> Scaler<'a> {
    fn new(mut source: Source<'a>, width: usize, height: usize) -> Self {
        while source.width >= width * 2 && source.height >= height * 2 {
            source = source.halve();
        }
        let (columns, rows) = (taps(source.width, width), taps(source.height, height));
        let line = || vec![0; width];
        Self { source, columns, rows, pair: [line(), line()], kept: None, out: line() }
    }

    /// Row `y` of the scaled plane.
    fn row(&mut self, y: usize) -> &[u8] {
        let tap = self.rows[y];
        let first = usize::from(tap.first);
        if self.source.width == self.columns.len() && tap.weight == 0 {
            return self.source.row(first);
        }
        match self.kept {
            Some(kept) if kept == first => {}
            Some(kept) if kept + 1 == first => {
                self.pair.swap(0, 1);
                self.source.widen(first + 1, &self.columns, &mut self.pair[1]);
            }
            _ => {
                self.source.widen(first, &self.columns, &mut self.pair[0]);
                self.source.widen(first + 1, &self.columns, &mut self.pair[1]);
            }
        }
        self.kept = Some(first);
        let [above, below] = &self.pair;
        for ((to, &a), &b) in self.out.iter_mut().zip(above).zip(below) {
            *to = blend(a, b, tap.weight);
        }
        &self.out
    }
}

impl Source<'_> {
    /// Row `y`; beyond the last, the last.
    fn row(&self, y: usize) -> &[u8] {
        &self.samples[y.min(self.height - 1) * self.width..][..self.width]
    }

    /// Scales row `y` to the width of `to`.
    fn widen(&self, y: usize, taps: &[Tap], to: &mut [u8]) {
        let row = self.row(y);
        if row.len() == to.len() {
            to.copy_from_slice(row);
        } else if let [only] = row {
            to.fill(*only);
        } else {
            for (to, tap) in to.iter_mut().zip(taps) {
                let first = usize::from(tap.first);
                if let Some(&[a, b]) = row.get(first..first.wrapping_add(2)) {
                    *to = blend(a, b, tap.weight);
                }
            }
        }
    }
}

/// Which two neighbours make a sample: `first` and the one after it, the latter with `weight` / 256.
#[derive(Clone, Copy)]
struct Tap {
    first: u16,
    weight: u16,
}

/// How to make `to` samples from `from`. Sample centres are aligned and the ends repeated. Where there are two samples,
/// `first` always has one after it.
fn taps(from: usize, to: usize) -> Vec<Tap> {
    let tap = |i: usize| {
        // The centre of sample i in 1/256 of source samples: ((i + 1/2) * from / to - 1/2) * 256.
        let position = ((2 * i + 1) * from * 128 / to).saturating_sub(128).min((from - 1) * 256);
        let first = if from == to { i } else { (position / 256).min(from.saturating_sub(2)) };
        Tap { first: first as u16, weight: (position - first * 256) as u16 }
    };
    (0..to).map(tap).collect()
}

/// A weight is at most 256, so no sum passes 65 408. The wrapping operations say so: overflow checks, which are on in
/// release builds too, would keep the loops around this from becoming vector code.
fn blend(a: u8, b: u8, weight: u16) -> u8 {
    let (a, b) = (u16::from(a).wrapping_mul(256_u16.wrapping_sub(weight)), u16::from(b).wrapping_mul(weight));
    (a.wrapping_add(b).wrapping_add(128) >> 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(width: usize, height: usize, colour: [u8; 3]) -> Picture {
        let mut picture = Picture::black(width, height);
        for (plane, value) in picture.planes_mut().into_iter().zip(colour) {
            plane.fill(value);
        }
        picture
    }

    #[test]
    fn plain_colours_stay_at_any_size() {
        let colour = [84, 184, 198];
        for from in [(640, 360), (7, 5), (1, 1), (1280, 721)] {
            for to in [(64, 36), (640, 360), (33, 19), (1, 1), (30, 30)] {
                let scaled = scale(&plain(from.0, from.1, colour), to.0, to.1);
                assert_eq!((scaled.width(), scaled.height()), to);
                let middle = to.0 / 2 + to.1 / 2 * to.0;
                assert_eq!(scaled.planes()[0][middle], colour[0], "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn a_slope_stays_a_slope() {
        let mut from = Picture::black(200, 100);
        for (i, y) in from.planes_mut()[0].iter_mut().enumerate() {
            *y = 20 + (i % 200) as u8;
        }
        for (width, height) in [(100, 50), (150, 75), (400, 200), (30, 15)] {
            let to = scale(&from, width, height);
            for (i, y) in to.planes()[0].iter().enumerate() {
                let centre = ((i % width) as f32 + 0.5) * 200.0 / width as f32 - 0.5;
                let expected = 20.0 + centre.clamp(0.0, 199.0);
                assert!((f32::from(*y) - expected).abs() <= 1.5, "{width}: {i} is {y}, not {expected}");
            }
        }
    }

    #[test]
    fn another_aspect_ratio_gets_black_bars() {
        let to = scale(&plain(640, 480, [200, 90, 90]), 640, 360);
        let row = &to.planes()[0][180 * 640..][..640];
        assert_eq!(row.iter().filter(|y| **y == 200).count(), 480);
        assert_eq!((row[79], row[80], row[559], row[560]), (16, 200, 200, 16));
        assert_eq!(to.planes()[1][90 * 320], 128);
        assert_eq!(to.planes()[1][90 * 320 + 40], 90);
        let to = scale(&plain(640, 200, [200, 90, 90]), 321, 241);
        assert_eq!((to.planes()[0][0], to.planes()[0][120 * 321 + 320]), (16, 200));
        assert_eq!(fit(16, 9, 100, 100), (100, 56));
        assert_eq!(fit(4096, 1, 10, 10), (10, 1));
    }

    #[test]
    fn pixels_have_the_colours_of_bt601() {
        let colours = [
            ([16, 128, 128], 0x000000),
            ([235, 128, 128], 0xFFFFFF),
            ([81, 90, 240], 0xFE0000),
            ([145, 54, 34], 0x00FF00),
            ([41, 240, 110], 0x0000FE),
            ([126, 128, 128], 0x808080),
            ([0, 128, 128], 0x000000),
            ([255, 128, 128], 0xFFFFFF),
        ];
        for (yuv, rgb) in colours {
            let mut out = [u32::MAX; 3 * 5];
            to_xrgb(&plain(64, 36, yuv), &mut out, 5, 3, 3);
            for (i, pixel) in out.iter().enumerate() {
                if i % 5 >= 3 {
                    assert_eq!(*pixel, u32::MAX, "nothing beyond the width");
                    continue;
                }
                let near = (0..3).all(|c| (pixel >> (8 * c) & 255).abs_diff(rgb >> (8 * c) & 255) <= 2);
                assert!(near && pixel >> 24 == 0, "{yuv:?} is {pixel:06x}, not {rgb:06x}");
            }
        }
    }

    #[test]
    fn pixels_at_the_same_size_keep_every_sample() {
        let mut from = Picture::black(31, 17);
        for (i, y) in from.planes_mut()[0].iter_mut().enumerate() {
            *y = 16 + (i * 7 % 220) as u8;
        }
        let mut out = vec![0; 31 * 17];
        to_xrgb(&from, &mut out, 31, 31, 17);
        for (y, pixel) in from.planes()[0].iter().zip(out) {
            let grey = (f32::from(*y) - 16.0) * 255.0 / 219.0;
            assert!(((pixel & 255) as f32 - grey).abs() <= 1.5, "{y} is {pixel:06x}");
        }
    }

    #[test]
    fn a_buffer_too_small_is_filled_as_far_as_it_goes() {
        let from = plain(64, 36, [235, 128, 128]);
        let mut out = [7; 10];
        to_xrgb(&from, &mut out, 4, 4, 9);
        assert_eq!(out[..8], [0xFF_FFFF; 8]);
        to_xrgb(&from, &mut [], 4, 4, 4);
        to_xrgb(&from, &mut out, 0, 4, 4);
        to_xrgb(&from, &mut out, 4, 9, 0);
    }
}
