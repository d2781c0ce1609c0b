//! The programs of the demo.

use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::devices::Plan;
use crate::harness::{Process, PulseServer, Relay, Window, Xvfb, client};

/// Two clients, their relay, and the display and sound devices that the machine lacks. All end when dropped.
pub(super) struct Stage {
    // Dropped in this order: the clients first.
    pub(super) ann: Process,
    pub(super) bob: Process,
    display: Option<Theatre>,
    _relay: Relay,
    _sound: Option<PulseServer>,
    _home: TempDir,
}

/// A display without a screen and the clients' windows on it.
pub(super) struct Theatre {
    pub(super) display: Xvfb,
    pub(super) windows: Vec<Window>,
}

impl Stage {
    /// Starts everything. Ann is in the room, and her window open, before Bob comes.
    pub(super) fn start(plan: &Plan) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("vchat-demo").tempdir()?;
        let sound = if plan.speakers {
            None
        } else {
            Some(PulseServer::start(&["ann_speaker", "bob_speaker"], &["ann_mic", "bob_mic"])?)
        };
        let mut display = if plan.display { None } else { Some(Theatre::open()?) };
        let relay = Relay::start()?;
        let mut start = |name: &str, camera: &str, mic: &str| -> anyhow::Result<Process> {
            relay.pair(name, &home.path().join(name))?;
            let mut command: Command = client(name, relay.address(), home.path())?;
            command.args(["--room", "demo", "--display", "window", "--camera", camera, "--mic", mic]);
            match &sound {
                Some(sound) => {
                    let speaker = format!("{}_speaker", name.to_lowercase());
                    command.args(["--speaker", &speaker]).envs(sound.env())
                }
                None => command.args(["--speaker", "auto"]),
            };
            if let Some(theatre) = &display {
                command.env("DISPLAY", theatre.display.display()).env_remove("WAYLAND_DISPLAY");
            }
            let mut process = Process::spawn(&mut command)?;
            process.wait_for_event_named("joined").with_context(|| format!("{name} cannot join"))?;
            if let Some(theatre) = &mut display {
                theatre.admit()?;
            }
            Ok(process)
        };
        let ann = start("Ann", &plan.camera, &plan.mic)?;
        let bob = start("Bob", "test", "tone")?;
        Ok(Self { ann, bob, display, _relay: relay, _sound: sound, _home: home })
    }

    /// The display of the demo's own, if it needs one; taken so that it can be used while the clients are. The clients
    /// fail when it is dropped before [`Self::end`].
    pub(super) const fn take_display(&mut self) -> Option<Theatre> {
        self.display.take()
    }

    /// Whether both have closed their windows.
    pub(super) fn is_over(&mut self) -> anyhow::Result<bool> {
        Ok(self.ann.try_wait()?.is_some() && self.bob.try_wait()?.is_some())
    }

    /// Ends both clients in order and returns the statistics of the whole call that each has printed.
    pub(super) fn end(mut self) -> anyhow::Result<[Value; 2]> {
        // Both before the first is waited for: neither should watch the other leave.
        let ends = [("Ann", self.ann.terminate()), ("Bob", self.bob.terminate())];
        for ((name, end), process) in ends.into_iter().zip([&self.ann, &self.bob]) {
            let status = end?;
            ensure!(status.success(), "{name} failed ({status}): {}", process.stderr_lines().join("\n"));
        }
        let whole = |process: &Process| {
            let mut events = process.events().into_iter().filter(|event| event["event"] == "stats");
            events.next_back().unwrap_or_default()
        };
        Ok([whole(&self.ann), whole(&self.bob)])
    }
}

impl Theatre {
    fn open() -> anyhow::Result<Self> {
        Ok(Self { display: Xvfb::start(SCREEN.0, SCREEN.1)?, windows: Vec::new() })
    }

    /// Waits for the window of a client that was just started.
    fn admit(&mut self) -> anyhow::Result<()> {
        let known = &self.windows;
        // By their numbers: titles change.
        let is_new = |window: &Window| known.iter().all(|k| k.id != window.id);
        let window = self.display.wait_for_window_where("a new face", is_new)?;
        self.windows.push(window);
        Ok(())
    }
}

/// Both windows side by side, with some space for what they may add to their size.
const SCREEN: (u16, u16) = (2240, 660);
