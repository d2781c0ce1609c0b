//! The list of a backup's files, by which one that was put back is recognised, and whether it is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use ring::digest;
use serde::{Deserialize, Serialize};

use super::{remove, sync};

/// What is in a backup.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct List {
    version: u32,
    /// When it was made.
    made: String,
    /// The program that made it.
    by: String,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    sha256: String,
}

impl List {
    /// The list of the files that are in a directory.
    pub(super) fn of(dir: &Path, made: DateTime<Utc>) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        for name in all() {
            if let Some(entry) = entry(&dir.join(name))? {
                files.insert(name.to_owned(), entry);
            }
        }
        let made = made.to_rfc3339_opts(SecondsFormat::Secs, true);
        Ok(Self { version: VERSION, made, by: concat!("vchatd ", env!("CARGO_PKG_VERSION")).into(), files })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|entry| entry.bytes).sum()
    }

    pub(super) fn to_json(&self) -> anyhow::Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }

    /// Whether a directory holds just that.
    fn check(&self, dir: &Path) -> anyhow::Result<()> {
        ensure!(self.version == VERSION, "it is of a later vchatd (version {})", self.version);
        ensure!(self.files.contains_key(KEYS[0]), "its list does not name {}", KEYS[0]);
        for name in all() {
            match (self.files.get(name), entry(&dir.join(name))?) {
                (None, None) => {}
                (Some(_), None) => anyhow::bail!("{name} is missing"),
                (Some(listed), Some(found)) => ensure!(*listed == found, "{name} is not as it was"),
                (None, Some(_)) => anyhow::bail!("{name} is not of this backup: remove it"),
            }
        }
        Ok(())
    }
}

/// Looks at a state directory before anything in it is used: where a backup was put back it has to be whole. After that it is a state
/// directory like any other. The caller keeps other relays away.
///
/// # Errors
/// It is not whole. Half of it could be a relay with another key, which all its clients would refuse.
pub(crate) fn accept(state_dir: &Path) -> anyhow::Result<()> {
    let path = state_dir.join(NAME);
    let json = match fs::read(&path) {
        Ok(json) => json,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let list: List =
        serde_json::from_slice(&json).with_context(|| format!("{} makes no sense", path.display()))?;
    list.check(state_dir).with_context(|| {
        format!("the backup that was put into {} is not whole, copy it again", state_dir.display())
    })?;
    // What the database that was here before has left; it would be taken for changes to this one.
    for name in DATABASES {
        for end in ["-wal", "-shm", "-journal"] {
            remove(&state_dir.join(format!("{name}{end}")))?;
        }
    }
    sync(state_dir)?;
    remove(&path)?;
    sync(state_dir)?;
    tracing::info!(made = list.made, "a backup was put back");
    Ok(())
}

fn all() -> impl Iterator<Item = &'static str> {
    KEYS.into_iter().chain(DATABASES)
}

/// What is there under this name, if anything.
fn entry(path: &Path) -> anyhow::Result<Option<Entry>> {
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let (mut sha256, mut bytes) = (digest::Context::new(&digest::SHA256), 0);
    let mut part = vec![0; PART];
    loop {
        let count = file.read(&mut part).with_context(|| format!("cannot read {}", path.display()))?;
        if count == 0 {
            break;
        }
        sha256.update(&part[..count]);
        bytes += count as u64;
    }
    let sha256 = sha256.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(Entry { bytes, sha256 }))
}

/// In the directory of a backup. A state directory has one until the relay has looked at it.
pub(super) const NAME: &str = "backup.json";
/// The relay's own key first: there is no relay without it.
pub(super) const KEYS: [&str; 3] = ["identity.pem", "next-identity.pem", "quic.key"];
pub(super) const DATABASES: [&str; 2] = ["vchatd.db", "chat.db"];
const VERSION: u32 = 1;
const PART: usize = 64 * 1024;
