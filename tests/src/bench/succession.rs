//! `vchat-bench handover`: what people notice of another process that takes over from their relay.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};
use vchat_proto::stats::Distribution;

use super::kills::{record, summary};
use super::machine::Machine;
use crate::harness::{Call, Process};

/// A call whose relay is handed over.
#[derive(Args, Clone, Debug)]
pub struct HandoverOptions {
    /// People in the call, each of whom speaks and is seen
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=8))]
    clients: u32,
    /// Calls, each with one handover; the figures are of all of them
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What was missing of each person for each other one, within some seconds.
#[derive(Default)]
struct Missing {
    /// Sound that was made up, in microseconds.
    sound: Distribution,
    /// Pictures that stood still, in microseconds.
    pictures: Distribution,
}

/// Measures as the options say, and prints the result to stdout.
pub fn run_handover(options: &HandoverOptions) -> anyhow::Result<()> {
    let (mut without, mut with, mut moved) =
        (Missing::default(), Missing::default(), Distribution::default());
    for _ in 0..options.runs {
        run(options.clients, &mut without, &mut with, &mut moved)?;
    }
    let moved = summary(&moved);
    let [[s0, p0], [s1, p1]] = [&without, &with].map(|m| [summary(&m.sound), summary(&m.pictures)]);
    let text = if options.json {
        let of = |[p50, p99, max]: [f64; 3]| json!({"p50": p50, "p99": p99, "max": max});
        json!({
            "machine": Machine::read().json(), "clients": options.clients, "runs": options.runs, "seconds": SECONDS,
            "moved_ms": of(moved),
            "concealed_ms": {"without": of(s0), "with": of(s1)}, "frozen_ms": {"without": of(p0), "with": of(p1)},
        })
        .to_string()
    } else {
        let line = |[p50, p99, max]: [f64; 3]| format!("p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms");
        format!(
            "{} clients, {} handovers; of one person for another, in {SECONDS} s\n\
             sound made up      with a handover  {}\n\
             \x20                  without          {}\n\
             pictures frozen    with a handover  {}\n\
             \x20                  without          {}\n\
             a client has moved after            {}",
            options.clients,
            options.runs,
            line(s1),
            line(s0),
            line(p1),
            line(p0),
            line(moved)
        )
    };
    writeln!(std::io::stdout(), "{text}").context("cannot write to stdout")
}

fn run(
    clients: u32,
    without: &mut Missing,
    with: &mut Missing,
    moved: &mut Distribution,
) -> anyhow::Result<()> {
    let mut call = Call::start()?;
    let mut people = Vec::new();
    for n in 0..clients {
        let mut person = call.join(&format!("p{n}"), "--mic tone --camera test --size 320x180")?;
        person.wait_for_event_named("joined")?;
        people.push(person);
    }
    // Until buffers and rates have settled.
    let before = all_after(&mut people, SETTLE)?;
    let between = all_after(&mut people, SETTLE + SECONDS)?;
    let asked = Instant::now();
    call.relay.hand_over()?;
    let after = all_after(&mut people, SETTLE + 2 * SECONDS)?;
    for person in &people {
        let is_moved = |(_, e): &(Instant, Value)| e["event"] == "moved";
        let (at, _) = person.timed_events().into_iter().find(is_moved).context("somebody has not moved")?;
        record(moved, asked, at);
        let broken = ["reconnecting", "peer-left"];
        ensure!(
            !person.events().iter().any(|e| broken.iter().any(|b| e["event"] == *b)),
            "somebody was cut off"
        );
    }
    without.add(&before, &between)?;
    with.add(&between, &after)
}

/// Totals of sound and pictures that were missing, by pair of people, in microseconds.
type Totals = BTreeMap<(usize, u64), [i64; 2]>;

/// The totals after so many seconds of the call.
fn all_after(people: &mut [Process], seconds: usize) -> anyhow::Result<Totals> {
    let mut totals = Totals::new();
    for (n, person) in people.iter_mut().enumerate() {
        let mut seen = 0;
        let stats = person.wait_for_event("statistics", |e| {
            seen += usize::from(e["event"] == "stats");
            seen == seconds
        })?;
        for peer in stats["peers"].as_array().context("peers")? {
            let us = |v: &Value| v.as_i64().map(|ms| ms * 1000).context("a number");
            let missing = [us(&peer["audio"]["concealed_ms"])?, us(&peer["video"]["freeze_ms"])?];
            totals.insert((n, peer["participant"].as_u64().context("a number")?), missing);
        }
    }
    Ok(totals)
}

impl Missing {
    fn add(&mut self, from: &Totals, to: &Totals) -> anyhow::Result<()> {
        for (pair, [sound, pictures]) in to {
            let before = from.get(pair).with_context(|| format!("{pair:?} was not here before"))?;
            self.sound.record(sound - before[0]);
            self.pictures.record(pictures - before[1]);
        }
        Ok(())
    }
}

const SETTLE: usize = 4;
/// Enough for everybody to move, and for the connections of before to end.
const SECONDS: usize = 6;
