//! The file that devices and invites are kept in.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context;
use rusqlite::{Connection, OptionalExtension, params};
use rustix::fs::{FlockOperation, flock};
use vchat_certs::codes::OpenCodes;

use super::invites::Grant;
use crate::{backup, sqlite};

/// Devices and link invites on disk, spoken codes in memory.
///
/// One connection in one thread ([`sqlite`]): what was answered is on the disk. Times are milliseconds since 1970 UTC and arguments, so tests choose them.
pub(crate) struct Ledger {
    pub(super) db: Connection,
    pub(super) codes: OpenCodes<Grant>,
    /// Keeps other daemons away from this directory.
    _lock: File,
}

/// The file cannot be read or written, for instance because the disk is full. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the file of devices: {0}")]
pub(crate) struct LedgerError(#[from] rusqlite::Error);

impl Ledger {
    /// Opens or begins `vchatd.db` in a directory that is made if need be.
    ///
    /// # Errors
    /// Another daemon uses the directory, or a backup that was put into it is not whole, or the file cannot be used or is of a later version.
    pub(crate) fn open(state_dir: &Path) -> anyhow::Result<Self> {
        let mut dirs = fs::DirBuilder::new();
        dirs.recursive(true)
            .mode(0o700)
            .create(state_dir)
            .with_context(|| format!("cannot create directory {}", state_dir.display()))?;
        let lock = lock(state_dir)?;
        backup::accept(state_dir)?;
        let path = state_dir.join("vchatd.db");
        let open = || -> anyhow::Result<Connection> {
            let db = sqlite::open(&path)?;
            db.pragma_update(None, "foreign_keys", true)?;
            sqlite::migrate(&db, &[SCHEMA])?;
            Ok(db)
        };
        let db = open().with_context(|| format!("cannot use {}", path.display()))?;
        Ok(Self { db, codes: OpenCodes::default(), _lock: lock })
    }

    /// A number that is kept under a name.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, LedgerError> {
        Ok(self
            .db
            .query_row("SELECT value FROM number WHERE name = ?1", [name], |row| row.get(0))
            .optional()?)
    }

    /// Keeps a number under a name, or forgets it.
    pub(crate) fn set_number(&self, name: &str, value: Option<u64>) -> Result<(), LedgerError> {
        match value {
            Some(value) => self.db.execute(
                "INSERT OR REPLACE INTO number (name, value) VALUES (?1, ?2)",
                params![name, value],
            )?,
            None => self.db.execute("DELETE FROM number WHERE name = ?1", [name])?,
        };
        Ok(())
    }
}

fn lock(state_dir: &Path) -> anyhow::Result<File> {
    let path = state_dir.join("vchatd.lock");
    let options = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    let file = options.with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => anyhow::bail!(
            "another vchatd is running with the state directory {}: stop it, or choose another with --state-dir",
            state_dir.display()
        ),
        Err(e) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// The time of day, for people and for invites that end at a given hour.
pub(crate) fn unix_ms_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A device without rooms may enter any. An invite is used up when it has as many redemptions as uses.
const SCHEMA: &str = "
CREATE TABLE device (
    pin BLOB PRIMARY KEY, name TEXT NOT NULL, admin INTEGER NOT NULL, created INTEGER NOT NULL,
    last_seen INTEGER, revoked INTEGER, next_pin BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE device_room (
    pin BLOB NOT NULL REFERENCES device ON DELETE CASCADE, room TEXT NOT NULL, PRIMARY KEY (pin, room)
) STRICT, WITHOUT ROWID;
CREATE TABLE invite (
    hash BLOB PRIMARY KEY, admin INTEGER NOT NULL, uses INTEGER NOT NULL, created INTEGER NOT NULL,
    expires INTEGER NOT NULL, maker BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE invite_room (
    hash BLOB NOT NULL REFERENCES invite ON DELETE CASCADE, room TEXT NOT NULL, PRIMARY KEY (hash, room)
) STRICT, WITHOUT ROWID;
CREATE TABLE redemption (
    hash BLOB NOT NULL REFERENCES invite ON DELETE CASCADE, pin BLOB NOT NULL, PRIMARY KEY (hash, pin)
) STRICT, WITHOUT ROWID;
CREATE TABLE number (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";
