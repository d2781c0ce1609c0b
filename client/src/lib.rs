//! The desktop client of vchat: devices, codecs, window and the call that joins them.

pub mod audio;
pub mod call;
pub mod cli;
pub mod clock;
pub mod devices;
pub mod net;
pub mod news;
pub mod picture;
pub mod slot;
pub mod video;
pub mod window;

/// A random number that is not secret (names of sessions and messages): the keys of std's hashers are random.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
