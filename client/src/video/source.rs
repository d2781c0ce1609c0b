//! Where pictures come from: a camera, the test card or a file.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use vchat_proto::units::MediaTime;

use super::camera::{self, Camera};
use super::encoder::MAX_FPS;
use super::scale;
use super::test_card::TestCard;
use super::y4m::{self, Y4mError};
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
            let ((width, height), fps) = (file.size, file.fps());
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

/// Absolute deadlines at a fixed rate: no drift, whatever each round takes.
pub(super) struct Pacer {
    start: Instant,
    /// Rounds a second, as a fraction.
    rate: (u32, u32),
    next: u64,
}

impl Pacer {
    pub(super) fn new(rate: (u32, u32)) -> Self {
        Self { start: Instant::now(), rate, next: 0 }
    }

    /// Sleeps until the next round and returns its number. Rounds that are over already are left out.
    pub(super) fn wait(&mut self) -> u64 {
        let nanos = self.start.elapsed().as_nanos() * u128::from(self.rate.0);
        let now = u64::try_from(nanos / (1_000_000_000 * u128::from(self.rate.1))).unwrap_or(u64::MAX);
        let round = self.next.max(now);
        // Rounded up, or a second call within the same nanosecond would find the round not begun.
        let at = (u128::from(round) * 1_000_000_000 * u128::from(self.rate.1)).div_ceil(self.rate.0.into());
        let at = self.start + Duration::from_nanos(u64::try_from(at).unwrap_or(u64::MAX));
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        self.next = round + 1;
        round
    }
}

/// A file played in real time, again and again.
///
/// With another rate than the file's own, pictures are left out or repeated: time passes as in the file.
struct FileSource {
    path: PathBuf,
    reader: y4m::Reader,
    size: (usize, usize),
    rate: (u32, u32),
    pacer: Pacer,
    clock: MediaClock,
    /// The picture shown last, and how many were read to get there.
    current: Option<Arc<Picture>>,
    read: u64,
}

impl FileSource {
    fn open(
        path: &PathBuf,
        size: Option<(usize, usize)>,
        fps: Option<u32>,
        clock: MediaClock,
    ) -> Result<Self, OpenError> {
        let mut reader = y4m::Reader::open(path)?;
        if reader.read()?.is_none() {
            return Err(OpenError::Empty(path.clone()));
        }
        reader.rewind()?;
        let size = size.unwrap_or((reader.width(), reader.height()));
        let rate = fps.map_or(reader.rate(), |fps| (fps, 1));
        let pacer = Pacer::new(rate);
        Ok(Self { path: path.clone(), reader, size, rate, pacer, clock, current: None, read: 0 })
    }

    fn fps(&self) -> u32 {
        self.rate.0.div_ceil(self.rate.1)
    }

    /// Reads on until `count` pictures were read in all.
    fn advance(&mut self, count: u64) -> Result<(), Y4mError> {
        let mut newest = None;
        while self.read < count {
            newest = self.reader.read()?;
            if newest.is_none() {
                self.reader.rewind()?;
                newest = self.reader.read()?;
            }
            self.read += 1;
        }
        if let Some(picture) = newest {
            self.current = Some(Arc::new(scale::scale_owned(picture, self.size.0, self.size.1)));
        }
        Ok(())
    }

    fn gone(&self, why: String) -> SourceError {
        SourceError::Gone { source_name: self.path.display().to_string(), why }
    }
}

impl Source for FileSource {
    fn next_frame(&mut self) -> Result<Captured, SourceError> {
        let round = self.pacer.wait();
        let captured = self.clock.now();
        // Which picture of the file is on at this time: round / rate * file rate.
        let (n, d) = self.reader.rate();
        let index = u128::from(round) * u128::from(self.rate.1) * u128::from(n)
            / (u128::from(self.rate.0) * u128::from(d));
        let index = u64::try_from(index).unwrap_or(u64::MAX - 1);
        self.advance(index + 1).map_err(|e| self.gone(e.to_string()))?;
        let picture = self.current.clone().ok_or_else(|| self.gone("it has no picture".to_owned()))?;
        Ok(Captured { picture, captured, frame: round as u32 })
    }

    fn describe(&self) -> String {
        let (n, d) = self.rate;
        let fps = f64::from(n) / f64::from(d);
        format!("file {}, {}x{} at {fps:.4} fps", self.path.display(), self.size.0, self.size.1)
    }
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

    fn file_of(count: u8, fps: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut writer = y4m::Writer::create(file.path(), 32, 32, fps).expect("created");
        for i in 0..count {
            let mut picture = Picture::black(32, 32);
            picture.planes_mut()[0].fill(20 + i);
            writer.write(&picture).expect("written");
        }
        file
    }

    fn open_file(file: &tempfile::NamedTempFile, size: Option<(usize, usize)>, fps: Option<u32>) -> Opened {
        let spec = CameraSpec::File(file.path().to_owned());
        open(&spec, size, fps, MediaClock::new()).expect("opened").expect("a source")
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

    #[test]
    fn files_loop_and_keep_their_rate_and_are_scaled() {
        let mut opened = open_file(&file_of(3, 100), Some((16, 16)), None);
        assert_eq!((opened.width, opened.height, opened.fps), (16, 16, 100));
        for _ in 0..7 {
            let got = opened.source.next_frame().expect("a picture");
            assert_eq!((got.picture.width(), got.picture.height()), (16, 16));
            // Frames may be left out on a slow machine; number and picture still belong together.
            assert_eq!(u32::from(got.picture.planes()[0][0]), 20 + got.frame % 3);
        }
    }

    #[test]
    fn another_rate_keeps_the_speed_of_the_file() {
        let mut opened = open_file(&file_of(100, 50), None, Some(200));
        for _ in 0..12 {
            let got = opened.source.next_frame().expect("a picture");
            assert_eq!(u32::from(got.picture.planes()[0][0]), 20 + got.frame / 4);
        }
    }

    #[test]
    fn files_without_pictures_and_cut_short_ones_are_errors() {
        let empty = file_of(0, 25);
        let error = open(&CameraSpec::File(empty.path().into()), None, None, MediaClock::new()).err();
        assert!(matches!(error, Some(OpenError::Empty(_))));
        let cut = file_of(2, 200);
        let length = std::fs::metadata(cut.path()).expect("a file").len();
        cut.as_file().set_len(length - 1).expect("cut");
        let mut opened = open_file(&cut, None, None);
        let error = (0..3).find_map(|_| opened.source.next_frame().err()).expect("an error");
        assert!(matches!(error, SourceError::Gone { .. }), "{error}");
    }

    #[test]
    fn the_pacer_neither_drifts_nor_queues() {
        let mut pacer = Pacer::new((1000, 3));
        let start = pacer.start;
        for _ in 0..20 {
            let round = pacer.wait();
            assert!(start.elapsed() >= Duration::from_micros(3000 * round), "not too early");
        }
        let before = pacer.next;
        std::thread::sleep(Duration::from_millis(30));
        assert!(pacer.wait() >= before + 9, "rounds that are over are left out");
    }
}
