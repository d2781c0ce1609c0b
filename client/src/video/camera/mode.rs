//! Choosing how a camera shall deliver.

use std::fmt;
use std::io;

use nokhwa::utils::FrameFormat;
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::video::Capture;
use v4l::video::capture::Parameters;
use v4l::{Device, Format, FourCC};

use crate::picture::MAX_SIDE;

/// How a camera delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mode {
    /// What a buffer holds.
    pub format: PixelFormat,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Bytes from one row to the next; for JPEG without meaning.
    pub stride: usize,
    /// Pictures a second.
    pub fps: u32,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}x{} at {} fps", self.format, self.width, self.height, self.fps)
    }
}

/// The pixel formats we take, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PixelFormat {
    /// Packed 4:2:2.
    Yuyv,
    /// 4:2:0 with interleaved chroma.
    Nv12,
    /// One JPEG a picture: costs time to decode and quality, but passes USB 2 at any size.
    Mjpeg,
}

impl PixelFormat {
    const ALL: [Self; 3] = [Self::Yuyv, Self::Nv12, Self::Mjpeg];

    const fn fourcc(self) -> [u8; 4] {
        match self {
            Self::Yuyv => *b"YUYV",
            Self::Nv12 => *b"NV12",
            Self::Mjpeg => *b"MJPG",
        }
    }

    pub(super) const fn to_nokhwa(self) -> FrameFormat {
        match self {
            Self::Yuyv => FrameFormat::YUYV,
            Self::Nv12 => FrameFormat::NV12,
            Self::Mjpeg => FrameFormat::MJPEG,
        }
    }
}

impl fmt::Display for PixelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Yuyv => "YUYV",
            Self::Nv12 => "NV12",
            Self::Mjpeg => "MJPEG",
        })
    }
}

/// The formats of camera `index` that we take, best first.
pub(super) fn formats(index: u32) -> io::Result<Vec<PixelFormat>> {
    formats_of(&Device::new(index as usize)?)
}

fn formats_of(device: &Device) -> io::Result<Vec<PixelFormat>> {
    let offered = device.enum_formats()?;
    let has = |format: &PixelFormat| offered.iter().any(|offer| offer.fourcc.repr == format.fourcc());
    Ok(PixelFormat::ALL.into_iter().filter(has).collect())
}

/// Sets camera `index` to the mode nearest to `size` and `fps` and tells which it took. The device is closed again: the
/// mode stays.
pub(super) fn choose(index: u32, size: Option<(usize, usize)>, fps: Option<u32>) -> Result<Mode, String> {
    let device = Device::new(index as usize).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => format!("{e}: add your user to the group 'video'"),
        _ => e.to_string(),
    })?;
    let wish = Wish::new(size, fps);
    let formats = formats_of(&device).map_err(|e| format!("it lists no formats ({e})"))?;
    let offers = formats.into_iter().flat_map(|format| offers(&device, format, wish));
    let best = offers.min_by(|a, b| wish.cost(a).total_cmp(&wish.cost(b)));
    let best = best.ok_or("it has neither YUYV nor NV12 nor MJPEG: use another camera")?;
    set(&device, best)
}

fn set(device: &Device, offer: Offer) -> Result<Mode, String> {
    let busy = |e: io::Error| format!("{e}: is another program using it?");
    let fourcc = FourCC::new(&offer.format.fourcc());
    let got = device.set_format(&Format::new(offer.width, offer.height, fourcc)).map_err(busy)?;
    let format = PixelFormat::ALL.into_iter().find(|format| got.fourcc.repr == format.fourcc());
    let format = format.ok_or_else(|| format!("it delivers {} whatever is asked of it", got.fourcc))?;
    let (width, height) = (got.width as usize, got.height as usize);
    if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
        return Err(format!("it delivers {width}x{height}: the longest side is {MAX_SIDE}"));
    }
    let interval = device.set_params(&Parameters::with_fps(offer.fps)).map_err(busy)?.interval;
    if interval.numerator != 1 || interval.denominator == 0 {
        let (n, d) = (interval.denominator, interval.numerator);
        return Err(format!("its rate of {n}/{d} fps is no whole number: choose another with --fps"));
    }
    let row = if format == PixelFormat::Yuyv { width.div_ceil(2) * 4 } else { width.div_ceil(2) * 2 };
    // Some drivers leave the stride at 0.
    let stride = (got.stride as usize).max(row);
    Ok(Mode { format, width, height, stride, fps: interval.denominator })
}

/// A mode that a camera says it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offer {
    format: PixelFormat,
    width: u32,
    height: u32,
    fps: u32,
}

/// The sizes and rates of one format, of ranges those nearest to the wish.
fn offers(device: &Device, format: PixelFormat, wish: Wish) -> Vec<Offer> {
    let fourcc = FourCC::new(&format.fourcc());
    // A driver that lists no sizes or rates adjusts what it is given.
    let sizes = device.enum_framesizes(fourcc).map_or_else(
        |_| vec![(wish.width, wish.height)],
        |sizes| sizes.into_iter().map(|size| wish.nearest_size(&size.size)).collect(),
    );
    let mut offers = Vec::new();
    for (width, height) in sizes {
        let rates = device.enum_frameintervals(fourcc, width, height).map_or_else(
            |_| vec![wish.fps],
            |intervals| intervals.iter().filter_map(|i| wish.nearest_rate(&i.interval)).collect(),
        );
        offers.extend(rates.into_iter().map(|fps| Offer { format, width, height, fps }));
    }
    offers
}

#[derive(Clone, Copy, Debug)]
struct Wish {
    width: u32,
    height: u32,
    fps: u32,
}

impl Wish {
    fn new(size: Option<(usize, usize)>, fps: Option<u32>) -> Self {
        let (width, height) = size.unwrap_or(super::super::source::DEFAULT_SIZE);
        Self {
            width: width as u32,
            height: height as u32,
            fps: fps.unwrap_or(super::super::source::DEFAULT_FPS),
        }
    }

    fn nearest_size(self, size: &FrameSizeEnum) -> (u32, u32) {
        let step = |want: u32, min: u32, max: u32, step: u32| {
            let step = step.max(1);
            let steps = want.clamp(min, max.max(min)) - min;
            min + (steps + step / 2) / step * step
        };
        match size {
            FrameSizeEnum::Discrete(size) => (size.width, size.height),
            FrameSizeEnum::Stepwise(s) => (
                step(self.width, s.min_width, s.max_width, s.step_width).min(s.max_width),
                step(self.height, s.min_height, s.max_height, s.step_height).min(s.max_height),
            ),
        }
    }

    /// A rate as a whole number: nokhwa takes no other. A range gives the rate wished for, or its end.
    fn nearest_rate(self, interval: &FrameIntervalEnum) -> Option<u32> {
        match interval {
            FrameIntervalEnum::Discrete(i) => {
                (i.numerator == 1 && i.denominator > 0).then_some(i.denominator)
            }
            FrameIntervalEnum::Stepwise(range) => {
                // The shortest interval is the highest rate.
                let fastest = range.min.denominator.checked_div(range.min.numerator)?;
                let slowest = range.max.denominator.div_ceil(range.max.numerator.max(1));
                Some(self.fps.clamp(slowest.max(1), fastest.max(slowest).max(1)))
            }
        }
    }

    /// How far an offer is from the wish: sizes in octaves, a rate too low nearly as bad, one too high hardly, and JPEG
    /// decides between equals.
    fn cost(self, offer: &Offer) -> f64 {
        let octaves = |have: u32, want: u32| (f64::from(have.max(1)) / f64::from(want.max(1))).log2();
        let size = octaves(offer.width, self.width).abs() + octaves(offer.height, self.height).abs();
        let rate = octaves(offer.fps, self.fps);
        let rate = if rate < 0.0 { -rate } else { rate / 8.0 };
        let jpeg = if offer.format == PixelFormat::Mjpeg { 0.1 } else { 0.0 };
        size + rate + jpeg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(wish: Wish, offers: &[(PixelFormat, u32, u32, u32)]) -> (PixelFormat, u32, u32, u32) {
        let cost = |&(format, width, height, fps): &(PixelFormat, u32, u32, u32)| {
            wish.cost(&Offer { format, width, height, fps })
        };
        *offers.iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("offers")
    }

    #[test]
    fn raw_pictures_unless_they_are_slow_or_small() {
        use PixelFormat::{Mjpeg, Yuyv};
        let hd = Wish::new(Some((1280, 720)), Some(30));
        let usb2 =
            [(Yuyv, 640, 480, 30), (Yuyv, 1280, 720, 10), (Mjpeg, 640, 480, 30), (Mjpeg, 1280, 720, 30)];
        assert_eq!(best(hd, &usb2), (Mjpeg, 1280, 720, 30));
        assert_eq!(best(Wish::new(Some((640, 480)), Some(30)), &usb2), (Yuyv, 640, 480, 30));
        let rates = [(Yuyv, 640, 360, 15), (Yuyv, 640, 360, 60), (Yuyv, 640, 360, 120)];
        assert_eq!(best(Wish::new(None, None), &rates), (Yuyv, 640, 360, 60));
    }

    #[test]
    fn ranges_give_the_size_and_rate_wished_for() {
        let size = |max_width, max_height| {
            FrameSizeEnum::Stepwise(v4l::framesize::Stepwise {
                min_width: 48,
                max_width,
                step_width: 16,
                min_height: 32,
                max_height,
                step_height: 8,
            })
        };
        let wish = Wish::new(Some((640, 360)), Some(30));
        assert_eq!(wish.nearest_size(&size(1920, 1080)), (640, 360));
        assert_eq!(wish.nearest_size(&size(320, 200)), (320, 200));
        let rate = |min, max| {
            let fraction = |(n, d)| v4l::Fraction::new(n, d);
            FrameIntervalEnum::Stepwise(v4l::frameinterval::Stepwise {
                min: fraction(min),
                max: fraction(max),
                step: fraction((1, 1)),
            })
        };
        assert_eq!(wish.nearest_rate(&rate((1, 120), (1, 1))), Some(30));
        assert_eq!(wish.nearest_rate(&rate((1, 25), (1, 5))), Some(25));
        assert_eq!(wish.nearest_rate(&rate((0, 0), (0, 0))), None);
        let ntsc = FrameIntervalEnum::Discrete(v4l::Fraction::new(1001, 30_000));
        assert_eq!(wish.nearest_rate(&ntsc), None);
    }
}
