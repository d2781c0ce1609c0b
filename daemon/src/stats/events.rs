//! What happens to a relay, counted.

use vchat_proto::admission::Verdict;
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::pb::LeaveReason;

use super::counter::{Counter, Histogram};

/// Connections that came, were refused, or ended.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// By [`VERDICTS`].
    verdicts: [Counter; VERDICTS.len()],
    /// By [`Handshake`].
    handshakes: [Counter; HANDSHAKES.len()],
    /// By code.
    refusals: [Counter; CloseCode::ALL.len()],
    pub(crate) joins: Counter,
    /// By [`LEAVES`].
    leaves: [Counter; LEAVES.len()],
}

/// How a handshake ended that did not succeed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Handshake {
    Failed,
    TimedOut,
}

impl Events {
    pub(crate) fn decided(&self, verdict: &Verdict) {
        let at = match verdict {
            Verdict::Accept(_) => 0,
            Verdict::Retry => 1,
            Verdict::Refuse => 2,
            Verdict::Ignore => 3,
        };
        self.verdicts[at].add(1);
    }

    pub(crate) fn handshake(&self, end: Handshake) {
        self.handshakes[end as usize].add(1);
    }

    /// A connection was turned away, by a relay that has made the handshake with it.
    pub(crate) fn refused(&self, code: CloseCode) {
        if let Some(at) = CloseCode::ALL.iter().position(|c| *c == code) {
            self.refusals[at].add(1);
        }
    }

    pub(crate) fn left(&self, reason: LeaveReason) {
        let at = match reason {
            LeaveReason::Goodbye => 0,
            LeaveReason::Timeout => 1,
            LeaveReason::Removed => 2,
            LeaveReason::Lost | LeaveReason::Unspecified => 3,
        };
        self.leaves[at].add(1);
    }

    pub(super) fn verdicts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        VERDICTS.into_iter().zip(self.verdicts.iter().map(Counter::get))
    }

    pub(super) fn handshakes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        HANDSHAKES.into_iter().zip(self.handshakes.iter().map(Counter::get))
    }

    /// Without the goodbye, which is none.
    pub(super) fn refusals(&self) -> impl Iterator<Item = (CloseCode, u64)> {
        CloseCode::ALL.into_iter().zip(self.refusals.iter().map(Counter::get)).skip(1)
    }

    pub(super) fn leaves(&self) -> impl Iterator<Item = (&'static str, u64)> {
        LEAVES.into_iter().zip(self.leaves.iter().map(Counter::get))
    }
}

/// What became of lines that people wrote.
#[derive(Debug, Default)]
pub(crate) struct ChatStats {
    /// From the room to the disk and back, of lines that are on the disk.
    pub(crate) stored: Histogram,
    /// Lines that were on the disk already: their author had not heard of it.
    pub(crate) known: Counter,
    /// Lines that are not.
    pub(crate) failed: Counter,
    /// Whether the last line could not be stored, 0 or 1.
    pub(crate) broken: Counter,
}

const VERDICTS: [&str; 4] = ["accept", "retry", "refuse", "ignore"];
const HANDSHAKES: [&str; 2] = ["failed", "timed_out"];
const LEAVES: [&str; 4] = ["goodbye", "timeout", "removed", "lost"];
