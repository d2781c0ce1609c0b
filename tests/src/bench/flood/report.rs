//! The parts of runs side by side.

use std::fmt;

use serde_json::{Map, Value, json};
use vchat_proto::stats::Distribution;

use super::members::PHASES;
use super::{ATTACK, FloodOptions, Part};
use crate::bench::machine::Machine;
use crate::bench::metrics::Figure;

/// All runs of one invocation.
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) options: FloodOptions,
    pub(super) runs: Vec<[Part; PHASES]>,
}

/// Something that is measured of each part.
struct Metric {
    key: &'static str,
    name: &'static str,
    digits: usize,
    value: fn(&Part) -> Option<f64>,
}

impl Report {
    pub(super) fn json(&self) -> Value {
        let parts = NAMES.iter().enumerate().map(|(phase, name)| {
            let mut figures = Map::new();
            for metric in METRICS {
                let round = |value: f64| (value * 1000.0).round() / 1000.0;
                let figure = self.figure(metric, phase).map_or(
                    Value::Null,
                    |f| json!({"median": round(f.median), "min": round(f.min), "max": round(f.max)}),
                );
                figures.insert(metric.key.into(), figure);
            }
            ((*name).to_owned(), Value::Object(figures))
        });
        let FloodOptions { rate, seconds, members, .. } = self.options;
        json!({
            "machine": self.machine.json(),
            "kind": format!("{:?}", self.options.kind).to_lowercase(),
            "rate": rate, "seconds": seconds.as_secs_f64(), "members": members,
            "parts": parts.collect::<Map<_, _>>(),
        })
    }

    fn figure(&self, metric: &Metric, phase: usize) -> Option<Figure> {
        Figure::of(self.runs.iter().filter_map(|parts| (metric.value)(&parts[phase])).collect())
    }

    /// How much a figure of the attack is above the one before, and the target.
    fn increase(&self, key: &str) -> Option<f64> {
        let metric = METRICS.iter().find(|m| m.key == key)?;
        Some(self.figure(metric, ATTACK)?.median - self.figure(metric, 0)?.median)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FloodOptions { rate, kind, members, seconds, .. } = &self.options;
        writeln!(f, "{}", self.machine)?;
        writeln!(
            f,
            "{kind:?}, {rate} a second, {members} members, parts of {} s, {} runs: median (least..most)\n",
            seconds.as_secs_f64(),
            self.runs.len()
        )?;
        writeln!(f, "{:<38}{:>26}{:>26}{:>26}", "", NAMES[0], NAMES[1], NAMES[2])?;
        for metric in METRICS {
            write!(f, "{:<38}", metric.name)?;
            for phase in 0..PHASES {
                let digits = metric.digits;
                let cell = self.figure(metric, phase).map_or_else(
                    || "-".into(),
                    |Figure { median, min, max }| {
                        format!("{median:.digits$} ({min:.digits$}..{max:.digits$})")
                    },
                );
                write!(f, "{cell:>26}")?;
            }
            writeln!(f)?;
        }
        let verdict = |met: bool| if met { "met" } else { "MISSED" };
        if let (Some(lost), Some(late)) = (self.increase("lost_percent"), self.increase("delay_p99_ms")) {
            writeln!(f, "\nlost {lost:+.2} points, target +{MORE_LOST}: {}", verdict(lost <= MORE_LOST))?;
            write!(f, "p99 {late:+.2} ms, target +{MORE_LATE}: {}", verdict(late <= MORE_LATE))?;
        }
        Ok(())
    }
}

fn delay(part: &Part, q: f64) -> Option<f64> {
    let mut all = Distribution::default();
    part.heard.iter().for_each(|heard| all.merge(&heard.delays));
    all.quantile(q).map(|us| us as f64 / 1000.0)
}

/// What the member lost who lost most, in per cent.
fn worst(part: &Part) -> Option<f64> {
    let all: u64 = part.sent.iter().sum();
    let losses = part
        .sent
        .iter()
        .zip(&part.heard)
        .map(|(own, heard)| 100.0 * (1.0 - heard.datagrams as f64 / (all - own).max(1) as f64));
    losses.max_by(f64::total_cmp)
}

fn join_ms(part: &Part, q: f64) -> Option<f64> {
    let mut times = Distribution::default();
    for time in &part.joins.times {
        times.record(i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
    }
    times.quantile(q).map(|us| us as f64 / 1000.0)
}

const NAMES: [&str; PHASES] = ["before", "attack", "after"];

/// More datagrams lost than before, in points of per cent.
const MORE_LOST: f64 = 1.0;

/// More milliseconds at the 99th percentile.
const MORE_LATE: f64 = 5.0;

const METRICS: &[Metric] = &[
    Metric { key: "lost_percent", name: "media lost, %", digits: 2, value: |p| Some(100.0 * p.lost()) },
    Metric { key: "worst_lost_percent", name: "  by the worst member, %", digits: 2, value: worst },
    Metric {
        key: "delay_p50_ms",
        name: "delay through the relay p50, ms",
        digits: 1,
        value: |p| delay(p, 0.5),
    },
    Metric { key: "delay_p95_ms", name: "  p95, ms", digits: 1, value: |p| delay(p, 0.95) },
    Metric { key: "delay_p99_ms", name: "  p99, ms", digits: 1, value: |p| delay(p, 0.99) },
    Metric {
        key: "relay_cpu_percent",
        name: "relay, % of a core",
        digits: 0,
        value: |p| Some(100.0 * p.relay_cpu),
    },
    Metric {
        key: "relay_mib",
        name: "relay's memory at most, MiB",
        digits: 1,
        value: |p| Some(p.resident as f64 / f64::from(1 << 20)),
    },
    Metric {
        key: "overflow",
        name: "lost at the relay's socket",
        digits: 0,
        value: |p| Some(p.overflow as f64),
    },
    Metric { key: "joined", name: "known devices let in", digits: 0, value: |p| Some(p.joined() as f64) },
    Metric {
        key: "not_joined",
        name: "  still waiting at the end",
        digits: 0,
        value: |p| Some(p.joins.waiting.len() as f64),
    },
    Metric { key: "join_p50_ms", name: "  time to come in p50, ms", digits: 1, value: |p| join_ms(p, 0.5) },
    Metric { key: "join_max_ms", name: "  at most, ms", digits: 1, value: |p| join_ms(p, 1.0) },
    Metric {
        key: "attack_rate",
        name: "first packets a second",
        digits: 0,
        value: |p| Some(p.attack.sent as f64 / p.seconds),
    },
    Metric {
        key: "attack_retries",
        name: "Retries answered by the attacker",
        digits: 0,
        value: |p| Some(p.attack.retries as f64),
    },
];
