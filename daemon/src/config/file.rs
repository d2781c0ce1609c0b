//! The configuration file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

use super::flags::LimitArgs;
use super::{ConfigError, LogFormat, MAX_CHAT_DAYS, MIN_CLIENT_KBPS, MIN_MEMORY_MIB, Mdns, host, range};
use crate::ceilings::{MAX_CLIENTS, MAX_PARTICIPANTS};

/// The settings of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct File {
    pub(super) listen: Option<Vec<SocketAddr>>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) control: Option<PathBuf>,
    pub(super) log: Option<LogFormat>,
    #[serde(default, deserialize_with = "called")]
    pub(super) public: Option<String>,
    pub(super) mdns: Option<Mdns>,
    #[serde(default, deserialize_with = "days")]
    pub(super) chat_days: Option<u32>,
    #[serde(default, deserialize_with = "lines")]
    pub(super) chat_lines: Option<u32>,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) trust_on_first_use: Option<bool>,
    #[serde(default, deserialize_with = "limit::<_, 1, { u32::MAX }>")]
    pub(super) max_rooms: Option<u32>,
    #[serde(default, deserialize_with = "limit::<_, 1, MAX_PARTICIPANTS>")]
    pub(super) max_participants: Option<u32>,
    #[serde(default, deserialize_with = "limit::<_, 1, MAX_CLIENTS>")]
    pub(super) max_clients: Option<u32>,
    #[serde(default, deserialize_with = "limit::<_, MIN_CLIENT_KBPS, { u32::MAX }>")]
    pub(super) max_client_kbps: Option<u32>,
    #[serde(default, deserialize_with = "limit::<_, 1, { u32::MAX }>")]
    pub(super) max_mbps: Option<u32>,
    #[serde(default, deserialize_with = "limit::<_, MIN_MEMORY_MIB, { u32::MAX }>")]
    pub(super) max_memory_mib: Option<u32>,
}

impl File {
    pub(super) const fn limits(&self) -> LimitArgs {
        let Self {
            max_rooms, max_participants, max_clients, max_client_kbps, max_mbps, max_memory_mib, ..
        } = *self;
        LimitArgs { max_rooms, max_participants, max_clients, max_client_kbps, max_mbps, max_memory_mib }
    }
}

pub(super) fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(0, |s| 1 + text[..s.start.min(text.len())].matches('\n').count());
        let why = format!("line {line}: {}", e.message().replace('\n', " "));
        ConfigError::Parse { path: path.into(), why }
    })
}

/// `public` of a file.
fn called<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    host(&String::deserialize(value)?).map(Some).map_err(serde::de::Error::custom)
}

/// A limit of a file.
fn limit<'de, D: Deserializer<'de>, const LEAST: u32, const MOST: u32>(
    value: D,
) -> Result<Option<u32>, D::Error> {
    let number = u32::deserialize(value)?;
    let wrong = || serde::de::Error::custom(format!("{number} is no such limit: {}", range(LEAST, MOST)));
    if (LEAST..=MOST).contains(&number) { Ok(Some(number)) } else { Err(wrong()) }
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
