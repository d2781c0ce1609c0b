//! The receiving end of a hop: what has arrived, what parity restores, and reports about it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::erasure;
use super::number::Numbers;
use crate::wire::datagram::Media;
use crate::wire::hop::{Fate, MAX_REPORTED, Packet, Parity, Report, TICK_US, WIRE_OVERHEAD};

/// Takes the datagrams of one hop in, hands out the media in them, each video fragment once, and reports to the sender.
///
/// The sender decides what to do about a loss: only it knows what is worth another try. So a report tells what has become
/// of every number of late, and is sent [`CALM`] or, while there are losses, [`LOSSY`] after the first arrival it tells
/// of, and at once (but for [`PATIENCE`], in which parity may come) when numbers are missing. When nothing comes any
/// more the last report is repeated for a while: the first one that passes tells that the path is back.
///
/// Call [`Self::handle_packet`], then drain [`Self::poll_media`] and look at [`Self::poll_report`] and
/// [`Self::poll_timeout`]. Audio frames may come out more than once: copies of them travel in several datagrams.
///
/// Bounds: fates of [`WINDOW`] numbers, [`MAX_BODIES`] bodies and [`MAX_ROWS`] rows of parity; the oldest give way.
#[derive(Debug)]
pub struct Receiver {
    started: Instant,
    numbers: Numbers,
    /// Of the numbers up to the highest, the newest last.
    slots: VecDeque<Slot>,
    /// Bodies that parity may need.
    bodies: VecDeque<(u64, Bytes)>,
    rows: VecDeque<Row>,
    output: VecDeque<Media>,
    reports: Reports,
    totals: Totals,
}

/// What came over a hop since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Datagrams sent, as far as their numbers tell.
    pub expected: u64,
    /// Datagrams that arrived.
    pub arrived: u64,
    /// Bytes of media for the first time, with their share of headers.
    pub media_bytes: u64,
    /// Bytes of everything else: repetitions, copies, parity, padding, reports.
    pub other_bytes: u64,
    /// Fragments that came back by parity.
    pub restored: u64,
    /// Fragments that came back because they were sent again.
    pub resent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Missing,
    Restored,
    /// In ticks since the start.
    Arrived(u64),
}

#[derive(Debug)]
struct Row {
    first: u64,
    covered: u16,
    row: u8,
    data: Bytes,
}

/// When to report.
#[derive(Debug, Default)]
struct Reports {
    last: Option<Instant>,
    /// Highest numbers of the last reports, the newest first.
    highest: VecDeque<u64>,
    /// First arrival that no report tells of.
    since: Option<Instant>,
    /// Something was found missing then that no report tells of.
    gap: Option<Instant>,
    /// Last arrival.
    heard: Option<Instant>,
    lossy_until: Option<Instant>,
}

impl Receiver {
    /// For a hop on which nothing has been received.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            numbers: Numbers::default(),
            slots: VecDeque::new(),
            bodies: VecDeque::new(),
            rows: VecDeque::new(),
            output: VecDeque::new(),
            reports: Reports::default(),
            totals: Totals::default(),
        }
    }

    /// Takes a datagram of `len` bytes that arrived now; reports about the other direction are none of its business.
    pub fn handle_packet(&mut self, now: Instant, number: u16, len: usize, packet: Packet) {
        let wire = (len + WIRE_OVERHEAD) as u64;
        if matches!(packet, Packet::Report(_)) {
            self.totals.other_bytes += wire;
            return;
        }
        let Some((number, known)) = self.arrive(now, number) else { return };
        self.totals.arrived += 1;
        let media = match &packet {
            Packet::Media(_) => wire,
            // The newest frame is the last one.
            Packet::Bundle(frames) => {
                frames.last().map_or(0, |m| (m.body.len() + WIRE_OVERHEAD) as u64).min(wire)
            }
            _ => 0,
        };
        self.totals.media_bytes += media;
        self.totals.other_bytes += wire - media;
        match packet {
            Packet::Media(media) => {
                self.keep(number, &media.body);
                if !known {
                    self.output.push_back(media);
                }
                self.restore_around(number);
            }
            Packet::Again { lost, media } => self.resent(lost, media),
            Packet::Bundle(frames) => self.output.extend(frames),
            Packet::Parity(parity) => self.parity(parity),
            Packet::Padding | Packet::Report(_) => {}
        }
    }

    /// The next media that came.
    pub fn poll_media(&mut self) -> Option<Media> {
        self.output.pop_front()
    }

    /// A report to send now, if one is due.
    pub fn poll_report(&mut self, now: Instant) -> Option<Bytes> {
        if self.poll_timeout().is_none_or(|due| due > now) {
            return None;
        }
        let highest = self.numbers.highest()?;
        let Some(&Slot::Arrived(arrived)) = self.slots.back() else { return None };
        let fates = self.fates(highest);
        let held = self.tick(now).saturating_sub(arrived);
        let report = Report {
            highest: highest as u16,
            held_us: u32::try_from(held).unwrap_or(u32::MAX).saturating_mul(TICK_US),
            arrived: arrived as u32,
            fates,
        };
        self.reports.sent(now, highest);
        Some(report.encode())
    }

    /// When [`Self::poll_report`] should be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.reports.due()
    }

    /// What came so far.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Notes an arrival. None when the number is known to have arrived, or is too old to know; otherwise the number,
    /// and whether its body is known already.
    fn arrive(&mut self, now: Instant, number: u16) -> Option<(u64, bool)> {
        let before = self.numbers.highest();
        let number = self.numbers.extend(number);
        // Numbers begin at 0, so what lies before the first one to come is missing.
        let ahead =
            before.map_or_else(|| number - Numbers::FIRST + 1, |highest| number.saturating_sub(highest));
        self.totals.expected += ahead;
        // After a leap, what lies between is beyond repair.
        for _ in 0..ahead.min(WINDOW as u64) {
            self.slots.push_back(Slot::Missing);
        }
        self.slots.drain(..self.slots.len().saturating_sub(WINDOW));
        let tick = self.tick(now);
        let slot = self.slot(number)?;
        let known = match *slot {
            Slot::Arrived(_) => return None,
            Slot::Restored => true,
            Slot::Missing => false,
        };
        *slot = Slot::Arrived(tick);
        self.reports.arrived(now, ahead > 1);
        Some((number, known))
    }

    fn resent(&mut self, lost: u16, media: Media) {
        let Some(number) = self.numbers.known(lost) else { return };
        if let Some(slot @ Slot::Missing) = self.slot(number) {
            *slot = Slot::Restored;
            self.totals.resent += 1;
            self.keep(number, &media.body);
            self.output.push_back(media);
            self.restore_around(number);
        }
    }

    fn parity(&mut self, parity: Parity) {
        let Parity { first, covered, row, data } = parity;
        let Some(first) = self.numbers.known(first) else { return };
        if self.rows.len() == MAX_ROWS {
            self.rows.pop_front();
        }
        self.rows.push_back(Row { first, covered, row, data });
        self.restore(first, covered);
    }

    /// Looks whether the groups that this number belongs to can be completed.
    fn restore_around(&mut self, number: u64) {
        let group = |r: &&Row| {
            let at = number.wrapping_sub(r.first);
            at < 16 && r.covered >> at & 1 == 1
        };
        let mut groups: Vec<_> = self.rows.iter().filter(group).map(|r| (r.first, r.covered)).collect();
        groups.dedup();
        groups.into_iter().for_each(|(first, covered)| self.restore(first, covered));
    }

    /// Restores what is missing of a group, if there are rows enough.
    fn restore(&mut self, first: u64, covered: u16) {
        let positions = || (0..16_u16).filter(|at| covered >> at & 1 == 1);
        let (mut missing, mut known) = (Vec::new(), Vec::new());
        for at in positions() {
            match self.body(first + u64::from(at)) {
                Some(body) => known.push((at, body.clone())),
                None => missing.push(at),
            }
        }
        let rows: Vec<(u8, Bytes)> = self
            .rows
            .iter()
            .filter(|r| (r.first, r.covered) == (first, covered))
            .map(|r| (r.row, r.data.clone()))
            .collect();
        let whole = missing.is_empty();
        if rows.is_empty() || rows.len() < missing.len() {
            return;
        }
        // Whatever comes of it, these rows have done what they can.
        self.rows.retain(|r| (r.first, r.covered) != (first, covered));
        if whole {
            return;
        }
        for (at, body) in erasure::restore(&missing, &known, &rows).unwrap_or_default() {
            let number = first + u64::from(at);
            let Ok(media) = Media::from_body(number as u16, body) else { continue };
            if let Some(slot @ Slot::Missing) = self.slot(number) {
                *slot = Slot::Restored;
                self.totals.restored += 1;
                self.keep(number, &media.body);
                self.output.push_back(media);
            }
        }
    }

    fn keep(&mut self, number: u64, body: &Bytes) {
        if self.bodies.len() == MAX_BODIES {
            self.bodies.pop_front();
        }
        self.bodies.push_back((number, body.clone()));
    }

    fn body(&self, number: u64) -> Option<&Bytes> {
        self.bodies.iter().rev().find(|(n, _)| *n == number).map(|(_, body)| body)
    }

    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        let back = usize::try_from(self.numbers.highest()?.checked_sub(number)?).ok()?;
        let at = self.slots.len().checked_sub(back + 1)?;
        self.slots.get_mut(at)
    }

    /// What to tell of the numbers from the highest down.
    fn fates(&self, highest: u64) -> Vec<Fate> {
        let told = self.reports.told(self.reports.is_lossy());
        let count = told.map_or(MAX_REPORTED as u64, |told| highest.saturating_sub(told));
        let count = (count.clamp(1, MAX_REPORTED as u64) as usize).min(self.slots.len());
        let mut above: Option<u64> = None;
        let fate = |slot: &Slot| match *slot {
            Slot::Missing => Fate::Missing,
            Slot::Restored => Fate::Restored,
            Slot::Arrived(tick) => {
                let earlier = above.replace(tick).map_or(0, |above| above as i64 - tick as i64);
                Fate::Arrived(i32::try_from(earlier).unwrap_or(i32::MAX))
            }
        };
        self.slots.iter().rev().take(count).map(fate).collect()
    }

    fn tick(&self, now: Instant) -> u64 {
        let us = now.saturating_duration_since(self.started).as_micros();
        u64::try_from(us / u128::from(TICK_US)).unwrap_or(u64::MAX)
    }
}

impl Reports {
    fn arrived(&mut self, now: Instant, gap: bool) {
        self.heard = Some(now);
        self.since.get_or_insert(now);
        if gap {
            self.gap.get_or_insert(now);
            self.lossy_until = Some(now + LOSSY_FOR);
        }
    }

    fn sent(&mut self, now: Instant, highest: u64) {
        self.last = Some(now);
        (self.since, self.gap) = (None, None);
        // A report repeated in silence tells nothing new, and may be lost like those before.
        if self.highest.front() != Some(&highest) {
            self.highest.push_front(highest);
            self.highest.truncate(REPEATS_LOSSY);
        }
    }

    fn due(&self) -> Option<Instant> {
        let heard = self.heard?;
        let interval = if self.is_lossy() { LOSSY } else { CALM };
        let regular = self.since.map(|t| t + interval);
        let gap = self.gap.map(|t| t + PATIENCE);
        let again =
            self.last.filter(|last| *last > heard + SILENCE).map_or(heard + SILENCE, |last| last + REPEAT);
        let silence = (again <= heard + PERSISTENCE).then_some(again);
        let due = [regular, gap, silence].into_iter().flatten().min()?;
        Some(self.last.map_or(due, |last| due.max(last + SPACING)))
    }

    fn is_lossy(&self) -> bool {
        self.lossy_until.zip(self.heard).is_some_and(|(until, heard)| heard < until)
    }

    /// Up to which number earlier reports have told often enough.
    fn told(&self, lossy: bool) -> Option<u64> {
        self.highest.get(if lossy { REPEATS_LOSSY } else { REPEATS_CALM } - 1).copied()
    }
}

/// Until the next report while nothing is lost: 2 % of a call's bytes.
const CALM: Duration = Duration::from_millis(50);
/// The same while there are losses, or when the rate is about to change: as often as is common (RFC 8888 recommends at
/// most once a frame).
const LOSSY: Duration = Duration::from_millis(25);
/// For so long after a loss.
const LOSSY_FOR: Duration = Duration::from_secs(2);
/// What is missing may be behind by so much: parity of the same frame, or a packet that was overtaken.
const PATIENCE: Duration = Duration::from_millis(3);
/// Never sooner after the report before.
const SPACING: Duration = Duration::from_millis(8);
/// After so long without anything the last report is repeated: longer than from one picture to the next.
const SILENCE: Duration = Duration::from_millis(70);
/// And again every so often: this is how long a path may be back before the sender hears of it.
const REPEAT: Duration = Duration::from_millis(15);
/// For so long: outages on the road are mostly shorter, and after that QUIC's own probes do.
const PERSISTENCE: Duration = Duration::from_secs(2);
/// In how many reports a number appears: with every fifth report lost, one in fifteen thousand is told in none.
const REPEATS_CALM: usize = 3;
const REPEATS_LOSSY: usize = 6;
/// Numbers that are remembered: four seconds of a call of two.
const WINDOW: usize = 1024;
/// Bodies kept for parity: half a second of one camera. Each takes a datagram at most.
const MAX_BODIES: usize = 64;
/// Rows kept until their group is complete.
const MAX_ROWS: usize = 32;
