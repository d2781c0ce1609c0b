//! What is counted of one client.

use std::iter::Sum;
use std::ops::Add;

use vchat_proto::hop;

use super::counter::Counter;

/// Counted by the tasks of one client's connection and by its room. Nothing here says who the client is.
#[derive(Debug, Default)]
pub(crate) struct ClientStats {
    /// Datagrams of QUIC from the client, whatever becomes of them.
    pub(crate) received: Flow,
    /// Datagrams of QUIC to it.
    pub(crate) sent: Flow,
    dropped: [Counter; Dropped::ALL.len()],
    hop: Hop,
    uplink: Uplink,
}

/// Datagrams in one direction, without what QUIC adds to them.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    datagrams: Counter,
    bytes: Counter,
}

/// Why a datagram went no further.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dropped {
    /// The client sends more than it may.
    TooFast,
    /// Its room was behind.
    RoomBusy,
    /// The task that sends to it was behind.
    ReceiverBusy,
}

/// What the sender knows of the hop to the client, as it said last.
#[derive(Debug, Default)]
struct Hop {
    target_bps: Counter,
    video_target_bps: Counter,
    /// In millionths.
    loss: Counter,
    extra_bytes: [Counter; EXTRA.len()],
}

/// What the receiver knows of the hop from the client, as it said last.
#[derive(Debug, Default)]
struct Uplink {
    expected: Counter,
    arrived: Counter,
}

/// What was counted of a client, of those of a room, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) received_datagrams: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_datagrams: u64,
    pub(crate) sent_bytes: u64,
    /// By [`Dropped`].
    pub(super) dropped: [u64; Dropped::ALL.len()],
    /// By [`EXTRA`].
    pub(super) extra_bytes: [u64; EXTRA.len()],
    pub(super) expected: u64,
    pub(super) arrived: u64,
}

/// What is so now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HopNow {
    pub(super) target_bps: u64,
    pub(super) video_target_bps: u64,
    pub(super) loss: f64,
}

impl ClientStats {
    pub(crate) fn drop_one(&self, why: Dropped) {
        self.dropped[why as usize].add(1);
    }

    /// Takes down what the sending end of the hop to the client knows.
    pub(crate) fn note_hop(&self, sender: &hop::Sender) {
        self.hop.target_bps.set(sender.target().bps());
        self.hop.video_target_bps.set(sender.video_target().bps());
        self.hop.loss.set((sender.loss().rate * 1e6) as u64);
        let sent = sender.sent();
        let extra = [sent.copied_bytes, sent.parity_bytes, sent.repaired_bytes, sent.padding_bytes];
        self.hop.extra_bytes.iter().zip(extra).for_each(|(counter, bytes)| counter.set(bytes));
    }

    /// Takes down what the receiving end of the hop from the client knows.
    pub(crate) fn note_uplink(&self, totals: hop::Totals) {
        self.uplink.expected.set(totals.expected);
        self.uplink.arrived.set(totals.arrived);
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            received_datagrams: self.received.datagrams.get(),
            received_bytes: self.received.bytes.get(),
            sent_datagrams: self.sent.datagrams.get(),
            sent_bytes: self.sent.bytes.get(),
            dropped: std::array::from_fn(|n| self.dropped[n].get()),
            extra_bytes: std::array::from_fn(|n| self.hop.extra_bytes[n].get()),
            expected: self.uplink.expected.get(),
            arrived: self.uplink.arrived.get(),
        }
    }

    pub(super) fn hop(&self) -> HopNow {
        HopNow {
            target_bps: self.hop.target_bps.get(),
            video_target_bps: self.hop.video_target_bps.get(),
            loss: self.hop.loss.get() as f64 / 1e6,
        }
    }
}

impl Flow {
    pub(crate) fn count(&self, bytes: usize) {
        self.datagrams.add(1);
        self.bytes.add(bytes as u64);
    }
}

impl Dropped {
    pub(super) const ALL: [&'static str; 3] = ["too_fast", "room_busy", "receiver_busy"];
}

impl Traffic {
    /// The share of what the client sent that was lost on its way here.
    pub(super) fn uplink_loss(&self) -> f64 {
        self.expected.saturating_sub(self.arrived) as f64 / self.expected.max(1) as f64
    }
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            received_datagrams: self.received_datagrams + other.received_datagrams,
            received_bytes: self.received_bytes + other.received_bytes,
            sent_datagrams: self.sent_datagrams + other.sent_datagrams,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            dropped: std::array::from_fn(|n| self.dropped[n] + other.dropped[n]),
            extra_bytes: std::array::from_fn(|n| self.extra_bytes[n] + other.extra_bytes[n]),
            expected: self.expected + other.expected,
            arrived: self.arrived + other.arrived,
        }
    }
}

impl Sum for Traffic {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// What is sent besides media for the first time.
pub(super) const EXTRA: [&str; 4] = ["copy", "parity", "repeat", "padding"];
