//! The second encoder, in Rust.
//!
//! With every delay switched off it still holds a picture back until four more have come, and it has no live change of
//! bitrate; see the notes at [`Rav1e::set_bitrate`].

use bytes::Bytes;
use vchat_proto::units::{Bitrate, MediaTime};

use super::encoder::{EncodeError, EncodedFrame, Encoder, Settings, check_bitrate};
use crate::picture::Picture;

/// rav1e as an [`Encoder`].
pub(super) struct Rav1e {
    /// As asked for, with the newest bitrate.
    settings: Settings,
    inner: vchat_rav1e::Encoder,
    /// The bitrate `inner` was made for.
    applied: Bitrate,
    /// Frames that were flushed out of the last encoder. At most the four pictures it holds back.
    flushed: Vec<EncodedFrame>,
}

impl Rav1e {
    pub(super) fn new(settings: Settings) -> Result<Self, EncodeError> {
        let inner = open(settings)?;
        Ok(Self { settings, inner, applied: settings.bitrate, flushed: Vec::new() })
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
        let [y, u, v] = picture.planes();
        let chroma = picture.chroma_width();
        let planes = [(&y[..], picture.width()), (&u[..], chroma), (&v[..], chroma)];
        self.inner.send(planes, captured.as_micros(), force_key).map_err(|e| failed("take a picture", &e))?;
        drain(&mut self.inner, &mut out)?;
        Ok(out)
    }

    /// rav1e fixes the bitrate when it is opened, so a new one is opened, which starts with a key frame. That costs
    /// more than a small change of rate gains: smaller changes than one part in [`WORTH_A_KEY_FRAME`] are remembered
    /// and done once they have added up. What the old one still holds comes out with the next picture.
    fn set_bitrate(&mut self, bitrate: Bitrate) -> Result<(), EncodeError> {
        check_bitrate(bitrate)?;
        let settings = Settings { bitrate, ..self.settings };
        let change = bitrate.bps().abs_diff(self.applied.bps());
        if change * WORTH_A_KEY_FRAME >= self.applied.bps() {
            let mut old = std::mem::replace(&mut self.inner, open(settings)?);
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

fn open(settings: Settings) -> Result<vchat_rav1e::Encoder, EncodeError> {
    let Settings { width, height, fps, bitrate, threads } = settings;
    let settings = vchat_rav1e::Settings { width, height, fps, bitrate: bitrate.bps(), threads };
    vchat_rav1e::Encoder::open(&settings).map_err(|e| failed("open", &e))
}

/// Moves all that `encoder` has ready to `out`.
fn drain(encoder: &mut vchat_rav1e::Encoder, out: &mut Vec<EncodedFrame>) -> Result<(), EncodeError> {
    while let Some(packet) = encoder.receive().map_err(|e| failed("encode a picture", &e))? {
        let captured = MediaTime::from_micros(packet.tag);
        out.push(EncodedFrame { data: Bytes::from(packet.data), key: packet.key, captured });
    }
    Ok(())
}

fn failed(action: &'static str, why: &dyn std::fmt::Display) -> EncodeError {
    EncodeError::Codec { codec: "rav1e", action, why: why.to_string() }
}

/// A change of bitrate is worth a key frame from one part in 7 (about 15 %) on.
const WORTH_A_KEY_FRAME: u64 = 7;
