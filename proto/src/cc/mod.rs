//! How much a hop carries: an estimator of bandwidth from when datagrams were sent and when they arrived.
//!
//! | file | job |
//! |---|---|
//! | `history` | what was sent, and what became of it |
//! | `delay` | one-way delays: the standing queue |
//! | `rate` | what arrives a second |
//! | `train` | what passes for a moment: how frames spread on their way |
//! | `silence` | outages: reports that fail to come |
//! | `loss` | share and bursts of losses |
//! | `control` | the target, from these |
//!
//! `docs/congestion.md` has the reasons, the alternatives and the figures.

mod control;
mod delay;
mod history;
mod loss;
mod rate;
mod silence;
#[cfg(test)]
mod tests;
mod train;

use std::time::{Duration, Instant};

use self::control::{Control, Measured, Verdict};
use self::delay::Delays;
use self::history::{Fate, History};
pub use self::loss::Loss;
use self::loss::Losses;
use self::rate::Delivered;
use self::silence::Silence;
use self::train::Trains;
use crate::units::Bitrate;

/// Estimates what a hop carries, from when datagrams were sent and when they arrived.
///
/// Tell it each datagram with [`Self::handle_sent`] and each report of the other end with [`Self::handle_feedback`];
/// call [`Self::handle_timeout`] when [`Self::poll_timeout`] says so. Then [`Self::target`] and
/// [`Self::pacing_rate`] hold, and [`Self::poll_probe`] and [`Self::poll_pair`] may ask for padding.
///
/// A queue that stands lowers the target, loss alone never does. It is meant for one direction of one hop, whose
/// sender paces frames at [`Self::pacing_rate`] so that they leave as trains.
///
/// Bounds: the datagrams of the last seconds, at most 4096.
#[derive(Debug)]
pub struct Estimator {
    epoch: Instant,
    start: f64,
    history: History,
    delays: Delays,
    delivered: Delivered,
    trains: Trains,
    losses: Losses,
    control: Control,
    /// Bits per second of bursts.
    pace: f64,
    /// Highest number that has arrived.
    newest: Option<u64>,
    /// The next number that trains have not seen.
    next_of_trains: u64,
    /// The next number that losses have not seen.
    next_of_losses: u64,
    rtt: Duration,
    silence: Silence,
    probed: Option<Instant>,
    probe_interval: Duration,
    paired: Option<Instant>,
}

/// What an estimator starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The first target.
    pub start: Bitrate,
    /// The target never goes below this.
    pub min: Bitrate,
    /// What the application could use at most, headers included: the target never goes above it.
    pub max: Bitrate,
}

/// What a feedback report says about one datagram. Reports may repeat themselves and come out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The number the datagram was sent with.
    pub number: u64,
    /// When it arrived, in microseconds of the receiver's clock, whose zero is arbitrary; `None` when it has not
    /// though later ones have.
    pub arrived_us: Option<i64>,
}

/// Padding to put on the wire now, at the pacing rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// How much, headers included.
    pub bytes: usize,
}

impl Estimator {
    /// An estimator that knows nothing yet.
    #[must_use]
    pub fn new(now: Instant, settings: Settings) -> Self {
        let min = settings.min.bps() as f64;
        let max = (settings.max.bps() as f64).max(min);
        let start = (settings.start.bps() as f64).clamp(min, max);
        Self {
            epoch: now,
            start,
            history: History::default(),
            delays: Delays::default(),
            delivered: Delivered::default(),
            trains: Trains::default(),
            losses: Losses::default(),
            control: Control::new(start, min, max),
            pace: start * PACE,
            newest: None,
            next_of_trains: 0,
            next_of_losses: 0,
            rtt: FIRST_RTT,
            silence: Silence::default(),
            probed: None,
            probe_interval: MIN_PROBE_INTERVAL,
            paired: None,
        }
    }

    /// What the application can use has changed.
    pub fn set_max(&mut self, max: Bitrate) {
        self.control.set_max(max.bps() as f64);
        self.pace = self.pace();
    }

    /// A datagram left, `bytes` on the wire with all headers. Numbers count by one; any other number starts anew. Those
    /// above 2^62, which no hop comes to, are not watched.
    pub fn handle_sent(&mut self, now: Instant, number: u64, bytes: usize) {
        if number > MAX_NUMBER {
            return;
        }
        let at_us = self.micros(now);
        self.history.push(number, at_us, u32::try_from(bytes).unwrap_or(u32::MAX), self.pace);
        self.silence.handle_sent(now);
        if self.newest.is_some_and(|newest| newest > number) {
            self.newest = None;
            self.next_of_trains = number;
            self.next_of_losses = number;
        }
    }

    /// A report came. `rtt` is the present round-trip time of the hop.
    pub fn handle_feedback(&mut self, now: Instant, rtt: Duration, report: &[Arrival]) {
        let mut news = false;
        for arrival in report {
            let arrived_us = arrival.arrived_us.map(|us| us.clamp(-CLOCK_LIMIT_US, CLOCK_LIMIT_US));
            let Some(sent) = self.history.resolve(arrival.number, arrived_us) else { continue };
            let Fate::Arrived(arrived_us) = sent.fate else { continue };
            news = true;
            self.newest = self.newest.max(Some(arrival.number));
            if !self.delays.record(sent.at_us, arrived_us) {
                self.delivered = Delivered::default();
                self.trains = Trains::default();
            }
            self.delivered.record(arrived_us, sent.bytes);
        }
        self.rtt = rtt.min(MAX_RTT);
        if news {
            // A report that repeats itself answers nothing: only one direction lives.
            self.silence.handle_feedback(now, self.rtt);
            self.follow();
            self.update(now);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        // The path may be another one.
        if self.silence.handle_timeout(now) {
            self.control.restart(self.start);
            self.delays = Delays::default();
            self.delivered = Delivered::default();
            self.trains = Trains::default();
            self.pace = self.pace();
        }
    }

    /// When [`Self::handle_timeout`] is due: when silence begins, and when it has lasted so long that the path may be
    /// another one.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.silence.poll_timeout()
    }

    /// How much to send, headers included.
    #[must_use]
    pub fn target(&self) -> Bitrate {
        bitrate(self.control.target())
    }

    /// How fast bursts may leave; at least the target.
    ///
    /// Where trains show a narrow line it is a little above that line, so that a large frame waits here, where sound
    /// overtakes it; where they show none it rises until frames leave at once.
    #[must_use]
    pub fn pacing_rate(&self) -> Bitrate {
        bitrate(self.pace)
    }

    /// Padding the sender should put on the wire now, at the pacing rate, to learn whether more passes. `None` when
    /// there is nothing to learn: the target is all that the application can use, its own frames tell enough, a queue
    /// stands, or it was tried just now.
    pub fn poll_probe(&mut self, now: Instant) -> Option<Probe> {
        let wanted = self.control.target() < self.control.max() && !self.control.is_congested();
        let recent = self.probed.is_some_and(|at| now.saturating_duration_since(at) < self.probe_interval);
        let (now_us, fresh_us) = (self.micros(now), FRESH_TRAINS.max(self.rtt * 2).as_micros());
        let told = self.trains.capacity().is_some_and(|c| u128::from(c.at_us.abs_diff(now_us)) < fresh_us);
        if !wanted || !self.is_heard(now) || recent || told {
            return None;
        }
        let doubled = (self.probe_interval * 2).min(MAX_PROBE_INTERVAL);
        self.probe_interval = if self.probed.is_none() { MIN_PROBE_INTERVAL } else { doubled };
        self.probed = Some(now);
        // Of what passes for sure: the pace may be of trains that were wrong, and all of it a queue.
        let bytes = usize::try_from(self.target().bytes_in(PROBE_TIME)).unwrap_or(MAX_PROBE);
        Some(Probe { bytes: bytes.clamp(MIN_PROBE, MAX_PROBE) })
    }

    /// Asks, at the end of a frame that has just been sent, for padding of that size right behind its last datagram, without a
    /// pause. The two make a packet pair (Keshav, SIGCOMM 1991), which a narrow line spreads.
    ///
    /// A relay needs this: what it forwards comes to it one by one, as far apart as the line before it makes it, and never leaves
    /// as a train. Asked for one at a time, while more could be used than is sent and too few trains tell what passes: several at
    /// once would be a queue on a line that is full, and all wrong together when the other end is busy for a moment.
    pub fn poll_pair(&mut self, now: Instant) -> Option<Probe> {
        let wanted = self.control.target() < self.control.max() * ENOUGH && !self.control.is_congested();
        let recent = self.paired.is_some_and(|at| now < at + PAIR_INTERVAL);
        if !wanted || !self.is_heard(now) || recent || self.trains.since(self.micros(now) - TOLD_US) >= TOLD {
            return None;
        }
        self.paired = Some(now);
        Some(Probe { bytes: PAIR_BYTES })
    }

    /// Whether the other end reports, and has just now.
    fn is_heard(&self, now: Instant) -> bool {
        self.silence.is_known() && !self.is_silent(now)
    }

    /// Losses of the last two seconds, datagrams that came late by less than 60 ms not among them.
    #[must_use]
    pub fn loss(&self) -> Loss {
        self.losses.loss()
    }

    /// The standing queue: the smallest one-way delay of the last tenth of a second, above that of the last seconds.
    #[must_use]
    pub fn queue_delay(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.delays.standing()).unwrap_or(0))
    }

    /// Whether reports fail to come though something was sent: an outage of either direction.
    #[must_use]
    pub fn is_silent(&self, now: Instant) -> bool {
        self.silence.is_silent(now)
    }

    /// Shows trains and losses, in the order of numbers, what is known by now.
    fn follow(&mut self) {
        let Some(newest) = self.newest else { return };
        let Some(newest_us) = self.history.get(newest).map(|sent| sent.at_us) else { return };
        self.next_of_trains = self.next_of_trains.max(self.history.first());
        while let Some(sent) = self.history.get(self.next_of_trains).filter(|_| self.next_of_trains <= newest)
        {
            if sent.fate == Fate::Unknown && newest_us - sent.at_us < UNKNOWN_US {
                break;
            }
            self.trains.record(sent);
            self.next_of_trains += 1;
        }
        self.next_of_losses = self.next_of_losses.max(self.history.first());
        while let Some(sent) = self.history.get(self.next_of_losses).filter(|_| self.next_of_losses <= newest)
        {
            let wait_us = if sent.fate == Fate::Unknown { UNKNOWN_US } else { REORDERED_US };
            if newest_us - sent.at_us < wait_us {
                break;
            }
            // What no report names is unknown for ever: its reports are lost, not it.
            if sent.fate != Fate::Unknown {
                self.losses.record(sent.at_us, sent.fate == Fate::Missing);
            }
            self.next_of_losses += 1;
        }
    }

    fn update(&mut self, now: Instant) {
        let loss = self.losses.rate_of_last(LOSS_WINDOW_US);
        // What is lost was sent too, and passed the line as far as anybody can tell.
        let used = self.delivered.rate(USED_WINDOW_US).unwrap_or(0.0) / (1.0 - loss.min(MAX_USED_LOSS));
        let was_congested = self.control.is_congested();
        let verdict = self.control.update(&Measured {
            now_us: self.micros(now),
            rtt_us: i64::try_from(self.rtt.as_micros()).unwrap_or(i64::MAX),
            standing_us: self.delays.standing(),
            latest_us: self.delays.latest(),
            loss,
            delivered: &self.delivered,
            used,
            capacity: self.trains.capacity(),
        });
        if verdict == Verdict::NotOurs {
            self.delays.rebase();
        }
        if self.control.is_congested() && !was_congested {
            // What they tell is of the line as it was before the queue.
            self.trains.forget();
        }
        self.pace = self.pace();
    }

    fn pace(&self) -> f64 {
        let target = self.control.target();
        let capacity = self.trains.capacity();
        let shown = capacity.map_or(0.0, |c| c.low);
        let rate = match (capacity, self.control.ceiling()) {
            // What leaves faster than the line passes adds to the queue, and a long one is to drain.
            (_, line) if self.control.is_congested() => {
                let share = if self.delays.standing() > LONG_QUEUE_US { DRAINING } else { 1.0 };
                target.max(line.unwrap_or(0.0) * share)
            }
            (Some(c), _) if c.narrow => (c.rate * NARROW_PACE).max(target * NARROW_FLOOR),
            // Trains that differ, or too few: nothing says that the line is wider than when a queue stood on it.
            (_, Some(line)) if shown < line * CAREFUL => line.max(target) * CAREFUL,
            (Some(c), _) => (c.rate * WIDE_PACE).max(target * PACE),
            (None, _) => target * PACE,
        };
        rate.min(MAX_PACE_BPS.max(target))
    }

    fn micros(&self, now: Instant) -> i64 {
        i64::try_from(now.saturating_duration_since(self.epoch).as_micros()).unwrap_or(i64::MAX)
    }
}

fn bitrate(bps: f64) -> Bitrate {
    Bitrate::from_bps(bps as u64)
}

/// Assumed before the first report.
const FIRST_RTT: Duration = Duration::from_millis(100);
/// Bound of what is believed of the hop.
const MAX_RTT: Duration = Duration::from_secs(3);
/// Far beyond any clock, and differences still fit.
const CLOCK_LIMIT_US: i64 = 1 << 60;
/// Numbers up to here can be counted on from.
const MAX_NUMBER: u64 = 1 << 62;
/// A datagram that later ones have overtaken by this much is lost: longer would be as bad for a call.
const REORDERED_US: i64 = 60_000;
/// Reports repeat a datagram for less long than this.
const UNKNOWN_US: i64 = 500_000;
/// Loss that goes with the queue of the moment.
const LOSS_WINDOW_US: i64 = 300_000;
/// What was used is averaged over 15 pictures.
const USED_WINDOW_US: i64 = 500_000;
const MAX_USED_LOSS: f64 = 0.7;
/// Pace of bursts, times the target, while nothing is known (the factor of WebRTC's pacer).
const PACE: f64 = 2.5;
/// Pace on a narrow line, times its rate, and at least times the target: the line never idles within a frame, and no
/// more than this surplus piles up in front of sound.
const NARROW_PACE: f64 = 1.2;
const NARROW_FLOOR: f64 = 1.2;
/// A queue that sound should not wait behind for long, and longer than jitter looks like.
const LONG_QUEUE_US: i64 = 60_000;
/// Share of the line that is used while such a queue drains.
const DRAINING: f64 = 0.6;
/// Pace after a queue while trains show no line, times what passed then: enough for trains to show that there is more.
const CAREFUL: f64 = 1.5;
/// Pace on a line that spreads nothing, times what has been seen to pass: doubles until frames leave at once.
const WIDE_PACE: f64 = 2.0;
/// 20 kB, a large key frame, leave within 2 ms.
const MAX_PACE_BPS: f64 = 80e6;
/// Own frames that left within this time tell as much as padding would.
const FRESH_TRAINS: Duration = Duration::from_millis(500);
/// A probe takes as long as a picture lasts, within these bounds: two datagrams make a train, and 30 kB are
/// what a router's queue takes.
const PROBE_TIME: Duration = Duration::from_millis(30);
const MIN_PROBE: usize = 1_500;
const MAX_PROBE: usize = 30_000;
/// So many trains in so much time tell enough of what passes.
const TOLD: usize = 8;
const TOLD_US: i64 = 1_000_000;
/// Time between two pairs: of [`PAIR_BYTES`], 16 kb/s, and all trains that count in 2 s.
const PAIR_INTERVAL: Duration = Duration::from_millis(250);
/// Passes in 8 ms at 500 kb/s, and takes longer than the noise of clocks up to 4 Mb/s.
const PAIR_BYTES: usize = 500;
/// A share of what can be used that leaves nothing to learn.
const ENOUGH: f64 = 0.95;
/// Probes that teach nothing become rare; at 30 kb a probe the rarest cost 4 kb/s.
const MIN_PROBE_INTERVAL: Duration = Duration::from_secs(1);
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(8);
