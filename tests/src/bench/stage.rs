//! Everything around a call that is measured: a relay, lines, devices, and the clients on them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::clip::{self, Clip};
use super::options::{Display, Setup, Source};
use super::profile::Profile;
use crate::harness::{Process, PulseServer, Relay, Xvfb, client};
use crate::netem::Running;

/// What clients need. Two have sound devices, and what they show is kept; more than two would be too much for a small
/// machine, so they play test tones and tell themselves what they saw.
pub(super) struct Stage {
    pub(super) home: TempDir,
    pub(super) sound: Option<PulseServer>,
    display: Option<Xvfb>,
    pub(super) relay: Relay,
    /// The impaired line of each client, if it has one.
    pub(super) lines: Vec<Option<Running>>,
    pub(super) clip: Option<Clip>,
    /// Longer than the call can take: clients leave by themselves should nobody be there to end them.
    pub(super) limit: Duration,
}

impl Stage {
    /// For a call of this kind that is measured for `time`, on lines of `profile`.
    pub(super) fn start(setup: &Setup, profile: Profile, time: Duration, seed: u64) -> anyhow::Result<Self> {
        let home = home()?;
        let pair = setup.profile.clients() == 2;
        let sound = pair
            .then(|| PulseServer::start(&["ann_speaker", "bob_speaker"], &["ann_mic", "bob_mic"]))
            .transpose()?;
        let display = match setup.display {
            Display::Files => None,
            Display::Window => Some(Xvfb::start(SCREEN.0, SCREEN.1)?),
        };
        let noise = match setup.source {
            Source::Card => None,
            Source::Clip => Some(clip::NOISE),
            Source::Dim => Some(clip::DIM_NOISE),
        };
        let film = |noise| Clip::create(&home.path().join("clip.y4m"), setup.size, setup.fps, noise);
        let clip = noise.map(film).transpose()?;
        let relay = Relay::start()?;
        let mut lines = Vec::new();
        for number in 0..setup.profile.clients() {
            let seed = seed * setup.profile.clients() as u64 + number as u64;
            // The last client is the impaired one, in calls without impairment too.
            lines.push(profile.line(relay.address(), number, seed)?);
        }
        let limit = time + WARM_UP + PATIENCE;
        Ok(Self { home, sound, display, relay, lines, clip, limit })
    }

    /// Starts a client with its number.
    pub(super) fn join(&self, number: usize, setup: &Setup) -> anyhow::Result<Party> {
        let name = NAMES[number];
        let line = self.lines[number].as_ref();
        let address = line.map_or_else(|| self.relay.address(), Running::address);
        // Not part of what is measured, and directly: pairing has no retries on bad networks.
        self.relay.pair(name, &self.home.path().join(name))?;
        let mut command = client(name, address, self.home.path())?;
        let (width, height) = setup.size;
        let camera = self.clip.as_ref().map(|clip| format!("file:{}", clip.path.display()));
        command.args(["--camera", camera.as_deref().unwrap_or("test")]);
        command.args(["--size", &format!("{width}x{height}")]);
        command.args(["--fps", &setup.fps.to_string(), "--encoder", setup.encoder.name()]);
        if let Some(rate) = setup.max_bitrate {
            command.args(["--max-bitrate", &format!("{}k", rate.kbps())]);
        }
        command.args(["--duration", &self.limit.as_secs_f64().to_string()]);
        match &self.sound {
            Some(sound) => {
                command.args(["--mic", &format!("{name}_mic"), "--speaker", &format!("{name}_speaker")]);
                command.envs(sound.env());
            }
            None => {
                let heard = self.home.path().join(format!("{name}-hears"));
                command.args(["--mic", "tone", "--speaker"]).arg(format!("wav:{}", heard.display()));
            }
        }
        self.show(&mut command, name);
        Ok(Party { process: Process::spawn(&mut command)? })
    }

    fn show(&self, command: &mut Command, name: &str) {
        command.env_remove("WAYLAND_DISPLAY");
        match &self.display {
            Some(display) => command.args(["--display", "window"]).env("DISPLAY", display.display()),
            None if self.sound.is_none() => command.args(["--display", "none"]),
            None => command.arg("--display").arg(format!("y4m:{}", self.pictures(name).display())),
        };
    }

    /// Lets the lines change as the profile says, from `begin` on.
    pub(super) fn play(&self, profile: Profile, begin: Instant, time: Duration) -> anyhow::Result<()> {
        for (number, line) in self.lines.iter().enumerate() {
            if let Some((line, script)) = line.as_ref().zip(profile.script(number, time)?) {
                line.follow(script, begin);
            }
        }
        Ok(())
    }

    /// Where a client writes what it shows.
    pub(super) fn pictures(&self, name: &str) -> PathBuf {
        self.home.path().join(format!("{name}-shows"))
    }
}

/// A client.
pub(super) struct Party {
    pub(super) process: Process,
}

impl Party {
    /// Waits until this client shows pictures of so many others; returns what it said of the first.
    pub(super) fn wait_for_pictures(&mut self, of: usize) -> anyhow::Result<Value> {
        let mut seen = Vec::new();
        let mut first = Value::Null;
        while seen.len() < of {
            let new = |e: &Value| e["event"] == "first-frame" && !seen.contains(&e["participant"]);
            let event = self.process.wait_for_event("the first picture of each", new)?;
            seen.push(event["participant"].clone());
            if first.is_null() {
                first = event;
            }
        }
        Ok(first)
    }

    /// The statistics it has told between two moments, with the time of each.
    pub(super) fn stats(&self, from: Instant, to: Instant) -> Vec<(Instant, Value)> {
        let mut events = self.process.timed_events();
        events.retain(|(at, event)| event["event"] == "stats" && (from..=to).contains(at));
        events
    }

    /// How much a count of its statistics has grown each second between two moments; `None` without two of them.
    pub(super) fn growth(&self, from: Instant, to: Instant, count: impl Fn(&Value) -> f64) -> Option<f64> {
        let stats = self.stats(from, to);
        let ((begin, first), (end, last)) = (stats.first()?, stats.last()?);
        let time = (*end - *begin).as_secs_f64();
        // A client that has come back begins to count anew.
        (time > 0.0).then(|| (count(last) - count(first)).max(0.0) / time)
    }

    pub(super) fn leave(&mut self) -> anyhow::Result<()> {
        let status = self.process.terminate()?;
        ensure!(status.success(), "a client failed ({status}): {}", self.process.stderr_lines().join("\n"));
        Ok(())
    }

    /// The statistics of the whole call, which a client prints last.
    pub(super) fn whole(&self) -> anyhow::Result<Value> {
        let stats = self.process.events().into_iter().rfind(|event| event["event"] == "stats");
        stats.context("a client printed no statistics")
    }
}

/// A directory in memory where that is large enough: writing raw pictures to a disk would disturb the call.
fn home() -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("vchat-bench");
    let room = rustix::fs::statvfs(MEMORY).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    let dir = if room >= MEMORY_NEEDED { builder.tempdir_in(Path::new(MEMORY)) } else { builder.tempdir() };
    dir.context("cannot make a temporary directory")
}

/// Who is in a call, in the order of coming.
pub(super) const NAMES: [&str; 4] = ["ann", "bob", "eve", "dan"];

/// Buffers have found their size and the estimates of clocks and rates have settled; the figures of other systems leave
/// out as much.
pub(super) const WARM_UP: Duration = Duration::from_secs(5);
/// Beyond the planned time, on a slow machine and before the first picture on a bad network.
const PATIENCE: Duration = Duration::from_secs(60);
/// Room for the windows of both clients.
const SCREEN: (u16, u16) = (1280, 1280);
/// Linux's file system in memory.
const MEMORY: &str = "/dev/shm";
/// More than both clients write in 70 s at 720p.
const MEMORY_NEEDED: u64 = 8 << 30;
