//! What a receiver may be sent of a camera, and what that takes.

use std::time::Instant;

use super::Source;
use crate::room::meter::Rates;
use crate::units::Bitrate;

/// What a receiver is sent of a camera, from least to most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Choice {
    #[default]
    Nothing,
    /// The small track without frames on which none depends.
    ThinSmall,
    Small,
    /// The full track without frames on which none depends.
    ThinFull,
    Full,
}

/// Which of the two tracks of a camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Small,
    Full,
}

/// The most that a receiver wants of a participant's cameras.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cap {
    Nothing,
    Small,
    Full,
}

impl Choice {
    pub(crate) const fn layer(self) -> Option<Layer> {
        match self {
            Self::Nothing => None,
            Self::ThinSmall | Self::Small => Some(Layer::Small),
            Self::ThinFull | Self::Full => Some(Layer::Full),
        }
    }

    pub(crate) const fn is_thin(self) -> bool {
        matches!(self, Self::ThinSmall | Self::ThinFull)
    }
}

impl Cap {
    /// For a picture so high on the receiver's screen.
    pub(crate) const fn of_height(height: u32) -> Self {
        match height {
            0 => Self::Nothing,
            1..=MAX_SMALL_HEIGHT => Self::Small,
            _ => Self::Full,
        }
    }

    /// What may be sent of a camera, from most to least; never empty.
    pub(crate) const fn choices(self, has_small: bool) -> &'static [Choice] {
        match (self, has_small) {
            (Self::Nothing, _) => &[Choice::Nothing],
            (Self::Small, true) => &[Choice::Small, Choice::ThinSmall, Choice::Nothing],
            (Self::Full, true) => &[Choice::Full, Choice::Small, Choice::ThinSmall, Choice::Nothing],
            (Self::Small | Self::Full, false) => &[Choice::Full, Choice::ThinFull, Choice::Nothing],
        }
    }
}

/// What each choice of a camera takes at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    full: Rates,
    small: Rates,
}

impl Costs {
    /// A silent camera takes nothing; a small track that is not sent is taken for a part of the full one.
    pub(crate) fn of(source: &Source, now: Instant) -> Self {
        let times = |rate: Bitrate| Bitrate::from_bps(rate.bps() * FULL_PER_SMALL);
        let small = source.small.as_ref().and_then(|s| s.meter.rates(now));
        // A full track that was stopped for want of receivers is taken for as many times the small one.
        let stopped = small.filter(|_| !source.full.wanted);
        let guess = stopped.map(|small| Rates { all: times(small.all), base: times(small.base) });
        let full = source.full.meter.rates(now).or(guess).unwrap_or_default();
        let part = |rate: Bitrate| Bitrate::from_bps(rate.bps() / FULL_PER_SMALL);
        let guess = Rates { all: part(full.all), base: part(full.base) };
        let small = small.unwrap_or(guess);
        Self { full, small }
    }

    /// The owner keeps the full track to so much, in bits per second.
    pub(crate) fn limit_full(&mut self, limit: u64) {
        let all = self.full.all.bps();
        if all > limit {
            let part =
                |rate: Bitrate| Bitrate::from_bps((rate.bps() as u128 * limit as u128 / all as u128) as u64);
            self.full = Rates { all: part(self.full.all), base: part(self.full.base) };
        }
    }

    /// Payload in bits per second.
    pub(crate) const fn of_choice(&self, choice: Choice) -> u64 {
        match choice {
            Choice::Nothing => 0,
            Choice::ThinSmall => self.small.base.bps(),
            Choice::Small => self.small.all.bps(),
            Choice::ThinFull => self.full.base.bps(),
            Choice::Full => self.full.all.bps(),
        }
    }
}

/// 1.25 times half the height of 360p, the smallest usual full size: so much enlarged, a picture still looks sharp. Of a larger
/// camera the small track is good for more, but the relay knows nobody's size.
const MAX_SMALL_HEIGHT: u32 = 225;
/// As many pixels.
const FULL_PER_SMALL: u64 = 4;
