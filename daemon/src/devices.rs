//! The keys that this relay has seen.

use std::path::Path;

use vchat_certs::known::{KnownError, KnownHosts};
use vchat_certs::pin::Pin;

/// Remembers the key of each client, so that the log tells a new device from one that comes back.
///
/// A client *is* its key here: another key is another device, and who it may be is for people to compare.
pub(crate) struct Devices {
    known: KnownHosts,
}

impl Devices {
    pub(crate) fn open(state_dir: &Path) -> Result<Self, KnownError> {
        Ok(Self { known: KnownHosts::open(&state_dir.join("known_devices"))? })
    }

    /// Notes that a device is here. True when it is here for the first time.
    pub(crate) fn meet(&mut self, pin: Pin) -> bool {
        let label = pin.to_string();
        if self.known.pin_of(&label).is_some() {
            return false;
        }
        if let Err(e) = self.known.remember(&label, pin) {
            tracing::warn!("cannot remember a new device: {e}");
        }
        true
    }
}
