//! Invites: links on disk, spoken codes in memory.

use std::time::Instant;

use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};
use vchat_certs::NoRandomness;
use vchat_certs::code::Code;
use vchat_certs::codes::{self, Attempt, Begin, IssueError};
use vchat_certs::invite::{Token, TokenHash};
use vchat_certs::pin::Pin;
use vchat_proto::id::{DisplayName, RoomName};

use super::devices::{self, Device, Role, insert};
use super::ledger::{Ledger, LedgerError};

/// What an invite gives.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) role: Role,
    /// The rooms that may be entered; any, if there is none.
    pub(crate) rooms: Vec<RoomName>,
}

/// A new invite.
pub(crate) struct Invited<Secret> {
    pub(crate) secret: Secret,
    pub(crate) expires: u64,
}

/// Why there is no invite.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InviteError {
    #[error("{0} links are kept already, open or over: take them back with `vchatd invites cancel`")]
    Full(u64),
    #[error(transparent)]
    Code(#[from] IssueError),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Why a device was not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("unknown token")]
    Unknown,
    #[error("token used up")]
    Used,
    #[error("token expired")]
    Expired,
    #[error("wrong code")]
    Code,
    #[error("revoked device")]
    Revoked,
    #[error("no room for more devices")]
    Full,
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// An exchange by code that may begin.
pub(crate) enum CodeBegin {
    /// With this code; `made_up` where there is no such code, and the exchange is to fail like a wrong one.
    With {
        attempt: Attempt,
        code: Code,
        made_up: bool,
    },
    Busy,
}

/// What is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenInvites {
    pub(crate) links: u64,
    pub(crate) codes: u64,
}

impl Ledger {
    /// Makes a link invite that is good for so many milliseconds and devices; `maker`: the device that asked for it, whose open
    /// invites end with it.
    pub(crate) fn invite(
        &mut self,
        now: u64,
        ttl_ms: u64,
        uses: u32,
        grant: &Grant,
        maker: Option<Pin>,
    ) -> Result<Invited<Token>, InviteError> {
        let token = Token::generate()?;
        let hash = token.hash();
        let expires = now.saturating_add(ttl_ms);
        let made = self.write(|tx| {
            // Those that are long over tell nobody anything any more.
            tx.execute("DELETE FROM invite WHERE expires < ?1", [now.saturating_sub(REMEMBERED_MS)])?;
            let most = if maker.is_some() { MAX_INVITES_OF_DEVICE } else { MAX_INVITES };
            let maker = maker.map(|pin| pin.0);
            let count = "SELECT count(*) FROM invite WHERE ?1 IS NULL OR maker = ?1";
            let count: u64 = tx.query_row(count, [maker], |row| row.get(0))?;
            if count >= most {
                return Ok(Err(most));
            }
            let insert = "INSERT INTO invite (hash, admin, uses, created, expires, maker)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            tx.execute(insert, params![hash.0, grant.role == Role::Admin, uses, now, expires, maker])?;
            for room in &grant.rooms {
                tx.execute(
                    "INSERT OR IGNORE INTO invite_room VALUES (?1, ?2)",
                    params![hash.0, room.as_str()],
                )?;
            }
            Ok(Ok(()))
        })?;
        made.map_err(InviteError::Full)?;
        Ok(Invited { secret: token, expires })
    }

    /// Makes a spoken code for one device.
    pub(crate) fn invite_by_code(
        &mut self,
        now: u64,
        instant: Instant,
        grant: Grant,
    ) -> Result<Invited<Code>, InviteError> {
        let code = self.codes.issue(instant, grant)?;
        let lifetime = u64::try_from(codes::LIFETIME.as_millis()).unwrap_or(u64::MAX);
        Ok(Invited { secret: code, expires: now.saturating_add(lifetime) })
    }

    /// A device shows a token. The use is counted in the transaction that stores the device, so a crash leaves both or neither;
    /// and a device whose answer got lost may ask again. Also gives the room that the invite was for.
    pub(crate) fn redeem_link(
        &mut self,
        now: u64,
        token: &Token,
        pin: Pin,
        name: &DisplayName,
    ) -> Result<(Device, Option<RoomName>), Refusal> {
        let hash = token.hash();
        let known = self.device(pin)?;
        let member = known.as_ref().is_some_and(|device| device.revoked.is_none());
        let full = known.is_none() && self.is_full(now)?;
        let redeemed = self.write(|tx| {
            let Some(invite) = Invite::find(tx, hash)? else { return Ok(Err(Refusal::Unknown)) };
            let has = "SELECT 1 FROM redemption WHERE hash = ?1 AND pin = ?2";
            let again = tx.query_row(has, params![hash.0, pin.0], |_| Ok(())).optional()?.is_some();
            let revoked = known.as_ref().and_then(|device| device.revoked);
            let grant = invite.grant(tx, hash)?;
            let room = grant.rooms.first().cloned();
            // Otherwise a device that was thrown out would come back by a link that it still has.
            if revoked.is_some_and(|revoked| invite.created <= revoked) {
                return Ok(Err(Refusal::Revoked));
            }
            if again {
                return Ok(Ok(room));
            }
            if now >= invite.expires {
                return Ok(Err(Refusal::Expired));
            }
            if invite.redeemed >= invite.uses {
                return Ok(Err(Refusal::Used));
            }
            if full {
                return Ok(Err(Refusal::Full));
            }
            if known.as_ref().is_some_and(|device| revoked.is_none() && device.has(&grant)) {
                return Ok(Ok(room));
            }
            tx.execute("INSERT INTO redemption VALUES (?1, ?2)", params![hash.0, pin.0])?;
            admit(tx, now, pin, name, &grant)?;
            Ok(Ok(room))
        })?;
        let room = match redeemed {
            // Who is a member already opens an old link to come in, not to be let in.
            Err(_) if member => None,
            other => other?,
        };
        Ok((self.device(pin)?.ok_or(Refusal::Unknown)?, room))
    }

    /// Somebody wants to pair by the code with this nameplate.
    pub(crate) fn begin_code(&mut self, instant: Instant, nameplate: u16) -> Result<CodeBegin, NoRandomness> {
        Ok(match self.codes.begin(instant, nameplate) {
            Begin::Open(attempt, code) => CodeBegin::With { attempt, code, made_up: false },
            Begin::Busy => CodeBegin::Busy,
            Begin::Nothing(attempt) => {
                CodeBegin::With { attempt, code: Code::generate(nameplate)?, made_up: true }
            }
        })
    }

    /// The attempt was a wrong one.
    pub(crate) fn code_was_wrong(&mut self, attempt: Attempt) {
        self.codes.wrong(attempt);
    }

    /// The attempt ended early.
    pub(crate) fn abandon_code(&mut self, attempt: Attempt) {
        self.codes.abandon(attempt);
    }

    /// The attempt showed the right code. The code is used up, whatever comes of this.
    pub(crate) fn redeem_code(
        &mut self,
        now: u64,
        instant: Instant,
        attempt: Attempt,
        pin: Pin,
        name: &DisplayName,
    ) -> Result<(Device, Option<RoomName>), Refusal> {
        let grant = self.codes.redeem(instant, attempt).ok_or(Refusal::Code)?;
        let room = grant.rooms.first().cloned();
        let known = self.device(pin)?;
        if known.is_none() && self.is_full(now)? {
            return Err(Refusal::Full);
        }
        // A code is younger than ten minutes and was spoken to this person: it also lets a revoked device back in.
        if !known.is_some_and(|device| device.revoked.is_none() && device.has(&grant)) {
            self.write(|tx| admit(tx, now, pin, name, &grant))?;
        }
        Ok((self.device(pin)?.ok_or(Refusal::Code)?, room))
    }

    /// What is open.
    pub(crate) fn open_invites(&self, now: u64, instant: Instant) -> Result<OpenInvites, LedgerError> {
        let count = "SELECT count(*) FROM invite WHERE expires > ?1
            AND uses > (SELECT count(*) FROM redemption WHERE redemption.hash = invite.hash)";
        let links = self.db.query_row(count, [now], |row| row.get(0))?;
        Ok(OpenInvites { links, codes: self.codes.len(instant) as u64 })
    }

    /// Takes back all invites.
    pub(crate) fn cancel_invites(&mut self, now: u64, instant: Instant) -> Result<OpenInvites, LedgerError> {
        let open = self.open_invites(now, instant)?;
        self.db.execute("DELETE FROM invite", [])?;
        self.codes.clear();
        Ok(open)
    }

    /// Whether nobody has ever come in and nobody is invited: the relay needs its first person.
    pub(crate) fn needs_first_invite(&self, now: u64, instant: Instant) -> Result<bool, LedgerError> {
        let devices: u64 = self.db.query_row("SELECT count(*) FROM device", [], |row| row.get(0))?;
        Ok(devices == 0 && self.open_invites(now, instant)? == OpenInvites { links: 0, codes: 0 })
    }

    fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, rusqlite::Error>,
    ) -> Result<T, LedgerError> {
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = work(&tx)?;
        tx.commit()?;
        Ok(result)
    }
}

impl Device {
    /// Whether an invite would give this device nothing new.
    fn has(&self, grant: &Grant) -> bool {
        let role = self.role == Role::Admin || grant.role == Role::Member;
        let rooms = self.rooms.is_empty()
            || (!grant.rooms.is_empty() && grant.rooms.iter().all(|room| self.rooms.contains(room)));
        role && rooms
    }
}

struct Invite {
    admin: bool,
    uses: u32,
    redeemed: u32,
    created: u64,
    expires: u64,
}

impl Invite {
    fn find(tx: &Transaction<'_>, hash: TokenHash) -> Result<Option<Self>, rusqlite::Error> {
        let query = "SELECT admin, uses, created, expires, (SELECT count(*) FROM redemption WHERE hash = ?1)
            FROM invite WHERE hash = ?1";
        tx.query_row(query, [hash.0], |row| {
            Ok(Self {
                admin: row.get(0)?,
                uses: row.get(1)?,
                created: row.get(2)?,
                expires: row.get(3)?,
                redeemed: row.get(4)?,
            })
        })
        .optional()
    }

    fn grant(&self, tx: &Transaction<'_>, hash: TokenHash) -> Result<Grant, rusqlite::Error> {
        let rooms = devices::rooms(tx, "SELECT room FROM invite_room WHERE hash = ?1 ORDER BY room", hash.0)?;
        Ok(Grant { role: if self.admin { Role::Admin } else { Role::Member }, rooms })
    }
}

/// Stores a device, or adds to what one may do. One that was revoked begins anew.
fn admit(
    tx: &Transaction<'_>,
    now: u64,
    pin: Pin,
    name: &DisplayName,
    grant: &Grant,
) -> Result<(), rusqlite::Error> {
    tx.execute("DELETE FROM device WHERE pin = ?1 AND revoked IS NOT NULL", [pin.0])?;
    let exists =
        tx.query_row("SELECT 1 FROM device WHERE pin = ?1", [pin.0], |_| Ok(())).optional()?.is_some();
    if exists {
        let update = "UPDATE device SET admin = max(admin, ?2) WHERE pin = ?1";
        tx.execute(update, params![pin.0, grant.role == Role::Admin])?;
    } else {
        insert(tx, pin, name.as_str(), grant.role == Role::Admin, now)?;
    }
    if grant.rooms.is_empty() {
        tx.execute("DELETE FROM device_room WHERE pin = ?1", [pin.0])?;
        return Ok(());
    }
    // A device that may enter any room already is not narrowed down by an invite to one.
    let bound = "SELECT 1 FROM device_room WHERE pin = ?1";
    let bound = !exists || tx.query_row(bound, [pin.0], |_| Ok(())).optional()?.is_some();
    for room in grant.rooms.iter().filter(|_| bound) {
        tx.execute("INSERT OR IGNORE INTO device_room VALUES (?1, ?2)", params![pin.0, room.as_str()])?;
    }
    Ok(())
}

/// Open and recent links; more are a mistake of a script.
const MAX_INVITES: u64 = 10_000;

/// Those of one administrator's device, so that it cannot take all.
const MAX_INVITES_OF_DEVICE: u64 = 200;

/// How long a link that is over is told to be over, rather than unknown: a month.
const REMEMBERED_MS: u64 = 30 * 24 * 3_600_000;
