//! Which rooms there are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
    /// How many rooms have people in them.
    occupied: Arc<AtomicUsize>,
    /// Another process takes over: chat is not for this one any more.
    quiet: Arc<AtomicBool>,
}

impl Rooms {
    /// No rooms yet; their chat will be kept there.
    pub(crate) fn new(archive: Archive, stats: Stats) -> Self {
        let crowded = Arc::new(Semaphore::new(0));
        Self {
            archive,
            stats,
            by_name: Arc::default(),
            crowded,
            occupied: Arc::default(),
            quiet: Arc::default(),
        }
    }

    pub(crate) const fn archive(&self) -> &Archive {
        &self.archive
    }

    pub(crate) const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The way into a room, which begins with the first who asks. Where there are `most` others, the one that has been empty longest
    /// ends for it: nobody can keep people out by opening rooms and leaving them. None where there are people in all of them.
    ///
    /// The room may end before a command reaches it; the sender then fails, and asking again begins a new one.
    pub(crate) fn enter(&self, name: &RoomName, most: usize) -> Option<mpsc::Sender<Command>> {
        let mut rooms = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get(name).filter(|r| !r.is_closed()) {
            return Some(room.clone());
        }
        if rooms.len() >= most {
            if self.occupied.load(Ordering::Relaxed) >= most {
                return None;
            }
            // Those who wait get it in the order in which they came; where nobody waits yet, the first who will.
            self.crowded.add_permits(1);
        }
        let (sender, receiver) = mpsc::channel(room::COMMANDS);
        rooms.insert(name.clone(), sender.clone());
        tokio::spawn(room::run(receiver, self.clone(), name.clone()));
        Some(sender)
    }

    /// There are people in a room, or none any more.
    pub(crate) fn note_occupied(&self, occupied: bool) {
        if occupied {
            self.occupied.fetch_add(1, Ordering::Relaxed);
        } else {
            self.occupied.fetch_sub(1, Ordering::Relaxed);
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::archive::Retention;

    const MAX_ROOMS: usize = 100;

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
            let room = rooms.enter(&name(n), MAX_ROOMS).expect("they are all empty");
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
        (0..MAX_ROOMS).for_each(|_| rooms.note_occupied(true));
        assert!(rooms.enter(&name(0), MAX_ROOMS).is_none(), "nobody has to go for a newcomer");
        assert!(rooms.enter(&name(2 * MAX_ROOMS - 1), MAX_ROOMS).is_some(), "that one is there");
        rooms.note_occupied(false);
        assert!(rooms.enter(&name(0), MAX_ROOMS).is_some());
    }
}
