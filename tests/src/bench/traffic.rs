//! What went over the lines, counted by the lines themselves.

use std::time::Duration;

use anyhow::Context;
use vchat_proto::units::Bitrate;

use super::step::NEVER;
use crate::netem::{Counts, Report, Running};

/// The counts of all lines, taken again and again while a call is measured.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    samples: Vec<Sample>,
}

/// The counts of the lines that there are, in order of the clients.
#[derive(Debug)]
struct Sample {
    /// Since the begin.
    at: Duration,
    lines: Vec<Report>,
}

impl Traffic {
    /// Asks all lines.
    pub(super) fn sample(&mut self, at: Duration, lines: &[Option<Running>]) -> anyhow::Result<()> {
        let lines = lines.iter().flatten().map(Running::report);
        let lines = lines.collect::<Result<_, _>>().context("a line has failed")?;
        self.samples.push(Sample { at, lines });
        Ok(())
    }

    /// What went into a line towards the relay, in kb/s with IP headers; the mean of all lines, `None` without any.
    pub(super) fn up_kbps(&self) -> Option<f64> {
        self.mean(|report| report.up)
    }

    /// The same from the relay.
    pub(super) fn down_kbps(&self) -> Option<f64> {
        self.mean(|report| report.down)
    }

    /// The share of what lines with this `rate` could have passed towards the relay that they did pass, in percent.
    pub(super) fn used_percent(&self, rate: Bitrate) -> Option<f64> {
        let shares = self.over_all(|report| report.up.passed_bytes as f64 * 8.0)?;
        Some(100.0 * shares / rate.bps() as f64)
    }

    /// How many seconds after `from` a client sent less than `rate`, on average over [`AVERAGED`]; [`NEVER`] when that is not
    /// until `to`. The mean of all lines.
    pub(super) fn below_after(&self, rate: Bitrate, from: Duration, to: Duration) -> Option<f64> {
        self.reached(from, to, |kbps| kbps < rate.bps() as f64 / 1e3)
    }

    /// The same for at least `rate`.
    pub(super) fn above_after(&self, rate: Bitrate, from: Duration, to: Duration) -> Option<f64> {
        self.reached(from, to, |kbps| kbps >= rate.bps() as f64 / 1e3)
    }

    fn reached(&self, from: Duration, to: Duration, is_it: impl Fn(f64) -> bool) -> Option<f64> {
        let lines = self.samples.first()?.lines.len();
        let time = |line: usize| {
            let begins = self.samples.iter().filter(|sample| sample.at >= from);
            let windows = begins.filter_map(|begin| {
                let end = self.samples.iter().find(|end| end.at >= begin.at + AVERAGED && end.at <= to)?;
                Some((begin, end))
            });
            let mut reached = windows.filter(|(begin, end)| {
                let bits = sent_bits(end.lines[line].up) - sent_bits(begin.lines[line].up);
                is_it(bits / (end.at - begin.at).as_secs_f64() / 1e3)
            });
            reached.next().map_or(NEVER, |(begin, _)| (begin.at - from).as_secs_f64())
        };
        (lines > 0).then(|| (0..lines).map(time).sum::<f64>() / lines as f64)
    }

    fn mean(&self, side: impl Fn(&Report) -> Counts) -> Option<f64> {
        Some(self.over_all(|report| sent_bits(side(report)))? / 1e3)
    }

    /// How much a count has grown a second from the first sample to the last, the mean of all lines.
    fn over_all(&self, count: impl Fn(&Report) -> f64) -> Option<f64> {
        let (first, last) = (self.samples.first()?, self.samples.last()?);
        let seconds = (last.at - first.at).as_secs_f64();
        let growth = first.lines.iter().zip(&last.lines).map(|(first, last)| count(last) - count(first));
        let lines = first.lines.len();
        (seconds > 0.0 && lines > 0).then(|| growth.sum::<f64>() / lines as f64 / seconds)
    }
}

/// With the headers of IPv4 and UDP, as a line's rate counts them.
fn sent_bits(counts: Counts) -> f64 {
    (counts.bytes + counts.packets * HEADER_BYTES) as f64 * 8.0
}

const HEADER_BYTES: u64 = 28;
/// As long as a rate has to hold: several pictures, so that neither a key frame nor a pause between two pictures decides.
const AVERAGED: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_times_come_from_the_counts() {
        let mut traffic = Traffic::default();
        let mut up = Counts::default();
        // 1 Mb/s for 4 s, 400 kb/s for 2 s, 2 Mb/s for 4 s, in steps of 100 ms with one packet each.
        for step in 0..=100_u64 {
            let lines = vec![Report { up, ..Report::default() }];
            traffic.samples.push(Sample { at: Duration::from_millis(step * 100), lines });
            let bytes = match step {
                0..40 => 12_500,
                40..60 => 5_000,
                _ => 25_000,
            };
            up.bytes += bytes - 28;
            up.packets += 1;
            up.passed_bytes += bytes / 2;
        }
        let near = |value: Option<f64>, expected: f64| {
            assert!((value.expect("a value") - expected).abs() < 1e-6, "{value:?} instead of {expected}");
        };
        near(traffic.up_kbps(), (4.0 * 1000.0 + 2.0 * 400.0 + 4.0 * 2000.0) / 10.0);
        near(traffic.used_percent(Bitrate::from_kbps(1280)), 50.0);
        let s = Duration::from_secs;
        // Half a second has less than 500 kb/s on average when less than a sixth of it lies before the step, and more than
        // 1.6 Mb/s when at least three quarters lie after the next one.
        near(traffic.below_after(Bitrate::from_kbps(500), s(3), s(6)), 1.0);
        near(traffic.above_after(Bitrate::from_kbps(1600), s(5), s(10)), 0.9);
        near(traffic.above_after(Bitrate::from_kbps(2500), s(6), s(10)), NEVER);
        assert_eq!(Traffic::default().up_kbps(), None);
        assert_eq!(traffic.down_kbps(), Some(0.0));
    }
}
