//! The relay: a room, and what carries its outputs to the connections. Does what `vchatd` does with tasks.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use vchat_proto::id::{ChatId, DisplayName, ParticipantId};
use vchat_proto::room::{Author, Kept, Output, Post, Room, Stored};
use vchat_proto::session::Loss;
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::hop::Packet;
use vchat_proto::wire::pb;

use super::connection::Connection;

#[derive(Debug)]
pub(super) struct Relay {
    room: Room,
    history: u64,
    /// A disk that takes no time.
    stored: BTreeMap<(Author, ChatId), u64>,
    /// When the room was told of the hops last.
    told_at: Option<Instant>,
}

impl Relay {
    pub(super) fn new(history: u64) -> Self {
        let room = Room::new(Kept { history, ..Kept::default() });
        Self { room, history, stored: BTreeMap::new(), told_at: None }
    }

    pub(super) fn people(&self) -> usize {
        self.room.len()
    }

    pub(super) fn next_event(&self, start: Instant) -> Option<Duration> {
        self.room.poll_timeout().map(|t| t.saturating_duration_since(start))
    }

    /// Takes what has arrived by now and sends what the room wants sent. `cut`: which clients have no network.
    pub(super) fn turn(
        &mut self,
        start: Instant,
        now: Duration,
        connections: &mut [Connection],
        cut: &[bool],
    ) {
        for i in 0..connections.len() {
            let connected = !cut[connections[i].client];
            if connected && connections[i].relay_open {
                self.receive(start + now, now, &mut connections[i]);
                // Who comes back has the number of the connection that was lost.
                let id = connections[i].participant;
                for (_, old) in connections.iter_mut().enumerate().filter(|(at, _)| *at != i) {
                    if id.is_some() && old.participant == id {
                        old.close_from_relay(now, Loss::Closed(CloseCode::Goodbye));
                        old.participant = None;
                    }
                }
            }
            while !connected && connections[i].up.poll_datagram(now).is_some() {}
            if connections[i].closed_by_client.is_some_and(|at| at <= now) && connections[i].relay_open {
                connections[i].relay_open = false;
                if let Some(id) = connections[i].participant {
                    let reason = if connected { pb::LeaveReason::Goodbye } else { pb::LeaveReason::Timeout };
                    self.room.leave(start + now, id, reason);
                }
            }
            self.deliver(start + now, now, connections);
        }
        if self.room.poll_timeout().is_some_and(|t| t <= start + now) {
            self.room.handle_timeout(start + now);
            self.deliver(start + now, now, connections);
        }
        for connection in connections.iter_mut().filter(|c| c.relay_open) {
            let cut = cut[connection.client];
            while let Some(refresh) = connection.down.sender.poll_refresh() {
                if let Some(id) = connection.participant {
                    self.room.request_refresh(start + now, id, refresh.track, refresh.decoded);
                }
            }
            connection.down.pump(now, cut);
            if let Some(report) = connection.up.receiver.poll_report(start + now) {
                connection.down.send_datagram(now, report, cut);
            }
        }
        self.tell_hops(start + now, connections);
        self.deliver(start + now, now, connections);
    }

    fn receive(&mut self, at: Instant, now: Duration, connection: &mut Connection) {
        while let Some(message) = connection.up.control.poll(now) {
            let relay_us = now.as_micros() as u64 + CLOCK_US;
            match (connection.participant, message.body) {
                (None, Some(pb::client_control::Body::Hello(hello))) => {
                    self.admit(at, now, connection, &hello)
                }
                (Some(id), body) => {
                    self.room.handle_control(at, relay_us, id, pb::ClientControl { body });
                }
                (None, _) => connection.close_from_relay(now, Loss::Closed(CloseCode::Protocol)),
            }
        }
        let Some(id) = connection.participant else { return };
        while let Some(message) = connection.up.chat.poll(now) {
            self.room.handle_chat(at, now.as_millis() as u64, id, message);
        }
        while let Some(datagram) = connection.up.poll_datagram(now) {
            let len = datagram.len();
            let (number, packet) = Packet::parse(datagram).unwrap_or_else(|e| panic!("a client sends {e}"));
            if let Packet::Report(report) = &packet {
                connection.down.sender.handle_report(at, report);
            }
            connection.up.receiver.handle_packet(at, number, len, packet);
            while let Some(media) = connection.up.receiver.poll_media() {
                self.room.handle_media(at, id, &media);
            }
        }
    }

    /// Tells the room what the hops to its receivers bear, ten times a second.
    fn tell_hops(&mut self, at: Instant, connections: &[Connection]) {
        if self.told_at.is_some_and(|t| at < t + TELL_EVERY) {
            return;
        }
        self.told_at = Some(at);
        for connection in connections.iter().filter(|c| c.relay_open) {
            if let Some(id) = connection.participant {
                self.room.handle_budget(at, id, connection.down.sender.video_target());
            }
        }
    }

    fn admit(&mut self, at: Instant, now: Duration, connection: &mut Connection, hello: &pb::Hello) {
        let pin = [u8::try_from(connection.client).unwrap_or(u8::MAX); 32];
        let name = DisplayName::parse(&hello.name).unwrap_or_else(|e| panic!("a client's name: {e}"));
        // The proof of the number is for who carries hellos; a client of this world tells the truth.
        let seat = (hello.participant > 0).then_some(ParticipantId(hello.participant));
        match self.room.join(at, pin, seat, name, hello) {
            Ok(id) => connection.participant = Some(id),
            Err(code) => connection.close_from_relay(now, Loss::Closed(code)),
        }
    }

    fn store(&mut self, post: &Post) {
        let (next, key) = (self.stored.len() as u64 + 1, (post.author, post.id));
        let stored = match self.stored.entry(key) {
            Entry::Occupied(known) => Stored::Known(*known.get()),
            Entry::Vacant(new) => Stored::New { history: self.history, seq: *new.insert(next) },
        };
        self.room.handle_stored(post.author, post.id, stored);
    }

    fn deliver(&mut self, at: Instant, now: Duration, connections: &mut [Connection]) {
        fn to(connections: &mut [Connection], id: ParticipantId) -> Option<&mut Connection> {
            connections.iter_mut().find(|c| c.participant == Some(id) && c.relay_open)
        }
        while let Some(output) = self.room.poll_output() {
            match output {
                Output::Control(id, message) => {
                    if let Some(c) = to(connections, id) {
                        c.down.send_control(now, message);
                    }
                }
                Output::Chat(id, message) => {
                    if let Some(c) = to(connections, id) {
                        c.down.send_chat(now, message);
                    }
                }
                Output::Store(post) => self.store(&post),
                // All that was written is at hand.
                Output::Page(id, older) => self.room.handle_page(id, older, None),
                Output::Media(id, header, body) => {
                    let Some(c) = to(connections, id) else { continue };
                    c.down.sender.push(at, header, body);
                }
                Output::VideoWanted(id, max) => {
                    if let Some(c) = to(connections, id) {
                        c.down.sender.set_video_max(max);
                    }
                }
                Output::TrackEnded(track) => {
                    connections.iter_mut().for_each(|c| c.down.sender.forget(track));
                }
                Output::Close(id, code) => {
                    assert!(code == CloseCode::Goodbye, "an honest client was removed: {code:?}");
                    if let Some(c) = to(connections, id) {
                        c.close_from_relay(now, Loss::Closed(code));
                    }
                }
            }
        }
    }
}

const TELL_EVERY: Duration = Duration::from_millis(100);
/// The zero of the relay's clock is not that of any client.
const CLOCK_US: u64 = 500_000_000;
