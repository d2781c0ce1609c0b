//! Where something was measured.

use std::fmt;
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What figures depend on besides the code, and the code's revision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Machine {
    model: String,
    cores: usize,
    /// Processes that wanted to run in the last minute, on average: more than a few tenths before a measurement means
    /// that something else disturbs it.
    load: Option<f64>,
    revision: String,
}

impl Machine {
    pub(super) fn read() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            model: model(&cpuinfo).unwrap_or("unknown processor").into(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            load: load.split(' ').next().and_then(|minute| minute.parse().ok()),
            revision: revision().unwrap_or_else(|| "unknown".into()),
        }
    }

    /// The revision of the code.
    pub(super) fn revision(&self) -> &str {
        &self.revision
    }

    /// Such as `AMD EPYC, 2 cores`.
    pub(super) fn hardware(&self) -> String {
        format!("{}, {} cores", self.model, self.cores)
    }

    pub(super) fn load(&self) -> f64 {
        self.load.unwrap_or(f64::NAN)
    }

    pub(super) fn json(&self) -> Value {
        json!({"model": self.model, "cores": self.cores, "load": self.load, "revision": self.revision})
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, load before {:.2}, revision {}", self.hardware(), self.load(), self.revision)
    }
}

fn model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

/// Of the sources that the program was built from, when they are still there.
fn revision() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]);
    let output = git.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_has_a_name() {
        assert_eq!(model("processor\t: 0\nmodel name\t: AMD EPYC\nx\t: 1\n"), Some("AMD EPYC"));
        assert_eq!(model("nothing"), None);
        assert!(Machine::read().cores > 0);
    }
}
