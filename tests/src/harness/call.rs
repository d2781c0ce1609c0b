//! A relay and its clients.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use tempfile::TempDir;

use super::bin;
use super::process::Process;

/// A relay of its own on this machine, and a directory for everything that belongs to the call.
#[derive(Debug)]
pub struct Call {
    /// The running relay.
    pub relay: Process,
    /// Where it listens.
    pub address: SocketAddr,
    dir: TempDir,
}

impl Call {
    /// Starts a relay on a free port of the loopback interface.
    pub fn start() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("vchat-call").tempdir()?;
        let (relay, address) = relay(dir.path(), ([127, 0, 0, 1], 0).into())?;
        Ok(Self { relay, address, dir })
    }

    /// Starts the relay again on the same port, with the same key unless that was removed, when it has ended.
    pub fn restart_relay(&mut self) -> anyhow::Result<()> {
        (self.relay, self.address) = relay(self.dir.path(), self.address)?;
        Ok(())
    }

    /// Where the relay keeps its key.
    #[must_use]
    pub fn relay_state(&self) -> PathBuf {
        self.dir.path().join("relay")
    }

    /// A path in the call's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A client with these options, separated by spaces. What they leave open: no devices, no window, events as JSON, and
    /// a key of its own.
    pub fn client(&self, name: &str, options: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(bin("vchat-client")?);
        let home = self.path(name).to_string_lossy().into_owned();
        let relay = self.address.to_string();
        let defaults = [
            ("--relay", relay.as_str()),
            ("--name", name),
            ("--camera", "none"),
            ("--mic", "none"),
            ("--display", "none"),
            ("--speaker", "none"),
            ("--events", "json"),
            ("--config-dir", &home),
            ("--state-dir", &home),
        ];
        command.args(options.split_whitespace());
        for (option, value) in defaults {
            if !options.split_whitespace().any(|given| given == option) {
                command.args([option, value]);
            }
        }
        // Nothing of the user's own.
        for variable in ["VCHAT_RELAY", "DISPLAY", "WAYLAND_DISPLAY", "RUST_LOG"] {
            command.env_remove(variable);
        }
        Ok(command)
    }

    /// Starts a client as [`Self::client`] describes it.
    pub fn join(&self, name: &str, options: &str) -> anyhow::Result<Process> {
        Process::spawn(&mut self.client(name, options)?)
    }
}

fn relay(dir: &Path, listen: SocketAddr) -> anyhow::Result<(Process, SocketAddr)> {
    let mut command = Command::new(bin("vchatd")?);
    command.args(["--listen", &listen.to_string(), "--state-dir"]).arg(dir.join("relay"));
    command.env_remove("RUST_LOG");
    let mut relay = Process::spawn(&mut command)?;
    let address = relay.wait_for_address().context("the relay does not start")?;
    Ok((relay, address))
}
