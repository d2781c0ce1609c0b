//! Moving to another process of the relay while a call goes on: the new connection is there before the old one goes.

use std::time::{Duration, Instant};

use super::{Event, Output, Session, State};
use crate::units::MediaTime;
use crate::wire::pb;

/// The way to the process that takes over.
#[derive(Debug)]
pub(super) struct Moving {
    /// When media begin to go there, on the local media clock.
    at: MediaTime,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    /// Until the next attempt.
    Waiting(Instant),
    Joining,
}

impl Moving {
    pub(super) fn has_said_hello(&self) -> bool {
        self.stage == Stage::Joining
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Output> {
        self.poll_timeout().filter(|until| *until <= now)?;
        self.stage = Stage::Connecting;
        Some(Output::ConnectNext)
    }

    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        match self.stage {
            Stage::Waiting(until) => Some(until),
            Stage::Connecting | Stage::Joining => None,
        }
    }
}

impl Session {
    /// Another process takes over from the relay. Ignored while that has been said already.
    pub(super) fn handle_go_away(&mut self, at: MediaTime, go: &pb::GoAway) {
        if self.state != State::Joined || self.moving.is_some() {
            return;
        }
        // Who does not know the relay's clock yet has been here for a moment only.
        let switch = self
            .clock
            .best()
            .map_or(at, |clock| MediaTime::from_micros(go.at_us).offset(clock.offset_us.saturating_neg()));
        let is_soon = (0..LONGEST.as_micros() as i64).contains(&switch.micros_since(at));
        self.moving = Some(Moving { at: if is_soon { switch } else { at }, stage: Stage::Connecting });
        self.output.push_back(Output::ConnectNext);
    }

    /// The connection beside is made.
    pub fn handle_next_connected(&mut self) {
        let Some(moving) = self.moving.as_mut().filter(|m| m.stage == Stage::Connecting) else { return };
        moving.stage = Stage::Joining;
        let (hello, chat) = self.introduction();
        self.output.push_back(Output::NextControl(hello));
        self.output.extend(chat.map(Output::NextChat));
    }

    /// The connection beside could not be made, or is lost. It is tried again for as long as there is the other one.
    pub fn handle_next_disconnected(&mut self, now: Instant) {
        if let Some(moving) = &mut self.moving {
            moving.stage = Stage::Waiting(now + RETRY);
        }
    }

    /// Takes a message from the control stream of the connection beside. Its welcome makes that the session's only one: what comes
    /// from its streams goes to [`Session::handle_control`] and [`Session::handle_chat`] then, and what comes from those of the
    /// other one is of no concern.
    pub fn handle_next_control(&mut self, now: Instant, message: pb::RelayControl) {
        let Some(pb::relay_control::Body::Welcome(welcome)) = message.body else { return };
        let Some(Moving { at, stage: Stage::Joining }) = self.moving else { return };
        self.moving = None;
        // A page that was asked for is asked for again.
        self.back.disconnected();
        let clock = self.clock.clone();
        self.enter(now, welcome, |me| Event::Moved { me, at });
        // The process that takes over goes on with the clock of the one before.
        self.clock = clock;
        self.publish_clock();
    }
}

/// Longer than any relay waits for its clients to be ready.
const LONGEST: Duration = Duration::from_secs(10);
/// Some round trips.
const RETRY: Duration = Duration::from_millis(250);
