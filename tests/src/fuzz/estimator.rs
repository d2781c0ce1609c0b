//! Sends and reports in any order, with any numbers and clocks.

use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use vchat_proto::cc::{Arrival, Estimator, Settings};
use vchat_proto::units::Bitrate;

#[derive(Arbitrary, Debug)]
enum Step {
    /// So many datagrams of this size.
    Send {
        count: u8,
        bytes: u16,
    },
    /// A datagram whose number is not the next.
    Stray {
        number: u64,
        bytes: u32,
    },
    /// The last datagrams, as an honest receiver would report them: each on the way for so many tenths of a
    /// millisecond, or missing.
    Report {
        rtt: u16,
        ways: Vec<Option<u8>>,
    },
    /// Whatever a receiver could claim.
    Lie {
        rtt_us: u64,
        arrivals: Vec<(u64, Option<i64>)>,
    },
    Max(u32),
    Pass(u8),
}

/// The target stays within its bounds, rates make sense, and every deadline leads to a later one or to none.
pub fn estimator(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut now = Instant::now();
    let start = now;
    let mut max = START;
    let mut estimator = Estimator::new(now, Settings { start: START, min: MIN, max });
    let mut next = 0_u64;
    while !input.is_empty()
        && let Ok(step) = Step::arbitrary(&mut input)
    {
        match step {
            Step::Send { count, bytes } => {
                for _ in 0..count % 32 {
                    estimator.handle_sent(now, next, bytes.into());
                    next = next.wrapping_add(1);
                }
            }
            Step::Stray { number, bytes } => {
                estimator.handle_sent(now, number, bytes as usize);
                next = number.wrapping_add(1);
            }
            Step::Report { rtt, ways } => {
                let at = i64::try_from((now - start).as_micros()).unwrap_or(i64::MAX);
                let first = next.saturating_sub(ways.len() as u64);
                let arrival = |(number, way): (u64, Option<u8>)| {
                    let arrived_us = way.map(|way| at + i64::from(way) * 100);
                    Arrival { number, arrived_us }
                };
                let report: Vec<_> = (first..).zip(ways).map(arrival).collect();
                estimator.handle_feedback(now, Duration::from_millis(rtt.into()), &report);
            }
            Step::Lie { rtt_us, arrivals } => {
                let arrival = |(number, arrived_us)| Arrival { number, arrived_us };
                let report: Vec<_> = arrivals.into_iter().map(arrival).collect();
                estimator.handle_feedback(now, Duration::from_micros(rtt_us), &report);
            }
            Step::Max(bps) => {
                max = Bitrate::from_bps(bps.into());
                estimator.set_max(max);
            }
            Step::Pass(ms) => now += Duration::from_millis(ms.into()),
        }
        let target = estimator.target();
        assert!(target >= MIN && target <= max.max(MIN), "{target} of {max}");
        assert!(estimator.pacing_rate() >= target);
        let loss = estimator.loss();
        assert!((0.0..=1.0).contains(&loss.rate) && loss.burst >= 1.0, "{loss:?}");
        let _ = (estimator.queue_delay(), estimator.is_silent(now));
        if estimator.poll_probe(now).is_some() {
            assert!(estimator.poll_probe(now).is_none(), "it was probed just now");
        }
    }
    let deadlines = (0..PATIENCE).map_while(|_| {
        now = now.max(estimator.poll_timeout()?);
        estimator.handle_timeout(now);
        Some(now)
    });
    assert!(deadlines.count() < PATIENCE, "deadlines without an end");
}

const START: Bitrate = Bitrate::from_kbps(700);
const MIN: Bitrate = Bitrate::from_kbps(60);

/// A silence is noticed twice.
const PATIENCE: usize = 4;
