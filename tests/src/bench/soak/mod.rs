//! `vchat-bench soak`: a relay for a long time, with people who stay and others who come and go.

mod regular;
mod report;
mod short;
mod slope;
mod visitor;
mod watch;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use vchat_proto::wire::limits::CHAT_HISTORY;

use self::regular::{Media, Regular};
pub use self::short::{ShortConnections, short_connections};
use self::visitor::Visits;
use self::watch::Watch;
use super::guest;
use super::writer::{Tally, Writer};
use crate::harness::Relay;

/// How long to watch a relay.
#[derive(Args, Clone, Debug)]
pub struct SoakOptions {
    /// Time of all of it. The first half warms the relay up: rooms that were left stay for ten minutes, so with less than half an
    /// hour the memory still grows with them
    #[arg(long, default_value_t = 30.0, value_parser = minutes)]
    minutes: f64,
    /// People who stay, in rooms of four; a third as many come and go
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(4..=400))]
    clients: u32,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What came of it.
pub struct Soaked {
    watch: Watch,
    media: Media,
    lines: Tally,
    visits: Visits,
    /// What must not happen, and did.
    losses: Vec<String>,
}

/// What all clients share.
struct Stage {
    relay: SocketAddr,
    /// Of those who stay.
    rooms: Vec<String>,
    /// The zero of everybody's media clock.
    clock: Instant,
    over: tokio::sync::watch::Receiver<bool>,
}

impl Stage {
    fn room(&self, number: u32) -> &str {
        &self.rooms[number as usize % self.rooms.len()]
    }
}

/// Watches a relay as the options say, and prints what came of it to stdout.
///
/// # Errors
/// Something was lost that must not be: a line of chat, or somebody's connection.
pub fn run_soak(options: &SoakOptions) -> anyhow::Result<()> {
    let soaked = soak(options)?;
    let text = if options.json { soaked.json(options).to_string() } else { soaked.text(options)? };
    writeln!(std::io::stdout(), "{text}").context("cannot write to stdout")?;
    match &soaked.losses[..] {
        [] => Ok(()),
        [first, ..] => bail!("{} losses, the first: {first}", soaked.losses.len()),
    }
}

/// Watches a relay as the options say.
pub fn soak(options: &SoakOptions) -> anyhow::Result<Soaked> {
    Runtime::new()?.block_on(measure(options))
}

async fn measure(options: &SoakOptions) -> anyhow::Result<Soaked> {
    let mut relay = Relay::start_with(&["--mdns", "off", "--log", "json"])?;
    let visitors = options.clients.div_ceil(3);
    let mut devices = guest::devices(&relay, (options.clients + visitors) as usize + 1).await?;
    let revoked = devices.pop().context("a device")?;
    relay.operate(&["devices", "revoke", &revoked.pin().to_string()])?;
    let rooms = (0..options.clients.div_ceil(TOGETHER)).map(|n| format!("room {n}")).collect();
    let (end, over) = tokio::sync::watch::channel(false);
    let stage = Arc::new(Stage { relay: relay.address(), rooms, clock: Instant::now(), over });

    let mut regulars = Vec::new();
    for (place, device) in (0..options.clients).zip(&devices) {
        let lines = CHAT_HISTORY as u32 / TOGETHER;
        regulars.push(Regular::enter(&stage, device, place, lines).await?);
    }
    let mut visiting = JoinSet::new();
    for (place, device) in (0..visitors).zip(devices.split_off(options.clients as usize)) {
        visiting.spawn(visitor::visit(stage.clone(), device, revoked.clone(), place));
    }

    let mut soaked = Soaked {
        watch: Watch::default(),
        media: Media::default(),
        lines: Tally::default(),
        visits: Visits::default(),
        losses: Vec::new(),
    };
    let time = Duration::from_secs_f64(options.minutes * 60.0);
    let warm = time.mul_f64(WARM_UP);
    soaked.watch_for(warm, &mut relay, &regulars).await?;
    soaked.watch.begin_anew();
    soaked.watch_for(time - warm, &mut relay, &regulars).await?;
    end.send_replace(true);
    while let Some(visits) = visiting.join_next().await {
        match visits? {
            Ok(visits) => soaked.visits.add(&visits),
            Err(e) => soaked.losses.push(format!("{e:#}")),
        }
    }
    soaked.close(regulars).await?;
    Ok(soaked)
}

impl Soaked {
    /// Lines, connections and entries that were lost and must not be, in words.
    #[must_use]
    pub fn losses(&self) -> &[String] {
        &self.losses
    }

    /// Warnings and errors in the relay's log.
    #[must_use]
    pub fn surprises(&self) -> &[String] {
        &self.watch.surprises
    }

    /// How often somebody came in who did not stay.
    #[must_use]
    pub const fn joins(&self) -> u64 {
        self.visits.joins()
    }

    /// Lines of chat that were stored.
    #[must_use]
    pub const fn lines(&self) -> u64 {
        self.lines.stored + self.visits.lines
    }

    /// Looks at the relay for a while; ends early when somebody who should stay is gone.
    async fn watch_for(
        &mut self,
        time: Duration,
        relay: &mut Relay,
        regulars: &[Regular],
    ) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        loop {
            self.watch.look(relay)?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || regulars.iter().any(Regular::is_lost) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY.min(left)).await;
        }
    }

    /// Lets everybody leave who stayed, and checks that all of a room have read the same.
    async fn close(&mut self, mut regulars: Vec<Regular>) -> anyhow::Result<()> {
        let mut writers = Vec::new();
        for regular in &mut regulars {
            match regular.settle().await {
                Ok(writer) => {
                    self.lines.add(&writer.tally);
                    writers.push((regular.room.clone(), writer));
                }
                Err(e) => self.losses.push(format!("{e:#}")),
            }
        }
        let last = |room: &str, writers: &[(String, Writer)]| {
            writers.iter().filter(|(r, _)| r == room).map(|(_, w)| w.last()).max().unwrap_or(0)
        };
        for at in 0..writers.len() {
            let most = last(&writers[at].0, &writers);
            let (room, writer) = &mut writers[at];
            if let Err(e) = writer.catch_up(most).await {
                self.losses.push(format!("somebody in {room} lacks lines: {e:#}"));
            }
        }
        for regular in regulars {
            match regular.leave().await {
                Ok(media) => {
                    self.media.sound += media.sound;
                    self.media.lost += media.lost;
                    self.media.pictures += media.pictures;
                    self.media.delays.merge(&media.delays);
                }
                Err(e) => self.losses.push(format!("{e:#}")),
            }
        }
        Ok(())
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes = text.parse().ok().filter(|minutes| (0.1..=10_000.0).contains(minutes));
    minutes.ok_or_else(|| "give a number of minutes from 0.1 to 10000".into())
}

/// People to a room.
const TOGETHER: u32 = 4;

/// A part of the time: of half an hour, 15 minutes. By then there are as many rooms that were left as there ever will be.
const WARM_UP: f64 = 0.5;

const LOOK_EVERY: Duration = Duration::from_secs(2);
