//! Sound devices without hardware.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::process::{DEADLINE, Process};

/// Samples per second of every device and recording here, per channel.
pub const SAMPLE_RATE: u32 = 48_000;

/// A private PulseAudio server with null devices; ends when dropped.
///
/// A speaker is a null sink: what is played to `NAME` can be heard at `NAME.monitor`. A microphone `NAME` is a source
/// that hears what is played to the sink `NAME_in`.
#[derive(Debug)]
pub struct PulseServer {
    _server: Process,
    address: String,
    dir: TempDir,
}

/// A recording that is running, of one channel.
#[derive(Debug)]
pub struct Recording {
    child: Child,
    samples: Arc<(Mutex<Heard>, Condvar)>,
}

#[derive(Debug, Default)]
struct Heard {
    samples: Vec<f32>,
    begin: Option<Instant>,
    ended: bool,
}

impl PulseServer {
    /// Starts a server with these speakers and microphones. The first of each is the default one.
    pub fn start(speakers: &[&str], microphones: &[&str]) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("vchat-pulse").tempdir()?;
        let socket = dir.path().join("native");
        let socket = socket.to_str().context("a temporary directory with a name in UTF-8")?;
        // Without `norewinds` (PulseAudio 16) a null sink works in blocks of two seconds until someone has asked for
        // less and the block is over; with it, 50 ms is the most.
        let mut modules = vec![format!("module-native-protocol-unix auth-anonymous=1 socket={socket}")];
        for name in speakers {
            modules
                .push(format!("module-null-sink sink_name={name} rate={SAMPLE_RATE} channels=2 norewinds=1"));
        }
        for name in microphones {
            modules.push(format!(
                "module-null-sink sink_name={name}_in rate={SAMPLE_RATE} channels=1 norewinds=1"
            ));
            modules.push(format!("module-remap-source master={name}_in.monitor source_name={name}"));
        }
        let mut command = Command::new("pulseaudio");
        command.args([
            "-n",
            "--daemonize=no",
            "--use-pid-file=no",
            "--exit-idle-time=-1",
            "--disable-shm=yes",
        ]);
        command.args(["--realtime=no", "--high-priority=no", "--log-target=stderr", "--log-level=info"]);
        modules.iter().for_each(|module| _ = command.arg(format!("--load={module}")));
        // Nothing of the user's own server, session or settings.
        for variable in ["HOME", "XDG_RUNTIME_DIR", "PULSE_RUNTIME_PATH", "PULSE_STATE_PATH"] {
            command.env(variable, dir.path());
        }
        for variable in ["PULSE_SERVER", "PULSE_SINK", "PULSE_SOURCE", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY"]
        {
            command.env_remove(variable);
        }
        let mut server = Process::spawn(&mut command).context("install pulseaudio")?;
        server.wait_for_stderr("its start", |line| line.contains("startup complete"))?;
        let server = Self { _server: server, address: format!("unix:{socket}"), dir };
        if let Some(name) = speakers.first() {
            server.control(&["set-default-sink", name])?;
        }
        if let Some(name) = microphones.first() {
            server.control(&["set-default-source", name])?;
        }
        Ok(server)
    }

    /// The environment of programs that should use this server.
    #[must_use]
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let dir = self.dir.path().to_string_lossy().into_owned();
        vec![("PULSE_SERVER", self.address.clone()), ("PULSE_RUNTIME_PATH", dir)]
    }

    /// Plays a WAV file to a sink; done when the process ends.
    pub fn play(&self, file: &Path, sink: &str) -> anyhow::Result<Process> {
        let device = format!("--device={sink}");
        let mut command = Command::new("paplay");
        command.arg(device).arg(file).envs(self.env());
        Process::spawn(&mut command).context("install pulseaudio-utils")
    }

    /// Records a source, such as `NAME.monitor`, as one channel of [`SAMPLE_RATE`].
    ///
    /// Returns when the first samples have come: what is played from now on is in it.
    pub fn record(&self, source: &str) -> anyhow::Result<Recording> {
        let mut command = Command::new("parec");
        command.args(["--raw", "--format=float32le", "--channels=1", "--latency-msec=5"]);
        command.arg(format!("--rate={SAMPLE_RATE}")).arg(format!("--device={source}")).envs(self.env());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start parec: install pulseaudio-utils")?;
        let mut stream = child.stdout.take().context("stdout is a pipe")?;
        let mut recording = Recording { child, samples: Arc::default() };
        let heard = Arc::clone(&recording.samples);
        std::thread::spawn(move || {
            let (mut chunk, mut bytes) = ([0; CHUNK_BYTES], Vec::new());
            // As much as there is, so that the time of reading is that of the last sample.
            while let Ok(count @ 1..) = stream.read(&mut chunk) {
                let now = Instant::now();
                bytes.extend_from_slice(&chunk[..count]);
                let (samples, rest) = bytes.as_chunks::<4>();
                lock(&heard.0).add(samples.iter().map(|b| f32::from_le_bytes(*b)), now);
                bytes = rest.to_vec();
                heard.1.notify_all();
            }
            lock(&heard.0).ended = true;
            heard.1.notify_all();
        });
        let begun = recording.wait_for(1);
        begun.with_context(|| format!("cannot record {source:?} ({})", recording.complaint()))?;
        Ok(recording)
    }

    /// Runs `pactl` with these arguments and returns what it printed.
    pub fn control(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new("pactl").args(arguments).envs(self.env()).output();
        let output = output.context("cannot start pactl: install pulseaudio-utils")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pactl {arguments:?} failed: {}", error.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Recording {
    /// When the first sample was made, judged by the sample that came soonest after it was made: it may come late but
    /// never early. All recordings of one server lag by about the same, so times of different ones can be compared.
    #[must_use]
    pub fn begin(&self) -> Instant {
        // There are samples since before `record` returned.
        lock(&self.samples.0).begin.unwrap_or_else(Instant::now)
    }

    /// Waits until there are at least `count` samples and returns all there are.
    pub fn wait_for(&self, count: usize) -> anyhow::Result<Vec<f32>> {
        self.wait_until(|samples| samples.len() >= count)
    }

    /// Waits until the samples so far satisfy `enough`, asked about every 100 ms of sound, and returns them.
    pub fn wait_until(&self, mut enough: impl FnMut(&[f32]) -> bool) -> anyhow::Result<Vec<f32>> {
        let deadline = Instant::now() + DEADLINE;
        let mut asked = 0;
        loop {
            let (mutex, changed) = &*self.samples;
            let mut heard = lock(mutex);
            while heard.samples.len() < asked + CHECK_SAMPLES && !heard.ended {
                let left = deadline.saturating_duration_since(Instant::now());
                ensure!(!left.is_zero(), "only {} samples were recorded", heard.samples.len());
                heard = changed.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            let ended = heard.ended;
            let samples = heard.samples.clone();
            drop(heard);
            asked = samples.len();
            if enough(&samples) {
                return Ok(samples);
            }
            ensure!(!ended, "the recording ended after {asked} samples");
            ensure!(Instant::now() < deadline, "what should be heard was not among {asked} samples");
        }
    }

    /// Ends a recording that failed and returns what `parec` said about it.
    fn complaint(&mut self) -> String {
        let mut text = String::new();
        // Fails only when it has ended already.
        let _ = self.child.kill();
        if let Some(stream) = &mut self.child.stderr {
            // Whatever can be read serves.
            let _ = stream.read_to_string(&mut text);
        }
        text.trim().to_owned()
    }

    /// Ends the recording and returns it.
    #[must_use]
    pub fn stop(self) -> Vec<f32> {
        lock(&self.samples.0).samples.clone()
    }
}

impl Heard {
    fn add(&mut self, samples: impl Iterator<Item = f32>, now: Instant) {
        self.samples.extend(samples);
        let length = Duration::from_secs_f64(self.samples.len() as f64 / f64::from(SAMPLE_RATE));
        let begin = now.checked_sub(length).unwrap_or(now);
        self.begin = Some(self.begin.map_or(begin, |earliest| earliest.min(begin)));
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The amplitude of the part of `samples` at `hertz`, by the algorithm of Goertzel ("An algorithm for the evaluation of
/// finite trigonometric series", American Mathematical Monthly 65, 1958): 1.0 for a full-scale sine of that frequency.
///
/// Resolves frequencies that are `SAMPLE_RATE / samples.len()` apart.
#[must_use]
pub fn tone_level(samples: &[f32], hertz: f64) -> f64 {
    if samples.is_empty() {
        return 0.0;
    }
    let step = std::f64::consts::TAU * hertz / f64::from(SAMPLE_RATE);
    let (mut last, mut before) = (0.0, 0.0);
    for sample in samples {
        (last, before) = (f64::from(*sample) + 2.0 * step.cos() * last - before, last);
    }
    let power = last * last + before * before - 2.0 * step.cos() * last * before;
    2.0 * power.max(0.0).sqrt() / samples.len() as f64
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// 100 ms.
const CHECK_SAMPLES: usize = SAMPLE_RATE as usize / 10;

/// 100 ms, far more than `parec` is asked to hold back.
const CHUNK_BYTES: usize = SAMPLE_RATE as usize / 10 * 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// Half a second of a sine at half the full scale.
    fn tone(hertz: f64) -> Vec<f32> {
        let step = std::f64::consts::TAU * hertz / f64::from(SAMPLE_RATE);
        (0..SAMPLE_RATE / 2).map(|i| (0.5 * (f64::from(i) * step).sin()) as f32).collect()
    }

    fn save(samples: &[f32], path: &Path) {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: SAMPLE_RATE,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(path, spec).expect("created");
        for sample in samples {
            writer.write_sample((sample * 32_767.0) as i16).expect("written");
        }
        writer.finalize().expect("written");
    }

    #[test]
    fn a_level_is_that_of_its_frequency_alone() {
        let samples = tone(440.0);
        assert!((tone_level(&samples, 440.0) - 0.5).abs() < 0.01);
        assert!(tone_level(&samples, 880.0) < 0.01);
        assert_eq!(tone_level(&[], 440.0), 0.0);
    }

    #[test]
    fn what_is_played_is_heard_at_the_right_device_only() {
        let server = PulseServer::start(&["ann", "bob"], &["mic"]).expect("a server");
        let file = tempfile::Builder::new().suffix(".wav").tempfile().expect("a file");
        save(&tone(1000.0), file.path());
        // The loudest 100 ms, since nobody knows when the tone begins.
        let level = |samples: &[f32]| {
            samples.chunks_exact(CHECK_SAMPLES).map(|part| tone_level(part, 1000.0)).fold(0.0, f64::max)
        };
        for (sink, source, other) in [("ann", "ann.monitor", "bob.monitor"), ("mic_in", "mic", "ann.monitor")]
        {
            let (here, there) =
                (server.record(source).expect("recording"), server.record(other).expect("recording"));
            let mut player = server.play(file.path(), sink).expect("playing");
            let heard = here.wait_until(|samples| level(samples) > 0.4).expect("the tone");
            assert!((0.4..0.6).contains(&level(&heard)), "{}", level(&heard));
            assert!(player.wait().expect("ends").success());
            assert!(level(&there.stop()) < 0.001, "played to {sink}, heard at {other}");
        }
        assert!(server.control(&["info"]).expect("running").contains("Default Source: mic"));
        let error = server.record("nonexistent").expect_err("no such source").to_string();
        assert!(error.contains("nonexistent") && error.contains("No such entity"), "{error}");
    }

    #[test]
    fn silence_is_recorded_in_real_time() {
        let server = PulseServer::start(&["ann"], &[]).expect("a server");
        let started = Instant::now();
        let samples = server
            .record("ann.monitor")
            .expect("recording")
            .wait_for(SAMPLE_RATE as usize / 2)
            .expect("silence");
        assert!(samples.iter().all(|sample| *sample == 0.0));
        assert!(started.elapsed() > Duration::from_millis(200), "{:?}", started.elapsed());
    }
}
