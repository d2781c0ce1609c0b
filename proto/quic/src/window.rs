//! The congestion window of a connection that carries live media.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// Makes a [`MediaWindow`] for each connection.
#[derive(Debug)]
pub(crate) struct Factory;

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, _now: Instant, _mtu: u16) -> Box<dyn Controller> {
        Box::new(MediaWindow { window: START })
    }
}

/// A window that is a fuse and no governor.
///
/// What may be sent is decided above QUIC, for each hop, from arrival times ([`vchat_proto::cc`]); nearly all of it are
/// datagrams that are paced there, and streams carry some messages. A second controller below, which takes each loss for
/// congestion, would only hold back what the first has allowed (draft-ietf-avtcore-rtp-over-quic, "Congestion Control"): so
/// losses do not narrow this window. Only persistent congestion does (RFC 9002, section 7.6: nothing came through for several
/// round trips), and it stays wide enough for the sound and the probes that notice the end of an outage at once.
#[derive(Clone, Debug)]
struct MediaWindow {
    window: u64,
}

impl MediaWindow {
    fn acknowledge(&mut self, bytes: u64) {
        self.window = (self.window + bytes).min(CEILING);
    }
}

impl Controller for MediaWindow {
    fn on_ack(&mut self, _now: Instant, _sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        self.acknowledge(bytes);
    }

    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, persistent: bool, _lost_bytes: u64) {
        if persistent {
            self.window = FLOOR;
        }
    }

    fn on_mtu_update(&mut self, _mtu: u16) {}

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        START
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// A large key frame (720p at its first, unadapted quality) leaves at once.
const START: u64 = 128 * 1024;

/// 4 Mb/s at a round trip of a second, 40 Mb/s at 100 ms: above what one connection of ours carries.
const CEILING: u64 = 512 * 1024;

/// A second of a call with one other person.
const FLOOR: u64 = 96 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_do_not_narrow_it_and_an_outage_leaves_room_for_a_call() {
        let (mut w, start) = (MediaWindow { window: START }, Instant::now());
        (0..100).for_each(|_| w.on_congestion_event(start, start, false, 1200));
        assert_eq!(w.window(), START);
        w.on_congestion_event(start, start, true, 90_000);
        assert_eq!(w.window(), FLOOR);
        (0..1000).for_each(|_| w.acknowledge(1200));
        assert_eq!(w.window(), CEILING, "however little the application sends");
    }
}
