//! `vchat-bench chat`: how long lines of chat take until they are on the relay's disk, and how many a second get there.

use std::io::Write;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use quinn::Endpoint;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use vchat_certs::identity::Identity;
use vchat_certs::tls::{Purpose, ServerTrust, client_config};
use vchat_proto::bucket::TokenBucket;
use vchat_proto::wire::limits::{CHAT_RATE, MAX_PENDING};

use super::cpu;
use super::guest::{self, Guest, Line};
use super::kills::summary;
use super::machine::Machine;
use super::options::seconds;
use super::writer::{Tally, Writer};
use crate::harness::Relay;

/// How many write.
#[derive(Args, Clone, Debug)]
pub struct ChatOptions {
    /// Rooms, among which the writers are spread: each line goes to all of its room
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=900))]
    rooms: u32,
    /// Connections that write: each may write 50 lines at once, and 5 a second
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=3000))]
    writers: u32,
    /// Lines a second of all writers together, for the time until they are acknowledged
    #[arg(long, value_name = "LINES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Time of each part: at that rate, and as fast as it goes
    #[arg(long = "seconds", value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    seconds: Duration,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

impl ChatOptions {
    /// Lines a second that the relay takes from so many writers in this time.
    fn allowed(&self) -> f64 {
        let burst = f64::from(CHAT_RATE.1 - SPARE) / self.seconds.as_secs_f64();
        f64::from(self.writers) * (f64::from(CHAT_RATE.0) + burst)
    }
}

/// What came of one part.
pub struct Part {
    /// All lines, also those that were answered after its time.
    tally: Tally,
    /// Acknowledged in its time, a second.
    per_second: f64,
    /// Of one core.
    relay_cpu: f64,
}

/// Measures as the options say, and prints the result to stdout.
///
/// # Errors
/// A line was refused, lost, doubled or out of order.
pub fn run_chat(options: &ChatOptions) -> anyhow::Result<()> {
    let [modest, fast] = chat(options)?;
    let [waits, crowded] = [&modest, &fast].map(|part| summary(&part.tally.delays));
    let text = if options.json {
        json!({
            "machine": Machine::read().json(), "rooms": options.rooms, "writers": options.writers, "rate": options.rate,
            "ack_ms": {"p50": waits[0], "p99": waits[1], "max": waits[2]},
            "lines_per_second": fast.per_second, "allowed_per_second": options.allowed(), "relay_cores": fast.relay_cpu,
            "fast_ack_ms": {"p50": crowded[0], "p99": crowded[1], "max": crowded[2]},
        })
        .to_string()
    } else {
        format!(
            "{}\n{} writers in {} rooms\n\
             {} lines a second   acknowledged p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms; target p99 {ACK_MS}: {}\n\
             as many as go       {:.0} a second (the writers may {:.0}), target {LINES}: {}; p50 {:.0} ms, p99 {:.0} ms; the relay {:.0} % of a core",
            Machine::read(),
            options.writers,
            options.rooms,
            options.rate,
            waits[0],
            waits[1],
            waits[2],
            if waits[1] <= ACK_MS { "met" } else { "MISSED" },
            fast.per_second,
            options.allowed(),
            if fast.per_second >= LINES { "met" } else { "MISSED" },
            crowded[0],
            crowded[1],
            fast.relay_cpu * 100.0,
        )
    };
    writeln!(std::io::stdout(), "{text}").context("cannot write to stdout")
}

/// Measures as the options say: at the modest rate, and as fast as it goes.
///
/// # Errors
/// A line was refused, lost, doubled or out of order.
pub fn chat(options: &ChatOptions) -> anyhow::Result<[Part; 2]> {
    Runtime::new()?.block_on(measure(options))
}

impl Part {
    /// Lines that were stored.
    #[must_use]
    pub const fn lines(&self) -> u64 {
        self.tally.stored
    }
}

async fn measure(options: &ChatOptions) -> anyhow::Result<[Part; 2]> {
    let relay = Relay::start()?;
    let devices = guest::devices(&relay, options.writers.div_ceil(OF_DEVICE) as usize).await?;
    let (mut guests, mut writers) = (Vec::new(), Vec::new());
    for (from, device) in (0..).zip(&devices) {
        let endpoint = endpoint(device, Ipv4Addr::from_bits(0x7f20_0001 + from))?;
        for number in (0..options.writers).skip((from * OF_DEVICE) as usize).take(OF_DEVICE as usize) {
            let line = Line::new(endpoint.clone(), relay.address()).await?;
            let guest = Guest::enter(line, &format!("room {}", number % options.rooms), &[]).await?;
            writers.push(Writer::open(&guest, number).await?);
            guests.push(guest);
        }
    }
    let every = Duration::from_secs(1) * options.writers / options.rate;
    let (modest, writers) = part(&relay, writers, options.seconds, Pace::Every(every)).await?;
    // The relay has counted those above, too.
    tokio::time::sleep(REFILL).await;
    let waiting = MOST_WAITING.min(options.rooms * MAX_PENDING as u32);
    let most = (waiting / options.writers).max(1) as usize;
    let (fast, _) = part(&relay, writers, options.seconds, Pace::Waiting(most)).await?;
    drop(guests);
    Ok([modest, fast])
}

/// When a writer writes.
#[derive(Clone, Copy)]
enum Pace {
    Every(Duration),
    /// Whenever fewer than so many of its lines wait for an answer.
    Waiting(usize),
}

/// Lets everybody write for a while.
async fn part(
    relay: &Relay,
    writers: Vec<Writer>,
    time: Duration,
    pace: Pace,
) -> anyhow::Result<(Part, Vec<Writer>)> {
    let (began, computed) = (Instant::now(), cpu::used(relay.id())?);
    let (end, count) = (began + time, writers.len() as u32);
    let mut tasks = JoinSet::new();
    for (place, mut writer) in (0..).zip(writers) {
        tasks.spawn(async move {
            writer.tally = Tally::default();
            match pace {
                // Not all at once.
                Pace::Every(every) => {
                    write_every(&mut writer, began + every * place / count, every, end).await?
                }
                Pace::Waiting(most) => write_much(&mut writer, most, end).await?,
            }
            let in_time = writer.tally.stored;
            writer.settle().await?;
            anyhow::Ok((in_time, writer))
        });
    }
    tokio::time::sleep_until(end.into()).await;
    let relay_cpu = (cpu::used(relay.id())? - computed).as_secs_f64() / time.as_secs_f64();
    let (mut stored, mut tally, mut writers) = (0, Tally::default(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (in_time, writer) = done??;
        stored += in_time;
        tally.add(&writer.tally);
        writers.push(writer);
    }
    ensure!(tally.refused == 0, "{} of {} lines were refused", tally.refused, tally.refused + tally.stored);
    Ok((Part { tally, per_second: stored as f64 / time.as_secs_f64(), relay_cpu }, writers))
}

async fn write_every(
    writer: &mut Writer,
    first: Instant,
    every: Duration,
    end: Instant,
) -> anyhow::Result<()> {
    let mut next = first;
    loop {
        tokio::select! {
            read = writer.read() => read?,
            () = tokio::time::sleep_until(next.min(end).into()) => {
                if next >= end {
                    return Ok(());
                }
                writer.write(TEXT).await?;
                next += every;
            }
        }
    }
}

async fn write_much(writer: &mut Writer, most: usize, end: Instant) -> anyhow::Result<()> {
    let mut allowance = TokenBucket::new((CHAT_RATE.0, CHAT_RATE.1 - SPARE));
    while Instant::now() < end {
        while writer.waiting() < most && allowance.take(Instant::now(), 1) {
            writer.write(TEXT).await?;
        }
        let look = if writer.waiting() < most { Instant::now() + LOOK } else { end };
        tokio::select! {
            read = writer.read() => read?,
            () = tokio::time::sleep_until(look.min(end).into()) => {}
        }
    }
    Ok(())
}

/// For several connections of one device, from an address of its own: the relay counts handshakes by address.
fn endpoint(identity: &Identity, from: Ipv4Addr) -> anyhow::Result<Endpoint> {
    let (tls, _) = client_config(identity, ServerTrust::FirstUse, Purpose::Call)?;
    let mut endpoint = Endpoint::client((from, 0).into())?;
    endpoint.set_default_client_config(vchat_quic::client_config(tls)?);
    Ok(endpoint)
}

/// Connections of one device. The relay allows 16.
const OF_DEVICE: u32 = 10;

/// Lines of all writers that wait for an answer at once: the relay refuses those that find 4096 waiting for its disk.
const MOST_WAITING: u32 = 3000;

/// Of what may be written at once: the relay's clock is not quite ours.
const SPARE: u32 = 5;

/// For what was written before, at most a line a second each.
const REFILL: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

/// As long as what people write.
const TEXT: &str = "as long as what people write to each other in a room, so to say";

const ACK_MS: f64 = 15.0;
const LINES: f64 = 5000.0;
