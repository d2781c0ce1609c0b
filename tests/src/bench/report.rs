//! What was measured, for people and programs.

use std::fmt;

use serde_json::{Map, Value, json};

use super::call::Measured;
use super::machine::Machine;
use super::options::{Display, Encoder, Setup};
use super::profile::Profile;

/// All calls of one invocation.
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) seconds: std::time::Duration,
    pub(super) rows: Vec<Row>,
}

/// The calls of one kind.
pub(super) struct Row {
    pub(super) setup: Setup,
    pub(super) runs: Vec<Measured>,
}

impl Row {
    pub(super) const fn new(setup: Setup) -> Self {
        Self { setup, runs: Vec::new() }
    }

    fn figure(&self, metric: &Metric) -> Option<Figure> {
        Figure::of(self.runs.iter().filter_map(metric.value).collect())
    }

    /// Whether the targets are about this kind of call.
    fn has_targets(&self) -> bool {
        let Setup { profile, encoder, size, fps, display } = self.setup;
        (profile, encoder, size, fps) == (Profile::Clean, Encoder::Aom, (640, 360), 30)
            && display == Display::Files
    }
}

/// A figure over several runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Figure {
    /// `None` without values. The median of an even number of values is the mean of the middle two.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median, min, max })
    }
}

/// Something that is measured of each call.
struct Metric {
    /// In JSON.
    key: &'static str,
    /// In the table.
    name: &'static str,
    digits: usize,
    value: fn(&Measured) -> Option<f64>,
    /// The most that it may be on a clean network at 640x360, 30 pictures a second, with the default encoder; from
    /// the round trip time in milliseconds.
    target: Option<fn(f64) -> f64>,
}

impl Report {
    /// One object; each figure with its median, least and most over the runs.
    pub(super) fn json(&self) -> Value {
        let calls: Vec<_> = self.rows.iter().map(Row::json).collect();
        json!({"machine": self.machine.json(), "seconds": self.seconds.as_secs_f64(), "calls": calls})
    }

    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![vec![String::new()]];
        lines[0].extend(self.rows.iter().map(|row| row.setup.short()));
        for metric in METRICS {
            let figures: Vec<_> = self.rows.iter().map(|row| row.figure(metric)).collect();
            if figures.iter().all(Option::is_none) {
                continue;
            }
            let mut line = vec![metric.name.to_owned()];
            line.extend(figures.into_iter().map(|figure| {
                let Some(Figure { median, min, max }) = figure else { return "-".into() };
                let digits = metric.digits;
                format!("{median:.digits$} ({min:.digits$}..{max:.digits$})")
            }));
            lines.push(line);
        }
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let widths: Vec<_> = (0..=self.rows.len()).map(width).collect();
        for line in &lines {
            write!(f, "{:<1$}", line[0], widths[0])?;
            for (cell, width) in line.iter().zip(&widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Row {
    fn json(&self) -> Value {
        let mut figures = Map::new();
        for metric in METRICS {
            let round = |value: f64| (value * 100.0).round() / 100.0;
            let value = self.figure(metric).map_or(Value::Null, |Figure { median, min, max }| {
                json!({"median": round(median), "min": round(min), "max": round(max)})
            });
            figures.insert(metric.key.into(), value);
        }
        let (width, height) = self.setup.size;
        json!({
            "setup": self.setup.to_string(), "width": width, "height": height, "fps": self.setup.fps,
            "encoder": self.setup.encoder.name(), "runs": self.runs.len(), "figures": figures,
            "targets": self.targets().iter().map(Target::json).collect::<Vec<_>>(),
        })
    }

    /// What this kind of call should reach; nothing for most kinds.
    fn targets(&self) -> Vec<Target> {
        if !self.has_targets() {
            return Vec::new();
        }
        let rtt = Figure::of(self.runs.iter().map(|run| run.rtt_ms).collect()).map_or(0.0, |rtt| rtt.median);
        let target = |metric: &Metric| {
            let (figure, limit) = (self.figure(metric)?, metric.target?(rtt));
            Some(Target { key: metric.key, name: metric.name, measured: figure.median, limit })
        };
        METRICS.iter().filter_map(target).collect()
    }
}

/// A figure and the most that it should be.
struct Target {
    key: &'static str,
    name: &'static str,
    measured: f64,
    limit: f64,
}

impl Target {
    fn met(&self) -> bool {
        self.measured <= self.limit
    }

    fn json(&self) -> Value {
        json!({"figure": self.key, "measured": self.measured, "limit": self.limit, "met": self.met()})
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.met() { "met" } else { "MISSED" };
        write!(f, "{verdict:<6}  {}: {:.1}, at most {:.1}", self.name, self.measured, self.limit)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        let runs = self.rows.first().map_or(0, |row| row.runs.len());
        let seconds = self.seconds.as_secs_f64();
        writeln!(f, "{seconds} s of each call after 3 s; median of {runs} runs (least..most)")?;
        if let Some(row) = self.rows.first() {
            let profile = row.setup.to_string();
            let display = match row.setup.display {
                Display::Files => "picture delay from the pixels shown",
                Display::Window => {
                    "picture delay of the whole call as the clients tell it, the worse of both; freezes too"
                }
            };
            writeln!(f, "network: {}; {display}\n", profile.split(',').next().unwrap_or_default())?;
        }
        self.table(f)?;
        for row in &self.rows {
            let worst = row.runs.iter().filter_map(|run| run.disagreement_ms).fold(0.0, f64::max);
            if worst > MAX_DISAGREEMENT_MS {
                let short = row.setup.short();
                writeln!(f, "{short}: the clients' own delays are {worst:.1} ms from those of the pixels")?;
            }
            let targets = row.targets();
            if !targets.is_empty() {
                writeln!(f, "\ntargets of {}:", row.setup)?;
                targets.iter().try_for_each(|target| writeln!(f, "{target}"))?;
            }
        }
        Ok(())
    }
}

/// How far what a client tells of itself may be from what its pixels tell, in p50 and p95 of the whole call.
const MAX_DISAGREEMENT_MS: f64 = 2.0;

const fn ms(us: Option<i64>) -> Option<f64> {
    match us {
        Some(us) => Some(us as f64 / 1e3),
        None => None,
    }
}

/// The quantile of the pixels, or what the clients tell where there are none.
fn delay(m: &Measured, quantile: f64, told: f64) -> Option<f64> {
    if m.disagreement_ms.is_some() { ms(m.pixels.quantile(quantile)) } else { Some(told) }
}

const METRICS: &[Metric] = &[
    Metric {
        key: "picture_delay_p50_ms",
        name: "picture delay p50, ms",
        digits: 1,
        value: |m| delay(m, 0.5, m.told.p50),
        target: Some(|_| 40.0),
    },
    Metric {
        key: "picture_delay_p95_ms",
        name: "picture delay p95, ms",
        digits: 1,
        value: |m| delay(m, 0.95, m.told.p95),
        target: Some(|_| 60.0),
    },
    Metric {
        key: "picture_delay_max_ms",
        name: "picture delay max, ms",
        digits: 1,
        value: |m| delay(m, 1.0, m.told.max),
        target: None,
    },
    Metric { key: "fps", name: "pictures shown a second", digits: 1, value: |m| Some(m.fps), target: None },
    Metric {
        key: "freezes",
        name: "freezes, both ways",
        digits: 0,
        value: |m| Some(m.freezes as f64),
        target: None,
    },
    Metric {
        key: "frozen_ms",
        name: "time frozen, ms",
        digits: 0,
        value: |m| Some(m.frozen_ms),
        target: None,
    },
    Metric {
        key: "damaged",
        name: "damaged pictures",
        digits: 0,
        value: |m| m.disagreement_ms.map(|_| m.damaged as f64),
        target: None,
    },
    Metric {
        key: "mouth_to_ear_p50_ms",
        name: "mouth to ear p50, ms",
        digits: 1,
        value: |m| ms(m.sound.quantile(0.5)),
        target: Some(|_| 50.0),
    },
    Metric {
        key: "mouth_to_ear_p95_ms",
        name: "mouth to ear p95, ms",
        digits: 1,
        value: |m| ms(m.sound.quantile(0.95)),
        target: Some(|_| 60.0),
    },
    Metric {
        key: "chirps",
        name: "chirps heard, both ways",
        digits: 0,
        value: |m| Some(m.sound.len() as f64),
        target: None,
    },
    Metric {
        key: "concealed_ms",
        name: "sound invented, ms",
        digits: 0,
        value: |m| Some(m.concealed_ms),
        target: None,
    },
    Metric {
        key: "client_cpu_percent",
        name: "a client, % of a core",
        digits: 1,
        value: |m| Some(100.0 * m.client_cpu),
        target: None,
    },
    Metric {
        key: "relay_cpu_percent",
        name: "relay, % of a core",
        digits: 1,
        value: |m| Some(100.0 * m.relay_cpu),
        target: None,
    },
    Metric {
        key: "sent_kbps",
        name: "sent by a client, kb/s",
        digits: 0,
        value: |m| Some(m.sent_kbps),
        target: None,
    },
    Metric {
        key: "video_kbps",
        name: "video received, kb/s",
        digits: 0,
        value: |m| Some(m.video_kbps),
        target: None,
    },
    Metric { key: "rtt_ms", name: "round trip, ms", digits: 1, value: |m| Some(m.rtt_ms), target: None },
    Metric {
        key: "first_picture_ms",
        name: "start to first picture, ms",
        digits: 0,
        value: |m| Some(m.first_picture_ms),
        target: Some(|rtt| 150.0 + 1.5 * rtt),
    },
    Metric {
        key: "disagreement_ms",
        name: "pixels against told, ms",
        digits: 1,
        value: |m| m.disagreement_ms,
        target: None,
    },
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vchat_proto::stats::Distribution;

    use super::*;

    fn report() -> Report {
        let setup = Setup {
            profile: Profile::Clean,
            encoder: Encoder::Aom,
            size: (640, 360),
            fps: 30,
            display: Display::Files,
        };
        let mut row = Row::new(setup);
        for delay in [30_000, 50_000, 20_000] {
            let mut run = Measured { disagreement_ms: Some(3.0), fps: 29.95, ..Measured::default() };
            (0..100).for_each(|_| run.pixels.record(delay));
            (0..20).for_each(|_| run.sound.record(55_000));
            row.runs.push(run);
        }
        Report { machine: Machine::read(), seconds: Duration::from_secs(10), rows: vec![row] }
    }

    #[test]
    fn figures_are_medians_and_ranges() {
        assert_eq!(Figure::of(vec![]), None);
        assert_eq!(Figure::of(vec![3.0, 1.0, 2.0]), Some(Figure { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Figure::of(vec![4.0, 1.0]), Some(Figure { median: 2.5, min: 1.0, max: 4.0 }));
    }

    #[test]
    fn people_read_figures_and_which_targets_are_missed() {
        let text = report().to_string();
        assert!(text.contains("30.0 (20.0..50.0)"), "{text}");
        assert!(text.contains("met     picture delay p50, ms: 30.0, at most 40.0"), "{text}");
        assert!(text.contains("MISSED  mouth to ear p50, ms: 55.0, at most 50.0"), "{text}");
        assert!(text.contains("3.0 ms from those of the pixels"), "{text}");
    }

    #[test]
    fn programs_read_the_same() {
        let json = report().json();
        let call = &json["calls"][0];
        assert_eq!(
            call["figures"]["picture_delay_p50_ms"],
            json!({"median": 30.0, "min": 20.0, "max": 50.0})
        );
        let missed: Vec<_> =
            call["targets"].as_array().expect("targets").iter().filter(|t| t["met"] == false).collect();
        assert_eq!(missed.len(), 1, "{missed:?}");
        assert_eq!(missed[0]["figure"], "mouth_to_ear_p50_ms");
        let empty = Measured { sound: Distribution::default(), ..Measured::default() };
        let mut row = report().rows.remove(0);
        row.runs = vec![empty];
        assert_eq!(row.json()["figures"]["mouth_to_ear_p50_ms"], Value::Null);
    }
}
