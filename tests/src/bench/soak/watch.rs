//! What a process looks like from outside while it runs, and what it says.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use super::slope::Slope;
use crate::bench::{cpu, resident};
use crate::harness::Relay;

/// Samples of a relay that logs as JSON.
#[derive(Default)]
pub(super) struct Watch {
    samples: Vec<Sample>,
    /// Warnings and errors.
    pub(super) surprises: Vec<String>,
}

struct Sample {
    at: Instant,
    resident: u64,
    descriptors: usize,
    computed: Duration,
}

impl Watch {
    /// Looks at the relay now.
    pub(super) fn look(&mut self, relay: &mut Relay) -> anyhow::Result<()> {
        let id = relay.id();
        let sample = Sample {
            at: Instant::now(),
            resident: resident::size(id)?,
            descriptors: descriptors(id)?,
            computed: cpu::used(id)?,
        };
        self.samples.push(sample);
        let lines = relay.process().take_stderr_lines();
        self.surprises.extend(lines.into_iter().filter(|line| is_surprise(line)));
        Ok(())
    }

    /// Bytes of memory, first and last.
    pub(super) fn resident(&self) -> (u64, u64) {
        self.ends(|sample| sample.resident)
    }

    /// Open files, first and last.
    pub(super) fn descriptors(&self) -> (usize, usize) {
        self.ends(|sample| sample.descriptors)
    }

    /// Of one core.
    pub(super) fn cpu(&self) -> f64 {
        let (from, to) = self.ends(|sample| (sample.at, sample.computed));
        (to.1 - from.1).as_secs_f64() / (to.0 - from.0).as_secs_f64()
    }

    /// How the memory grows, in bytes a second.
    pub(super) fn slope(&self) -> Option<Slope> {
        let began = self.samples.first()?.at;
        let point = |sample: &Sample| ((sample.at - began).as_secs_f64(), sample.resident as f64);
        Slope::of(&self.samples.iter().map(point).collect::<Vec<_>>())
    }

    /// Forgets what was seen, but not what was said.
    pub(super) fn begin_anew(&mut self) {
        self.samples.clear();
    }

    fn ends<T>(&self, what: impl Fn(&Sample) -> T) -> (T, T) {
        // `begin_anew` is followed by a look.
        let (first, last) = (&self.samples[0], &self.samples[self.samples.len() - 1]);
        (what(first), what(last))
    }
}

/// Files that a process has open.
fn descriptors(process: u32) -> anyhow::Result<usize> {
    let path = format!("/proc/{process}/fd");
    Ok(std::fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?.count())
}

/// Whether a line of a log in JSON is more than information. What is no JSON is the last word of a panic.
fn is_surprise(line: &str) -> bool {
    let level = serde_json::from_str::<Value>(line).map(|line| line["level"].clone());
    !level.is_ok_and(|level| level == "INFO" || level == "DEBUG")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_errors_and_panics_are_surprises() {
        for line in [r#"{"level":"WARN","fields":{}}"#, r#"{"level":"ERROR"}"#, "thread 'main' panicked"] {
            assert!(is_surprise(line), "{line}");
        }
        assert!(!is_surprise(r#"{"level":"INFO","fields":{"message":"left: WARN"}}"#));
    }
}
