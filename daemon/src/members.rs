//! The connections of known devices, so that they can be cut.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use quinn::Connection;
use vchat_certs::pin::Pin;
use vchat_proto::bucket::TokenBucket;
use vchat_proto::wire::close::CloseCode;

/// Who is connected with which key. Behind a lock, as the table of rooms: it is touched when a connection begins or ends
/// and when a device is revoked, never for a message or a datagram.
#[derive(Clone, Default)]
pub(crate) struct Members(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    connections: BTreeMap<u64, (Pin, Connection)>,
    last: u64,
    /// How often each device connects. As many entries as there are devices.
    pace: HashMap<Pin, TokenBucket>,
}

impl State {
    /// The connections of a device.
    fn of(&self, pin: Pin) -> impl Iterator<Item = &Connection> {
        self.connections.values().filter(move |(p, _)| *p == pin).map(|(_, connection)| connection)
    }
}

/// A connection in the table, until dropped.
pub(crate) struct Entry {
    members: Members,
    number: u64,
}

impl Members {
    /// Puts a connection into the table. This comes before the look-up of its device: whoever is revoked after that look-up
    /// is found here and cut.
    pub(crate) fn enter(&self, pin: Pin, connection: &Connection) -> Entry {
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        state.connections.insert(number, (pin, connection.clone()));
        Entry { members: self.clone(), number }
    }

    /// Whether a known device may have this connection too, or comes too often or too many times.
    pub(crate) fn is_within_limits(&self, now: Instant, pin: Pin) -> bool {
        let mut state = self.lock();
        let paced = state.pace.entry(pin).or_insert_with(|| TokenBucket::new(PACE)).take(now, 1);
        paced && state.of(pin).count() <= MAX_CONNECTIONS_OF_DEVICE
    }

    /// Closes all connections of a device. Returns how many there were.
    pub(crate) fn cut(&self, pin: Pin, code: CloseCode) -> usize {
        self.lock().of(pin).map(|connection| vchat_quic::close(connection, code)).count()
    }

    /// The addresses that a device has.
    pub(crate) fn addresses(&self, pin: Pin) -> Vec<IpAddr> {
        self.lock().of(pin).map(|connection| connection.remote_address().ip().to_canonical()).collect()
    }

    /// How many connections a device has.
    pub(crate) fn count(&self, pin: Pin) -> usize {
        self.lock().of(pin).count()
    }

    /// How many connections all devices have.
    pub(crate) fn total(&self) -> usize {
        self.lock().connections.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.members.lock().connections.remove(&self.number);
    }
}

/// Connections of one device at once: a person at two computers with one key, a few bots. Each costs up to
/// a mebibyte in the worst case.
const MAX_CONNECTIONS_OF_DEVICE: usize = 16;

/// Connections that one device may make a second, and at once. Each costs the relay a handshake, half a millisecond.
const PACE: (u32, u32) = (5, 50);
