//! `vchat-bench flood`: what a call notices while somebody floods the relay with first packets.
//!
//! | module | job |
//! |---|---|
//! | `attack`, `initial` | the flood |
//! | `members` | the call, and those who want to come in meanwhile |
//! | `sockets` | what the kernel lost for want of room |
//! | `report` | the parts of a run side by side |
//!
//! Nothing leaves this machine: the relay listens on 127.0.0.1, and forged addresses are 127.x.y.z.

mod attack;
mod initial;
mod members;
mod report;
mod sockets;

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use self::attack::Done;
pub(super) use self::attack::{Attack, Kind, Running};
use self::members::{Heard, Joins, Member, PHASES, Stage, come_and_go};
use self::report::Report;
use super::machine::Machine;
use super::{cpu, guest, resident};
use crate::harness::Relay;

/// How to flood a relay.
#[derive(Args, Clone, Debug)]
pub struct FloodOptions {
    /// First packets a second
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    rate: u32,
    /// Length of each part: before, during and after the attack
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = super::options::seconds)]
    seconds: Duration,
    /// What the relay is sent
    #[arg(long, default_value = "spoofed")]
    kind: Kind,
    /// Members of the call, each sending 30 pictures and 100 pieces of sound a second
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=16))]
    members: u32,
    /// Runs; the median counts
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// The relay on the last core alone, everything else on the others
    #[arg(long)]
    pin: bool,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// One part of a run, as it was.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// What each member sent, to be heard by each other one.
    sent: Vec<u64>,
    heard: Vec<Heard>,
    joins: Joins,
    /// Share of one core that the relay computed.
    relay_cpu: f64,
    /// The relay's memory at its largest, in bytes.
    resident: u64,
    /// Datagrams that the relay's socket had no room for.
    overflow: u64,
    attack: Done,
    seconds: f64,
}

impl Part {
    /// Share of the datagrams for all members that did not arrive.
    #[must_use]
    pub fn lost(&self) -> f64 {
        let sent: u64 = self.sent.iter().sum();
        let expected = sent * (self.sent.len() as u64).saturating_sub(1);
        let heard: u64 = self.heard.iter().map(|h| h.datagrams).sum();
        1.0 - heard as f64 / expected.max(1) as f64
    }

    /// How often a known device came anew and was let in.
    #[must_use]
    pub fn joined(&self) -> usize {
        self.joins.times.len()
    }

    /// First packets of the attack.
    #[must_use]
    pub const fn attacked(&self) -> u64 {
        self.attack.sent
    }
}

/// Measures as the options say, and prints the result to stdout and the progress to stderr.
pub fn run_flood(options: &FloodOptions) -> anyhow::Result<()> {
    let (machine, mut runs) = (Machine::read(), Vec::new());
    for run in 1..=options.runs {
        writeln!(std::io::stderr(), "run {run} of {}", options.runs)?;
        runs.push(flood(options)?);
    }
    let report = Report { machine, options: options.clone(), runs };
    let text = if options.json { report.json().to_string() } else { report.to_string() };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// One run: its parts before, during and after the attack.
pub fn flood(options: &FloodOptions) -> anyhow::Result<[Part; PHASES]> {
    let relay = Relay::start()?;
    if options.pin {
        pin(&relay)?;
    }
    let attack = Attack::prepare(options.kind, relay.address())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(options, &relay, attack))
}

async fn measure(options: &FloodOptions, relay: &Relay, attack: Attack) -> anyhow::Result<[Part; PHASES]> {
    let count = options.members as usize;
    let devices = guest::devices(relay, count + NEWCOMERS).await?;
    let (of_members, of_newcomers) = devices.split_at(count);
    let stage = Stage::new();
    let mut members = Vec::new();
    for (place, device) in (0..).zip(of_members) {
        members.push(Member::join(relay.address(), device, &stage, place).await?);
    }
    tokio::time::sleep(WARM_UP).await;
    let (mut parts, mut attack) = (<[Part; PHASES]>::default(), Some(attack));
    for (phase, part) in parts.iter_mut().enumerate() {
        let running = (phase == ATTACK).then(|| attack.take()).flatten();
        let running = running.map(|attack| attack.start(options.rate, options.seconds));
        stage.enter(phase);
        let newcomers: Vec<_> =
            of_newcomers.iter().map(|device| come_and_go(relay.address(), device, options.seconds)).collect();
        let newcomers = join_all(newcomers);
        let (observed, joins) = tokio::join!(observe(relay, options.seconds, part), newcomers);
        observed?;
        for joins in joins {
            let joins = joins?;
            part.joins.times.extend(joins.times);
            part.joins.waiting.extend(joins.waiting);
        }
        if let Some(running) = running {
            part.attack = running.stop()?;
        }
    }
    stage.enter(PHASES);
    stage.end();
    for member in members {
        let (sent, heard) = member.leave().await?;
        for ((part, sent), heard) in parts.iter_mut().zip(sent).zip(heard) {
            part.sent.push(sent);
            part.heard.push(heard);
        }
    }
    Ok(parts)
}

/// Looks at the relay for a while.
async fn observe(relay: &Relay, time: Duration, part: &mut Part) -> anyhow::Result<()> {
    let (began, port) = (Instant::now(), relay.address().port());
    let (computed, overflow) = (cpu::used(relay.id())?, sockets::overflow(port)?);
    while began.elapsed() < time {
        part.resident = part.resident.max(resident::size(relay.id())?);
        tokio::time::sleep(LOOK_EVERY.min(time.saturating_sub(began.elapsed()))).await;
    }
    part.seconds = began.elapsed().as_secs_f64();
    part.relay_cpu = (cpu::used(relay.id())? - computed).as_secs_f64() / part.seconds;
    part.overflow = sockets::overflow(port)? - overflow;
    Ok(())
}

/// Waits for all, in one task.
async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut pinned: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = pinned.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in pinned.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(cx)
            {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// Gives the relay a core of its own.
fn pin(relay: &Relay) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    let (mut last, mut others) = (CpuSet::new(), CpuSet::new());
    last.set(cores - 1);
    (0..cores.max(2) - 1).for_each(|core| others.set(core));
    let process = i32::try_from(relay.id()).ok().and_then(Pid::from_raw).context("a process id")?;
    sched_setaffinity(Some(process), &last).context("cannot pin the relay")?;
    sched_setaffinity(None, &others).context("cannot pin the members")
}

/// Which part is under attack.
const ATTACK: usize = 1;

/// Devices that come and go.
const NEWCOMERS: usize = 4;

/// The first key frames, and whatever a first second needs.
const WARM_UP: Duration = Duration::from_secs(1);

const LOOK_EVERY: Duration = Duration::from_millis(100);
