//! The page of all figures.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::anchor::{self, Anchor};
use super::bars::verdicts;
use super::metrics::Metric;
use super::table::Record;

/// The page in Markdown.
pub(super) fn text(records: &[Record]) -> String {
    let mut page = String::from(INTRODUCTION);
    page += &origin(records);
    page += "\n## Beside Chromium's WebRTC\n\n";
    page += ANCHOR_NOTE;
    page += &beside_anchor(records);
    if let Some(step) = records.iter().find(|record| record.row == "step") {
        page += "\n## A step from 2 Mb/s to 500 kb/s and back\n\n";
        page += &steps(step);
    }
    page += "\n## What has to hold\n\n";
    page += &bars(records);
    for (title, keys) in SECTIONS {
        let _ = write!(page, "\n## {title}\n\n");
        page += &section(records, keys);
    }
    let failures: Vec<_> = records
        .iter()
        .flat_map(|r| r.failures.iter().map(move |why| format!("- {}: {why}\n", r.row)))
        .collect();
    if !failures.is_empty() {
        page += "\n## Calls that failed\n\n";
        page += &failures.concat();
    }
    page
}

/// Every bar, what was measured, and whether that is enough, as a table in Markdown.
pub(super) fn bars(records: &[Record]) -> String {
    let mut text = header(&["call", "figure", "bar", "measured", ""]);
    let (mut met, mut all) = (0, 0);
    for record in records {
        for verdict in verdicts(&record.row, &record.figures) {
            let cells =
                [record.row.as_str(), verdict.name(), &verdict.limit(), &verdict.value(), verdict.word()];
            text += &line(&cells);
            met += u32::from(verdict.is_met());
            all += 1;
        }
    }
    let _ = write!(text, "\n{met} of {all} bars are met.\n");
    text
}

/// Where, when and of what the figures are.
fn origin(records: &[Record]) -> String {
    let parts: BTreeSet<String> = records
        .iter()
        .map(|r| format!("- {}, revision {}, on {}\n", r.date, r.machine.revision(), r.machine.hardware()))
        .collect();
    let loads = records.iter().map(|record| record.machine.load());
    let (least, most) = loads.fold((f64::INFINITY, 0.0_f64), |(least, most), l| (least.min(l), most.max(l)));
    let kinds: BTreeSet<String> =
        records.iter().map(|record| format!("{} runs of {} s", record.runs, record.seconds)).collect();
    let kinds: Vec<_> = kinds.into_iter().collect();
    let mut text: String = parts.into_iter().collect();
    if !records.is_empty() {
        let _ = write!(
            text,
            "\nThe load before the rows was {least:.1} to {most:.1}; {}; each figure is the median.\n",
            kinds.join(", ")
        );
    }
    text
}

fn beside_anchor(records: &[Record]) -> String {
    let mut text = header(&[
        "network",
        "fps",
        "VP8",
        "AV1",
        "frozen",
        "VP8",
        "AV1",
        "latency p50/p95, ms",
        "VP8",
        "AV1",
        "sound invented",
        "Chromium",
    ]);
    for record in records {
        let Some(Anchor { vp8, av1, concealed, .. }) = anchor::find(&record.row) else { continue };
        let latency =
            format!("{}/{}", cell(record, "picture_delay_p50_ms"), cell(record, "picture_delay_p95_ms"));
        text += &line(&[
            &record.row,
            &cell(record, "fps"),
            vp8.fps,
            av1.fps,
            &format!("{} %", cell(record, "frozen_percent")),
            vp8.frozen,
            av1.frozen,
            &latency,
            vp8.latency,
            av1.latency,
            &format!("{} %", cell(record, "concealed_percent")),
            concealed,
        ]);
    }
    text
}

fn steps(record: &Record) -> String {
    let mut text = header(&["", "vchat", "VP8", "AV1"]);
    for (key, vp8, av1) in anchor::STEP {
        let name = Metric::find(key).map_or(*key, |metric| metric.name);
        text += &line(&[name, &cell(record, key), vp8, av1]);
    }
    text + "\nA minute says that it did not happen within its phase.\n"
}

/// The rows that have the first of these figures.
fn section(records: &[Record], keys: &[&str]) -> String {
    let names = keys.iter().map(|key| Metric::find(key).map_or(*key, |metric| metric.name));
    let mut text = header(&std::iter::once("call").chain(names).collect::<Vec<_>>());
    let has = |record: &&Record| keys.first().is_some_and(|key| record.figures.contains_key(*key));
    for record in records.iter().filter(has) {
        let cells = keys.iter().map(|key| cell(record, key));
        let cells: Vec<String> = std::iter::once(record.row.clone()).chain(cells).collect();
        text += &line(&cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
    text
}

fn cell(record: &Record, key: &str) -> String {
    let digits = Metric::find(key).map_or(1, |metric| metric.digits);
    record.figures.get(key).map_or_else(|| "-".into(), |figure| format!("{:.digits$}", figure.median))
}

fn header(names: &[&str]) -> String {
    line(names) + &line(&vec!["---"; names.len()])
}

fn line(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// Figures of one table each.
const SECTIONS: &[(&str, &[&str])] = &[
    (
        "Pictures",
        &[
            "fps",
            "frozen_percent",
            "slow_percent",
            "picture_gap_ms",
            "picture_delay_p50_ms",
            "picture_delay_p95_ms",
            "damaged",
            "first_picture_ms",
        ],
    ),
    (
        "Sound and chat",
        &[
            "mouth_to_ear_p50_ms",
            "mouth_to_ear_p95_ms",
            "concealed_percent",
            "repaired_percent",
            "sound_gap_ms",
            "chat_p50_ms",
            "chat_max_ms",
            "chat_lost",
        ],
    ),
    (
        "Traffic and processors",
        &[
            "sent_kbps",
            "target_kbps",
            "line_up_kbps",
            "line_down_kbps",
            "link_used_percent",
            "overhead_up_percent",
            "overhead_down_percent",
            "rtt_ms",
            "client_cpu_percent",
            "relay_cpu_percent",
        ],
    ),
    ("Quality of pictures", &["psnr_median_db", "psnr_min_db", "psnr_low", "sent_kbps"]),
    ("Speech understood", &["stoi", "concealed_percent", "repaired_percent", "sent_kbps"]),
    (
        "After outages",
        &["picture_back_ms", "picture_back_max_ms", "sound_back_ms", "sound_back_max_ms", "sound_gap_ms"],
    ),
    (
        "Four of whom one has a bad line",
        &[
            "others_frames_percent",
            "others_received_change_percent",
            "others_sent_change_percent",
            "others_concealed_more",
            "fps",
            "frozen_percent",
        ],
    ),
];

const INTRODUCTION: &str = "# Calls on all networks

Written by `make bench` (`vchat-bench table`); do not edit. `vchat-bench call --help` tells what each network is; how figures are
taken is in [benchmarks.md](benchmarks.md).

";

const ANCHOR_NOTE: &str = "Chromium 156's WebRTC, measured under the same impairments: two pages through a TURN relay on 2 shared processors, 640x360 at 30
pictures a second, an impairment in front of each page as here. Its relay repairs nothing, so a fair reading of what it could do
through a relay that ends each hop lies between a row and its `-x1` row. Its latency is without the receiver's display; read a
fifth as noise.

";

#[cfg(test)]
mod tests {
    use super::super::machine::Machine;
    use super::super::metrics::Figure;
    use super::*;

    #[test]
    fn the_page_has_what_is_there_and_says_what_is_missed() {
        let figure = |median| Figure { median, min: median, max: median };
        let record = |row: &str, figures: &[(&str, f64)]| Record {
            row: row.into(),
            setup: row.into(),
            date: "2026-01-31".into(),
            machine: Machine::read(),
            seconds: 30.0,
            runs: 3,
            failures: Vec::new(),
            figures: figures.iter().map(|(key, value)| ((*key).to_owned(), figure(*value))).collect(),
        };
        let mut records = vec![
            record("loss10", &[("fps", 26.5), ("frozen_percent", 1.5), ("picture_delay_p50_ms", 90.0)]),
            record("step", &[("step_below_s", 0.5)]),
            record("loss10 clip", &[("psnr_median_db", 38.5), ("psnr_low", 0.0)]),
        ];
        records[2].failures.push("it did not start".into());
        let page = text(&records);
        for part in [
            "| loss10 | 26.5 | 18.0 | 17.7 | 1.50 % | 25 % | 19-26 % | 90.0/- |",
            "| loss10 | pictures shown a second | at least 27 | 26.5 | MISSED |",
            "| loss10 clip | PSNR median, dB | at least 38 | 38.5 | met |",
            "| below the new rate after, s | 0.50 | 1.9-4.2 | 0.9-1.1 |",
            "- loss10 clip: it did not start",
            "4 of 10 bars are met.",
            "2026-01-31",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }

    #[test]
    fn sections_are_of_figures() {
        for key in SECTIONS.iter().flat_map(|(_, keys)| *keys) {
            assert!(Metric::find(key).is_some(), "{key}");
        }
    }
}
