//! The desktop client of vchat: devices, codecs, window and the call that joins them.

pub mod audio;
pub mod clock;
pub mod picture;
pub mod video;
pub mod window;
