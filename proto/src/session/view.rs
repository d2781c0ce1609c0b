//! How large the others are shown here, as the relay knows it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::id::ParticipantId;
use crate::wire::limits::MAX_PARTICIPANTS;
use crate::wire::pb;

/// Tells of changes, at most every [`INTERVAL`]: a window that is being resized changes with each pixel.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// At most [`MAX_PARTICIPANTS`].
    heights: BTreeMap<ParticipantId, u32>,
    told: BTreeMap<ParticipantId, u32>,
    told_at: Option<Instant>,
}

impl View {
    pub(crate) fn set(&mut self, heights: Vec<(ParticipantId, u32)>) {
        self.heights = heights.into_iter().take(MAX_PARTICIPANTS).collect();
    }

    /// The relay knows of no view: it is told at once of one.
    pub(crate) fn forget_told(&mut self) {
        (self.told, self.told_at) = (BTreeMap::new(), None);
    }

    /// What to tell the relay now.
    pub(crate) fn news(&mut self, now: Instant) -> Option<pb::View> {
        if self.heights == self.told || self.told_at.is_some_and(|t| now < t + INTERVAL) {
            return None;
        }
        (self.told, self.told_at) = (self.heights.clone(), Some(now));
        let tile = |(id, height): (&ParticipantId, &u32)| pb::Tile { participant: id.0, height: *height };
        Some(pb::View { tiles: self.heights.iter().map(tile).collect() })
    }

    /// When to call [`Self::news`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.told_at.filter(|_| self.heights != self.told).map(|t| t + INTERVAL)
    }
}

/// Sooner than anybody notices which track a picture comes from.
const INTERVAL: Duration = Duration::from_millis(200);
