//! Somebody who comes and goes all the time.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use vchat_certs::identity::Identity;
use vchat_certs::tls::Purpose;
use vchat_proto::wire::close::CloseCode;

use super::Stage;
use crate::bench::attendee::{Attendee, TRACKS, say_goodbye};
use crate::bench::guest::{self, Guest, Line};
use crate::bench::writer::Writer;
use crate::netem::Random;

/// How often visitors did what.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Visits {
    pub(super) goodbyes: u64,
    /// Closed without a goodbye.
    pub(super) hung_up: u64,
    /// Gone without a word.
    pub(super) vanished: u64,
    /// Of all these, to a room of their own.
    pub(super) rooms: u64,
    /// Devices that the relay does not know.
    pub(super) strangers: u64,
    /// Devices that are no longer let in.
    pub(super) revoked: u64,
    /// Lines written, each of them acknowledged.
    pub(super) lines: u64,
}

impl Visits {
    pub(super) const fn joins(&self) -> u64 {
        self.goodbyes + self.hung_up + self.vanished
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.goodbyes += other.goodbyes;
        self.hung_up += other.hung_up;
        self.vanished += other.vanished;
        self.rooms += other.rooms;
        self.strangers += other.strangers;
        self.revoked += other.revoked;
        self.lines += other.lines;
    }
}

/// Comes and goes until it is over. `place` is different for each visitor.
pub(super) async fn visit(
    stage: Arc<Stage>,
    identity: Identity,
    revoked: Identity,
    place: u32,
) -> anyhow::Result<Visits> {
    let mut random = Random::new(place.into(), 2);
    let mut visits = Visits::default();
    for turn in 0_u32.. {
        if *stage.over.borrow() {
            break;
        }
        match random.bits() % 10 {
            0 => {
                let from = stranger_address(place, turn);
                turned_away(&stage, from, &guest::identity()?, CloseCode::NotPaired).await?;
                visits.strangers += 1;
            }
            1 => {
                let from = stranger_address(place, turn);
                turned_away(&stage, from, &revoked, CloseCode::Revoked).await?;
                visits.revoked += 1;
            }
            what => {
                let own = random.chance(OWN_ROOM);
                let room = if own {
                    format!("visit {place} {turn}")
                } else {
                    stage.room(random.bits() as u32).to_owned()
                };
                visits.rooms += u64::from(own);
                let number = FIRST_NUMBER + place * 0x10_0000 + turn;
                let (guest, wrote) = be_there(&stage, &identity, &room, number, &mut random)
                    .await
                    .with_context(|| format!("visitor {place}, turn {turn}"))?;
                visits.lines += u64::from(wrote);
                go(guest, what, &mut visits).await?;
            }
        }
        tokio::time::sleep(random.below(BETWEEN)).await;
    }
    Ok(visits)
}

/// Joins, is in the call for a while, and says perhaps something.
async fn be_there(
    stage: &Stage,
    identity: &Identity,
    room: &str,
    number: u32,
    random: &mut Random,
) -> anyhow::Result<(Guest, bool)> {
    let mut guest = Guest::join(stage.relay, identity, room, &TRACKS).await.context("cannot join")?;
    let chats = random.chance(0.5);
    // Closing the chat would be a goodbye.
    let mut writer = if chats { Some(Writer::open(&guest, number).await?) } else { None };
    let stay = random.below(STAY);
    let mut attendee = Attendee::new(&guest, stage.clock)?;
    let chat = async {
        if let Some(writer) = &mut writer {
            writer.write("hello, and goodbye").await?;
            writer.settle().await?;
            ensure!(writer.tally.refused == 0, "a line was refused");
        }
        tokio::time::sleep(stay).await;
        anyhow::Ok(())
    };
    let ended = tokio::select! {
        ended = attendee.attend(&mut guest.control, drop) => {
            ended?;
            false
        }
        done = chat => {
            done?;
            true
        }
    };
    ensure!(ended, "was cut off: {:?}", guest.line.connection.close_reason());
    Ok((guest, chats))
}

async fn go(mut guest: Guest, how: u64, visits: &mut Visits) -> anyhow::Result<()> {
    match how {
        2..5 => {
            guest.line.vanish()?;
            visits.vanished += 1;
        }
        5..7 => {
            guest.line.connection.close(0_u32.into(), b"");
            visits.hung_up += 1;
        }
        _ => {
            say_goodbye(&mut guest.control, &guest.line.connection).await?;
            visits.goodbyes += 1;
        }
    }
    Ok(())
}

/// Comes with a device that is not let in, and is told so.
async fn turned_away(
    stage: &Stage,
    from: Ipv4Addr,
    identity: &Identity,
    code: CloseCode,
) -> anyhow::Result<()> {
    let line = Line::open_from(from, stage.relay, identity, Purpose::Call).await?;
    let closed = tokio::time::timeout(Duration::from_secs(5), line.connection.closed()).await;
    match closed.map(|error| vchat_quic::close_code(&error)) {
        Ok(Some(told)) if told == code => Ok(()),
        other => bail!("a device that may not come in was told {other:?}"),
    }
}

/// Of the loopback network, always another one: the relay holds ten failures against an address.
const fn stranger_address(place: u32, turn: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x7f40_0000 + place * 0x1_0000 + turn % 0x1_0000)
}

/// Visitors' numbers as writers, above those of all who stay.
const FIRST_NUMBER: u32 = 0x1000_0000;

/// So few that those which were left, and linger for ten minutes, stay below the thousand of a relay.
const OWN_ROOM: f64 = 0.1;

const STAY: Duration = Duration::from_secs(2);
const BETWEEN: Duration = Duration::from_secs(1);
