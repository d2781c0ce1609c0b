//! The clock that stamps what is captured and tells when it is shown.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use vchat_proto::units::MediaTime;

/// Reads the media clock: the system's monotonic clock in microseconds plus an offset that all processes of this
/// boot share.
///
/// Two clients on one machine therefore read the same clock, which makes delays between them exact. The offset is
/// taken from the boot id, so that the others in a call do not learn how long this machine has been up.
#[derive(Clone, Copy, Debug)]
pub struct MediaClock {
    offset: Duration,
}

impl MediaClock {
    /// The clock of this machine.
    #[must_use]
    pub fn new() -> Self {
        let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
        let hash = boot.trim().bytes().fold(FNV_BASIS, |h, b| (h ^ u64::from(b)).wrapping_mul(FNV_PRIME));
        Self { offset: Duration::from_micros(hash & OFFSET_MASK) }
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> MediaTime {
        let t = clock_gettime(ClockId::Monotonic);
        let up = Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0));
        MediaTime::default() + self.offset + up
    }
}

impl Default for MediaClock {
    fn default() -> Self {
        Self::new()
    }
}

/// Where Linux tells a random number that is new at each boot. Without it the offset is a constant.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// FNV-1a (64 bit): spreads the boot id over the offset; nothing here needs a cryptographic hash.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
/// Offsets below 2^46 µs (two years) leave room for years of uptime in the 48 bits of the wire.
const OFFSET_MASK: u64 = (1 << 46) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_clocks_of_a_boot_agree_and_run_forward() {
        let (a, b) = (MediaClock::new(), MediaClock::new());
        let (first, second) = (a.now(), b.now());
        assert!(second >= first);
        assert!(second.micros_since(first) < 1_000_000);
    }
}
