//! Small private files that survive crashes and concurrent processes.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}", path = path.display())]
pub struct FileError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// What the operating system said.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// What a file holds, wiped from memory when dropped since it may be a private key; and its permission bits.
pub(crate) struct Content {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    pub(crate) mode: u32,
}

impl Content {
    /// Whether group or others may do anything with the file.
    pub(crate) const fn is_exposed(&self) -> bool {
        self.mode & 0o077 != 0
    }
}

/// Reads a file, or gives `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Content>, FileError> {
    let at = |source| FileError { what: "read", path: path.into(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(at(e)),
    };
    // From the open file, not from the path: the bits then belong to the bytes that are read.
    let mode = file.metadata().map_err(at)?.permissions().mode() & 0o7777;
    // Room for everything at once: a growing vector would leave copies of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(TOO_LARGE));
    file.take(TOO_LARGE as u64).read_to_end(&mut bytes).map_err(at)?;
    if bytes.len() == TOO_LARGE {
        return Err(at(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB")));
    }
    Ok(Some(Content { bytes, mode }))
}

/// Exclusive use of the files of one directory among processes and threads, until dropped.
pub(crate) struct DirLock {
    dir: PathBuf,
    _held: File,
}

impl DirLock {
    /// Creates `dir` for its owner alone if need be, then waits until nobody else holds it.
    ///
    /// The lock is on a file `.lock` that stays behind: removing it would let two processes lock two files of that
    /// name, and the directory itself cannot be locked where the home directory comes by NFS.
    pub(crate) fn take(dir: &Path) -> Result<Self, FileError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| FileError {
            what: "create directory",
            path: dir.into(),
            source,
        })?;
        let path = dir.join(".lock");
        let at = |source| FileError { what: "lock", path: path.clone(), source };
        let mut options = OpenOptions::new();
        let held = options.create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(at)?;
        loop {
            match flock(&held, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Self { dir: dir.into(), _held: held }),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(at(e.into())),
            }
        }
    }

    /// Puts a file of the directory in place, mode 0600: after a crash there is the old content or the new one.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<(), FileError> {
        let path = self.dir.join(name);
        let at = |source| FileError { what: "write", path: path.clone(), source };
        // A temporary file is 0600 from its creation and goes away if anything below fails.
        let mut temporary = tempfile::Builder::new().prefix(name).tempfile_in(&self.dir).map_err(at)?;
        temporary.write_all(content).map_err(at)?;
        temporary.as_file().sync_all().map_err(at)?;
        temporary.persist(&path).map_err(|e| at(e.error))?;
        self.sync().map_err(at)
    }

    /// Gives a file of the directory another name, in whose place it comes.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        let path = self.dir.join(from);
        let at = |source| FileError { what: "rename", path: path.clone(), source };
        std::fs::rename(&path, self.dir.join(to)).map_err(at)?;
        self.sync().map_err(at)
    }

    /// New names are in the directory, which has to reach the disk too.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

/// A byte more than a mebibyte, which is far more than a key or the known relays of one person take; a bound against reading a
/// device or a disk image.
const TOO_LARGE: usize = (1 << 20) + 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_none_and_one_that_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        assert!(read(&path).expect("nothing wrong").is_none());
        std::fs::write(&path, "content").expect("written");
        assert_eq!(read(&path).expect("read").expect("there").bytes[..], *b"content");
        let below = read(&path.join("below")).err().expect("a file is no directory");
        assert_eq!(below.kind(), io::ErrorKind::NotADirectory);
        assert!(read(dir.path()).is_err(), "nor a directory a file");
    }

    #[test]
    fn a_file_is_read_up_to_a_mebibyte() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, vec![b'x'; 1 << 20]).expect("written");
        assert_eq!(read(&path).expect("read").expect("there").bytes.len(), 1 << 20);
        for more in [1, 1000] {
            std::fs::write(&path, vec![b'x'; (1 << 20) + more]).expect("written");
            assert_eq!(read(&path).err().expect("refused").kind(), io::ErrorKind::FileTooLarge);
        }
    }
}
