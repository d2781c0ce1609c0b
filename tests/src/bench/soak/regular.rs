//! Somebody who stays as long as the soak lasts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use vchat_certs::identity::Identity;
use vchat_proto::id::{FrameId, TrackId};
use vchat_proto::stats::Distribution;
use vchat_proto::wire::limits::CHAT_RATE;

use super::Stage;
use crate::bench::attendee::{Arrived, Attendee, TRACKS, say_goodbye};
use crate::bench::guest::Guest;
use crate::bench::writer::Writer;
use crate::netem::Random;

/// Somebody in a call, who also writes now and then.
pub(super) struct Regular {
    pub(super) room: String,
    media: JoinHandle<anyhow::Result<Media>>,
    chat: JoinHandle<anyhow::Result<Writer>>,
    leave: watch::Sender<bool>,
}

/// What one has taken in of the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Media {
    /// Packets of sound, each once.
    pub(super) sound: u64,
    /// Packets of sound between others that never came.
    pub(super) lost: u64,
    /// Through the relay.
    pub(super) delays: Distribution,
    pub(super) pictures: u64,
}

impl Regular {
    /// Enters a room, of whose chat it is to write `lines` as fast as it may at first.
    pub(super) async fn enter(
        stage: &Arc<Stage>,
        identity: &Identity,
        place: u32,
        lines: u32,
    ) -> anyhow::Result<Self> {
        let room = stage.room(place).to_owned();
        let guest = Guest::join(stage.relay, identity, &room, &TRACKS).await?;
        let writer = Writer::open(&guest, place).await?;
        let (leave, leaving) = watch::channel(false);
        let media = tokio::spawn(attend(guest, stage.clock, leaving));
        let chat = tokio::spawn(write(writer, stage.over.clone(), lines, Random::new(place.into(), 1)));
        Ok(Self { room, media, chat, leave })
    }

    /// Whether it has lost its connection, or a line.
    pub(super) fn is_lost(&self) -> bool {
        self.media.is_finished() || (self.chat.is_finished() && !*self.leave.borrow())
    }

    /// After the end: waits until all that it has written is answered.
    pub(super) async fn settle(&mut self) -> anyhow::Result<Writer> {
        (&mut self.chat).await?.with_context(|| format!("the chat of {}", self.room))
    }

    /// Says goodbye.
    pub(super) async fn leave(self) -> anyhow::Result<Media> {
        self.leave.send_replace(true);
        self.media.await?.with_context(|| format!("somebody in {}", self.room))
    }
}

async fn attend(
    mut guest: Guest,
    clock: Instant,
    mut leaving: watch::Receiver<bool>,
) -> anyhow::Result<Media> {
    let (mut media, mut voices) = (Media::default(), BTreeMap::new());
    let mut attendee = Attendee::new(&guest, clock)?;
    let arrived = |what| match what {
        Arrived::Sound { track, frame, delay } => {
            let voice: &mut Voice = voices.entry(track).or_insert_with(|| Voice::new(frame));
            if voice.is_new(frame) {
                media.sound += 1;
                media.delays.record(i64::try_from(delay.as_micros()).unwrap_or(i64::MAX));
            }
        }
        Arrived::Picture { .. } => media.pictures += 1,
        Arrived::Left => media.lost += forget(&mut voices),
    };
    tokio::select! {
        ended = attendee.attend(&mut guest.control, arrived) => {
            ended?;
            bail!("was cut off: {:?}", guest.line.connection.close_reason());
        }
        // Said once.
        _ = leaving.changed() => {}
    }
    media.lost += lost(&voices);
    say_goodbye(&mut guest.control, &guest.line.connection).await?;
    Ok(media)
}

/// Those who have been silent for a while are those who have left.
fn forget(voices: &mut BTreeMap<TrackId, Voice>) -> u64 {
    let before = lost(voices);
    voices.retain(|_, voice| voice.heard.elapsed() <= SILENT);
    before - lost(voices)
}

fn lost(voices: &BTreeMap<TrackId, Voice>) -> u64 {
    voices.values().map(|voice| voice.missing.len() as u64).sum()
}

/// Somebody who is heard.
struct Voice {
    next: FrameId,
    missing: BTreeSet<u32>,
    heard: Instant,
}

impl Voice {
    fn new(first: FrameId) -> Self {
        Self { next: first, missing: BTreeSet::new(), heard: Instant::now() }
    }

    fn is_new(&mut self, frame: FrameId) -> bool {
        self.heard = Instant::now();
        while !self.next.is_after(frame) {
            self.missing.insert(self.next.0);
            self.next = self.next.plus(1);
        }
        self.missing.remove(&frame.0)
    }
}

/// Fills the room's history, and then writes now and then, until it is over.
async fn write(
    mut writer: Writer,
    mut over: watch::Receiver<bool>,
    lines: u32,
    mut random: Random,
) -> anyhow::Result<Writer> {
    let (mut count, mut next) = (0, Instant::now());
    loop {
        tokio::select! {
            read = writer.read() => read?,
            () = tokio::time::sleep_until(next.into()) => {
                count += 1;
                writer.write(&format!("line {count} of somebody who has something to say now and then")).await?;
                next += if count < lines { AT_FIRST } else { EVERY / 2 + random.below(EVERY) };
            }
            // Said once.
            _ = over.changed() => break,
        }
    }
    writer.settle().await?;
    ensure!(writer.tally.refused == 0, "{} lines were refused", writer.tally.refused);
    Ok(writer)
}

/// A little less than what may be kept up, for whoever waits longer for a turn.
const AT_FIRST: Duration = Duration::from_millis(1000 / CHAT_RATE.0 as u64 + 20);
/// On average.
const EVERY: Duration = Duration::from_secs(4);
/// Several packets.
const SILENT: Duration = Duration::from_secs(1);
