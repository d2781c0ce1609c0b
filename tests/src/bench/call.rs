//! One call between two real clients through a real relay.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;
use vchat_client::clock::MediaClock;
use vchat_proto::stats::Distribution;

use super::options::{Display, Setup};
use super::pixels::{Pictures, Shown};
use super::{chirps, cpu};
use crate::harness::{Image, Process, PulseServer, Recording, Relay, Xvfb, client};

/// What was measured of a call, of both clients together.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    /// From capture to display in microseconds. Empty where pictures were not written to files.
    pub(super) pixels: Distribution,
    /// The same in milliseconds as the clients say it, over the whole call.
    pub(super) told: Told,
    /// Largest difference between what the clients say and what their pixels say over the whole call.
    pub(super) disagreement_ms: Option<f64>,
    /// Pictures shown a second by each.
    pub(super) fps: f64,
    pub(super) damaged: u64,
    pub(super) freezes: u64,
    pub(super) frozen_ms: f64,
    /// From mouth to ear in microseconds.
    pub(super) sound: Distribution,
    /// Sound that had to be invented, of the whole call.
    pub(super) concealed_ms: f64,
    /// Shares of a core, the mean of both clients, and the relay's.
    pub(super) client_cpu: f64,
    pub(super) relay_cpu: f64,
    /// Sent by each, all in all, and received of it as video.
    pub(super) sent_kbps: f64,
    pub(super) video_kbps: f64,
    pub(super) rtt_ms: f64,
    /// From the start of the second client's process to the first picture it showed.
    pub(super) first_picture_ms: f64,
}

/// Delays of pictures as the clients tell them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) max: f64,
}

/// Makes a call and measures `time` of it.
pub(super) fn measure(setup: &Setup, time: Duration, seed: u64) -> anyhow::Result<Measured> {
    let mut stage = Stage::start(setup, time, seed)?;
    // Ann waits in the room and Bob comes, as the first picture is measured.
    let mut ann = Party::start(ANN, &stage, setup)?;
    ann.process.wait_for_event_named("joined")?;
    let mut bob = Party::start(BOB, &stage, setup)?;
    let first = bob.process.wait_for_event_named("first-frame")?;
    ann.process.wait_for_event_named("first-frame")?;
    let sound = Sound::start(&stage)?;
    thread::sleep(WARM_UP);

    let processes = [ann.process.id(), bob.process.id(), stage.relay.id()];
    for party in [&mut ann, &mut bob] {
        party.process.forget_lines();
    }
    let window = Window::open(&processes)?;
    thread::sleep(time);
    let window = window.close(&processes)?;
    let seconds = [ann.events("stats"), bob.events("stats")].concat();
    let sound = sound.stop(&window)?;
    ann.leave()?;
    bob.leave()?;
    stage.lines.clear();

    let mut measured = Measured {
        sound,
        first_picture_ms: number(&first["t_ms"]),
        client_cpu: f64::midpoint(window.cpu[0], window.cpu[1]),
        relay_cpu: window.cpu[2],
        sent_kbps: mean(&seconds, |s| number(&s["up"]["kbps"])),
        video_kbps: mean(&seconds, |s| number(&s["peers"][0]["video"]["kbps"])),
        rtt_ms: mean(&seconds, |s| number(&s["rtt_ms"])),
        ..Measured::default()
    };
    let whole = [ann.whole()?, bob.whole()?];
    measured.told = told(&whole);
    measured.concealed_ms = mean(&whole, |s| number(&s["peers"][0]["audio"]["concealed_ms"]));
    match setup.display {
        Display::Files => measured.look(&stage, &whole, &window)?,
        Display::Window => measured.believe(&seconds, &whole),
    }
    Ok(measured)
}

impl Measured {
    /// Takes what concerns pictures from the files.
    fn look(&mut self, stage: &Stage, whole: &[Value; 2], window: &Window) -> anyhow::Result<()> {
        let mut pictures = Pictures::default();
        let mut disagreement = 0.0_f64;
        for ((name, other), whole) in [(ANN, BOB), (BOB, ANN)].into_iter().zip(whole) {
            let shown = Shown::read(&stage.pictures(name), other)?;
            pictures.merge(&shown.within(&window.media));
            if let Some((number, image)) = &shown.damaged {
                keep(image, &format!("{name}-{number}.png"))?;
            }
            let (all, told) = (shown.all().delay, Told::read(whole));
            for (quantile, told) in [(0.5, told.p50), (0.95, told.p95)] {
                let seen = all.quantile(quantile).context("no picture with a barcode was shown")?;
                disagreement = disagreement.max((seen as f64 / 1e3 - told).abs());
            }
        }
        self.disagreement_ms = Some(disagreement);
        self.fps = pictures.count as f64 / 2.0 / window.seconds;
        (self.damaged, self.freezes) = (pictures.damaged, pictures.freezes);
        self.frozen_ms = pictures.frozen as f64 / 1e3;
        self.pixels = pictures.delay;
        Ok(())
    }

    /// Takes what concerns pictures from the clients' own statistics.
    fn believe(&mut self, seconds: &[Value], whole: &[Value; 2]) {
        let sum = |name: &str| whole.iter().map(|s| number(&s["peers"][0]["video"][name])).sum::<f64>();
        self.fps = mean(seconds, |s| number(&s["peers"][0]["video"]["fps"]));
        self.freezes = sum("freezes") as u64;
        self.frozen_ms = sum("freeze_ms");
    }
}

impl Told {
    fn read(whole: &Value) -> Self {
        let delay = &whole["peers"][0]["video"]["latency_ms"];
        Self { p50: number(&delay["p50"]), p95: number(&delay["p95"]), max: number(&delay["max"]) }
    }
}

/// The worse of both clients: quantiles cannot be added up.
fn told(whole: &[Value; 2]) -> Told {
    let [a, b] = [Told::read(&whole[0]), Told::read(&whole[1])];
    Told { p50: a.p50.max(b.p50), p95: a.p95.max(b.p95), max: a.max.max(b.max) }
}

/// Everything around the clients.
struct Stage {
    home: TempDir,
    sound: PulseServer,
    display: Option<Xvfb>,
    relay: Relay,
    /// The impaired lines of Ann and Bob, if there are any.
    lines: Vec<crate::netem::Running>,
    /// Longer than the call can take: clients leave by themselves should nobody be there to end them.
    limit: Duration,
}

impl Stage {
    fn start(setup: &Setup, time: Duration, seed: u64) -> anyhow::Result<Self> {
        let home = home()?;
        let sound = PulseServer::start(&["ann_speaker", "bob_speaker"], &["ann_mic", "bob_mic"])?;
        let display = match setup.display {
            Display::Files => None,
            Display::Window => Some(Xvfb::start(SCREEN.0, SCREEN.1)?),
        };
        let relay = Relay::start()?;
        let mut lines = Vec::new();
        for client in 0..2 {
            lines.extend(setup.profile.line(relay.address(), 2 * seed + client)?);
        }
        let limit = time + WARM_UP + PATIENCE;
        chirps::write_train(&home.path().join(TRAIN), limit.as_secs_f64())?;
        Ok(Self { home, sound, display, relay, lines, limit })
    }

    /// Where a client writes what it shows.
    fn pictures(&self, name: &str) -> PathBuf {
        self.home.path().join(format!("{name}-shows"))
    }
}

/// A client.
struct Party {
    process: Process,
}

impl Party {
    fn start(name: &str, stage: &Stage, setup: &Setup) -> anyhow::Result<Self> {
        let line = stage.lines.get(usize::from(name == BOB));
        let address = line.map_or_else(|| stage.relay.address(), |line| line.address());
        // Not part of what is measured, and directly: pairing has no retries on bad networks.
        stage.relay.pair(name, &stage.home.path().join(name))?;
        let mut command = client(name, address, stage.home.path())?;
        let (width, height) = setup.size;
        command.args(["--camera", "test", "--size", &format!("{width}x{height}")]);
        command.args(["--fps", &setup.fps.to_string(), "--encoder", setup.encoder.name()]);
        command.args(["--mic", &format!("{name}_mic"), "--speaker", &format!("{name}_speaker")]);
        command.args(["--duration", &stage.limit.as_secs_f64().to_string()]);
        command.envs(stage.sound.env());
        Self::show(&mut command, name, stage);
        Ok(Self { process: Process::spawn(&mut command)? })
    }

    fn show(command: &mut Command, name: &str, stage: &Stage) {
        command.env_remove("WAYLAND_DISPLAY");
        match &stage.display {
            Some(display) => command.args(["--display", "window"]).env("DISPLAY", display.display()),
            None => command.arg("--display").arg(format!("y4m:{}", stage.pictures(name).display())),
        };
    }

    fn events(&self, name: &str) -> Vec<Value> {
        self.process.events().into_iter().filter(|event| event["event"] == name).collect()
    }

    fn leave(&mut self) -> anyhow::Result<()> {
        let status = self.process.terminate()?;
        ensure!(status.success(), "a client failed ({status}): {}", self.process.stderr_lines().join("\n"));
        Ok(())
    }

    /// The statistics of the whole call, which a client prints last.
    fn whole(&self) -> anyhow::Result<Value> {
        self.events("stats").pop().context("a client printed no statistics")
    }
}

/// Chirps played into both microphones, and recordings at both mouths and ears.
struct Sound {
    players: [Process; 2],
    /// Ann's mouth, Bob's ear; Bob's mouth, Ann's ear.
    recordings: [[Recording; 2]; 2],
}

impl Sound {
    fn start(stage: &Stage) -> anyhow::Result<Self> {
        let record = |mouth: &str, ear: &str| -> anyhow::Result<[Recording; 2]> {
            Ok([
                stage.sound.record(&format!("{mouth}_mic_in.monitor"))?,
                stage.sound.record(&format!("{ear}_speaker.monitor"))?,
            ])
        };
        let recordings = [record(ANN, BOB)?, record(BOB, ANN)?];
        let train = stage.home.path().join(TRAIN);
        let play = |name: &str| stage.sound.play(&train, &format!("{name}_mic_in"));
        Ok(Self { players: [play(ANN)?, play(BOB)?], recordings })
    }

    /// The delays of the chirps heard within the window, in microseconds.
    fn stop(self, window: &Window) -> anyhow::Result<Distribution> {
        let listen = |recording: Recording| {
            thread::spawn(move || {
                let begin = recording.begin();
                (begin, chirps::find(&recording.stop()))
            })
        };
        let times = |chirps: thread::JoinHandle<(Instant, Vec<f64>)>| -> anyhow::Result<Vec<f64>> {
            let (begin, chirps) = chirps.join().ok().context("looking for chirps failed")?;
            let begin = since(begin, window.begin);
            Ok(chirps.into_iter().map(|at| begin + at).collect())
        };
        drop(self.players);
        let mut delays = Distribution::default();
        for pair in self.recordings.map(|pair| pair.map(listen)) {
            let [spoken, heard] = pair.map(times);
            let (spoken, heard) = (spoken?, heard?);
            ensure!(!spoken.is_empty(), "the sound server did not play the chirps");
            let heard: Vec<f64> = heard.into_iter().filter(|at| (0.0..window.seconds).contains(at)).collect();
            for delay in chirps::align(&spoken, &heard) {
                delays.record((delay * 1e6) as i64);
            }
        }
        Ok(delays)
    }
}

/// The stretch of time that is measured.
struct Window {
    begin: Instant,
    media: Range<i64>,
    seconds: f64,
    /// Of each process: time computed until the begin, and after the end the share of a core.
    cpu: Vec<f64>,
}

impl Window {
    fn open(processes: &[u32]) -> anyhow::Result<Self> {
        let now = MediaClock::new().now().as_micros() as i64;
        Ok(Self { begin: Instant::now(), media: now..now, seconds: 0.0, cpu: computed(processes)? })
    }

    fn close(mut self, processes: &[u32]) -> anyhow::Result<Self> {
        self.media.end = MediaClock::new().now().as_micros() as i64;
        self.seconds = self.begin.elapsed().as_secs_f64();
        let after = computed(processes)?;
        for (cpu, after) in self.cpu.iter_mut().zip(after) {
            *cpu = (after - *cpu) / self.seconds;
        }
        Ok(self)
    }
}

fn computed(processes: &[u32]) -> anyhow::Result<Vec<f64>> {
    processes.iter().map(|process| Ok(cpu::used(*process)?.as_secs_f64())).collect()
}

/// Seconds from `origin` to `time`, negative when it was before.
fn since(time: Instant, origin: Instant) -> f64 {
    let after = time.saturating_duration_since(origin).as_secs_f64();
    after - origin.saturating_duration_since(time).as_secs_f64()
}

/// Saves a damaged picture for people to look at.
fn keep(image: &Image, name: &str) -> anyhow::Result<()> {
    let dir = Path::new(DAMAGED);
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {DAMAGED}"))?;
    let path = dir.join(name);
    image.save_png(&path)?;
    writeln!(std::io::stderr(), "a picture without a barcode was shown: {}", path.display())?;
    Ok(())
}

/// A directory in memory where that is large enough: writing raw pictures to a disk would disturb the call.
fn home() -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("vchat-bench");
    let room = rustix::fs::statvfs(MEMORY).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    let dir = if room >= MEMORY_NEEDED { builder.tempdir_in(Path::new(MEMORY)) } else { builder.tempdir() };
    dir.context("cannot make a temporary directory")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn mean(values: &[Value], number: impl Fn(&Value) -> f64) -> f64 {
    values.iter().map(number).sum::<f64>() / values.len().max(1) as f64
}

const ANN: &str = "ann";
const BOB: &str = "bob";
/// Where damaged pictures are kept, below the current directory.
const DAMAGED: &str = "target/damaged";
const TRAIN: &str = "chirps.wav";

/// Buffers have found their size and the estimates of clocks and rates have settled.
const WARM_UP: Duration = Duration::from_secs(3);
/// Beyond the planned time, on a slow machine and before the first picture on a bad network.
const PATIENCE: Duration = Duration::from_secs(30);
/// Room for the windows of both clients.
const SCREEN: (u16, u16) = (1280, 1280);
/// Linux's file system in memory.
const MEMORY: &str = "/dev/shm";
/// Twice what both clients write in 40 s at 720p.
const MEMORY_NEEDED: u64 = 8 << 30;
