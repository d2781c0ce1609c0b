//! One of the others, as the main thread sees them.

use serde_json::{Value, json};
use vchat_proto::session::Peer;
use vchat_proto::stats::Distribution;
use vchat_proto::units::MediaTime;

use super::decode::Decoded;
use super::freeze::Freezes;
use crate::audio::{Heard, PeerAudio};
use crate::net::PeerNetStats;
use crate::slot::Slot;

/// A remote participant: who, the newest picture, and how well it goes.
pub(crate) struct Remote {
    pub(crate) peer: Peer,
    pub(crate) slot: Slot<Decoded>,
    /// The newest picture and how many there were.
    pub(crate) current: Option<Decoded>,
    pub(crate) version: u64,
    pub(crate) heard: Heard,
    /// What to add to their time to get ours, in microseconds.
    pub(crate) clock_difference: i64,
    pub(crate) first_shown: bool,
    freezes: Freezes,
    second: Measured,
    total: Measured,
    audio: Option<PeerAudio>,
    net: Option<PeerNetStats>,
}

#[derive(Clone, Default)]
struct Measured {
    frames: u64,
    latency: Distribution,
    skew: Distribution,
}

impl Remote {
    pub(crate) fn new(peer: Peer) -> Self {
        Self {
            peer,
            slot: Slot::default(),
            current: None,
            version: 0,
            heard: Heard::default(),
            clock_difference: 0,
            first_shown: false,
            freezes: Freezes::default(),
            second: Measured::default(),
            total: Measured::default(),
            audio: None,
            net: None,
        }
    }

    /// The peer's own description changed.
    pub(crate) fn update(&mut self, peer: Peer) {
        if peer.camera_off {
            self.freezes.pause();
        }
        self.peer = peer;
    }

    /// Takes the newest picture out of the slot, if there is one.
    pub(crate) fn take_picture(&mut self) -> bool {
        let Some(decoded) = self.slot.take() else { return false };
        self.current = Some(decoded);
        self.version += 1;
        true
    }

    /// The current picture is on the screen since `at`.
    pub(crate) fn shown(&mut self, at: MediaTime) {
        let Some(decoded) = &self.current else { return };
        let raw = at.micros_since(decoded.captured);
        for measured in [&mut self.second, &mut self.total] {
            measured.frames += 1;
            measured.latency.record(raw - self.clock_difference);
            if let Some(heard) = decoded.audio_delay_us {
                // Positive: the sound leads.
                measured.skew.record(raw - heard);
            }
        }
        self.freezes.shown(at.as_micros() as i64);
    }

    /// When the current picture was taken, on our clock.
    pub(crate) fn captured(&self) -> Option<MediaTime> {
        self.current.as_ref().map(|d| d.captured.offset(self.clock_difference))
    }

    pub(crate) fn set_audio(&mut self, audio: PeerAudio) {
        self.audio = Some(audio);
    }

    pub(crate) fn set_net(&mut self, net: PeerNetStats) {
        self.clock_difference = net.clock_difference.unwrap_or(self.clock_difference);
        self.net = Some(net);
    }

    /// Statistics of the last second, or of the whole call of `seconds`.
    pub(crate) fn stats(&mut self, whole: bool, seconds: f64) -> Value {
        let second = std::mem::take(&mut self.second);
        let measured = if whole { &self.total } else { &second };
        let (width, height) =
            self.current.as_ref().map_or((0, 0), |d| (d.picture.width(), d.picture.height()));
        let audio = self.audio.as_ref();
        let latency = audio.map(|a| if whole { &a.latency_total } else { &a.latency });
        json!({
            "participant": self.peer.id.0,
            "name": self.peer.name.as_str(),
            "video": {
                "fps": round(measured.frames as f64 / seconds.max(0.001)), "width": width, "height": height,
                "kbps": self.net.map_or(0.0, |n| n.video_kbps.round()), "frames": self.total.frames,
                "freezes": self.freezes.count, "freeze_ms": self.freezes.total_us / 1000,
                "latency_ms": quantiles(&measured.latency, 0, &["p50", "p95", "max"]),
            },
            "audio": {
                "kbps": audio.map_or(0, |a| a.kbps), "concealed_ms": audio.map_or(0, |a| a.concealed_ms),
                "repaired_ms": audio.map_or(0, |a| a.repaired_ms), "buffer_ms": audio.map_or(0, |a| a.buffer_ms),
                "latency_ms": latency.map_or(Value::Null, |l| quantiles(l, self.clock_difference, &["p50", "p95", "max"])),
            },
            "skew_ms": quantiles(&measured.skew, 0, &["p50", "p99"]),
        })
    }
}

/// Quantiles by name in milliseconds, less an offset in microseconds; null without samples.
pub(crate) fn quantiles(d: &Distribution, less_us: i64, names: &[&str]) -> Value {
    let quantile = |name: &str| match name {
        "p50" => d.quantile(0.5),
        "p95" => d.quantile(0.95),
        "p99" => d.quantile(0.99),
        _ => d.max(),
    };
    if d.is_empty() {
        return Value::Null;
    }
    let entry = |name: &&str| {
        ((*name).to_owned(), json!(round(quantile(name).map_or(0.0, |us| (us - less_us) as f64 / 1e3))))
    };
    Value::Object(names.iter().map(entry).collect())
}

pub(crate) fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
