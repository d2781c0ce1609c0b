//! How busy the relay is: samples of the process and of its traffic.

use std::collections::VecDeque;
use std::fs;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::client::Traffic;

/// How busy the relay is, as of the last second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// The last ten seconds.
    pub(crate) short: Span,
    /// The last minute.
    pub(crate) long: Span,
    /// Memory of the process that is in use (RSS).
    pub(crate) memory_bytes: u64,
    /// Files and sockets that are open.
    pub(crate) fds: u64,
    pub(crate) pulse: Pulse,
}

/// What was sent in the last second, in bits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pulse {
    /// To all who are here.
    pub(crate) sent_bps: f64,
    /// To the one who was sent most.
    pub(crate) largest_bps: f64,
}

/// A stretch of time; of a relay that has just begun, what there is of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    /// Processor cores that were used, all threads together.
    pub(crate) cores: f64,
    /// How long the relay's thread kept one waiting who should have had his turn, at worst.
    pub(crate) loop_delay: Duration,
    /// What was received and sent a second.
    pub(crate) rates: Rates,
}

/// Datagrams of QUIC and their bytes, a second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    pub(crate) received_datagrams: f64,
    pub(crate) received_bytes: f64,
    pub(crate) sent_datagrams: f64,
    pub(crate) sent_bytes: f64,
}

/// The samples of the last minute.
pub(super) struct Samples(VecDeque<Sample>);

struct Sample {
    at: Instant,
    cpu: Duration,
    traffic: Traffic,
    /// The worst since the sample before.
    loop_delay: Duration,
}

impl Samples {
    pub(super) fn begin(now: Instant) -> Self {
        let begin =
            Sample { at: now, cpu: cpu_time(), traffic: Traffic::default(), loop_delay: Duration::ZERO };
        Self(VecDeque::from([begin]))
    }

    /// Adds a sample of the process as it is, and forgets those that are older than a minute but one.
    pub(super) fn take(
        &mut self,
        now: Instant,
        traffic: Traffic,
        loop_delay: Duration,
        pulse: Pulse,
    ) -> Load {
        self.0.push_back(Sample { at: now, cpu: cpu_time(), traffic, loop_delay });
        while self.0.get(1).is_some_and(|second| now.duration_since(second.at) >= LONG) {
            self.0.pop_front();
        }
        let (short, long) = (self.span(SHORT), self.span(LONG));
        Load { short, long, memory_bytes: memory(), fds: open_files(), pulse }
    }

    fn span(&self, length: Duration) -> Span {
        let Some(last) = self.0.back() else { return Span::default() };
        let within = |sample: &&Sample| last.at.duration_since(sample.at) < length;
        let loop_delay = self.0.iter().rev().take_while(within).map(|s| s.loop_delay).max();
        // The newest that is old enough, or else the oldest.
        let first = self.0.iter().rev().find(|s| !within(s)).or_else(|| self.0.front()).unwrap_or(last);
        let seconds = last.at.duration_since(first.at).as_secs_f64().max(f64::MIN_POSITIVE);
        let rate =
            |of: fn(&Traffic) -> u64| of(&last.traffic).saturating_sub(of(&first.traffic)) as f64 / seconds;
        Span {
            cores: last.cpu.saturating_sub(first.cpu).as_secs_f64() / seconds,
            loop_delay: loop_delay.unwrap_or_default(),
            rates: Rates {
                received_datagrams: rate(|t| t.received_datagrams),
                received_bytes: rate(|t| t.received_bytes),
                sent_datagrams: rate(|t| t.sent_datagrams),
                sent_bytes: rate(|t| t.sent_bytes),
            },
        }
    }
}

/// What the process has used of the processor so far.
pub(super) fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Resident memory; 0 where the system does not tell (proc(5), statm).
fn memory() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.as_deref().and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn open_files() -> u64 {
    // One of them is the directory itself.
    fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1) as u64)
}

/// Long enough to even out single pictures, short enough to be now.
const SHORT: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(datagrams: u64) -> Traffic {
        Traffic { received_datagrams: datagrams, received_bytes: datagrams * 1000, ..Traffic::default() }
    }

    #[test]
    fn spans_are_of_the_last_seconds_and_forget_what_is_older() {
        let begin = Instant::now();
        let at = |second: u64| begin + Duration::from_secs(second);
        let mut samples = Samples::begin(begin);
        let late = Duration::from_millis(70);
        let mut load = samples.take(at(1), traffic(100), late, Pulse::default());
        assert_eq!(load.short.rates.received_datagrams, 100.0, "of a second, as there is no more");
        assert_eq!((load.short.loop_delay, load.long.loop_delay), (late, late));
        for second in 2..=20 {
            load = samples.take(at(second), traffic(100), Duration::from_millis(1), Pulse::default());
        }
        assert_eq!(load.short.rates.received_bytes, 0.0, "nothing in ten seconds");
        assert_eq!(load.long.rates.received_datagrams, 5.0, "100 in twenty");
        assert_eq!((load.short.loop_delay, load.long.loop_delay), (Duration::from_millis(1), late));
        for second in 21..=200 {
            load = samples.take(at(second), traffic(second * 10), Duration::ZERO, Pulse::default());
        }
        assert_eq!(load.long.rates.received_datagrams, 10.0);
        assert_eq!((load.long.loop_delay, samples.0.len()), (Duration::ZERO, 61));
        assert!(load.memory_bytes > 1 << 20 && load.fds >= 3, "{load:?}");
    }
}
