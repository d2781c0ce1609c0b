//! The relays a client has met, and the key each had.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::file::{self, Content, DirLock, FileError};
use crate::pin::Pin;

/// A text file of relays and their keys, to be read and edited by people too.
///
/// One relay a line, `label pin`; the label is what the user calls the relay, such as `host:4433`, without white
/// space, and upper and lower case are the same. Empty lines and lines that begin with `#` are comments.
///
/// A key, once remembered, is never replaced: a relay with another key is either a relay that was set up anew or
/// someone who listens in, and only a person can tell. That person removes the line.
#[derive(Debug)]
pub struct KnownHosts {
    path: PathBuf,
    entries: Entries,
}

/// By label in lower case: the key, and the number of the line that holds it.
type Entries = HashMap<String, (Pin, usize)>;

/// Why a relay could not be looked up or remembered.
#[derive(Debug, thiserror::Error)]
pub enum KnownError {
    /// The file or its directory cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A line of the file has no sense. Nothing of the file is used, since a key might be missed.
    #[error("{path}:{line}: {why}: correct the line or remove it", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The relay is remembered with another key.
    #[error(
        "the key of {label} has changed: it is now {offered}, {path}:{line} has {known}; \
         if its operator confirms the new one, remove that line",
        path = path.display()
    )]
    Changed {
        /// The relay.
        label: String,
        /// The key it had.
        known: Pin,
        /// The key it shows now.
        offered: Pin,
        /// The file.
        path: PathBuf,
        /// Number of the line that holds the known key, from 1.
        line: usize,
    },
    /// A label that a line of the file cannot hold.
    #[error(
        "cannot remember {0:?}: a label is 1 to {MAX_LABEL_BYTES} characters without white space, not beginning with #"
    )]
    Label(String),
}

impl KnownHosts {
    /// Reads the file; one that does not exist counts as empty and is made by [`Self::remember`].
    pub fn open(path: &Path) -> Result<Self, KnownError> {
        let (entries, _) = load(path)?;
        Ok(Self { path: path.into(), entries })
    }

    /// The key that the relay had, as of [`Self::open`] or the last [`Self::remember`].
    #[must_use]
    pub fn pin_of(&self, label: &str) -> Option<Pin> {
        self.entries.get(&label.to_ascii_lowercase()).map(|(pin, _)| *pin)
    }

    /// Adds a relay, on disk before this returns. Does nothing when it is there with the same key; with another
    /// key, or when another process has just added it with one, it fails with [`KnownError::Changed`].
    pub fn remember(&mut self, label: &str, pin: Pin) -> Result<(), KnownError> {
        let label = label.to_ascii_lowercase();
        if !is_label(&label) {
            return Err(KnownError::Label(label));
        }
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        let lock = DirLock::take(parent.unwrap_or_else(|| Path::new(".")))?;
        let (entries, mut text) = load(&self.path)?;
        self.entries = entries;
        match self.entries.get(&label) {
            Some((known, _)) if *known == pin => return Ok(()),
            Some(&(known, line)) => {
                return Err(KnownError::Changed {
                    label,
                    known,
                    offered: pin,
                    path: self.path.clone(),
                    line,
                });
            }
            None => {}
        }
        if text.is_empty() {
            text.push_str(HEADING);
        } else if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("{label} {pin}\n"));
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        lock.write(name, text.as_bytes())?;
        self.entries.insert(label, (pin, text.lines().count()));
        Ok(())
    }
}

/// The entries with their line numbers, and the text they stand in.
fn load(path: &Path) -> Result<(Entries, String), KnownError> {
    let Some(Content { bytes, .. }) = file::read(path)? else {
        return Ok((Entries::new(), String::new()));
    };
    let mut entries = Entries::new();
    for (line, content) in (1..).zip(bytes.split(|b| *b == b'\n')) {
        let damaged = |why: String| KnownError::Damaged { path: path.into(), line, why };
        let content =
            std::str::from_utf8(content).map_err(|_| damaged("it is not UTF-8 text".into()))?.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let Some((label, pin)) = content.split_once(char::is_whitespace) else {
            return Err(damaged("it should be a relay and its fingerprint".into()));
        };
        let label = label.to_ascii_lowercase();
        if !is_label(&label) {
            return Err(damaged(format!("{label:?} cannot be a relay")));
        }
        let pin = pin.parse().map_err(|e| damaged(format!("{e}")))?;
        if let Some((_, first)) = entries.insert(label, (pin, line)) {
            return Err(damaged(format!("this relay is in line {first} already")));
        }
    }
    Ok((entries, String::from_utf8_lossy(&bytes).into_owned()))
}

fn is_label(label: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control();
    !label.starts_with('#') && (1..=MAX_LABEL_BYTES).contains(&label.len()) && label.chars().all(plain)
}

/// The longest host name (253 characters, RFC 1035 section 2.3.4), a colon and a port.
const MAX_LABEL_BYTES: usize = 253 + 1 + 5;

const HEADING: &str =
    "# Relays and the fingerprints of their keys. Remove a line to accept a new key from that relay.\n";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ANN: Pin = Pin([1; 32]);
    const BOB: Pin = Pin([2; 32]);

    #[test]
    fn a_relay_is_remembered_across_runs() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("config/known_relays");
        let mut known = KnownHosts::open(&path).expect("a file that is not there yet is empty");
        assert_eq!(known.pin_of("ann.example:4433"), None);
        known.remember("Ann.example:4433", ANN).expect("remembered");
        known.remember("bob.example:4433", BOB).expect("remembered");
        assert_eq!(known.pin_of("ann.example:4433"), Some(ANN));
        let again = KnownHosts::open(&path).expect("read");
        assert_eq!(again.pin_of("ann.EXAMPLE:4433"), Some(ANN));
        assert_eq!(again.pin_of("bob.example:4433"), Some(BOB));
        assert_eq!(again.pin_of("ann.example:4434"), None);
    }

    #[test]
    fn a_known_key_is_never_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("known_relays");
        let mut known = KnownHosts::open(&path).expect("empty");
        known.remember("ann", ANN).expect("remembered");
        let before = fs::read(&path).expect("read");
        known.remember("ann", ANN).expect("the same key is no change");
        let error = known.remember("ANN", BOB).expect_err("another key");
        assert!(matches!(error, KnownError::Changed { known: ANN, offered: BOB, line: 2, .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&ANN.to_string())
                && text.contains(&BOB.to_string())
                && text.contains("known_relays:2")
        );
        assert_eq!(fs::read(&path).expect("read"), before);
        // Also when another process was faster.
        let mut stale = KnownHosts { path: path.clone(), entries: Entries::new() };
        assert!(matches!(stale.remember("ann", BOB), Err(KnownError::Changed { .. })));
        // The person who removes the line has the last word.
        fs::write(&path, "").expect("written");
        known.remember("ann", BOB).expect("a new first use");
        assert_eq!(known.pin_of("ann"), Some(BOB));
    }

    #[test]
    fn comments_and_the_last_line_without_an_end_survive() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("known_relays");
        fs::write(&path, format!("# mine\n\n  ann\t{}  \r\nbob {BOB}", ANN.to_string().to_uppercase()))
            .expect("written");
        let mut known = KnownHosts::open(&path).expect("read");
        assert_eq!((known.pin_of("ann"), known.pin_of("bob")), (Some(ANN), Some(BOB)));
        known.remember("cat", ANN).expect("remembered");
        let text = fs::read_to_string(&path).expect("read");
        assert!(text.starts_with("# mine\n\n"), "{text}");
        assert!(text.ends_with(&format!("bob {BOB}\ncat {ANN}\n")), "{text}");
    }

    #[test]
    fn a_damaged_line_is_named_and_nothing_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("known_relays");
        for bad in [
            b"ann".to_vec(),
            b"ann zzz".to_vec(),
            b"ann \xff\xfe".to_vec(),
            format!("ann {}", &ANN.to_string()[1..]).into_bytes(),
            format!("bob {ANN}").into_bytes(),
        ] {
            let content = [format!("# comment\nbob {BOB}\n").into_bytes(), bad].concat();
            fs::write(&path, &content).expect("written");
            let error = KnownHosts::open(&path).expect_err("damaged");
            assert!(matches!(error, KnownError::Damaged { line: 3, .. }), "{error}");
            assert!(error.to_string().contains("known_relays:3: "), "{error}");
            let mut known = KnownHosts { path: path.clone(), entries: Entries::new() };
            known.remember("cat", ANN).expect_err("a file that cannot be read is not rewritten");
            assert_eq!(fs::read(&path).expect("read"), content);
        }
    }

    #[test]
    fn a_label_cannot_break_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("known_relays");
        let mut known = KnownHosts::open(&path).expect("empty");
        for bad in ["", "#ann", "a b", "a\nb", "a\tb", "a\0", &"x".repeat(MAX_LABEL_BYTES + 1)] {
            assert!(matches!(known.remember(bad, ANN), Err(KnownError::Label(_))), "{bad:?}");
        }
        assert!(!path.exists());
    }

    #[test]
    fn many_that_remember_at_once_lose_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("known_relays");
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    let mut known = KnownHosts::open(path).expect("read");
                    for i in 0..5 {
                        known.remember(&format!("relay-{thread}-{i}"), ANN).expect("remembered");
                    }
                });
            }
        });
        let known = KnownHosts::open(&path).expect("read");
        let all = (0..4).flat_map(|thread| (0..5).map(move |i| format!("relay-{thread}-{i}")));
        assert!(all.into_iter().all(|label| known.pin_of(&label) == Some(ANN)));
    }
}
