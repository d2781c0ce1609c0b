//! Somebody who speaks, for measuring how well that is understood.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

/// Writes speech of at least `seconds` as a WAV file, always the same.
pub(super) fn write(path: &Path, seconds: f64) -> anyhow::Result<()> {
    let rounds = (seconds / LEAST_SECONDS).ceil().max(1.0) as usize;
    let mut command = Command::new("espeak-ng");
    command.args(["-v", "en-us", "-s", "150", "-w"]).arg(path).arg(TEXT.repeat(rounds));
    let output = command.output().context("cannot start espeak-ng: install it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "espeak-ng failed: {}", said.trim());
    Ok(())
}

/// The first list of the Harvard sentences ("IEEE recommended practice for speech quality measurements", 1969), which have
/// the sounds of English in their natural shares.
const TEXT: &str = "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background. It is easy to tell the \
                    depth of a well. These days a chicken leg is a rare dish. Rice is often served in round bowls. The juice of \
                    lemons makes fine punch. The box was thrown beside the parked truck. The hogs were fed chopped corn and \
                    garbage. Four hours of steady work faced us. A large size in stockings is hard to sell. ";
/// What the text takes at 150 words a minute at the least.
const LEAST_SECONDS: f64 = 25.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speech_is_as_long_as_asked_for_and_loud_enough() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("speech.wav");
        write(&path, 40.0).expect("written");
        let mut reader = hound::WavReader::open(&path).expect("a WAV file");
        let rate = reader.spec().sample_rate;
        assert!(f64::from(reader.duration()) / f64::from(rate) >= 40.0, "{} samples", reader.duration());
        let peak = reader.samples::<i16>().map(|s| s.expect("a sample").unsigned_abs()).max();
        assert!(peak > Some(8000), "{peak:?}");
    }
}
