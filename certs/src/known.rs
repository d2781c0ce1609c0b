//! The relays a client has met, and the key each had.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::file::{self, Content, DirLock, FileError};
use crate::pin::Pin;

/// A text file of relays and their keys, to be read and edited by people too.
///
/// One relay a line, `label pin`, or `label pin => next` once the relay has announced its next key; the label is what the
/// user calls the relay, such as `host:4433`, without white space, and upper and lower case are the same. Empty lines and
/// lines that begin with `#` are comments.
///
/// A key, once remembered, is replaced only by the one that its relay announced while it proved that key
/// ([`Self::announced`], [`Self::follow`]). Any other key is that of a relay that was set up anew or of someone who listens in,
/// and only a person can tell. That person removes the line.
#[derive(Debug)]
pub struct KnownHosts {
    path: PathBuf,
    entries: Entries,
}

/// The keys of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownRelay {
    /// Its present key.
    pub pin: Pin,
    /// The key that it has announced as its next one: as good as the present one.
    pub next: Option<Pin>,
}

impl KnownRelay {
    /// The keys by which the relay is recognised.
    pub fn pins(&self) -> impl Iterator<Item = Pin> {
        std::iter::once(self.pin).chain(self.next)
    }
}

/// By label in lower case: the keys, and the number of the line that holds them.
type Entries = BTreeMap<String, (KnownRelay, usize)>;

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

    /// The keys of a relay, as of [`Self::open`] or the last change.
    #[must_use]
    pub fn get(&self, label: &str) -> Option<KnownRelay> {
        self.entries.get(&label.to_ascii_lowercase()).map(|(relay, _)| *relay)
    }

    /// The keys of all relays.
    #[must_use]
    pub fn all_pins(&self) -> BTreeSet<Pin> {
        self.entries.values().flat_map(|(relay, _)| relay.pins()).collect()
    }

    /// What the user calls the relay with this key, in the order of the alphabet.
    pub fn labels_of(&self, pin: Pin) -> impl Iterator<Item = &str> {
        let has = move |relay: &KnownRelay| relay.pins().any(|p| p == pin);
        self.entries.iter().filter(move |(_, (relay, _))| has(relay)).map(|(label, _)| label.as_str())
    }

    /// The keys of the relay with this key; that key alone for a relay that nobody knows.
    #[must_use]
    pub fn pins_of(&self, pin: Pin) -> Vec<Pin> {
        let known =
            self.entries.values().map(|(relay, _)| relay).find(|relay| relay.pins().any(|p| p == pin));
        known.map_or_else(|| vec![pin], |relay| relay.pins().collect())
    }

    /// The keys of the one relay that is known, by however many names; none when there are several, or none.
    #[must_use]
    pub fn only_relay(&self) -> Vec<Pin> {
        let mut relays = self.entries.values().map(|(relay, _)| relay);
        match relays.next() {
            Some(first) if relays.all(|other| other.pin == first.pin) => first.pins().collect(),
            _ => Vec::new(),
        }
    }

    /// Fails with [`KnownError::Changed`] if the relay is there with other keys than this one.
    pub fn check(&self, label: &str, pin: Pin) -> Result<(), KnownError> {
        let label = label.to_ascii_lowercase();
        match self.entries.get(&label) {
            Some(&(known, line)) if known.pins().all(|p| p != pin) => {
                let path = self.path.clone();
                Err(KnownError::Changed { label, known: known.pin, offered: pin, path, line })
            }
            _ => Ok(()),
        }
    }

    /// Adds a relay, on disk before this returns. Does nothing when it is there with this key as its present or next one; with
    /// another key, or when another process has just added it with one, it fails with [`KnownError::Changed`].
    pub fn remember(&mut self, label: &str, pin: Pin) -> Result<(), KnownError> {
        let label = label.to_ascii_lowercase();
        if !is_label(&label) {
            return Err(KnownError::Label(label));
        }
        let (lock, mut text) = self.lock_and_load()?;
        self.check(&label, pin)?;
        if self.entries.contains_key(&label) {
            return Ok(());
        }
        if text.is_empty() {
            text.push_str(HEADING);
        } else if !text.ends_with('\n') {
            text.push('\n');
        }
        let relay = KnownRelay { pin, next: None };
        text.push_str(&line_of(&label, relay));
        text.push('\n');
        self.write(&lock, &text)?;
        self.entries.insert(label, (relay, text.lines().count()));
        Ok(())
    }

    /// The relay with the key `current` says that its next key is `next`, or that it has none. Returns whether that is news; it
    /// is on disk then. Call it only with what that relay said in a session in which it proved `current`, and with a `next` that
    /// [`NextKey::verify`](crate::rotation::NextKey::verify) returned.
    pub fn announced(&mut self, current: Pin, next: Option<Pin>) -> Result<bool, KnownError> {
        self.change(|relay| if relay.pin == current { KnownRelay { next, ..relay } } else { relay })
    }

    /// A relay has proved the key `pin`. Where that was its next one, it is its present one from now on, and the old one is no
    /// longer good. Returns whether it was; that is on disk then.
    pub fn follow(&mut self, pin: Pin) -> Result<bool, KnownError> {
        self.change(|relay| if relay.next == Some(pin) { KnownRelay { pin, next: None } } else { relay })
    }

    /// Rewrites the lines of relays that `change` changes, and no others.
    fn change(&mut self, change: impl Fn(KnownRelay) -> KnownRelay) -> Result<bool, KnownError> {
        let (lock, text) = self.lock_and_load()?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut news = false;
        for (label, (relay, line)) in &mut self.entries {
            let changed = change(*relay);
            if changed != *relay {
                *relay = changed;
                if let Some(text) = lines.get_mut(*line - 1) {
                    *text = line_of(label, changed);
                }
                news = true;
            }
        }
        if news {
            self.write(&lock, &(lines.join("\n") + "\n"))?;
        }
        Ok(news)
    }

    /// Keeps other processes out, then reads what they have written meanwhile.
    fn lock_and_load(&mut self) -> Result<(DirLock, String), KnownError> {
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        let lock = DirLock::take(parent.unwrap_or_else(|| Path::new(".")))?;
        let (entries, text) = load(&self.path)?;
        self.entries = entries;
        Ok((lock, text))
    }

    fn write(&self, lock: &DirLock, text: &str) -> Result<(), FileError> {
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        lock.write(name, text.as_bytes())
    }
}

fn line_of(label: &str, relay: KnownRelay) -> String {
    let next = relay.next.map_or_else(String::new, |next| format!("{NEXT}{next}"));
    format!("{label} {}{next}", relay.pin)
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
        let (pin, next) = match pin.split_once(NEXT.trim()) {
            Some((pin, next)) => (pin, Some(next)),
            None => (pin, None),
        };
        let parse = |text: &str| text.parse().map_err(|e| damaged(format!("{e}")));
        let relay = KnownRelay { pin: parse(pin)?, next: next.map(parse).transpose()? };
        if let Some((_, first)) = entries.insert(label, (relay, line)) {
            return Err(damaged(format!("this relay is in line {first} already")));
        }
    }
    Ok((entries, String::from_utf8_lossy(&bytes).into_owned()))
}

fn is_label(label: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control();
    !label.starts_with('#') && (1..=MAX_LABEL_BYTES).contains(&label.len()) && label.chars().all(plain)
}

/// The longest host name (253), a colon and a port.
const MAX_LABEL_BYTES: usize = 259;

/// Between a relay's present key and its next one.
const NEXT: &str = " => ";

const HEADING: &str =
    "# Relays and the fingerprints of their keys. Remove a line to accept a new key from that relay.\n";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ANN: Pin = Pin([1; 32]);
    const BOB: Pin = Pin([2; 32]);
    const CAT: Pin = Pin([3; 32]);

    fn pin_of(known: &KnownHosts, label: &str) -> Option<Pin> {
        known.get(label).map(|relay| relay.pin)
    }

    #[test]
    fn a_relay_is_remembered_across_runs() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("config/known_relays");
        let mut known = KnownHosts::open(&path).expect("a file that is not there yet is empty");
        assert_eq!(pin_of(&known, "ann.example:4433"), None);
        known.remember("Ann.example:4433", ANN).expect("remembered");
        known.remember("bob.example:4433", BOB).expect("remembered");
        assert_eq!(pin_of(&known, "ann.example:4433"), Some(ANN));
        let again = KnownHosts::open(&path).expect("read");
        assert_eq!(pin_of(&again, "ann.EXAMPLE:4433"), Some(ANN));
        assert_eq!(pin_of(&again, "bob.example:4433"), Some(BOB));
        assert_eq!(pin_of(&again, "ann.example:4434"), None);
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
        assert_eq!(pin_of(&known, "ann"), Some(BOB));
    }

    #[test]
    fn comments_and_the_last_line_without_an_end_survive() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("known_relays");
        fs::write(&path, format!("# mine\n\n  ann\t{}  \r\nbob {BOB}", ANN.to_string().to_uppercase()))
            .expect("written");
        let mut known = KnownHosts::open(&path).expect("read");
        assert_eq!((pin_of(&known, "ann"), pin_of(&known, "bob")), (Some(ANN), Some(BOB)));
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
        let longest = format!("{}:65535", "x".repeat(253));
        known.remember(&longest, ANN).expect("the longest");
        assert_eq!(pin_of(&KnownHosts::open(&path).expect("read"), &longest), Some(ANN));
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
        assert!(all.into_iter().all(|label| pin_of(&known, &label) == Some(ANN)));
    }

    #[test]
    fn an_announced_key_is_good_beside_the_present_one_and_then_instead_of_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("known_relays");
        fs::write(&path, format!("# mine\nann {ANN}\n\nbob {BOB}\nalias {ANN}")).expect("written");
        let mut known = KnownHosts::open(&path).expect("read");
        assert_eq!(known.labels_of(ANN).collect::<Vec<_>>(), ["alias", "ann"]);
        assert!(!known.follow(CAT).expect("nobody has announced it"));
        assert!(known.announced(ANN, Some(CAT)).expect("written"));
        assert!(!known.announced(ANN, Some(CAT)).expect("read"), "no news");
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(text, format!("# mine\nann {ANN} => {CAT}\n\nbob {BOB}\nalias {ANN} => {CAT}\n"));

        let mut again = KnownHosts::open(&path).expect("read");
        assert_eq!(again.get("ann"), Some(KnownRelay { pin: ANN, next: Some(CAT) }));
        assert_eq!(again.get("bob"), Some(KnownRelay { pin: BOB, next: None }), "another relay");
        assert_eq!(again.all_pins(), BTreeSet::from([ANN, BOB, CAT]));
        assert_eq!(again.labels_of(CAT).count(), 2);
        again.remember("ann", CAT).expect("as good as the present one");
        assert_eq!(again.get("ann").map(|r| r.pin), Some(ANN), "but it has not taken over");
        assert!(matches!(again.remember("ann", BOB), Err(KnownError::Changed { known: ANN, .. })));

        assert!(again.follow(CAT).expect("written"));
        assert!(!again.follow(CAT).expect("read"), "once");
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(text, format!("# mine\nann {CAT}\n\nbob {BOB}\nalias {CAT}\n"));
        assert!(matches!(
            again.remember("ann", ANN),
            Err(KnownError::Changed { known: CAT, offered: ANN, line: 2, .. })
        ));
    }

    #[test]
    fn an_announcement_can_be_taken_back_and_is_nobody_elses() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut known = KnownHosts::open(&dir.path().join("known_relays")).expect("empty");
        known.remember("ann", ANN).expect("remembered");
        assert!(!known.announced(BOB, Some(CAT)).expect("read"), "of a relay that nobody knows");
        assert_eq!(known.get("bob"), None);
        assert!(known.announced(ANN, Some(CAT)).expect("written"));
        assert!(known.announced(ANN, None).expect("written"));
        assert_eq!(known.get("ann"), Some(KnownRelay { pin: ANN, next: None }));
        assert!(!known.follow(CAT).expect("read"));
    }

    #[test]
    fn one_relay_is_known_by_its_names_and_keys() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut known = KnownHosts::open(&dir.path().join("known_relays")).expect("empty");
        assert_eq!(known.only_relay(), []);
        assert_eq!(known.pins_of(ANN), [ANN], "what nobody knows is itself");
        known.remember("ann", ANN).expect("remembered");
        known.remember("alias", ANN).expect("remembered");
        known.announced(ANN, Some(CAT)).expect("written");
        assert_eq!(known.only_relay(), [ANN, CAT]);
        assert_eq!((known.pins_of(ANN), known.pins_of(CAT)), (vec![ANN, CAT], vec![ANN, CAT]));
        known.check("ANN", CAT).expect("announced");
        known.check("new", BOB).expect("nothing is known of it");
        assert!(matches!(
            known.check("Ann", BOB),
            Err(KnownError::Changed { known: ANN, offered: BOB, line: 2, .. })
        ));
        known.remember("bob", BOB).expect("remembered");
        assert_eq!(known.only_relay(), [], "there are two");
        assert_eq!(known.pins_of(BOB), [BOB]);
    }

    #[test]
    fn a_damaged_next_key_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("known_relays");
        for bad in [
            format!("ann {ANN} =>"),
            format!("ann {ANN} => zz"),
            format!("ann => {ANN}"),
            format!("ann {ANN} {BOB}"),
        ] {
            fs::write(&path, &bad).expect("written");
            assert!(matches!(KnownHosts::open(&path), Err(KnownError::Damaged { line: 1, .. })), "{bad}");
        }
    }
}
