//! The same calls of another system, measured under the same impairments.
//!
//! Chromium 156's WebRTC between two pages of one machine with 2 processors, through a relay (TURN) that passes packets on and
//! repairs nothing, with an impairment in front of each page as here. Latency there is without the receiver's display.

/// What it reached on a network.
pub(super) struct Anchor {
    pub(super) row: &'static str,
    pub(super) vp8: Codec,
    pub(super) av1: Codec,
    /// Sound invented.
    pub(super) concealed: &'static str,
}

/// With one video codec: pictures a second, share of time frozen, latency p50/p95 in milliseconds.
pub(super) struct Codec {
    pub(super) fps: &'static str,
    pub(super) frozen: &'static str,
    pub(super) latency: &'static str,
}

/// What it reached on the network of a row, if that was measured.
pub(super) fn find(row: &str) -> Option<&'static Anchor> {
    ANCHORS.iter().find(|anchor| anchor.row == row)
}

const fn anchor(
    row: &'static str,
    vp8: [&'static str; 3],
    concealed: &'static str,
    av1: [&'static str; 3],
) -> Anchor {
    let [fps, frozen, latency] = vp8;
    let vp8 = Codec { fps, frozen, latency };
    let [fps, frozen, latency] = av1;
    Anchor { row, vp8, av1: Codec { fps, frozen, latency }, concealed }
}

/// Ranges where runs differed by more than a quarter.
const ANCHORS: &[Anchor] = &[
    anchor("clean", ["28.9", "0 %", "67/108"], "0 %", ["28.5", "0 %", "54-72/84-120"]),
    anchor("wifi", ["28.3", "0 %", "71-116/102-152"], "0.3-0.7 %", ["28.1", "0 %", "133/155"]),
    anchor("loss5", ["28.8", "0-0.5 %", "108/135"], "1.7 %", ["25.0", "2.6 %", "119/147"]),
    anchor("loss10", ["18.0", "25 %", "192/269-3620"], "4.8 %", ["17.7", "19-26 %", "189-299/257-3117"]),
    anchor("loss20", ["10.2", "49 %", "3147/4097"], "14 %", ["8.6-11.7", "31 %", "3319/3980"]),
    anchor("lossyburst", ["2.8-4.3", "42-60 %", "3487/4927"], "39 %", ["3.9", "66 %", "3508/5044"]),
    anchor("loss10-x1", ["27.6", "0.5 %", "113/137"], "1.5 %", ["26.0", "4.1 %", "155/196"]),
    anchor("loss20-x1", ["21.8", "9.8 %", "133/185"], "5.3 %", ["17.7", "17 %", "186/2267"]),
    anchor("lossyburst-x1", ["13.8", "28 %", "2699/3767"], "18 %", ["13.1", "28 %", "417/4001"]),
    anchor("burst", ["27.0", "6.5 %", "99/137-216"], "5.7 %", ["27.1", "6.6 %", "97/133"]),
    anchor("500k", ["28.5", "0 %", "158/202"], "0 %", ["28.6", "0 %", "139/176"]),
];

/// The other system at the step, line by line as the page has them: figure, VP8, AV1 (which sent only 869 kb/s before).
pub(super) const STEP: &[(&str, &str, &str)] = &[
    ("step_below_s", "1.9-4.2", "0.9-1.1"),
    ("step_latency_s", "never", "0.7-1.3, within 100 ms; then creeps back to 300-330 ms"),
    ("step_up_s", "20 twice, never twice", "6.8-10.1"),
    ("step_peak_ms", "3000-4600", "350-470"),
    ("step_p50_1_ms", "118", "92"),
    ("step_p50_2_ms", "338", "267"),
    ("step_p50_3_ms", "336", "256"),
    ("step_frozen_percent", "13-23", "0-2"),
];

#[cfg(test)]
mod tests {
    use super::super::metrics::Metric;
    use super::super::options::Setup;
    use super::*;

    #[test]
    fn each_has_a_row_and_figures_to_stand_beside() {
        let rows: Vec<_> = Setup::table().iter().filter_map(Setup::row).collect();
        assert!(ANCHORS.iter().all(|anchor| rows.iter().any(|row| row == anchor.row)));
        assert!(STEP.iter().all(|(key, _, _)| Metric::find(key).is_some()));
        assert!(find("loss10 clip").is_none());
    }
}
