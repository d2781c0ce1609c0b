//! What the fuzz targets run: parsers on bytes, and machines on sequences of operations.
//!
//! Each body takes arbitrary bytes and panics when a promise is broken. `tests/fuzz` drives them with libFuzzer, the
//! tests here with seeded random bytes, so that every run of the tests exercises them a little.

mod admission;
mod estimator;
mod hop;
mod jitter;
mod reassembly;
mod room;
mod session;
mod trust;
mod wire;

pub use self::admission::admission;
pub use self::estimator::estimator;
pub use self::hop::hop;
pub use self::jitter::jitter;
pub use self::reassembly::reassembly;
pub use self::room::room;
pub use self::session::session;
pub use self::trust::{codes, trust};
pub use self::wire::{datagram, framing, names};

/// Runs one input.
pub type Body = fn(&[u8]);

/// All bodies by name.
pub const TARGETS: [(&str, Body); 12] = [
    ("datagram", datagram),
    ("framing", framing),
    ("names", names),
    ("room", room),
    ("reassembly", reassembly),
    ("jitter", jitter),
    ("estimator", estimator),
    ("hop", hop),
    ("session", session),
    ("admission", admission),
    ("trust", trust),
    ("codes", codes),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netem::Random;

    #[test]
    fn no_random_bytes_break_a_promise() {
        for (name, body) in TARGETS {
            let mut random = Random::new(1, name.len() as u64);
            for input in 0..2000 {
                let length = usize::try_from(random.bits() % 1500).expect("small");
                // Small values make operations that fit each other more often than any byte does.
                let mask = if input % 2 == 0 { 0xff } else { 0x0f };
                let bytes: Vec<u8> = (0..length).map(|_| random.bits() as u8 & mask).collect();
                let result = std::panic::catch_unwind(|| body(&bytes));
                assert!(result.is_ok(), "{name} with {bytes:?}");
            }
        }
    }
}
