//! A secret of one machine: random bytes in a private file, made when they are first needed.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::file::{self, DirLock, FileError};
use crate::random::{self, NoRandomness};

/// Bytes that nobody else knows. Wiped from memory when dropped.
pub type Secret = Zeroizing<[u8; SECRET_LEN]>;

/// Length of a secret: the strength of every key that is derived from one.
pub const SECRET_LEN: usize = 32;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Others may read it, so it may be no secret.
    #[error("{path} can be read by others (mode {mode:o}): remove it, and a new one is made", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It does not hold what it should.
    #[error("{path} is damaged ({len} bytes instead of {SECRET_LEN}): remove it, and a new one is made", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it holds.
        len: usize,
    },
    /// The system has no random numbers.
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

/// The secret that file `name` in directory `dir` holds, mode 0600; a new one, if there is no such file.
///
/// # Errors
/// Rather than to replace a file that is not as it should be.
pub fn load_or_create(dir: &Path, name: &str) -> Result<Secret, SecretError> {
    let path = dir.join(name);
    if let Some(secret) = read(&path)? {
        return Ok(secret);
    }
    let lock = DirLock::take(dir)?;
    // Another process may have been first.
    if let Some(secret) = read(&path)? {
        return Ok(secret);
    }
    let secret = Zeroizing::new(random::bytes()?);
    lock.write(name, &secret[..])?;
    Ok(secret)
}

fn read(path: &Path) -> Result<Option<Secret>, SecretError> {
    let Some(content) = file::read(path)? else { return Ok(None) };
    if content.is_exposed() {
        return Err(SecretError::Exposed { path: path.into(), mode: content.mode });
    }
    let bytes = <[u8; SECRET_LEN]>::try_from(&content.bytes[..]);
    let damaged = |_| SecretError::Damaged { path: path.into(), len: content.bytes.len() };
    bytes.map(|bytes| Some(Zeroizing::new(bytes))).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_kept_from_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = load_or_create(dir.path(), "key").expect("made");
        assert_ne!(first[..], [0; SECRET_LEN]);
        assert_eq!(load_or_create(dir.path(), "key").expect("read")[..], first[..]);
        assert_ne!(load_or_create(dir.path(), "other").expect("made")[..], first[..]);
        let mode = std::fs::metadata(dir.path().join("key")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_no_secret_is_not_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        load_or_create(dir.path(), "key").expect("made");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("set");
        assert!(matches!(load_or_create(dir.path(), "key"), Err(SecretError::Exposed { mode: 0o640, .. })));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("set");
        std::fs::write(&path, [7; 5]).expect("written");
        let damaged = load_or_create(dir.path(), "key").expect_err("refused").to_string();
        assert!(damaged.contains("5 bytes instead of 32") && damaged.contains("remove it"), "{damaged}");
        assert_eq!(std::fs::read(&path).expect("there"), [7; 5]);
    }
}
