//! What a run comes to.

use std::time::Duration;

use super::{Log, Outcome, SLOT, Scenario};

/// Figures of one run.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Mean of what arrived in the steady time, of all flows, in kb/s.
    pub kbps: f64,
    /// The same as a share of what the link would have passed, or of the application's maximum if that is less.
    pub used: f64,
    /// Standing queue in ms: the smallest wait of 100 ms, its median and 95th percentile in the steady time.
    pub queue: [f64; 2],
    /// From a picture's making to its arrival, in ms, median and 95th percentile in the steady time.
    pub picture: [f64; 2],
    /// 99th percentile of the same of sound, in ms.
    pub sound: f64,
    /// Smallest target in the steady time, in kb/s.
    pub least_target: f64,
    /// Time from the step down until less is sent than the link passes, until its queue is gone, and from the step up
    /// until 80 % of it arrive, in seconds.
    pub steps: Option<[f64; 3]>,
    /// What the flow with most gets, over what that with least gets.
    pub unfair: f64,
    /// Padding as a share of all that was sent.
    pub padding: f64,
}

/// The figures of a run.
#[must_use]
pub fn figures(scenario: &Scenario, outcome: &Outcome) -> Figures {
    let (from, to) = scenario.steady;
    let per_second = usize::try_from(1000 / SLOT.as_millis()).unwrap_or(1);
    let slots = from as usize * per_second..to as usize * per_second;
    let mean =
        |log: &[f64]| log.get(slots.clone()).map_or(0.0, |s| s.iter().sum::<f64>() / (to - from) as f64);
    let shares: Vec<f64> = outcome.flows.iter().map(|flow| mean(&flow.arrived)).collect();
    let total: f64 = shares.iter().sum();
    let wanted = scenario.max_kbps as f64 * 1e3 * scenario.flows as f64;
    let samples = 1000 / Outcome::SAMPLE.as_millis() as usize;
    let steady = from as usize * samples..to as usize * samples;
    let line = outcome.line.get(steady.clone()).unwrap_or_default();
    let could = line.iter().map(|rate| rate.min(wanted)).sum::<f64>() / line.len().max(1) as f64;
    let standing = standing(outcome);
    let mut queue: Vec<f64> = standing.get(steady).unwrap_or_default().to_vec();
    let within = |made: Duration| (from..to).contains(&made.as_secs());
    let mut pictures = times(outcome.flows.iter().flat_map(|f| &f.pictures), within);
    let mut sounds = times(outcome.flows.iter().flat_map(|f| &f.sounds), within);
    let least = |flow: &Log| {
        flow.target.get(slots.clone()).unwrap_or_default().iter().copied().fold(f64::INFINITY, f64::min)
    };
    let sent: f64 = outcome.flows.iter().flat_map(|flow| &flow.sent).sum();
    let padding: usize = outcome.flows.iter().map(|flow| flow.padding).sum();
    let (most, fewest) = shares.iter().fold((0.0_f64, f64::INFINITY), |(m, f), s| (m.max(*s), f.min(*s)));
    Figures {
        kbps: total / 1e3,
        used: total / could,
        queue: [quantile(&mut queue, 0.5), quantile(&mut queue, 0.95)],
        picture: [quantile(&mut pictures, 0.5), quantile(&mut pictures, 0.95)],
        sound: quantile(&mut sounds, 0.99),
        least_target: outcome.flows.iter().map(least).fold(f64::INFINITY, f64::min) / 1e3,
        steps: scenario.steps.map(|steps| step_times(outcome, &standing, steps)),
        unfair: most / fewest.max(1.0),
        padding: padding as f64 * 8.0 / sent.max(1.0),
    }
}

/// The smallest wait of the last 100 ms, in ms, at each sample.
pub(super) fn standing(outcome: &Outcome) -> Vec<f64> {
    let window = (SLOT.as_millis() / Outcome::SAMPLE.as_millis()) as usize;
    let least = |end: usize| outcome.queue[end.saturating_sub(window)..=end].iter().min().copied();
    (0..outcome.queue.len()).map(|end| least(end).unwrap_or_default().as_secs_f64() * 1e3).collect()
}

fn step_times(outcome: &Outcome, standing: &[f64], (down, up): (u64, u64)) -> [f64; 3] {
    let slot = SLOT.as_secs_f64();
    let sent: Vec<f64> = outcome.flows.iter().map(|f| &f.sent).fold(Vec::new(), |sum, log| {
        if sum.is_empty() { log.clone() } else { sum.iter().zip(log).map(|(a, b)| a + b).collect() }
    });
    let line = |seconds: u64| outcome.line[(seconds as usize + 1) * 1000 / 5];
    let first = |from: u64, log: &[f64], per_second: f64, test: &dyn Fn(&[f64]) -> bool| {
        let skip = (from as f64 * per_second) as usize;
        let windows = log.get(skip..).unwrap_or_default().windows(3);
        windows.enumerate().find(|(_, w)| test(w)).map_or(f64::INFINITY, |(i, _)| i as f64 / per_second)
    };
    let mean = |w: &[f64]| w.iter().sum::<f64>() / w.len() as f64 / slot;
    let below = first(down, &sent, 1.0 / slot, &|w| mean(w) <= line(down));
    let drained = {
        let skip = ((down as f64 + below) * 200.0) as usize;
        let at = standing.get(skip..).unwrap_or_default().iter().position(|ms| *ms < 15.0);
        at.map_or(f64::INFINITY, |i| i as f64 / 200.0) + below
    };
    let arrived: Vec<f64> = outcome.flows.first().map(|f| f.arrived.clone()).unwrap_or_default();
    let back = first(up, &arrived, 1.0 / slot, &|w| mean(w) >= 0.8 * line(up));
    [below, drained, back]
}

fn times<'a>(
    log: impl Iterator<Item = &'a (Duration, Duration)>,
    within: impl Fn(Duration) -> bool,
) -> Vec<f64> {
    log.filter(|(made, _)| within(*made)).map(|(_, took)| took.as_secs_f64() * 1e3).collect()
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share) as usize;
    values.get(rank.min(values.len().saturating_sub(1))).copied().unwrap_or(0.0)
}
