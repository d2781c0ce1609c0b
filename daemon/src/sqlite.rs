//! How the relay keeps its SQLite files: for its user alone, and so that what was committed survives a crash of the machine.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::Connection;

/// Opens or begins a file, with a write-ahead log of which every commit is synchronised (`synchronous = FULL`). Use it from one
/// thread.
pub(crate) fn open(path: &Path) -> anyhow::Result<Connection> {
    // SQLite gives its further files the mode of this one.
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let db = Connection::open(path)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    Ok(db)
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
