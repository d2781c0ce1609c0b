//! Reports that fail to come.

use std::time::{Duration, Instant};

/// Notices that nothing answers, in two steps: silence, an outage that may pass, and absence, after which the path may
/// be another one.
///
/// Time counts from the first datagram since the last report, so a sender that pauses is no outage.
#[derive(Debug)]
pub(super) struct Silence {
    reported: Option<Instant>,
    /// Mean time between reports.
    interval: Duration,
    rtt: Duration,
    /// When the first datagram was sent that no report has answered.
    unanswered: Option<Instant>,
    noticed: Noticed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Noticed {
    Nothing,
    Silence,
    Absence,
}

impl Default for Silence {
    fn default() -> Self {
        Self {
            reported: None,
            interval: FIRST_INTERVAL,
            rtt: FIRST_RTT,
            unanswered: None,
            noticed: Noticed::Nothing,
        }
    }
}

impl Silence {
    /// A datagram was sent.
    pub(super) fn handle_sent(&mut self, now: Instant) {
        self.unanswered.get_or_insert(now);
    }

    /// A report came.
    pub(super) fn handle_feedback(&mut self, now: Instant, rtt: Duration) {
        // The pause between reports is theirs, unless nothing was sent or an outage made it.
        if let (Some(before), Some(_), Noticed::Nothing) = (self.reported, self.unanswered, self.noticed) {
            let interval = now.saturating_duration_since(before).min(MAX_INTERVAL);
            self.interval = (self.interval * 7 + interval) / 8;
        }
        self.reported = Some(now);
        self.rtt = rtt;
        self.unanswered = None;
        self.noticed = Noticed::Nothing;
    }

    /// Time has passed; true when absence begins.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.noticed < Noticed::Absence && due(self.absence_at()) {
            self.noticed = Noticed::Absence;
            return true;
        }
        if self.noticed < Noticed::Silence && self.is_silent(now) {
            self.noticed = Noticed::Silence;
        }
        false
    }

    /// When [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.noticed {
            Noticed::Nothing => self.silence_at(),
            Noticed::Silence => self.absence_at(),
            Noticed::Absence => None,
        }
    }

    /// Whether any report has come.
    pub(super) const fn is_known(&self) -> bool {
        self.reported.is_some()
    }

    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.silence_at().is_some_and(|at| at <= now)
    }

    fn silence_at(&self) -> Option<Instant> {
        Some(self.unanswered? + MIN_SILENCE.max(self.rtt + self.interval * 2))
    }

    fn absence_at(&self) -> Option<Instant> {
        Some(self.unanswered? + ABSENCE)
    }
}

/// Assumed before the first report.
const FIRST_RTT: Duration = Duration::from_millis(100);
const FIRST_INTERVAL: Duration = Duration::from_millis(25);
/// Reports at longer intervals would be of no use.
const MAX_INTERVAL: Duration = Duration::from_millis(200);
/// Silence of less is a report or two lost.
const MIN_SILENCE: Duration = Duration::from_millis(100);
/// Longer than a change between Wi-Fi and a mobile network takes.
pub(super) const ABSENCE: Duration = Duration::from_secs(5);
