//! Quantities with their units in the type.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bitrate(u64);

impl Bitrate {
    /// From bits per second.
    #[must_use]
    pub const fn from_bps(bps: u64) -> Self {
        Self(bps)
    }

    /// From kilobits (1000 bits) per second.
    #[must_use]
    pub const fn from_kbps(kbps: u64) -> Self {
        Self(kbps.saturating_mul(1000))
    }

    /// Bits per second.
    #[must_use]
    pub const fn bps(self) -> u64 {
        self.0
    }

    /// Kilobits per second, rounded down.
    #[must_use]
    pub const fn kbps(self) -> u64 {
        self.0 / 1000
    }

    /// The bytes that pass in `time`.
    #[must_use]
    pub const fn bytes_in(self, time: Duration) -> u64 {
        (self.0 as u128 * time.as_micros() / 8_000_000) as u64
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} kb/s", self.kbps())
    }
}

/// A point on a sender's media clock in microseconds: when a picture was taken or a sample heard.
///
/// Audio and video of one participant carry times of one clock, so they can be shown in step. Clocks of different
/// participants have different zeros; see [`crate::wire`] for how they are compared. On the wire it has 48 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaTime(u64);

impl MediaTime {
    /// The largest time, 2^48 - 1 µs: nearly nine years.
    pub const MAX: Self = Self((1 << 48) - 1);

    /// From microseconds; more than [`Self::MAX`] counts as that.
    #[must_use]
    pub const fn from_micros(us: u64) -> Self {
        Self(if us > Self::MAX.0 { Self::MAX.0 } else { us })
    }

    /// Microseconds since the clock's zero.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// `self - earlier` in microseconds, negative when `self` is the earlier.
    #[must_use]
    pub const fn micros_since(self, earlier: Self) -> i64 {
        self.0 as i64 - earlier.0 as i64
    }

    /// The time `us` microseconds later (earlier when negative), kept within the range.
    #[must_use]
    pub const fn offset(self, us: i64) -> Self {
        Self::from_micros(self.0.saturating_add_signed(us))
    }
}

impl Add<Duration> for MediaTime {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self::from_micros(self.0.saturating_add(u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for MediaTime {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// Reads a time for people, a number and a unit as in `90s`, `30m`, `24h` or `7d`, in seconds. None for anything else.
#[must_use]
pub fn seconds_of_text(text: &str) -> Option<u64> {
    let last = text.chars().next_back()?;
    let unit = match last {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return None,
    };
    let digits = text.strip_suffix(last).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitrate_converts_to_bytes() {
        assert_eq!(Bitrate::from_kbps(800).bytes_in(Duration::from_millis(10)), 1000);
        assert_eq!(Bitrate::from_bps(1_999).kbps(), 1);
    }

    #[test]
    fn media_time_stays_in_48_bits() {
        assert_eq!(MediaTime::from_micros(u64::MAX), MediaTime::MAX);
        assert_eq!(MediaTime::MAX + Duration::from_secs(1), MediaTime::MAX);
        assert_eq!(MediaTime::from_micros(5) - Duration::from_secs(1), MediaTime::default());
        assert_eq!(MediaTime::from_micros(5).micros_since(MediaTime::from_micros(9)), -4);
        assert_eq!(MediaTime::from_micros(5).offset(-9), MediaTime::default());
    }

    #[test]
    fn times_for_people_are_read() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800), ("0s", 0)] {
            assert_eq!(seconds_of_text(text), Some(seconds), "{text}");
        }
        for text in [
            "",
            "s",
            "24",
            "1.5h",
            "-1d",
            "+1d",
            "1 h",
            "1w",
            "é",
            "99999999999999999999d",
            "9999999999999999d",
        ] {
            assert_eq!(seconds_of_text(text), None, "{text}");
        }
    }
}
