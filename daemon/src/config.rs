//! What the daemon is told: flags over environment over a TOML file, checked once.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Deserializer};
use vchat_certs::authority::{Authority, AuthorityError, DEFAULT_PORT};
use vchat_proto::id::RoomName;
use vchat_proto::units::seconds_of_text;

use crate::control::{
    Invite, MAX_KEPT, MAX_LINES, MAX_LOG_SECONDS, MAX_SECONDS, MAX_USES, MIN_SECONDS, Request,
};

/// vchatd: the relay of a vchat. People who were invited join it with `vchat-client`.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "vchatd",
    version,
    about,
    after_help = "Examples:\n  \
        vchatd --listen '[::]:4433' --state-dir /var/lib/vchatd\n  \
        vchatd invite --uses 3 --ttl 7d      a link for three devices\n  \
        vchatd invite --code --room team     a code to say on the telephone, for one room\n  \
        vchatd devices revoke ann            lets a device in no longer\n  \
        vchatd check-config --config FILE    says what is wrong in it\n  \
        vchatd status                        who is busy, and how much\n  \
        vchatd restart                       after an upgrade; calls go on\n\n\
        Exit codes: 0 done, 2 wrong usage or configuration, 3 the relay is not running, 1 anything else.\n\
        Logs go to stderr; RUST_LOG sets the level (default: info)."
)]
pub struct Flags {
    #[command(subcommand)]
    command: Option<Command>,

    /// A TOML file with the same settings: listen = ["ADDR:PORT"], state-dir = "DIR", control = "PATH", log = "text",
    /// public = "HOST:PORT", mdns = "auto", chat-days = 365, chat-lines = 100000, metrics = "ADDR:PORT",
    /// trust-on-first-use = false
    #[arg(long, env = "VCHATD_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,

    /// Where the relay's keys and devices are kept [default: $STATE_DIRECTORY, else ~/.local/state/vchatd]
    #[arg(long, env = "VCHATD_STATE_DIR", value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,

    /// The socket through which commands reach the running relay [default: control.sock in $RUNTIME_DIRECTORY, else in
    /// the state directory]
    #[arg(long, env = "VCHATD_CONTROL", value_name = "PATH", global = true)]
    control: Option<PathBuf>,

    #[command(flatten)]
    run: RunArgs,

    /// Take over from the process that gives its sockets over stdin.
    #[arg(long, hide = true, global = true)]
    take_over: bool,
}

/// What only a running relay needs to know.
#[derive(Args, Clone, Debug)]
struct RunArgs {
    /// UDP address to listen on; repeat it for several; port 0 takes any free one [default: [::]:4433]
    #[arg(long, env = "VCHATD_LISTEN", value_name = "ADDR:PORT", value_delimiter = ',')]
    listen: Vec<SocketAddr>,

    /// How to write the log [default: text]
    #[arg(long, env = "VCHATD_LOG", value_name = "FORMAT")]
    log: Option<LogFormat>,

    /// What people call this relay, for invite links [default: this machine's address]
    #[arg(long, env = "VCHATD_PUBLIC", value_name = "HOST[:PORT]")]
    #[arg(value_parser = host)]
    public: Option<String>,

    /// Whether the relay tells the local network that it is there, for `vchat-client --relay auto`; auto: if its address is a
    /// private one [default: auto]
    #[arg(long, env = "VCHATD_MDNS", value_name = "WHEN")]
    mdns: Option<Mdns>,

    /// Days for which chat is kept [default: 365]
    #[arg(long, env = "VCHATD_CHAT_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=MAX_CHAT_DAYS))]
    chat_days: Option<u32>,

    /// Lines of chat that are kept of a room [default: 100000]
    #[arg(long, env = "VCHATD_CHAT_LINES", value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..))]
    chat_lines: Option<u32>,

    /// TCP address at which everybody who reaches it reads how the relay is (HTTP: /metrics for Prometheus, and /health); port 0
    /// takes any free one [default: none, only the control socket]
    #[arg(long, env = "VCHATD_METRICS", value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,

    /// Let everybody in who reaches the port, and remember their keys. For a network without strangers only
    #[arg(long, env = "VCHATD_TRUST_ON_FIRST_USE")]
    trust_on_first_use: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Run the relay (what happens without a command, too)
    Run(RunArgs),
    /// Say what the relay would run with, or what is wrong with that
    CheckConfig(RunArgs),
    /// Start the relay anew without a break: a new process of the installed program takes over, and nobody hears a gap
    Restart {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show the chat of a room
    #[command(after_help = "Examples:\n  \
        vchatd history team                    the last lines\n  \
        vchatd history team --before 4711      those before line 4711\n  \
        vchatd history team --json             as JSON, oldest first")]
    History {
        /// The room
        #[arg(value_parser = room)]
        room: String,
        /// Lines before this number only
        #[arg(long, value_name = "NUMBER")]
        before: Option<u64>,
        /// How many lines at most
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LINES)))]
        limit: u32,
        /// A JSON array
        #[arg(long)]
        json: bool,
    },
    /// Copy everything that another machine needs to be this relay, while it runs, and print where to
    #[command(after_help = "Examples:\n  \
        vchatd backup                          into backups/ of the state directory, the newest seven are kept\n  \
        vchatd backup /srv/backups --keep 30   into a directory that the relay may write to\n\n\
        To put it back: stop the relay, put the copy in the place of its state directory, start it.\n\
        It holds the relay's private key.")]
    Backup {
        /// The directory that gets it, as a directory named by the time, YYYYMMDD-HHMMSS [default: backups in the state
        /// directory]
        #[arg(value_name = "DIR", value_parser = absolute)]
        dir: Option<String>,
        /// How many of the newest are kept there; older ones are removed
        #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_KEPT)))]
        keep: u32,
        /// One JSON object: path, bytes, removed
        #[arg(long)]
        json: bool,
    },
    /// Invite somebody: print a link, or a code to say
    #[command(after_help = "Examples:\n  \
        vchatd invite                          a link for one device, good for a day\n  \
        vchatd invite --room team --uses 5     for five devices, which may enter this room only\n  \
        vchatd invite --code                   a code, good for ten minutes: vchat-client pair --relay HOST --code CODE")]
    Invite {
        /// A room that the device may enter; repeat it for several [default: any]
        #[arg(long = "room", value_name = "ROOM", value_parser = room)]
        rooms: Vec<String>,
        /// For how many devices
        #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "code", value_parser = uses())]
        uses: u32,
        /// For how long, as in 30m, 24h or 7d
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = seconds, conflicts_with = "code")]
        ttl: u64,
        /// How the link calls the relay [default: as --public says]
        #[arg(long, value_name = "NAME[:PORT]", conflicts_with = "code")]
        #[arg(value_parser = host)]
        host: Option<String>,
        /// A code to say instead of a link: one device, ten minutes, three tries
        #[arg(long)]
        code: bool,
        /// The device may invite others
        #[arg(long)]
        admin: bool,
        /// Also print a QR code when stdout is no terminal
        #[arg(long, conflicts_with_all = ["code", "json"])]
        qr: bool,
        /// One JSON object: link, code, expires
        #[arg(long)]
        json: bool,
    },
    /// Count the invites that are open, or take them all back
    Invites {
        /// What to do
        #[arg(value_enum, default_value = "list")]
        action: InvitesAction,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// List, rename or revoke the devices that may come in
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  \
        vchatd devices\n  vchatd devices rename mfrg-gzdf 'Ann, laptop'\n  vchatd devices revoke 'Ann, laptop'"
    )]
    Devices {
        #[command(subcommand)]
        action: Option<DevicesAction>,
        /// A JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show how busy the relay is: rooms and who is in them by number, traffic, load
    #[command(after_help = "Examples:\n  \
        vchatd status                          a page to read\n  \
        vchatd status --json                   one object\n  \
        curl --unix-socket /run/vchatd/control.sock http://vchatd/metrics    more of it, for Prometheus; also /health")]
    Status {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write down what QUIC does with a device, for a look into its network (qlog, for qvis or Wireshark)
    #[command(after_help = "Example:\n  \
        vchatd qlog ann --for 5m               the connections that Ann makes in the next five minutes\n\n\
        Files are in qlog in the state directory, at most 32 with at most 64 MiB; remove them when they are read.")]
    Qlog {
        /// Its name, or the first letters of its fingerprint
        device: String,
        /// For how long to wait for connections of the device, as in 60s or 5m; a log goes on to the end of its connection
        #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = log_seconds)]
        seconds: u64,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show the relay's key, or change it
    #[command(args_conflicts_with_subcommands = true)]
    Key {
        #[command(subcommand)]
        action: Option<KeyAction>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum InvitesAction {
    /// Count them
    List,
    /// Take them all back
    Cancel,
}

#[derive(Clone, Debug, Subcommand)]
enum DevicesAction {
    /// All devices (what happens without an action, too)
    List {
        /// A JSON array
        #[arg(long)]
        json: bool,
    },
    /// Give a device another name
    Rename {
        /// Its name, or the first letters of its fingerprint
        device: String,
        /// The new name
        name: String,
        /// The device as a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Let a device in no longer, and cut its connections
    Revoke {
        /// Its name, or the first letters of its fingerprint
        device: String,
        /// The device as a JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, Subcommand)]
enum KeyAction {
    /// The relay's fingerprints (what happens without an action, too)
    Show {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Make a next key and announce it to all paired clients; it takes over when all know it and no link is open, or after 30 days
    Rotate {
        /// Take over at once: devices that have not heard of it, and open links, need a new invite
        #[arg(long)]
        now: bool,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

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

/// The settings of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    listen: Option<Vec<SocketAddr>>,
    state_dir: Option<PathBuf>,
    control: Option<PathBuf>,
    log: Option<LogFormat>,
    #[serde(default, deserialize_with = "called")]
    public: Option<String>,
    mdns: Option<Mdns>,
    #[serde(default, deserialize_with = "days")]
    chat_days: Option<u32>,
    #[serde(default, deserialize_with = "lines")]
    chat_lines: Option<u32>,
    metrics: Option<SocketAddr>,
    trust_on_first_use: Option<bool>,
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

impl RunArgs {
    /// These, and what they leave open as `other` has it: options may stand before and after `run`.
    fn or(self, other: Self) -> Self {
        Self {
            listen: if self.listen.is_empty() { other.listen } else { self.listen },
            log: self.log.or(other.log),
            public: self.public.or(other.public),
            mdns: self.mdns.or(other.mdns),
            chat_days: self.chat_days.or(other.chat_days),
            chat_lines: self.chat_lines.or(other.chat_lines),
            metrics: self.metrics.or(other.metrics),
            trust_on_first_use: self.trust_on_first_use || other.trust_on_first_use,
        }
    }
}

impl Command {
    /// What to ask the running relay; none for running it.
    fn request(self) -> Option<(Request, Output)> {
        let output = |json| if json { Output::Json } else { Output::Text };
        Some(match self {
            Self::Run(_) | Self::CheckConfig(_) => return None,
            Self::Restart { json } => (Request::Restart, output(json)),
            Self::History { room, before, limit, json } => {
                (Request::History { room, before, limit }, output(json))
            }
            Self::Backup { dir, keep, json } => (Request::Backup { dir, keep }, output(json)),
            Self::Invite { rooms, uses, ttl, host, code, admin, qr, json } => {
                let invite = Invite { rooms, uses, ttl_s: ttl, host, code, admin };
                (Request::Invite(invite), if qr { Output::Qr } else { output(json) })
            }
            Self::Invites { action: InvitesAction::List, json } => (Request::Invites, output(json)),
            Self::Invites { action: InvitesAction::Cancel, json } => (Request::CancelInvites, output(json)),
            Self::Devices { action: None, json }
            | Self::Devices { action: Some(DevicesAction::List { json }), .. } => {
                (Request::Devices, output(json))
            }
            Self::Devices { action: Some(DevicesAction::Rename { device, name, json }), .. } => {
                (Request::Rename { device, name }, output(json))
            }
            Self::Devices { action: Some(DevicesAction::Revoke { device, json }), .. } => {
                (Request::Revoke { device }, output(json))
            }
            Self::Qlog { device, seconds, json } => (Request::Qlog { device, seconds }, output(json)),
            Self::Status { json } => (Request::Status, output(json)),
            Self::Key { action: None, json } | Self::Key { action: Some(KeyAction::Show { json }), .. } => {
                (Request::Key, output(json))
            }
            Self::Key { action: Some(KeyAction::Rotate { now, json }), .. } => {
                (Request::RotateKey { now }, output(json))
            }
        })
    }
}

/// Checks what people call a relay; the port may be left open.
fn host(text: &str) -> Result<String, AuthorityError> {
    text.parse::<Authority>().map(|_| text.to_owned())
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

fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(0, |s| 1 + text[..s.start.min(text.len())].matches('\n').count());
        let why = format!("line {line}: {}", e.message().replace('\n', " "));
        ConfigError::Parse { path: path.into(), why }
    })
}

fn merge(flags: Flags, file: File, dirs: Dirs) -> Result<Config, ConfigError> {
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
        trust_on_first_use: run.trust_on_first_use || file.trust_on_first_use.unwrap_or(false),
    })
}

/// `public` of a file.
fn called<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    host(&String::deserialize(value)?).map(Some).map_err(serde::de::Error::custom)
}

/// `chat-days` of a file.
fn days<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u32>, D::Error> {
    let days = u32::deserialize(value)?;
    let possible = (1..=MAX_CHAT_DAYS).contains(&i64::from(days));
    let wrong = || serde::de::Error::custom(format!("chat-days is {days}, not 1 to {MAX_CHAT_DAYS}"));
    if possible { Ok(Some(days)) } else { Err(wrong()) }
}

/// `chat-lines` of a file.
fn lines<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u32>, D::Error> {
    let lines = u32::deserialize(value)?;
    let wrong = || serde::de::Error::custom("chat-lines is 0; the least is 1");
    if lines > 0 { Ok(Some(lines)) } else { Err(wrong()) }
}

fn seconds(text: &str) -> Result<u64, &'static str> {
    let seconds = seconds_of_text(text).ok_or("give a number and a unit, as in 30m, 24h or 7d")?;
    let possible = (MIN_SECONDS..=MAX_SECONDS).contains(&seconds);
    if possible { Ok(seconds) } else { Err("an invite is good for a minute to 90 days") }
}

fn log_seconds(text: &str) -> Result<u64, &'static str> {
    let seconds = seconds_of_text(text).ok_or("give a number and a unit, as in 60s or 5m")?;
    let possible = (1..=MAX_LOG_SECONDS).contains(&seconds);
    if possible { Ok(seconds) } else { Err("a device is waited for from a second to an hour") }
}

fn room(text: &str) -> Result<String, String> {
    let name = RoomName::parse(text).map_err(|e| format!("this is no name for a room: {e}"))?;
    Ok(name.as_str().into())
}

/// A directory as the relay finds it, which runs elsewhere.
fn absolute(text: &str) -> Result<String, String> {
    let path = std::path::absolute(text).map_err(|e| e.to_string())?;
    path.into_os_string().into_string().map_err(|_| "the name of the directory is not UTF-8".into())
}

fn uses() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(MAX_USES))
}

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Chat of a year, and no more than a talkative team writes in that time.
const CHAT_DAYS: u32 = 365;
const CHAT_LINES: u32 = 100_000;
const MAX_CHAT_DAYS: i64 = 36_500;
const CONTROL_NAME: &str = "control.sock";
/// Where a packaged service has its control socket.
const PACKAGED_CONTROL: &str = "/run/vchatd/control.sock";

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(args: &[&str]) -> Flags {
        Flags::try_parse_from(std::iter::once("vchatd").chain(args.iter().copied())).expect("good flags")
    }

    fn home() -> Dirs {
        Dirs { home: Some("/home/ann".into()), ..Dirs::default() }
    }

    fn merged(args: &[&str], text: &str) -> Result<Config, ConfigError> {
        merge(flags(args), parse(Path::new("x.toml"), text)?, home())
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let config = merged(&[], "").expect("defaults");
        assert_eq!(config.listen, [SocketAddr::from(([0_u16; 8], 4433))]);
        assert_eq!(config.state_dir, Path::new("/home/ann/.local/state/vchatd"));
        assert_eq!(config.control, Path::new("/home/ann/.local/state/vchatd/control.sock"));
        assert_eq!((config.mdns, config.trust_on_first_use, config.public), (Mdns::Auto, false, None));
        let file = "listen = ['1.2.3.4:5', '[::1]:6']\nstate-dir = '/var/x'\nlog = 'json'\ncontrol = '/run/x'
            public = 'relay.example'\nmdns = 'off'\ntrust-on-first-use = true";
        let config = merged(&["--listen", "9.9.9.9:9"], file).expect("good");
        assert_eq!(config.listen, [SocketAddr::from(([9, 9, 9, 9], 9))]);
        assert_eq!((config.state_dir.as_path(), config.log), (Path::new("/var/x"), LogFormat::Json));
        assert_eq!((config.control.as_path(), config.mdns), (Path::new("/run/x"), Mdns::Off));
        assert_eq!(config.public.as_deref(), Some("relay.example"));
        assert!(config.trust_on_first_use);
        let config = merged(&["--listen", "1.1.1.1:1", "run", "--log", "text"], file).expect("good");
        assert_eq!((config.listen.len(), config.log), (1, LogFormat::Text));
        let config = merged(&["run", "--public", "b:7", "--control", "/c"], file).expect("good");
        assert_eq!(config.public.as_deref(), Some("b:7"));
        assert_eq!((config.control.as_path(), config.listen.len()), (Path::new("/c"), 2));
    }

    #[test]
    fn systemd_names_the_directories() {
        let dirs = || Dirs {
            state: Some("/var/lib/vchatd".into()),
            runtime: Some("/run/vchatd".into()),
            home: None,
        };
        let config = merge(flags(&[]), File::default(), dirs()).expect("good");
        assert_eq!(config.state_dir, Path::new("/var/lib/vchatd"));
        assert_eq!(config.control, Path::new("/run/vchatd/control.sock"));
        let own = merge(flags(&["--state-dir", "/tmp/x"]), File::default(), dirs()).expect("good");
        assert_eq!(own.control, Path::new("/tmp/x/control.sock"), "another relay than the service's");
        let nowhere = merge(flags(&[]), File::default(), Dirs::default());
        assert!(matches!(nowhere, Err(ConfigError::NoStateDir)));
    }

    #[test]
    fn a_wrong_file_is_told_with_its_line() {
        let why = merged(&[], "\nlistne = []").expect_err("unknown key").to_string();
        assert!(why.contains("x.toml") && why.contains("line 2") && why.contains("listne"), "{why}");
        let why = merged(&[], "listen = ['nonsense']").expect_err("no address").to_string();
        assert!(why.contains("line 1"), "{why}");
        for (wrong, named) in [
            ("public = 'a b'", "a b"),
            ("chat-days = 0", "chat-days is 0"),
            ("chat-days = 40000", "40000"),
            ("chat-days = -1", "-1"),
            ("chat-lines = 0", "chat-lines is 0"),
            ("mdns = 'maybe'", "maybe"),
            ("metrics = 'nonsense'", "socket address"),
            ("log = 1", "string"),
        ] {
            let why = merged(&[], &format!("# a comment\n{wrong}\n")).expect_err(wrong).to_string();
            assert!(why.contains("x.toml") && why.contains("line 2") && why.contains(named), "{why}");
        }
    }

    #[test]
    fn what_check_config_prints_is_a_configuration() {
        let file = "listen = ['1.2.3.4:5', '[::1]:6']\nstate-dir = '/var/x \"y\"'\nlog = 'json'
            public = 'relay.example'\nchat-days = 7\nchat-lines = 5\nmetrics = '[::1]:9433'";
        let config = merged(&["check-config"], file).expect("good");
        assert_eq!((config.chat_age, config.chat_lines), (Duration::from_secs(7 * 24 * 3600), 5));
        assert_eq!(merged(&[], &config.to_string()).expect("good"), config, "{config}");
        let defaults = merged(&[], "").expect("good");
        assert_eq!(merged(&[], &defaults.to_string()).expect("good"), defaults, "{defaults}");
        assert!(merged(&["check-config", "--chat-days", "3"], file).is_ok_and(|c| c.chat_age == DAY * 3));
    }

    fn asked(args: &[&str]) -> (Request, Output) {
        flags(args).command.and_then(Command::request).expect("a request")
    }

    #[test]
    fn commands_are_requests() {
        let day = Invite { uses: 1, ttl_s: 86_400, ..Invite::default() };
        assert_eq!(asked(&["invite"]), (Request::Invite(day.clone()), Output::Text));
        let team =
            Invite { rooms: vec!["team".into(), "b".into()], uses: 5, ttl_s: 1800, ..Invite::default() };
        let args = ["invite", "--room", "team", "--room", "b", "--uses", "5", "--ttl", "30m", "--json"];
        assert_eq!(asked(&args), (Request::Invite(team), Output::Json));
        let code = Invite { code: true, admin: true, ..day.clone() };
        assert_eq!(asked(&["invite", "--code", "--admin"]).0, Request::Invite(code));
        let host = Invite { host: Some("A:7".into()), ..day };
        assert_eq!(asked(&["invite", "--host", "A:7", "--qr"]), (Request::Invite(host), Output::Qr));
        assert_eq!(asked(&["devices"]), (Request::Devices, Output::Text));
        assert_eq!(asked(&["devices", "--json"]), (Request::Devices, Output::Json));
        assert_eq!(asked(&["devices", "list", "--json"]), (Request::Devices, Output::Json));
        let rename = Request::Rename { device: "a".into(), name: "b c".into() };
        assert_eq!(asked(&["devices", "rename", "a", "b c"]).0, rename);
        assert_eq!(asked(&["devices", "revoke", "a"]).0, Request::Revoke { device: "a".into() });
        assert_eq!(asked(&["status"]), (Request::Status, Output::Text));
        assert_eq!(asked(&["status", "--json"]), (Request::Status, Output::Json));
        let qlog = |device: &str, seconds| Request::Qlog { device: device.into(), seconds };
        assert_eq!(asked(&["qlog", "ann"]), (qlog("ann", 60), Output::Text));
        assert_eq!(asked(&["qlog", "ann", "--for", "5m", "--json"]), (qlog("ann", 300), Output::Json));
        assert_eq!(asked(&["key"]).0, Request::Key);
        assert_eq!(asked(&["key", "rotate", "--now"]).0, Request::RotateKey { now: true });
        let history = Request::History { room: "team".into(), before: Some(9), limit: 50 };
        assert_eq!(asked(&["history", "team", "--before", "9"]), (history, Output::Text));
        assert_eq!(asked(&["restart"]), (Request::Restart, Output::Text));
        assert_eq!(asked(&["backup"]), (Request::Backup { dir: None, keep: 7 }, Output::Text));
        let elsewhere = Request::Backup { dir: Some("/srv/backups".into()), keep: 30 };
        assert_eq!(asked(&["backup", "/srv/backups", "--keep", "30", "--json"]), (elsewhere, Output::Json));
        let here = std::env::current_dir().expect("a directory").join("b").to_string_lossy().into_owned();
        assert_eq!(asked(&["backup", "b"]).0, Request::Backup { dir: Some(here), keep: 7 });
        assert_eq!(asked(&["invites"]).0, Request::Invites);
        assert_eq!(asked(&["invites", "cancel"]).0, Request::CancelInvites);
        assert!(flags(&["run"]).command.and_then(Command::request).is_none());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for args in [
            &["invite", "--ttl", "24"][..],
            &["invite", "--ttl", ""],
            &["invite", "--ttl", "é"],
            &["invite", "--ttl", "99999999999999999d"],
            &["invite", "--code", "--uses", "2"],
            &["invite", "--code", "--ttl", "1h"],
            &["invite", "--uses", "-1"],
            &["invite", "--uses", "0"],
            &["invite", "--uses", "1001"],
            &["invite", "--ttl", "59s"],
            &["invite", "--ttl", "91d"],
            &["invite", "--room", " "],
            &["invite", "--host", "a b"],
            &["devices", "rename", "a"],
            &["invites", "burn"],
            &["history"],
            &["history", " "],
            &["history", "a", "--limit", "0"],
            &["backup", "a", "b"],
            &["backup", "--keep", "0"],
            &["run", "--chat-days", "0"],
            &["run", "--chat-lines", "0"],
            &["--metrics", "localhost"],
            &["qlog"],
            &["qlog", "ann", "--for", "2h"],
            &["--public", "a b"],
        ] {
            let all = std::iter::once("vchatd").chain(args.iter().copied());
            assert!(Flags::try_parse_from(all).is_err(), "{args:?}");
        }
    }
}
