//! A film whose every picture is known, to compare what is shown with.
//!
//! A head and shoulders that move and turn before a room, seen by a small sensor with its noise that is not quite at rest:
//! about as hard to encode as people before a laptop. Each picture carries its number in the barcode of the test card. The film ends where
//! it begins, so that it can be played again and again without a cut.

use std::f32::consts::TAU;
use std::path::{Path, PathBuf};

use vchat_client::picture::Picture;
use vchat_client::video::barcode::{self, Stamp};
use vchat_client::video::{scale, y4m};
use vchat_proto::units::MediaTime;

use crate::netem::Random;

/// The film as a file, and what is needed to judge copies of its pictures.
#[derive(Debug)]
pub(super) struct Clip {
    pub(super) path: PathBuf,
    /// Pictures a second.
    pub(super) fps: u32,
    size: (usize, usize),
    /// Brightness of each picture.
    lumas: Vec<Vec<u8>>,
}

impl Clip {
    /// Writes the film of `width` x `height` pixels to `path`: [`SECONDS`] long, with noise up to twice `noise` steps of brightness.
    pub(super) fn create(
        path: &Path,
        (width, height): (u32, u32),
        fps: u32,
        noise: f32,
    ) -> anyhow::Result<Self> {
        let size = (width as usize, height as usize);
        let mut writer = y4m::Writer::create(path, size.0, size.1, fps)?;
        let scene = Scene::new(size);
        let mut lumas = Vec::new();
        for frame in 0..fps * SECONDS {
            let picture = scene.paint(frame, fps * SECONDS, noise);
            writer.write(&picture)?;
            lumas.push(picture.planes()[0].clone());
        }
        writer.flush()?;
        Ok(Self { path: path.into(), fps, size, lumas })
    }

    /// How many pictures there are before it starts over.
    pub(super) const fn len(&self) -> usize {
        self.lumas.len()
    }

    /// How alike a copy of picture number `frame` is to its original: peak signal-to-noise ratio of brightness in decibels,
    /// of all but the barcode. `None` when there is no such picture.
    ///
    /// A copy of another size is compared with the original in that size.
    pub(super) fn psnr(&self, frame: u32, copy: &Picture) -> Option<f64> {
        let luma = self.lumas.get(usize::try_from(frame).ok()?)?;
        let (width, height) = (copy.width(), copy.height());
        let scaled;
        let original = if (width, height) == self.size {
            luma.as_slice()
        } else {
            let mut picture = Picture::black(self.size.0, self.size.1);
            picture.planes_mut()[0].copy_from_slice(luma);
            scaled = scale::scale_owned(picture, width, height);
            &scaled.planes()[0]
        };
        let counted = width * (height - height * BARCODE_SHARE.0 / BARCODE_SHARE.1);
        let errors = original.iter().zip(&copy.planes()[0]).take(counted);
        let sum: u64 = errors.map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
        // Equal pictures have no noise at all; this is far above what any encoder reaches.
        Some(if sum == 0 { 99.0 } else { 10.0 * (255.0_f64.powi(2) * counted as f64 / sum as f64).log10() })
    }
}

/// What things look like, and where they move.
struct Scene {
    size: (usize, usize),
    wall: Texture,
    skin: Texture,
    cloth: Texture,
}

impl Scene {
    fn new(size: (usize, usize)) -> Self {
        Self { size, wall: Texture::new(1), skin: Texture::new(2), cloth: Texture::new(3) }
    }

    /// The brightness of the room: a window on one side, a shelf on the other, plaster.
    fn room(&self, x: f32, y: f32) -> f32 {
        let light = 60.0 * (-((x - 0.3) / 0.35).powi(2) - ((y - 0.25) / 0.3).powi(2)).exp();
        let shelf = if x > 1.25 && (y * 6.0).fract() < 0.12 { -28.0 } else { 0.0 };
        95.0 + light + shelf + 26.0 * self.wall.at(x * 3.0, y * 3.0) + 16.0 * self.wall.at(x * 35.0, y * 35.0)
    }

    fn paint(&self, frame: u32, period: u32, noise: f32) -> Picture {
        let (width, height) = self.size;
        let mut picture = Picture::black(width, height);
        let chroma_width = picture.chroma_width();
        let turn = |times: f32| (TAU * times * frame as f32 / period as f32).sin();
        // Swaying and nodding at several speeds that all fit into the film.
        let head =
            (0.89 + 0.12 * turn(3.0) + 0.016 * turn(17.0), 0.42 + 0.03 * turn(5.0) + 0.008 * turn(23.0));
        let sway = (0.008 * turn(9.0), 0.006 * turn(13.0));
        let face = (0.05 * turn(4.0), 0.03 * turn(7.0));
        let mouth = 0.02 + 0.018 * turn(31.0) * turn(11.0);
        let mut random = Random::new(u64::from(frame), 7);
        let [py, pu, pv] = picture.planes_mut();
        for row in 0..height {
            let y = row as f32 / height as f32;
            for column in 0..width {
                let x = column as f32 / height as f32;
                let at = row * width + column;
                let (dx, dy) = (x - head.0, y - head.1);
                let (luma, cb, cr) = if (dx / 0.19).powi(2) + (dy / 0.27).powi(2) < 1.0 {
                    let (fx, fy) = (dx - face.0, dy - face.1);
                    let round = 1.0 - 0.6 * ((dx / 0.19).powi(2) + (dy / 0.27).powi(2));
                    let spot = |cx: f32, cy: f32, rx: f32, ry: f32| {
                        ((fx - cx) / rx).powi(2) + ((fy - cy) / ry).powi(2) < 1.0
                    };
                    let dark = spot(-0.07, -0.05, 0.03, 0.016)
                        || spot(0.07, -0.05, 0.03, 0.016)
                        || spot(0.0, 0.13, 0.055, mouth.max(0.006));
                    let hair = dy < -0.15 + 0.04 * self.cloth.at(dx * 9.0, 1.0);
                    let grain = self.skin.at(fx * 22.0, fy * 22.0);
                    match (hair, dark) {
                        (true, _) => (60.0 + 36.0 * self.cloth.at(fx * 55.0, fy * 14.0), 124, 134),
                        (false, true) => (55.0 + 5.0 * grain, 126, 138),
                        (false, false) => (120.0 + 55.0 * round + 14.0 * grain, 112, 152),
                    }
                } else if (dx * 0.62).powi(2) + ((y - 1.02) * 1.1).powi(2) < 0.098 {
                    // Shoulders follow the head by half.
                    let cloth = self.cloth.at((x - 0.5 * head.0) * 40.0, y * 40.0);
                    (85.0 + 26.0 * cloth + 10.0 * (x * 60.0 - 30.0 * head.0).sin(), 138, 118)
                } else {
                    (self.room(x + sway.0, y + sway.1), 126, 130)
                };
                // The sum of two even distributions, from -2 to 2.
                let bits = random.bits();
                let grain = ((bits & 0xffff) as f32 + (bits >> 16 & 0xffff) as f32) / 32_768.0 - 2.0;
                py[at] = (luma + noise * grain).round().clamp(16.0, 235.0) as u8;
                let chroma = row / 2 * chroma_width + column / 2;
                (pu[chroma], pv[chroma]) = (cb, cr);
            }
        }
        barcode::paint(&mut picture, Stamp { frame, captured: MediaTime::from_micros(0) });
        picture
    }
}

/// A smooth random surface from -1 to 1: values at whole coordinates, and between them a cubic blend.
struct Texture(Vec<f32>);

impl Texture {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, 0);
        Self((0..TEXTURE * TEXTURE).map(|_| 2.0 * random.unit() as f32 - 1.0).collect())
    }

    fn at(&self, x: f32, y: f32) -> f32 {
        let (left, top) = (x.floor(), y.floor());
        let blend = |t: f32| t * t * (3.0 - 2.0 * t);
        let (u, v) = (blend(x - left), blend(y - top));
        let value = |dx: i64, dy: i64| {
            let side = TEXTURE as i64;
            let (x, y) = ((left as i64 + dx).rem_euclid(side), (top as i64 + dy).rem_euclid(side));
            self.0[(y * side + x) as usize]
        };
        let row = |dy| value(0, dy) * (1.0 - u) + value(1, dy) * u;
        row(0) * (1.0 - v) + row(1) * v
    }
}

/// Long enough that nothing in the network repeats with it.
const SECONDS: u32 = 10;
/// Values across a texture before it repeats.
const TEXTURE: usize = 64;
/// A deviation of 1.5 steps of brightness, a webcam in a room: an encoder that leaves the noise out reaches 44.8 dB.
pub(super) const NOISE: f32 = 1.8;
/// The same of a webcam in the evening, 3.3 steps, which no encoder leaves out at 2 Mb/s: 37.8 dB.
pub(super) const DIM_NOISE: f32 = 4.0;
/// The barcode's share of the height, from below.
const BARCODE_SHARE: (usize, usize) = (6, 45);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_find_their_originals_and_are_judged() {
        let dir = tempfile::tempdir().expect("a directory");
        let clip = Clip::create(&dir.path().join("clip.y4m"), (160, 90), 3, NOISE).expect("written");
        assert_eq!(clip.len(), 30);
        let mut reader = y4m::Reader::open(&clip.path).expect("readable");
        let mut count = 0;
        while let Some(mut picture) = reader.read().expect("readable") {
            let stamp = barcode::read(&picture).expect("a barcode");
            assert_eq!(stamp.frame, count);
            assert_eq!(clip.psnr(stamp.frame, &picture), Some(99.0));
            // An error of 4 everywhere.
            picture.planes_mut()[0].iter_mut().for_each(|luma| *luma += 4);
            let psnr = clip.psnr(stamp.frame, &picture).expect("an original");
            assert!((psnr - 36.09).abs() < 0.01, "{psnr}");
            let small = scale::scale(&picture, 80, 45);
            let psnr = clip.psnr(stamp.frame, &small).expect("an original");
            assert!((psnr - 36.09).abs() < 0.2, "{psnr}");
            assert!(clip.psnr((stamp.frame + 5) % 30, &picture).expect("an original") < 30.0);
            count += 1;
        }
        assert_eq!(count, 30);
        assert_eq!(clip.psnr(30, &Picture::black(160, 90)), None);
    }
}
