//! One direction of a reliable stream.

use std::collections::VecDeque;
use std::time::Duration;

use crate::netem::{Random, Settings};

/// Messages that all arrive, once and in order. A loss costs the time until it is repaired, for that message and those
/// behind it.
#[derive(Debug)]
pub(super) struct Pipe<T> {
    on_the_way: VecDeque<(Duration, T)>,
}

impl<T> Default for Pipe<T> {
    fn default() -> Self {
        Self { on_the_way: VecDeque::new() }
    }
}

impl<T> Pipe<T> {
    pub(super) fn push(&mut self, now: Duration, settings: &Settings, random: &mut Random, message: T) {
        let mut way = settings.delay + random.below(settings.jitter);
        for _ in 0..MAX_REPAIRS {
            if !random.chance(settings.loss) {
                break;
            }
            // The sender hears of a loss after a round trip and sends again.
            way += 2 * settings.delay + REPAIR;
        }
        let arrival = self.on_the_way.back().map_or(Duration::ZERO, |(at, _)| *at).max(now + way);
        self.on_the_way.push_back((arrival, message));
    }

    pub(super) fn poll(&mut self, now: Duration) -> Option<T> {
        let arrived = self.on_the_way.front().is_some_and(|(at, _)| *at <= now);
        if arrived { self.on_the_way.pop_front().map(|(_, message)| message) } else { None }
    }

    pub(super) fn last_arrival(&self) -> Option<Duration> {
        self.on_the_way.back().map(|(at, _)| *at)
    }

    pub(super) fn next_event(&self) -> Option<Duration> {
        self.on_the_way.front().map(|(at, _)| *at)
    }
}

/// Until a path that loses everything is given up by other means.
const MAX_REPAIRS: u32 = 20;
/// QUIC waits a little for acknowledgements that come late (RFC 9002: an eighth of a round trip, and the peer's 25 ms).
const REPAIR: Duration = Duration::from_millis(30);
