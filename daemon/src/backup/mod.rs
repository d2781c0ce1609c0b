//! Copies of all that a relay needs on another machine, made while it runs.
//!
//! A backup is a directory that can be put in the place of a state directory. It is made under a temporary name and holds a list of
//! its files ([`list`]), so neither half a backup nor half a copy of one is taken for a whole one.

mod list;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use chrono::Utc;
use zeroize::Zeroizing;

pub(crate) use self::list::accept;
use self::list::{DATABASES, KEYS, List, NAME};
use crate::sqlite;

/// A backup that was made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) path: PathBuf,
    /// Of its files together.
    pub(crate) bytes: u64,
    /// Older ones that made way.
    pub(crate) removed: Vec<PathBuf>,
}

/// Copies what the relay that runs in `state_dir` keeps there into a new directory in `dir`, named by the time, and removes the oldest
/// backups there beyond the newest `keep`. Takes as long as reading and writing all of it does; call it from a thread that may.
///
/// # Errors
/// Nothing is left behind.
pub(crate) fn make(state_dir: &Path, dir: &Path, keep: usize) -> anyhow::Result<Made> {
    let partial = Partial::begin(state_dir, dir)?;
    let bytes = copy(state_dir, &partial.0)?;
    let path = partial.finish(dir)?;
    let removed = remove_oldest(dir, keep).context("the backup is made, but old ones cannot be removed")?;
    Ok(Made { path, bytes, removed })
}

/// Where backups of a relay go unless somebody says otherwise: under systemd it can write nowhere else.
pub(crate) fn default_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("backups")
}

/// A backup that is not whole yet; removed when dropped.
struct Partial(PathBuf);

impl Partial {
    fn begin(state_dir: &Path, dir: &Path) -> anyhow::Result<Self> {
        // A name that no other relay of this machine has: what is there is left from a crash.
        let path = dir.join(format!(".partial-{:x}", fs::metadata(state_dir)?.ino()));
        let begin = || {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            remove(&path)?;
            DirBuilder::new().mode(0o700).create(&path)
        };
        let hint = |e: &io::Error| match e.kind() {
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                ": a relay that is a service may write only in its state directory, leave DIR out"
            }
            _ => "",
        };
        begin().map_err(|e| anyhow!("cannot make a directory in {} ({e}){}", dir.display(), hint(&e)))?;
        Ok(Self(path))
    }

    /// Gives it the name of this second, or the next one where there is one of this.
    fn finish(self, dir: &Path) -> anyhow::Result<PathBuf> {
        sync(&self.0)?;
        loop {
            let path = dir.join(Utc::now().format(STAMP).to_string());
            if path.exists() {
                std::thread::sleep(A_MOMENT);
                continue;
            }
            fs::rename(&self.0, &path).with_context(|| format!("cannot make {}", path.display()))?;
            sync(dir)?;
            return Ok(path);
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Its name is gone when it is finished; and what cannot be removed now is when the next one begins.
        drop(remove(&self.0));
    }
}

/// Copies everything into an empty directory and returns how many bytes that are.
fn copy(state_dir: &Path, to: &Path) -> anyhow::Result<u64> {
    for _ in 0..ATTEMPTS {
        let keys = read_keys(state_dir)?;
        for name in DATABASES {
            remove(&to.join(name))?;
            let (from, to) = (state_dir.join(name), to.join(name));
            create(&to)?;
            sqlite::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
            sync(&to)?;
        }
        // A key that was changed meanwhile must fit what the devices are said to know of it.
        if keys != read_keys(state_dir)? {
            continue;
        }
        for (name, bytes) in keys {
            write(&to.join(name), &bytes)?;
        }
        let list = List::of(to, Utc::now())?;
        write(&to.join(NAME), &list.to_json()?)?;
        return Ok(list.bytes());
    }
    anyhow::bail!("the relay's keys change again and again; try later")
}

/// A file's name, and what is in it.
type Key = (&'static str, Zeroizing<Vec<u8>>);

/// The files of keys that there are.
fn read_keys(state_dir: &Path) -> anyhow::Result<Vec<Key>> {
    let mut keys = Vec::new();
    for name in KEYS {
        let path = state_dir.join(name);
        match fs::read(&path) {
            Ok(bytes) => keys.push((name, Zeroizing::new(bytes))),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }
    ensure!(
        keys.iter().any(|(name, _)| *name == KEYS[0]),
        "the relay's key is not in {}",
        state_dir.display()
    );
    Ok(keys)
}

/// Removes the oldest whole backups, and nothing else.
fn remove_oldest(dir: &Path, keep: usize) -> anyhow::Result<Vec<PathBuf>> {
    let mut backups = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Those that a person has given another name are theirs.
        if chrono::NaiveDateTime::parse_from_str(name, STAMP).is_ok() && path.join(NAME).is_file() {
            backups.push(path);
        }
    }
    backups.sort();
    backups.truncate(backups.len().saturating_sub(keep));
    for path in &backups {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(backups)
}

fn create(path: &Path) -> anyhow::Result<File> {
    let options = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    options.with_context(|| format!("cannot make {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file = create(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Waits until a file, or the names in a directory, are on the disk.
fn sync(path: &Path) -> anyhow::Result<()> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.with_context(|| format!("cannot write {}", path.display()))
}

/// Removes a file or a directory with all that is in it, if it is there.
fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// Names sort by time.
const STAMP: &str = "%Y%m%d-%H%M%S";
const A_MOMENT: Duration = Duration::from_millis(50);
/// A person changes the key by hand, and hardly twice while a backup is made.
const ATTEMPTS: u32 = 3;

#[cfg(test)]
mod tests;
