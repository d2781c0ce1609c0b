//! `vchat-bench kills`: chat while its relay is killed over and over.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use vchat_proto::stats::Distribution;

use super::machine::Machine;
use crate::harness::{Call, Process};
use crate::netem::Random;

/// How often to kill a relay.
#[derive(Args, Clone, Debug)]
pub struct KillsOptions {
    /// Times that it is killed
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kills: u32,
    /// Chooses the moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Kills {
    /// Lines that were written, stored and seen by everybody once, in one order.
    pub lines: usize,
    /// From the moment that the relay listens again to the moment that a client knows that its connection is gone, each.
    pub noticed: Distribution,
    /// The same until the client is in the room again.
    pub back: Distribution,
}

/// Kills a relay as the options say, and prints what came of it to stdout.
pub fn run_kills(options: &KillsOptions) -> anyhow::Result<()> {
    let Kills { lines, noticed, back } = chat_while_killed(options.kills, options.seed)?;
    let [notice, back] = [&noticed, &back].map(summary);
    let text = if options.json {
        json!({
            "machine": Machine::read().json(), "kills": options.kills, "lines": lines,
            "noticed_ms": {"p50": notice[0], "p99": notice[1], "max": notice[2]},
            "back_ms": {"p50": back[0], "p99": back[1], "max": back[2]},
        })
        .to_string()
    } else {
        format!(
            "{} kills, {lines} lines: none lost, doubled or out of order\n\
             after the new start, a client knows   p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms\n\
             and is in the room again              p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms",
            options.kills, notice[0], notice[1], notice[2], back[0], back[1], back[2]
        )
    };
    writeln!(std::io::stdout(), "{text}").context("cannot write to stdout")
}

/// Lets three clients write while their relay is killed so many times, at moments that `seed` chooses.
///
/// # Errors
/// A line that was acknowledged is lost, or one is doubled or out of order.
pub fn chat_while_killed(kills: u32, seed: u64) -> anyhow::Result<Kills> {
    let mut call = Call::start()?;
    let mut random = Random::new(seed, 0);
    let mut writers = Vec::new();
    for name in ["ann", "bob", "eve"] {
        let mut process = call.join(name, "")?;
        process.wait_for_event_named("joined")?;
        writers.push(Writer { name, process, written: Vec::new() });
    }
    let mut starts = Vec::new();
    for kill in 1..=kills {
        writers.iter_mut().try_for_each(|writer| writer.write(2))?;
        thread::sleep(Duration::from_secs_f64(random.unit() * MOMENTS.as_secs_f64()));
        call.relay.process().kill()?;
        // To nobody.
        writers.iter_mut().try_for_each(|writer| writer.write(1))?;
        call.relay.restart()?;
        starts.push(Instant::now());
        for writer in &mut writers {
            writer.wait_for("reconnected", kill as usize)?;
        }
    }
    let total = writers.iter().map(|w| w.written.len()).sum();
    for writer in &mut writers {
        writer.wait_for("chat-sent", writer.written.len())?;
        writer.wait_for("chat", total)?;
    }
    let kept = kept(&call)?;
    let mut times = Kills { lines: total, noticed: Distribution::default(), back: Distribution::default() };
    for writer in &writers {
        writer.check(&kept).with_context(|| format!("{}, seed {seed}", writer.name))?;
        for (event, list) in [("reconnecting", &mut times.noticed), ("reconnected", &mut times.back)] {
            let at = writer.process.timed_events().into_iter().filter(|(_, e)| e["event"] == event);
            at.zip(&starts).for_each(|((at, _), start)| record(list, *start, at));
        }
    }
    let written: BTreeSet<&String> = writers.iter().flat_map(|w| &w.written).collect();
    let stored: BTreeSet<&String> = kept.iter().map(|line| &line.text).collect();
    ensure!(
        written == stored && kept.len() == total,
        "seed {seed}: {total} lines were written, {} are stored",
        kept.len()
    );
    Ok(times)
}

/// A line as the relay's operator sees it.
#[derive(Debug)]
struct Line {
    seq: u64,
    name: String,
    text: String,
}

/// All that the relay has stored.
fn kept(call: &Call) -> anyhow::Result<Vec<Line>> {
    let mut lines: Vec<Line> = Vec::new();
    loop {
        let before = lines.first().map_or(u64::MAX, |line| line.seq).to_string();
        let page = call.relay.ask(&["history", "lobby", "--limit", "1000", "--before", &before])?;
        let page = page.as_array().context("lines")?.iter().map(|l| {
            let text = |key: &str| l[key].as_str().unwrap_or_default().to_owned();
            Ok(Line { seq: l["seq"].as_u64().context("a number")?, name: text("name"), text: text("text") })
        });
        let page = page.collect::<anyhow::Result<Vec<Line>>>()?;
        if page.is_empty() {
            return Ok(lines);
        }
        lines.splice(0..0, page);
    }
}

struct Writer {
    name: &'static str,
    process: Process,
    written: Vec<String>,
}

impl Writer {
    fn write(&mut self, lines: usize) -> anyhow::Result<()> {
        for _ in 0..lines {
            let text = format!("{} {}", self.name, self.written.len());
            self.process.send_line(&text)?;
            self.written.push(text);
        }
        Ok(())
    }

    /// Waits until there have been so many events of this name.
    fn wait_for(&mut self, event: &str, count: usize) -> anyhow::Result<()> {
        let mark = format!("\"event\":\"{event}\"");
        let mut left = count;
        self.process.wait_for(&format!("{count} times the event {event:?}"), |line| {
            left -= usize::from(line.contains(&mark));
            (left == 0).then_some(())
        })
    }

    /// Whether this client has seen what the relay has stored, and was told the truth of what it wrote itself.
    fn check(&self, kept: &[Line]) -> anyhow::Result<()> {
        let mut seen = Vec::new();
        let (mut own, mut acknowledged) = (BTreeMap::new(), BTreeMap::new());
        for event in self.process.events() {
            let number = |event: &Value| event["seq"].as_u64().context("a number");
            match event["event"].as_str() {
                Some("chat") => {
                    seen.push((number(&event)?, event["text"].clone()));
                    if event["name"] == self.name {
                        own.insert(event["id"].to_string(), number(&event)?);
                    }
                }
                Some("chat-sent") => {
                    let before = acknowledged.insert(event["id"].to_string(), number(&event)?);
                    ensure!(before.is_none(), "a line was acknowledged twice: {event}");
                }
                Some("error") => bail!("{event}"),
                _ => {}
            }
        }
        ensure!(own == acknowledged, "acknowledged under other numbers than seen");
        ensure!(seen.len() == kept.len(), "saw {} lines of {}", seen.len(), kept.len());
        for (at, ((seq, text), line)) in seen.iter().zip(kept).enumerate() {
            let next = at as u64 + 1;
            ensure!(
                *seq == next && line.seq == next && *text == line.text,
                "line {next}: saw {seq} {text}, stored {line:?}"
            );
        }
        let own: Vec<&String> = kept.iter().filter(|l| l.name == self.name).map(|l| &l.text).collect();
        ensure!(
            own.iter().copied().eq(&self.written),
            "its own lines are in another order than it wrote them"
        );
        Ok(())
    }
}

/// Median, 99 % and largest in milliseconds.
pub(super) fn summary(times: &Distribution) -> [f64; 3] {
    [times.quantile(0.5), times.quantile(0.99), times.max()].map(|us| us.map_or(0.0, |us| us as f64 / 1e3))
}

/// Adds how long after `start` that was; zero for what was before.
pub(super) fn record(times: &mut Distribution, start: Instant, at: Instant) {
    let after = at.saturating_duration_since(start).as_micros();
    times.record(i64::try_from(after).unwrap_or(i64::MAX));
}

/// Within this time after the last lines the relay is killed: some are on their way then, some wait for the disk, some are
/// acknowledged.
const MOMENTS: Duration = Duration::from_millis(20);
