//! A call on this machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::ensure;
use serde_json::Value;
use tempfile::TempDir;
use vchat_proto::wire::limits::CHAT_RATE;

use super::bin;
use super::process::Process;
use super::programs::Relay;

/// A relay of its own, and a directory for everything that its clients keep.
#[derive(Debug)]
pub struct Call {
    /// The running relay.
    pub relay: Relay,
    dir: TempDir,
}

impl Call {
    /// Starts a relay.
    pub fn start() -> anyhow::Result<Self> {
        Self::with(Relay::start()?)
    }

    /// Starts a relay with these options.
    pub fn start_with(options: &[&str]) -> anyhow::Result<Self> {
        Self::with(Relay::start_with(options)?)
    }

    /// Around a relay that runs.
    pub fn with(relay: Relay) -> anyhow::Result<Self> {
        Ok(Self { relay, dir: tempfile::Builder::new().prefix("vchat-call").tempdir()? })
    }

    /// The devices that the relay knows.
    pub fn relay_devices(&self) -> anyhow::Result<Vec<Value>> {
        let devices = self.relay.ask(&["devices"])?;
        Ok(devices.as_array().cloned().unwrap_or_default())
    }

    /// A path in the call's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A client with these options, separated by spaces. What they leave open: no devices, no window, events as JSON, and
    /// a key of its own, with which it is paired.
    pub fn client(&self, name: &str, options: &str) -> anyhow::Result<Command> {
        self.relay.pair(name, &self.path(name))?;
        self.stranger(name, options)
    }

    /// The same for a client that has not paired.
    pub fn stranger(&self, name: &str, options: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(bin("vchat-client")?);
        let home = self.path(name).to_string_lossy().into_owned();
        let relay = self.relay.address().to_string();
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

    /// Has `writer` write `line 1` and so on in an empty lobby: they come anew for each burst that a relay takes at once.
    pub fn write_lines(&self, lines: u64) -> anyhow::Result<()> {
        let numbers: Vec<u64> = (1..=lines).collect();
        for burst in numbers.chunks(CHAT_RATE.1 as usize) {
            let mut writer = self.join("writer", "")?;
            writer.wait_for_event_named("joined")?;
            for n in burst {
                writer.send_line(&format!("line {n}"))?;
            }
            let last = burst.last().copied();
            writer.wait_for_event("the last line", |e| {
                e["event"] == "chat-sent" && e["seq"].as_u64() == last
            })?;
            ensure!(writer.terminate()?.success(), "the writer failed");
        }
        Ok(())
    }

    /// Starts a client as [`Self::client`] describes it.
    pub fn join(&self, name: &str, options: &str) -> anyhow::Result<Process> {
        Process::spawn(&mut self.client(name, options)?)
    }
}
