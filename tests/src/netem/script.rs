//! Settings that change over time.

use std::time::Duration;

use super::settings::{Settings, SettingsError, parse_duration};

/// Changes of settings by time since the start.
///
/// A text of lines `TIME [up|down] key=value …`, in the order of time, such as
/// ```text
/// # a narrow link for ten seconds
/// 0s  delay=25ms
/// 10s down rate=500k loss=2%
/// 20s down rate=none
/// repeat 30s
/// ```
/// `up` is towards the relay, `down` towards the client; without either a line changes both. The word `rebind` among the
/// changes gives every client another address, as the relay sees it. `repeat TIME`, as the last line, starts over after
/// that time. Empty lines and what follows a `#` are comments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    steps: Vec<Step>,
    repeat: Option<Duration>,
}

/// One line of a script.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    at: Duration,
    sides: Vec<Side>,
    changes: Vec<String>,
    rebinds: bool,
}

/// A direction between a client and its relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the client to the relay.
    Up,
    /// From the relay to the client.
    Down,
}

/// A line of a script that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the script: {why}")]
pub struct ScriptError {
    line: usize,
    why: String,
}

impl Script {
    /// Reads the text of a script.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let mut script = Self::default();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.split_once('#').map_or(content, |(before, _)| before);
            let words: Vec<_> = content.split_whitespace().collect();
            script.line(&words).map_err(|why| ScriptError { line, why })?;
        }
        Ok(script)
    }

    /// The time of change number `index`, counted over all repetitions, and the change; `None` after the last one.
    #[must_use]
    pub fn step(&self, index: usize) -> Option<(Duration, &Step)> {
        if self.repeat.is_none() && index >= self.steps.len() {
            return None;
        }
        let round = u32::try_from(index.checked_div(self.steps.len())?).ok()?;
        let step = &self.steps[index % self.steps.len()];
        Some((self.repeat.unwrap_or_default().checked_mul(round)?.checked_add(step.at)?, step))
    }

    fn line(&mut self, words: &[&str]) -> Result<(), String> {
        let text = |e: SettingsError| e.to_string();
        let last = self.steps.last().map_or(Duration::ZERO, |step| step.at);
        match words {
            [] => Ok(()),
            _ if self.repeat.is_some() => Err("nothing can come after repeat".into()),
            ["repeat", period] => match parse_duration(period).map_err(text)? {
                period if self.steps.is_empty() || period <= last => {
                    Err("repeat needs steps before it and a time after the last of them".into())
                }
                period => {
                    self.repeat = Some(period);
                    Ok(())
                }
            },
            [at, rest @ ..] => {
                let at = parse_duration(at).map_err(text)?;
                if at < last {
                    return Err("its time is before that of the line above".into());
                }
                let (sides, changes) = match rest {
                    ["up", changes @ ..] => (vec![Side::Up], changes),
                    ["down", changes @ ..] => (vec![Side::Down], changes),
                    changes => (vec![Side::Up, Side::Down], changes),
                };
                if changes.is_empty() {
                    return Err("it changes nothing: add settings such as rate=500k".into());
                }
                let (rebinds, changes): (Vec<&str>, Vec<&str>) =
                    changes.iter().partition(|change| **change == REBIND);
                let rebinds = !rebinds.is_empty();
                // Tried now, so that a script that is accepted runs to its end.
                let mut trial = Settings::default();
                changes.iter().try_for_each(|change| trial.apply(change)).map_err(text)?;
                let changes = changes.into_iter().map(str::to_owned).collect();
                self.steps.push(Step { at, sides, changes, rebinds });
                Ok(())
            }
        }
    }
}

impl Step {
    /// Changes the settings of one direction; whether there was anything to change.
    pub fn apply(&self, side: Side, settings: &mut Settings) -> bool {
        if !self.sides.contains(&side) {
            return false;
        }
        // None of them fails: `Script::parse` has tried them.
        self.changes.iter().all(|change| settings.apply(change).is_ok())
    }

    /// Whether clients get another address now.
    #[must_use]
    pub const fn rebinds(&self) -> bool {
        self.rebinds
    }
}

/// As a router that has forgotten a mapping does (RFC 4787, section 4.3, and RFC 9000, section 9.3.3).
const REBIND: &str = "rebind";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_changes_sides_in_time_and_repeats() {
        let text =
            "# start\n\n0s delay=25ms\n10s down rate=500k loss=2% # narrow\n20s down rate=none\nrepeat 30s\n";
        let script = Script::parse(text).expect("valid");
        let times: Vec<_> = (0..7).map(|i| script.step(i).expect("repeats").0.as_secs()).collect();
        assert_eq!(times, [0, 10, 20, 30, 40, 50, 60]);
        let mut down = Settings::default();
        let mut up = Settings::default();
        for index in 0..2 {
            let (_, step) = script.step(index).expect("a step");
            step.apply(Side::Down, &mut down);
            assert_eq!(step.apply(Side::Up, &mut up), index == 0);
        }
        assert_eq!((down.delay.as_millis(), down.loss), (25, 0.02));
        assert_eq!(down.rate.map(vchat_proto::units::Bitrate::kbps), Some(500));
        assert_eq!((up.delay.as_millis(), up.loss, up.rate), (25, 0.0, None));
    }

    #[test]
    fn a_script_without_repeat_ends() {
        let script = Script::parse("1s loss=1%\n1s loss=2%").expect("valid");
        assert_eq!(script.step(1).map(|(at, _)| at.as_secs()), Some(1));
        assert_eq!(script.step(2), None);
        assert_eq!(Script::default().step(0), None);
    }

    #[test]
    fn a_line_rebinds_alone_or_with_other_changes() {
        let script = Script::parse("1s rebind\n2s loss=5% rebind\n3s loss=0%").expect("valid");
        let rebinds: Vec<_> = (0..3).map(|i| script.step(i).expect("a step").1.rebinds()).collect();
        assert_eq!(rebinds, [true, true, false]);
        let mut settings = Settings::default();
        script.step(1).expect("a step").1.apply(Side::Up, &mut settings);
        assert_eq!(settings.loss, 0.05);
    }

    #[test]
    fn lines_without_sense_are_named() {
        for (text, part) in [
            ("10s", "changes nothing"),
            ("10s up", "changes nothing"),
            ("10 rate=1M", "\"10\""),
            ("10s rate", "key=value"),
            ("10s speed=3", "speed"),
            ("10s rate=1M\n5s rate=2M", "before"),
            ("repeat 5s", "needs steps"),
            ("5s loss=1%\nrepeat 5s", "after the last"),
            ("5s loss=1%\nrepeat 6s\n7s loss=0%", "after repeat"),
        ] {
            let error = Script::parse(text).expect_err(text).to_string();
            let line = text.lines().count();
            assert!(error.contains(part) && error.contains(&format!("line {line}")), "{text:?}: {error}");
        }
    }
}
