//! A moving picture that needs no camera and tells, to people and machines, when it was taken.

use std::sync::Arc;

use vchat_proto::units::MediaTime;

use super::barcode::{self, Stamp};
use super::pace::Pacer;
use super::source::{Captured, Source, SourceError};
use crate::clock::MediaClock;
use crate::picture::Picture;

/// Colour bars, a ramp, a hand that turns once in two seconds, a ball that crosses the picture, the frame number in
/// digits, and the [`barcode`].
pub struct TestCard {
    /// All that stands still.
    background: Picture,
    fps: u32,
    pacer: Pacer,
    clock: MediaClock,
}

impl TestCard {
    /// A card of `width` x `height` pixels, `fps` times a second from now on.
    #[must_use]
    pub fn new(width: usize, height: usize, fps: u32, clock: MediaClock) -> Self {
        let fps = fps.max(1);
        Self { background: background(width, height), fps, pacer: Pacer::new((fps, 1)), clock }
    }

    /// The card's picture number `frame`, stamped with `captured`.
    #[must_use]
    pub fn paint(&self, frame: u32, captured: MediaTime) -> Picture {
        let mut picture = self.background.clone();
        let (width, height) = (picture.width() as f32, picture.height() as f32);
        let unit = width.min(height) / 24.0;

        let turn = frame as f32 / (self.fps as f32 * HAND_SECONDS) * std::f32::consts::TAU;
        let (x, y) = (width * 0.5, height * 0.42);
        let tip = (x + turn.sin() * unit * 5.2, y - turn.cos() * unit * 5.2);
        line(&mut picture, (x, y), tip, unit * 0.35, WHITE);

        let way = (frame as f32 / (self.fps as f32 * BALL_SECONDS)).fract();
        let ball =
            (way * width, height * 0.78 - (way * std::f32::consts::TAU * 2.0).sin().abs() * height * 0.08);
        disc(&mut picture, ball, unit, RED);

        digits(&mut picture, frame, (unit * 0.8, height * 0.72), unit * 1.6);
        barcode::paint(&mut picture, Stamp { frame, captured });
        picture
    }
}

impl Source for TestCard {
    fn next_frame(&mut self) -> Result<Captured, SourceError> {
        let frame = self.pacer.wait() as u32;
        let captured = self.clock.now();
        Ok(Captured { picture: Arc::new(self.paint(frame, captured)), captured, frame })
    }

    fn describe(&self) -> String {
        let (width, height) = (self.background.width(), self.background.height());
        format!("test card, {width}x{height} at {} fps", self.fps)
    }
}

/// Bars above, a grey ramp below, and the dial of the hand.
fn background(width: usize, height: usize) -> Picture {
    let mut picture = Picture::black(width, height);
    let (bars_end, ramp_end) = (height * 66 / 100, height * 70 / 100);
    for y in 0..height {
        for x in 0..width {
            let colour = if y < bars_end {
                BARS[x * BARS.len() / width]
            } else if y < ramp_end {
                (16 + (x * 219 / width) as u8, 128, 128)
            } else {
                GROUND
            };
            set(&mut picture, x, y, colour);
        }
    }
    let (w, h) = (width as f32, height as f32);
    let unit = w.min(h) / 24.0;
    let centre = (w * 0.5, h * 0.42);
    disc(&mut picture, centre, unit * 6.4, WHITE);
    disc(&mut picture, centre, unit * 6.0, DIAL);
    for mark in 0..12 {
        let angle = mark as f32 * std::f32::consts::TAU / 12.0;
        let at = |r: f32| (centre.0 + angle.sin() * unit * r, centre.1 - angle.cos() * unit * r);
        line(&mut picture, at(5.3), at(5.8), unit * 0.12, WHITE);
    }
    picture
}

type Colour = (u8, u8, u8);

/// Sets one pixel; chroma, shared by four, is that of the last one set.
fn set(picture: &mut Picture, x: usize, y: usize, (luma, cb, cr): Colour) {
    let (width, chroma_width) = (picture.width(), picture.chroma_width());
    let [py, pu, pv] = picture.planes_mut();
    py[y * width + x] = luma;
    pu[y / 2 * chroma_width + x / 2] = cb;
    pv[y / 2 * chroma_width + x / 2] = cr;
}

/// Sets the pixels of a box for which `inside` holds at their centre.
fn fill(
    picture: &mut Picture,
    (left, top): (f32, f32),
    (right, bottom): (f32, f32),
    colour: Colour,
    inside: impl Fn(f32, f32) -> bool,
) {
    // The conversion saturates at 0 and the clamp at the size: shapes may reach over the edge.
    let columns = left as usize..(right.ceil() as usize).min(picture.width());
    for y in top as usize..(bottom.ceil() as usize).min(picture.height()) {
        for x in columns.clone() {
            if inside(x as f32 + 0.5, y as f32 + 0.5) {
                set(picture, x, y, colour);
            }
        }
    }
}

fn disc(picture: &mut Picture, (cx, cy): (f32, f32), radius: f32, colour: Colour) {
    fill(picture, (cx - radius, cy - radius), (cx + radius, cy + radius), colour, |x, y| {
        (x - cx).powi(2) + (y - cy).powi(2) <= radius * radius
    });
}

/// A line with round ends.
fn line(picture: &mut Picture, from: (f32, f32), to: (f32, f32), half: f32, colour: Colour) {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = (dx * dx + dy * dy).max(f32::EPSILON);
    let low = (from.0.min(to.0) - half, from.1.min(to.1) - half);
    let high = (from.0.max(to.0) + half, from.1.max(to.1) + half);
    fill(picture, low, high, colour, |x, y| {
        let along = (((x - from.0) * dx + (y - from.1) * dy) / length).clamp(0.0, 1.0);
        (x - from.0 - along * dx).powi(2) + (y - from.1 - along * dy).powi(2) <= half * half
    });
}

/// Writes a number in seven-segment digits, `height` pixels high.
fn digits(picture: &mut Picture, number: u32, (mut x, y): (f32, f32), height: f32) {
    let (w, h, half) = (height * 0.45, height, height * 0.07);
    for digit in format!("{number:06}").bytes().map(|b| SEGMENTS[usize::from(b - b'0')]) {
        let corners = [(0.0, 0.0), (w, 0.0), (0.0, h / 2.0), (w, h / 2.0), (0.0, h), (w, h)];
        for (bit, (a, b)) in STROKES.iter().enumerate() {
            if digit >> bit & 1 == 1 {
                let at = |i: usize| (x + corners[i].0, y + corners[i].1);
                line(picture, at(*a), at(*b), half, WHITE);
            }
        }
        x += height * 0.75;
    }
}

/// The strokes of a digit between its six corners (left and right, from top to bottom), in the order of the bits below.
const STROKES: [(usize, usize); 7] = [(0, 1), (1, 3), (3, 5), (4, 5), (2, 4), (0, 2), (2, 3)];
/// Which strokes make 0 to 9.
const SEGMENTS: [u8; 10] = [0x3F, 0x06, 0x5B, 0x4F, 0x66, 0x6D, 0x7D, 0x07, 0x7F, 0x6F];
/// White, yellow, cyan, green, magenta, red, blue at 75 %, as in the classic card (ITU-R BT.471), in BT.601.
const BARS: [Colour; 7] = [
    (180, 128, 128),
    (162, 44, 142),
    (131, 156, 44),
    (112, 72, 58),
    (84, 184, 198),
    (65, 100, 212),
    (35, 212, 114),
];
const GROUND: Colour = (40, 134, 124);
const DIAL: Colour = (32, 140, 122);
const WHITE: Colour = (235, 128, 128);
const RED: Colour = (81, 90, 240);
/// Slow enough to follow with the eye, quick enough to see each freeze.
const HAND_SECONDS: f32 = 2.0;
const BALL_SECONDS: f32 = 4.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_carry_their_stamp_and_move() {
        let clock = MediaClock::new();
        let mut card = TestCard::new(640, 360, 200, clock);
        let before = clock.now();
        let first = card.next_frame().expect("a picture");
        let second = card.next_frame().expect("a picture");
        assert!(second.frame > first.frame && second.captured > first.captured && first.captured >= before);
        for got in [&first, &second] {
            let stamp = Stamp { frame: got.frame, captured: got.captured };
            assert_eq!(barcode::read(&got.picture), Some(stamp));
        }
        let above = |got: &Captured| got.picture.planes()[0][..640 * 300].to_vec();
        assert_ne!(above(&first), above(&second), "people see it move");
    }

    #[test]
    fn every_size_can_be_painted() {
        for (width, height) in [(16, 16), (17, 4096), (4096, 17), (161, 91), (1920, 1080)] {
            let card = TestCard::new(width, height, 30, MediaClock::new());
            for frame in [0, 1, 29, 59, 1_000_000, u32::MAX] {
                let picture = card.paint(frame, MediaTime::MAX);
                assert_eq!((picture.width(), picture.height()), (width, height));
            }
        }
    }
}
