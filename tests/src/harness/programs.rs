//! Relays and clients, as a user would start them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitStatus};

use tempfile::TempDir;

use super::bin;
use super::process::Process;

/// A `vchatd` on a free port of this machine, with a key of its own; ends when dropped.
#[derive(Debug)]
pub struct Relay {
    process: Process,
    address: SocketAddr,
    state: TempDir,
}

impl Relay {
    /// Starts a relay and waits until it listens.
    pub fn start() -> anyhow::Result<Self> {
        let state = tempfile::Builder::new().prefix("vchat-relay").tempdir()?;
        let (process, address) = relay(([127, 0, 0, 1], 0).into(), state.path())?;
        Ok(Self { process, address, state })
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.terminate()
    }

    /// Starts it again on the same port when it has ended, with the same key if that is still there.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        (self.process, self.address) = relay(self.address, self.state.path())?;
        Ok(())
    }

    /// Where it keeps its key.
    #[must_use]
    pub fn state(&self) -> &Path {
        self.state.path()
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

fn relay(listen: SocketAddr, state: &Path) -> anyhow::Result<(Process, SocketAddr)> {
    let mut command = Command::new(bin("vchatd")?);
    command.args(["--listen", &listen.to_string(), "--state-dir"]).arg(state);
    // Nothing of a relay that is set up on this machine.
    command.env_remove("VCHATD_CONFIG");
    let mut process = Process::spawn(&mut command)?;
    let address = process.wait_for_address()?;
    Ok((process, address))
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
