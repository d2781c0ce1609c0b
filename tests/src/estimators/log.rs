//! What a flow has seen.

use std::time::Duration;

/// What a flow has seen, per [`SLOT`] since the start.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Bits that arrived.
    pub arrived: Vec<f64>,
    /// Bits that were sent.
    pub sent: Vec<f64>,
    /// Target at the end, bits per second.
    pub target: Vec<f64>,
    /// Pace at the end, bits per second.
    pub pace: Vec<f64>,
    /// (made, time from then until the last of its datagrams arrived), of pictures that arrived.
    pub pictures: Vec<(Duration, Duration)>,
    /// (made, time from then to its arrival), of sound.
    pub sounds: Vec<(Duration, Duration)>,
    /// Bytes of padding.
    pub padding: usize,
    /// Pictures that were not encoded because the pacer had too much to send.
    pub skipped: u64,
}

impl Log {
    /// Adds `bits` to one of the sums.
    pub(super) fn add(&mut self, now: Duration, sum: impl Fn(&mut Self) -> &mut Vec<f64>, bits: f64) {
        *slot(sum(self), now) += bits;
    }

    /// Notes what the estimator says.
    pub(super) fn note(&mut self, now: Duration, target: f64, pace: f64) {
        *slot(&mut self.target, now) = target;
        *slot(&mut self.pace, now) = pace;
    }
}

fn slot(log: &mut Vec<f64>, now: Duration) -> &mut f64 {
    let slot = (now.as_micros() / SLOT.as_micros()) as usize;
    if log.len() <= slot {
        log.resize(slot + 1, 0.0);
    }
    &mut log[slot]
}

/// Resolution of the log.
pub const SLOT: Duration = Duration::from_millis(100);
