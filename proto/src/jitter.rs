//! Adaptive playout buffer for the audio of one speaker: holds packets just long enough to ride out the network.
//!
//! Late sound is lost sound and early sound is delay, so the buffer aims at the delay that nearly all packets would have
//! met lately (the `delay` module says how it is estimated), and the shell bends the speech itself
//! to get there: it stretches or shortens what it decodes by the amount that [`Tick::Play`] asks for. That one
//! mechanism also takes up the drift between the sender's and the listener's sound cards.
//!
//! The decisions follow the outline of WebRTC's NetEQ (relative arrival delay, target level, accelerate, preemptive
//! expand, conceal); three things differ, all for less delay: delays are kept in microseconds instead of buckets of
//! 20 ms, the buffer's length is the time that packets really waited instead of a count of packets, and what a queue in
//! the network or a new route adds to all packets is followed at once (the `level` module) instead of passing for jitter
//! for as long as the window is.
//!
//! Networks that repair loss deliver packets late, several times, or never while a later packet tells what was in them
//! ([`Packet::reach`]). A packet counts as arrived when anything of it is there, copies count once, and an outage is one
//! event, so that the delay aimed at is what the repair really takes.

mod delay;
mod ids;
mod level;
#[cfg(test)]
mod lossy;
#[cfg(test)]
mod queue;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use self::delay::Delays;
use self::ids::Ids;
use crate::id::FrameId;
use crate::units::MediaTime;

/// One received audio packet: 10 ms of one speaker's sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Counts up by one for each packet sent; pauses of the sender leave no hole in it.
    pub id: FrameId,
    /// When the first sample was captured, on the sender's clock.
    pub captured: MediaTime,
    /// How many packets before this one can be restored from it, coarsely: 1 with in-band FEC, more with deep
    /// redundancy.
    pub reach: u32,
    /// Whether the sender sends nothing for a while after this packet (muted, silence).
    pub pauses: bool,
    /// The coded sound, opaque here.
    pub payload: Bytes,
}

/// What to do with the next 10 ms of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Decode this packet, then stretch the sound as asked.
    Play {
        /// The packet.
        packet: Packet,
        /// How to bend its sound.
        stretch: Stretch,
    },
    /// The packet is lost or late: hide the hole, from what is known of it if anything is.
    Conceal {
        /// Where the missing sound can be restored from.
        repair: Option<Repair>,
    },
    /// Nothing to play: the speaker is silent or the buffer fills. Ask again as soon as more output is wanted.
    Silence,
}

/// A later packet that tells what was in a missing one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Payload of the later packet.
    pub payload: Bytes,
    /// How many packets before it the missing one is; at most its [`Packet::reach`].
    pub back: u32,
    /// When the missing sound was captured.
    pub captured: MediaTime,
}

/// How the sound of a packet should be bent to move the delay towards its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stretch {
    /// Leave it.
    Keep,
    /// Remove up to `excess`; when `urgent`, at the price of audible change.
    Shorten {
        /// How much longer than the target the sound waits.
        excess: Duration,
        /// Whether the delay is so large that it disturbs more than a rough splice does.
        urgent: bool,
    },
    /// Add about `lack`.
    Lengthen {
        /// How much shorter than the target the sound waits.
        lack: Duration,
    },
}

/// Counters since the start and the state of the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets played.
    pub played: u64,
    /// Gaps of 10 ms hidden without any data, or left silent since nothing had come for long.
    pub concealed: u64,
    /// Gaps of 10 ms filled from what a later packet tells of them.
    pub repaired: u64,
    /// Packets that came after their turn; copies of packets that had come before are none.
    pub late: u64,
    /// Packets that had to go because the buffer was full or the delay too long at the start of a sentence.
    pub dropped: u64,
    /// How long the last packet waited beyond the fastest recent way through the network.
    pub delay: Duration,
    /// The delay aimed at.
    pub target: Duration,
}

/// The playout buffer of one speaker.
///
/// Feed it with [`Self::handle_packet`]; call [`Self::tick`] for each 10 ms of output (and again, at once, whenever
/// the stretched sound ran out early); report what was stretched with [`Self::handle_stretched`]. `now` is the
/// listener's clock and must not run backwards; sender and listener need not agree on the time.
///
/// Holds at most [`MAX_PACKETS`]; when more come the oldest go.
#[derive(Debug, Default)]
pub struct JitterBuffer {
    /// By extended id, which does not wrap.
    packets: BTreeMap<i64, Packet>,
    /// The packet with the highest id so far.
    newest: Option<(i64, FrameId)>,
    /// Ids that came, and ids of which at least something came.
    seen: Ids,
    known: Ids,
    /// The newest packet with deep redundancy.
    deep: Option<i64>,
    /// Id of the packet to play next; all before it are late.
    next: i64,
    /// When the packet to play next should have been captured; none while nothing plays.
    playing: Option<MediaTime>,
    /// Ticks concealed without any data since the last sound.
    concealing: u32,
    /// Those of them in which not even a later packet was there: `next` stands still meanwhile.
    starved: u32,
    /// Whether the last packet played announced a pause.
    pausing: bool,
    /// Since when nothing was left to play, with no pause announced, and the packet that was due then.
    silent: Option<(MediaTime, i64)>,
    delays: Delays,
    /// Capture-to-playout times of the last packets (µs, between two clocks), moved along with each stretch.
    waits: VecDeque<i64>,
    /// Plays since the last hint to stretch.
    since_hint: u32,
    stats: Stats,
}

impl JitterBuffer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a packet that arrived at `now`. Copies of packets that came and packets that come too late are dropped.
    pub fn handle_packet(&mut self, now: MediaTime, packet: Packet) {
        let transit = now.micros_since(packet.captured);
        let id = match self.newest {
            Some((id, last)) if self.continues(packet.id.since(last), transit) => {
                id + i64::from(packet.id.since(last))
            }
            _ => self.restart(packet.id),
        };
        if !self.seen.insert(id) {
            return;
        }
        if self.known.insert(id) || self.delays.lateness(transit) <= WORTH_US {
            self.delays.record(now, transit);
        }
        self.record_known(now, id, transit, packet.reach);
        if packet.reach > 1 {
            self.deep = self.deep.max(Some(id));
        }
        if self.newest.is_none_or(|(newest, _)| id > newest) {
            self.newest = Some((id, packet.id));
        }
        if id < self.next {
            self.stats.late += 1;
            return;
        }
        self.packets.insert(id, packet);
        if self.packets.len() > MAX_PACKETS {
            self.drop_first();
        }
    }

    /// Decides on the next 10 ms of output, wanted at `now`.
    pub fn tick(&mut self, now: MediaTime) -> Tick {
        let Some(due) = self.playing else { return self.start(now) };
        let Some((&id, packet)) = self.packets.first_key_value() else { return self.starve(now) };
        let missing = id - self.next;
        let paused = packet.captured.micros_since(due) - missing * FRAME_US;
        if paused > PAUSE_US || self.concealing >= MAX_CONCEALED {
            self.stop(now);
            return self.start(now);
        }
        if missing > 0 && self.starved > 0 {
            // A part of the hole has been hidden already; what is left is the time until the packet should be heard.
            let lead = self.wanted() - now.micros_since(packet.captured);
            let left = ((lead + FRAME_US / 2) / FRAME_US).clamp(0, missing);
            self.playing = Some(packet.captured.offset(-left * FRAME_US));
            self.next = id - left;
        }
        self.starved = 0;
        if self.next == id { self.play(now) } else { self.fill() }
    }

    /// Tells that the last sound was made longer (or shorter, when negative) by `us` microseconds.
    pub fn handle_stretched(&mut self, us: i64) {
        let us = us.clamp(-FRAME_US * 10, FRAME_US * 10);
        self.waits.iter_mut().for_each(|wait| *wait = wait.saturating_add(us));
    }

    /// Whether the next packet in order is there, so that two frames can be decoded and shortened as one.
    #[must_use]
    pub fn has_next(&self) -> bool {
        self.playing.is_some() && self.packets.contains_key(&self.next)
    }

    /// Counters and state.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let micros = |us: i64| Duration::from_micros(us.max(0).unsigned_abs());
        let base = self.delays.base().unwrap_or(0);
        Stats {
            delay: micros(self.waits.back().map_or(0, |wait| wait.saturating_sub(base))),
            target: micros(self.wanted().saturating_sub(base)),
            ..self.stats
        }
    }

    /// Whether a packet `step` ids on from the newest, with this transit time, belongs to the same stream.
    fn continues(&self, step: i32, transit: i64) -> bool {
        let leap = self.delays.last().map_or(0, |last| transit.saturating_sub(last));
        // One of the last packets, or a copy of it, that was held up for seconds does not begin a new stream.
        if (-RECENT..=0).contains(&step) {
            return true;
        }
        step.unsigned_abs() <= MAX_STEP && leap.unsigned_abs() <= MAX_LEAP_US
    }

    /// Forgets the stream so far: the sender started anew, or was away so long that nothing known still holds.
    fn restart(&mut self, id: FrameId) -> i64 {
        let id = i64::from(id.0);
        *self = Self { next: i64::MIN, stats: self.stats, ..Self::default() };
        // What came before the first packet is not missing.
        self.known = Ids::before(id);
        id
    }

    /// Counts packets that did not come as arriving now, if this one tells what was in them: it is worth to wait as long.
    fn record_known(&mut self, now: MediaTime, id: i64, transit: i64, reach: u32) {
        for back in (1..=i64::from(reach).min(MAX_RESTORED)).rev() {
            if self.known.insert(id - back) {
                self.delays.record(now, transit.saturating_add(back * FRAME_US));
            }
        }
    }

    /// Begins (again) once the first packet has waited for the target; skips packets that are older than needed.
    ///
    /// After a hole, what the packet tells of the sound before it is heard while it waits.
    fn start(&mut self, now: MediaTime) -> Tick {
        let wanted = self.wanted();
        let lead = |packet: &Packet| wanted - now.micros_since(packet.captured);
        while self.packets.values().nth(1).is_some_and(|packet| lead(packet) <= 0) {
            self.drop_first();
        }
        let Some((&id, packet)) = self.packets.first_key_value() else { return Tick::Silence };
        let lead = lead(packet);
        if lead <= 0 {
            self.count_silence(now, id);
            return self.play(now);
        }
        let (back, early) = (lead / FRAME_US, lead % FRAME_US);
        let missed = self.silent.is_some_and(|(_, due)| back > 0 && due <= id - back);
        if !missed || early > GRAIN_US || self.repair(id - back).is_none() {
            return Tick::Silence;
        }
        self.playing = Some(packet.captured.offset(-back * FRAME_US));
        self.count_silence(now, id - back);
        self.next = id - back;
        self.waits.clear();
        self.fill()
    }

    /// Plays the first packet.
    fn play(&mut self, now: MediaTime) -> Tick {
        let Some((id, packet)) = self.packets.pop_first() else { return Tick::Silence };
        if self.playing.is_none() {
            self.waits.clear();
        }
        self.next = id + 1;
        self.playing = Some(packet.captured + FRAME);
        (self.concealing, self.starved) = (0, 0);
        self.pausing = packet.pauses;
        if self.waits.len() == WAITS {
            self.waits.pop_front();
        }
        self.waits.push_back(now.micros_since(packet.captured));
        self.stats.played += 1;
        Tick::Play { packet, stretch: self.stretch() }
    }

    /// Stands in for the next packet, which is missing while a later one is there.
    fn fill(&mut self) -> Tick {
        let repair = self.repair(self.next);
        self.next += 1;
        self.playing = self.playing.map(|due| due + FRAME);
        if repair.is_some() {
            self.concealing = 0;
            self.stats.repaired += 1;
        } else {
            self.concealing += 1;
            self.stats.concealed += 1;
        }
        Tick::Conceal { repair }
    }

    /// What a later packet tells of that one: the nearest knows it best.
    fn repair(&self, id: i64) -> Option<Repair> {
        self.packets.iter().find_map(|(&later, packet)| {
            let back = u32::try_from(later - id).ok().filter(|&back| back <= packet.reach)?;
            let captured = packet.captured.offset(-i64::from(back) * FRAME_US);
            Some(Repair { payload: packet.payload.clone(), back, captured })
        })
    }

    /// Nothing is there to play.
    fn starve(&mut self, now: MediaTime) -> Tick {
        if self.pausing || self.concealing >= MAX_CONCEALED {
            self.stop(now);
            return Tick::Silence;
        }
        self.starved += 1;
        self.concealing += 1;
        self.stats.concealed += 1;
        Tick::Conceal { repair: None }
    }

    /// Falls silent.
    fn stop(&mut self, now: MediaTime) {
        self.playing = None;
        self.silent =
            (!self.pausing && self.concealing > 0).then(|| (now, self.next + i64::from(self.starved)));
        (self.concealing, self.starved) = (0, 0);
    }

    /// Playing goes on with packet `id`: the silence before it was sound that is missing, as far as packets are.
    fn count_silence(&mut self, now: MediaTime, id: i64) {
        if let Some((since, due)) = self.silent.take() {
            let frames = (now.micros_since(since) / FRAME_US).min(id - due).max(0);
            self.stats.concealed += frames.unsigned_abs();
        }
    }

    /// Compares the shortest recent wait with the target.
    fn stretch(&mut self) -> Stretch {
        self.since_hint = self.since_hint.saturating_add(1);
        let shortest = self.waits.iter().min().copied().unwrap_or(0);
        let excess = shortest.saturating_sub(self.wanted());
        let micros = |us: i64| Duration::from_micros(us.unsigned_abs());
        let urgent = excess > URGENT_US;
        let settled = self.waits.len() >= SETTLED && self.since_hint >= SHORTEN_EVERY;
        if excess > HIGH_US && (urgent || settled) {
            self.since_hint = 0;
            Stretch::Shorten { excess: micros(excess), urgent }
        } else if excess < -LOW_US && (excess < -LATE_US || self.since_hint >= LENGTHEN_EVERY) {
            self.since_hint = 0;
            Stretch::Lengthen { lack: micros(excess) }
        } else {
            Stretch::Keep
        }
    }

    /// Capture-to-playout time aimed at, in microseconds between the two clocks.
    fn wanted(&self) -> i64 {
        self.delays.target(if self.deep() { &RESTORED } else { &LOST })
    }

    /// Whether what comes too late is restored rather well.
    fn deep(&self) -> bool {
        self.newest.zip(self.deep).is_some_and(|((newest, _), deep)| newest - deep < DEEP_FOR)
    }

    fn drop_first(&mut self) {
        if let Some((id, packet)) = self.packets.pop_first() {
            self.stats.dropped += 1;
            self.next = id + 1;
            if self.playing.is_some() {
                self.playing = Some(packet.captured + FRAME);
            }
        }
    }
}

/// Sound in one packet.
pub const FRAME: Duration = Duration::from_millis(10);
/// Most packets held: the longest target (400 ms), and half as much again for a burst on top of it.
pub const MAX_PACKETS: usize = 64;

const FRAME_US: i64 = 10_000;
/// After 100 ms of invented sound a listener prefers silence; decoders fade out by then.
const MAX_CONCEALED: u32 = 10;
/// A capture time this far beyond the expected one is a pause of the sender, not noise of its timestamps.
const PAUSE_US: i64 = 20_000;
/// Ids further apart than 10 s of packets are another stream (or an outage after which nothing known holds).
const MAX_STEP: u32 = 1_000;
/// Packets before the newest that are remembered one by one.
const RECENT: i32 = 127;
/// A transit time that changed by more than this is a new clock, not a slow network: nobody waits 5 s in a call.
const MAX_LEAP_US: u64 = 5_000_000;
/// Waits compared with the target: the shortest of 320 ms, so that uneven pulling by the sound card does not count.
const WAITS: usize = 32;
/// Waits to have seen before sound is cut out.
const SETTLED: usize = 8;
/// Dead band of the delay around the target. Above: wider than a pitch period of most voices (3 to 8 ms), so that a
/// period can be cut without falling below. Below: less than the guard of the target, so that nothing is late yet.
const HIGH_US: i64 = 4_000;
const LOW_US: i64 = 1_500;
/// Delay beyond the target above which every packet is shortened: it hurts the talk more than a splice does.
const URGENT_US: i64 = 60_000;
/// Plays between two cuts: with 5 to 10 ms each, at most 10 to 20 % faster, which listeners do not notice.
const SHORTEN_EVERY: u32 = 5;
/// Plays between two additions: late packets are being lost meanwhile, so faster than cutting.
const LENGTHEN_EVERY: u32 = 2;
/// Lack of delay above which every packet is made longer: a queue builds up, and what is not stretched is concealed.
const LATE_US: i64 = 8_000;
/// Packets in a thousand that may be late, for waits of up to so many microseconds: the longer the wait, the more it is
/// worth to be rid of it. Concealment is noticed in running speech from about 1 % on, delay from about 150 ms.
type Bargain = [(usize, i64)];
/// What is late is lost.
const LOST: [(usize, i64); 4] = [(3, 60_000), (5, 100_000), (20, 200_000), (50, 400_000)];
/// What is late is restored from deep redundancy.
const RESTORED: [(usize, i64); 3] = [(10, 100_000), (20, 200_000), (50, 400_000)];
/// Packets for which one with deep redundancy speaks: a second, through any run of losses.
const DEEP_FOR: i64 = 100;
/// A packet that is restored meanwhile is worth waiting for up to this: what is restored sounds worse, but a talk in which
/// every answer comes later by more than that suffers more.
const WORTH_US: i64 = 100_000;
/// Packets before another that are counted as arriving with it: the longest target.
const MAX_RESTORED: i64 = 40;
/// How exactly a start meets the target: the time between two questions of a silent listener.
const GRAIN_US: i64 = 2_500;
