//! What the relay counts, for its operator: nothing in it says who somebody is, what a room is called, or where they are.
//!
//! Counting is a relaxed addition where media passes. Tables are touched when somebody comes or goes and when somebody reads.

mod client;
mod counter;
mod events;
mod health;
mod http;
mod load;
mod metrics;
mod status;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use quinn::Connection;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use vchat_proto::id::ParticipantId;

pub(crate) use self::client::{ClientStats, Dropped};
use self::client::{HopNow, Traffic};
pub(crate) use self::events::{ChatStats, Events, Handshake};
pub(crate) use self::http::{Pages, converse, serve};
pub(crate) use self::load::Load;
use self::load::{Pulse, Samples};

/// Everything that is counted.
#[derive(Clone)]
pub(crate) struct Stats(Arc<Inner>);

struct Inner {
    began: Instant,
    began_unix: Duration,
    events: Events,
    chat: Arc<ChatStats>,
    tables: Mutex<Tables>,
    load: watch::Sender<Load>,
}

#[derive(Default)]
struct Tables {
    rooms: BTreeMap<RoomNumber, RoomEntry>,
    /// How many rooms were opened so far.
    opened: u64,
    /// What was counted of clients that have left.
    gone: Traffic,
}

#[derive(Default)]
struct RoomEntry {
    clients: BTreeMap<ParticipantId, ClientEntry>,
    gone: Traffic,
}

struct ClientEntry {
    stats: Arc<ClientStats>,
    connection: Connection,
    since: Instant,
    pace: Pace,
}

/// A client's rates in the last second.
#[derive(Clone, Copy, Default)]
struct Pace {
    at: Option<(Instant, Traffic)>,
    received_bps: f64,
    sent_bps: f64,
}

/// A room for those who read metrics: its name is its members' own.
pub(crate) type RoomNumber = u64;

/// A room that is open, until dropped.
pub(crate) struct OpenRoom {
    stats: Stats,
    pub(crate) number: RoomNumber,
}

/// A client that is in a room, until dropped. Then what was counted of it counts for the room and the relay for ever.
pub(crate) struct Present {
    stats: Stats,
    room: RoomNumber,
    id: ParticipantId,
    client: Arc<ClientStats>,
}

impl Stats {
    /// `chat`: what the archive counts.
    pub(crate) fn new(chat: Arc<ChatStats>) -> Self {
        Self(Arc::new(Inner {
            began: Instant::now(),
            began_unix: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            events: Events::default(),
            chat,
            tables: Mutex::default(),
            load: watch::Sender::default(),
        }))
    }

    pub(crate) fn events(&self) -> &Events {
        &self.0.events
    }

    /// How busy the relay is, anew each second.
    pub(crate) fn load(&self) -> watch::Receiver<Load> {
        self.0.load.subscribe()
    }

    pub(crate) fn open_room(&self) -> OpenRoom {
        let mut tables = self.lock();
        tables.opened += 1;
        let number = tables.opened;
        tables.rooms.insert(number, RoomEntry::default());
        OpenRoom { stats: self.clone(), number }
    }

    /// A client has joined the room that has this number.
    pub(crate) fn enter(
        &self,
        room: RoomNumber,
        id: ParticipantId,
        connection: &Connection,
        stats: Arc<ClientStats>,
    ) -> Present {
        self.events().joins.add(1);
        let entry = ClientEntry {
            stats,
            connection: connection.clone(),
            since: Instant::now(),
            pace: Pace::default(),
        };
        let client = entry.stats.clone();
        let mut tables = self.lock();
        // The room of a relay that stops may have ended already. Who came back before the old connection was missed has its number.
        if let Some(entries) = tables.rooms.get_mut(&room)
            && let Some(before) = entries.clients.insert(id, entry)
        {
            tables.leave(room, &before);
        }
        drop(tables);
        Present { stats: self.clone(), room, id, client }
    }

    /// Samples the process and its traffic each second, and ten times a second how late a timer of the relay's thread is. Never
    /// ends.
    pub(crate) async fn sample(self) {
        let mut samples = Samples::begin(Instant::now());
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut worst = Duration::ZERO;
            for _ in 0..TICKS {
                let due = ticks.tick().await;
                worst = worst.max(due.elapsed());
            }
            let now = Instant::now();
            let (traffic, pulse) = self.pace(now);
            let load = samples.take(now, traffic, worst, pulse);
            self.0.load.send_replace(load);
        }
    }

    /// How many people are in rooms.
    pub(crate) fn participants(&self) -> usize {
        self.lock().rooms.values().map(|room| room.clients.len()).sum()
    }

    /// Takes down each client's rates; returns what was counted of all, and the last second.
    fn pace(&self, now: Instant) -> (Traffic, Pulse) {
        let mut tables = self.lock();
        let (mut present, mut pulse) = (Traffic::default(), Pulse::default());
        for client in tables.rooms.values_mut().flat_map(|room| room.clients.values_mut()) {
            present = present + client.pace.step(now, client.stats.traffic());
            pulse.sent_bps += client.pace.sent_bps;
            pulse.largest_bps = pulse.largest_bps.max(client.pace.sent_bps);
        }
        (tables.gone + present, pulse)
    }

    /// What is so now. Its cost grows with the number of clients: not for the relay's thread.
    fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let tables = self.lock();
        let client = |(id, entry): (&ParticipantId, &ClientEntry)| {
            let path = entry.connection.stats().path;
            ClientNow {
                participant: id.0,
                connected: now.duration_since(entry.since),
                traffic: entry.stats.traffic(),
                hop: entry.stats.hop(),
                pace: entry.pace,
                round_trip: path.rtt,
                window_bytes: path.cwnd,
                lost_packets: path.lost_packets,
            }
        };
        let room = |(number, entry): (&RoomNumber, &RoomEntry)| {
            let clients: Vec<ClientNow> = entry.clients.iter().map(client).collect();
            let traffic = entry.gone + clients.iter().map(|c| c.traffic).sum();
            RoomNow { number: *number, traffic, clients }
        };
        let rooms: Vec<RoomNow> = tables.rooms.iter().map(room).collect();
        let present: Traffic = rooms.iter().flat_map(|room| &room.clients).map(|c| c.traffic).sum();
        Snapshot {
            uptime: now.duration_since(self.0.began),
            load: *self.0.load.borrow(),
            opened: tables.opened,
            traffic: tables.gone + present,
            rooms,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    /// What was counted of somebody who is not in the tables any more counts for the room and the relay.
    fn leave(&mut self, room: RoomNumber, client: &ClientEntry) {
        let traffic = client.stats.traffic();
        if let Some(room) = self.rooms.get_mut(&room) {
            room.gone = room.gone + traffic;
        }
        self.gone = self.gone + traffic;
    }
}

/// A moment of the tables.
struct Snapshot {
    uptime: Duration,
    load: Load,
    /// Rooms so far.
    opened: u64,
    traffic: Traffic,
    rooms: Vec<RoomNow>,
}

struct RoomNow {
    number: RoomNumber,
    traffic: Traffic,
    clients: Vec<ClientNow>,
}

struct ClientNow {
    participant: u32,
    connected: Duration,
    traffic: Traffic,
    hop: HopNow,
    pace: Pace,
    round_trip: Duration,
    window_bytes: u64,
    lost_packets: u64,
}

impl Snapshot {
    fn participants(&self) -> usize {
        self.rooms.iter().map(|room| room.clients.len()).sum()
    }
}

impl Pace {
    /// Returns `traffic`.
    fn step(&mut self, now: Instant, traffic: Traffic) -> Traffic {
        if let Some((at, before)) = self.at {
            let seconds = now.duration_since(at).as_secs_f64().max(f64::MIN_POSITIVE);
            let bps = |now: u64, before: u64| now.saturating_sub(before) as f64 * 8.0 / seconds;
            self.received_bps = bps(traffic.received_bytes, before.received_bytes);
            self.sent_bps = bps(traffic.sent_bytes, before.sent_bytes);
        }
        self.at = Some((now, traffic));
        traffic
    }
}

impl Drop for OpenRoom {
    fn drop(&mut self) {
        let mut tables = self.stats.lock();
        // Those of whom the relay has not seen that they have left.
        let Some(room) = tables.rooms.remove(&self.number) else { return };
        room.clients.values().for_each(|client| tables.leave(self.number, client));
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        // Under one lock, so that no total is ever less than it was.
        let mut tables = self.stats.lock();
        let Some(room) = tables.rooms.get_mut(&self.room) else { return };
        if room.clients.get(&self.id).is_some_and(|entry| Arc::ptr_eq(&entry.stats, &self.client))
            && let Some(client) = room.clients.remove(&self.id)
        {
            tables.leave(self.room, &client);
        }
    }
}

/// A tenth of the least that people hear of a call.
const TICK: Duration = Duration::from_millis(100);
const TICKS: u32 = 10;
