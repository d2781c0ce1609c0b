//! A connection between a client and the relay: two links for datagrams, four reliable streams, and its end.

use std::time::Duration;

use bytes::Bytes;
use vchat_proto::egress::Egress;
use vchat_proto::id::ParticipantId;
use vchat_proto::session::Loss;
use vchat_proto::wire::pb;

use super::Path;
use super::pipe::Pipe;
use crate::netem::{Link, Random, Settings};

/// One connection, both ends of it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: usize,
    pub(super) up: Lane<pb::ClientControl, pb::ChatUp>,
    pub(super) down: Lane<pb::RelayControl, pb::ChatDown>,
    /// What waits at the relay for this receiver.
    pub(super) egress: Egress,
    /// Whether each end still counts on the connection.
    pub(super) client_open: bool,
    pub(super) relay_open: bool,
    /// Who this is in the room, once the hello is taken.
    pub(super) participant: Option<ParticipantId>,
    /// The other end's farewell on its way.
    pub(super) closed_by_client: Option<Duration>,
    pub(super) closed_by_relay: Option<(Duration, Loss)>,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Lane<Control, Chat> {
    link: Link<Bytes>,
    pub(super) control: Pipe<Control>,
    pub(super) chat: Pipe<Chat>,
    random: Random,
    /// When the sender may send its next datagram: congestion control that knows the link's rate.
    free_at: Duration,
}

impl Connection {
    pub(super) fn new(now: Duration, client: usize, path: &Path, [up, down]: [Random; 2]) -> Self {
        Self {
            client,
            up: Lane::new(now, &path.up, up),
            down: Lane::new(now, &path.down, down),
            egress: Egress::default(),
            client_open: true,
            relay_open: true,
            participant: None,
            closed_by_client: None,
            closed_by_relay: None,
        }
    }

    pub(super) fn set_path(&mut self, now: Duration, path: &Path) {
        self.up.link.handle_settings(now, path.up.clone());
        self.down.link.handle_settings(now, path.down.clone());
    }

    /// The relay closes; its end is gone at once.
    pub(super) fn close_from_relay(&mut self, now: Duration, why: Loss) {
        if self.relay_open {
            self.relay_open = false;
            self.closed_by_relay = Some((now + self.down.link.settings().delay, why));
        }
    }

    /// The client closes after what it has written.
    pub(super) fn close_from_client(&mut self, now: Duration) {
        if self.client_open {
            self.client_open = false;
            let last = self.up.control.last_arrival().unwrap_or(now);
            self.closed_by_client = Some(last.max(now + self.up.link.settings().delay));
        }
    }

    /// Neither end has heard of the other for too long.
    pub(super) fn time_out(&mut self, now: Duration) {
        self.closed_by_client.get_or_insert(now);
        if self.client_open {
            self.closed_by_relay = Some((now, Loss::Network("timed out".into())));
        }
    }

    /// When something arrives or can be sent. `sending`: the client has media to send.
    ///
    /// Chat and media wait for the relay to take the hello.
    pub(super) fn next_event(&self, sending: bool) -> Option<Duration> {
        let up = self.up.next_event(self.participant.is_some()).filter(|_| self.relay_open);
        let down = self.down.next_event(true).filter(|_| self.client_open);
        let closed_by_client = self.closed_by_client.filter(|_| self.relay_open);
        let closed_by_relay = self.closed_by_relay.as_ref().map(|(at, _)| *at).filter(|_| self.client_open);
        let sends_up = (sending && self.client_open).then_some(self.up.free_at);
        let sends_down = (!self.egress.is_empty() && self.relay_open).then_some(self.down.free_at);
        [up, down, closed_by_client, closed_by_relay, sends_up, sends_down].into_iter().flatten().min()
    }
}

impl<Control, Chat> Lane<Control, Chat> {
    fn new(now: Duration, settings: &Settings, mut random: Random) -> Self {
        let streams = Random::new(random.bits(), 0);
        let (control, chat) = (Pipe::default(), Pipe::default());
        let link = Link::new(settings.clone(), random);
        Self { link, control, chat, random: streams, free_at: now }
    }

    pub(super) fn send_control(&mut self, now: Duration, message: Control) {
        self.control.push(now, self.link.settings(), &mut self.random, message);
    }

    pub(super) fn send_chat(&mut self, now: Duration, message: Chat) {
        self.chat.push(now, self.link.settings(), &mut self.random, message);
    }

    /// Sends what the queue holds, as fast as the link takes it. `cut`: it goes nowhere.
    pub(super) fn pump(&mut self, now: Duration, egress: &mut Egress, cut: bool) {
        while now >= self.free_at {
            let Some(datagram) = egress.pop() else { return };
            if let Some(rate) = self.link.settings().rate {
                let bits = (datagram.len() + OVERHEAD) as u64 * 8_000_000;
                self.free_at = now + Duration::from_micros(bits / rate.bps().max(1));
            }
            if !cut {
                self.link.handle_packet(now, datagram.len(), datagram);
            }
        }
    }

    pub(super) fn poll_datagram(&mut self, now: Duration) -> Option<Bytes> {
        self.link.poll_arrival(now)
    }

    fn next_event(&self, joined: bool) -> Option<Duration> {
        let media = self.link.poll_timeout().into_iter().chain(self.chat.next_event()).min();
        media.filter(|_| joined).into_iter().chain(self.control.next_event()).min()
    }
}

/// IP, UDP and QUIC around a datagram.
const OVERHEAD: usize = 60;
