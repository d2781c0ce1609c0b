//! Flags and environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser};

use super::commands::Command;
use super::{LogFormat, MAX_CHAT_DAYS, MIN_CLIENT_KBPS, MIN_MEMORY_MIB, Mdns, host, range};
use crate::ceilings::{Limits, MAX_CLIENTS, MAX_PARTICIPANTS};

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
    pub(super) command: Option<Command>,

    /// A TOML file with the same settings: listen = ["ADDR:PORT"], state-dir = "DIR", control = "PATH", log = "text",
    /// public = "HOST:PORT", mdns = "auto", chat-days = 365, chat-lines = 100000, metrics = "ADDR:PORT",
    /// trust-on-first-use = false
    #[arg(long, env = "VCHATD_CONFIG", value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,

    /// Where the relay's keys and devices are kept [default: $STATE_DIRECTORY, else ~/.local/state/vchatd]
    #[arg(long, env = "VCHATD_STATE_DIR", value_name = "DIR", global = true)]
    pub(super) state_dir: Option<PathBuf>,

    /// The socket through which commands reach the running relay [default: control.sock in $RUNTIME_DIRECTORY, else in
    /// the state directory]
    #[arg(long, env = "VCHATD_CONTROL", value_name = "PATH", global = true)]
    pub(super) control: Option<PathBuf>,

    #[command(flatten)]
    pub(super) run: RunArgs,

    /// Take over from the process that gives its sockets over stdin.
    #[arg(long, hide = true, global = true)]
    pub(super) take_over: bool,
}

/// What only a running relay needs to know.
#[derive(Args, Clone, Debug)]
pub(super) struct RunArgs {
    /// UDP address to listen on; repeat it for several; port 0 takes any free one [default: [::]:4433]
    #[arg(long, env = "VCHATD_LISTEN", value_name = "ADDR:PORT", value_delimiter = ',')]
    pub(super) listen: Vec<SocketAddr>,

    /// How to write the log [default: text]
    #[arg(long, env = "VCHATD_LOG", value_name = "FORMAT")]
    pub(super) log: Option<LogFormat>,

    /// What people call this relay, for invite links [default: this machine's address]
    #[arg(long, env = "VCHATD_PUBLIC", value_name = "HOST[:PORT]")]
    #[arg(value_parser = host)]
    pub(super) public: Option<String>,

    /// Whether the relay tells the local network that it is there, for `vchat-client --relay auto`; auto: if its address is a
    /// private one [default: auto]
    #[arg(long, env = "VCHATD_MDNS", value_name = "WHEN")]
    pub(super) mdns: Option<Mdns>,

    /// Days for which chat is kept [default: 365]
    #[arg(long, env = "VCHATD_CHAT_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=MAX_CHAT_DAYS))]
    pub(super) chat_days: Option<u32>,

    /// Lines of chat that are kept of a room [default: 100000]
    #[arg(long, env = "VCHATD_CHAT_LINES", value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) chat_lines: Option<u32>,

    /// TCP address at which everybody who reaches it reads how the relay is (HTTP: /metrics for Prometheus, and /health); port 0
    /// takes any free one [default: none, only the control socket]
    #[arg(long, env = "VCHATD_METRICS", value_name = "ADDR:PORT")]
    pub(super) metrics: Option<SocketAddr>,

    #[command(flatten)]
    pub(super) limits: LimitArgs,

    /// Let everybody in who reaches the port, and remember their keys. For a network without strangers only
    #[arg(long, env = "VCHATD_TRUST_ON_FIRST_USE")]
    pub(super) trust_on_first_use: bool,
}

/// The most that there may be of anything.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Rooms with people in them [default: 1000]
    #[arg(long, env = "VCHATD_MAX_ROOMS", value_name = "N", value_parser = number::<1, { u32::MAX }>)]
    pub(super) max_rooms: Option<u32>,

    /// People in one room, 256 at most [default: 256]
    #[arg(long, env = "VCHATD_MAX_PARTICIPANTS", value_name = "N", value_parser = number::<1, MAX_PARTICIPANTS>)]
    pub(super) max_participants: Option<u32>,

    /// People in all rooms, 4096 at most [default: 4096]
    #[arg(long, env = "VCHATD_MAX_CLIENTS", value_name = "N", value_parser = number::<1, MAX_CLIENTS>)]
    pub(super) max_clients: Option<u32>,

    /// What one client may send, in kb/s; more is dropped, and clients are told to stay below [default: no limit]
    #[arg(long, env = "VCHATD_MAX_CLIENT_KBPS", value_name = "KBPS", value_parser = number::<MIN_CLIENT_KBPS, { u32::MAX }>)]
    pub(super) max_client_kbps: Option<u32>,

    /// What the relay may send to all, in Mb/s: video gives way to keep below, and when little is left of it nobody more is taken in
    /// [default: no limit]
    #[arg(long, env = "VCHATD_MAX_MBPS", value_name = "MBPS", value_parser = number::<1, { u32::MAX }>)]
    pub(super) max_mbps: Option<u32>,

    /// Memory in use, in MiB, from which on nobody more is taken in [default: no limit]
    #[arg(long, env = "VCHATD_MAX_MEMORY_MIB", value_name = "MIB", value_parser = number::<MIN_MEMORY_MIB, { u32::MAX }>)]
    pub(super) max_memory_mib: Option<u32>,
}

impl LimitArgs {
    /// These, and what they leave open as `other` has it.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            max_rooms: self.max_rooms.or(other.max_rooms),
            max_participants: self.max_participants.or(other.max_participants),
            max_clients: self.max_clients.or(other.max_clients),
            max_client_kbps: self.max_client_kbps.or(other.max_client_kbps),
            max_mbps: self.max_mbps.or(other.max_mbps),
            max_memory_mib: self.max_memory_mib.or(other.max_memory_mib),
        }
    }

    pub(super) fn limits(self) -> Limits {
        let default = Limits::default();
        Limits {
            max_rooms: self.max_rooms.unwrap_or(default.max_rooms),
            max_participants: self.max_participants.unwrap_or(default.max_participants),
            max_clients: self.max_clients.unwrap_or(default.max_clients),
            max_client_kbps: self.max_client_kbps,
            max_mbps: self.max_mbps,
            max_memory_mib: self.max_memory_mib,
        }
    }
}

impl RunArgs {
    /// These, and what they leave open as `other` has it: options may stand before and after `run`.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            listen: if self.listen.is_empty() { other.listen } else { self.listen },
            log: self.log.or(other.log),
            public: self.public.or(other.public),
            mdns: self.mdns.or(other.mdns),
            chat_days: self.chat_days.or(other.chat_days),
            chat_lines: self.chat_lines.or(other.chat_lines),
            metrics: self.metrics.or(other.metrics),
            limits: self.limits.or(other.limits),
            trust_on_first_use: self.trust_on_first_use || other.trust_on_first_use,
        }
    }
}

/// A limit on the command line.
fn number<const LEAST: u32, const MOST: u32>(text: &str) -> Result<u32, String> {
    let number = text.parse().map_err(|_| "it is no number".to_owned())?;
    if (LEAST..=MOST).contains(&number) { Ok(number) } else { Err(range(LEAST, MOST)) }
}
