//! What was measured, for people and programs.

use std::fmt;

use serde_json::{Map, Value, json};

use super::bars::{Verdict, verdicts};
use super::machine::Machine;
use super::metrics::{Figure, Figures, METRICS, Measured, figures};
use super::options::{Display, Setup, Source};

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

    pub(super) fn figures(&self) -> Figures {
        figures(&self.runs)
    }

    /// What this kind of call should reach; nothing for most kinds.
    fn verdicts(&self) -> Vec<Verdict> {
        self.setup.row().map_or_else(Vec::new, |row| verdicts(&row, &self.figures()))
    }

    fn json(&self) -> Value {
        let figures = self.figures();
        let mut all = Map::new();
        for metric in METRICS {
            let round = |value: f64| (value * 100.0).round() / 100.0;
            let value = figures.get(metric.key).map_or(Value::Null, |Figure { median, min, max }| {
                json!({"median": round(*median), "min": round(*min), "max": round(*max)})
            });
            all.insert(metric.key.into(), value);
        }
        let (width, height) = self.setup.size;
        json!({
            "setup": self.setup.to_string(), "width": width, "height": height, "fps": self.setup.fps,
            "encoder": self.setup.encoder.name(), "runs": self.runs.len(), "figures": all,
            "targets": self.verdicts().iter().map(Verdict::json).collect::<Vec<_>>(),
        })
    }
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
        let figures: Vec<_> = self.rows.iter().map(Row::figures).collect();
        for metric in METRICS {
            if figures.iter().all(|figures| !figures.contains_key(metric.key)) {
                continue;
            }
            let mut line = vec![metric.name.to_owned()];
            line.extend(figures.iter().map(|figures| {
                let Some(Figure { median, min, max }) = figures.get(metric.key) else { return "-".into() };
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        let runs = self.rows.first().map_or(0, |row| row.runs.len());
        let seconds = self.seconds.as_secs_f64();
        writeln!(f, "{seconds} s of each call after 5 s; median of {runs} runs (least..most)")?;
        if let Some(row) = self.rows.first() {
            let display = match (row.setup.display, row.setup.source) {
                (Display::Files, Source::Card) => "picture delay from the pixels shown",
                (Display::Files, Source::Clip | Source::Dim) => {
                    "picture delay from the numbers in the pixels shown"
                }
                (Display::Window, _) => {
                    "picture delay of the whole call as the clients tell it, the worse of both; freezes too"
                }
            };
            writeln!(f, "network: {}; {display}\n", row.setup.profile.name())?;
        }
        self.table(f)?;
        for row in &self.rows {
            let worst = row.runs.iter().filter_map(|run| run.get("disagreement_ms")).fold(0.0, f64::max);
            if worst > MAX_DISAGREEMENT_MS {
                let short = row.setup.short();
                writeln!(f, "{short}: the clients' own delays are {worst:.1} ms from those of the pixels")?;
            }
            let verdicts = row.verdicts();
            if !verdicts.is_empty() {
                writeln!(f, "\ntargets of {}:", row.setup)?;
                verdicts.iter().try_for_each(|verdict| writeln!(f, "{verdict}"))?;
            }
        }
        Ok(())
    }
}

/// How far what a client tells of itself may be from what its pixels tell, in p50 and p95 of the whole call.
const MAX_DISAGREEMENT_MS: f64 = 2.0;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::profile::Profile;
    use super::*;

    fn report() -> Report {
        let mut row = Row::new(Setup::new(Profile::Clean));
        for delay in [30.0, 50.0, 20.0] {
            let mut run = Measured::default();
            run.set("disagreement_ms", 3.0);
            run.set("picture_delay_p50_ms", delay);
            run.set("mouth_to_ear_p50_ms", 55.0);
            run.set("mouth_to_ear_p95_ms", None);
            row.runs.push(run);
        }
        Report { machine: Machine::read(), seconds: Duration::from_secs(10), rows: vec![row] }
    }

    #[test]
    fn people_read_figures_and_which_targets_are_missed() {
        let text = report().to_string();
        assert!(text.contains("30.0 (20.0..50.0)"), "{text}");
        assert!(text.contains("met     picture delay p50, ms: 30.0, at most 40"), "{text}");
        assert!(text.contains("MISSED  mouth to ear p50, ms: 55.0, at most 50"), "{text}");
        assert!(text.contains("MISSED  mouth to ear p95, ms: -, at most 60"), "{text}");
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
        assert_eq!(call["figures"]["mouth_to_ear_p95_ms"], Value::Null);
        let targets = call["targets"].as_array().expect("targets");
        let of = |key: &str| targets.iter().find(|target| target["figure"] == key).expect("a target");
        assert_eq!(of("picture_delay_p50_ms")["met"], true);
        assert_eq!(of("mouth_to_ear_p50_ms")["met"], false);
    }
}
