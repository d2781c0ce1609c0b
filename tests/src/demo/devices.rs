//! What this machine has, and who takes what of it.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::Value;
use x11rb::rust_connection::RustConnection;

use crate::harness::bin;

/// What Ann brings to the call.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Ann's camera: auto | none | test | file:PATH.y4m | NAME or INDEX of a camera
    #[arg(long, value_name = "CAMERA", default_value = "auto")]
    camera: String,
    /// Ann's microphone: auto | none | tone | file:PATH.wav | NAME of a microphone
    #[arg(long, value_name = "MIC", default_value = "auto")]
    mic: String,
}

/// Who takes what. Bob always shows the test card and plays a tone: most cameras serve one program only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// As `--camera` and `--mic` of Ann's client take it.
    pub(super) camera: String,
    pub(super) mic: String,
    /// The machine's own display and sound, rather than some of the demo's own without hardware.
    pub(super) display: bool,
    pub(super) speakers: bool,
}

/// What there is.
#[derive(Clone, Copy, Debug)]
struct Found {
    camera: bool,
    microphone: bool,
    speaker: bool,
    display: bool,
}

impl Plan {
    pub(super) fn make(options: &Options) -> anyhow::Result<Self> {
        let output = Command::new(bin("vchat-client")?).args(["devices", "--json"]).output();
        let output = output.context("cannot start vchat-client")?;
        ensure!(output.status.success(), "vchat-client cannot list devices: {}", output.status);
        let devices = serde_json::from_slice(&output.stdout).context("vchat-client lists no devices")?;
        Ok(Self::with(options, Found::among(&devices)))
    }

    fn with(options: &Options, found: Found) -> Self {
        let choose = |option: &str, there: bool, otherwise: &str| {
            if option == "auto" && !there { otherwise.to_owned() } else { option.to_owned() }
        };
        Self {
            camera: choose(&options.camera, found.camera, "test"),
            // A microphone without a speaker beside it still is one, but then sound goes where nobody hears it.
            mic: choose(&options.mic, found.microphone && found.speaker, "tone"),
            display: found.display,
            speakers: found.speaker,
        }
    }
}

impl Found {
    /// From `vchat-client devices --json`. Of sound devices, those that `auto` would take count: ALSA lists many that
    /// are none.
    fn among(devices: &Value) -> Self {
        let list = |kind: &str| devices[kind].as_array().map(Vec::as_slice).unwrap_or_default().to_owned();
        let default = |kind: &str| list(kind).iter().any(|device| device["default"] == true);
        Self {
            camera: !list("cameras").is_empty(),
            microphone: default("microphones"),
            speaker: default("speakers"),
            display: wayland() || RustConnection::connect(None).is_ok(),
        }
    }
}

/// Whether a Wayland compositor answers.
fn wayland() -> bool {
    let (Some(dir), Some(name)) = (std::env::var_os("XDG_RUNTIME_DIR"), std::env::var_os("WAYLAND_DISPLAY"))
    else {
        return false;
    };
    UnixStream::connect(Path::new(&dir).join(name)).is_ok()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.camera.as_str() {
            "auto" => writeln!(f, "Ann shows this machine's camera, Bob the test card.")?,
            "test" => writeln!(f, "Ann and Bob show the test card (CAMERA=… chooses another for Ann).")?,
            other => writeln!(f, "Ann shows {other}, Bob the test card.")?,
        }
        match self.mic.as_str() {
            "auto" => writeln!(
                f,
                "Ann speaks into this machine's microphone, Bob plays a tone. Use headphones: you hear yourself as Bob does."
            )?,
            "tone" => writeln!(f, "Ann and Bob play a tone (MIC=… chooses something else for Ann).")?,
            other => writeln!(f, "Ann speaks by {other}, Bob plays a tone.")?,
        }
        if !self.speakers {
            writeln!(f, "There is no speaker: sound goes through PulseAudio to devices without hardware.")?;
        }
        if !self.display {
            writeln!(f, "There is no display: the windows are opened on one without a screen.")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_is_replaced_and_what_is_asked_for_is_not() {
        let options = |camera: &str, mic: &str| Options { camera: camera.into(), mic: mic.into() };
        let device = |default: bool| json!({"name": "x", "description": "y", "default": default});
        let all =
            json!({"cameras": [{"index": 0}], "microphones": [device(true)], "speakers": [device(true)]});
        let none = json!({"cameras": [], "microphones": [device(false)], "speakers": [device(false)]});
        let plan = |options: &Options, devices: &Value| {
            let plan = Plan::with(options, Found::among(devices));
            (plan.camera, plan.mic, plan.speakers)
        };
        let auto = options("auto", "auto");
        assert_eq!(plan(&auto, &all), ("auto".into(), "auto".into(), true));
        assert_eq!(plan(&auto, &none), ("test".into(), "tone".into(), false));
        let own = options("file:a.y4m", "file:a.wav");
        for devices in [&all, &none] {
            let (camera, mic, _) = plan(&own, devices);
            assert_eq!((camera.as_str(), mic.as_str()), ("file:a.y4m", "file:a.wav"));
        }
    }
}
