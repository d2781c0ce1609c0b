//! Painting into a buffer of XRGB pixels: areas, rounded boxes and anti-aliased shapes.

use super::layout::Rect;

/// A colour, 0xRRGGBB.
pub(crate) type Colour = u32;

/// A view of the window's pixels that paints nothing outside its clip.
pub(crate) struct Canvas<'a> {
    pixels: &'a mut [u32],
    width: i32,
    clip: Rect,
}

impl<'a> Canvas<'a> {
    /// Over `pixels`, rows of `size.0` pixels; rows that are missing at the end are clipped.
    pub(crate) fn new(pixels: &'a mut [u32], size: (i32, i32)) -> Self {
        let (w, h) = (size.0.max(0), size.1.max(0));
        let rows = pixels.len().checked_div(w as usize).unwrap_or(0);
        let clip = Rect { x: 0, y: 0, w, h: h.min(i32::try_from(rows).unwrap_or(i32::MAX)) };
        Self { pixels, width: w, clip }
    }

    /// The same pixels, painting only within `area`.
    pub(crate) fn clipped(&mut self, area: Rect) -> Canvas<'_> {
        Canvas { pixels: self.pixels, width: self.width, clip: self.clip.intersect(area) }
    }

    /// The area that can be painted.
    pub(crate) const fn clip(&self) -> Rect {
        self.clip
    }

    /// Row `y` of the clipped pixels of `area`; empty when it is outside.
    pub(crate) fn row(&mut self, area: Rect, y: i32) -> &mut [u32] {
        let a = self.clip.intersect(area);
        if a.is_empty() || y < a.y || y >= a.bottom() {
            return &mut [];
        }
        let start = y as usize * self.width as usize + a.x as usize;
        &mut self.pixels[start..start + a.w as usize]
    }

    pub(crate) fn fill(&mut self, area: Rect, colour: Colour) {
        let a = self.clip.intersect(area);
        for y in a.y..a.bottom() {
            self.row(a, y).fill(colour);
        }
    }

    /// Mixes `colour` into one pixel; `alpha` 255 covers it.
    pub(crate) fn blend(&mut self, x: i32, y: i32, colour: Colour, alpha: u8) {
        if self.clip.contains(x, y) {
            let p = &mut self.pixels[y as usize * self.width as usize + x as usize];
            *p = mix(*p, colour, alpha);
        }
    }

    /// A box with round corners.
    pub(crate) fn rounded(&mut self, area: Rect, radius: i32, colour: Colour) {
        let r = radius.min(area.w / 2).min(area.h / 2).max(0);
        self.fill(area.inset(0, r), colour);
        self.fill(Rect { h: r, ..area }.inset(r, 0), colour);
        self.fill(Rect { y: area.bottom() - r, h: r, ..area }.inset(r, 0), colour);
        self.corners(area, r, colour, |d| d);
    }

    /// The outline of a box with round corners, drawn within it.
    pub(crate) fn ring(&mut self, area: Rect, radius: i32, thickness: i32, colour: Colour) {
        let r = radius.min(area.w / 2).min(area.h / 2).max(0);
        let (t, across) = (thickness.min(r.max(1)), area.inset(r, 0));
        self.fill(Rect { h: t, ..across }, colour);
        self.fill(Rect { y: area.bottom() - t, h: t, ..across }, colour);
        let down = area.inset(0, r);
        self.fill(Rect { w: t, ..down }, colour);
        self.fill(Rect { x: area.right() - t, w: t, ..down }, colour);
        self.corners(area, r, colour, |d| d.max(-d - t as f32));
    }

    /// Paints every pixel of `bounds` by its signed distance (in pixels, negative inside) from a shape's edge.
    pub(crate) fn shape(&mut self, bounds: Rect, colour: Colour, distance: impl Fn(f32, f32) -> f32) {
        let a = self.clip.intersect(bounds);
        for y in a.y..a.bottom() {
            for x in a.x..a.right() {
                let d = distance(x as f32 + 0.5, y as f32 + 0.5);
                if d < 0.5 {
                    self.blend(x, y, colour, coverage(d));
                }
            }
        }
    }

    /// A filled circle around (`x`, `y`).
    pub(crate) fn disc(&mut self, x: f32, y: f32, radius: f32, colour: Colour) {
        let r = radius.ceil() as i32 + 1;
        let bounds = Rect { x: x as i32 - r, y: y as i32 - r, w: 2 * r + 1, h: 2 * r + 1 };
        self.shape(bounds, colour, |px, py| (px - x).hypot(py - y) - radius);
    }

    fn corners(&mut self, area: Rect, r: i32, colour: Colour, edge: impl Fn(f32) -> f32) {
        for (left, top) in [(true, true), (false, true), (true, false), (false, false)] {
            let x = if left { area.x } else { area.right() - r };
            let y = if top { area.y } else { area.bottom() - r };
            let (cx, cy) = (if left { x + r } else { x } as f32, if top { y + r } else { y } as f32);
            self.shape(Rect { x, y, w: r, h: r }, colour, |px, py| edge((px - cx).hypot(py - cy) - r as f32));
        }
    }
}

/// How much of a pixel lies within a shape whose edge is `d` pixels from the pixel's middle.
fn coverage(d: f32) -> u8 {
    ((0.5 - d).clamp(0.0, 1.0) * 255.0) as u8
}

/// `over` laid on `under` with the given opacity.
pub(crate) const fn mix(under: u32, over: u32, alpha: u8) -> u32 {
    // Red and blue are mixed in one multiplication; 255 counts as 256 so that it covers exactly.
    let a = alpha as u32 + (alpha as u32 >> 7);
    let rb = ((over & 0xff_00ff) * a + (under & 0xff_00ff) * (256 - a)) >> 8;
    let g = ((over & 0x00_ff00) * a + (under & 0x00_ff00) * (256 - a)) >> 8;
    (rb & 0xff_00ff) | (g & 0x00_ff00)
}

/// The palette: a dark, quiet room in which the pictures are the brightest things.
pub(crate) mod colours {
    use super::Colour;

    pub(crate) const BACKGROUND: Colour = 0x14_161b;
    pub(crate) const CARD: Colour = 0x21_252e;
    pub(crate) const LETTERBOX: Colour = 0x0c_0d10;
    pub(crate) const PANEL: Colour = 0x1a_1d24;
    pub(crate) const FIELD: Colour = 0x29_2e39;
    pub(crate) const HOVER: Colour = 0x39_4050;
    pub(crate) const LINE: Colour = 0x2c_313c;
    pub(crate) const TEXT: Colour = 0xea_ecf0;
    pub(crate) const DIM: Colour = 0x9a_a3b2;
    pub(crate) const ACCENT: Colour = 0x3d_7eea;
    pub(crate) const RED: Colour = 0xd6_3b41;
    pub(crate) const GREEN: Colour = 0x3e_cf6b;
    pub(crate) const AMBER: Colour = 0xf2_b84b;
    /// A microphone that is off, on [`CARD`].
    pub(crate) const MUTED: Colour = 0xff_6b6b;
    /// Behind initials.
    pub(crate) const NO_PICTURE: Colour = 0x2b_303b;
    /// A message on its way.
    pub(crate) const PENDING: Colour = 0x7d_8594;
    pub(crate) const CARET: Colour = 0x8f_b8ff;
    pub(crate) const ON_AMBER: Colour = 0x2b_1f05;

    /// The colour of a person, the same in tiles and chat: bright enough to read as text on [`PANEL`].
    pub(crate) fn of_name(name: &str) -> Colour {
        // FNV-1a: stable from run to run, unlike the hashes of std.
        let hash = name.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        PEOPLE[(hash >> 7) as usize % PEOPLE.len()]
    }

    const PEOPLE: [Colour; 12] = [
        0xf2_8b82, 0xfb_b36b, 0xf5_d565, 0xa8_d672, 0x6f_d3a0, 0x63_d0d6, 0x77_b5fa, 0x9d_a5fb, 0xc3_98f5,
        0xe8_8fdc, 0xf5_8fb0, 0xd2_b48c,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixing_is_exact_at_both_ends() {
        for (under, over) in [(0x00_0000, 0xff_ffff), (0x12_3456, 0xfe_dcba), (0xff_ffff, 0x00_0000)] {
            assert_eq!(mix(under, over, 255), over);
            assert_eq!(mix(under, over, 0), under);
        }
        assert_eq!(mix(0x00_0000, 0xff_ffff, 128), 0x80_8080);
    }

    #[test]
    fn shapes_stay_within_their_clip() {
        let mut pixels = vec![7; 40 * 30];
        let mut canvas = Canvas::new(&mut pixels, (40, 30));
        let area = Rect { x: 5, y: 6, w: 10, h: 8 };
        let mut part = canvas.clipped(area);
        part.rounded(Rect { x: -20, y: -20, w: 100, h: 100 }, 9, 1);
        part.disc(5.0, 6.0, 30.0, 2);
        part.ring(Rect { x: 0, y: 0, w: 40, h: 30 }, 8, 3, 3);
        for y in 0..30 {
            for x in 0..40 {
                assert_eq!(pixels[(y * 40 + x) as usize] != 7, area.contains(x, y), "{x} {y}");
            }
        }
    }

    #[test]
    fn a_rounded_box_is_full_in_the_middle_and_open_at_the_corners() {
        let mut pixels = vec![0; 20 * 20];
        Canvas::new(&mut pixels, (20, 20)).rounded(Rect { x: 0, y: 0, w: 20, h: 20 }, 6, 0xff_ffff);
        assert_eq!(pixels[0], 0);
        assert_eq!(pixels[10 * 20 + 10], 0xff_ffff);
        assert_eq!(pixels[10], 0xff_ffff);
        assert_eq!(pixels[19 * 20 + 19], 0);
    }
}
