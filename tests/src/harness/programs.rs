//! Relays and clients, as a user would start them.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use tempfile::TempDir;

use super::bin;
use super::process::Process;

/// A `vchatd` on a free port of this machine, with a key of its own, that the local network hears nothing of; ends when
/// dropped.
#[derive(Debug)]
pub struct Relay {
    process: Process,
    address: SocketAddr,
    state: TempDir,
    /// The same directory, as it is found from here.
    reached: PathBuf,
    under: Vec<String>,
    options: Vec<String>,
    /// The process that has taken over from the one that was started here.
    successor: Option<Successor>,
}

impl Relay {
    /// Starts a relay and waits until it listens.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&["--mdns", "off"])
    }

    /// The same with these options.
    pub fn start_with(options: &[&str]) -> anyhow::Result<Self> {
        Self::start_under(&[], options)
    }

    /// The same by a command that ends in starting a program, such as `env NAME=VALUE` or `unshare -m`, and becomes it: `{state}`
    /// in its words is the relay's directory.
    pub fn start_under(words: &[&str], options: &[&str]) -> anyhow::Result<Self> {
        let state = tempfile::Builder::new().prefix("vchat-relay").tempdir()?;
        let under: Vec<String> =
            words.iter().map(|word| word.replace("{state}", &state.path().to_string_lossy())).collect();
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        let (process, address) = relay(([127, 0, 0, 1], 0).into(), state.path(), &under, &options)?;
        let reached = reach(state.path(), &under, &process);
        Ok(Self { process, address, state, reached, under, options, successor: None })
    }

    /// The relay's process, for what it prints.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Runs a command of the operator on this relay, such as `devices --json`, and returns what it prints.
    ///
    /// # Errors
    /// It failed; with what it said.
    pub fn operate(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(bin("vchatd")?);
        command.args(arguments).arg("--state-dir").arg(self.state());
        clean(&mut command);
        let output = command.output().context("cannot start vchatd")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "vchatd {arguments:?}: {}: {}", output.status, said.trim_end());
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// The same for an answer in JSON.
    pub fn ask(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let answer = self.operate(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&answer).with_context(|| format!("no JSON: {answer}"))
    }

    /// An invite link, as `vchatd invite` makes it with these options.
    pub fn invite(&self, options: &[&str]) -> anyhow::Result<String> {
        let invite = self.ask(&[&["invite"], options].concat())?;
        Ok(invite["link"].as_str().context("no link")?.to_owned())
    }

    /// Makes the relay and the client whose key and all it knows is in `home` known to each other, if they are not.
    pub fn pair(&self, name: &str, home: &Path) -> anyhow::Result<()> {
        if home.join("known_relays").exists() {
            return Ok(());
        }
        let mut command = Command::new(bin("vchat-client")?);
        command.args(["pair", &self.invite(&[])?, "--name", name]);
        command.arg("--config-dir").arg(home).arg("--state-dir").arg(home);
        let output = command.output().context("cannot start vchat-client")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{name} cannot pair: {}: {}", output.status, said.trim_end());
        Ok(())
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.terminate()
    }

    /// Lets another process take over, as `vchatd restart` does. The one before goes on for some seconds.
    pub fn hand_over(&mut self) -> anyhow::Result<()> {
        let pid = self.ask(&["restart"])?["pid"].as_i64().context("no process id")?;
        self.successor = Some(Successor::new(i32::try_from(pid)?)?);
        Ok(())
    }

    /// Starts it again on the same port when it has ended, with the same key if that is still there.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        (self.process, self.address) = relay(self.address, self.state.path(), &self.under, &self.options)?;
        self.reached = reach(self.state.path(), &self.under, &self.process);
        Ok(())
    }

    /// Where it keeps its key.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.reached
    }

    /// Its control socket.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.state().join("control.sock")
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

/// A process that the harness has not started itself; killed when dropped.
#[derive(Debug)]
struct Successor(OwnedFd);

impl Successor {
    fn new(pid: i32) -> anyhow::Result<Self> {
        let pid = Pid::from_raw(pid).context("no process id")?;
        Ok(Self(pidfd_open(pid, PidfdFlags::empty()).context("the process that took over is gone")?))
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // Fails only when it has ended.
        pidfd_send_signal(&self.0, Signal::KILL).unwrap_or_default();
    }
}

/// The command of a `vchatd` that listens there and keeps everything in `state`.
pub fn relay_command(listen: SocketAddr, state: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(bin("vchatd")?);
    command.args(["--listen", &listen.to_string(), "--state-dir"]).arg(state);
    clean(&mut command);
    Ok(command)
}

fn relay(
    listen: SocketAddr,
    state: &Path,
    under: &[String],
    options: &[String],
) -> anyhow::Result<(Process, SocketAddr)> {
    let mut command = relay_command(listen, state)?;
    command.args(options);
    if let [first, others @ ..] = under {
        let relay = std::mem::replace(&mut command, Command::new(first));
        command.args(others).arg(relay.get_program()).args(relay.get_args());
        clean(&mut command);
    }
    let mut process = Process::spawn(&mut command)?;
    let address = process.wait_for_address()?;
    Ok((process, address))
}

/// A relay that was started by another command may see other files under the same names.
fn reach(state: &Path, under: &[String], process: &Process) -> PathBuf {
    let seen = state.strip_prefix("/").unwrap_or(state);
    if under.is_empty() {
        state.into()
    } else {
        Path::new(&format!("/proc/{}/root", process.id())).join(seen)
    }
}

/// Nothing of a relay that is set up on this machine.
fn clean(command: &mut Command) {
    for variable in [
        "VCHATD_CONFIG",
        "VCHATD_LISTEN",
        "VCHATD_CONTROL",
        "VCHATD_METRICS",
        "VCHATD_PUBLIC",
        "VCHATD_TRUST_ON_FIRST_USE",
        "STATE_DIRECTORY",
        "RUNTIME_DIRECTORY",
    ] {
        command.env_remove(variable);
    }
}

/// The command of a `vchat-client` that prints events, with its key and all it knows in `home/NAME`.
///
/// Devices are still to be chosen, and it has to be paired with the relay ([`Relay::pair`]).
pub fn client(name: &str, relay: SocketAddr, home: &Path) -> anyhow::Result<Command> {
    let own = home.join(name);
    let mut command = Command::new(bin("vchat-client")?);
    command.args(["--relay", &relay.to_string(), "--name", name, "--events", "json"]);
    command.arg("--config-dir").arg(&own).arg("--state-dir").arg(&own);
    Ok(command)
}
