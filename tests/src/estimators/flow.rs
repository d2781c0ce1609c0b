//! One sender of a call and its receiver: encoder, pacer, reports.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use vchat_proto::cc::Arrival;

use super::candidate::Candidate;
use super::log::Log;
use crate::netem::{Link, Random};

/// What is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Audio,
    Video { frame: u64 },
    Padding,
}

/// One datagram on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram {
    pub(super) flow: usize,
    pub(super) number: u64,
    pub(super) bytes: usize,
    pub(super) kind: Kind,
    /// When its sound or picture was taken.
    pub(super) made: Duration,
    pub(super) sent: Duration,
}

/// A report on its way: who gets it, and when its newest datagram had been sent.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) flow: usize,
    pub(super) newest_sent: Duration,
    pub(super) arrivals: Vec<Arrival>,
}

/// A sender and its receiver.
pub(super) struct Flow {
    index: usize,
    candidate: Box<dyn Candidate>,
    random: Random,
    max: f64,
    /// The targets at the last pictures: an encoder follows late.
    targets: VecDeque<f64>,
    /// Bits that large pictures have taken from later ones.
    debt: f64,
    pictures: u64,
    next_sound: Duration,
    next_picture: Duration,
    /// Audio first, then video, then padding.
    waiting: [VecDeque<(Kind, usize, Duration)>; 3],
    padding_pace: Option<f64>,
    free: Duration,
    number: u64,
    rtt: Duration,
    receiver: Receiver,
    pub(super) log: Log,
}

#[derive(Default)]
struct Receiver {
    arrived: BTreeMap<u64, (i64, Duration)>,
    /// Datagrams still missing of each picture, and when it was taken.
    incomplete: BTreeMap<u64, usize>,
    last_report: Duration,
    /// First number that the last report but one did not know.
    reported: [u64; 2],
    urgent: bool,
}

impl Flow {
    pub(super) fn new(index: usize, candidate: Box<dyn Candidate>, max: f64, random: Random) -> Self {
        Self {
            index,
            candidate,
            random,
            max,
            targets: VecDeque::new(),
            debt: 0.0,
            pictures: 0,
            next_sound: Duration::ZERO,
            next_picture: Duration::from_millis(5),
            waiting: Default::default(),
            padding_pace: None,
            free: Duration::ZERO,
            number: 1,
            rtt: Duration::from_millis(100),
            receiver: Receiver::default(),
            log: Log::default(),
        }
    }

    /// Makes sound and pictures, and puts on the wire what the pace allows.
    pub(super) fn work(&mut self, now: Duration, wire: &mut Link<Datagram>) {
        self.candidate.handle_timeout(now);
        if now >= self.next_sound {
            self.waiting[0].push_back((Kind::Audio, SOUND_BYTES, now));
            self.next_sound += SOUND_INTERVAL;
        }
        if now >= self.next_picture {
            self.next_picture += PICTURE_INTERVAL;
            self.encode(now);
        }
        if self.waiting[2].is_empty()
            && let Some(padding) = self.candidate.poll_padding(now)
        {
            self.padding_pace = padding.pace;
            self.log.padding += padding.bytes;
            let full = padding.bytes.div_ceil(MAX_BYTES);
            let each = padding.bytes / full.max(1);
            (0..full).for_each(|_| self.waiting[2].push_back((Kind::Padding, each, now)));
        }
        loop {
            let padding = !self.waiting[2].is_empty();
            let pace = if padding { self.padding_pace } else { None };
            let pace = pace.unwrap_or_else(|| self.candidate.pacing_rate());
            let paced = now >= self.free;
            let queue =
                self.waiting.iter_mut().enumerate().find(|(i, q)| !q.is_empty() && (*i == 0 || paced));
            let Some((kind, bytes, made)) = queue.and_then(|(_, queue)| queue.pop_front()) else { break };
            // Timers are late by up to a step, which the pace makes up for.
            self.free =
                self.free.max(now.saturating_sub(STEP)) + Duration::from_secs_f64(bytes as f64 * 8.0 / pace);
            let number = self.number;
            self.number += 1;
            self.candidate.handle_sent(now, number, bytes);
            self.log.add(now, |log| &mut log.sent, bytes as f64 * 8.0);
            let datagram = Datagram { flow: self.index, number, bytes, kind, made, sent: now };
            // The link adds 28 bytes of headers, which are part of `bytes` here.
            wire.handle_packet(now, bytes - LINK_HEADERS, datagram);
        }
        self.log.note(now, self.candidate.target(), self.candidate.pacing_rate());
    }

    /// A datagram arrives at the receiver.
    pub(super) fn handle_arrival(&mut self, now: Duration, datagram: &Datagram) {
        self.log.add(now, |log| &mut log.arrived, datagram.bytes as f64 * 8.0);
        // Clocks have nothing in common, and drift apart by 50 ppm.
        let us = now.as_micros() as i64;
        let newest = self.receiver.arrived.last_key_value().map_or(0, |(number, _)| *number);
        self.receiver.urgent |= datagram.number > newest + 1;
        self.receiver.arrived.insert(datagram.number, (CLOCK_OFFSET_US + us + us / 20_000, datagram.sent));
        match datagram.kind {
            Kind::Audio => self.log.sounds.push((datagram.made, now - datagram.made)),
            Kind::Video { frame } => {
                let missing = self.receiver.incomplete.entry(frame).or_insert_with(|| 0);
                *missing = missing.saturating_sub(1);
                if *missing == 0 {
                    self.log.pictures.push((datagram.made, now - datagram.made));
                }
            }
            Kind::Padding => {}
        }
    }

    /// The receiver's report, if one is due: every 25 ms, or at once (after 5 ms) when something is missing.
    pub(super) fn report(&mut self, now: Duration) -> Option<Report> {
        let receiver = &mut self.receiver;
        let interval = if receiver.urgent { URGENT_INTERVAL } else { REPORT_INTERVAL };
        let (&newest, &(_, newest_sent)) = receiver.arrived.last_key_value()?;
        if now < receiver.last_report + interval || newest < receiver.reported[1] {
            return None;
        }
        receiver.last_report = now;
        receiver.urgent = false;
        // What was new in the last report is told again, in case that is lost.
        let from = receiver.reported[0];
        let arrivals = (from..=newest)
            .map(|number| Arrival { number, arrived_us: receiver.arrived.get(&number).map(|(us, _)| *us) })
            .collect();
        receiver.arrived = receiver.arrived.split_off(&from);
        receiver.reported = [receiver.reported[1], newest + 1];
        Some(Report { flow: self.index, newest_sent, arrivals })
    }

    /// A report arrives at the sender.
    pub(super) fn handle_report(&mut self, now: Duration, report: &Report) {
        self.rtt = (self.rtt * 7 + (now - report.newest_sent)) / 8;
        self.candidate.handle_feedback(now, self.rtt, &report.arrivals);
    }

    /// Makes a picture of the size that the target of a while ago allows.
    fn encode(&mut self, now: Duration) {
        self.targets.push_back(if self.candidate.is_silent(now) { 0.0 } else { self.candidate.target() });
        if self.targets.len() <= ENCODER_DELAY {
            return;
        }
        let target = self.targets.pop_front().unwrap_or(0.0).min(self.max);
        let queued: usize = self.waiting[1].iter().map(|(_, bytes, _)| bytes).sum();
        if queued as f64 * 8.0 > self.candidate.pacing_rate() * MAX_BACKLOG.as_secs_f64() {
            self.log.skipped += 1;
            return;
        }
        let rate = ((target - SOUND_RATE) * VIDEO_SHARE).max(MIN_VIDEO_RATE);
        let fair = rate * PICTURE_INTERVAL.as_secs_f64();
        let key = self.pictures.is_multiple_of(KEY_PICTURES);
        let noise = 0.75 + 0.5 * self.random.unit();
        let payback = (self.debt / PAYBACK_PICTURES).clamp(-0.5 * fair, 0.5 * fair);
        let bits = if key { fair * KEY_SIZE } else { (fair - payback) * noise };
        self.debt = (self.debt + bits - fair).clamp(-MAX_CREDIT_PICTURES * fair, f64::INFINITY);
        let bytes = (bits / 8.0) as usize;
        let datagrams = bytes.div_ceil(MAX_BYTES - HEADERS).max(1);
        self.receiver.incomplete.insert(self.pictures, datagrams);
        for _ in 0..datagrams {
            let wire = bytes / datagrams + HEADERS;
            self.waiting[1].push_back((Kind::Video { frame: self.pictures }, wire, now));
        }
        self.pictures += 1;
    }
}

/// How often senders and receivers look at the time.
pub(super) const STEP: Duration = Duration::from_micros(250);
const SOUND_INTERVAL: Duration = Duration::from_millis(10);
const SOUND_BYTES: usize = 120;
const SOUND_RATE: f64 = 96e3;
const PICTURE_INTERVAL: Duration = Duration::from_micros(33_333);
/// Pictures by which an encoder follows late.
const ENCODER_DELAY: usize = 2;
/// The rest of the target is headers of video.
const VIDEO_SHARE: f64 = 0.94;
const MIN_VIDEO_RATE: f64 = 30e3;
/// A key picture every 10 s.
const KEY_PICTURES: u64 = 300;
const KEY_SIZE: f64 = 6.0;
/// Pictures over which an encoder pays back what a large one took, and how much it may save up.
const PAYBACK_PICTURES: f64 = 12.0;
const MAX_CREDIT_PICTURES: f64 = 1.0;
/// Datagrams on the wire: QUIC, UDP and IP headers, and all.
const HEADERS: usize = 60;
const MAX_BYTES: usize = 1222;
const LINK_HEADERS: usize = 28;
/// What waits longer keeps the next picture from being encoded.
const MAX_BACKLOG: Duration = Duration::from_millis(60);
const REPORT_INTERVAL: Duration = Duration::from_millis(25);
const URGENT_INTERVAL: Duration = Duration::from_millis(5);
const CLOCK_OFFSET_US: i64 = 77_000_000_000;
