//! Cameras, through nokhwa.
//!
//! nokhwa 0.10 captures; around it this module does what it leaves open on Linux:
//! - It lists modes wrongly where a driver gives ranges instead of lists, and refuses rates that are no whole number. So
//!   the mode is chosen and set beforehand ([`mode`]) and nokhwa is asked for exactly that one.
//! - Its dequeue waits for ever. So it has a thread of its own, and [`Camera::next_frame`] gives up after [`SILENCE`].
//! - After a failed dequeue its stream is stuck. So the stream is opened anew.

mod mode;

use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use nokhwa::utils::{CameraFormat, CameraIndex, RequestedFormat, RequestedFormatType, Resolution};
use serde::Serialize;
use vchat_proto::units::MediaTime;

pub use self::mode::{Mode, PixelFormat};
use super::convert;
use super::scale;
use super::source::{Captured, OpenError, Opened, Source, SourceError};
use crate::clock::MediaClock;

/// A camera of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CameraInfo {
    /// Its number, as in `/dev/videoNUMBER`.
    pub index: u32,
    /// What its maker calls it.
    pub name: String,
    /// The pixel formats that it has and we can use, best first.
    pub formats: Vec<String>,
}

/// The cameras that can be opened and have a format we can use, by number.
#[must_use]
pub fn list() -> Vec<CameraInfo> {
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let mut indices: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("video")?.parse().ok()).collect();
    indices.sort_unstable();
    let info = |index| {
        let formats = mode::formats(index).ok().filter(|formats| !formats.is_empty())?;
        Some(CameraInfo {
            index,
            name: name_of(index),
            formats: formats.iter().map(ToString::to_string).collect(),
        })
    };
    indices.into_iter().filter_map(info).collect()
}

/// An open camera. Of what it delivers only the newest picture is kept, for whoever asks next.
pub struct Camera {
    name: String,
    mode: Mode,
    slot: Arc<Slot>,
}

impl Camera {
    /// Opens the camera `which` (a number, a path `/dev/videoN`, or part of a name) in the mode nearest to `size` and
    /// `fps`, raw formats before JPEG.
    ///
    /// # Errors
    /// There is no such camera, or it is in use or does not work.
    pub fn open(
        which: &str,
        size: Option<(usize, usize)>,
        fps: Option<u32>,
        clock: MediaClock,
    ) -> Result<Opened, OpenError> {
        let index = find(which)?;
        let name = name_of(index);
        let failed = |why: String| OpenError::Camera { name: name.clone(), why };
        let mode = mode::choose(index, size, fps).map_err(failed)?;
        let slot = Arc::new(Slot::default());
        let (ready, opened) = mpsc::sync_channel(1);
        let thread = {
            let (slot, mode) = (Arc::clone(&slot), mode.clone());
            move || {
                // Says so however the thread ends, by a panic in a driver binding too.
                let _ended = EndOnDrop(&slot);
                if let Err(why) = run(index, &mode, clock, &slot, &ready) {
                    slot.end(why);
                }
            }
        };
        std::thread::Builder::new()
            .name(format!("camera {index}"))
            .spawn(thread)
            .map_err(|e| failed(format!("cannot start a thread: {e}")))?;
        let answer = opened.recv_timeout(OPEN_TIMEOUT);
        if let Err(why) = answer.unwrap_or_else(|e| Err(format!("it does not start ({e}): plug it in again")))
        {
            slot.lock().closed = true;
            return Err(failed(why));
        }
        let (width, height, fps) = (mode.width, mode.height, mode.fps);
        Ok(Opened { source: Box::new(Self { name, mode, slot }), width, height, fps })
    }

    fn gone(&self, why: String) -> SourceError {
        SourceError::Gone { source_name: self.name.clone(), why }
    }
}

impl Source for Camera {
    fn next_frame(&mut self) -> Result<Captured, SourceError> {
        let deadline = Instant::now() + SILENCE;
        let mut state = self.slot.lock();
        let raw = loop {
            if let Some(raw) = state.newest.take() {
                break raw;
            }
            if let Some(why) = &state.ended {
                return Err(self.gone(why.clone()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.gone(format!("no picture for {} s", SILENCE.as_secs())));
            }
            state = self.slot.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(state);
        let Mode { width, height, stride, .. } = self.mode;
        let picture = match self.mode.format {
            PixelFormat::Yuyv => convert::yuyv(&raw.data, stride, width, height),
            PixelFormat::Nv12 => convert::nv12(&raw.data, stride, width, height),
            PixelFormat::Mjpeg => convert::mjpeg(&raw.data),
        }
        .map_err(|e| SourceError::Lost { source_name: self.name.clone(), why: e.to_string() })?;
        let picture = Arc::new(scale::scale_owned(picture, width, height));
        Ok(Captured { picture, captured: raw.captured, frame: raw.number })
    }

    fn describe(&self) -> String {
        format!("{}, {}", self.name, self.mode)
    }
}

impl Drop for Camera {
    /// Gives the thread a moment to let go of the device, so that it can be opened again at once.
    fn drop(&mut self) {
        let mut state = self.slot.lock();
        state.closed = true;
        let waiting =
            self.slot.changed.wait_timeout_while(state, CLOSE_TIMEOUT, |state| state.ended.is_none());
        drop(waiting);
    }
}

/// One place between the capture thread and the source. Latest wins: a picture that nobody took is replaced.
#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    newest: Option<Raw>,
    /// Why the thread ended.
    ended: Option<String>,
    /// The source is dropped and the thread should end.
    closed: bool,
}

impl Slot {
    /// A poisoned lock is fine: every change of the state is one assignment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, why: String) {
        self.lock().ended.get_or_insert(why);
        self.changed.notify_all();
    }
}

struct EndOnDrop<'a>(&'a Slot);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end("its thread stopped".to_owned());
    }
}

/// What the device delivered.
struct Raw {
    data: Bytes,
    captured: MediaTime,
    number: u32,
}

/// The capture thread: opens the device, says so to `ready`, and fills `slot` until that is closed. An error is why the
/// device is gone; it is closed by then.
fn run(
    index: u32,
    mode: &Mode,
    clock: MediaClock,
    slot: &Slot,
    ready: &mpsc::SyncSender<Result<(), String>>,
) -> Result<(), String> {
    // A receiver that is gone has given up on this camera; `closed` then ends the loop below.
    let mut camera = match start(index, mode) {
        Ok(camera) => {
            let _ = ready.send(Ok(()));
            camera
        }
        Err(why) => {
            let _ = ready.send(Err(why));
            return Ok(());
        }
    };
    let (mut number, mut failures) = (0_u32, 0);
    loop {
        match camera.frame() {
            Ok(buffer) => {
                failures = 0;
                let captured = clock.now() - buffer.capture_timestamp().map_or(Duration::ZERO, age);
                let mut state = slot.lock();
                if state.closed {
                    return Ok(());
                }
                state.newest = Some(Raw { data: buffer.buffer_bytes(), captured, number });
                drop(state);
                slot.changed.notify_all();
                number = number.wrapping_add(1);
            }
            Err(error) => {
                failures += 1;
                if slot.lock().closed {
                    return Ok(());
                }
                if !device(index).exists() {
                    return Err("unplugged".to_owned());
                }
                if failures > MAX_FAILURES {
                    return Err(error.to_string());
                }
                tracing::debug!(index, %error, "camera stream opened anew");
                camera.stop_stream().and_then(|()| camera.open_stream()).map_err(|e| e.to_string())?;
            }
        }
    }
}

fn start(index: u32, mode: &Mode) -> Result<nokhwa::Camera, String> {
    let format = mode.format.to_nokhwa();
    let resolution = Resolution::new(mode.width as u32, mode.height as u32);
    let exactly = RequestedFormatType::Exact(CameraFormat::new(resolution, format, mode.fps));
    let mut camera =
        nokhwa::Camera::new(CameraIndex::Index(index), RequestedFormat::with_formats(exactly, &[format]))
            .map_err(|e| e.to_string())?;
    camera.open_stream().map_err(|e| format!("{e}: is another program using it?"))?;
    Ok(camera)
}

/// How long ago the driver stamped a buffer. nokhwa gives the stamp as wall-clock time, made from the monotonic one at
/// the dequeue. Stamps that cannot be true (drivers that stamp with other clocks) count as now.
fn age(stamp: Duration) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.checked_sub(stamp).filter(|age| *age < MAX_AGE).unwrap_or_default()
}

/// The number of the camera that `which` means.
fn find(which: &str) -> Result<u32, OpenError> {
    let number = which.strip_prefix("/dev/video").unwrap_or(which).parse().ok();
    if let Some(index) = number.filter(|index| device(*index).exists()) {
        return Ok(index);
    }
    let cameras = list();
    let wanted = which.to_lowercase();
    let exact = cameras.iter().find(|camera| camera.name.to_lowercase() == wanted);
    let part = || cameras.iter().find(|camera| camera.name.to_lowercase().contains(&wanted));
    if let Some(camera) = exact.or_else(part).filter(|_| number.is_none()) {
        return Ok(camera.index);
    }
    let names: Vec<_> = cameras.iter().map(|camera| format!("{} {}", camera.index, camera.name)).collect();
    let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(OpenError::NoCamera { name: which.to_owned(), known })
}

fn device(index: u32) -> PathBuf {
    format!("/dev/video{index}").into()
}

fn name_of(index: u32) -> String {
    let name =
        std::fs::read_to_string(format!("/sys/class/video4linux/video{index}/name")).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { format!("camera {index}") } else { name.to_owned() }
}

/// A camera that shows nothing for so long will not again: even the slowest (5 fps in the dark) are ten times quicker,
/// and warming up takes less.
const SILENCE: Duration = Duration::from_secs(3);
/// USB cameras answer within a second, some after two.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// A running camera ends its thread with the next picture; a silent one is left to it.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// Failed reads in a row that are borne; each opens the stream anew.
const MAX_FAILURES: u32 = 3;
/// Four buffers at 5 fps are 0.8 s; anything older was stamped by another clock.
const MAX_AGE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_camera_that_is_not_there_is_named_in_the_error() {
        let error = Camera::open("no such camera", None, None, MediaClock::new()).err().expect("an error");
        assert!(error.to_string().contains("no camera matches 'no such camera'"), "{error}");
        assert!(Camera::open("/dev/video987", None, None, MediaClock::new()).is_err());
    }

    #[test]
    fn impossible_stamps_count_as_now() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        assert_eq!(age(Duration::from_secs(5)), Duration::ZERO);
        assert_eq!(age(now + Duration::from_secs(5)), Duration::ZERO);
        let age = age(now - Duration::from_millis(200));
        assert!((200..1000).contains(&age.as_millis()), "{age:?}");
    }
}
