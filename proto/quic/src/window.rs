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
    fn build(self: Arc<Self>, _now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(MediaWindow { mtu: u64::from(mtu), window: START, recovering_since: None })
    }
}

/// A window wide enough that media is sent when it is made, and that narrows when the path shows distress.
///
/// CUBIC, quinn's default, stays at its first 12 kB for ever when the application sends less than it may (which live
/// media always does) and then holds each key frame back for several round trips. Here the window starts at what a
/// key frame needs and is multiplied by [`BACKOFF`] once per round trip with loss, down to [`FLOOR_PACKETS`]; every
/// acknowledged byte gives a byte back (doubling per round trip). Only persistent congestion (RFC 9002,
/// section 7.6: nothing came through for several round trips) takes it down to the minimum.
/// How much is sent at all is decided by the encoder's bitrate, not here.
#[derive(Clone, Debug)]
struct MediaWindow {
    mtu: u64,
    window: u64,
    recovering_since: Option<Instant>,
}

impl MediaWindow {
    fn acknowledge(&mut self, sent: Instant, bytes: u64) {
        if self.recovering_since.is_none_or(|t| sent > t) {
            self.window = (self.window + bytes).min(CEILING);
        }
    }
}

impl Controller for MediaWindow {
    fn on_ack(&mut self, _now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        self.acknowledge(sent, bytes);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, _lost_bytes: u64) {
        if persistent {
            self.window = MINIMUM_PACKETS * self.mtu;
            self.recovering_since = Some(now);
        } else if self.recovering_since.is_none_or(|t| sent > t) {
            let floor = FLOOR_PACKETS * self.mtu;
            self.window = ((self.window as f64 * BACKOFF) as u64).max(floor);
            self.recovering_since = Some(now);
        }
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
    }

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

/// CUBIC's multiplier (RFC 9438, section 4.6).
const BACKOFF: f64 = 0.7;

/// Random loss, as on Wi-Fi, must not strangle a call: 16 packets a round trip are 1.5 Mb/s at 100 ms.
const FLOOR_PACKETS: u64 = 16;

/// The minimum window of RFC 9002, section 7.2.
const MINIMUM_PACKETS: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn window() -> MediaWindow {
        MediaWindow { mtu: 1200, window: START, recovering_since: None }
    }

    #[test]
    fn a_round_trip_with_losses_counts_once_and_never_strangles() {
        let (mut w, start) = (window(), Instant::now());
        w.on_congestion_event(start, start - Duration::from_millis(50), false, 1200);
        w.on_congestion_event(start, start - Duration::from_millis(40), false, 1200);
        assert_eq!(w.window(), (START as f64 * BACKOFF) as u64);
        for i in 1..100 {
            let t = start + i * Duration::from_millis(100);
            w.on_congestion_event(t, t - Duration::from_millis(50), false, 1200);
        }
        assert_eq!(w.window(), FLOOR_PACKETS * 1200);
    }

    #[test]
    fn nothing_coming_through_stops_it_and_acknowledgements_bring_it_back() {
        let (mut w, start) = (window(), Instant::now());
        w.on_congestion_event(start, start, true, 90_000);
        assert_eq!(w.window(), 2400);
        let sent = start + Duration::from_millis(1);
        (0..1000).for_each(|_| w.acknowledge(sent, 1200));
        assert_eq!(w.window(), CEILING, "however little the application sends");
    }
}
