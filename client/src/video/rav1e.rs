//! rav1e, made as quick as it gets.
//!
//! With every delay switched off it still holds a picture back until four more have come, and it has no live change of
//! bitrate; see the notes at [`Rav1e::set_bitrate`].

use ::rav1e::config::SpeedSettings;
use ::rav1e::prelude::{
    ChromaSampling, ColorDescription, ColorPrimaries, Config, Context, EncoderConfig, EncoderStatus,
    FrameParameters, FrameType, FrameTypeOverride, MatrixCoefficients, Opaque, PixelRange, Rational,
    SceneDetectionSpeed, TransferCharacteristics,
};
use bytes::Bytes;
use vchat_proto::units::{Bitrate, MediaTime};

use super::encoder::{EncodeError, EncodedFrame, Encoder, Settings, check_bitrate};
use crate::picture::Picture;

/// The encoder in Rust.
pub(super) struct Rav1e {
    /// As asked for, with the newest bitrate.
    settings: Settings,
    context: Context<u8>,
    /// The bitrate `context` was made for.
    applied: Bitrate,
    /// Frames that were flushed out of the last context. At most the four pictures it holds back.
    flushed: Vec<EncodedFrame>,
}

impl Rav1e {
    pub(super) fn new(settings: Settings) -> Result<Self, EncodeError> {
        let context = open(settings)?;
        Ok(Self { settings, context, applied: settings.bitrate, flushed: Vec::new() })
    }
}

impl Encoder for Rav1e {
    fn encode(
        &mut self,
        picture: &Picture,
        captured: MediaTime,
        force_key: bool,
    ) -> Result<Vec<EncodedFrame>, EncodeError> {
        self.settings.check_size(picture)?;
        let mut out = std::mem::take(&mut self.flushed);
        let mut frame = self.context.new_frame();
        let strides = [picture.width(), picture.chroma_width(), picture.chroma_width()];
        for ((to, from), stride) in frame.planes.iter_mut().zip(picture.planes()).zip(strides) {
            to.copy_from_raw_u8(from, stride, 1);
        }
        let parameters = FrameParameters {
            frame_type_override: if force_key { FrameTypeOverride::Key } else { FrameTypeOverride::No },
            opaque: Some(Opaque::new(captured)),
            ..FrameParameters::default()
        };
        self.context.send_frame((frame, parameters)).map_err(|e| failed("take a picture", &e))?;
        drain(&mut self.context, &mut out)?;
        Ok(out)
    }

    /// rav1e fixes the bitrate when a context is made, so a new one is made, which starts with a key frame. That costs
    /// more than a small change of rate gains: smaller changes than one part in [`WORTH_A_KEY_FRAME`] are remembered
    /// and done once they have added up. What the old context still holds comes out with the next picture.
    fn set_bitrate(&mut self, bitrate: Bitrate) -> Result<(), EncodeError> {
        check_bitrate(bitrate)?;
        let settings = Settings { bitrate, ..self.settings };
        let change = bitrate.bps().abs_diff(self.applied.bps());
        if change * WORTH_A_KEY_FRAME >= self.applied.bps() {
            let mut old = std::mem::replace(&mut self.context, open(settings)?);
            self.applied = bitrate;
            old.flush();
            drain(&mut old, &mut self.flushed)?;
        }
        self.settings = settings;
        Ok(())
    }

    fn name(&self) -> &'static str {
        "rav1e"
    }
}

fn open(settings: Settings) -> Result<Context<u8>, EncodeError> {
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
        bitrate: i32::try_from(settings.bitrate.bps()).unwrap_or(i32::MAX),
        // With a bitrate set this is the coarsest quantizer allowed: anything less and busy pictures overshoot.
        quantizer: 255,
        reservoir_frame_delay: Some(RESERVOIR_FRAMES),
        tiles: settings.threads,
        speed_settings: speed,
        ..EncoderConfig::with_speed_preset(FASTEST)
    };
    // Key frames on demand at once, and never otherwise.
    config.set_key_frame_interval(0, 0);
    Config::new()
        .with_encoder_config(config)
        .with_threads(settings.threads)
        .new_context()
        .map_err(|e| failed("open", &e))
}

/// Moves all that `context` has ready to `out`.
fn drain(context: &mut Context<u8>, out: &mut Vec<EncodedFrame>) -> Result<(), EncodeError> {
    loop {
        match context.receive_packet() {
            Ok(packet) => {
                let captured = packet
                    .opaque
                    .and_then(|time| time.downcast::<MediaTime>().ok())
                    .ok_or_else(|| failed("encode a picture", &"a packet lost its capture time"))?;
                let key = packet.frame_type == FrameType::KEY;
                out.push(EncodedFrame { data: Bytes::from(packet.data), key, captured: *captured });
            }
            Err(EncoderStatus::Encoded) => {}
            Err(EncoderStatus::NeedMoreData | EncoderStatus::LimitReached) => return Ok(()),
            Err(e) => return Err(failed("encode a picture", &e)),
        }
    }
}

fn failed(action: &'static str, why: &dyn std::fmt::Display) -> EncodeError {
    EncodeError::Codec { codec: "rav1e", action, why: why.to_string() }
}

/// rav1e's fastest preset.
const FASTEST: u8 = 10;
/// Rate control evens out over this many frames. With 12, its minimum, a key frame uses up so much that the next frame is
/// coded as a copy of it; with 30 that is rare, and rate
/// and key frames grow by a few percent only.
const RESERVOIR_FRAMES: i32 = 30;
/// A change of bitrate is worth a key frame from one part in 7 (about 15 %) on.
const WORTH_A_KEY_FRAME: u64 = 7;
