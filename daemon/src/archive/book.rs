//! The file that chat is kept in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};
use vchat_proto::id::RoomName;
use vchat_proto::room::{Kept, Post, Stored};
use vchat_proto::wire::limits::CHAT_HISTORY;
use vchat_proto::wire::pb;

use crate::registry::unix_ms_now;
use crate::sqlite;

/// The lines of all rooms on disk.
///
/// One connection in one thread ([`sqlite`]): what was committed is on the disk.
pub(super) struct Book {
    db: Connection,
    path: PathBuf,
    retention: Retention,
}

/// How much chat is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// For how long.
    pub(crate) age: Duration,
    /// Lines of a room.
    pub(crate) lines: u64,
}

/// The file cannot be read or written, for instance because the disk is full.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct BookError(#[from] rusqlite::Error);

impl Book {
    /// Opens or begins `chat.db` in a directory that is there. A damaged file is moved aside.
    pub(super) fn open(state_dir: &Path, retention: Retention) -> anyhow::Result<Self> {
        let path = state_dir.join(FILE_NAME);
        let db = match open(&path) {
            Err(e) if e.is::<Damaged>() || e.downcast_ref().is_some_and(is_damage) => {
                set_aside(&path, &e)?;
                open(&path)
            }
            opened => opened,
        };
        Ok(Self { db: db.with_context(|| format!("cannot use {}", path.display()))?, path, retention })
    }

    /// Does all of it or nothing.
    pub(super) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, BookError>,
    ) -> Result<T, BookError> {
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        let done = work(self).and_then(|done| {
            self.db.execute_batch("COMMIT")?;
            Ok(done)
        });
        if done.is_err() && !self.db.is_autocommit() {
            // Fails only where the file does, and then the transaction is gone, too.
            drop(self.db.execute_batch("ROLLBACK"));
        }
        done
    }

    /// After an error: begins another file if this one is damaged. Returns whether lines can be stored again.
    pub(super) fn mend(&mut self, error: &BookError) -> bool {
        if !is_damage(&error.0) {
            return false;
        }
        let begin = || -> anyhow::Result<Connection> {
            set_aside(&self.path, &anyhow::anyhow!("{error}"))?;
            open(&self.path)
        };
        match begin() {
            Ok(db) => {
                self.db = db;
                true
            }
            Err(e) => {
                tracing::error!("no other file for the chat can be begun: {e:#}");
                false
            }
        }
    }

    /// For a room that opens: its newest lines, at least as many as a room keeps at hand, and numbers for its participants that
    /// nobody has had. Begins the room if it is new.
    pub(super) fn kept(&mut self, name: &RoomName) -> Result<Kept, BookError> {
        let room = self.room(name)?;
        let lines = self.lines(&room, i64::MAX, CHAT_HISTORY)?;
        let mut take = self.db.prepare_cached(TAKE_NUMBERS)?;
        let participants = take.query_row(params![room.id, NUMBERS], |row| row.get(0))?;
        Ok(Kept { history: room.history, last_seq: room.last_seq, lines, participants })
    }

    /// Stores a line under the next number of its room, or finds it.
    pub(super) fn store(&mut self, name: &RoomName, post: &Post) -> Result<Stored, BookError> {
        let room = self.room(name)?;
        let seq = room.last_seq + 1;
        let (author, id) = (&post.author.0[..], &post.id.0[..]);
        let pb::Line { participant, name, text, sent_ms, .. } = &post.line;
        let new = self.db.prepare_cached(INSERT)?.execute(params![
            room.id,
            seq,
            author,
            id,
            participant,
            name,
            text,
            sent_ms
        ])?;
        if new == 0 {
            let mut query = self.db.prepare_cached(FIND)?;
            return Ok(Stored::Known(query.query_row(params![room.id, author, id], |row| row.get(0))?));
        }
        self.db
            .prepare_cached("UPDATE room SET last_seq = ?2 WHERE id = ?1")?
            .execute(params![room.id, seq])?;
        Ok(Stored::New { history: room.history, seq })
    }

    /// Lines before a number, the newest of them, oldest first. Nothing of a room in which nothing was ever written.
    pub(super) fn page(&mut self, name: &RoomName, before: u64, limit: u32) -> Result<Kept, BookError> {
        let Some(room) = self.find(name)? else { return Ok(Kept::default()) };
        let lines = self.lines(&room, i64::try_from(before).unwrap_or(i64::MAX), limit as usize)?;
        Ok(Kept { history: room.history, last_seq: room.last_seq, lines, ..Kept::default() })
    }

    fn lines(&self, room: &Room, before: i64, limit: usize) -> Result<Vec<pb::Line>, BookError> {
        let mut query = self.db.prepare_cached(PAGE)?;
        let newest_first = query.query_map(params![room.id, before, limit], line)?;
        let mut lines = newest_first.collect::<Result<Vec<_>, _>>()?;
        lines.reverse();
        Ok(lines)
    }

    /// Keeps so much from now on.
    pub(super) const fn retain(&mut self, retention: Retention) {
        self.retention = retention;
    }

    /// Forgets lines that are too old, or too many in a room. The numbers go on.
    pub(super) fn forget(&mut self, now_ms: u64) -> Result<(), BookError> {
        let age = u64::try_from(self.retention.age.as_millis()).unwrap_or(u64::MAX);
        let since = now_ms.saturating_sub(age);
        let mut rooms = self.db.prepare_cached("SELECT id, last_seq FROM room")?;
        let rooms = rooms.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut forgotten = 0;
        for room in rooms.collect::<Result<Vec<(i64, u64)>, _>>()? {
            let (id, last_seq) = room;
            let mut young = self.db.prepare_cached(YOUNG)?;
            let young = young.query_row(params![id, since], |row| row.get(0)).optional()?;
            let first =
                young.unwrap_or(last_seq + 1).max((last_seq + 1).saturating_sub(self.retention.lines));
            let mut delete = self.db.prepare_cached("DELETE FROM line WHERE room = ?1 AND seq < ?2")?;
            forgotten += delete.execute(params![id, first])?;
        }
        if forgotten > 0 {
            tracing::info!(lines = forgotten, "forgot old chat");
        }
        Ok(())
    }

    /// How SQLite looks for a page, in its words.
    #[cfg(test)]
    pub(super) fn plan_of_a_page(&self) -> String {
        let mut plan = self.db.prepare(&format!("EXPLAIN QUERY PLAN {PAGE}")).expect("a query");
        let steps = plan.query_map(params![1, 1, 1], |row| row.get(3)).expect("a plan");
        steps.collect::<Result<Vec<String>, _>>().expect("text").join("; ")
    }

    /// How many pages the file may have, which a full disk looks like; and how many it has.
    #[cfg(test)]
    pub(super) fn limit(&self, pages: Option<u32>) -> u32 {
        if let Some(pages) = pages {
            let set = format!("PRAGMA max_page_count = {pages}");
            self.db.query_row(&set, [], |row| row.get::<_, u32>(0)).expect("set");
        }
        self.db.pragma_query_value(None, "page_count", |row| row.get(0)).expect("a number")
    }

    fn find(&self, name: &RoomName) -> Result<Option<Room>, BookError> {
        let mut query = self.db.prepare_cached("SELECT id, history, last_seq FROM room WHERE name = ?1")?;
        let room = |row: &Row<'_>| Ok(Room { id: row.get(0)?, history: row.get(1)?, last_seq: row.get(2)? });
        Ok(query.query_row([name.as_str()], room).optional()?)
    }

    fn room(&self, name: &RoomName) -> Result<Room, BookError> {
        if let Some(room) = self.find(name)? {
            return Ok(room);
        }
        let mut insert = self
            .db
            .prepare_cached("INSERT INTO room (name, history, last_seq) VALUES (?1, abs(random() / 2), 0)")?;
        insert.execute([name.as_str()])?;
        // It is there now.
        self.find(name)?.ok_or(BookError(rusqlite::Error::QueryReturnedNoRows))
    }
}

/// What the file says of a room.
struct Room {
    id: i64,
    history: u64,
    last_seq: u64,
}

fn line(row: &Row<'_>) -> rusqlite::Result<pb::Line> {
    Ok(pb::Line {
        seq: row.get(0)?,
        id: row.get(1)?,
        participant: row.get(2)?,
        name: row.get(3)?,
        text: row.get(4)?,
        sent_ms: row.get(5)?,
    })
}

/// The check that every page of the file is in order has failed.
#[derive(Debug, thiserror::Error)]
#[error("it is damaged: {0}")]
struct Damaged(String);

fn open(path: &Path) -> anyhow::Result<Connection> {
    let db = sqlite::open(path)?;
    let found: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(Damaged(found).into());
    }
    sqlite::migrate(&db, &[SCHEMA, PARTICIPANTS])?;
    Ok(db)
}

/// Whether the file is not what it was when it was written: nothing more can be done with it.
fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Gives a damaged file another name, for somebody to look at; its log goes with it.
fn set_aside(path: &Path, why: &anyhow::Error) -> anyhow::Result<()> {
    let aside = format!("{}.damaged-{}", path.display(), unix_ms_now());
    tracing::error!(
        "the chat in {} cannot be read ({why:#}): it is kept as {aside}, and the chat begins anew",
        path.display()
    );
    for end in ["", "-wal", "-shm"] {
        match fs::rename(format!("{}{end}", path.display()), format!("{aside}{end}")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot rename {}{end}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

const FILE_NAME: &str = "chat.db";

const SCHEMA: &str = "
CREATE TABLE room (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, history INTEGER NOT NULL, last_seq INTEGER NOT NULL
) STRICT;
CREATE TABLE line (
    room INTEGER NOT NULL REFERENCES room, seq INTEGER NOT NULL, author BLOB NOT NULL, id BLOB NOT NULL,
    participant INTEGER NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL, sent_ms INTEGER NOT NULL,
    PRIMARY KEY (room, seq), UNIQUE (room, author, id)
) STRICT, WITHOUT ROWID;
";

const PARTICIPANTS: &str = "ALTER TABLE room ADD COLUMN participants INTEGER NOT NULL DEFAULT 0;";

/// How many people come to a room before it closes or the relay is started anew. Should it be more, somebody who comes back may find
/// their number taken and get another.
const NUMBERS: u32 = 4096;

/// Begins again after four thousand million.
const TAKE_NUMBERS: &str = "
UPDATE room SET participants = (participants + ?2) & 0xffffffff WHERE id = ?1
RETURNING (participants - ?2) & 0xffffffff";

const INSERT: &str = "
INSERT INTO line (room, seq, author, id, participant, name, text, sent_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
ON CONFLICT (room, author, id) DO NOTHING";

const FIND: &str = "SELECT seq FROM line WHERE room = ?1 AND author = ?2 AND id = ?3";

const PAGE: &str = "
SELECT seq, id, participant, name, text, sent_ms FROM line WHERE room = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3";

/// The first line of a room that is young enough. Reads only those that are not.
const YOUNG: &str = "SELECT seq FROM line WHERE room = ?1 AND sent_ms >= ?2 ORDER BY seq LIMIT 1";
