//! One encoding of the camera's pictures: what it is encoded like follows what the network wants.

use std::time::Instant;

use vchat_proto::id::FrameId;
use vchat_proto::ladder::{self, Ladder, Rung};
use vchat_proto::units::{Bitrate, MediaTime};

use crate::net::Wanted;
use crate::picture::Picture;
use crate::video::encoder::{self, EncodeError, Kind, MAX_BITRATE, MIN_BITRATE, Settings};
use crate::video::source::Captured;
use crate::video::{EncodedFrame, Encoder, Encoding, scale};

/// The frames of one encoding.
///
/// Their numbers go on through every change of size and every failure of the codec. A new size means a new encoder and a
/// key frame; bitrate and frame rate change without one, where the codec can.
pub(super) struct Stream {
    encoding: Encoding,
    kind: Kind,
    max_bitrate: Option<Bitrate>,
    /// For the pictures that the camera delivers.
    ladder: Option<(Source, Ladder)>,
    open: Option<Open>,
    next: FrameId,
    /// When the next picture is due, at a frame rate lower than the camera's.
    due: MediaTime,
}

/// Width, height and frames a second of what the camera delivers.
type Source = ((usize, usize), u32);

/// An encoder and what it was told last.
struct Open {
    encoder: Box<dyn Encoder>,
    settings: Settings,
    bitrate: Bitrate,
    fps: u32,
}

/// Why there is no frame.
#[derive(Debug)]
pub(super) enum StreamError {
    /// No encoder can be opened for these pictures.
    Open(EncodeError),
    /// The encoder failed; the next picture gets a new one.
    Encode(EncodeError),
}

impl Stream {
    pub(super) const fn new(encoding: Encoding, kind: Kind, max_bitrate: Option<Bitrate>) -> Self {
        Self {
            encoding,
            kind,
            max_bitrate,
            ladder: None,
            open: None,
            next: FrameId(0),
            due: MediaTime::from_micros(0),
        }
    }

    pub(super) const fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// What the encoder aims at; zero while there is none.
    pub(super) fn bitrate(&self) -> Bitrate {
        self.open.as_ref().map_or(Bitrate::from_bps(0), |open| open.bitrate)
    }

    /// Encodes a picture of a camera that delivers `fps` a second. No frame: the picture is left out or the encoder is
    /// not done with it.
    pub(super) fn encode(
        &mut self,
        now: Instant,
        captured: &Captured,
        fps: u32,
        wanted: &Wanted,
    ) -> Result<Vec<EncodedFrame>, StreamError> {
        let picture = &captured.picture;
        let Some(rung) = self.rung(now, ((picture.width(), picture.height()), fps), wanted.target()) else {
            self.open = None;
            return Ok(Vec::new());
        };
        if !self.is_due(captured.captured, rung.fps, fps) && !wanted.is_urgent() {
            return Ok(Vec::new());
        }
        let open = self.ready(rung, fps)?;
        let scaled;
        let picture: &Picture = if (picture.width(), picture.height()) == (rung.width, rung.height) {
            picture
        } else {
            scaled = scale::scale(picture, rung.width, rung.height);
            &scaled
        };
        match open.encoder.encode(picture, captured.captured, wanted.take()) {
            Ok(frames) => {
                if let Some(last) = frames.last() {
                    self.next = last.number.plus(1);
                }
                Ok(frames)
            }
            Err(e) => {
                self.open = None;
                Err(StreamError::Encode(e))
            }
        }
    }

    /// What the full encoding of such pictures takes at most.
    pub(super) fn max(&self, ((width, height), fps): Source) -> Bitrate {
        self.max_bitrate.unwrap_or_else(|| bitrate_for(width * height, fps).min(DEFAULT_MAX))
    }

    /// What to encode of such pictures. None: nothing.
    fn rung(&mut self, now: Instant, source: Source, target: Option<Bitrate>) -> Option<Rung> {
        let ((width, height), fps) = source;
        let rung = match self.encoding {
            Encoding::Full => {
                let max = self.max(source);
                if self.ladder.as_ref().is_none_or(|(of, _)| *of != source) {
                    self.ladder = Some((source, Ladder::new(source.0, fps, max)));
                }
                let (_, ladder) = self.ladder.as_mut()?;
                ladder.handle_target(now, target.unwrap_or(max));
                ladder.rung()
            }
            Encoding::Small => {
                let bitrate = target?;
                // Pictures that cannot be halved are small already.
                let (width, height) = ladder::half((width, height)).unwrap_or((width, height));
                let fps = if bitrate < SMOOTH { fps.min(SLOW_FPS) } else { fps };
                Rung { width, height, fps, bitrate }
            }
        };
        Some(Rung { bitrate: rung.bitrate.clamp(MIN_BITRATE, MAX_BITRATE), ..rung })
    }

    /// Whether a picture is one of the `fps` that are wanted of `of` a second.
    fn is_due(&mut self, captured: MediaTime, fps: u32, of: u32) -> bool {
        if fps >= of {
            return true;
        }
        let interval = |fps: u32| 1_000_000 / i64::from(fps.max(1));
        let late = captured.micros_since(self.due);
        // Cameras are not punctual: half an interval early is in time.
        if late < -interval(of) / 2 && late > -2 * interval(fps) {
            return false;
        }
        let on_time = late.abs() < interval(fps);
        self.due = if on_time { self.due } else { captured }.offset(interval(fps));
        true
    }

    /// The encoder, opened or told as `rung` says.
    fn ready(&mut self, rung: Rung, source_fps: u32) -> Result<&mut Open, StreamError> {
        let settings = settings(self.encoding, rung, source_fps);
        // On an error there is none until the next picture.
        let mut open = match self.open.take() {
            Some(open) if open.settings == (Settings { bitrate: open.settings.bitrate, ..settings }) => open,
            _ => {
                let encoder = encoder::open(self.kind, settings, self.next).map_err(StreamError::Open)?;
                Open { encoder, settings, bitrate: rung.bitrate, fps: source_fps }
            }
        };
        let change = open.bitrate.bps().abs_diff(rung.bitrate.bps());
        if change * WORTH_TELLING > open.bitrate.bps() || open.fps != rung.fps {
            open.encoder.set_rate(rung.bitrate, rung.fps).map_err(StreamError::Encode)?;
            (open.bitrate, open.fps) = (rung.bitrate, rung.fps);
        }
        Ok(self.open.insert(open))
    }
}

fn settings(encoding: Encoding, rung: Rung, fps: u32) -> Settings {
    let Rung { width, height, bitrate, .. } = rung;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if width * height > 640 * 360 { cores.min(2) } else { 1 };
    Settings { encoding, width, height, fps, bitrate, threads, layers: LAYERS }
}

/// What most uplinks bear for a long time. Whoever wants more says so.
const DEFAULT_MAX: Bitrate = Bitrate::from_kbps(2_000);

/// A good bitrate for pictures of that many pixels.
///
/// 650 kb/s for 640x360 at 30 a second gives 35 to 40 dB on a talking head (docs/architecture.md); larger pictures need
/// fewer bits a pixel (exponent 0.75 fits common ladders: 1.8 Mb/s for 720p), and so do more pictures a second.
fn bitrate_for(pixels: usize, fps: u32) -> Bitrate {
    let size = (pixels as f64 / (640.0 * 360.0)).powf(0.75);
    let rate = (f64::from(fps) / 30.0).sqrt();
    Bitrate::from_bps((650_000.0 * size * rate).max(50_000.0) as u64)
}

/// A relay can leave out every other frame for who cannot receive them all, and the loss of one of those harms no other.
const LAYERS: u8 = 2;
/// Smaller changes of the bitrate than 3 % are noise of the estimate.
const WORTH_TELLING: u64 = 33;
/// A small picture looks better at half the frame rate below this.
const SMOOTH: Bitrate = Bitrate::from_kbps(120);
/// That frame rate.
const SLOW_FPS: u32 = 15;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    /// A camera of 320x180 at 30 a second and one encoding of it.
    struct Rig {
        stream: Stream,
        wanted: Wanted,
        start: Instant,
        pictures: u32,
    }

    impl Rig {
        fn new(encoding: Encoding) -> Self {
            let stream = Stream::new(encoding, Kind::Aom, None);
            Self { stream, wanted: Wanted::default(), start: Instant::now(), pictures: 0 }
        }

        /// The frames of so many pictures.
        fn run(&mut self, pictures: u32) -> Vec<EncodedFrame> {
            let mut frames = Vec::new();
            for _ in 0..pictures {
                let at = Duration::from_secs(1) * self.pictures / 30;
                let jitter = Duration::from_millis(u64::from(self.pictures * 7 % 20));
                let mut picture = Picture::black(320, 180);
                picture.planes_mut()[0].fill(self.pictures as u8);
                let captured = Captured {
                    picture: Arc::new(picture),
                    captured: MediaTime::from_micros(1_000_000) + at + jitter,
                    frame: self.pictures,
                };
                self.pictures += 1;
                frames.extend(
                    self.stream.encode(self.start + at, &captured, 30, &self.wanted).expect("encodes"),
                );
            }
            frames
        }
    }

    fn size(frame: &EncodedFrame) -> (usize, usize) {
        let mut decoder = crate::video::Decoder::new().expect("a decoder");
        let picture = decoder.decode(&frame.data).expect("a key frame").expect("a picture");
        (picture.width(), picture.height())
    }

    #[test]
    fn the_full_encoding_follows_the_target_down_and_up() {
        let mut rig = Rig::new(Encoding::Full);
        assert_eq!(rig.run(30).len(), 30);
        assert_eq!(rig.stream.bitrate(), bitrate_for(320 * 180, 30), "before the network says anything");
        rig.wanted.set_target(Bitrate::from_kbps(40));
        // A dip would be ridden out.
        let mut all = rig.run(30);
        let slow = rig.run(60);
        assert_eq!(rig.stream.bitrate().kbps(), 40);
        assert!(slow.len().abs_diff(30) <= 1, "{} frames in two seconds", slow.len());
        assert!(slow.iter().all(|f| !f.is_key() && !f.discardable));
        rig.wanted.set_target(Bitrate::from_kbps(20));
        let small = rig.run(60);
        let key = small.iter().find(|f| f.is_key()).expect("a new size");
        assert_eq!(size(key), (160, 90));
        rig.wanted.set_target(Bitrate::from_kbps(200));
        let large = rig.run(240);
        let key = large.iter().find(|f| f.is_key()).expect("a new size");
        assert_eq!(size(key), (320, 180));
        all.extend([slow, small, large].concat());
        let numbers: Vec<u32> = all.iter().map(|f| f.number.0).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "they go on: {numbers:?}");
    }

    #[test]
    fn small_changes_of_the_target_are_not_told() {
        let mut rig = Rig::new(Encoding::Full);
        for (target, told) in [(200, 200), (205, 200), (207, 207), (202, 207), (190, 190)] {
            rig.wanted.set_target(Bitrate::from_kbps(target));
            rig.run(1);
            assert_eq!(rig.stream.bitrate().kbps(), told);
        }
    }

    #[test]
    fn the_small_encoding_is_there_while_it_is_wanted() {
        let mut rig = Rig::new(Encoding::Small);
        assert!(rig.run(5).is_empty());
        rig.wanted.set_target(Bitrate::from_kbps(60));
        let frames = rig.run(30);
        assert!(frames.len().abs_diff(15) <= 1 && frames[0].is_key());
        assert!(frames.iter().all(|f| f.encoding == Encoding::Small) && size(&frames[0]) == (160, 90));
        rig.wanted.set_target(Bitrate::from_kbps(150));
        assert_eq!(rig.run(30).len(), 30);
        rig.wanted.set_target(Bitrate::from_kbps(0));
        assert!(rig.run(5).is_empty());
        rig.wanted.set_target(Bitrate::from_kbps(150));
        let again = rig.run(1).remove(0);
        assert!(again.is_key() && again.number == frames[0].number.plus(30 + frames.len() as u32));
    }

    #[test]
    fn repairs_are_not_left_out_with_the_pictures() {
        let mut rig = Rig::new(Encoding::Full);
        rig.wanted.set_target(Bitrate::from_kbps(40));
        let known = rig.run(20).last().expect("some").number;
        rig.wanted.want_refresh(known);
        let frames = rig.run(1);
        assert!(frames.len() == 1 && !frames[0].is_key());
        rig.wanted.want_key_frame();
        assert!(rig.run(1)[0].is_key());
    }
}
