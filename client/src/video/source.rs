//! Where pictures come from: a camera, the test card or a file.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;
use vchat_proto::units::MediaTime;

use super::camera::{self, Camera};
use super::encoder::MAX_FPS;
use super::file::FileSource;
use super::test_card::TestCard;
use super::y4m::Y4mError;
use crate::clock::MediaClock;
use crate::picture::{MAX_SIDE, Picture};

/// Delivers pictures at its own pace.
pub trait Source: Send {
    /// Waits for the next picture and returns it. A caller that comes late gets the newest one and a gap in
    /// [`Captured::frame`]; nothing is queued for it.
    ///
    /// # Errors
    /// [`SourceError::Lost`]: one picture was bad, call again. [`SourceError::Gone`]: there will be no more.
    fn next_frame(&mut self) -> Result<Captured, SourceError>;

    /// What this is, for people: device, format, size and rate.
    fn describe(&self) -> String;
}

/// A picture and its place in time.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The picture.
    pub picture: Arc<Picture>,
    /// When it was taken.
    pub captured: MediaTime,
    /// Number of the picture since the source was opened. It has gaps where pictures were left out.
    pub frame: u32,
}

/// Why no picture came.
#[derive(Debug, Error)]
pub enum SourceError {
    /// This picture is lost, the next may come.
    #[error("a picture of {source_name} was lost: {why}")]
    Lost {
        /// Which source.
        source_name: String,
        /// What went wrong.
        why: String,
    },
    /// Unplugged, or silent for too long. The source must be opened anew.
    #[error("{source_name} is gone: {why}; plug it in again or choose another with --camera")]
    Gone {
        /// Which source.
        source_name: String,
        /// What went wrong.
        why: String,
    },
}

/// An open source.
pub struct Opened {
    /// Where the pictures come from.
    pub source: Box<dyn Source>,
    /// Width of its pictures in pixels.
    pub width: usize,
    /// Height of its pictures in pixels.
    pub height: usize,
    /// Pictures a second, rounded up.
    pub fps: u32,
}

/// Opens what `spec` names.
///
/// `size` and `fps` are wishes where a device decides, and orders for the test card and files. None is returned for
/// `none`, and for `auto` when no camera works, which is logged.
///
/// # Errors
/// The device or file cannot be used, or size or rate are out of range.
pub fn open(
    spec: &CameraSpec,
    size: Option<(usize, usize)>,
    fps: Option<u32>,
    clock: MediaClock,
) -> Result<Option<Opened>, OpenError> {
    check(size, fps)?;
    match spec {
        CameraSpec::None => Ok(None),
        CameraSpec::Auto => Ok(open_any(size, fps, clock)),
        CameraSpec::Device(name) => Camera::open(name, size, fps, clock).map(Some),
        CameraSpec::Test => {
            let (width, height) = size.unwrap_or(DEFAULT_SIZE);
            let fps = fps.unwrap_or(DEFAULT_FPS);
            let source = Box::new(TestCard::new(width, height, fps, clock));
            Ok(Some(Opened { source, width, height, fps }))
        }
        CameraSpec::File(path) => {
            let file = FileSource::open(path, size, fps, clock)?;
            let ((width, height), fps) = (file.size(), file.fps());
            Ok(Some(Opened { source: Box::new(file), width, height, fps }))
        }
    }
}

fn open_any(size: Option<(usize, usize)>, fps: Option<u32>, clock: MediaClock) -> Option<Opened> {
    for info in camera::list() {
        match Camera::open(&info.index.to_string(), size, fps, clock) {
            Ok(opened) => return Some(opened),
            Err(error) => tracing::warn!(camera = %info.name, %error, "camera skipped"),
        }
    }
    tracing::info!("no camera works, going on without video; use --camera test for a test card");
    None
}

fn check(size: Option<(usize, usize)>, fps: Option<u32>) -> Result<(), OpenError> {
    let side = super::encoder::MIN_SIDE..=MAX_SIDE;
    if let Some((width, height)) = size.filter(|(w, h)| !side.contains(w) || !side.contains(h)) {
        return Err(OpenError::Size(width, height));
    }
    fps.filter(|fps| !(1..=MAX_FPS).contains(fps)).map_or(Ok(()), |fps| Err(OpenError::Fps(fps)))
}

/// What `--camera` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CameraSpec {
    /// The first camera that works, or none.
    #[default]
    Auto,
    /// No video.
    None,
    /// The built-in test card.
    Test,
    /// A YUV4MPEG2 file, in real time, again and again.
    File(PathBuf),
    /// A camera by number, by device path or by (part of) its name.
    Device(String),
}

impl FromStr for CameraSpec {
    type Err = OpenError;

    fn from_str(s: &str) -> Result<Self, OpenError> {
        Ok(match s.trim() {
            "" => return Err(OpenError::Spec(s.to_owned())),
            "auto" => Self::Auto,
            "none" => Self::None,
            "test" => Self::Test,
            other => match other.strip_prefix("file:") {
                Some("") => return Err(OpenError::Spec(s.to_owned())),
                Some(path) => Self::File(path.into()),
                None => Self::Device(other.to_owned()),
            },
        })
    }
}

impl fmt::Display for CameraSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Test => f.write_str("test"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Device(name) => f.write_str(name),
        }
    }
}

/// Why a source was not opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// `--camera` makes no sense.
    #[error("'{0}' is no camera: use auto, none, test, file:PATH.y4m, or the name or number of a camera")]
    Spec(String),
    /// The size is out of range.
    #[error("cannot make pictures of {0}x{1}: sides go from 16 to {MAX_SIDE}")]
    Size(usize, usize),
    /// The rate is out of range.
    #[error("cannot make {0} pictures a second: use 1 to {MAX_FPS}")]
    Fps(u32),
    /// The file cannot be played.
    #[error(transparent)]
    File(#[from] Y4mError),
    /// The file has no picture.
    #[error("{} has no picture in it", .0.display())]
    Empty(PathBuf),
    /// No camera of that name.
    #[error("no camera matches '{name}' (there are: {known}): see vchat-client devices")]
    NoCamera {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The camera is there but does not work.
    #[error("cannot use camera {name}: {why}")]
    Camera {
        /// Which camera.
        name: String,
        /// What it said and what to do.
        why: String,
    },
}

/// What a call looks good in and every machine can encode.
pub(super) const DEFAULT_SIZE: (usize, usize) = (640, 360);
pub(super) const DEFAULT_FPS: u32 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> CameraSpec {
        text.parse().expect(text)
    }

    #[test]
    fn specs_are_read_and_written_alike() {
        for text in ["auto", "none", "test", "file:/a b/c.y4m", "0", "/dev/video2", "Integrated Camera: HD"] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("file:x.y4m"), CameraSpec::File("x.y4m".into()));
        assert_eq!(parse("HD"), CameraSpec::Device("HD".to_owned()));
        assert!("".parse::<CameraSpec>().is_err());
        let error = "file:".parse::<CameraSpec>().expect_err("no path").to_string();
        assert!(error.contains("'file:' is no camera"), "{error}");
    }

    #[test]
    fn sizes_and_rates_out_of_range_are_refused() {
        let open = |size, fps| open(&CameraSpec::Test, size, fps, MediaClock::new());
        assert!(matches!(open(Some((8, 360)), None), Err(OpenError::Size(8, 360))));
        assert!(matches!(open(Some((640, 9999)), None), Err(OpenError::Size(640, 9999))));
        assert!(matches!(open(None, Some(0)), Err(OpenError::Fps(0))));
        assert!(matches!(open(None, Some(1000)), Err(OpenError::Fps(1000))));
        let opened = open(Some((320, 180)), Some(60)).expect("opened").expect("a source");
        assert_eq!((opened.width, opened.height, opened.fps), (320, 180, 60));
        assert!(super::open(&CameraSpec::None, None, None, MediaClock::new()).expect("no error").is_none());
    }
}
