//! The table.

use std::io::Write;

use clap::Args;

use super::figures::standing;
use super::{Figures, Outcome, SCENARIOS, Scenario, Which, figures, run};

/// What `vchat-bench estimators` is told.
#[derive(Args, Clone, Debug)]
pub struct EstimatorOptions {
    /// Only scenarios whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Seed of the first of the runs
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print targets and queue over time instead of a table
    #[arg(long)]
    trace: bool,
}

/// Runs the scenarios and prints what came out.
pub fn run_estimators(options: &EstimatorOptions) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let chosen = SCENARIOS.iter().filter(|s| s.name.contains(&options.only));
    if !options.trace {
        writeln!(out, "{HEADING}")?;
    }
    for scenario in chosen {
        for which in [Which::Own, Which::Goog] {
            let outcome = run(scenario, which, options.seed);
            if options.trace {
                trace(&mut out, which, &outcome)?;
            } else {
                writeln!(out, "{}", row(scenario, which, &figures(scenario, &outcome)))?;
            }
        }
    }
    Ok(())
}

fn row(scenario: &Scenario, which: Which, f: &Figures) -> String {
    let steps = f.steps.map_or_else(|| "|||".into(), |[a, b, c]| format!("| {a:.1} | {b:.1} | {c:.1} "));
    let steps = if f.steps.is_some() { steps } else { "| | | ".into() };
    format!(
        "| {} | {} | {:.0} | {:.0} % | {:.0} / {:.0} | {:.0} / {:.0} | {:.0} | {:.0} {steps}| {:.2} | {:.1} % |",
        scenario.name,
        match which {
            Which::Own => "own",
            Which::Goog => "goog_cc",
        },
        f.kbps,
        f.used * 100.0,
        f.queue[0],
        f.queue[1],
        f.picture[0],
        f.picture[1],
        f.sound,
        f.least_target,
        f.unfair,
        f.padding * 100.0,
    )
}

fn trace(out: &mut impl Write, which: Which, outcome: &Outcome) -> std::io::Result<()> {
    let standing = standing(outcome);
    writeln!(out, "{which:?}: s, target, pace, sent, arrived kb/s, standing ms")?;
    let Some(flow) = outcome.flows.first() else { return Ok(()) };
    for (i, target) in flow.target.iter().enumerate() {
        let kbps = |log: &[f64]| log.get(i).copied().unwrap_or(0.0) / 100.0;
        writeln!(
            out,
            "{:.1} {:.0} {:.0} {:.0} {:.0} {:.0}",
            i as f64 / 10.0,
            target / 1e3,
            flow.pace[i] / 1e3,
            kbps(&flow.sent),
            kbps(&flow.arrived),
            standing.get((i + 1) * 20 - 1).copied().unwrap_or(0.0)
        )?;
    }
    Ok(())
}

const HEADING: &str = "| network | estimator | kb/s | used | queue p50 / p95 ms | picture p50 / p95 ms | sound p99 ms | least target kb/s | below s | drained s | 80 % again s | unfair | padding |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";
