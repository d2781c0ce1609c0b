//! What calls have to reach on 2 processors at 640x360, 30 pictures a second.

use std::fmt;

use serde_json::{Value, json};

use super::metrics::{Figures, Metric};

/// A figure of a row and the most or the least that it should be.
struct Bar {
    row: &'static str,
    key: &'static str,
    limit: Limit,
}

#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// A bar and what was measured.
pub(super) struct Verdict {
    bar: &'static Bar,
    /// Nothing when it was not measured, which misses the bar.
    pub(super) measured: Option<f64>,
}

/// How a row of this name fares against its bars.
pub(super) fn verdicts(row: &str, figures: &Figures) -> Vec<Verdict> {
    let bars = BARS.iter().filter(|bar| bar.row == row);
    bars.map(|bar| Verdict { bar, measured: figures.get(bar.key).map(|figure| figure.median) }).collect()
}

impl Verdict {
    pub(super) fn is_met(&self) -> bool {
        self.measured.is_some_and(|measured| match self.bar.limit {
            Limit::AtMost(limit) => measured <= limit,
            Limit::AtLeast(limit) => measured >= limit,
        })
    }

    pub(super) fn word(&self) -> &'static str {
        if self.is_met() { "met" } else { "MISSED" }
    }

    pub(super) fn name(&self) -> &'static str {
        Metric::find(self.bar.key).map_or(self.bar.key, |metric| metric.name)
    }

    /// Such as `at most 40`.
    pub(super) fn limit(&self) -> String {
        match self.bar.limit {
            Limit::AtMost(limit) => format!("at most {limit}"),
            Limit::AtLeast(limit) => format!("at least {limit}"),
        }
    }

    /// With as many digits as the table has.
    pub(super) fn value(&self) -> String {
        let digits = Metric::find(self.bar.key).map_or(1, |metric| metric.digits);
        self.measured.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
    }

    pub(super) fn json(&self) -> Value {
        let (Limit::AtMost(limit) | Limit::AtLeast(limit)) = self.bar.limit;
        let side = if matches!(self.bar.limit, Limit::AtMost(_)) { "most" } else { "least" };
        json!({
            "figure": self.bar.key, "measured": self.measured, "limit": limit, "side": side, "met": self.is_met()
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<6}  {}: {}, {}", self.word(), self.name(), self.value(), self.limit())
    }
}

const fn most(row: &'static str, key: &'static str, limit: f64) -> Bar {
    Bar { row, key, limit: Limit::AtMost(limit) }
}

const fn least(row: &'static str, key: &'static str, limit: f64) -> Bar {
    Bar { row, key, limit: Limit::AtLeast(limit) }
}

/// Silence of one or two blocks is where a chirp fades in or a splice is, not a gap.
const NO_GAP_MS: f64 = 20.0;
/// The round trip of the lines on which nothing passes for a while, and of those on which an address changes: between a
/// client and the relay, the one that repairs take.
const RTT_MS: f64 = 20.0;
const REBIND_RTT_MS: f64 = 50.0;
/// An unchanged rate, give or take what one run differs from another on the same network.
const SAME_PERCENT: f64 = 5.0;

/// By row; the median of the runs counts.
const BARS: &[Bar] = &[
    most("clean", "picture_delay_p50_ms", 40.0),
    most("clean", "picture_delay_p95_ms", 60.0),
    most("clean", "mouth_to_ear_p50_ms", 50.0),
    most("clean", "mouth_to_ear_p95_ms", 60.0),
    // 150 ms and one and a half round trips, which take nothing here.
    most("clean", "first_picture_ms", 150.0),
    most("clean", "overhead_up_percent", 3.0),
    most("clean", "overhead_down_percent", 3.0),
    most("wifi", "picture_delay_p50_ms", 90.0),
    most("wifi", "picture_delay_p95_ms", 130.0),
    least("wifi", "fps", 29.0),
    most("wifi", "freezes", 0.0),
    most("wifi", "concealed_percent", 0.2),
    most("wifi", "mouth_to_ear_p95_ms", 150.0),
    least("loss5", "fps", 29.0),
    most("loss5", "frozen_percent", 0.3),
    most("loss5", "picture_delay_p95_ms", 130.0),
    most("loss5", "concealed_percent", 0.3),
    most("loss5", "overhead_up_percent", 25.0),
    most("loss5", "overhead_down_percent", 25.0),
    least("loss10", "fps", 27.0),
    most("loss10", "frozen_percent", 2.0),
    most("loss10", "picture_delay_p95_ms", 200.0),
    most("loss10", "concealed_percent", 1.0),
    least("loss20", "fps", 20.0),
    most("loss20", "frozen_percent", 6.0),
    most("loss20", "picture_delay_p95_ms", 350.0),
    most("loss20", "concealed_percent", 3.0),
    most("loss20", "first_picture_ms", 1500.0),
    least("lossyburst", "fps", 10.0),
    most("lossyburst", "frozen_percent", 25.0),
    most("lossyburst", "picture_delay_p95_ms", 700.0),
    most("lossyburst", "concealed_percent", 12.0),
    least("loss20-x1", "fps", 27.0),
    most("loss20-x1", "frozen_percent", 2.0),
    most("loss20-x1", "concealed_percent", 1.0),
    most("burst", "frozen_percent", 6.5),
    most("burst", "picture_back_max_ms", RTT_MS + 100.0),
    most("burst", "sound_gap_ms", 300.0 + 40.0),
    most("outage", "sound_back_max_ms", RTT_MS + 100.0),
    most("outage", "picture_back_max_ms", RTT_MS + 200.0),
    most("rebind", "picture_gap_ms", 2.0 * REBIND_RTT_MS + 50.0),
    most("rebind", "sound_gap_ms", 2.0 * REBIND_RTT_MS + 50.0),
    most("500k", "picture_delay_p50_ms", 100.0),
    most("500k", "picture_delay_p95_ms", 150.0),
    least("500k", "link_used_percent", 80.0),
    most("500k", "freezes", 0.0),
    most("500k", "concealed_percent", 0.0),
    most("step", "step_below_s", 1.0),
    most("step", "step_latency_s", 2.0),
    most("step", "step_up_s", 6.0),
    most("step", "sound_gap_ms", NO_GAP_MS),
    least("crushed", "others_frames_percent", 99.0),
    most("crushed", "others_received_change_percent", SAME_PERCENT),
    most("crushed", "others_concealed_more", 0.1),
    least("crushed-loss", "others_frames_percent", 99.0),
    most("crushed-loss", "others_received_change_percent", SAME_PERCENT),
    most("crushed-loss", "others_concealed_more", 0.1),
    most("satellite", "sound_gap_ms", NO_GAP_MS),
    most("satellite", "chat_lost", 0.0),
    most("clean clip", "psnr_low", 0.0),
    most("loss5 clip", "psnr_low", 0.0),
    most("loss10 clip", "psnr_low", 0.0),
    least("loss10 clip", "psnr_median_db", 38.0),
    most("loss20 clip", "psnr_low", 0.0),
    most("lossyburst clip", "psnr_low", 0.0),
    least("loss20 speech", "stoi", 0.9),
    least("lossyburst speech", "stoi", 0.75),
];

#[cfg(test)]
mod tests {
    use super::super::metrics::Figure;
    use super::super::options::Setup;
    use super::*;

    #[test]
    fn every_bar_is_about_a_figure_of_a_row() {
        let rows: Vec<_> = Setup::table().iter().filter_map(Setup::row).collect();
        for bar in BARS {
            assert!(Metric::find(bar.key).is_some(), "{}", bar.key);
            assert!(rows.iter().any(|row| row == bar.row), "{}", bar.row);
        }
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        let figure = |value| Figure { median: value, min: value, max: value };
        let figures = [("fps", 29.0), ("freezes", 1.0)].map(|(key, value)| (key.to_owned(), figure(value)));
        let verdicts = verdicts("wifi", &figures.into_iter().collect());
        let texts: Vec<_> = verdicts.iter().map(ToString::to_string).collect();
        assert!(texts.contains(&"met     pictures shown a second: 29.0, at least 29".into()), "{texts:?}");
        assert!(texts.contains(&"MISSED  freezes, both ways: 1, at most 0".into()), "{texts:?}");
        assert!(texts.contains(&"MISSED  sound invented, %: -, at most 0.2".into()), "{texts:?}");
    }
}
