//! What the daemon is told: flags over environment over a TOML file, checked once.

mod commands;
mod file;
mod flags;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use vchat_certs::authority::{Authority, AuthorityError, DEFAULT_PORT};

use self::commands::Command;
use self::file::{File, parse};
pub use self::flags::Flags;
use crate::ceilings::Limits;
use crate::control::Request;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Run the relay.
    Run(Box<Config>),
    /// Show what the relay would run with.
    Check(Box<Config>),
    /// Ask the running relay for something, and show the answer.
    Ask {
        /// The relay's control socket.
        control: PathBuf,
        /// What to ask for.
        request: Request,
        /// How to show it.
        output: Output,
    },
}

/// How to show an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people; a QR code only if stdout is a terminal.
    Text,
    /// For people, with a QR code.
    Qr,
    /// As JSON.
    Json,
}

/// Whether the relay announces itself to the local network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mdns {
    /// If its address is one of a private network.
    Auto,
    /// Yes.
    On,
    /// No.
    Off,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
    /// To the journal of systemd, with fields.
    Journald,
}

/// Checked settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// UDP addresses to listen on, at least one.
    pub listen: Vec<SocketAddr>,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// How to write the log.
    pub log: LogFormat,
    /// What people call the relay, `HOST` or `HOST:PORT`.
    pub public: Option<String>,
    /// Whether the relay announces itself to the local network.
    pub mdns: Mdns,
    /// How long chat is kept.
    pub chat_age: Duration,
    /// Lines of chat that are kept of a room.
    pub chat_lines: u64,
    /// TCP address for metrics and health, besides the control socket.
    pub metrics: Option<SocketAddr>,
    /// Whether an unknown key is let in and remembered.
    pub trust_on_first_use: bool,
    /// The most that there may be of anything.
    pub limits: Limits,
}

impl Config {
    /// A relay at one address that keeps its state in one directory, and everything else as by default but for the local
    /// network, which hears nothing of it: for tests and programs that bring their own relay.
    #[must_use]
    pub fn private(listen: SocketAddr, state_dir: &Path) -> Self {
        Self {
            listen: vec![listen],
            state_dir: state_dir.into(),
            control: state_dir.join(CONTROL_NAME),
            log: LogFormat::Text,
            public: None,
            mdns: Mdns::Off,
            chat_age: DAY.saturating_mul(CHAT_DAYS),
            chat_lines: CHAT_LINES.into(),
            metrics: None,
            trust_on_first_use: false,
            limits: Limits::default(),
        }
    }
}

/// As TOML that, in a configuration file, gives the same settings.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &str| toml::Value::String(text.into());
        let listen: Vec<String> =
            self.listen.iter().map(|addr| text(&addr.to_string()).to_string()).collect();
        writeln!(f, "listen = [{}]", listen.join(", "))?;
        writeln!(f, "state-dir = {}", text(&self.state_dir.to_string_lossy()))?;
        writeln!(f, "control = {}", text(&self.control.to_string_lossy()))?;
        writeln!(f, "log = {}", text(&name_of(self.log)))?;
        if let Some(public) = &self.public {
            writeln!(f, "public = {}", text(public))?;
        }
        writeln!(f, "mdns = {}", text(&name_of(self.mdns)))?;
        writeln!(f, "chat-days = {}", self.chat_age.as_secs() / DAY.as_secs())?;
        writeln!(f, "chat-lines = {}", self.chat_lines)?;
        if let Some(metrics) = self.metrics {
            writeln!(f, "metrics = {}", text(&metrics.to_string()))?;
        }
        let limits = &self.limits;
        let some = [
            ("max-rooms", limits.max_rooms),
            ("max-participants", limits.max_participants),
            ("max-clients", limits.max_clients),
        ];
        let others = [
            ("max-client-kbps", limits.max_client_kbps),
            ("max-mbps", limits.max_mbps),
            ("max-memory-mib", limits.max_memory_mib),
        ];
        let others = others.into_iter().filter_map(|(name, value)| Some((name, value?)));
        for (name, value) in some.into_iter().chain(others) {
            writeln!(f, "{name} = {value}")?;
        }
        write!(f, "trust-on-first-use = {}", self.trust_on_first_use)
    }
}

/// What a value is called on the command line and in a file.
fn name_of(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
}

/// Why the settings are no use. One line for the user.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration {path} is wrong: {why}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why, on one line.
        why: String,
    },
    /// There is no place for the state.
    #[error("no place for the relay's key: set --state-dir DIR (neither $STATE_DIRECTORY nor $HOME is set)")]
    NoStateDir,
}

impl Flags {
    /// Whether this process takes over from another one.
    #[must_use]
    pub const fn takes_over(&self) -> bool {
        self.take_over
    }

    /// Reads the configuration file, if one is named, and checks everything.
    pub fn resolve(self) -> Result<Task, ConfigError> {
        let file = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| ConfigError::Read { path: path.clone(), error })?;
                parse(path, &text)?
            }
            None => File::default(),
        };
        let env = |name| std::env::var_os(name).map(PathBuf::from);
        let dirs =
            Dirs { state: env("STATE_DIRECTORY"), runtime: env("RUNTIME_DIRECTORY"), home: env("HOME") };
        let asked = self.command.clone().and_then(Command::request);
        let named = self.control.is_some() || self.state_dir.is_some() || self.config.is_some();
        let checks = matches!(self.command, Some(Command::CheckConfig(_)));
        let config = merge(self, file, dirs)?;
        Ok(match asked {
            None if checks => Task::Check(Box::new(config)),
            None => Task::Run(Box::new(config)),
            Some((request, output)) => {
                let control = if named { config.control } else { reachable(config.control) };
                Task::Ask { control, request, output }
            }
        })
    }
}

/// Where the system wants things to be.
#[derive(Default)]
struct Dirs {
    state: Option<PathBuf>,
    runtime: Option<PathBuf>,
    home: Option<PathBuf>,
}

/// An operator's shell does not have the service's environment: where no relay is named and nothing is at the usual place, the
/// service may have its socket where the packages put it.
fn reachable(control: PathBuf) -> PathBuf {
    let packaged = Path::new(PACKAGED_CONTROL);
    if !control.exists() && packaged.exists() { packaged.into() } else { control }
}

fn merge(flags: Flags, file: File, dirs: Dirs) -> Result<Config, ConfigError> {
    let limits = file.limits();
    let run = match flags.command {
        Some(Command::Run(run) | Command::CheckConfig(run)) => run.or(flags.run),
        _ => flags.run,
    };
    let listen = Some(run.listen).filter(|l| !l.is_empty()).or(file.listen).filter(|l| !l.is_empty());
    let chosen = flags.state_dir.or(file.state_dir);
    // Who chooses a state directory means another relay than the service's.
    let runtime = dirs.runtime.filter(|_| chosen.is_none() || chosen == dirs.state);
    let state_dir = chosen
        .or(dirs.state)
        .or_else(|| dirs.home.map(|h| h.join(".local/state/vchatd")))
        .ok_or(ConfigError::NoStateDir)?;
    let control = flags.control.or(file.control);
    let chat_days = run.chat_days.or(file.chat_days).unwrap_or(CHAT_DAYS);
    Ok(Config {
        listen: listen.unwrap_or_else(|| vec![SocketAddr::from(([0_u16; 8], DEFAULT_PORT))]),
        control: control.unwrap_or_else(|| runtime.unwrap_or_else(|| state_dir.clone()).join(CONTROL_NAME)),
        state_dir,
        log: run.log.or(file.log).unwrap_or(LogFormat::Text),
        public: run.public.or(file.public),
        mdns: run.mdns.or(file.mdns).unwrap_or(Mdns::Auto),
        chat_age: DAY.saturating_mul(chat_days),
        chat_lines: run.chat_lines.or(file.chat_lines).unwrap_or(CHAT_LINES).into(),
        metrics: run.metrics.or(file.metrics),
        limits: run.limits.or(limits).limits(),
        trust_on_first_use: run.trust_on_first_use || file.trust_on_first_use.unwrap_or(false),
    })
}

/// Sound and a small picture.
const MIN_CLIENT_KBPS: u32 = 200;
/// Less than any relay takes.
const MIN_MEMORY_MIB: u32 = 8;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Chat of a year, and no more than a talkative team writes in that time.
const CHAT_DAYS: u32 = 365;
const CHAT_LINES: u32 = 100_000;
const MAX_CHAT_DAYS: i64 = 36_500;
const CONTROL_NAME: &str = "control.sock";
/// Where a packaged service has its control socket.
const PACKAGED_CONTROL: &str = "/run/vchatd/control.sock";

/// Checks what people call a relay; the port may be left open.
fn host(text: &str) -> Result<String, AuthorityError> {
    text.parse::<Authority>().map(|_| text.to_owned())
}

fn range(least: u32, most: u32) -> String {
    if most == u32::MAX { format!("the least is {least}") } else { format!("it can be {least} to {most}") }
}

#[cfg(test)]
mod tests;
