//! The keys that this relay has seen.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use vchat_certs::pin::Pin;

/// Remembers the key of each client, so that the log tells a new device from one that comes back.
///
/// A client *is* its key here: another key is another device, and who it may be is for people to compare. Nothing
/// is decided by this list, so a line that cannot be read or written is no reason to stop: that device is new again.
/// Overflow: past [`MAX_DEVICES`] no more are remembered; anybody can make keys, and the disk is not theirs.
pub(crate) struct Devices {
    seen: HashSet<Pin>,
    /// A fingerprint a line. Appended to without waiting for the disk: the relay's one thread has media to forward.
    file: File,
}

impl Devices {
    /// Reads `known_devices` in a directory that exists, or begins it.
    pub(crate) fn open(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join("known_devices");
        let open = || -> io::Result<(File, HashSet<Pin>)> {
            let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
            let mut text = Vec::new();
            (&file).take(MAX_BYTES).read_to_end(&mut text)?;
            let text = String::from_utf8_lossy(&text);
            let pins = text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
            Ok((file, pins.take(MAX_DEVICES).collect()))
        };
        let (file, seen) = open().with_context(|| format!("cannot use {}", path.display()))?;
        Ok(Self { seen, file })
    }

    /// Notes that a device is here. True when it is here for the first time.
    pub(crate) fn meet(&mut self, pin: Pin) -> bool {
        if self.seen.contains(&pin) {
            return false;
        }
        if self.seen.len() < MAX_DEVICES {
            self.seen.insert(pin);
            if let Err(e) = self.file.write_all(format!("{pin}\n").as_bytes()) {
                tracing::warn!("cannot remember a new device: {e}");
            }
        }
        true
    }
}

/// More than the people of one relay have devices.
const MAX_DEVICES: usize = 10_000;
/// Ten thousand lines of 65 bytes, and as much again for comments.
const MAX_BYTES: u64 = 2 * 65 * MAX_DEVICES as u64;

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(n: u32) -> Pin {
        let mut pin = Pin([0; 32]);
        pin.0[..4].copy_from_slice(&n.to_be_bytes());
        pin
    }

    #[test]
    fn a_device_is_new_once_and_damage_is_skipped() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut devices = Devices::open(dir.path()).expect("begun");
        assert!(devices.meet(pin(1)) && !devices.meet(pin(1)));
        devices.file.write_all(b"\xff nonsense\n").expect("written");
        assert!(devices.meet(pin(2)));
        let mut again = Devices::open(dir.path()).expect("read");
        assert!(!again.meet(pin(1)) && !again.meet(pin(2)) && again.meet(pin(3)));
    }

    #[test]
    fn strangers_with_ever_new_keys_fill_neither_disk_nor_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut devices = Devices::open(dir.path()).expect("begun");
        for n in 0..MAX_DEVICES as u32 + 500 {
            assert!(devices.meet(pin(n)));
        }
        let size = devices.file.metadata().expect("there").len();
        assert!(size <= MAX_BYTES, "{size} bytes");
        let mut again = Devices::open(dir.path()).expect("a relay that was flooded starts again");
        assert!(!again.meet(pin(0)) && again.meet(pin(MAX_DEVICES as u32)));
    }
}
