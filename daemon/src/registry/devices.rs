//! The devices that a relay knows.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use vchat_certs::pin::Pin;
use vchat_proto::id::{DisplayName, RoomName};

use super::ledger::{Ledger, LedgerError};
use crate::control::MAX_SECONDS;

/// A device: a key that was let in, or is no longer.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) pin: Pin,
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The rooms it may enter; any, if there is none.
    pub(crate) rooms: Vec<RoomName>,
    pub(crate) created: u64,
    pub(crate) last_seen: Option<u64>,
    pub(crate) revoked: Option<u64>,
}

/// What a device may do besides calling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Invite others.
    Admin,
    Member,
}

/// What is known of a key that somebody has just proved to own.
#[derive(PartialEq, Eq)]
pub(crate) enum Admission {
    Member(Device),
    Revoked,
    Unknown,
}

/// Why it is not clear which device is meant.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelectError {
    #[error("no device is called {0:?}, nor does a fingerprint begin like that: see `vchatd devices`")]
    None(String),
    #[error("{1} devices match {0:?}: give more letters of the fingerprint, see `vchatd devices`")]
    Several(String, usize),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Device {
    /// Whether it may enter a room.
    pub(crate) fn may_enter(&self, room: &RoomName) -> bool {
        self.rooms.is_empty() || self.rooms.contains(room)
    }
}

impl Ledger {
    /// What is known of a key.
    pub(crate) fn admission(&self, pin: Pin) -> Result<Admission, LedgerError> {
        Ok(match self.device(pin)? {
            None => Admission::Unknown,
            Some(Device { revoked: Some(_), .. }) => Admission::Revoked,
            Some(device) => Admission::Member(device),
        })
    }

    /// The same on a relay that trusts on first use: a key that nobody knows is a member's from now on, while there is room.
    pub(crate) fn admission_on_first_use(&self, now: u64, pin: Pin) -> Result<Admission, LedgerError> {
        let known = self.admission(pin)?;
        // Anybody can make keys: those who were invited find room even if the rest is taken.
        if known != Admission::Unknown || self.count()? >= MAX_DEVICES / 2 {
            return Ok(known);
        }
        insert(&self.db, pin, NEWCOMER, false, now)?;
        self.admission(pin)
    }

    /// Calls a device that was trusted on its first use what its user is called; once.
    pub(crate) fn name_newcomer(&self, pin: Pin, name: &DisplayName) -> Result<(), LedgerError> {
        let update = "UPDATE device SET name = ?2 WHERE pin = ?1 AND name = ?3";
        self.db.execute(update, params![pin.0, name.as_str(), NEWCOMER])?;
        Ok(())
    }

    /// Notes that a device was here, to the minute: nothing is written for more.
    pub(crate) fn seen(&self, now: u64, pin: Pin) -> Result<(), LedgerError> {
        let update = "UPDATE device SET last_seen = ?2 WHERE pin = ?1 AND coalesce(last_seen, 0) < ?3";
        self.db.execute(update, params![pin.0, now, now.saturating_sub(SEEN_MS)])?;
        Ok(())
    }

    /// All devices, those of today and those of before, by name.
    pub(crate) fn devices(&self) -> Result<Vec<Device>, LedgerError> {
        let mut query = self.db.prepare(&format!("{SELECT} ORDER BY revoked IS NOT NULL, name, pin"))?;
        let mut devices: Vec<Device> = query.query_map([], device_of_row)?.collect::<Result<_, _>>()?;
        devices.iter_mut().try_for_each(|device| self.add_rooms(device))?;
        Ok(devices)
    }

    /// Gives a device another name.
    pub(crate) fn rename(&self, which: &str, name: &DisplayName) -> Result<Device, SelectError> {
        let device = self.select(which)?;
        let update = "UPDATE device SET name = ?2 WHERE pin = ?1";
        self.db.execute(update, params![device.pin.0, name.as_str()]).map_err(LedgerError::from)?;
        Ok(Device { name: name.as_str().into(), ..device })
    }

    /// Lets a device in no longer, and takes back the links that it made as an administrator. Whoever calls this also cuts the
    /// connections that it has.
    pub(crate) fn revoke(&self, now: u64, which: &str) -> Result<Device, SelectError> {
        let device = self.select(which)?;
        let revoked = device.revoked.unwrap_or(now);
        let update = "UPDATE device SET revoked = ?2 WHERE pin = ?1";
        self.db.execute(update, params![device.pin.0, revoked]).map_err(LedgerError::from)?;
        let made = "DELETE FROM invite WHERE maker = ?1";
        self.db.execute(made, params![device.pin.0]).map_err(LedgerError::from)?;
        Ok(Device { revoked: Some(revoked), ..device })
    }

    /// A device has this next key of the relay on its disk.
    pub(crate) fn next_key_stored(&self, pin: Pin, next: Pin) -> Result<(), LedgerError> {
        let update = "UPDATE device SET next_pin = ?2 WHERE pin = ?1 AND next_pin IS NOT ?2";
        self.db.execute(update, params![pin.0, next.0])?;
        Ok(())
    }

    /// How many of the devices that may come in know the relay's next key, and how many there are.
    pub(crate) fn next_key_known(&self, next: Pin) -> Result<(u64, u64), LedgerError> {
        let count = "SELECT coalesce(sum(next_pin IS ?1), 0), count(*) FROM device WHERE revoked IS NULL";
        Ok(self.db.query_row(count, params![next.0], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }

    pub(super) fn device(&self, pin: Pin) -> Result<Option<Device>, LedgerError> {
        let query =
            self.db.prepare_cached(&format!("{SELECT} WHERE pin = ?1"))?.query_row([pin.0], device_of_row);
        let mut device = query.optional()?;
        device.iter_mut().try_for_each(|device| self.add_rooms(device))?;
        Ok(device)
    }

    /// Whether there is no room for another device, also without those that were revoked so long ago that no invite from before is
    /// still good.
    pub(super) fn is_full(&self, now: u64) -> Result<bool, LedgerError> {
        if self.count()? < MAX_DEVICES {
            return Ok(false);
        }
        let before = now.saturating_sub(LONGEST_INVITE_MS);
        self.db.execute("DELETE FROM device WHERE revoked < ?1", [before])?;
        Ok(self.count()? >= MAX_DEVICES)
    }

    fn count(&self) -> Result<u64, LedgerError> {
        Ok(self.db.query_row("SELECT count(*) FROM device", [], |row| row.get(0))?)
    }

    /// The one device that is meant: by its name, or by how its fingerprint begins.
    pub(crate) fn select(&self, which: &str) -> Result<Device, SelectError> {
        let devices = self.devices()?;
        let letters =
            |text: &str| text.chars().filter(|c| *c != '-').collect::<String>().to_ascii_lowercase();
        let prefix = letters(which);
        let begins =
            |d: &&Device| prefix.len() >= MIN_PREFIX && letters(&d.pin.to_string()).starts_with(&prefix);
        let mut found: Vec<&Device> = devices.iter().filter(|d| d.name == which).collect();
        if found.is_empty() {
            found = devices.iter().filter(begins).collect();
        }
        match found[..] {
            [device] => Ok(device.clone()),
            [] => Err(SelectError::None(which.into())),
            _ => Err(SelectError::Several(which.into(), found.len())),
        }
    }

    fn add_rooms(&self, device: &mut Device) -> Result<(), LedgerError> {
        device.rooms =
            rooms(&self.db, "SELECT room FROM device_room WHERE pin = ?1 ORDER BY room", device.pin.0)?;
        Ok(())
    }
}

pub(super) fn insert(
    db: &Connection,
    pin: Pin,
    name: &str,
    admin: bool,
    now: u64,
) -> Result<(), rusqlite::Error> {
    let insert = "INSERT INTO device (pin, name, admin, created) VALUES (?1, ?2, ?3, ?4)";
    db.execute(insert, params![pin.0, name, admin, now])?;
    Ok(())
}

/// Names of rooms by a query. One that is no name (only by another program's hand) is as if it were not there.
pub(super) fn rooms(db: &Connection, query: &str, key: [u8; 32]) -> Result<Vec<RoomName>, rusqlite::Error> {
    let mut query = db.prepare_cached(query)?;
    let names = query.query_map([key], |row| row.get::<_, String>(0))?;
    let parse = |name: Result<String, _>| name.map(|name| RoomName::parse(&name).ok()).transpose();
    names.filter_map(parse).collect()
}

fn device_of_row(row: &Row<'_>) -> rusqlite::Result<Device> {
    Ok(Device {
        pin: Pin(row.get(0)?),
        name: row.get(1)?,
        role: if row.get(2)? { Role::Admin } else { Role::Member },
        rooms: Vec::new(),
        created: row.get(3)?,
        last_seen: row.get(4)?,
        revoked: row.get(5)?,
    })
}

const SELECT: &str = "SELECT pin, name, admin, created, last_seen, revoked FROM device";

/// More than the people of one relay have devices; a bound for a relay that trusts on first use, where anybody can make keys.
pub(super) const MAX_DEVICES: u64 = 10_000;

/// How exactly it is known when a device was here.
const SEEN_MS: u64 = 60_000;

/// No invite is good for longer.
const LONGEST_INVITE_MS: u64 = MAX_SECONDS * 1000;

/// What a device that was trusted on its first use is called until it has said its name.
const NEWCOMER: &str = "newcomer";

/// As few letters of a fingerprint as name a device: one group.
const MIN_PREFIX: usize = 4;
