//! Scales pictures (YUV 4:2:0, BT.601, limited range) into XRGB pixels.
//!
//! A picture is first reduced by a whole factor where it is shown smaller than half (averaging k x k samples, so that
//! small tiles do not flicker), then interpolated bilinearly. Chroma is sampled once for each two by two pixels: the
//! source has no more either. All arithmetic is fixed point in 16 bits where the compiler can use vectors; what is
//! left is one table lookup for each pixel, prepared once for each pair of sizes.

use super::layout::Rect;
use super::paint::Canvas;
use crate::picture::Picture;

/// Scales pictures of one size into areas of one size.
pub(crate) struct Blit {
    shape: Shape,
    luma: Plane,
    chroma: [Plane; 2],
    /// What chroma adds to red, green and blue, for each pixel of the current pair of rows.
    tint: [Vec<i16>; 3],
}

/// What a [`Blit`] is prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Width and height of the picture.
    pub(crate) from: (usize, usize),
    /// Width and height of the area.
    pub(crate) to: (usize, usize),
    /// Left and right change sides.
    pub(crate) mirrored: bool,
}

impl Blit {
    pub(crate) fn new(shape: Shape) -> Self {
        let (w, h) = shape.to;
        let half = |n: usize| n.div_ceil(2);
        let (cw, ch) = (half(shape.from.0), half(shape.from.1));
        let chroma = || Plane::new((cw, ch), (half(w), half(h)), shape.mirrored);
        let wide = || vec![0; w + 1];
        Self {
            shape,
            luma: Plane::new(shape.from, shape.to, shape.mirrored),
            chroma: [chroma(), chroma()],
            tint: [wide(), wide(), wide()],
        }
    }

    pub(crate) const fn shape(&self) -> Shape {
        self.shape
    }

    /// Paints `picture` so that its top left corner is that of `area`. Both must have the sizes of [`Self::shape`];
    /// otherwise nothing is painted.
    pub(crate) fn paint(&mut self, canvas: &mut Canvas<'_>, area: Rect, picture: &Picture) {
        let size = (usize::try_from(area.w).unwrap_or(0), usize::try_from(area.h).unwrap_or(0));
        if self.shape.from != (picture.width(), picture.height()) || self.shape.to != size || area.is_empty()
        {
            return;
        }
        // Clipping on the left shifts what a row of the canvas starts with.
        let skip = (canvas.clip().intersect(area).x - area.x).max(0) as usize;
        let [y_plane, u_plane, v_plane] = picture.planes();
        self.luma.forget();
        self.chroma.iter_mut().for_each(Plane::forget);
        for row in 0..size.1 {
            if row % 2 == 0 {
                self.chroma[0].scale_row(u_plane, row / 2);
                self.chroma[1].scale_row(v_plane, row / 2);
                tint(&self.chroma[0].out, &self.chroma[1].out, &mut self.tint);
            }
            let pixels = canvas.row(area, area.y + row as i32);
            if !pixels.is_empty() {
                self.luma.scale_row(y_plane, row);
                let [r, g, b] = &self.tint;
                colour(&self.luma.out[skip..], &r[skip..], &g[skip..], &b[skip..], pixels);
            }
        }
    }
}

/// Scales one plane row by row.
struct Plane {
    /// Bytes in a row of the plane.
    stride: usize,
    /// Size after reduction.
    width: usize,
    height: usize,
    /// Samples that are averaged on each side before interpolation.
    reduce: usize,
    columns: Vec<Step>,
    rows: Vec<Step>,
    /// The two reduced rows between which rows are interpolated, and their numbers.
    kept: [(Option<usize>, Vec<u16>); 2],
    sums: Vec<u16>,
    blended: Vec<u32>,
    out: Vec<u8>,
}

/// Between which two samples to interpolate: `first` and the next, `part` 256ths of the way.
#[derive(Clone, Copy)]
struct Step {
    first: u32,
    part: u16,
}

impl Plane {
    fn new(from: (usize, usize), to: (usize, usize), mirrored: bool) -> Self {
        // u16 sums hold 16 x 16 samples of 255; a wall of tiles that small shows nobody's face anyway.
        let reduce = (from.0 / to.0.max(1)).min(from.1 / to.1.max(1)).clamp(1, 16);
        let (width, height) = (from.0 / reduce, from.1 / reduce);
        let mut columns = steps(width, to.0);
        if mirrored {
            columns.reverse();
        }
        Self {
            stride: from.0,
            width,
            height,
            reduce,
            columns,
            rows: steps(height, to.1),
            kept: [(None, vec![0; width]), (None, vec![0; width])],
            sums: vec![0; width * reduce],
            blended: vec![0; width],
            out: vec![0; to.0],
        }
    }

    /// A new picture: rows kept from the last one are stale.
    fn forget(&mut self) {
        self.kept.iter_mut().for_each(|k| k.0 = None);
    }

    /// Scales row `row` of the area into `out`.
    fn scale_row(&mut self, plane: &[u8], row: usize) {
        let Step { first, part } = self.rows[row];
        let (top, bottom) = (first as usize, (first as usize + 1).min(self.height - 1));
        self.keep(plane, top);
        self.keep(plane, bottom);
        let (a, b) = (&self.kept[top % 2].1, &self.kept[bottom % 2].1);
        // Each entry holds a sample and, above it, its right neighbour: one lookup then serves both.
        for ((out, &a), &b) in self.blended.iter_mut().zip(a).zip(b) {
            *out = u32::from(mix(a, b, part));
        }
        for i in 0..self.blended.len() {
            let next = self.blended[(i + 1).min(self.width - 1)] & 0xff;
            self.blended[i] |= next << 16;
        }
        for (out, step) in self.out.iter_mut().zip(&self.columns) {
            let pair = self.blended[step.first as usize];
            *out = mix(pair as u16 & 0xff, (pair >> 16) as u16, step.part) as u8;
        }
    }

    /// Makes sure that reduced row `row` is in its slot.
    fn keep(&mut self, plane: &[u8], row: usize) {
        let (number, samples) = &mut self.kept[row % 2];
        if *number == Some(row) {
            return;
        }
        *number = Some(row);
        let (k, stride) = (self.reduce, self.stride);
        if k == 1 {
            for (out, &s) in samples.iter_mut().zip(&plane[row * stride..]) {
                *out = u16::from(s);
            }
            return;
        }
        self.sums.fill(0);
        for line in plane[row * k * stride..].chunks(stride).take(k) {
            for (sum, &s) in self.sums.iter_mut().zip(line) {
                *sum = sum.wrapping_add(u16::from(s));
            }
        }
        // Rounded division by k * k through a reciprocal in 2^-20 that is exact for these sums.
        let area = (k * k) as u32;
        let reciprocal = (1_u32 << 20).div_ceil(area);
        for (out, group) in samples.iter_mut().zip(self.sums.chunks_exact(k)) {
            let sum = group.iter().fold(area / 2, |sum, &s| sum.wrapping_add(u32::from(s)));
            *out = ((u64::from(sum).wrapping_mul(u64::from(reciprocal))) >> 20) as u16;
        }
    }
}

/// `part` 256ths of the way from `a` to `b`, both at most 255, so that the sum stays within 16 bits.
///
/// Here and below arithmetic that cannot overflow is spelled `wrapping`: overflow is checked in release builds too,
/// and a check in each step would keep the compiler from using vectors.
const fn mix(a: u16, b: u16, part: u16) -> u16 {
    a.wrapping_mul(256_u16.wrapping_sub(part)).wrapping_add(b.wrapping_mul(part)).wrapping_add(128) >> 8
}

/// Where each of `to` samples lies among `from`, centres on centres.
fn steps(from: usize, to: usize) -> Vec<Step> {
    let last = (from.max(1) as i64 - 1) << 8;
    (0..to as i64)
        .map(|i| {
            let at = ((2 * i + 1) * ((from as i64) << 8) / (2 * to as i64) - 128).clamp(0, last);
            Step { first: (at >> 8) as u32, part: (at & 255) as u16 }
        })
        .collect()
}

/// What chroma adds to each colour, in 64ths, for rows of samples that each cover two pixels.
fn tint(u: &[u8], v: &[u8], [red, green, blue]: &mut [Vec<i16>; 3]) {
    let pairs = red.chunks_exact_mut(2).zip(green.chunks_exact_mut(2)).zip(blue.chunks_exact_mut(2));
    for (((r, g), b), (&u, &v)) in pairs.zip(u.iter().zip(v)) {
        let (u, v) = (i16::from(u).wrapping_sub(128), i16::from(v).wrapping_sub(128));
        r.fill(R_V.wrapping_mul(v));
        g.fill(G_U.wrapping_mul(u).wrapping_add(G_V.wrapping_mul(v)));
        b.fill(B_U.wrapping_mul(u));
    }
}

/// Turns a row of luma and tints into pixels.
fn colour(luma: &[u8], red: &[i16], green: &[i16], blue: &[i16], pixels: &mut [u32]) {
    let tints = red.iter().zip(green).zip(blue);
    for ((out, &y), ((&r, &g), &b)) in pixels.iter_mut().zip(luma).zip(tints) {
        // (255 - 16) * 149 does not fit in 15 bits but does in 16; half of it does again.
        let y = ((u16::from(y.saturating_sub(16)).wrapping_mul(Y_149) >> 1) as i16).wrapping_add(ROUND);
        let clamp = |c: i16| (y.saturating_add(c) >> 6).clamp(0, 255) as u32;
        *out = (clamp(r) << 16) | (clamp(g) << 8) | clamp(b);
    }
}

/// BT.601 limited range in 64ths: 255/219 for luma (149 / 128), 1.596 and 0.813 for V, 0.392 and 2.017 for U.
const Y_149: u16 = 149;
const R_V: i16 = 102;
const G_U: i16 = -25;
const G_V: i16 = -52;
const B_U: i16 = 129;
/// Half of a 64th's unit, so that `>> 6` rounds.
const ROUND: i16 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize, mut yuv: impl FnMut(usize, usize) -> [u8; 3]) -> Picture {
        let mut p = Picture::black(width, height);
        let chroma_width = p.chroma_width();
        let [y, u, v] = p.planes_mut();
        for row in 0..height {
            for column in 0..width {
                let [a, b, c] = yuv(column, row);
                y[row * width + column] = a;
                u[row / 2 * chroma_width + column / 2] = b;
                v[row / 2 * chroma_width + column / 2] = c;
            }
        }
        p
    }

    fn painted(p: &Picture, w: usize, h: usize, mirrored: bool) -> Vec<u32> {
        let mut pixels = vec![0xdead_beef; w * h];
        let mut canvas = Canvas::new(&mut pixels, (w as i32, h as i32));
        let shape = Shape { from: (p.width(), p.height()), to: (w, h), mirrored };
        Blit::new(shape).paint(&mut canvas, Rect { x: 0, y: 0, w: w as i32, h: h as i32 }, p);
        pixels
    }

    #[test]
    fn black_white_and_grey_are_exact() {
        for (luma, grey) in [(16, 0), (235, 255), (0, 0), (255, 255), (126, 128), (81, 76), (180, 191)] {
            let p = picture(8, 6, |_, _| [luma, 128, 128]);
            assert!(painted(&p, 8, 6, false).iter().all(|&x| x == grey << 16 | grey << 8 | grey), "{luma}");
        }
    }

    #[test]
    fn every_colour_is_within_one_of_the_definition() {
        for yuv in (0..16 * 16 * 16).map(|i| [i / 256 * 17, i / 16 % 16 * 17, i % 16 * 17]) {
            let p = picture(2, 2, |_, _| yuv.map(|c| c as u8));
            let [y, u, v] = yuv.map(f64::from);
            let (y, u, v) = ((y - 16.0).max(0.0) * 255.0 / 219.0, u - 128.0, v - 128.0);
            let rgb = [y + 1.596 * v, y - 0.392 * u - 0.813 * v, y + 2.017 * u].map(|c| c.clamp(0.0, 255.0));
            let got = painted(&p, 2, 2, false)[0].to_be_bytes();
            for (want, got) in rgb.iter().zip(&got[1..]) {
                assert!((want - f64::from(*got)).abs() <= 1.5, "{yuv:?}: {rgb:?} {got:?}");
            }
        }
    }

    #[test]
    fn at_its_own_size_luma_is_copied_and_mirroring_swaps_sides() {
        let p = picture(9, 5, |x, y| [(20 + 20 * x + 3 * y) as u8, 128, 128]);
        let (plain, mirrored) = (painted(&p, 9, 5, false), painted(&p, 9, 5, true));
        for y in 0..5 {
            for x in 0..9 {
                assert_eq!(plain[y * 9 + x], mirrored[y * 9 + 8 - x]);
                let luma = (20 + 20 * x + 3 * y) as f64;
                let grey = ((luma - 16.0) * 255.0 / 219.0).round() as i32;
                assert!(((plain[y * 9 + x] & 255) as i32 - grey).abs() <= 1);
            }
        }
    }

    #[test]
    fn small_tiles_average_what_they_skip() {
        // Stripes of one pixel: skipping columns would show some of them, averaging shows grey.
        let p = picture(640, 360, |x, _| [if x % 2 == 0 { 16 } else { 235 }, 128, 128]);
        for pixel in painted(&p, 160, 90, false) {
            assert!((120..=136).contains(&(pixel & 255)), "{pixel:06x}");
        }
    }

    #[test]
    fn all_pairs_of_sizes_fill_the_area() {
        for (w, h) in [(1, 1), (2, 3), (17, 5), (64, 48), (641, 359)] {
            for (tw, th) in [(1, 1), (3, 2), (16, 9), (33, 31), (640, 360)] {
                let p = picture(w, h, |_, _| [235, 128, 128]);
                assert!(painted(&p, tw, th, true).iter().all(|&x| x == 0xff_ffff), "{w}x{h} to {tw}x{th}");
            }
        }
    }

    #[test]
    fn clipping_shows_the_same_pixels() {
        let p = picture(32, 32, |x, y| [(40 + x * 4) as u8, (y * 5) as u8, 90]);
        let whole = painted(&p, 20, 20, false);
        let mut pixels = vec![0xdead_beef; 20 * 20];
        let part = Rect { x: 4, y: 3, w: 9, h: 12 };
        let mut canvas = Canvas::new(&mut pixels, (20, 20));
        let shape = Shape { from: (32, 32), to: (20, 20), mirrored: false };
        Blit::new(shape).paint(&mut canvas.clipped(part), Rect { x: 0, y: 0, w: 20, h: 20 }, &p);
        for (i, (&got, &want)) in pixels.iter().zip(&whole).enumerate() {
            let inside = part.contains(i as i32 % 20, i as i32 / 20);
            assert_eq!(got, if inside { want } else { 0xdead_beef });
        }
    }
}
