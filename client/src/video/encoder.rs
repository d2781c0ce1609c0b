//! Pictures in, AV1 frames out: one trait, two encoders.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use thiserror::Error;
use vchat_proto::id::FrameId;
use vchat_proto::units::{Bitrate, MediaTime};
use vchat_proto::wire::datagram::Dependency;

use crate::picture::{MAX_SIDE, Picture};

/// Turns the pictures of one track into AV1.
///
/// Each [`EncodedFrame`] is one whole AV1 temporal unit with one shown picture. Key frames carry their sequence header
/// and come only at the start, on demand and, where the backend cannot do without, at a change of rate or in place of a
/// frame from a reference. Any other frame refers to nothing but the frame that its dependency names and what that one
/// depends on: it is decodable when those were decoded, whatever became of all others.
pub trait Encoder: Send {
    /// Encodes `picture`, taken at `captured`.
    ///
    /// Returns what is ready, oldest first: `aom` always one frame, this one; `rav1e` none for the first four pictures
    /// and then the one given four calls earlier, or several at once after a change of bitrate.
    ///
    /// # Errors
    /// A picture of another size than the settings, or a failure of the codec, after which the encoder should be
    /// opened anew.
    fn encode(
        &mut self,
        picture: &Picture,
        captured: MediaTime,
        options: FrameOptions,
    ) -> Result<Vec<EncodedFrame>, EncodeError>;

    /// Aims at `bitrate` from the next picture on, of which `fps` are expected a second. At half the frame rate of the
    /// settings or less, no frame is discardable: there are no others to keep the picture moving.
    ///
    /// # Errors
    /// The codec refuses; the old rate stays.
    fn set_rate(&mut self, bitrate: Bitrate, fps: u32) -> Result<(), EncodeError>;

    /// What to call this encoder in statistics and logs.
    fn name(&self) -> &'static str;
}

/// What one frame has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameOptions {
    /// A key frame.
    pub force_key: bool,
    /// Decodable by all who have decoded this frame: predicted from it or from one that it depends on, when the encoder
    /// still keeps such a one, else a key frame. The newest frame that everybody has is the best to name.
    pub reference: Option<FrameId>,
}

/// One AV1 temporal unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFrame {
    /// The temporal unit, in the low-overhead format with its temporal delimiter.
    pub data: Bytes,
    /// Which of the camera's encodings it is of.
    pub encoding: Encoding,
    /// Counts the frames of that encoding.
    pub number: FrameId,
    /// What must have been decoded before: nothing for a key frame.
    pub dependency: Dependency,
    /// Its temporal layer, from 0.
    pub temporal: u8,
    /// No other frame depends on it.
    pub discardable: bool,
    /// When its picture was taken.
    pub captured: MediaTime,
}

impl EncodedFrame {
    /// Whether decoding can start here.
    #[must_use]
    pub const fn is_key(&self) -> bool {
        matches!(self.dependency, Dependency::None)
    }
}

/// A camera's pictures are encoded up to twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As large as the bitrate allows.
    #[default]
    Full,
    /// Half as wide and high, for those who show it small or cannot receive more.
    Small,
}

/// Opens an encoder whose first frame, a key frame, gets the number `first`.
///
/// # Errors
/// Settings out of range, or the codec does not take them.
pub fn open(kind: Kind, settings: Settings, first: FrameId) -> Result<Box<dyn Encoder>, EncodeError> {
    settings.check()?;
    Ok(match kind {
        Kind::Aom => Box::new(super::aom::Aom::new(settings, first)?),
        Kind::Rav1e => Box::new(super::rav1e::Rav1e::new(settings, first)?),
    })
}

/// Which encoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// libaom in real-time mode: a few milliseconds a picture, no delay, bitrate changed live. The default.
    #[default]
    Aom,
    /// rav1e: Rust, four frames of delay, no layers, a key frame at each change of bitrate and for each reference.
    Rav1e,
}

impl FromStr for Kind {
    type Err = EncodeError;

    fn from_str(s: &str) -> Result<Self, EncodeError> {
        match s {
            "aom" => Ok(Self::Aom),
            "rav1e" => Ok(Self::Rav1e),
            other => Err(EncodeError::UnknownKind(other.to_owned())),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aom => "aom",
            Self::Rav1e => "rav1e",
        })
    }
}

/// What to encode for. The size is fixed for the life of an encoder; a new size means a new encoder and a key frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What the frames are said to be of.
    pub encoding: Encoding,
    /// Width of every picture in pixels, [`MIN_SIDE`] to [`MAX_SIDE`].
    pub width: usize,
    /// Height of every picture in pixels, [`MIN_SIDE`] to [`MAX_SIDE`].
    pub height: usize,
    /// Pictures a second that are expected, 1 to [`MAX_FPS`].
    pub fps: u32,
    /// The rate to reach, averaged over about a second.
    pub bitrate: Bitrate,
    /// Threads the encoder may use, 1 to [`MAX_THREADS`].
    pub threads: usize,
    /// Temporal layers, 1 to [`MAX_LAYERS`]: each but the first doubles the frame rate of those below it and can be left
    /// out. `rav1e` always has one.
    pub layers: u8,
}

impl Settings {
    fn check(&self) -> Result<(), EncodeError> {
        let side = MIN_SIDE..=MAX_SIDE;
        if !side.contains(&self.width) || !side.contains(&self.height) {
            return Err(EncodeError::Settings("size", format!("{}x{}", self.width, self.height)));
        }
        if !(1..=MAX_FPS).contains(&self.fps) {
            return Err(EncodeError::Settings("frame rate", self.fps.to_string()));
        }
        if !(1..=MAX_THREADS).contains(&self.threads) {
            return Err(EncodeError::Settings("number of threads", self.threads.to_string()));
        }
        if !(1..=MAX_LAYERS).contains(&self.layers) {
            return Err(EncodeError::Settings("number of layers", self.layers.to_string()));
        }
        check_bitrate(self.bitrate)
    }

    pub(super) fn check_size(&self, picture: &Picture) -> Result<(), EncodeError> {
        if (picture.width(), picture.height()) == (self.width, self.height) {
            return Ok(());
        }
        Err(EncodeError::WrongSize {
            got: (picture.width(), picture.height()),
            want: (self.width, self.height),
        })
    }
}

pub(super) fn check_bitrate(bitrate: Bitrate) -> Result<(), EncodeError> {
    if (MIN_BITRATE..=MAX_BITRATE).contains(&bitrate) {
        return Ok(());
    }
    Err(EncodeError::Settings("bitrate", bitrate.to_string()))
}

/// Why a picture was not encoded.
#[derive(Debug, Error)]
pub enum EncodeError {
    /// No encoder has this name.
    #[error("no encoder is called '{0}': use aom or rav1e")]
    UnknownKind(String),
    /// A setting is out of range.
    #[error(
        "cannot encode with {0} {1}: sizes go from 16 to 4096, frame rates from 1 to 240, threads from 1 to 64, \
         layers from 1 to 3, bitrates from 10 kb/s to 100 Mb/s"
    )]
    Settings(&'static str, String),
    /// The picture has another size than the encoder was opened for.
    #[error("the picture is {}x{} but the encoder was opened for {}x{}: open one for the new size", .got.0, .got.1, .want.0, .want.1)]
    WrongSize {
        /// Width and height of the picture.
        got: (usize, usize),
        /// Width and height of the settings.
        want: (usize, usize),
    },
    /// The codec failed.
    #[error("{codec} failed to {action}: {why}; open the encoder anew")]
    Codec {
        /// Which codec.
        codec: &'static str,
        /// What it was asked to do.
        action: &'static str,
        /// What it said.
        why: String,
    },
}

/// rav1e takes no smaller sides.
pub const MIN_SIDE: usize = 16;
/// Screens do not show more; the frame rate also sizes rate control, which a wild value would upset.
pub const MAX_FPS: u32 = 240;
/// What libaom takes.
pub const MAX_THREADS: usize = 64;
/// A fourth layer would leave a base of less than four pictures a second.
pub const MAX_LAYERS: u8 = 3;
/// Below this not even the smallest picture is worth sending.
pub const MIN_BITRATE: Bitrate = Bitrate::from_kbps(10);
/// Far above any call, and small enough for the 32-bit arithmetic of both codecs.
pub const MAX_BITRATE: Bitrate = Bitrate::from_kbps(100_000);
