//! Placeholder until the estimator lands.
#![allow(missing_docs, clippy::all)]
use crate::units::Bitrate;
use std::time::{Duration, Instant};
#[derive(Debug)]
pub struct Estimator {
    max: Bitrate,
    heard: Option<Instant>,
    sent: Option<Instant>,
    win: std::collections::VecDeque<bool>,
    seen: std::collections::BTreeSet<u64>,
}
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub start: Bitrate,
    pub min: Bitrate,
    pub max: Bitrate,
}
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub number: u64,
    pub arrived_us: Option<i64>,
}
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    pub rate: f64,
    pub burst: f64,
}
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub bytes: usize,
}
impl Estimator {
    pub fn new(_now: Instant, s: Settings) -> Self {
        Self { max: s.max, heard: None, sent: None, win: Default::default(), seen: Default::default() }
    }
    pub fn set_max(&mut self, max: Bitrate) {
        self.max = max;
    }
    pub fn handle_sent(&mut self, now: Instant, _number: u64, _bytes: usize) {
        self.sent = Some(now);
    }
    pub fn handle_feedback(&mut self, now: Instant, _rtt: Duration, report: &[Arrival]) {
        self.heard = Some(now);
        for a in report {
            if self.seen.insert(a.number) {
                self.win.push_back(a.arrived_us.is_none());
            }
        }
        while self.win.len() > 300 {
            self.win.pop_front();
        }
        while self.seen.len() > 2000 {
            self.seen.pop_first();
        }
    }
    pub fn handle_timeout(&mut self, _now: Instant) {}
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    pub fn target(&self) -> Bitrate {
        self.max
    }
    pub fn pacing_rate(&self) -> Bitrate {
        Bitrate::from_kbps(20_000)
    }
    pub fn poll_probe(&mut self, _now: Instant) -> Option<Probe> {
        None
    }
    pub fn loss(&self) -> Loss {
        let n = self.win.iter().filter(|l| **l).count();
        Loss { rate: n as f64 / self.win.len().max(50) as f64, burst: 1.0 }
    }
    pub fn queue_delay(&self) -> Duration {
        Duration::ZERO
    }
    pub fn is_silent(&self, now: Instant) -> bool {
        self.heard.zip(self.sent).is_some_and(|(h, s)| s > h && now > h + Duration::from_millis(150))
    }
}
