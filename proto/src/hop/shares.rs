//! What part of the bytes on a hop is new video, and what the rest is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::units::Bitrate;

/// Bytes on the wire of the last second, by what they were for.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// In steps of [`STEP`], the newest last.
    steps: VecDeque<(Instant, Bytes)>,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bytes {
    /// Payloads of video, for the first time.
    pub(super) pictures: u64,
    /// Everything about video: payloads, headers, parity and repairs.
    pub(super) video: u64,
    /// Everything about sound.
    pub(super) audio: u64,
}

impl Shares {
    pub(super) fn sent(&mut self, now: Instant, bytes: Bytes) {
        match self.steps.back_mut().filter(|(since, _)| now < *since + STEP) {
            Some((_, sum)) => *sum = sum.plus(bytes),
            None => self.steps.push_back((now, bytes)),
        }
        while self.steps.front().is_some_and(|(since, _)| *since + WINDOW < now) {
            self.steps.pop_front();
        }
    }

    /// What sound takes.
    pub(super) fn audio(&self) -> Bitrate {
        let bytes = self.sum().audio;
        Bitrate::from_bps(bytes * 8 * 1000 / WINDOW.as_millis() as u64)
    }

    /// The part of what video takes that is pictures.
    pub(super) fn pictures(&self) -> f64 {
        let Bytes { pictures, video, .. } = self.sum();
        // Before there is enough to tell: headers alone.
        let (pictures, video) = (pictures as f64 + PRIOR.0, video as f64 + PRIOR.1);
        (pictures / video).clamp(0.3, 1.0)
    }

    fn sum(&self) -> Bytes {
        self.steps.iter().fold(Bytes::default(), |sum, (_, bytes)| sum.plus(*bytes))
    }
}

impl Bytes {
    const fn plus(self, other: Self) -> Self {
        Self {
            pictures: self.pictures + other.pictures,
            video: self.video + other.video,
            audio: self.audio + other.audio,
        }
    }
}

const WINDOW: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(50);
/// A few datagrams with their headers and nothing else.
const PRIOR: (f64, f64) = (4000.0, 4500.0);
