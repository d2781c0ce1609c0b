//! The control socket: how the operator's commands reach the running relay.
//!
//! A Unix socket that only the relay's user (and root) may open. Each connection carries one [`Request`] and one [`Reply`], a
//! line of JSON each; or one request of HTTP, for metrics and health.

mod ask;
mod office;
mod print;
mod qr;
mod serve;
mod status;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::ask::{AskError, ask};
pub(crate) use self::office::{
    MAX_KEPT, MAX_LINES, MAX_LOG_SECONDS, MAX_SECONDS, MAX_USES, MIN_SECONDS, Names, Office, Secret, make,
};
pub use self::print::show;
pub(crate) use self::serve::{Door, serve};

/// What the operator wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// A new invite.
    Invite(Invite),
    /// How many invites are open.
    Invites,
    /// Take all open invites back.
    CancelInvites,
    /// All devices.
    Devices,
    /// Give a device another name.
    Rename {
        /// Its name, or how its fingerprint begins.
        device: String,
        /// The new one.
        name: String,
    },
    /// Let a device in no longer.
    Revoke {
        /// Its name, or how its fingerprint begins.
        device: String,
    },
    /// Lines of a room's chat.
    History {
        /// The room.
        room: String,
        /// Those before this number; the newest, without it.
        before: Option<u64>,
        /// At most so many.
        limit: u32,
    },
    /// Another process takes over, without a break.
    Restart,
    /// A copy of everything that the relay keeps.
    Backup {
        /// The directory that gets it; without one, a directory of the relay's own.
        dir: Option<String>,
        /// How many of the newest there are kept.
        keep: u32,
    },
    /// Write down what QUIC does with a device.
    Qlog {
        /// Its name, or how its fingerprint begins.
        device: String,
        /// How long its connections may be awaited.
        seconds: u64,
    },
    /// How busy the relay is, and with what.
    Status,
    /// The relay's keys.
    Key,
    /// Change the relay's key.
    RotateKey {
        /// At once, whoever knows the next one.
        now: bool,
    },
}

impl Request {
    /// How long the relay takes for it at most.
    const fn patience(&self) -> Duration {
        match self {
            Self::Backup { .. } => BACKUP_PATIENCE,
            _ => PATIENCE,
        }
    }
}

/// What an invite is to be like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// The rooms it is for; any, if there is none.
    pub rooms: Vec<String>,
    /// For how many devices.
    pub uses: u32,
    /// For how long, in seconds.
    pub ttl_s: u64,
    /// How the link calls the relay, if not as the relay would.
    pub host: Option<String>,
    /// A spoken code rather than a link.
    pub code: bool,
    /// The device may invite others.
    pub admin: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It is done; what there is to know.
    Done(serde_json::Value),
    /// It is not done, in a sentence.
    Failed(String),
}

/// For most requests.
const PATIENCE: Duration = Duration::from_secs(30);

/// Some gigabytes from and to a slow disk.
const BACKUP_PATIENCE: Duration = Duration::from_secs(3600);

/// Largest request: a few dozen names of rooms.
const MAX_REQUEST: u64 = 64 * 1024;

/// Largest reply: ten thousand devices.
const MAX_REPLY: u64 = 32 << 20;
