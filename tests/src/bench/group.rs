//! A call of four of whom one has a bad line: what the others notice.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::call::{Window, number};
use super::metrics::Measured;
use super::options::Setup;
use super::profile::Profile;
use super::stage::{Party, Stage, WARM_UP};

/// Makes the call twice, without impairment and with it, and compares what the unimpaired ones have of each other.
///
/// The figures of pictures and sound themselves are those of the impaired client.
pub(super) fn measure(setup: &Setup, time: Duration, seed: u64) -> anyhow::Result<Measured> {
    let [before, after] =
        [Seen::of_call(setup, Profile::Clean, time, seed)?, Seen::of_call(setup, setup.profile, time, seed)?];
    let percent = |before: &[f64], after: &[f64]| -> Vec<f64> {
        before.iter().zip(after).map(|(before, after)| 100.0 * after / before.max(f64::EPSILON)).collect()
    };
    let frames = percent(&before.frames, &after.frames);
    // More is no better: it is what key frames for the impaired one cost all of them.
    let change = |before: &[f64], after: &[f64]| {
        percent(before, after).into_iter().map(|share| (share - 100.0).abs()).fold(0.0, f64::max)
    };
    let mut measured = Measured::default();
    measured.set("others_frames_percent", frames.into_iter().fold(f64::INFINITY, f64::min));
    measured.set("others_received_change_percent", change(&before.received, &after.received));
    // With the small size, which only the impaired one gets.
    measured.set("others_sent_change_percent", change(&before.sent, &after.sent));
    measured.set("others_concealed_more", after.concealed - before.concealed);
    measured.set("fps", after.last.fps);
    measured.set("concealed_percent", after.last.concealed);
    measured.set("sent_kbps", after.last.sent);
    measured.set("client_cpu_percent", after.client_cpu);
    measured.set("relay_cpu_percent", after.relay_cpu);
    Ok(measured)
}

/// What was seen in one call.
struct Seen {
    /// Pictures a second of each of the unimpaired clients at each other one of them.
    frames: Vec<f64>,
    /// Video of the same, in kb/s.
    received: Vec<f64>,
    /// Sent by each of them, in kb/s.
    sent: Vec<f64>,
    /// Sound that they had to invent of each other, the mean in percent.
    concealed: f64,
    last: Last,
    client_cpu: f64,
    relay_cpu: f64,
}

/// What the impaired client saw and heard, the mean of the others, and what it sent.
struct Last {
    fps: f64,
    concealed: f64,
    sent: f64,
}

impl Seen {
    fn of_call(setup: &Setup, profile: Profile, time: Duration, seed: u64) -> anyhow::Result<Self> {
        let clients = setup.profile.clients();
        let mut stage = Stage::start(setup, profile, time, seed)?;
        let mut parties = Vec::new();
        for number in 0..clients {
            let mut party = stage.join(number, setup)?;
            party.process.wait_for_event_named("joined")?;
            parties.push(party);
        }
        // The impaired one may never see all of them.
        let (others, last) = parties.split_at_mut(clients - 1);
        others.iter_mut().try_for_each(|party| party.wait_for_pictures(clients - 2).map(drop))?;
        thread::sleep(WARM_UP);
        let mut processes: Vec<u32> = others.iter().chain(&*last).map(|party| party.process.id()).collect();
        processes.push(stage.relay.id());
        let window = Window::open(&processes)?;
        thread::sleep(time);
        let window = window.close(&processes)?;

        let names = &super::stage::NAMES[..clients - 1];
        let (mut frames, mut received, mut concealed) = (Vec::new(), Vec::new(), Vec::new());
        for (party, own) in others.iter().zip(names) {
            for name in names.iter().filter(|name| *name != own) {
                frames.push(growth(party, &window, |stats| about(stats, name, "video", "frames")));
                received.push(average(party, &window, |stats| about(stats, name, "video", "kbps")));
                concealed.push(growth(party, &window, |stats| about(stats, name, "audio", "concealed_ms")));
            }
        }
        let of_all = |kind, count| {
            let of = |name: &&str| growth(&last[0], &window, |stats| about(stats, name, kind, count));
            mean(&names.iter().map(of).collect::<Vec<_>>())
        };
        let seen = Self {
            sent: others.iter().map(|party| sent(party, &window)).collect(),
            // From milliseconds a second to percent.
            concealed: mean(&concealed) / 10.0,
            last: Last {
                fps: of_all("video", "frames"),
                concealed: of_all("audio", "concealed_ms") / 10.0,
                sent: sent(&last[0], &window),
            },
            client_cpu: 100.0 * mean(&window.cpu[..clients]),
            relay_cpu: 100.0 * window.cpu[clients],
            frames,
            received,
        };
        parties.iter_mut().try_for_each(Party::leave)?;
        stage.lines.clear();
        Ok(seen)
    }
}

fn growth(party: &Party, window: &Window, count: impl Fn(&Value) -> f64) -> f64 {
    party.growth(window.begin, window.end(), count).unwrap_or(0.0)
}

/// What a client has sent, in kb/s.
fn sent(party: &Party, window: &Window) -> f64 {
    average(party, window, |stats| number(&stats["up"]["kbps"]))
}

fn average(party: &Party, window: &Window, rate: impl Fn(&Value) -> f64) -> f64 {
    let stats = party.stats(window.begin, window.end());
    mean(&stats.iter().map(|(_, stats)| rate(stats)).collect::<Vec<_>>())
}

/// A count of the statistics about somebody, zero as long as there are none.
fn about(stats: &Value, name: &str, kind: &str, count: &str) -> f64 {
    let peers = stats["peers"].as_array();
    let peer = peers.and_then(|peers| peers.iter().find(|peer| peer["name"] == name));
    peer.map_or(0.0, |peer| number(&peer[kind][count]))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
