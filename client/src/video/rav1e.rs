//! The second encoder, in Rust.
//!
//! With every delay switched off it still holds a picture back until four more have come, and it has no live change of
//! bitrate; see the notes at [`Rav1e::set_rate`]. It chooses its references itself: each frame depends on the one before,
//! there is one layer, and where a frame from a reference is asked for, a key frame comes.

use bytes::Bytes;
use vchat_proto::id::FrameId;
use vchat_proto::units::{Bitrate, MediaTime};
use vchat_proto::wire::datagram::Dependency;

use super::encoder::{EncodeError, EncodedFrame, Encoder, FrameOptions, Settings, check_bitrate};
use crate::picture::Picture;

/// rav1e as an [`Encoder`].
pub(super) struct Rav1e {
    /// As asked for, with the newest rate.
    settings: Settings,
    inner: vchat_rav1e::Encoder,
    /// What `inner` was made for.
    applied: Settings,
    next: FrameId,
    /// Frames that were flushed out of the last encoder. At most the four pictures it holds back.
    flushed: Vec<EncodedFrame>,
}

impl Rav1e {
    pub(super) fn new(settings: Settings, first: FrameId) -> Result<Self, EncodeError> {
        let inner = open(settings)?;
        Ok(Self { settings, inner, applied: settings, next: first, flushed: Vec::new() })
    }

    /// Moves all that the encoder has ready to `out`.
    fn drain(&mut self, out: &mut Vec<EncodedFrame>) -> Result<(), EncodeError> {
        while let Some(packet) = self.inner.receive().map_err(|e| failed("encode a picture", &e))? {
            out.push(EncodedFrame {
                data: Bytes::from(packet.data),
                encoding: self.settings.encoding,
                number: self.next,
                dependency: if packet.key { Dependency::None } else { Dependency::Back(1) },
                temporal: 0,
                discardable: false,
                captured: MediaTime::from_micros(packet.tag),
            });
            self.next = self.next.plus(1);
        }
        Ok(())
    }
}

impl Encoder for Rav1e {
    fn encode(
        &mut self,
        picture: &Picture,
        captured: MediaTime,
        options: FrameOptions,
    ) -> Result<Vec<EncodedFrame>, EncodeError> {
        self.settings.check_size(picture)?;
        let mut out = std::mem::take(&mut self.flushed);
        let [y, u, v] = picture.planes();
        let chroma = picture.chroma_width();
        let planes = [(&y[..], picture.width()), (&u[..], chroma), (&v[..], chroma)];
        let key = options.force_key || options.reference.is_some();
        self.inner.send(planes, captured.as_micros(), key).map_err(|e| failed("take a picture", &e))?;
        self.drain(&mut out)?;
        Ok(out)
    }

    /// rav1e fixes the rate when it is opened, so a new one is opened, which starts with a key frame. That costs
    /// more than a small change of rate gains: smaller changes than one part in [`WORTH_A_KEY_FRAME`] are remembered
    /// and done once they have added up. What the old one still holds comes out with the next picture.
    fn set_rate(&mut self, bitrate: Bitrate, fps: u32) -> Result<(), EncodeError> {
        check_bitrate(bitrate)?;
        let settings = Settings { bitrate, fps, ..self.settings };
        let change = bitrate.bps().abs_diff(self.applied.bitrate.bps());
        if change * WORTH_A_KEY_FRAME >= self.applied.bitrate.bps() || fps != self.applied.fps {
            let new = open(settings)?;
            self.inner.flush();
            let mut flushed = std::mem::take(&mut self.flushed);
            let drained = self.drain(&mut flushed);
            self.flushed = flushed;
            self.inner = new;
            self.applied = settings;
            drained?;
        }
        self.settings = settings;
        Ok(())
    }

    fn name(&self) -> &'static str {
        "rav1e"
    }
}

fn open(settings: Settings) -> Result<vchat_rav1e::Encoder, EncodeError> {
    let Settings { width, height, fps, bitrate, threads, .. } = settings;
    let settings = vchat_rav1e::Settings { width, height, fps, bitrate: bitrate.bps(), threads };
    vchat_rav1e::Encoder::open(&settings).map_err(|e| failed("open", &e))
}

fn failed(action: &'static str, why: &dyn std::fmt::Display) -> EncodeError {
    EncodeError::Codec { codec: "rav1e", action, why: why.to_string() }
}

/// A change of bitrate is worth a key frame from one part in 7 (about 15 %) on.
const WORTH_A_KEY_FRAME: u64 = 7;
