//! What is measured of a call, by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The figures of one call. What was not measured is not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured(BTreeMap<&'static str, f64>);

impl Measured {
    /// Adds a figure that is one of [`METRICS`], if there is a value.
    pub(super) fn set(&mut self, key: &'static str, value: impl Into<Option<f64>>) {
        if let Some(value) = value.into() {
            self.0.insert(key, value);
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<f64> {
        self.0.get(key).copied()
    }
}

/// A figure over several calls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Figure {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Figure {
    /// `None` without values. The median of an even number of values is the mean of the middle two.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median, min, max })
    }
}

/// All figures of several calls of one kind.
pub(super) type Figures = BTreeMap<String, Figure>;

/// Puts the calls of one kind together.
pub(super) fn figures(runs: &[Measured]) -> Figures {
    let figure = |metric: &Metric| {
        let values = runs.iter().filter_map(|run| run.get(metric.key)).collect();
        Some((metric.key.to_owned(), Figure::of(values)?))
    };
    METRICS.iter().filter_map(figure).collect()
}

/// Something that is measured of each call.
pub(super) struct Metric {
    /// In JSON.
    pub(super) key: &'static str,
    /// In tables.
    pub(super) name: &'static str,
    pub(super) digits: usize,
}

impl Metric {
    const fn new(key: &'static str, name: &'static str, digits: usize) -> Self {
        Self { key, name, digits }
    }

    /// The metric of this name.
    pub(super) fn find(key: &str) -> Option<&'static Self> {
        METRICS.iter().find(|metric| metric.key == key)
    }
}

/// In the order of tables.
pub(super) const METRICS: &[Metric] = &[
    Metric::new("picture_delay_p50_ms", "picture delay p50, ms", 1),
    Metric::new("picture_delay_p95_ms", "picture delay p95, ms", 1),
    Metric::new("picture_delay_max_ms", "picture delay max, ms", 1),
    Metric::new("fps", "pictures shown a second", 1),
    Metric::new("freezes", "freezes, both ways", 0),
    Metric::new("frozen_percent", "frozen, % of the time", 2),
    Metric::new("slow_percent", "in gaps over 200 ms, % of the time", 2),
    Metric::new("picture_gap_ms", "longest gap of pictures, ms", 0),
    Metric::new("damaged", "damaged pictures", 0),
    Metric::new("psnr_median_db", "PSNR median, dB", 1),
    Metric::new("psnr_min_db", "PSNR least, dB", 1),
    Metric::new("psnr_low", "pictures below 25 dB", 0),
    Metric::new("mouth_to_ear_p50_ms", "mouth to ear p50, ms", 1),
    Metric::new("mouth_to_ear_p95_ms", "mouth to ear p95, ms", 1),
    Metric::new("stoi", "speech understood (STOI)", 3),
    Metric::new("chirps", "chirps heard, both ways", 0),
    Metric::new("concealed_percent", "sound invented, %", 2),
    Metric::new("repaired_percent", "sound repaired, %", 2),
    Metric::new("sound_gap_ms", "longest gap of sound, ms", 0),
    Metric::new("picture_back_ms", "picture after an outage, mean, ms", 0),
    Metric::new("picture_back_max_ms", "picture after an outage, most, ms", 0),
    Metric::new("sound_back_ms", "sound after an outage, mean, ms", 0),
    Metric::new("sound_back_max_ms", "sound after an outage, most, ms", 0),
    Metric::new("step_below_s", "below the new rate after, s", 2),
    Metric::new("step_latency_s", "delay back to its first p95 after, s", 2),
    Metric::new("step_up_s", "80 % of the old rate after, s", 2),
    Metric::new("step_peak_ms", "longest delay after the step, ms", 0),
    Metric::new("step_p50_1_ms", "picture delay p50 before, ms", 0),
    Metric::new("step_p50_2_ms", "picture delay p50 at 500 kb/s, ms", 0),
    Metric::new("step_p50_3_ms", "picture delay p50 after, ms", 0),
    Metric::new("step_frozen_percent", "frozen at 500 kb/s, %", 2),
    Metric::new("others_frames_percent", "pictures of the others, least, % of unimpaired", 1),
    Metric::new("others_received_change_percent", "video the others have of each other, most change, %", 1),
    Metric::new("others_sent_change_percent", "sent by the others, most change, %", 1),
    Metric::new("others_concealed_more", "sound of the others invented, % more", 2),
    Metric::new("sent_kbps", "sent by a client, kb/s", 0),
    Metric::new("target_kbps", "target of the encoder, kb/s", 0),
    Metric::new("video_kbps", "video received, kb/s", 0),
    Metric::new("line_up_kbps", "into a line towards the relay, kb/s", 0),
    Metric::new("line_down_kbps", "into a line from the relay, kb/s", 0),
    Metric::new("link_used_percent", "of the link used, %", 1),
    Metric::new("overhead_up_percent", "overhead up, %", 1),
    Metric::new("overhead_down_percent", "overhead down, %", 1),
    Metric::new("rtt_ms", "round trip, ms", 1),
    Metric::new("chat_p50_ms", "chat p50, ms", 0),
    Metric::new("chat_max_ms", "chat max, ms", 0),
    Metric::new("chat_lost", "chat not delivered", 0),
    Metric::new("first_picture_ms", "start to first picture, ms", 0),
    Metric::new("client_cpu_percent", "a client, % of a core", 1),
    Metric::new("relay_cpu_percent", "relay, % of a core", 1),
    Metric::new("disagreement_ms", "pixels against told, ms", 1),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_and_ranges() {
        assert_eq!(Figure::of(vec![]), None);
        assert_eq!(Figure::of(vec![3.0, 1.0, 2.0]), Some(Figure { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Figure::of(vec![4.0, 1.0]), Some(Figure { median: 2.5, min: 1.0, max: 4.0 }));
    }

    #[test]
    fn names_are_unique() {
        for metric in METRICS {
            assert_eq!(METRICS.iter().filter(|other| other.key == metric.key).count(), 1, "{}", metric.key);
            assert_eq!(Metric::find(metric.key).map(|found| found.name), Some(metric.name));
        }
    }
}
