//! Our own video: a thread that captures and one that encodes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vchat_proto::stats::Distribution;
use vchat_proto::units::Bitrate;

use super::stream::{Stream, StreamError};
use crate::clock::MediaClock;
use crate::net::Media;
use crate::news::{News, NewsSender};
use crate::picture::Picture;
use crate::slot::Slot;
use crate::video::encoder::Kind;
use crate::video::source::{self, Captured, OpenError, Opened, SourceError};
use crate::video::{CameraSpec, Encoding};

/// The camera and its encoder. While it is off the device is closed, so that its light goes out.
pub(crate) struct Camera {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// How to capture and encode.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) spec: CameraSpec,
    pub(crate) size: Option<(usize, usize)>,
    pub(crate) fps: Option<u32>,
    pub(crate) encoder: Kind,
    /// The most to send; none for what suits the size.
    pub(crate) max_bitrate: Option<Bitrate>,
}

/// Why there is no camera.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The system has no thread for it.
    #[error("cannot start a thread for the camera: {0}")]
    Thread(String),
}

struct Shared {
    plan: Plan,
    clock: MediaClock,
    on: AtomicBool,
    stop: AtomicBool,
    /// Pictures for the encoder, with what the source delivers.
    to_encode: Slot<(Captured, u32)>,
    self_view: Slot<Arc<Picture>>,
    encode_times: Mutex<Distribution>,
    target: Mutex<Bitrate>,
    news: NewsSender,
}

impl Camera {
    /// Opens the camera and starts sending. The result has no camera open when `auto` finds none.
    ///
    /// # Errors
    /// A camera that was asked for by name, or a file, cannot be opened.
    pub(crate) fn start(
        plan: Plan,
        clock: MediaClock,
        media: Media,
        news: NewsSender,
    ) -> Result<Self, StartError> {
        let opened = source::open(&plan.spec, plan.size, plan.fps, clock)?;
        let shared = Arc::new(Shared {
            plan,
            clock,
            on: AtomicBool::new(opened.is_some()),
            stop: AtomicBool::new(false),
            to_encode: Slot::default(),
            self_view: Slot::default(),
            encode_times: Mutex::default(),
            target: Mutex::new(Bitrate::from_bps(0)),
            news,
        });
        let (capture, encode) = (shared.clone(), shared.clone());
        // When the second cannot start, dropping the first ends it.
        let mut camera = Self { shared, threads: Vec::new() };
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let failed = |e: std::io::Error| StartError::Thread(e.to_string());
        camera.threads.push(thread("camera").spawn(move || capture.capture(opened)).map_err(failed)?);
        camera.threads.push(thread("encode").spawn(move || encode.encode(&media)).map_err(failed)?);
        Ok(camera)
    }

    /// Whether the camera is meant to run.
    pub(crate) fn is_on(&self) -> bool {
        self.shared.on.load(Ordering::Relaxed)
    }

    /// Opens or closes the camera. That it cannot be opened is told as [`News::CameraGone`].
    pub(crate) fn set_on(&self, on: bool) {
        self.shared.on.store(on, Ordering::Relaxed);
    }

    /// The newest picture for our own tile.
    pub(crate) fn take_self_view(&self) -> Option<Arc<Picture>> {
        self.shared.self_view.take()
    }

    /// How long pictures took to encode since the last call, in microseconds, and the present target of the full encoding.
    pub(crate) fn take_encode_times(&self) -> (Distribution, Bitrate) {
        let times =
            std::mem::take(&mut *self.shared.encode_times.lock().unwrap_or_else(PoisonError::into_inner));
        (times, *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there has been reported on its own.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// The capturing thread: opens the source while the camera is on, closes it while it is off.
    fn capture(&self, mut opened: Option<Opened>) {
        while self.running() {
            if !self.on.load(Ordering::Relaxed) {
                opened = None;
                std::thread::sleep(OFF_POLL);
                continue;
            }
            let source = match opened.take() {
                Some(source) => Ok(Some(source)),
                None => source::open(&self.plan.spec, self.plan.size, self.plan.fps, self.clock),
            };
            match source {
                Ok(Some(source)) => self.capture_from(source),
                Ok(None) => self.gone("there is no camera; plug one in and switch it on again".into()),
                Err(e) => self.gone(e.to_string()),
            }
        }
    }

    fn capture_from(&self, mut opened: Opened) {
        tracing::info!("camera: {}", opened.source.describe());
        while self.running() && self.on.load(Ordering::Relaxed) {
            match opened.source.next_frame() {
                Ok(captured) => {
                    if self.self_view.put(captured.picture.clone()) {
                        drop(self.news.send(News::SelfView));
                    }
                    self.to_encode.put((captured, opened.fps));
                }
                Err(e @ SourceError::Lost { .. }) => tracing::debug!("{e}"),
                Err(e @ SourceError::Gone { .. }) => return self.gone(e.to_string()),
            }
        }
    }

    fn gone(&self, why: String) {
        self.on.store(false, Ordering::Relaxed);
        drop(self.news.send(News::CameraGone(why)));
    }

    /// The encoding thread: takes the newest picture whenever the network has room for one.
    fn encode(&self, media: &Media) {
        super::give_way();
        let mut streams = [Encoding::Full, Encoding::Small]
            .map(|encoding| Stream::new(encoding, self.plan.encoder, self.plan.max_bitrate));
        while self.running() {
            let Some((captured, fps)) = self.to_encode.take_timeout(STOP_POLL) else { continue };
            // A picture that cannot be sent now is dropped before it is encoded: a frame dropped later would break all
            // that refer to it.
            let demand = &media.demand;
            let size = (captured.picture.width(), captured.picture.height());
            demand.full.set_max(streams[0].max((size, fps)));
            if !demand.live.load(Ordering::Relaxed)
                || demand.hold.load(Ordering::Relaxed)
                || media.video.capacity() < streams.len()
            {
                continue;
            }
            let mut took = None;
            for stream in &mut streams {
                let started = Instant::now();
                let wanted = demand.of(stream.encoding());
                if wanted.is_paused() {
                    continue;
                }
                match stream.encode(started, &captured, fps, wanted) {
                    Ok(frames) if frames.is_empty() => {}
                    Ok(frames) => {
                        *took.get_or_insert(Duration::ZERO) += started.elapsed();
                        for frame in frames {
                            if media.video.blocking_send(frame).is_err() {
                                return;
                            }
                        }
                    }
                    Err(StreamError::Open(e)) => self.gone(format!("cannot encode: {e}")),
                    Err(StreamError::Encode(e)) => {
                        tracing::warn!("cannot encode a picture, starting the encoder again: {e}");
                    }
                }
            }
            if let Some(took) = took {
                let us = i64::try_from(took.as_micros()).unwrap_or(i64::MAX);
                self.encode_times.lock().unwrap_or_else(PoisonError::into_inner).record(us);
            }
            *self.target.lock().unwrap_or_else(PoisonError::into_inner) = streams[0].bitrate();
        }
    }
}

/// How soon a camera that is switched on begins: below what people notice.
const OFF_POLL: Duration = Duration::from_millis(50);
/// How soon the encoder notices the end of the call.
const STOP_POLL: Duration = Duration::from_millis(100);
