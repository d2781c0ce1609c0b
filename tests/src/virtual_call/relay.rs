//! The relay: a room, and what carries its outputs to the connections. Does what `vchatd` does with tasks.

use std::time::{Duration, Instant};

use vchat_proto::id::{DisplayName, ParticipantId};
use vchat_proto::room::{Output, Room};
use vchat_proto::session::Loss;
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::datagram::Media;
use vchat_proto::wire::pb;

use super::connection::Connection;

#[derive(Debug)]
pub(super) struct Relay {
    room: Room,
}

impl Relay {
    pub(super) const fn new(history: u64) -> Self {
        Self { room: Room::new(history) }
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
            }
            if connections[i].closed_by_client.is_some_and(|at| at <= now) && connections[i].relay_open {
                connections[i].relay_open = false;
                if let Some(id) = connections[i].participant {
                    let reason = if connected { pb::LeaveReason::Goodbye } else { pb::LeaveReason::Timeout };
                    self.room.leave(id, reason);
                }
            }
            self.deliver(start + now, now, connections);
        }
        if self.room.poll_timeout().is_some_and(|t| t <= start + now) {
            self.room.handle_timeout(start + now);
            self.deliver(start + now, now, connections);
        }
        for connection in connections.iter_mut().filter(|c| c.relay_open) {
            connection.down.pump(now, &mut connection.egress, cut[connection.client]);
        }
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
            let media = Media::parse(datagram).unwrap_or_else(|e| panic!("a client sends {e}"));
            self.room.handle_media(at, id, &media);
        }
    }

    fn admit(&mut self, at: Instant, now: Duration, connection: &mut Connection, hello: &pb::Hello) {
        let pin = [u8::try_from(connection.client).unwrap_or(u8::MAX); 32];
        let name = DisplayName::parse(&hello.name).unwrap_or_else(|e| panic!("a client's name: {e}"));
        match self.room.join(at, pin, name, hello) {
            Ok(id) => connection.participant = Some(id),
            Err(code) => connection.close_from_relay(now, Loss::Closed(code)),
        }
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
                Output::Media(id, header, body) => {
                    let Some(c) = to(connections, id) else { continue };
                    c.egress.push(at, header, body);
                    while let Some(track) = c.egress.poll_key_frame_needed() {
                        self.room.request_key_frame(at, track);
                    }
                }
                Output::TrackEnded(track) => {
                    connections.iter_mut().for_each(|c| c.egress.forget(track));
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

/// The zero of the relay's clock is not that of any client.
const CLOCK_US: u64 = 500_000_000;
