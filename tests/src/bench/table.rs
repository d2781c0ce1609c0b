//! `vchat-bench table`: all kinds of calls, kept in files until they are measured again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::metrics::{Figures, figures};
use super::options::{Setup, TableOptions};
use super::{measure, page};

/// The calls of one kind, as a file keeps them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) row: String,
    pub(super) setup: String,
    pub(super) date: String,
    pub(super) machine: Machine,
    pub(super) seconds: f64,
    /// Calls that were measured.
    pub(super) runs: usize,
    /// Why others could not be.
    pub(super) failures: Vec<String>,
    pub(super) figures: Figures,
}

/// Measures the calls that the options name, and writes the page of all that were ever measured; progress goes to stderr.
///
/// A call that fails is reported on the page and does not keep the others from being measured. A bar that is missed is
/// reported and is no error.
pub fn run_table(options: &TableOptions) -> anyhow::Result<()> {
    let setups = Setup::table();
    for setup in &setups {
        if options.only.is_empty() || options.only.contains(&setup.profile) {
            Record::measure(setup, options)?.save()?;
        }
    }
    let records = setups.iter().filter_map(Setup::row).map(|row| Record::load(&row));
    let records: Vec<Record> = records.filter_map(Result::transpose).collect::<Result<_, _>>()?;
    std::fs::write(&options.out, page::text(&records))
        .with_context(|| format!("cannot write {}", options.out.display()))?;
    writeln!(std::io::stdout(), "{}\n{} is written", page::bars(&records), options.out.display())?;
    Ok(())
}

impl Record {
    fn measure(setup: &Setup, options: &TableOptions) -> anyhow::Result<Self> {
        let (machine, mut runs, mut failures) = (Machine::read(), Vec::new(), Vec::new());
        let mut stderr = std::io::stderr();
        for run in 1..=options.runs {
            writeln!(stderr, "run {run} of {}: {setup}", options.runs)?;
            match measure(setup, options.seconds, u64::from(run)) {
                Ok(measured) => runs.push(measured),
                Err(error) => {
                    writeln!(stderr, "this call failed: {error:#}")?;
                    // The first line says what was waited for; the rest is output of programs.
                    let reason = format!("{error:#}");
                    failures.push(reason.lines().next().unwrap_or_default().to_owned());
                }
            }
        }
        Ok(Self {
            row: setup.row().context("a call of the table has a name")?,
            setup: setup.to_string(),
            date: today()?,
            machine,
            seconds: setup.profile.time(options.seconds).as_secs_f64(),
            runs: runs.len(),
            failures,
            figures: figures(&runs),
        })
    }

    fn save(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(RECORDS).with_context(|| format!("cannot create {RECORDS}"))?;
        let path = path(&self.row);
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// What was measured last of a row, if it ever was.
    fn load(row: &str) -> anyhow::Result<Option<Self>> {
        let path = path(row);
        if !path.exists() {
            return Ok(None);
        }
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let record = serde_json::from_str(&text);
        record.map(Some).with_context(|| format!("{} is damaged: remove it", path.display()))
    }
}

fn path(row: &str) -> PathBuf {
    Path::new(RECORDS).join(format!("{}.json", row.replace(' ', "-")))
}

/// In UTC, as 2026-01-31.
fn today() -> anyhow::Result<String> {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().context("cannot start date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Below the current directory, beside what is built: figures of other builds go with it.
const RECORDS: &str = "target/bench";
