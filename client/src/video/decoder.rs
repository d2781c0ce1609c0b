//! AV1 frames in, pictures out: dav1d.

use dav1d::{PixelLayout, PlanarImageComponent};
// Only linked: it brings the static libdav1d that the crate `dav1d` asks for.
use libdav1d_sys as _;
use thiserror::Error;

use super::convert;
use crate::picture::{MAX_SIDE, Picture};

/// Decodes one track.
///
/// dav1d tells nothing about missing references: fed a frame whose predecessor was lost it returns garbage without an
/// error. Whoever calls this feeds a frame only when every frame since the last key frame was fed.
pub struct Decoder {
    codec: dav1d::Decoder,
}

impl Decoder {
    /// Opens a decoder that returns each picture as soon as its frame is in.
    ///
    /// # Errors
    /// The codec has no memory or threads left.
    pub fn new() -> Result<Self, DecodeError> {
        let mut settings = dav1d::Settings::new();
        settings.set_n_threads(THREADS);
        settings.set_max_frame_delay(1);
        settings.set_all_layers(false);
        settings.set_frame_size_limit(MAX_PIXELS);
        let codec = dav1d::Decoder::with_settings(&settings).map_err(DecodeError::Open)?;
        Ok(Self { codec })
    }

    /// Decodes one temporal unit. `None` when it shows no picture, which no encoder of ours does.
    ///
    /// # Errors
    /// The data is damaged, does not start with a key frame after an error, or is of a kind not handled. The decoder is
    /// then empty and works again from the next key frame on.
    pub fn decode(&mut self, data: &[u8]) -> Result<Option<Picture>, DecodeError> {
        let result = self.run(data);
        if result.is_err() {
            self.codec.flush();
        }
        result
    }

    /// As [`Self::decode`], but leaves the decoder as it is on an error.
    fn run(&mut self, data: &[u8]) -> Result<Option<Picture>, DecodeError> {
        if data.is_empty() {
            return Err(DecodeError::Empty);
        }
        let mut newest = None;
        let mut sent = self.codec.send_data(Box::<[u8]>::from(data), None, None, None);
        loop {
            let taken = match sent {
                Ok(()) => true,
                Err(dav1d::Error::Again) => false,
                Err(e) => return Err(DecodeError::Damaged { bytes: data.len(), why: e }),
            };
            let before = newest.is_some();
            self.collect(&mut newest, data.len())?;
            if taken {
                return newest.as_ref().map(picture).transpose();
            }
            if !before && newest.is_none() {
                // It wants pictures taken away first and has none: no progress is possible.
                return Err(DecodeError::Damaged { bytes: data.len(), why: dav1d::Error::Again });
            }
            sent = self.codec.send_pending_data();
        }
    }

    /// Takes every picture that is ready and keeps the newest.
    fn collect(&mut self, newest: &mut Option<dav1d::Picture>, bytes: usize) -> Result<(), DecodeError> {
        loop {
            match self.codec.get_picture() {
                Ok(picture) => *newest = Some(picture),
                Err(dav1d::Error::Again) => return Ok(()),
                Err(why) => return Err(DecodeError::Damaged { bytes, why }),
            }
        }
    }
}

/// Copies what dav1d holds into our format.
fn picture(from: &dav1d::Picture) -> Result<Picture, DecodeError> {
    let (width, height) = (from.width() as usize, from.height() as usize);
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(DecodeError::TooLarge { width, height });
    }
    let chroma = match (from.bit_depth(), from.pixel_layout()) {
        (8, PixelLayout::I420) => true,
        (8, PixelLayout::I400) => false,
        (bits, layout) => return Err(DecodeError::Unsupported { bits, layout: format!("{layout:?}") }),
    };
    let mut to = Picture::black(width, height);
    let (chroma_width, chroma_height) = (to.chroma_width(), to.chroma_height());
    let [y, u, v] = to.planes_mut();
    copy_plane(from, PlanarImageComponent::Y, y, width, height)?;
    if chroma {
        copy_plane(from, PlanarImageComponent::U, u, chroma_width, chroma_height)?;
        copy_plane(from, PlanarImageComponent::V, v, chroma_width, chroma_height)?;
    }
    if from.color_range() == dav1d::pixel::YUVRange::Full {
        convert::limit_range(&mut to);
    }
    if from.matrix_coefficients() == dav1d::pixel::MatrixCoefficients::BT709 {
        convert::bt709_to_bt601(&mut to);
    }
    Ok(to)
}

fn copy_plane(
    from: &dav1d::Picture,
    component: PlanarImageComponent,
    to: &mut [u8],
    width: usize,
    height: usize,
) -> Result<(), DecodeError> {
    let stride = from.stride(component) as usize;
    let plane = from.plane(component);
    if stride < width || plane.len() < stride * (height - 1) + width {
        return Err(DecodeError::TooLarge { width, height });
    }
    for (to, from) in to.chunks_exact_mut(width).zip(plane.chunks(stride)) {
        to.copy_from_slice(&from[..width]);
    }
    Ok(())
}

/// Why a frame was not decoded.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The codec did not start.
    #[error("cannot open dav1d: {0}")]
    Open(dav1d::Error),
    /// Nothing was given.
    #[error("cannot decode a frame of 0 bytes: ask for a key frame")]
    Empty,
    /// Not AV1, cut short, larger than allowed, or not decodable from here.
    #[error("cannot decode a frame of {bytes} bytes ({why}): ask for a key frame")]
    Damaged {
        /// Its size.
        bytes: usize,
        /// What dav1d said.
        why: dav1d::Error,
    },
    /// The picture is larger than a [`Picture`] can be.
    #[error("cannot show a picture of {width}x{height}: the longest side is {MAX_SIDE}")]
    TooLarge {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
    },
    /// Not 8 bits in 4:2:0.
    #[error("cannot show a picture with {bits} bits in layout {layout}: send 8 bits in I420")]
    Unsupported {
        /// Bits a sample.
        bits: usize,
        /// How the planes are laid out.
        layout: String,
    },
}

/// A second thread does not help at call sizes, and there is a decoder for each participant.
const THREADS: u32 = 1;
/// Largest picture accepted, 4096x2304: 4K screens pass, and a hostile stream makes us hold 150 MB at most.
const MAX_PIXELS: u32 = 4096 * 2304;
