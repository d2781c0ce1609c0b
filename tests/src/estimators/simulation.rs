//! Runs flows over one link.

use std::time::Duration;

use vchat_proto::units::Bitrate;

use super::candidate::{Candidate, Goog, Own};
use super::flow::{Datagram, Flow, Report, STEP};
use super::log::Log;
use super::scenario::Scenario;
use crate::netem::{Link, Random, Script, Settings, Side};

/// An estimator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// That of `vchat_proto::cc`.
    Own,
    /// That of the crate `goog_cc`.
    Goog,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Time a packet would wait in the link's queue, every [`Self::SAMPLE`].
    pub queue: Vec<Duration>,
    /// Rate of the link in bits per second, every [`Self::SAMPLE`]; infinite when it has no limit.
    pub line: Vec<f64>,
    /// What each flow saw.
    pub flows: Vec<Log>,
}

impl Outcome {
    /// Time between samples.
    pub const SAMPLE: Duration = Duration::from_millis(5);
}

/// Runs a scenario.
#[must_use]
pub fn run(scenario: &Scenario, which: Which, seed: u64) -> Outcome {
    let script = Script::parse(scenario.script).unwrap_or_default();
    let mut next_step = 0;
    let (mut up, mut down) = (Settings::default(), Settings::default());
    let mut wire: Link<Datagram> = Link::new(up.clone(), Random::new(seed, 0));
    let mut back: Link<Report> = Link::new(down.clone(), Random::new(seed, 1));
    let start = Bitrate::from_kbps(scenario.start_kbps);
    let max = Bitrate::from_kbps(scenario.max_kbps);
    let candidate = || -> Box<dyn Candidate> {
        match which {
            Which::Own => Box::new(Own::new(start, max)),
            Which::Goog => Box::new(Goog::new(start, max)),
        }
    };
    let flow = |i: usize| Flow::new(i, candidate(), max.bps() as f64, Random::new(seed, 2 + i as u64));
    let mut flows: Vec<Flow> = (0..scenario.flows).map(flow).collect();
    let mut outcome = Outcome::default();
    let mut now = Duration::ZERO;
    let end = Duration::from_secs(scenario.seconds);
    while now < end {
        while let Some((_, step)) = script.step(next_step).filter(|(at, _)| *at <= now) {
            if step.apply(Side::Up, &mut up) {
                wire.handle_settings(now, up.clone());
            }
            if step.apply(Side::Down, &mut down) {
                back.handle_settings(now, down.clone());
            }
            next_step += 1;
        }
        while let Some(datagram) = wire.poll_arrival(now) {
            flows[datagram.flow].handle_arrival(now, &datagram);
        }
        while let Some(report) = back.poll_arrival(now) {
            flows[report.flow].handle_report(now, &report);
        }
        for (i, flow) in flows.iter_mut().enumerate() {
            // The second one comes later.
            if now >= JOIN * i as u32 {
                flow.work(now, &mut wire);
            }
            if let Some(report) = flow.report(now) {
                back.handle_packet(now, REPORT_BYTES, report);
            }
        }
        if now.as_micros().is_multiple_of(Outcome::SAMPLE.as_micros()) {
            outcome.queue.push(wire.wait().unwrap_or_default());
            outcome.line.push(up.rate.map_or(f64::INFINITY, |rate| rate.bps() as f64));
        }
        now += STEP;
    }
    outcome.flows = flows.into_iter().map(|flow| flow.log).collect();
    outcome
}

/// A report's size without headers.
const REPORT_BYTES: usize = 60;
/// Time between the flows' beginnings.
const JOIN: Duration = Duration::from_secs(5);
