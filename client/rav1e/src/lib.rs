//! rav1e for live pictures with 8 bits a sample, as quick as it gets.
//!
//! A crate of its own because rav1e is generic over the sample: whoever makes a `Context<u8>` compiles the whole encoder, a
//! minute's work, and should not do so with every change of something else.

use std::fmt;

use rav1e::config::SpeedSettings;
use rav1e::prelude::{
    ChromaSampling, ColorDescription, ColorPrimaries, Config, Context, EncoderConfig, EncoderStatus,
    FrameParameters, FrameType, FrameTypeOverride, MatrixCoefficients, Opaque, PixelRange, Rational,
    SceneDetectionSpeed, TransferCharacteristics,
};

/// What to encode for. Nothing of it can change later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Width in pixels, at least 16.
    pub width: usize,
    /// Height in pixels, at least 16.
    pub height: usize,
    /// Pictures a second.
    pub fps: u32,
    /// Bits a second.
    pub bitrate: u64,
    /// Threads to use, also the number of tiles.
    pub threads: usize,
}

/// One encoded picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The AV1 temporal unit.
    pub data: Vec<u8>,
    /// Whether decoding can start here.
    pub key: bool,
    /// What was given with the picture.
    pub tag: u64,
}

/// What rav1e refused to do, in its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// An encoder that holds back four pictures whatever its settings.
pub struct Encoder {
    context: Context<u8>,
}

impl Encoder {
    /// Opens an encoder for planar 4:2:0 pictures, BT.601, limited range.
    ///
    /// # Errors
    /// Settings that rav1e does not take.
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        let mut speed = SpeedSettings::from_preset(FASTEST);
        // The least it takes. It serves a decision that this preset does not make, so a longer one would be pure delay.
        speed.rdo_lookahead_frames = 1;
        // A cut would bring a key frame that nobody asked for.
        speed.scene_detection_mode = SceneDetectionSpeed::None;
        let mut config = EncoderConfig {
            width: settings.width,
            height: settings.height,
            time_base: Rational { num: 1, den: u64::from(settings.fps) },
            chroma_sampling: ChromaSampling::Cs420,
            pixel_range: PixelRange::Limited,
            color_description: Some(ColorDescription {
                color_primaries: ColorPrimaries::BT601,
                transfer_characteristics: TransferCharacteristics::BT601,
                matrix_coefficients: MatrixCoefficients::BT601,
            }),
            low_latency: true,
            bitrate: i32::try_from(settings.bitrate).unwrap_or(i32::MAX),
            // With a bitrate set this is the coarsest quantizer allowed: anything less and busy pictures overshoot.
            quantizer: 255,
            reservoir_frame_delay: Some(RESERVOIR_FRAMES),
            tiles: settings.threads,
            speed_settings: speed,
            ..EncoderConfig::with_speed_preset(FASTEST)
        };
        // Key frames on demand at once, and never otherwise.
        config.set_key_frame_interval(0, 0);
        let config = Config::new().with_encoder_config(config).with_threads(settings.threads);
        let context = config.new_context().map_err(|e| Error(e.to_string()))?;
        Ok(Self { context })
    }

    /// Gives it a picture: planes Y, U, V with the bytes in a row of each. `tag` comes back with its packet.
    ///
    /// # Errors
    /// The encoder has failed and must be opened anew.
    pub fn send(&mut self, planes: [(&[u8], usize); 3], tag: u64, force_key: bool) -> Result<(), Error> {
        let mut frame = self.context.new_frame();
        for (to, (from, stride)) in frame.planes.iter_mut().zip(planes) {
            to.copy_from_raw_u8(from, stride, 1);
        }
        let parameters = FrameParameters {
            frame_type_override: if force_key { FrameTypeOverride::Key } else { FrameTypeOverride::No },
            opaque: Some(Opaque::new(tag)),
            ..FrameParameters::default()
        };
        self.context.send_frame((frame, parameters)).map_err(|e| Error(e.to_string()))
    }

    /// The next packet that is ready.
    ///
    /// # Errors
    /// The encoder has failed and must be opened anew.
    pub fn receive(&mut self) -> Result<Option<Packet>, Error> {
        loop {
            match self.context.receive_packet() {
                Ok(packet) => {
                    let tag = packet.opaque.and_then(|tag| tag.downcast::<u64>().ok());
                    let tag = *tag.ok_or_else(|| Error("a packet lost its tag".into()))?;
                    return Ok(Some(Packet {
                        data: packet.data,
                        key: packet.frame_type == FrameType::KEY,
                        tag,
                    }));
                }
                Err(EncoderStatus::Encoded) => {}
                Err(EncoderStatus::NeedMoreData | EncoderStatus::LimitReached) => return Ok(None),
                Err(e) => return Err(Error(e.to_string())),
            }
        }
    }

    /// No more pictures follow: what is held back becomes ready.
    pub fn flush(&mut self) {
        self.context.flush();
    }
}

/// rav1e's fastest preset.
const FASTEST: u8 = 10;
/// Rate control evens out over this many frames. With 12, its minimum, a key frame uses up so much that the next frame is
/// coded as a copy of it; with 30 that is rare, and rate and key frames grow by a few percent only.
const RESERVOIR_FRAMES: i32 = 30;
