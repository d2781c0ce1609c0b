use std::os::unix::fs::PermissionsExt;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;

struct Place {
    state: TempDir,
    backups: TempDir,
    /// Both are in use, as those of a running relay are.
    _dbs: [Connection; 2],
}

impl Place {
    fn new() -> Self {
        let (state, backups) = (dir(), dir());
        let open = |name: &str| {
            let db = sqlite::open(&state.path().join(name)).expect("a database");
            db.execute_batch("CREATE TABLE t (x INTEGER); INSERT INTO t VALUES (1)").expect("written");
            db
        };
        let dbs = DATABASES.map(open);
        fs::write(state.path().join("identity.pem"), "key").expect("written");
        fs::write(state.path().join("quic.key"), "secret").expect("written");
        Self { state, backups, _dbs: dbs }
    }

    fn make(&self, keep: usize) -> anyhow::Result<Made> {
        make(self.state.path(), self.backups.path(), keep)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.backups.path()).expect("a directory");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn dir() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

/// Copies a backup as an operator would.
fn put_back(backup: &Path) -> TempDir {
    let state = dir();
    for entry in fs::read_dir(backup).expect("a directory") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, state.path().join(path.file_name().expect("a name"))).expect("copied");
    }
    state
}

#[test]
fn a_backup_holds_everything_for_its_owner_alone_and_can_be_put_back() {
    let place = Place::new();
    let made = place.make(7).expect("made");
    assert_eq!(mode(&made.path), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&made.path).expect("a directory") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        names.push(path.file_name().expect("a name").to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(names, ["backup.json", "chat.db", "identity.pem", "quic.key", "vchatd.db"]);

    let state = put_back(&made.path);
    // Of the database that was there before.
    fs::write(state.path().join("chat.db-wal"), "stale").expect("written");
    accept(state.path()).expect("whole");
    assert!(!state.path().join("backup.json").exists() && !state.path().join("chat.db-wal").exists());
    let db = sqlite::open(&state.path().join("chat.db")).expect("a database");
    assert_eq!(db.query_row("SELECT x FROM t", [], |row| row.get::<_, u32>(0)), Ok(1));
    accept(state.path()).expect("a state directory like any other");
}

#[test]
fn what_is_missing_damaged_or_foreign_is_named_and_refused() {
    let refused = |what: &str, harm: &dyn Fn(&Path)| {
        let place = Place::new();
        let state = put_back(&place.make(7).expect("made").path);
        harm(state.path());
        let why = format!("{:#}", accept(state.path()).expect_err(what));
        assert!(why.contains(what) && why.lines().count() == 1, "{why}");
        assert!(state.path().join("backup.json").exists(), "it is refused until it is right: {what}");
    };
    refused("identity.pem is missing", &|dir| fs::remove_file(dir.join("identity.pem")).expect("removed"));
    refused("chat.db is not as it was", &|dir| {
        let mut bytes = fs::read(dir.join("chat.db")).expect("read");
        bytes.truncate(bytes.len() / 2);
        fs::write(dir.join("chat.db"), bytes).expect("written");
    });
    refused("next-identity.pem is not of this backup", &|dir| {
        fs::write(dir.join("next-identity.pem"), "of another").expect("written");
    });
    refused("makes no sense", &|dir| fs::write(dir.join("backup.json"), "{").expect("written"));
}

#[test]
fn a_backup_that_cannot_be_made_leaves_nothing() {
    let place = Place::new();
    fs::remove_file(place.state.path().join("identity.pem")).expect("removed");
    let why = place.make(7).expect_err("no relay").to_string();
    assert!(why.contains("the relay's key is not in"), "{why}");
    assert_eq!(place.names(), [""; 0]);

    let file = place.backups.path().join("file");
    fs::write(&file, "").expect("written");
    let why = make(place.state.path(), &file, 7).expect_err("no directory").to_string();
    assert!(why.contains(&file.display().to_string()), "{why}");
}

#[test]
fn the_oldest_make_way_and_what_others_made_stays() {
    let place = Place::new();
    let theirs = ["20250101-000000", "before the upgrade", "20250101-000000.tar"];
    for name in theirs {
        fs::create_dir(place.backups.path().join(name)).expect("made");
    }
    for name in ["20250102-000000", "20250103-000000"] {
        let path = place.backups.path().join(name);
        fs::create_dir(&path).expect("made");
        fs::write(path.join(NAME), "{}").expect("written");
    }
    // Left by a crash.
    let left = format!(".partial-{:x}", fs::metadata(place.state.path()).expect("there").ino());
    fs::create_dir_all(place.backups.path().join(left).join("chat.db")).expect("made");

    let made = place.make(2).expect("made");
    assert_eq!(made.removed, [place.backups.path().join("20250102-000000")]);
    let new = made.path.file_name().expect("a name").to_string_lossy().into_owned();
    let mut expected = [&theirs[..], &["20250103-000000", &new]].concat();
    expected.sort_unstable();
    assert_eq!(place.names(), expected);
}

#[test]
fn a_copy_is_of_one_moment_while_others_write() {
    let place = Place::new();
    let db = sqlite::open(&place.state.path().join("chat.db")).expect("a database");
    db.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (2)").expect("written");
    let made = place.make(7).expect("it does not wait for who writes");
    db.execute_batch("COMMIT").expect("who writes does not fail");
    let copy = Connection::open(made.path.join("chat.db")).expect("a database");
    assert_eq!(copy.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, u32>(0)), Ok(1));
}
