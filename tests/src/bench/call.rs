//! One call between two real clients through a real relay.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use vchat_client::clock::MediaClock;
use vchat_proto::stats::Distribution;

use super::chat::Chat;
use super::metrics::Measured;
use super::options::{Display, Setup, Source, Voice};
use super::pixels::{Pictures, Shown};
use super::sound::{Heard, Sound};
use super::stage::{NAMES, Party, Stage, WARM_UP};
use super::traffic::Traffic;
use super::{cpu, outages, step};
use crate::harness::Image;

/// Makes a call and measures `time` of it.
pub(super) fn measure(setup: &Setup, time: Duration, seed: u64) -> anyhow::Result<Measured> {
    let mut stage = Stage::start(setup, setup.profile, time, seed)?;
    // Ann waits in the room and Bob comes, as the first picture is measured.
    let mut ann = stage.join(0, setup)?;
    ann.process.wait_for_event_named("joined")?;
    let mut bob = stage.join(1, setup)?;
    let first = bob.wait_for_pictures(1)?;
    ann.wait_for_pictures(1)?;
    let sound = Sound::start(&stage, setup.voice)?;
    thread::sleep(WARM_UP);

    let processes = [ann.process.id(), bob.process.id(), stage.relay.id()];
    let mut parties = [ann, bob];
    let (mut traffic, mut chat) = (Traffic::default(), Chat::default());
    let window = Window::open(&processes)?;
    stage.play(setup.profile, window.begin, time)?;
    loop {
        let elapsed = window.begin.elapsed();
        traffic.sample(elapsed, &stage.lines)?;
        chat.write(&mut parties, elapsed, time)?;
        match time.checked_sub(elapsed) {
            Some(left) if !left.is_zero() => thread::sleep(left.min(TICK)),
            _ => break,
        }
    }
    let window = window.close(&processes)?;
    let heard = sound.stop();
    parties.iter_mut().try_for_each(Party::leave)?;
    stage.lines.clear();

    let mut measured = Measured::default();
    measured.set("first_picture_ms", number(&first["t_ms"]));
    measured.set("client_cpu_percent", 50.0 * (window.cpu[0] + window.cpu[1]));
    measured.set("relay_cpu_percent", 100.0 * window.cpu[2]);
    tell(&mut measured, &parties, &window);
    match setup.voice {
        Voice::Chirps => listen(&mut measured, &heard, &window, time)?,
        Voice::Speech => {
            let understood = heard.each_ref().map(|direction| direction.understood(window.begin, time));
            measured.set("stoi", f64::midpoint(understood[0], understood[1]));
        }
    }
    measured.set("line_up_kbps", traffic.up_kbps());
    measured.set("line_down_kbps", traffic.down_kbps());
    measured.set("link_used_percent", setup.profile.rate().and_then(|rate| traffic.used_percent(rate)));
    let (delays, lost) = chat.delays(&parties);
    measured.set("chat_p50_ms", delays.get(delays.len() / 2).copied());
    measured.set("chat_max_ms", delays.last().copied());
    measured.set("chat_lost", lost as f64);
    let whole = [parties[0].whole()?, parties[1].whole()?];
    match setup.display {
        Display::Files => {
            let shown = [
                Shown::read(&stage.pictures(NAMES[0]), NAMES[1], stage.clip.as_ref())?,
                Shown::read(&stage.pictures(NAMES[1]), NAMES[0], stage.clip.as_ref())?,
            ];
            look(&mut measured, &shown, &window)?;
            if setup.source == Source::Card {
                compare(&mut measured, &shown, &whole);
            }
            outages::measure(&mut measured, setup.profile, &shown, &heard, &window, time);
            step::measure(&mut measured, setup.profile, &shown, &traffic, &window, time);
        }
        Display::Window => believe(&mut measured, &parties, &whole, &window),
    }
    Ok(measured)
}

/// Takes what the clients tell of the time measured.
fn tell(measured: &mut Measured, parties: &[Party; 2], window: &Window) {
    let seconds: Vec<Value> = parties
        .iter()
        .flat_map(|party| party.stats(window.begin, window.end()))
        .map(|(_, stats)| stats)
        .collect();
    let mean = |value: fn(&Value) -> &Value| {
        let values: Vec<f64> = seconds.iter().filter_map(|stats| value(stats).as_f64()).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    measured.set("sent_kbps", mean(|s| &s["up"]["kbps"]));
    measured.set("target_kbps", mean(|s| &s["up"]["target_kbps"]));
    measured.set("video_kbps", mean(|s| &s["peers"][0]["video"]["kbps"]));
    measured.set("rtt_ms", mean(|s| &s["rtt_ms"]));
    measured.set("overhead_up_percent", mean(|s| &s["up"]["overhead"]).map(|share| 100.0 * share));
    measured.set("overhead_down_percent", mean(|s| &s["down"]["overhead"]).map(|share| 100.0 * share));
    // From milliseconds a second to percent.
    let percent = |name: &str| {
        let count = |stats: &Value| number(&stats["peers"][0]["audio"][name]);
        both(parties.each_ref().map(|party| party.growth(window.begin, window.end(), count)))
            .map(|ms| ms / 10.0)
    };
    measured.set("concealed_percent", percent("concealed_ms"));
    measured.set("repaired_percent", percent("repaired_ms"));
}

/// Takes what concerns sound from the recordings.
fn listen(
    measured: &mut Measured,
    heard: &[Heard; 2],
    window: &Window,
    time: Duration,
) -> anyhow::Result<()> {
    let mut delays = Distribution::default();
    for direction in heard {
        delays.merge(&direction.delays(window.begin, time)?);
    }
    measured.set("mouth_to_ear_p50_ms", ms(delays.quantile(0.5)));
    measured.set("mouth_to_ear_p95_ms", ms(delays.quantile(0.95)));
    measured.set("chirps", delays.len() as f64);
    let gap = heard.iter().map(|direction| direction.longest_gap(window.begin, time)).max();
    measured.set("sound_gap_ms", gap.map(|gap| gap.as_secs_f64() * 1e3));
    Ok(())
}

/// Takes what concerns pictures from the files.
fn look(measured: &mut Measured, shown: &[Shown; 2], window: &Window) -> anyhow::Result<()> {
    let mut pictures = Pictures::default();
    for (shown, name) in shown.iter().zip(NAMES) {
        pictures.merge(&shown.within(&window.media));
        if let Some((number, image)) = &shown.damaged {
            keep(image, &format!("{name}-{number}.png"))?;
        }
    }
    let both_us = 2.0 * window.seconds * 1e6;
    measured.set("picture_delay_p50_ms", ms(pictures.delay.quantile(0.5)));
    measured.set("picture_delay_p95_ms", ms(pictures.delay.quantile(0.95)));
    measured.set("picture_delay_max_ms", ms(pictures.delay.max()));
    measured.set("fps", pictures.count as f64 / 2.0 / window.seconds);
    measured.set("freezes", pictures.freezes as f64);
    measured.set("frozen_percent", 100.0 * pictures.frozen as f64 / both_us);
    measured.set("slow_percent", 100.0 * pictures.slow as f64 / both_us);
    measured.set("picture_gap_ms", pictures.longest as f64 / 1e3);
    measured.set("damaged", pictures.damaged as f64);
    pictures.psnr.sort_by(f64::total_cmp);
    if let Some(least) = pictures.psnr.first() {
        measured.set("psnr_min_db", *least);
        measured.set("psnr_median_db", pictures.psnr[pictures.psnr.len() / 2]);
        // One that does not even show its number is no copy of anything.
        let low = pictures.psnr.partition_point(|psnr| *psnr < CORRUPT_DB) as u64 + pictures.damaged;
        measured.set("psnr_low", low as f64);
    }
    Ok(())
}

/// Sets how far what the clients say is from what their pixels say, over the whole call.
fn compare(measured: &mut Measured, shown: &[Shown; 2], whole: &[Value; 2]) {
    let mut disagreement = 0.0_f64;
    for (shown, whole) in shown.iter().zip(whole) {
        let (seen, told) = (shown.all().delay, &whole["peers"][0]["video"]["latency_ms"]);
        for (quantile, name) in [(0.5, "p50"), (0.95, "p95")] {
            if let (Some(seen), Some(told)) = (ms(seen.quantile(quantile)), told[name].as_f64()) {
                disagreement = disagreement.max((seen - told).abs());
            }
        }
    }
    measured.set("disagreement_ms", disagreement);
}

/// Takes what concerns pictures from the clients' own statistics. Delays are the worse ones of both, since quantiles cannot be
/// added up, and of the whole call.
fn believe(measured: &mut Measured, parties: &[Party; 2], whole: &[Value; 2], window: &Window) {
    let worse = |name: &str| {
        let delays = whole.iter().map(|stats| number(&stats["peers"][0]["video"]["latency_ms"][name]));
        delays.fold(0.0, f64::max)
    };
    measured.set("picture_delay_p50_ms", worse("p50"));
    measured.set("picture_delay_p95_ms", worse("p95"));
    measured.set("picture_delay_max_ms", worse("max"));
    let growth = |name: &str| {
        let count = |stats: &Value| number(&stats["peers"][0]["video"][name]);
        both(parties.each_ref().map(|party| party.growth(window.begin, window.end(), count)))
    };
    measured.set("fps", growth("frames"));
    measured.set("freezes", growth("freezes").map(|each| 2.0 * each * window.seconds));
    measured.set("frozen_percent", growth("freeze_ms").map(|ms| ms / 10.0));
}

/// The stretch of time that is measured.
pub(super) struct Window {
    pub(super) begin: Instant,
    pub(super) media: Range<i64>,
    pub(super) seconds: f64,
    /// Of each process: time computed until the begin, and after the end the share of a core.
    pub(super) cpu: Vec<f64>,
}

impl Window {
    pub(super) fn open(processes: &[u32]) -> anyhow::Result<Self> {
        let now = MediaClock::new().now().as_micros() as i64;
        Ok(Self { begin: Instant::now(), media: now..now, seconds: 0.0, cpu: computed(processes)? })
    }

    pub(super) fn close(mut self, processes: &[u32]) -> anyhow::Result<Self> {
        self.media.end = MediaClock::new().now().as_micros() as i64;
        self.seconds = self.begin.elapsed().as_secs_f64();
        let after = computed(processes)?;
        for (cpu, after) in self.cpu.iter_mut().zip(after) {
            *cpu = (after - *cpu) / self.seconds;
        }
        Ok(self)
    }

    pub(super) fn end(&self) -> Instant {
        self.begin + Duration::from_secs_f64(self.seconds)
    }

    /// So long after the begin, on the clock of pictures.
    pub(super) fn media_at(&self, elapsed: Duration) -> i64 {
        self.media.start + elapsed.as_micros() as i64
    }
}

fn computed(processes: &[u32]) -> anyhow::Result<Vec<f64>> {
    processes.iter().map(|process| Ok(cpu::used(*process)?.as_secs_f64())).collect()
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

pub(super) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

/// From microseconds to milliseconds.
pub(super) fn ms(us: Option<i64>) -> Option<f64> {
    us.map(|us| us as f64 / 1e3)
}

/// The mean of what is known of both directions.
fn both(values: [Option<f64>; 2]) -> Option<f64> {
    let known = values.iter().flatten().count();
    (known > 0).then(|| values.iter().flatten().sum::<f64>() / known as f64)
}

/// Where damaged pictures are kept, below the current directory.
const DAMAGED: &str = "target/damaged";
/// A picture that is less like its original shows something else.
const CORRUPT_DB: f64 = 25.0;
/// How often lines are asked for their counts: several times in what their rates are averaged over.
const TICK: Duration = Duration::from_millis(50);
