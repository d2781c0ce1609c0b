//! Relays and clients, as a user would start them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::bin;
use super::process::Process;

/// A `vchatd` on a free port of this machine, with a key of its own; ends when dropped.
#[derive(Debug)]
pub struct Relay {
    process: Process,
    address: SocketAddr,
    _state: TempDir,
}

impl Relay {
    /// Starts a relay and waits until it listens.
    pub fn start() -> anyhow::Result<Self> {
        let state = tempfile::Builder::new().prefix("vchat-relay").tempdir()?;
        let mut command = Command::new(bin("vchatd")?);
        command.args(["--listen", "127.0.0.1:0", "--state-dir"]).arg(state.path());
        // Nothing of a relay that is set up on this machine.
        command.env_remove("VCHATD_CONFIG");
        let mut process = Process::spawn(&mut command)?;
        let address = process.wait_for_address()?;
        Ok(Self { process, address, _state: state })
    }

    /// Where clients find it.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// The command of a `vchat-client` that prints events, with its key and all it knows in `home/NAME`.
///
/// Devices are still to be chosen.
pub fn client(name: &str, relay: SocketAddr, home: &Path) -> anyhow::Result<Command> {
    let own = home.join(name);
    let mut command = Command::new(bin("vchat-client")?);
    command.args(["--relay", &relay.to_string(), "--name", name, "--events", "json"]);
    command.arg("--config-dir").arg(&own).arg("--state-dir").arg(&own);
    Ok(command)
}
