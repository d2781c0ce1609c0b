//! The sending end of a hop: what goes next, and once more.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::chains::Chains;
use super::erasure;
use super::number::near;
use super::protection::{Importance, Protection};
use super::shares::{self, Shares};
use super::sound::{Key, Sound};
use crate::cc::{Arrival, Estimator, Loss};
use crate::egress::{Egress, Queued};
use crate::id::{FrameId, TrackId};
use crate::units::Bitrate;
use crate::wire::datagram::MediaHeader;
use crate::wire::hop::{
    self, Fate, MAX_BUNDLE, MAX_REPORTED, PARITY_SPAN, Parity, Report, TICK_US, WIRE_OVERHEAD,
};
use crate::wire::limits::MAX_DATAGRAM;

/// Numbers, paces, protects and repairs what leaves over one hop.
///
/// Order: sound, then base video with what was lost of it before what is new, then parity, then video on which nothing
/// depends, then padding that probes for more rate. Sound is not paced; the rest leaves at the estimator's pace. A datagram
/// is taken for lost when a report says so while later ones have come, or when the report was made long enough after it
/// should have come (RFC 9002, section 6.1, with a packet threshold of one: a needless repetition costs little, and these
/// networks rarely overtake). What was lost is sent again while it can be in time and nothing newer has made it needless;
/// when base video cannot be saved any more, the track is given up and a refresh asked for ([`Self::poll_refresh`]).
///
/// Call a `handle_*` or [`Self::push`], then drain [`Self::poll_datagram`] and [`Self::poll_refresh`] and look at
/// [`Self::poll_timeout`].
///
/// Bounds: [`Egress`] bounds what waits; of what was sent, [`MAX_SENT`] datagrams and [`MAX_KEPT`] bytes are kept.
#[derive(Debug)]
pub struct Sender {
    egress: Egress,
    estimator: Estimator,
    video_max: Bitrate,
    /// Of the next datagram. The 16 bits on the wire are its lowest.
    next: u64,
    history: VecDeque<Entry>,
    kept: usize,
    round_trip: RoundTrip,
    /// The receiver's clock at the last report, in ticks that do not wrap.
    ticks: Option<u64>,
    chains: Chains,
    sound: Sound,
    /// By frame; each that is not sent to its end is closed when the numbers of its members get too far apart.
    groups: Vec<Vec<Member>>,
    parity: VecDeque<Row>,
    repairs: VecDeque<Repair>,
    padding: usize,
    /// Padding that leaves right behind the datagram before it.
    pair: Option<usize>,
    /// When the next paced datagram should leave, by what was sent.
    pace_at: Instant,
    /// When the last one left.
    paced_at: Instant,
    /// A queue stood lately, and losses may come of it.
    congested_until: Option<Instant>,
    shares: Shares,
    refreshes: VecDeque<Refresh>,
    sent: Sent,
}

/// What a hop may be used for.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// To begin with, all in all.
    pub start: Bitrate,
    /// The most that video may take, payload only; sound and protection come on top.
    pub video_max: Bitrate,
}

/// Video that the receiver cannot get any more: it needs a frame that depends on none later than `decoded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// Whose.
    pub track: TrackId,
    /// The newest frame that the receiver can decode; none when only a key frame helps.
    pub decoded: Option<FrameId>,
}

/// What was sent since the start, in bytes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Media for the first time.
    pub media_bytes: u64,
    /// Copies of sound in other datagrams, and sound sent again.
    pub copied_bytes: u64,
    /// Parity.
    pub parity_bytes: u64,
    /// Video sent again.
    pub repaired_bytes: u64,
    /// Padding.
    pub padding_bytes: u64,
}

impl Sent {
    /// All that is not media for the first time.
    #[must_use]
    pub const fn other_bytes(&self) -> u64 {
        self.copied_bytes + self.parity_bytes + self.repaired_bytes + self.padding_bytes
    }
}

/// A datagram that was sent.
#[derive(Debug)]
struct Entry {
    at: Instant,
    content: Content,
    state: State,
    /// The last row of parity that covers it.
    guard: Guard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InFlight,
    Arrived,
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    None,
    /// It has not been sent yet.
    Waits,
    Sent(u64),
}

#[derive(Clone, Debug)]
enum Content {
    /// The number it had the first time, for repetitions.
    Video {
        queued: Queued,
        original: u64,
    },
    Audio(Vec<Key>),
    /// Nothing that would be sent again: parity, padding, or what has arrived.
    Nothing,
}

/// A video datagram of the group that the next parity is made over.
#[derive(Debug)]
struct Member {
    number: u64,
    header: MediaHeader,
    body: Bytes,
}

/// A row of parity on its way.
#[derive(Debug)]
struct Row {
    not_before: Instant,
    parity: Parity,
    covered: Vec<u64>,
    discardable: bool,
}

#[derive(Debug)]
struct Repair {
    not_before: Instant,
    queued: Queued,
    original: u64,
}

/// RFC 6298, section 2, without a timer's lower bound.
#[derive(Clone, Copy, Debug, Default)]
struct RoundTrip {
    smoothed: Option<Duration>,
    variation: Duration,
}

impl Sender {
    /// For a hop on which nothing has been sent.
    #[must_use]
    pub fn new(now: Instant, settings: Settings) -> Self {
        let Settings { start, video_max } = settings;
        let max = Bitrate::from_bps(video_max.bps() * 2 + AUDIO_START.bps());
        let estimator = crate::cc::Settings { start, min: MIN_RATE, max: max.max(start) };
        Self {
            egress: Egress::default(),
            estimator: Estimator::new(now, estimator),
            video_max,
            next: 0,
            history: VecDeque::new(),
            kept: 0,
            round_trip: RoundTrip::default(),
            ticks: None,
            chains: Chains::default(),
            sound: Sound::default(),
            groups: Vec::new(),
            parity: VecDeque::new(),
            repairs: VecDeque::new(),
            padding: 0,
            pair: None,
            pace_at: now,
            paced_at: now,
            congested_until: None,
            shares: Shares::default(),
            refreshes: VecDeque::new(),
            sent: Sent::default(),
        }
    }

    /// Queues the body of a media datagram (without hop prefix).
    pub fn push(&mut self, now: Instant, header: MediaHeader, body: Bytes) {
        self.egress.push(now, header, body);
        self.collect_refreshes();
    }

    /// Forgets a track that ended.
    pub fn forget(&mut self, track: TrackId) {
        self.egress.forget(track);
        self.chains.forget(track);
        self.repairs.retain(|r| r.queued.header.track != track);
    }

    /// The most that video may take from now on, payload only.
    pub const fn set_video_max(&mut self, max: Bitrate) {
        self.video_max = max;
    }

    /// Takes the receiver's report. One that speaks of what was never sent is ignored.
    pub fn handle_report(&mut self, now: Instant, report: &Report) {
        let Some(newest) = self.next.checked_sub(1) else { return };
        let highest = near(newest, report.highest);
        if highest > newest {
            return;
        }
        self.measure(now, highest, report.held_us);
        let arrivals = self.arrivals(highest, report);
        self.estimator.set_max(self.max());
        self.estimator.handle_feedback(now, self.round_trip(), &arrivals);
        if self.estimator.queue_delay() > CONGESTED {
            self.congested_until = Some(now + CONGESTED_FOR);
        }
        for (fate, number) in report.fates.iter().zip((0..=highest).rev()) {
            match fate {
                Fate::Arrived(_) | Fate::Restored => self.arrived(number, *fate == Fate::Restored),
                Fate::Missing => self.missing(now, number, highest),
            }
        }
        // What should have come before this report was made.
        let overdue = self.round_trip.limit();
        let unknown = |e: &Entry| e.state == State::InFlight;
        let is_lost = |(number, e): (u64, &Entry)| {
            let late = number > highest && now.saturating_duration_since(e.at) > overdue;
            (unknown(e) && late).then_some(number)
        };
        let first = self.first();
        let lost: Vec<u64> = (first..).zip(&self.history).filter_map(is_lost).collect();
        lost.into_iter().for_each(|number| self.lose(now, number));
        // Reports repeat themselves, so what none speaks of any more fell into a gap of reports, not of media: in an outage of both
        // directions the highest number stands still, and after it a report tells of all that it can hold.
        let told_from = (highest + 1).saturating_sub(report.fates.len() as u64);
        let before = (first..told_from).zip(&self.history);
        let forgotten: Vec<u64> = before.filter(|(_, e)| unknown(e)).map(|(number, _)| number).collect();
        let full = report.fates.len() == MAX_REPORTED;
        for number in forgotten {
            if full {
                self.lose(now, number);
            } else {
                self.arrived(number, true);
            }
        }
        self.forget_old(now);
        self.cut_losses(now);
        self.collect_refreshes();
    }

    /// Call when the time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.estimator.poll_timeout().is_some_and(|t| t <= now) {
            self.estimator.handle_timeout(now);
        }
    }

    /// The next datagram to send now.
    pub fn poll_datagram(&mut self, now: Instant) -> Option<Bytes> {
        if let Some(bytes) = self.pair.take() {
            return Some(self.pad(now, bytes));
        }
        if self.egress.has_audio() || self.sound.is_wanted(now) {
            return Some(self.send_audio(now));
        }
        if self.may_send_at() > now + PACE_SLACK && self.next >= FIRST_BURST {
            return None;
        }
        if let Some(repair) = self.next_repair(now) {
            return Some(self.send_again(now, repair));
        }
        if let Some(queued) = self.egress.pop_base() {
            return Some(self.send_video(now, queued));
        }
        while let Some(at) = self.parity.iter().position(|row| row.not_before <= now)
            && let Some(row) = self.parity.remove(at)
        {
            if now < row.not_before + MAX_ROW_WAIT {
                return Some(self.send_parity(now, row));
            }
            self.unguard(&row.covered);
        }
        if let Some(queued) = self.egress.pop_higher() {
            return Some(self.send_video(now, queued));
        }
        self.send_padding(now)
    }

    /// A refresh that the receiver needs.
    pub fn poll_refresh(&mut self) -> Option<Refresh> {
        self.refreshes.pop_front()
    }

    /// When to call [`Self::handle_timeout`] and [`Self::poll_datagram`] again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let repairs = self.repairs.iter().map(|r| r.not_before).min();
        let parity = self.parity.iter().map(|r| r.not_before).min();
        let may_send_at = self.may_send_at();
        let video = (self.egress.has_video() || self.padding > 0).then_some(may_send_at);
        let paced = [repairs, parity, video].into_iter().flatten().min();
        let paced = paced.map(|t| t.max(may_send_at));
        [paced, self.estimator.poll_timeout()].into_iter().flatten().min()
    }

    /// What video may take, payload only.
    #[must_use]
    pub fn video_target(&self) -> Bitrate {
        let rest = self.estimator.target().bps().saturating_sub(self.audio().bps());
        let rest = rest.saturating_sub(rest / CHAT_SHARE);
        Bitrate::from_bps((rest as f64 * self.shares.pictures()) as u64).min(self.video_max)
    }

    /// What may be sent in all.
    #[must_use]
    pub fn target(&self) -> Bitrate {
        self.estimator.target()
    }

    /// Losses of late.
    #[must_use]
    pub fn loss(&self) -> Loss {
        self.estimator.loss()
    }

    /// The share of sound that is lost in spite of copies, and how long losses last (as [`Loss`]).
    #[must_use]
    pub fn residual_loss(&self) -> Loss {
        let Loss { rate, burst } = self.estimator.loss();
        let copies = Protection::new(Loss { rate, burst }, self.round_trip()).copies().len() as i32;
        // Copies that lie within the same burst are lost together.
        let each = if burst > 2.0 { rate.max(0.5) } else { rate };
        Loss { rate: rate * each.powi(copies), burst }
    }

    /// The smoothed round trip, or a guess before the first report.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.round_trip.smoothed.unwrap_or(FIRST_ROUND_TRIP)
    }

    /// Whether the other end has reported anything yet.
    #[must_use]
    pub const fn is_measured(&self) -> bool {
        self.round_trip.smoothed.is_some()
    }

    /// Whether reports fail to come although something was sent: an outage.
    #[must_use]
    pub fn is_silent(&self, now: Instant) -> bool {
        self.estimator.is_silent(now)
    }

    /// How long the oldest base video has waited here.
    #[must_use]
    pub fn video_wait(&self, now: Instant) -> Duration {
        self.egress.video_wait(now)
    }

    /// The newest frame of a track that the receiver can decode.
    #[must_use]
    pub fn decodable(&self, track: TrackId) -> Option<FrameId> {
        self.chains.decodable(track)
    }

    /// What was sent so far.
    #[must_use]
    pub const fn sent(&self) -> Sent {
        self.sent
    }

    /// When the next paced datagram may leave. Sound alone must not hold back the rest for ever, when it takes all of the pace.
    fn may_send_at(&self) -> Instant {
        self.pace_at.min(self.paced_at + MAX_HOLD)
    }

    /// Everything on the wire that this hop could use.
    fn max(&self) -> Bitrate {
        let video = self.video_max.bps() as f64 / self.shares.pictures();
        Bitrate::from_bps(video as u64 + self.audio().bps().max(AUDIO_START.bps()))
    }

    /// What sound takes, or will take when it has begun.
    fn audio(&self) -> Bitrate {
        if self.next < UNKNOWN { AUDIO_START } else { self.shares.audio() }
    }

    fn protection(&self, now: Instant) -> Protection {
        let Loss { rate, burst } = self.estimator.loss();
        // What overflows a queue is lost for want of room: to send more would make it worse.
        let rate = if self.congested_until > Some(now) { rate.min(CONGESTED_LOSS) } else { rate };
        Protection::new(Loss { rate, burst }, self.round_trip())
    }

    /// The same for video. The first key frame, for which somebody who joins waits, is sent before anything is known.
    fn video_protection(&self, now: Instant, importance: Importance) -> Protection {
        if self.next < UNKNOWN && importance == Importance::Key {
            let Loss { rate, burst } = self.estimator.loss();
            return Protection::new(Loss { rate: rate.max(FIRST_LOSS), burst }, self.round_trip());
        }
        self.protection(now)
    }

    fn send_audio(&mut self, now: Instant) -> Bytes {
        let mut room = MAX_DATAGRAM - BUNDLE_HEAD;
        let mut fresh: Vec<Queued> = Vec::new();
        while self.egress.next_audio().is_some_and(|body| hop::bundled_len(body) <= room)
            && fresh.len() < MAX_BUNDLE
            && let Some(next) = self.egress.pop_audio()
        {
            room -= hop::bundled_len(&next.body);
            fresh.push(next);
        }
        let offsets = self.protection(now).copies();
        let mut carried = self.sound.copies(now, &fresh, offsets, room);
        carried.truncate(MAX_BUNDLE - fresh.len());
        // The oldest first, the newest last.
        carried.reverse();
        let copied: usize = carried.iter().map(|(_, body)| hop::bundled_len(body)).sum();
        carried.extend(fresh.iter().map(|q| ((q.header.track, q.header.frame), q.body.clone())));
        let (keys, bodies): (Vec<Key>, Vec<Bytes>) = carried.into_iter().unzip();
        let number = self.next;
        let datagram = match &bodies[..] {
            [body] => hop::media(number as u16, body),
            bodies => hop::bundled(number as u16, bodies),
        };
        self.sound.sent(number, &keys, &fresh);
        let wire = self.note(now, &datagram, Content::Audio(keys));
        // Sound is not paced, so the rest must not wait for all of it.
        self.pace_at = self.pace_at.min(now + MAX_DEBT);
        let copied = if fresh.is_empty() { wire } else { copied as u64 };
        self.sent.copied_bytes += copied;
        self.sent.media_bytes += wire - copied;
        self.shares.sent(now, shares::Bytes { audio: wire, ..shares::Bytes::default() });
        datagram
    }

    fn send_video(&mut self, now: Instant, queued: Queued) -> Bytes {
        let number = self.next;
        let header = queued.header;
        let datagram = hop::media(number as u16, &queued.body);
        if !header.discardable {
            self.chains.sent(&header);
        }
        let pictures = (queued.body.len() - MediaHeader::LEN) as u64;
        self.group(now, Member { number, header, body: queued.body.clone() });
        let wire = self.note(now, &datagram, Content::Video { queued, original: number });
        self.sent.media_bytes += wire;
        self.shares.sent(now, shares::Bytes { pictures, video: wire, audio: 0 });
        if header.index + 1 == header.count {
            self.pair = self.estimator.poll_pair(now).map(|probe| probe.bytes);
            self.protect_where(now, |first| {
                (first.header.track, first.header.frame) == (header.track, header.frame)
            });
        }
        datagram
    }

    fn send_again(&mut self, now: Instant, repair: Repair) -> Bytes {
        let Repair { queued, original, .. } = repair;
        let datagram = hop::again(self.next as u16, original as u16, &queued.body);
        let wire = self.note(now, &datagram, Content::Video { queued, original });
        self.sent.repaired_bytes += wire;
        self.shares.sent(now, shares::Bytes { video: wire, ..shares::Bytes::default() });
        datagram
    }

    fn send_parity(&mut self, now: Instant, row: Row) -> Bytes {
        let number = self.next;
        let datagram = row.parity.encode(number as u16);
        for covered in row.covered {
            if let Some(entry) = self.entry_mut(covered) {
                entry.guard = Guard::Sent(number);
            }
        }
        let wire = self.note(now, &datagram, Content::Nothing);
        self.sent.parity_bytes += wire;
        self.shares.sent(now, shares::Bytes { video: wire, ..shares::Bytes::default() });
        datagram
    }

    fn send_padding(&mut self, now: Instant) -> Option<Bytes> {
        // Only while nothing else waits: what carries something probes as well.
        if self.padding == 0 {
            self.padding = self.estimator.poll_probe(now)?.bytes;
        }
        let bytes = self.padding.min(MAX_DATAGRAM + WIRE_OVERHEAD);
        self.padding -= bytes;
        Some(self.pad(now, bytes))
    }

    /// Padding of so many bytes on the wire.
    fn pad(&mut self, now: Instant, bytes: usize) -> Bytes {
        let datagram = hop::padding(self.next as u16, bytes.saturating_sub(WIRE_OVERHEAD));
        self.sent.padding_bytes += self.note(now, &datagram, Content::Nothing);
        datagram
    }

    /// Enters a datagram into the history and the pace. Returns its bytes on the wire.
    fn note(&mut self, now: Instant, datagram: &Bytes, content: Content) -> u64 {
        let wire = datagram.len() + WIRE_OVERHEAD;
        self.estimator.handle_sent(now, self.next, wire);
        self.kept += content.bytes();
        if !matches!(content, Content::Audio(_)) {
            self.paced_at = now;
        }
        self.history.push_back(Entry { at: now, content, state: State::InFlight, guard: Guard::None });
        self.next += 1;
        let rate = self.estimator.pacing_rate().bps().max(MIN_RATE.bps());
        let takes = Duration::from_nanos((wire as u64 * 8).saturating_mul(1_000_000_000) / rate);
        self.pace_at = self.pace_at.max(now) + takes;
        if self.history.len() > MAX_SENT
            && let Some(oldest) = self.history.pop_front()
        {
            self.kept -= oldest.content.bytes();
        }
        // Numbers are remembered all the same: reports on them tell what the hop carries.
        for entry in &mut self.history {
            if self.kept <= MAX_KEPT {
                break;
            }
            self.kept -= std::mem::replace(&mut entry.content, Content::Nothing).bytes();
        }
        wire as u64
    }

    /// Adds a datagram to the group that parity will cover.
    fn group(&mut self, now: Instant, member: Member) {
        self.protect_where(now, |first| member.number - first.number >= u64::from(PARITY_SPAN));
        let of = |m: &Member| (m.header.track, m.header.frame);
        let open = |g: &&mut Vec<Member>| g.len() < MAX_GROUP && g.first().map(of) == Some(of(&member));
        match self.groups.iter_mut().find(open) {
            Some(group) => group.push(member),
            None => self.groups.push(vec![member]),
        }
    }

    /// Makes parity over the groups with such a first member.
    fn protect_where(&mut self, now: Instant, ready: impl Fn(&Member) -> bool) {
        let ready = |group: &mut Vec<Member>| group.first().is_none_or(&ready);
        let groups: Vec<_> = self.groups.extract_if(.., ready).collect();
        groups.into_iter().for_each(|group| self.protect(now, group));
    }

    /// Makes parity over a group.
    fn protect(&mut self, now: Instant, group: Vec<Member>) {
        let Some(first) = group.first() else { return };
        let importance = match &first.header {
            header if header.is_key() => Importance::Key,
            header if header.discardable => Importance::Higher,
            _ => Importance::Base,
        };
        let protection = self.video_protection(now, importance);
        let rows = protection.rows(group.len(), importance);
        if rows == 0 {
            return;
        }
        let start = first.number;
        let discardable = importance == Importance::Higher;
        let covered: Vec<u64> = group.iter().map(|m| m.number).collect();
        let mask = covered.iter().fold(0, |mask, number| mask | 1 << (number - start));
        let members: Vec<_> = group.into_iter().map(|m| ((m.number - start) as u16, m.body)).collect();
        for row in 0..rows {
            let data = erasure::encode(row as u8, &members);
            let parity = Parity { first: start as u16, covered: mask, row: row as u8, data };
            let not_before = now + protection.spread(row);
            self.parity.push_back(Row { not_before, parity, covered: covered.clone(), discardable });
        }
        for number in covered {
            if let Some(entry) = self.entry_mut(number) {
                entry.guard = Guard::Waits;
            }
        }
        while self.parity.len() > MAX_ROWS_WAITING {
            let at = self.parity.iter().position(|row| row.discardable).unwrap_or(0);
            let covered = self.parity.remove(at).map(|row| row.covered);
            self.unguard(&covered.unwrap_or_default());
        }
    }

    /// No parity will come for these.
    fn unguard(&mut self, covered: &[u64]) {
        for number in covered {
            if let Some(entry) = self.entry_mut(*number)
                && entry.guard == Guard::Waits
            {
                entry.guard = Guard::None;
            }
        }
    }

    fn measure(&mut self, now: Instant, highest: u64, held_us: u32) {
        let Some(entry) = self.entry(highest).filter(|e| e.state == State::InFlight) else { return };
        let took = now.saturating_duration_since(entry.at);
        self.round_trip.record(took.saturating_sub(Duration::from_micros(held_us.into())));
    }

    /// The report in whole numbers and microseconds, the oldest first.
    fn arrivals(&mut self, highest: u64, report: &Report) -> Vec<Arrival> {
        let reference = self.ticks.unwrap_or_else(|| 1 << 32 | u64::from(report.arrived));
        let ahead = report.arrived.wrapping_sub(reference as u32).cast_signed();
        let mut tick = reference.saturating_add_signed(ahead.into());
        self.ticks = Some(tick);
        let mut arrivals = Vec::with_capacity(report.fates.len());
        for (fate, number) in report.fates.iter().zip((0..=highest).rev()) {
            let arrived_us = match fate {
                Fate::Missing | Fate::Restored => None,
                Fate::Arrived(earlier) => {
                    tick = tick.saturating_add_signed(-i64::from(*earlier));
                    i64::try_from(tick.saturating_mul(u64::from(TICK_US))).ok()
                }
            };
            arrivals.push(Arrival { number, arrived_us });
        }
        arrivals.reverse();
        arrivals
    }

    /// A datagram, or at least what it carried, is there.
    fn arrived(&mut self, number: u64, restored: bool) {
        let Some(entry) = self.entry_mut(number) else { return };
        if entry.state == State::Arrived {
            return;
        }
        entry.state = State::Arrived;
        let content = std::mem::replace(&mut entry.content, Content::Nothing);
        self.kept -= content.bytes();
        match content {
            Content::Video { queued, original } => {
                self.chains.arrived(&queued.header);
                if original == number || restored {
                    // It came after all.
                    self.repairs.retain(|r| r.original != original);
                }
            }
            Content::Audio(keys) => self.sound.arrived(&keys),
            Content::Nothing => {}
        }
    }

    fn missing(&mut self, now: Instant, number: u64, highest: u64) {
        let Some(entry) = self.entry(number).filter(|e| e.state == State::InFlight) else { return };
        let guarded = match entry.guard {
            Guard::None => false,
            Guard::Waits => true,
            Guard::Sent(row) => row > highest,
        };
        // Parity on its way may restore it; if not, the next report says so.
        if !guarded || now.saturating_duration_since(entry.at) > self.round_trip.limit() + GUARDED {
            self.lose(now, number);
        }
    }

    /// A datagram is lost: sends again what it carried, if that is worth it.
    fn lose(&mut self, now: Instant, number: u64) {
        let repeats = self.protection(now).repeats();
        let Some(entry) = self.entry_mut(number) else { return };
        entry.state = State::Lost;
        match entry.content.clone() {
            Content::Video { queued, original } => {
                let waits = self.repairs.iter().any(|r| r.original == original);
                let on_its_way = self.history.iter().rev().any(|e| {
                    let same = matches!(&e.content, Content::Video { original: o, .. } if *o == original);
                    same && e.state == State::InFlight
                });
                if !waits && !on_its_way {
                    for n in 0..repeats as u32 {
                        let not_before = now + n * REPEAT_SPREAD;
                        self.repairs.push_back(Repair { not_before, queued: queued.clone(), original });
                    }
                }
            }
            Content::Audio(keys) => self.sound.lost(number, &keys),
            Content::Nothing => {}
        }
    }

    /// The oldest loss that is worth another try.
    fn next_repair(&mut self, now: Instant) -> Option<Repair> {
        loop {
            let due = |r: &&Repair| r.not_before <= now;
            let oldest = self.repairs.iter().filter(due).min_by_key(|r| r.queued.since)?.original;
            let at = self.repairs.iter().position(|r| r.original == oldest && r.not_before <= now)?;
            let repair = self.repairs.remove(at)?;
            let header = &repair.queued.header;
            let age = now.saturating_duration_since(repair.queued.since);
            if header.discardable {
                if age < self.patience(MAX_AGE_HIGHER) {
                    return Some(repair);
                }
            } else if !self.chains.is_obsolete(header) {
                if age < self.patience(MAX_AGE_BASE) {
                    return Some(repair);
                }
                self.give_up(now, header.track);
            }
        }
    }

    fn patience(&self, limit: Duration) -> Duration {
        limit + self.round_trip() * 3 / 2
    }

    /// Gives up a track whose repair would take longer than to encode what it shows anew: on a line that has become narrow, what was
    /// made for a wide one.
    fn cut_losses(&mut self, now: Instant) {
        let mut lost: BTreeMap<TrackId, usize> = BTreeMap::new();
        for repair in self.repairs.iter().filter(|r| !r.queued.header.discardable) {
            *lost.entry(repair.queued.header.track).or_default() += repair.queued.body.len();
        }
        let room = self.estimator.target().bps().saturating_sub(self.audio().bps()).max(MIN_RATE.bps() / 2);
        let bearable = Bitrate::from_bps(room).bytes_in(MAX_REPAIR_TIME);
        for (track, bytes) in lost {
            // Without anything to refer to, a key frame would be needed, which is larger than most repairs.
            if bytes as u64 > bearable && self.chains.decodable(track).is_some() {
                self.give_up(now, track);
            }
        }
    }

    /// Base video of a track is lost for good.
    fn give_up(&mut self, now: Instant, track: TrackId) {
        let decoded = self.chains.decodable(track);
        if let Some(newest) = self.chains.newest(track) {
            self.egress.give_up(now, track, decoded, newest);
        }
        self.repairs.retain(|r| r.queued.header.track != track);
        // Nothing of it is waited for any more.
        for entry in &mut self.history {
            if matches!(&entry.content, Content::Video { queued, .. } if queued.header.track == track) {
                self.kept -= entry.content.bytes();
                entry.content = Content::Nothing;
            }
        }
        self.collect_refreshes();
    }

    fn collect_refreshes(&mut self) {
        while let Some((track, decoded)) = self.egress.poll_refresh_needed() {
            // Of what was sent, acknowledgements tell more; a key frame that still waits is not among it.
            let was_sent = |f: FrameId| self.chains.newest(track).is_some_and(|newest| !f.is_after(newest));
            let decoded = if decoded.is_some_and(was_sent) { self.chains.decodable(track) } else { decoded };
            self.refreshes.push_back(Refresh { track, decoded });
        }
    }

    /// Drops from the history what is past all repair.
    fn forget_old(&mut self, now: Instant) {
        let limit = self.patience(MAX_AGE_BASE) + self.round_trip();
        while self.history.front().is_some_and(|e| now.saturating_duration_since(e.at) > limit) {
            if let Some(oldest) = self.history.pop_front() {
                self.kept -= oldest.content.bytes();
            }
        }
    }

    /// Number of the oldest entry of the history.
    fn first(&self) -> u64 {
        self.next - self.history.len() as u64
    }

    fn entry(&self, number: u64) -> Option<&Entry> {
        let at = usize::try_from(number.checked_sub(self.first())?).ok()?;
        self.history.get(at)
    }

    fn entry_mut(&mut self, number: u64) -> Option<&mut Entry> {
        let at = usize::try_from(number.checked_sub(self.first())?).ok()?;
        self.history.get_mut(at)
    }
}

impl Content {
    const fn bytes(&self) -> usize {
        match self {
            Self::Video { queued, .. } => queued.body.len(),
            Self::Audio(_) | Self::Nothing => 0,
        }
    }
}

impl RoundTrip {
    fn record(&mut self, sample: Duration) {
        let Some(smoothed) = self.smoothed else {
            (self.smoothed, self.variation) = (Some(sample), sample / 2);
            return;
        };
        self.variation = (self.variation * 3 + smoothed.abs_diff(sample)) / 4;
        self.smoothed = Some((smoothed * 7 + sample) / 8);
    }

    /// By when a report speaks of a datagram that has arrived.
    fn limit(&self) -> Duration {
        let smoothed = self.smoothed.unwrap_or(FIRST_ROUND_TRIP);
        smoothed + (self.variation * 4).max(MIN_VARIATION)
    }
}

/// Assumed before the first report: a path across a continent.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(100);
/// Datagrams until losses are known, and what is assumed so long.
const UNKNOWN: u64 = 100;
const FIRST_LOSS: f64 = 0.05;
/// Of what is lost while a queue stands, so much at most counts as lost on its own.
const CONGESTED_LOSS: f64 = 0.01;
/// The first datagrams leave at once, most of a first key frame: an initial window as any other protocol has (RFC 6928).
const FIRST_BURST: u64 = 12;
/// A queue so long is near what small routers hold.
const CONGESTED: Duration = Duration::from_millis(80);
/// Losses are averaged over two seconds.
const CONGESTED_FOR: Duration = Duration::from_secs(2);
/// Schedulers and reports that wait for a timer.
const MIN_VARIATION: Duration = Duration::from_millis(8);
/// How much longer than usual a loss may wait for parity to be reported on.
const GUARDED: Duration = Duration::from_millis(20);
/// Second copies of what was lost, past the burst that took the first.
const REPEAT_SPREAD: Duration = Duration::from_millis(6);
/// A call of sound alone; below there is nothing to save.
const MIN_RATE: Bitrate = Bitrate::from_kbps(60);
/// What one microphone takes with its headers.
const AUDIO_START: Bitrate = Bitrate::from_kbps(120);
/// One part in so many of what sound leaves is chat's.
const CHAT_SHARE: u64 = 50;
/// Timers wake a millisecond late.
const PACE_SLACK: Duration = Duration::from_millis(1);
/// Base video is repaired for so long, and as long as that takes on the path: what comes later than this is a freeze anyway,
/// and a refresh ends it with fewer bytes.
const MAX_AGE_BASE: Duration = Duration::from_millis(400);
/// What repairs may take of the rate of the moment, sound apart.
const MAX_REPAIR_TIME: Duration = Duration::from_millis(300);
/// Video on which nothing depends is repaired for so long: when its turn to be shown has passed it is of no use.
const MAX_AGE_HIGHER: Duration = Duration::from_millis(80);
/// Datagrams in one parity group, less than its span for the sound between them.
const MAX_GROUP: usize = 10;
/// What parity is for has been repaired otherwise by then.
const MAX_ROW_WAIT: Duration = Duration::from_millis(100);
/// Rows that wait to be sent: those of two large frames.
const MAX_ROWS_WAITING: usize = 64;
/// Datagrams remembered, three seconds of a large call.
const MAX_SENT: usize = 2048;
/// Bytes of video kept for repair: half a second at 4 Mb/s.
const MAX_KEPT: usize = 256 * 1024;
/// Hop prefix and kind.
const BUNDLE_HEAD: usize = 3;
/// How long sound may hold back the rest at most, on a line that hardly bears it.
const MAX_DEBT: Duration = Duration::from_millis(50);
/// Video gets one datagram in this time whatever else: a picture that comes slowly, instead of none.
const MAX_HOLD: Duration = Duration::from_millis(100);
