//! What an operator asks of the running relay.

use clap::{Subcommand, ValueEnum};
use vchat_proto::id::RoomName;
use vchat_proto::units::seconds_of_text;

use super::flags::RunArgs;
use super::{Output, host};
use crate::control::{
    Invite, MAX_KEPT, MAX_LINES, MAX_LOG_SECONDS, MAX_SECONDS, MAX_USES, MIN_SECONDS, Request,
};

#[derive(Clone, Debug, Subcommand)]
pub(super) enum Command {
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
pub(super) enum InvitesAction {
    /// Count them
    List,
    /// Take them all back
    Cancel,
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum DevicesAction {
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
pub(super) enum KeyAction {
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

impl Command {
    /// What to ask the running relay; none for running it.
    pub(super) fn request(self) -> Option<(Request, Output)> {
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
