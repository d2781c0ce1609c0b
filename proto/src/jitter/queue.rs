//! What the buffer makes of queues in the network that build up and drain.

use super::tests::Call;
use super::*;

/// A path with jitter on which a queue builds up now and then.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// Jitter of single packets, in microseconds.
    jitter: u64,
    /// The longest the queue gets, in microseconds, and how fast it builds up and drains.
    queue: u64,
    build: u64,
    drain: u64,
    /// From one queue to the next, in microseconds.
    every: u64,
}

impl Line {
    /// What the queue adds to a packet sent `at`.
    fn queue(self, at: u64) -> u64 {
        let Some(since) = at.checked_sub(FIRST) else { return 0 };
        let since = since % self.every;
        if since < self.build {
            self.queue * since / self.build
        } else {
            self.queue - self.queue * (since - self.build).min(self.drain) / self.drain
        }
    }

    /// A call over this line, and how it went from its third second on.
    fn call(self, seed: u64, seconds: u64) -> (Call, Stats) {
        let mut call = Call::new(seed);
        let mut last = 0;
        for n in 0..seconds * 100 {
            let at = n * 10_000;
            // A queue keeps the order; jitter need not.
            last = (at + WAY + self.queue(at)).max(last);
            let at = last + call.random(self.jitter + 1);
            call.wire.push_back((at, n as u32, n * 10_000, 1));
        }
        call.wire.make_contiguous().sort_unstable();
        call.next_send = f64::INFINITY;
        call.run(2, true);
        let stats = call.run(seconds - 2, true);
        (call, stats)
    }

    /// How long after a queue has drained something is still heard more than 20 ms later than before the first, at worst.
    fn over(self, call: &Call) -> u64 {
        let before = delay(call, FIRST - 1_000_000, FIRST);
        let drained = self.build + self.drain + WAY;
        let late = call.heard.iter().filter(|&&(at, captured)| at - captured > before + 20_000);
        let since = late.filter_map(|&(at, _)| (at.checked_sub(FIRST)? % self.every).checked_sub(drained));
        since.max().unwrap_or(0)
    }

    /// Queues that build up in a call of so many seconds.
    fn queues(self, seconds: u64) -> u64 {
        (seconds * 1_000_000 - FIRST).div_ceil(self.every)
    }
}

/// Mean delay of what was heard in that time, in microseconds.
fn delay(call: &Call, from: u64, until: u64) -> u64 {
    let heard = call.heard.iter().filter(|&&(at, _)| (from..until).contains(&at));
    let delays: Vec<u64> = heard.map(|&(at, captured)| at - captured).collect();
    delays.iter().sum::<u64>() / (delays.len() as u64).max(1)
}

/// Runs `check` on calls of that many seconds with queues that build up fast and slowly.
fn on_queues(every: u64, jitters: &[u64], seconds: u64, check: impl Fn(Line, &Call, Stats)) {
    for (build, queue) in [(300_000, 300_000), (600_000, 300_000), (1_000_000, 300_000), (1_000_000, 100_000)]
    {
        for &jitter in jitters {
            for seed in 0..3 {
                let line = Line { jitter, queue, build, drain: 500_000, every };
                let (call, stats) = line.call(seed, seconds);
                check(line, &call, stats);
            }
        }
    }
}

#[test]
fn a_second_after_a_queue_has_drained_the_delay_is_what_it_was() {
    for every in [ONCE, 10_000_000] {
        on_queues(every, &[0, 3_000, 10_000], 36, |line, call, stats| {
            let over = line.over(call);
            assert!(over <= 1_000_000, "{line:?}: {over} us, {stats:?}");
        });
        // Jitter itself moves the delay by some of the 20 ms.
        on_queues(every, &[30_000], 36, |line, call, stats| {
            let mean = delay(call, FIRST + 3_500_000, FIRST + 9_000_000);
            assert!(mean <= delay(call, FIRST - 1_000_000, FIRST) + 15_000, "{line:?}: {mean} us, {stats:?}");
        });
    }
}

#[test]
fn a_queue_costs_no_more_sound_than_stretching_leaves() {
    for every in [ONCE, 10_000_000] {
        on_queues(every, &[0, 3_000, 10_000], 36, |line, _, stats| {
            // Each packet made longer by half gives 5 ms for 10 ms of sound.
            let left = line.queue.saturating_sub(line.build / 2) / 10_000;
            let lost = stats.concealed + stats.repaired;
            assert!(lost <= line.queues(36) * (left + 5), "{line:?}: {stats:?}");
        });
    }
}

#[test]
fn queues_that_return_often_are_waited_for() {
    on_queues(2_000_000, &[0, 10_000], 36, |line, _, stats| {
        let lost = stats.concealed + stats.repaired;
        assert!(lost <= 45, "{line:?}: {stats:?}");
    });
}

#[test]
fn jitter_alone_is_no_queue() {
    for (jitter, most) in [(0, 6_000), (3_000, 8_000), (10_000, 15_500), (30_000, 37_000)] {
        for seed in 0..5 {
            let line = Line { jitter, queue: 0, build: 1, drain: 1, every: ONCE };
            let (call, stats) = line.call(seed, 60);
            assert_eq!((stats.concealed, stats.repaired, stats.late), (0, 0, 0), "{line:?} {stats:?}");
            let mean = delay(&call, 4_000_000, 60_000_000) - WAY;
            assert!(mean <= most, "{line:?}: {mean} us, {stats:?}");
        }
    }
}

/// The way without a queue, in microseconds.
const WAY: u64 = 20_000;
/// When the first queue begins, in microseconds: the buffer has settled by then.
const FIRST: u64 = 6_000_000;
/// Longer than any call here.
const ONCE: u64 = 1_000_000_000;
