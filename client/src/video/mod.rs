//! Everything between a camera and encoded frames, and back to pixels.
//!
//! ```text
//! source::open -> Source -> Picture -> encoder::open -> Encoder -> EncodedFrame ~~> Decoder -> Picture -> scale::to_xrgb
//! ```
//!
//! Nothing here owns a queue or, the camera aside, a thread: a caller puts each step where it wants it. Every picture is
//! [`crate::picture::Picture`]: planar YUV 4:2:0, BT.601, limited range; what comes in otherwise is converted at the
//! border ([`convert`], [`decoder`]).

mod aom;
pub mod barcode;
pub mod camera;
pub mod convert;
pub mod decoder;
pub mod encoder;
mod file;
mod pace;
mod rav1e;
mod references;
pub mod scale;
pub mod source;
pub mod test_card;
#[cfg(test)]
mod tests;
pub mod y4m;

pub use decoder::Decoder;
pub use encoder::{EncodedFrame, Encoder, Encoding};
pub use source::{CameraSpec, Source};
