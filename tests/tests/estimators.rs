//! What the estimator must do on simulated networks, in virtual time, over several seeds.

use vchat_tests::estimators::{Figures, Outcome, SCENARIOS, SLOT, Scenario, Which, figures, run};

/// Runs a scenario with several seeds; `test` gets the figures, and what was seen. A failure names the seed.
fn each(name: &str, test: impl Fn(&Figures, &Outcome)) {
    let scenario = scenario(name);
    for seed in 1..=SEEDS {
        let outcome = run(scenario, Which::Own, seed);
        let figures = figures(scenario, &outcome);
        eprintln!("{name}, seed {seed}: {figures:?}");
        test(&figures, &outcome);
    }
}

fn scenario(name: &str) -> &'static Scenario {
    SCENARIOS.iter().find(|s| s.name == name).expect("a scenario of that name")
}

/// Targets of the first flow from one time to another, in kb/s.
fn targets(outcome: &Outcome, from_ms: u128, to_ms: u128) -> Vec<f64> {
    let slot = |ms: u128| usize::try_from(ms / SLOT.as_millis()).expect("a slot");
    outcome.flows[0].target[slot(from_ms)..slot(to_ms)].iter().map(|bps| bps / 1e3).collect()
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

const SEEDS: u64 = 3;

#[test]
fn loss_alone_never_lowers_the_target() {
    for name in ["loss 5 %", "loss 10 %", "loss 20 %", "bursts of 4, 30 %", "satellite"] {
        each(name, |f, _| assert!(f.least_target >= 2500.0, "{f:?}"));
    }
}

#[test]
fn a_narrow_link_is_used_without_a_queue() {
    for name in ["500k", "500k, 700 kb/s source", "500k, queue of 50 ms", "1M", "2M, jitter"] {
        each(name, |f, _| {
            assert!(f.used >= 0.85, "{f:?}");
            assert!(f.queue[0] <= 15.0 && f.queue[1] <= 50.0, "{f:?}");
            // On the wire alone; encoder and decoder take 30 ms more.
            assert!(f.picture[0] <= 65.0 && f.picture[1] <= 100.0, "{f:?}");
        });
    }
    each("500k", |_, outcome| assert!(least(&targets(outcome, 2000, 10_000)) > 250.0));
    each("500k", |f, outcome| {
        let settled = targets(outcome, 1500, 10_000);
        assert!(settled.iter().all(|kbps| *kbps <= 520.0), "{f:?}: {settled:?}");
    });
}

#[test]
fn a_narrow_link_that_loses_is_used() {
    for name in ["500k, 5 % loss", "satellite, 1M"] {
        each(name, |f, _| assert!(f.used >= 0.8 && f.queue[0] <= 15.0 && f.queue[1] <= 50.0, "{f:?}"));
    }
}

#[test]
fn a_step_is_followed_down_at_once_and_up_in_seconds() {
    each("step 2M-500k-2M", |f, outcome| {
        let [below, drained, again] = f.steps.expect("a step");
        assert!(below <= 0.8 && drained <= 1.5 && again <= 5.0, "{f:?}");
        // It does not swing afterwards.
        let settled = targets(outcome, 24_000, 40_000);
        assert!(settled.iter().all(|kbps| (250.0..=520.0).contains(kbps)), "{settled:?}");
        let settled = targets(outcome, 45_000, 60_000);
        assert!(settled.iter().all(|kbps| (1200.0..=2080.0).contains(kbps)), "{settled:?}");
    });
}

#[test]
fn jitter_is_no_queue() {
    each("wifi", |f, _| assert!(f.least_target >= 2500.0, "{f:?}"));
    each("wifi, jitter of 30 ms", |f, _| assert!(f.used >= 0.9 && f.least_target >= 1000.0, "{f:?}"));
}

#[test]
fn a_link_that_changes_every_second_is_followed() {
    each("4g", |f, _| {
        assert!(
            f.used >= 0.6 && f.queue[0] <= 10.0 && f.queue[1] <= 250.0 && f.least_target >= 100.0,
            "{f:?}"
        );
    });
}

#[test]
fn an_outage_is_not_congestion() {
    each("outages", |_, outcome| {
        for (begin, end) in [(15_000, 15_300), (25_000, 26_000)] {
            let before = targets(outcome, begin - 1000, begin);
            let before = before.iter().sum::<f64>() / before.len() as f64;
            let after = least(&targets(outcome, begin, end + 1000));
            assert!(after >= 0.7 * before, "{after} of {before} kb/s");
        }
    });
}

#[test]
fn a_longer_route_is_soon_believed() {
    each("longer route", |_, outcome| {
        assert!(least(&targets(outcome, 15_000, 40_000)) >= 700.0);
        assert!(least(&targets(outcome, 18_000, 40_000)) >= 2400.0);
    });
}

#[test]
fn two_calls_share_a_link() {
    each("two on 1M", |f, _| assert!(f.used >= 0.85 && f.unfair <= 2.0 && f.queue[1] <= 50.0, "{f:?}"));
}

#[test]
fn a_fast_network_costs_no_time() {
    each("lan", |f, _| assert!(f.least_target >= 2500.0 && f.picture[1] <= 4.0 && f.padding < 0.01, "{f:?}"));
}
