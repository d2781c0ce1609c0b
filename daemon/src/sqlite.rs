//! How the relay keeps its SQLite files: for its user alone, and so that what was committed survives a crash of the machine.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use rusqlite::{Connection, OpenFlags};

/// Opens or begins a file, with a write-ahead log of which every commit is synchronised (`synchronous = FULL`). Use it from one
/// thread.
pub(crate) fn open(path: &Path) -> anyhow::Result<Connection> {
    // SQLite gives its further files the mode of this one.
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let db = Connection::open(path)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    // In KiB. By default it is twice that, which a relay takes half an hour to fill: its memory would seem to grow.
    db.pragma_update(None, "cache_size", -1024)?;
    Ok(db)
}

/// Copies a database as it is at one moment into an empty file, while others write to it and do not wait: it is read as any reader
/// of a write-ahead log would.
///
/// Never read the file of an open database by other means: closing it takes away the locks of this whole process (POSIX).
pub(crate) fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let to = to.to_str().context("its name is not UTF-8")?;
    let db = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.execute("VACUUM INTO ?1", [to])?;
    Ok(())
}

/// Gives a file its tables: each of the steps makes one version of the one before, the first that of an empty file.
///
/// # Errors
/// It is of a later version.
pub(crate) fn migrate(db: &Connection, steps: &[&str]) -> anyhow::Result<()> {
    let version: usize = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(missing) = steps.get(version..) else {
        anyhow::bail!("it was written by a later vchatd (version {version})")
    };
    for (step, next) in missing.iter().zip(version + 1..) {
        db.execute_batch(&format!("BEGIN IMMEDIATE; {step} PRAGMA user_version = {next}; COMMIT;"))?;
    }
    Ok(())
}
