//! Reading back in a room's chat, page by page.

use std::time::{Duration, Instant};

use crate::wire::limits::MAX_PAGE;
use crate::wire::pb;

/// Where the client's copy of the chat begins, and the page before that.
///
/// A wish for a page is kept until it can be asked for, and is answered once: by the page, or by an empty one when none comes.
#[derive(Debug, Default)]
pub(crate) struct Back {
    /// The number of the oldest line; lines with smaller ones are older. None before the chat has begun.
    oldest: Option<u64>,
    /// There is a wish for a page, which may be asked for from then on.
    wanted: Option<Instant>,
    asked: Option<Asked>,
    /// When the next page may be asked for.
    free_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    before: u64,
    at: Instant,
}

/// What [`Back::poll`] wants done.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Ask the relay.
    Ask(pb::Older),
    /// These lines are before all others, and there may be more.
    Told(Vec<pb::Line>, bool),
}

impl Back {
    /// The chat begins with the line of this number, whatever came before.
    pub(crate) fn begin(&mut self, oldest: u64) {
        self.oldest = Some(oldest);
        self.disconnected();
    }

    /// Nothing comes of what was asked for.
    pub(crate) fn disconnected(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.wanted = Some(asked.at);
        }
    }

    /// Somebody wants to read what is older.
    pub(crate) fn want(&mut self, now: Instant) {
        if self.asked.is_none() {
            self.wanted.get_or_insert_with(|| self.free_at.map_or(now, |free| free.max(now)));
        }
    }

    /// Takes a page, if it is the one that was asked for. What does not belong before our lines is left out.
    pub(crate) fn take(&mut self, page: pb::Page, history: u64) -> Option<Step> {
        let before = self.asked.filter(|asked| asked.before == page.before)?.before;
        self.asked = None;
        if page.history != history {
            return Some(Step::Told(Vec::new(), true));
        }
        let (mut lines, mut last) = (page.lines, 0);
        lines.retain(|line| {
            let follows = line.seq > last && line.seq < before;
            last = if follows { line.seq } else { last };
            follows
        });
        let oldest = lines.first().map_or(before, |line| line.seq);
        self.oldest = Some(oldest);
        Some(Step::Told(lines, page.more && oldest > 1))
    }

    /// What to do now, with a connection.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Step> {
        if self.asked.take_if(|asked| asked.at + PATIENCE <= now).is_some() {
            return Some(Step::Told(Vec::new(), true));
        }
        let before = self.oldest.filter(|_| self.asked.is_none())?;
        self.wanted.take_if(|at| *at <= now)?;
        if before <= 1 {
            return Some(Step::Told(Vec::new(), false));
        }
        self.asked = Some(Asked { before, at: now });
        self.free_at = Some(now + INTERVAL);
        Some(Step::Ask(pb::Older { before, limit: MAX_PAGE }))
    }

    /// When to call [`Self::poll`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.asked {
            Some(asked) => Some(asked.at + PATIENCE),
            None => self.wanted.filter(|_| self.oldest.is_some()),
        }
    }
}

/// A relay that has not answered by then does not know the question, or has a disk that hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pages follow each other at what the relay allows for good, with a fifth left for other messages.
const INTERVAL: Duration = Duration::from_millis(250);
