//! Which rooms there are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, mpsc};
use vchat_proto::id::RoomName;

use crate::archive::Archive;
use crate::room::{self, Command};
use crate::stats::Stats;

/// The rooms by name. The one piece of state behind a lock: it is touched when somebody joins and when a room ends,
/// never for a message or a datagram.
#[derive(Clone)]
pub(crate) struct Rooms {
    archive: Archive,
    stats: Stats,
    by_name: Arc<Mutex<BTreeMap<RoomName, mpsc::Sender<Command>>>>,
    /// A permit for each room that must make way and has not yet.
    crowded: Arc<Semaphore>,
    /// Another process takes over: chat is not for this one any more.
    quiet: Arc<AtomicBool>,
}

impl Rooms {
    /// No rooms yet; their chat will be kept there.
    pub(crate) fn new(archive: Archive, stats: Stats) -> Self {
        let crowded = Arc::new(Semaphore::new(0));
        Self { archive, stats, by_name: Arc::default(), crowded, quiet: Arc::default() }
    }

    pub(crate) const fn archive(&self) -> &Archive {
        &self.archive
    }

    pub(crate) const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The way into a room, which begins with the first who asks. Where there are [`MAX_ROOMS`] others, the one that has been
    /// empty longest ends for it: nobody can keep people out by opening rooms and leaving them.
    ///
    /// The room may end before a command reaches it; the sender then fails, and asking again begins a new one.
    pub(crate) fn enter(&self, name: &RoomName) -> mpsc::Sender<Command> {
        let mut rooms = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get(name).filter(|r| !r.is_closed()) {
            return room.clone();
        }
        if rooms.len() >= MAX_ROOMS {
            // Those who wait get it in the order in which they came; where nobody waits yet, the first who will.
            self.crowded.add_permits(1);
        }
        let (sender, receiver) = mpsc::channel(room::COMMANDS);
        rooms.insert(name.clone(), sender.clone());
        tokio::spawn(room::run(receiver, self.clone(), name.clone()));
        sender
    }

    /// Waits until this empty room must make way for another.
    pub(crate) async fn crowded(&self) {
        if let Ok(permit) = self.crowded.acquire().await {
            permit.forget();
        }
    }

    /// From now on nothing that people write is taken. They write it again to the process that takes over.
    pub(crate) fn be_quiet(&self) {
        self.quiet.store(true, Ordering::Relaxed);
    }

    /// Whether nothing that people write is taken.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// The ways into all rooms.
    pub(crate) fn all(&self) -> Vec<mpsc::Sender<Command>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Forgets all rooms, which end when nobody else can reach them: the relay stops.
    pub(crate) fn close(&self) {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Forgets a room that has closed its queue.
    pub(crate) fn ended(&self, name: &RoomName) {
        let mut rooms = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if rooms.get(name).is_some_and(mpsc::Sender::is_closed) {
            rooms.remove(name);
        }
    }
}

/// Rooms at once before empty ones give way. Occupied ones are bounded by the number of connections.
const MAX_ROOMS: usize = 1000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::archive::Retention;

    fn name(n: usize) -> RoomName {
        RoomName::parse(&format!("room {n}")).expect("a name")
    }

    #[tokio::test]
    async fn rooms_that_were_left_make_way_for_new_ones() {
        let dir = tempfile::tempdir().expect("a directory");
        let retention = Retention { age: Duration::from_secs(60), lines: 10 };
        let (archive, _ended) = Archive::start(dir.path(), retention).expect("an archive");
        let stats = Stats::new(archive.stats().clone());
        let rooms = Rooms::new(archive, stats);
        let mut first = Vec::new();
        for n in 0..2 * MAX_ROOMS {
            let room = rooms.enter(&name(n));
            if n < MAX_ROOMS {
                first.push(room);
            }
            tokio::task::yield_now().await;
        }
        for room in &first {
            room.closed().await;
        }
        let open = rooms.by_name.lock().expect("no panic").len();
        assert_eq!(open, MAX_ROOMS, "the newest are there");
    }
}
