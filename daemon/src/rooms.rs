//! Which rooms there are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use vchat_proto::id::RoomName;

use crate::room::{self, Command};

/// The rooms by name. The one piece of state behind a lock: it is touched when somebody joins and when a room ends,
/// never for a message or a datagram.
#[derive(Clone, Default)]
pub(crate) struct Rooms {
    by_name: Arc<Mutex<BTreeMap<RoomName, mpsc::Sender<Command>>>>,
}

impl Rooms {
    /// The way into a room, which begins with the first who asks. None when there are [`MAX_ROOMS`] others.
    ///
    /// The room may end before a command reaches it; the sender then fails, and asking again begins a new one.
    pub(crate) fn enter(&self, name: &RoomName) -> Option<mpsc::Sender<Command>> {
        let mut rooms = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get(name).filter(|r| !r.is_closed()) {
            return Some(room.clone());
        }
        if rooms.len() >= MAX_ROOMS && !rooms.contains_key(name) {
            return None;
        }
        let (sender, receiver) = mpsc::channel(room::COMMANDS);
        rooms.insert(name.clone(), sender.clone());
        tokio::spawn(room::run(receiver, self.clone(), name.clone()));
        Some(sender)
    }

    /// Forgets a room that has closed its queue.
    pub(crate) fn ended(&self, name: &RoomName) {
        let mut rooms = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if rooms.get(name).is_some_and(mpsc::Sender::is_closed) {
            rooms.remove(name);
        }
    }
}

/// Rooms at once; empty ones count for [`room::LINGER`].
const MAX_ROOMS: usize = 1000;
