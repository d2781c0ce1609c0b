//! How much a video track takes.

use std::time::{Duration, Instant};

use crate::units::Bitrate;

/// Measures the payload rate of a track over the last half to whole second: the last full half of a second, and what came since.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter {
    /// When the present half began.
    since: Option<Instant>,
    previous: Option<Bytes>,
    present: Bytes,
}

/// Payload rates of a track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Of everything.
    pub(crate) all: Bitrate,
    /// Of the frames on which others may depend.
    pub(crate) base: Bitrate,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    all: u64,
    base: u64,
}

impl Meter {
    /// Takes the payload of a datagram.
    pub(crate) fn handle_media(&mut self, now: Instant, bytes: usize, discardable: bool) {
        *self = self.rolled(now).unwrap_or_else(|| Self { since: Some(now), ..Self::default() });
        self.present.all += bytes as u64;
        if !discardable {
            self.present.base += bytes as u64;
        }
    }

    /// The rates; none for a track that is silent or has just begun.
    pub(crate) fn rates(&self, now: Instant) -> Option<Rates> {
        let Self { since, previous, present } = self.rolled(now)?;
        let previous = previous?;
        let span = HALF + now.saturating_duration_since(since?);
        let rate = |bytes: u64| Bitrate::from_bps((bytes as u128 * 8_000_000 / span.as_micros()) as u64);
        Some(Rates { all: rate(previous.all + present.all), base: rate(previous.base + present.base) })
    }

    /// The same at a later time; none when nothing came for so long that a measurement begins anew.
    fn rolled(&self, now: Instant) -> Option<Self> {
        let since = self.since?;
        match now.saturating_duration_since(since).as_millis() / HALF.as_millis() {
            0 => Some(*self),
            1 => Some(Self {
                since: Some(since + HALF),
                previous: Some(self.present),
                present: Bytes::default(),
            }),
            _ => None,
        }
    }
}

/// Long enough for the frames of a second to even out, short enough to follow an encoder that adapts.
const HALF: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_known_after_half_a_second_and_forgotten_after_silence() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        for ms in (0..2000).step_by(20) {
            let discardable = ms % 40 != 0;
            meter.handle_media(at(ms), if discardable { 500 } else { 1000 }, discardable);
            assert_eq!(meter.rates(at(ms)).is_some(), ms >= 500, "{ms}");
        }
        let rates = meter.rates(at(2000)).expect("known");
        let near = |rate: Bitrate, kbps: u64| rate.kbps().abs_diff(kbps) < kbps / 20;
        assert!(near(rates.all, 300) && near(rates.base, 200), "{rates:?}");
        assert!(meter.rates(at(2450)).is_some_and(|r| r.all < rates.all));
        assert_eq!(meter.rates(at(3000)), None);
        meter.handle_media(at(9000), 1000, false);
        assert_eq!(meter.rates(at(9400)), None, "it begins anew");
    }
}
