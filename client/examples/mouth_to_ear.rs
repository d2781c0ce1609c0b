//! Measures the delay from mouth to ear through real PulseAudio, from the sound alone.
//!
//! A private PulseAudio server with two null sinks stands for two sound cards. Chirps are played into the first; its
//! monitor is the microphone of a call (capture, Opus, jitter buffer, playback, without a network) whose loudspeaker is
//! the second. Both monitors are recorded by PulseAudio's own `parec`, and the chirps found in both by correlation.
//!
//! ```text
//! cargo run --release -p vchat-client --example mouth_to_ear -- [STARTS] [SECONDS]
//! ```
//!
//! Also prints the share of the sound server: the same path without the call's buffers cannot be shorter.
#![allow(clippy::print_stdout, reason = "it is what the example is for")]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libdav1d_sys as _;
use vchat_client::audio::{Capture, MicSpec, Playback, SpeakerSpec, devices, tone};
use vchat_client::clock::MediaClock;
use vchat_proto::id::{FrameId, ParticipantId};
use vchat_proto::stats::Distribution;
use vchat_proto::units::MediaTime;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| args.get(at).map_or(Ok(default), |a| a.parse());
    if args.first().is_some_and(|a| a == CALL) {
        return call(Duration::from_secs(number(1, 10)?));
    }
    let (starts, seconds) = (number(0, 5)?, number(1, 12)?);
    let server = Server::start()?;
    println!("sound server alone (parec | pacat): {}", summary(&measure(&server, false, seconds)?));
    let mut all = Distribution::default();
    for start in 1..=starts {
        let delays = measure(&server, true, seconds)?;
        println!("start {start}: {}", summary(&delays));
        all.merge(&delays);
    }
    println!("mouth to ear, all: {}", summary(&all));
    Ok(())
}

/// One start: plays, records, compares. Between mouth and ear is the call, or else a mere pipe.
fn measure(server: &Server, with_call: bool, seconds: u64) -> Result<Distribution> {
    let ears = [server.record("sink_a")?, server.record("sink_b")?];
    let mut mouth = server.play("sink_a")?;
    let mut between = if with_call {
        server.command(&std::env::current_exe()?.to_string_lossy())
    } else {
        server.command("sh")
    };
    if with_call {
        between.args([CALL, &seconds.to_string()]);
    } else {
        let format = FORMAT.join(" ");
        between.args([
            "-c",
            &format!(
                "timeout {seconds} parec --device=sink_a.monitor --latency-msec=5 {format} \
             | pacat --device=sink_b --latency-msec=10 {format}"
            ),
        ]);
    }
    let status = between.status().context("cannot start what is measured")?;
    ensure!(status.success(), "what is measured failed: {status}");
    let [(zero_a, spoken), (zero_b, heard)] = ears.map(Ear::finish);
    drop(mouth.0.kill());
    let times = |zero: f64, pcm: &[f32]| -> Vec<f64> {
        tone::find_chirps(pcm).into_iter().map(|at| zero + at as f64 / 48_000.0).collect()
    };
    let (spoken, heard) = (times(zero_a, &spoken), times(zero_b, &heard));
    let mut delays = Distribution::default();
    for at in &heard {
        // The spacing of the chirps is longer than any delay of interest.
        if let Some(from) = spoken.iter().rfind(|from| *from < at).filter(|from| *at - **from < SPACING) {
            delays.record(((at - from) * 1e6) as i64);
        }
    }
    ensure!(!delays.is_empty(), "no chirp came through: {} spoken, {} heard", spoken.len(), heard.len());
    Ok(delays)
}

/// The call itself, in a process of its own because the sound server is told by the environment.
fn call(time: Duration) -> Result<()> {
    let clock = MediaClock::new();
    let found = devices();
    ensure!(found.speakers.iter().any(|d| d.name == "sink_b"), "the null sinks are missing: {found:?}");
    let playback =
        Playback::start(&SpeakerSpec::Named("sink_b".into()), clock, |e| eprintln!("playback: {e}"))?;
    let (handle, me) = (playback.handle(), ParticipantId(1));
    handle.joined(me, "me");
    let (sender, mut id) = (handle.clone(), FrameId(0));
    let capture = Capture::start(
        &MicSpec::Named("sink_a.monitor".into()),
        clock,
        move |packet| {
            sender.packet(me, id, packet.captured, packet.data);
            id = id.plus(1);
        },
        |e| eprintln!("capture: {e}"),
    )?;
    let end = Instant::now() + time;
    while Instant::now() < end {
        thread::sleep(Duration::from_secs(1));
        let stats = handle.poll_stats();
        let Some(peer) = stats.peers.first() else { continue };
        println!(
            "  told {}; buffer {} of {} ms, concealed {} ms, late {}, underruns {}, {} kb/s, {:.0} dB{}",
            summary(&peer.latency),
            peer.buffer_ms,
            peer.target_ms,
            peer.concealed_ms,
            peer.late,
            stats.underruns,
            peer.kbps,
            capture.level(),
            if peer.speaking { ", speaking" } else { "" },
        );
    }
    Ok(())
}

fn summary(d: &Distribution) -> String {
    let ms = |q| d.quantile(q).map_or(f64::NAN, |us| us as f64 / 1000.0);
    format!("p50 {:.1} p95 {:.1} max {:.1} ms ({})", ms(0.5), ms(0.95), ms(1.0), d.len())
}

/// A PulseAudio server of our own.
struct Server {
    dir: tempfile::TempDir,
    _daemon: Process,
}

/// A child process that does not outlive us.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Server {
    fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("native");
        let sink = |name: &str| format!("module-null-sink sink_name={name} rate=48000 channels=2");
        let daemon = Command::new("pulseaudio")
            .args(["-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--log-level=error"])
            .args([
                "-L",
                &format!("module-native-protocol-unix socket={} auth-anonymous=1", socket.display()),
            ])
            .args(["-L", &sink("sink_a"), "-L", &sink("sink_b")])
            .env("PULSE_RUNTIME_PATH", dir.path())
            .env("HOME", dir.path())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start pulseaudio; install it")?;
        let server = Self { dir, _daemon: Process(daemon) };
        let ready = |path: &Path| path.exists();
        for _ in 0..200 {
            if ready(&socket) && server.command("pactl").arg("info").output()?.status.success() {
                return Ok(server);
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("pulseaudio does not answer on {}", socket.display())
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("native")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("PULSE_SERVER", format!("unix:{}", self.socket().display())).env("HOME", self.dir.path());
        command
    }

    /// Plays chirps, [`SPACING`] apart, until dropped.
    fn play(&self, sink: &str) -> Result<Process> {
        let mut child = self
            .command("pacat")
            .args(["--playback", &format!("--device={sink}"), "--latency-msec=20"])
            .args(FORMAT)
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start pacat")?;
        let mut pipe = child.stdin.take().context("no pipe")?;
        let period: Vec<u8> = (0..(SPACING * 48_000.0) as u64)
            .flat_map(|n| tone::sample_at(MediaTime::from_micros(n * 1_000_000 / 48_000 + 1)).to_le_bytes())
            .collect();
        thread::spawn(move || while pipe.write_all(&period).is_ok() {});
        Ok(Process(child))
    }

    fn record(&self, sink: &str) -> Result<Ear> {
        let mut child = self
            .command("parec")
            .args([&format!("--device={sink}.monitor"), "--latency-msec=5"])
            .args(FORMAT)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start parec")?;
        let pipe = child.stdout.take().context("no pipe")?;
        let (done, result) = mpsc::channel();
        thread::spawn(move || drop(done.send(listen(pipe))));
        Ok(Ear { child: Process(child), result })
    }
}

/// A recording under way.
struct Ear {
    child: Process,
    result: mpsc::Receiver<(f64, Vec<f32>)>,
}

impl Ear {
    /// Time of the first sample (seconds, on a clock common to all ears) and the sound.
    fn finish(mut self) -> (f64, Vec<f32>) {
        drop(self.child.0.kill());
        self.result.recv().unwrap_or_default()
    }
}

/// Reads all sound. The earliest arrival of a sample, relative to its number, tells when the first one was made: a
/// reader may be late but never early, and both ears are late by the same.
fn listen(mut pipe: ChildStdout) -> (f64, Vec<f32>) {
    let clock = MediaClock::new();
    let (mut pcm, mut zero, mut bytes) = (Vec::new(), f64::MAX, [0_u8; 4096]);
    let mut rest = Vec::new();
    while let Ok(n @ 1..) = pipe.read(&mut bytes) {
        let now = clock.now().as_micros() as f64 / 1e6;
        rest.extend_from_slice(bytes.get(..n).unwrap_or_default());
        let (samples, tail) = rest.as_chunks::<4>();
        pcm.extend(samples.iter().map(|b| f32::from_le_bytes(*b)));
        rest = tail.to_vec();
        zero = zero.min(now - pcm.len() as f64 / 48_000.0);
    }
    (zero, pcm)
}

/// Tells the child process what it is.
const CALL: &str = "--call";
/// Raw mono sound, the same for playing and recording.
const FORMAT: [&str; 4] = ["--raw", "--rate=48000", "--channels=1", "--format=float32le"];
/// Seconds between two chirps: no multiple of 10 ms, so that all phases between chirps and packets are met.
const SPACING: f64 = 0.497;
