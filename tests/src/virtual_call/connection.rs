//! A connection between a client and the relay: two links for datagrams, four reliable streams, and its end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use vchat_proto::hop::{Receiver, Sender, Settings as HopSettings};
use vchat_proto::id::ParticipantId;
use vchat_proto::session::Loss;
use vchat_proto::units::Bitrate;
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
    /// The media's two ends.
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) control: Pipe<Control>,
    pub(super) chat: Pipe<Chat>,
    random: Random,
    start: Instant,
}

impl Connection {
    pub(super) fn new(
        start: Instant,
        now: Duration,
        client: usize,
        path: &Path,
        video_max: Bitrate,
        [up, down]: [Random; 2],
    ) -> Self {
        Self {
            client,
            up: Lane::new(start, now, &path.up, video_max, up),
            down: Lane::new(start, now, &path.down, video_max, down),
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

    /// When something arrives or can be sent.
    ///
    /// Chat and media wait for the relay to take the hello.
    pub(super) fn next_event(&self) -> Option<Duration> {
        let up = self.up.next_event(self.participant.is_some()).filter(|_| self.relay_open);
        let down = self.down.next_event(true).filter(|_| self.client_open);
        let closed_by_client = self.closed_by_client.filter(|_| self.relay_open);
        let closed_by_relay = self.closed_by_relay.as_ref().map(|(at, _)| *at).filter(|_| self.client_open);
        [up, down, closed_by_client, closed_by_relay, self.next_timer(false)].into_iter().flatten().min()
    }

    /// When something can be sent; `dead`: not by the client.
    pub(super) fn next_timer(&self, dead: bool) -> Option<Duration> {
        let client = [self.up.sender_timeout(), self.down.receiver_timeout()];
        let client = client.into_iter().flatten().min().filter(|_| self.client_open && !dead);
        let relay = [self.down.sender_timeout(), self.up.receiver_timeout()];
        let relay = relay.into_iter().flatten().min().filter(|_| self.relay_open);
        client.into_iter().chain(relay).min()
    }
}

impl<Control, Chat> Lane<Control, Chat> {
    fn new(
        start: Instant,
        now: Duration,
        settings: &Settings,
        video_max: Bitrate,
        mut random: Random,
    ) -> Self {
        let streams = Random::new(random.bits(), 0);
        let (control, chat) = (Pipe::default(), Pipe::default());
        let link = Link::new(settings.clone(), random);
        let sender = Sender::new(start + now, HopSettings { start: START, video_max });
        let receiver = Receiver::new(start + now);
        Self { link, sender, receiver, control, chat, random: streams, start }
    }

    pub(super) fn send_control(&mut self, now: Duration, message: Control) {
        self.control.push(now, self.link.settings(), &mut self.random, message);
    }

    pub(super) fn send_chat(&mut self, now: Duration, message: Chat) {
        self.chat.push(now, self.link.settings(), &mut self.random, message);
    }

    /// Sends what the sender wants sent now. `cut`: it goes nowhere.
    pub(super) fn pump(&mut self, now: Duration, cut: bool) {
        self.sender.handle_timeout(self.start + now);
        while let Some(datagram) = self.sender.poll_datagram(self.start + now) {
            self.send_datagram(now, datagram, cut);
        }
    }

    /// Sends a datagram past the sender: a report about the other direction.
    pub(super) fn send_datagram(&mut self, now: Duration, datagram: Bytes, cut: bool) {
        if !cut {
            self.link.handle_packet(now, datagram.len() + QUIC_OVERHEAD, datagram);
        }
    }

    pub(super) fn poll_datagram(&mut self, now: Duration) -> Option<Bytes> {
        self.link.poll_arrival(now)
    }

    fn sender_timeout(&self) -> Option<Duration> {
        self.sender.poll_timeout().map(|t| t.saturating_duration_since(self.start))
    }

    fn receiver_timeout(&self) -> Option<Duration> {
        self.receiver.poll_timeout().map(|t| t.saturating_duration_since(self.start))
    }

    fn next_event(&self, joined: bool) -> Option<Duration> {
        let media = self.link.poll_timeout().into_iter().chain(self.chat.next_event()).min();
        media.filter(|_| joined).into_iter().chain(self.control.next_event()).min()
    }
}

/// QUIC around a datagram; the link adds IP and UDP.
const QUIC_OVERHEAD: usize = 30;
/// What a hop starts with.
const START: Bitrate = Bitrate::from_kbps(900);
